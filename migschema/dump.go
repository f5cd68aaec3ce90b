package migschema

import (
	"fmt"
	"io"
	"iter"
)

// A Line is one line of a dump: an element of a BER stream, a part of a
// record of a classic one, or a field of a device's state in either.
type Line struct {
	// Offset is that of the first octet in the stream. Parts of a record or of
	// a string in segments that have no offset of their own have that of the
	// whole.
	Offset int64
	// Tag tells elements apart: in BER as the schema writes it, such as
	// [APPLICATION 2003]; in a classic stream the octets in hex, of a page its
	// flags. It is empty for a field within a blob.
	Tag string
	// Path is where the element is: QemuFile.top[3].full.contents.vmstate[2],
	// or in a classic stream cpu[1].env.regs[0]: the section with its instance,
	// where that is not 0, and the field.
	Path string
	// Type is that of the schema or of the VMDESC, or the kind of the record.
	Type string
	// Section is the name of the section that this is in.
	Section string
	// Field is how the VMDESC calls a value in the state of a device.
	Field string
	// Value is an [Int], a bool, a string, a []byte that is valid until the
	// next line, or nil.
	Value any
	// More says that the string goes on with the next line.
	More bool
}

// Dump yields all there is in a stream of either format, in order. Device
// state is told field by field where the VMDESC describes it: that of the
// options, or that of the stream, for which a BER stream must be able to seek.
// Records are not checked against one another. It ends after the first error.
func Dump(src io.Reader, o *StreamOptions) iter.Seq2[*Line, error] {
	return func(yield func(*Line, error) bool) {
		d := dumper{yield: yield}
		if o != nil {
			d.opt = *o
		}
		if err := d.dump(src); err != nil && err != errStopped {
			yield(nil, err)
		}
	}
}

// ReadVMDesc returns the description of the device state that a stream of
// either format carries, nil if there is none.
func ReadVMDesc(src io.Reader, o *StreamOptions) (*VMDesc, error) {
	if o == nil {
		o = new(StreamOptions)
	}
	format, src, err := detect(src)
	if err != nil {
		return nil, err
	}
	if format == BER {
		return surveyBER(NewDecoder(src, o.decoder()), maxStateDefault, nil)
	}
	r := NewReader(src, o.reader())
	err = each(r.Records(), func(*Record) error { return nil })
	return r.VMDesc(), err
}

// surveyBER tells each section's id, if told to, and returns the description
// of the device state, of limit octets at most, nil if there is none. With a
// limit of 0 it does not look for one.
func surveyBER(d *Decoder, limit int64, section func(id int64) error) (desc *VMDesc, err error) {
	for ev, err := range d.Events() {
		if err != nil {
			return nil, err
		}
		if ev.Kind != EventFull && ev.Kind != EventMin {
			continue
		}
		id := ev.SectionID
		if ev.Kind == EventFull && id == escapeVMDesc && limit > 0 {
			if desc, err = blobVMDesc(d, limit); err != nil {
				return nil, err
			}
		}
		if section != nil {
			if err := section(id); err != nil {
				return nil, err
			}
		}
		if err := d.Skip(); err != nil {
			return nil, err
		}
	}
	return desc, nil
}

// blobVMDesc decodes the contents of the section at hand, if it is a blob.
func blobVMDesc(d *Decoder, limit int64) (*VMDesc, error) {
	ev, err := d.Next()
	if err != nil || ev.Kind != EventBlob {
		return nil, err
	}
	b, err := d.Blob(limit)
	if err != nil {
		return nil, err
	}
	return ParseVMDesc(b)
}

// A dumper makes lines of a stream.
type dumper struct {
	opt   StreamOptions
	yield func(*Line, error) bool
	line  Line
	nth   map[device]int
	index descIndex
	desc  *VMDesc // of a BER stream
	dev   device  // of the section at hand
	name  namer

	// A blob that comes in pieces is joined where it is described.
	pieces bool        // it goes on
	opaque *DeviceDesc // its description, nil if there is none
	size   int64       // that it has by that
	blob   []byte
}

func (d *dumper) dump(src io.Reader) error {
	d.nth = make(map[device]int)
	again, seeks := rewind(src)
	format, whole, err := detect(src)
	if err != nil {
		return err
	}
	if format == Classic {
		return d.classic(whole)
	}
	d.desc = d.opt.VMDesc
	if seeks && d.desc == nil {
		if err := again(); err != nil {
			return err
		}
		// A stream that cannot be read to its end is dumped as far as it goes.
		d.desc, _ = surveyBER(NewDecoder(src, d.opt.decoder()), maxStateDefault, nil)
		if err := again(); err != nil {
			return err
		}
		whole = src
	}
	return d.ber(whole)
}

// tell yields a line.
func (d *dumper) tell(l Line) error {
	d.line = l
	if !d.yield(&d.line, nil) {
		return errStopped
	}
	return nil
}

// describe returns the description of the device at hand, once for each.
func (d *dumper) describe(desc *VMDesc) *DeviceDesc {
	nth := d.nth[d.dev]
	d.nth[d.dev]++
	return d.index.device(desc, d.dev, nth)
}

// fields tells the fields in a device's state, which begins at offset at, or
// at no known one if exact is false.
func (d *dumper) fields(dev *DeviceDesc, state []byte, at int64, exact bool, path string) error {
	for v, err := range dev.Values(state) {
		if err != nil {
			return d.tell(Line{Offset: at, Path: path, Type: "vmdesc", Section: d.dev.name, Value: err.Error()})
		}
		l := Line{Offset: at, Path: path + "." + v.Path, Type: v.Type, Section: d.dev.name, Field: v.Path, Value: entryValue(v.Value)}
		if exact {
			l.Offset += v.Offset
		}
		if err := d.tell(l); err != nil {
			return err
		}
	}
	return nil
}

// entryValue returns a single entry as the value of a line.
func entryValue(e Entry) any {
	switch e := e.(type) {
	case Bool:
		return bool(e)
	case OldBlob:
		return []byte(e)
	}
	return e
}

// path names the section at hand in a classic stream.
func (d *dumper) path() string {
	if d.dev.instance == 0 {
		return d.dev.name
	}
	return fmt.Sprintf("%s[%d]", d.dev.name, d.dev.instance)
}
