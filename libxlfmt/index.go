package libxlfmt

import (
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// An Index knows where every record of a stream lies, in 32 bytes each, and
// reads no more of the stream than asked for.
//
// Methods of Index are safe for concurrent use, except [Index.Replace] and
// [Index.Patch], which exclude all others.
type Index struct {
	r         io.ReaderAt
	size      int64 // of r
	opt       Options
	container Container
	header    Header
	libxc     LibxcHeader
	hasLibxc  bool
	records   []Record
	length    int64 // of the stream
	ended     End
	bad       int64 // findings that the profile refuses, but Report let pass
	err       error
}

// Open reads the headers of all records of r, as a [Reader] would, and passes
// over their bodies, except for the entries of PAGE_DATA and for xenstore
// data, which are checked. What follows the END of the stream is not looked at:
// see [Index.Trailing]. The length of r is what its method Size, Stat or Seek
// tells, or [Options.Size].
func Open(r io.ReaderAt, o *Options) (*Index, error) {
	x := &Index{r: r, opt: o.withDefaults()}
	x.size = x.opt.Size
	if x.size <= 0 || r == nil {
		n, err := block.Length(r)
		if err != nil {
			return nil, fmt.Errorf("libxlfmt: %w", err)
		}
		x.size = n
	}
	if err := x.scan(); err != nil {
		if !x.opt.Partial {
			return nil, err
		}
		x.err = err
	}
	return x, nil
}

// scan fills the index.
func (x *Index) scan() error {
	opt := x.opt
	if report := opt.Report; report != nil {
		opt.Report = func(f Finding) error {
			if f.Bad {
				x.bad++
			}
			return report(f)
		}
	}
	var r Reader
	err := r.start(newWindow(x.r, 0, x.size), &opt)
	x.container = r.Container()
	if err != nil {
		return err
	}
	var rec Record
	for err == nil {
		if rec, err = r.Next(); err == nil {
			x.records = append(x.records, rec)
		}
	}
	x.header, _ = r.Header()
	x.libxc, x.hasLibxc = r.Libxc()
	if err != io.EOF {
		if n := len(x.records); n > 0 && r.open {
			x.records = x.records[:n-1] // it broke inside that one
		}
		if n := len(x.records); n > 0 {
			x.length = x.records[n-1].End()
		}
		return err
	}
	x.ended, x.length = r.End(), r.Offset()
	return nil
}

// Container returns what stands before the stream; in an index that is not
// whole, as far as it could be read.
func (x *Index) Container() Container { return x.container }

// Header returns the header of the libxl layer, false if there is none.
func (x *Index) Header() (Header, bool) { return x.header, x.header.Version != 0 }

// Libxc returns the headers of the stream of libxc, false if there is none. Of
// several it is the last.
func (x *Index) Libxc() (LibxcHeader, bool) { return x.libxc, x.hasLibxc }

// End returns how the stream ends; [Unfinished] if [Index.Err] tells why.
func (x *Index) End() End { return x.ended }

// Err returns why an index made with [Options.Partial] is not whole, nil if it
// is.
func (x *Index) Err() error { return x.err }

// Size returns the length of the stream in bytes: up to and with its END, or
// the last whole record.
func (x *Index) Size() int64 { return x.length }

// Trailing returns how many bytes follow the stream.
func (x *Index) Trailing() int64 { return x.size - x.length }

// Len returns the number of records.
func (x *Index) Len() int { return len(x.records) }

// Record returns record i, counted from 0.
func (x *Index) Record(i int) Record { return x.records[i] }

// Records yields the records in the order of the stream.
func (x *Index) Records() iter.Seq2[int, Record] {
	return func(yield func(int, Record) bool) {
		for i, r := range x.records {
			if !yield(i, r) {
				return
			}
		}
	}
}

// LastCheckpoint returns how many records there are up to the end of the last
// whole checkpoint: what a receiver goes back to where the stream broke off
// later. It is 0 if there is no checkpoint.
func (x *Index) LastCheckpoint() int {
	last := TypeCheckpointEnd
	if _, layered := x.Header(); !layered {
		last = TypeCheckpoint
	}
	for i := len(x.records); i > 0; i-- {
		if x.records[i-1].Type == last {
			return i
		}
	}
	return 0
}

// Body returns the body of record i, without padding.
func (x *Index) Body(i int) *io.SectionReader {
	r := x.records[i]
	return io.NewSectionReader(x.r, r.BodyOffset(), r.Length)
}

// Decode reads the body of record i, of at most 128 MiB, and decodes it.
func (x *Index) Decode(i int) (Body, error) {
	r := x.records[i]
	b, err := safeio.ReadAt(x.r, r.BodyOffset(), r.Length, maxDecode)
	if err != nil {
		return nil, x.bodyError(r, err)
	}
	return decode(r, x.opt.Xenstore, b)
}

// Pages yields the pages of record i, which must be PAGE_DATA, under the rules
// of [Reader.Pages].
func (x *Index) Pages(i int) iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		r := x.records[i]
		if r.Type != TypePageData {
			yield(Page{}, fmt.Errorf("libxlfmt: pages of %s: %w", r.Type.field(), ErrState))
			return
		}
		var p pager
		for page, err := range p.pages(x.Body(i), r.Order(), r.Length) {
			if err != nil {
				err = x.bodyError(r, err)
			}
			if !yield(page, err) {
				return
			}
		}
	}
}

// Entries reads the entries of record i, which must be PAGE_DATA, and not the
// contents of its pages.
func (x *Index) Entries(i int) ([]PageEntry, error) {
	r := x.records[i]
	if r.Type != TypePageData {
		return nil, fmt.Errorf("libxlfmt: entries of %s: %w", r.Type.field(), ErrState)
	}
	b, err := readEntries(x.Body(i), r.Order(), r.Length, nil)
	if err != nil {
		return nil, x.bodyError(r, err)
	}
	return decodeEntries(r.Order(), b), nil
}

// bodyError gives an error that arose in the body of r its place. What the
// source fails with stays what it is.
func (x *Index) bodyError(r Record, err error) error {
	for _, own := range [...]error{io.ErrUnexpectedEOF, safeio.ErrLimit, errShortBody, errPageCount, errPageSize, errors.ErrUnsupported} {
		if errors.Is(err, own) {
			return bodyError(r, err)
		}
	}
	return fmt.Errorf("libxlfmt: %s at %#x: %w", r.Type.field(), r.Offset, err)
}
