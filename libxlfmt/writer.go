package libxlfmt

import (
	"errors"
	"fmt"
	"io"

	"github.com/virtfmt/virtfmt/internal/block"
)

// WriterOptions say what a [Writer] writes. The zero value, and nil, are the
// defaults.
type WriterOptions struct {
	// Container is what to put before the stream. The default is nothing: a
	// stream of libxl by itself.
	Container Container

	// BigEndian is the byte order of the libxl layer, and of a back channel.
	// That of the libxc layer is told by [LibxcHeader].
	BigEndian bool

	// Legacy marks the stream as converted from one of Xen 4.5 or older.
	Legacy bool

	// Xenstore is the form of EMULATOR_XENSTORE_DATA. The default writes the
	// final form, except where [Xenstore.DraftB] is set.
	Xenstore XenstoreForm

	// Profile says what the Writer refuses to write. The default is [Strict].
	Profile Profile

	// BackChannel writes the back channel of COLO, which has no headers.
	BackChannel bool
}

// A Writer writes a stream record by record, each in at most three writes. It
// holds what it is given to the same rules as a [Reader], and pads records. The
// same calls write the same bytes.
//
// After the first error every call returns it, and the stream has no END: no
// reader takes it for complete. Errors in what was written are of type
// [*FormatError], whose offset is one in the stream that was written.
//
// A Writer is not safe for concurrent use.
type Writer struct {
	w     io.Writer
	g     grammar
	opt   WriterOptions
	off   int64 // bytes written
	rec   Record
	left  int64 // of the body of rec
	check bodyCheck
	open  bool // rec is not finished
	err   error
	buf   []byte
}

// NewWriter writes the headers before the first record, or, for
// [ContainerLibxc], nothing yet.
func NewWriter(w io.Writer, o *WriterOptions) (*Writer, error) {
	s := &Writer{w: w}
	if o != nil {
		s.opt = *o
	}
	s.opt.Container.XL.Mandatory |= xlFlagStreamV2
	s.g.judge = judge{profile: s.opt.Profile, form: s.opt.Xenstore}
	s.g.maxRecord = maxMaxRecord
	if s.opt.BackChannel {
		s.g.backChannel(s.opt.BigEndian)
		return s, nil
	}
	if err := s.opt.Container.check(&s.g.judge); err != nil {
		return nil, err
	}
	s.g.begin(s.opt.Container.Kind)
	if err := s.emit(s.opt.Container.append(nil)); err != nil {
		return nil, err
	}
	if err := s.startLibxl(); err != nil {
		return nil, err
	}
	return s, nil
}

// Offset returns how many bytes have been written.
func (w *Writer) Offset() int64 { return w.off }

// startLibxl writes the header of libxl where one is due.
func (w *Writer) startLibxl() error {
	if w.g.phase != phaseLibxlHeader {
		return nil
	}
	h := Header{Version: libxlVersion}
	if w.opt.BigEndian {
		h.Options |= optionBigEndian
	}
	if w.opt.Legacy {
		h.Options |= optionLegacy
	}
	b, _ := h.AppendBinary(nil)
	if err := new(Header).decode(&w.g.judge, w.off, b); err != nil {
		return w.fail(err)
	}
	w.g.setLibxl(h)
	return w.emit(b)
}

// StartLibxc enters the stream of libxc: it writes LIBXC_CONTEXT, or the
// section of a xenopsd image, and the headers of libxc. Version 0 stands for
// 3.
func (w *Writer) StartLibxc(h LibxcHeader) error {
	if err := w.enterLibxc(); err != nil {
		return err
	}
	if h.Version == 0 {
		h.Version = 3
	}
	b, _ := h.AppendBinary(nil)
	if err := new(LibxcHeader).decode(&w.g.judge, w.off, b); err != nil {
		return w.fail(err)
	}
	w.g.setLibxc(h)
	return w.emit(b)
}

// enterLibxc writes what stands before the headers of libxc.
func (w *Writer) enterLibxc() error {
	switch {
	case w.err != nil:
		return w.err
	case w.open:
	case w.g.phase == phaseLibxl:
		return w.WriteRecord(TypeLibxcContext, 0)
	case w.g.phase == phaseSection:
		return w.WriteRecord(TypeSectionLibxc, 0)
	case w.g.phase == phaseLibxcHeader:
		return nil
	}
	return w.turn("a stream of libxc")
}

// turn refuses a call that the state of the stream does not allow.
func (w *Writer) turn(what string) error {
	why := w.g.phase.expects()
	if w.open {
		why = fmt.Sprintf("%v lacks %d bytes", w.rec.Type.field(), w.left)
	}
	return w.fail(fmt.Errorf("libxlfmt: %s at %#x: %s: %w", what, w.off, why, ErrState))
}

// Put writes a whole record.
func (w *Writer) Put(b Body) error {
	if x, ok := b.(Xenstore); ok {
		b = w.form(x)
	}
	t := b.Type()
	w.buf = b.AppendBody(w.buf[:0], appendOrder(w.bigEndian(t)))
	body := w.buf
	if err := w.WriteRecord(t, int64(len(body))); err != nil || len(body) == 0 {
		return err
	}
	_, err := w.Write(body)
	return err
}

