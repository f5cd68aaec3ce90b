package libxlfmt

import (
	"errors"
	"fmt"
	"io"
)

// Copy copies what r has yet to read to w, completes the stream where that of
// r is complete, and so converts between containers, and between the forms of
// EMULATOR_XENSTORE_DATA as the options of w say. It returns the records for
// which the other container has no place, which were left out:
//
//	to libxc       every record of the libxl layer, every section
//	to xenopsd     EMULATOR_XENSTORE_DATA and optional records of libxl;
//	               emulator records inside a checkpoint
//	from xenopsd   what xenopsd knows of the domain, and graphics emulators
//
// EMULATOR_CONTEXT becomes the QEMU section of a xenopsd image and the other
// way round. Bytes inside bodies stay as they are, so the byte order of each
// layer has to be the same on both sides. Where container, byte order and form
// are the same, what a strict reader accepts is copied byte for byte.
func Copy(w *Writer, r *Reader) (dropped []Record, err error) {
	c := copier{w: w, r: r, enter: r.container.Kind == ContainerLibxc, buf: make([]byte, copySize)}
	for {
		rec, err := r.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = c.record(rec)
		}
		if err != nil {
			return c.dropped, w.fail(err)
		}
	}
	if r.End() == Ended {
		return c.dropped, w.Close()
	}
	return c.dropped, c.leaveCheckpoint()
}

// copySize is how much of a body is copied at once.
const copySize = 256 << 10

type copier struct {
	w       *Writer
	r       *Reader
	enter   bool // the stream of libxc is to be entered before its next record
	buf     []byte
	dropped []Record
}

func (c *copier) record(rec Record) error {
	switch rec.Type.Layer() {
	case LayerLibxc:
		return c.libxc(rec)
	case LayerXenopsd:
		return c.section(rec)
	}
	return c.libxl(rec)
}

func (c *copier) drop(rec Record) error {
	c.dropped = append(c.dropped, rec)
	return nil
}

func (c *copier) libxc(rec Record) error {
	if c.enter {
		c.enter = false
		h, _ := c.r.Libxc()
		if err := c.w.StartLibxc(h); err != nil {
			return err
		}
	}
	if err := c.leaveCheckpoint(); err != nil {
		return err
	}
	if rec.BigEndian != c.w.g.libxc.BigEndian() {
		return c.otherOrder(rec)
	}
	return c.body(rec, rec.Type)
}

// leaveCheckpoint ends a checkpoint for a source that has no libxl layer which
// would do so.
func (c *copier) leaveCheckpoint() error {
	if c.w.g.phase != phaseCheckpoint {
		return nil
	}
	return c.w.Put(Mark(TypeCheckpointEnd))
}

func (c *copier) libxl(rec Record) error {
	switch {
	case rec.Type == TypeLibxcContext:
		c.enter = true
		return nil
	case c.w.g.layered && rec.BigEndian != c.w.g.libxl.BigEndian():
		return c.otherOrder(rec)
	case c.w.g.layered && rec.Type == TypeXenstore:
		return c.xenstore(rec)
	case c.w.g.layered:
		return c.body(rec, rec.Type)
	case rec.Type == TypeEnd || rec.Type == TypeCheckpointEnd:
		return nil // of a layer that is not there
	case rec.Type == TypeEmulator && c.w.g.phase == phaseSection:
		return c.toSection(rec)
	}
	return c.drop(rec)
}

func (c *copier) section(rec Record) error {
	switch {
	case rec.Type == TypeSectionEnd:
		return nil
	case rec.Type == TypeSectionLibxc:
		c.enter = true
		return nil
	case c.w.g.phase == phaseSection:
		return c.body(rec, rec.Type)
	case rec.Type == TypeSectionLibxl:
		return nil // its records follow
	case c.w.g.phase == phaseLibxl && rec.Type == TypeSectionQemuXen:
		return c.toEmulator(rec, EmulatorQemu)
	case c.w.g.phase == phaseLibxl && rec.Type == TypeSectionQemuTrad:
		return c.toEmulator(rec, EmulatorQemuTrad)
	}
	return c.drop(rec)
}

func (c *copier) otherOrder(rec Record) error {
	return fmt.Errorf("libxlfmt: %s at %#x: copy to a stream of the other byte order: %w",
		rec.Type.field(), rec.Offset, errors.ErrUnsupported)
}

// body copies a record whose body stays as it is.
func (c *copier) body(rec Record, t Type) error {
	if err := c.w.WriteRecord(t, rec.Length); err != nil {
		return err
	}
	return c.rest()
}

// rest copies what is left of the body.
func (c *copier) rest() error {
	_, err := io.CopyBuffer(onlyWriter{c.w}, onlyReader{c.r}, c.buf)
	return err
}

// onlyReader and onlyWriter keep [io.CopyBuffer] to its buffer.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// xenstore copies keys and values in the form that is asked for.
func (c *copier) xenstore(rec Record) error {
	b, err := c.r.Decode()
	if err != nil {
		return err
	}
	return c.w.Put(b)
}

// toSection turns EMULATOR_CONTEXT into a section.
func (c *copier) toSection(rec Record) error {
	var head [emulatorHead]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return bodyError(rec, err)
	}
	t := TypeSectionQemuXen
	if decodeEmulator(rec.Order(), head[:]).ID == EmulatorQemuTrad {
		t = TypeSectionQemuTrad
	}
	if err := c.w.WriteRecord(t, rec.Length-emulatorHead); err != nil {
		return err
	}
	return c.rest()
}

// toEmulator turns a section into EMULATOR_CONTEXT.
func (c *copier) toEmulator(rec Record, id EmulatorID) error {
	if err := c.w.WriteRecord(TypeEmulator, rec.Length+emulatorHead); err != nil {
		return err
	}
	if _, err := c.w.Write(Emulator{ID: id}.append(nil, appendOrder(c.w.g.libxl.BigEndian()))); err != nil {
		return err
	}
	return c.rest()
}
