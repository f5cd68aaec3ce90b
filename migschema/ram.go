package migschema

import (
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// An Extent is a range of a block of RAM that is in one state: Data, Zero, or
// Unallocated where no page of it was sent. Start and Length are in bytes,
// HostOffset is where it lies in the image.
type Extent = block.Extent

// The kinds of an [Extent].
const (
	Unallocated = block.Unallocated
	Data        = block.Data
	Zero        = block.Zero
)

// RAMOptions says how to lay RAM out. nil and the zero value are the defaults.
type RAMOptions struct {
	// PageSize is the size of a page, if 0 what the stream tells, or 4096.
	PageSize int
	// Place returns where a block begins in the image, or false to leave it
	// out. nil places the blocks one behind the other.
	Place func(b RAMBlock) (offset int64, ok bool)
	// Sparse says that the image reads as zeros where nothing was written, so
	// that pages of zeros need not be written.
	Sparse bool
	// MaxSize is where the image may end at most, 16 TiB if 0.
	MaxSize int64
}

// A RAMRange is where a block of RAM lies in an image.
type RAMRange struct {
	Block  RAMBlock
	Offset int64 // in bytes; -1 of a block that is left out
}

// A RAM applies the pages of a stream to an image of guest memory. Pages that
// come as a difference need the image to be an [io.ReaderAt] as well. It keeps
// about two bits for each page. A RAM is not safe for concurrent use.
type RAM struct {
	dst    io.WriterAt
	opt    RAMOptions
	size   uint64 // of a page
	blocks map[string]*ramBlock
	order  []*ramBlock
	cur    *ramBlock // the block of the last page
	page   []byte

	// Pages that lie one behind the other are written at once.
	run   []byte
	runAt int64
}

type ramBlock struct {
	RAMRange
	data, zero pageSet // of pages sent, by what they now hold
}

// maxRun of pages that are written at once, in bytes.
const maxRunBytes = 256 << 10

// NewRAM returns a RAM that writes to dst.
func NewRAM(dst io.WriterAt, o *RAMOptions) *RAM {
	m := &RAM{dst: dst}
	if o != nil {
		m.opt = *o
	}
	orDefault(&m.opt.MaxSize, 16<<40)
	m.setPageSize(PageSize)
	return m
}

// setPageSize sets the size of a page, unless an option has.
func (m *RAM) setPageSize(n int) {
	if m.opt.PageSize > 0 {
		n = m.opt.PageSize
	}
	if uint64(n) != m.size {
		m.size, m.page = uint64(n), make([]byte, n)
	}
}

// ReadRAM applies all pages of the stream in src, of either format, to dst.
// With an error the RAM tells what had been applied until then.
func ReadRAM(dst io.WriterAt, src io.Reader, so *StreamOptions, ro *RAMOptions) (*RAM, error) {
	m := NewRAM(dst, ro)
	if so != nil && so.PageSize > 0 {
		m.setPageSize(so.PageSize)
	}
	_, err := visit(src, so, m.Event, m.Record)
	if ferr := m.Flush(); err == nil {
		err = ferr
	}
	return m, err
}

// Event applies an event of a BER stream: lists and pages; others do nothing.
func (m *RAM) Event(ev *Event) error {
	switch ev.Kind {
	case EventRAMList:
		return m.SetBlocks(ev.Blocks)
	case EventPage:
		return m.Apply(&ev.Page)
	}
	return nil
}

// Record applies a record of a classic stream: configurations, lists and
// pages; others do nothing.
func (m *RAM) Record(rec *Record) error {
	switch rec.Kind {
	case RecordConfiguration:
		if b := rec.Config.TargetPageBits; b != 0 {
			m.setPageSize(1 << b)
		}
	case RecordRAMList:
		return m.SetBlocks(rec.Blocks)
	case RecordPage:
		return m.Apply(&rec.Page)
	}
	return nil
}

// SetBlocks tells the blocks of RAM, before their pages come.
func (m *RAM) SetBlocks(blocks []RAMBlock) error {
	m.blocks = make(map[string]*ramBlock, len(blocks))
	m.order, m.cur = nil, nil
	at := int64(0)
	for _, b := range blocks {
		r := &ramBlock{RAMRange: RAMRange{b, at}}
		if m.opt.Place != nil {
			off, ok := m.opt.Place(b)
			if r.Offset = off; !ok {
				r.Offset = -1
			}
		}
		if r.Offset >= 0 {
			if r.Offset > m.opt.MaxSize || b.Len > uint64(m.opt.MaxSize-r.Offset) {
				return fmt.Errorf("migschema: block %q of %d bytes at %#x: %w of %d", b.Name, b.Len, r.Offset, safeio.ErrLimit, m.opt.MaxSize)
			}
			at = r.Offset + int64(b.Len)
		}
		m.blocks[b.Name] = r
		m.order = append(m.order, r)
	}
	return nil
}

// Blocks returns where the blocks lie in the image, in the order of the list.
func (m *RAM) Blocks() []RAMRange {
	l := make([]RAMRange, len(m.order))
	for i, b := range m.order {
		l[i] = b.RAMRange
	}
	return l
}

// Apply applies a page. It may be written only with a later one, or by
// [RAM.Flush]. The error is a [Code], or the image's; [errors.ErrUnsupported]
// at a flush mark, since the pages before it are in other channels.
func (m *RAM) Apply(p *Page) error {
	switch p.Kind {
	case PageHook:
		return nil
	case PageFlush:
		return fmt.Errorf("migschema: a flush mark: the pages are in other channels (multifd): %w", errors.ErrUnsupported)
	}
	if m.cur == nil || m.cur.Block.Name != p.Block {
		if m.cur = m.blocks[p.Block]; m.cur == nil {
			return fmt.Errorf("migschema: %w: block %q", CodeUnknownID, p.Block)
		}
	}
	b := m.cur
	if p.Addr%m.size != 0 || p.Addr >= b.Block.Len || b.Block.Len-p.Addr < m.size {
		return fmt.Errorf("migschema: %w: %#x of block %q", CodePageRange, p.Addr, p.Block)
	}
	if b.Offset < 0 {
		return nil
	}
	n, at := p.Addr/m.size, b.Offset+int64(p.Addr)
	if p.Kind == PageZero && p.Fill == 0 {
		skip := m.opt.Sparse && !b.data.has(n)
		b.data.set(n, false)
		b.zero.set(n, true)
		if skip {
			return nil
		}
		clear(m.page)
		return m.write(m.page, at)
	}
	data := p.Data
	if p.Kind != PageFull || uint64(len(data)) != m.size {
		if err := m.decode(b, p, n, at); err != nil {
			return err
		}
		data = m.page
	}
	b.data.set(n, true)
	b.zero.set(n, false)
	return m.write(data, at)
}

// decode makes m.page what p makes of the nth page of b.
func (m *RAM) decode(b *ramBlock, p *Page, n uint64, at int64) error {
	if p.Kind == PageXBZRLE {
		switch {
		case b.zero.has(n):
			clear(m.page)
		case b.data.has(n):
			if err := m.read(at); err != nil {
				return err
			}
		default:
			return fmt.Errorf("migschema: %w: a difference to a page that was not sent, %#x of block %q", CodeOrder, p.Addr, p.Block)
		}
	}
	return p.Decode(m.page)
}

var errNoReaderAt = errors.New("migschema: pages that come as a difference need an image that can be read")

// read reads m.page back.
func (m *RAM) read(at int64) error {
	r, ok := m.dst.(io.ReaderAt)
	if !ok {
		return errNoReaderAt
	}
	if err := m.Flush(); err != nil {
		return err
	}
	if err := safeio.ReadFull(r, m.page, at); err != nil {
		return fmt.Errorf("migschema: read back at %#x: %w", at, err)
	}
	return nil
}

func (m *RAM) write(b []byte, at int64) error {
	if len(m.run) > 0 && at != m.runAt+int64(len(m.run)) || len(m.run)+len(b) > maxRunBytes {
		if err := m.Flush(); err != nil {
			return err
		}
	}
	if len(m.run) == 0 {
		m.runAt = at
	}
	m.run = append(m.run, b...)
	return nil
}

// Flush writes what has been held back.
func (m *RAM) Flush() error {
	if len(m.run) == 0 {
		return nil
	}
	if m.dst == nil {
		return fmt.Errorf("migschema: %w", block.ErrNil)
	}
	n, err := m.dst.WriteAt(m.run, m.runAt)
	if err == nil && n < len(m.run) {
		err = io.ErrShortWrite
	}
	m.run = m.run[:0]
	if err != nil {
		return fmt.Errorf("migschema: write at %#x: %w", m.runAt, err)
	}
	return nil
}

// Extents yields what was sent of a block, in order and without gaps.
func (m *RAM) Extents(name string) iter.Seq[Extent] {
	return func(yield func(Extent) bool) {
		b := m.blocks[name]
		if b == nil {
			return
		}
		var at uint64
		emit := func(to uint64, kind block.Kind) bool {
			e := Extent{Start: int64(at), Length: int64(to - at), Kind: kind, HostOffset: block.NoOffset}
			if b.Offset >= 0 {
				e.HostOffset = b.Offset + e.Start
			}
			at = to
			return e.Length == 0 || yield(e)
		}
		for r := range merged(&b.data, &b.zero) {
			if !emit(r.first*m.size, Unallocated) || !emit((r.first+r.n)*m.size, r.kind) {
				return
			}
		}
		emit(b.Block.Len, Unallocated)
	}
}

// A pageRun is a run of pages of one kind.
type pageRun struct {
	first, n uint64
	kind     block.Kind
}

// merged yields the runs of two sets that have no page in common, in order.
func merged(data, zero *pageSet) iter.Seq[pageRun] {
	return func(yield func(pageRun) bool) {
		next, stop := iter.Pull2(zero.runs())
		defer stop()
		zeroAt, zeros, more := next()
		for at, n := range data.runs() {
			for more && zeroAt < at {
				if !yield(pageRun{zeroAt, zeros, Zero}) {
					return
				}
				zeroAt, zeros, more = next()
			}
			if !yield(pageRun{at, n, Data}) {
				return
			}
		}
		for more {
			if !yield(pageRun{zeroAt, zeros, Zero}) {
				return
			}
			zeroAt, zeros, more = next()
		}
	}
}

// Sent returns how many pages of a block hold data and how many are zero.
func (m *RAM) Sent(name string) (data, zero int64) {
	if b := m.blocks[name]; b != nil {
		return b.data.n, b.zero.n
	}
	return 0, 0
}