// form gives x the form that the options ask for. Draft B has no room for
// the emulator; on the way back it is the one that Xen would have written.
func (w *Writer) form(x Xenstore) Xenstore {
	switch {
	case w.opt.Xenstore == XenstoreDraftB:
		x.DraftB = true
	case w.opt.Xenstore == XenstoreFinal && x.DraftB:
		x.DraftB = false
		x.Emulator = Emulator{ID: EmulatorQemu}
		if w.opt.Legacy {
			x.Emulator = Emulator{ID: EmulatorUnknown}
		}
	}
	return x
}

func (w *Writer) bigEndian(t Type) bool {
	switch t.Layer() {
	case LayerLibxl:
		return w.g.libxl.BigEndian()
	case LayerLibxc:
		return w.g.libxc.BigEndian()
	}
	return false
}

// WriteRecord writes the header of a record with a body of n bytes, which
// [Writer.Write] has to write next. It is how a body is written that is not
// held in memory, or that is not decoded.
func (w *Writer) WriteRecord(t Type, n int64) error {
	if w.err != nil {
		return w.err
	}
	if w.open || !w.g.takes(t) || n < 0 {
		return w.turn(t.field())
	}
	rec := Record{Type: t, Offset: w.off, Length: n, BigEndian: w.bigEndian(t)}
	check, err := w.g.record(rec)
	if err != nil {
		return w.fail(err)
	}
	w.rec, w.left, w.check, w.open = rec, n, check, true
	if err := w.emit(rec.appendHeader(nil)); err != nil {
		return err
	}
	return w.finish()
}

// Write writes the next bytes of the body of the current record. More than
// the record has room for is an error.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if !w.open || int64(len(p)) > w.left {
		return 0, w.turn(fmt.Sprintf("%d bytes of a body", len(p)))
	}
	if err := w.check.feed(p); err != nil {
		return 0, w.fail(err)
	}
	if err := w.emit(p); err != nil {
		return 0, err
	}
	w.left -= int64(len(p))
	return len(p), w.finish()
}

// finish ends the current record where its body is complete.
func (w *Writer) finish() error {
	if w.left > 0 {
		return nil
	}
	if err := w.check.end(); err != nil {
		return w.fail(err)
	}
	var zeros [recordAlign]byte
	if err := w.emit(zeros[:w.rec.padding()]); err != nil {
		return err
	}
	w.open = false
	w.g.passed(w.rec)
	return w.startLibxl()
}

// CopyLibxc enters the stream of libxc and copies it from r as it is, headers
// and all, to its END; r is not read beyond. It returns how many bytes were
// copied. A stream with checkpoints cannot be copied so, because records of
// libxl stand between its parts. The offset of a [*FormatError] is one in r.
func (w *Writer) CopyLibxc(r io.Reader) (int64, error) {
	if r == nil {
		return 0, w.fail(fmt.Errorf("libxlfmt: %w", block.ErrNil))
	}
	if err := w.enterLibxc(); err != nil {
		return 0, err
	}
	start := w.off
	err := w.copyLibxc(io.TeeReader(r, emitter{w}))
	if err != nil {
		return w.off - start, w.fail(err)
	}
	return w.off - start, nil
}

var errNotLibxc = errors.New("not a stream of libxc")

func (w *Writer) copyLibxc(r io.Reader) error {
	in, err := NewReader(r, &Options{Profile: w.opt.Profile})
	if err != nil {
		return err
	}
	if k := in.Container().Kind; k != ContainerLibxc {
		return fmt.Errorf("libxlfmt: %v: %w", k, errNotLibxc)
	}
	h, _ := in.Libxc()
	for {
		rec, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if rec.Type == TypeCheckpoint {
			return fmt.Errorf("libxlfmt: %s at %#x: %w", rec.Type.field(), rec.Offset, errors.ErrUnsupported)
		}
	}
	w.g.setLibxc(h)
	w.g.passed(Record{Type: TypeLibxcEnd})
	return nil
}

// Close completes the stream: it writes END of each layer that was entered,
// and the last section of a xenopsd image. It does not close the underlying
// writer. A stream of Remus or COLO that is to end behind a checkpoint is left
// without Close, or closed by a call behind CHECKPOINT_END, which writes END.
func (w *Writer) Close() error {
	if w.err == nil && w.open {
		return w.turn("the end of the stream")
	}
	for w.err == nil && w.g.phase != phaseDone {
		switch w.g.phase {
		case phaseLibxc, phaseAfterCheckpoint:
			w.err = w.Put(Mark(TypeLibxcEnd))
		case phaseLibxl:
			w.err = w.Put(Mark(TypeEnd))
		case phaseSection:
			w.err = w.Put(Mark(TypeSectionEnd))
		case phaseBackChannel:
			w.g.phase = phaseDone
		default:
			return w.turn("the end of the stream")
		}
	}
	return w.err
}

func (w *Writer) fail(err error) error {
	if w.err == nil {
		w.err = err
	}
	return w.err
}

// emit writes p to the underlying writer.
func (w *Writer) emit(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if w.w == nil {
		return w.fail(fmt.Errorf("libxlfmt: %w", block.ErrNil))
	}
	n, err := w.w.Write(p)
	w.off += int64(n)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return w.fail(fmt.Errorf("libxlfmt: write at %#x: %w", w.off, err))
	}
	return nil
}

// An emitter is what a Writer writes to, counted.
type emitter struct{ w *Writer }

func (e emitter) Write(p []byte) (int, error) {
	before := e.w.off
	err := e.w.emit(p)
	return int(e.w.off - before), err
}
