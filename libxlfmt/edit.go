package libxlfmt

import (
	"errors"
	"fmt"
	"io"

	"github.com/virtfmt/virtfmt/internal/block"
)

var (
	errEditRange = errors.New("outside the body")
	errEditSize  = errors.New("body of another length, padding included")
)

// Patch writes p over the body of record i, from its byte off on, to w, which
// has to be what the index was opened from. Nothing is written if the stream
// were not accepted any more under the options of [Open]: that error is a
// [*FormatError]. What was there before is what [Index.Body] gives.
func (x *Index) Patch(w io.WriterAt, i int, p []byte, off int64) error {
	r := x.records[i]
	if off < 0 || off > r.Length || int64(len(p)) > r.Length-off {
		return fmt.Errorf("libxlfmt: patch of %s, %d bytes at %#x of %d: %w", r.Type.field(), len(p), off, r.Length, errEditRange)
	}
	return x.edit(w, r.BodyOffset()+off, p)
}

// Replace writes record i anew, with body b, to w, which has to be what the
// index was opened from. With padding, the body must be as long as the one
// before; without, it may differ. The same holds as for [Index.Patch].
func (x *Index) Replace(w io.WriterAt, i int, b Body) error {
	old := x.records[i]
	if b.Type() != old.Type {
		return fmt.Errorf("libxlfmt: body of %s for %s: %w", b.Type().field(), old.Type.field(), ErrState)
	}
	body := b.AppendBody(nil, appendOrder(old.BigEndian))
	r := old
	r.Length = int64(len(body))
	if r.End() != old.End() {
		return fmt.Errorf("libxlfmt: %s at %#x, %d bytes for %d: %w", r.Type.field(), r.Offset, r.Length, old.Length, errEditSize)
	}
	p := append(r.appendHeader(nil), body...)
	p = append(p, make([]byte, r.padding())...)
	if err := x.edit(w, r.Offset, p); err != nil {
		return err
	}
	x.records[i] = r
	return nil
}

// edit writes p at off, if the stream holds up with it.
func (x *Index) edit(w io.WriterAt, off int64, p []byte) error {
	if w == nil {
		return fmt.Errorf("libxlfmt: %w", block.ErrNil)
	}
	if err := x.rehearse(off, p); err != nil {
		return err
	}
	n, err := w.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("libxlfmt: write at %#x: %w", off, err)
	}
	return nil
}

// rehearse reads the stream as it would be with p at off.
func (x *Index) rehearse(off int64, p []byte) error {
	var first error
	y := &Index{r: overlay{x.r, off, p}, size: x.size, opt: x.opt}
	y.opt.Report = func(f Finding) error {
		if f.Bad && f.Code != CodeDraftB && first == nil && y.bad > x.bad {
			first = &FormatError{Offset: f.Offset, Field: f.Field, Code: f.Code, Err: codeError(f.Code, f.Detail)}
		}
		return nil
	}
	err := y.scan()
	switch {
	case first != nil:
		return first
	case err != nil && x.err == nil:
		return err
	case len(y.records) != len(x.records):
		return fmt.Errorf("libxlfmt: edit at %#x makes %d records of %d: %w", off, len(y.records), len(x.records), ErrState)
	}
	return nil
}

// An overlay is r with p at off instead of what is there.
type overlay struct {
	r   io.ReaderAt
	off int64
	p   []byte
}

func (o overlay) ReadAt(b []byte, off int64) (int, error) {
	n, err := o.r.ReadAt(b, off)
	end := off + int64(n)
	from, to := max(off, o.off), min(end, o.off+int64(len(o.p)))
	if from < to {
		copy(b[from-off:to-off], o.p[from-o.off:])
	}
	return n, err
}
