package migschema

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/virtfmt/virtfmt/internal/align"
)

// WriterOptions says how to write a classic stream. nil and the zero value are
// the defaults.
type WriterOptions struct {
	// PageSize is the size of a page, a power of two from 1 KiB to 1 MiB, if 0
	// what the configuration tells, or 4096.
	PageSize int
}

// A Writer writes a classic stream record by record, as a [Reader] gives them.
// It refuses what a Reader would not read.
//
// A stream ends with [RecordEOF], and with [RecordVMDesc] where it has one.
// Before that, and after any error, no reader takes what has been written for
// complete. A Writer is not safe for concurrent use.
type Writer struct {
	output
	pageSize int
	state    writerState
	ids      map[uint32]bool // sections opened, and whether they carry RAM
	cur      uint32
	footers  tristate
	blocks   map[string]bool // announced
	last     string          // block of the last page
}

// A writerState is what may come next.
type writerState uint8

const (
	wantHeader writerState = iota
	wantFirst              // a configuration or any other record
	wantRecord             // of any section
	wantBody
	wantRAM
	wantFooter // or a record
	wantVMDesc // or nothing
	wantNothing
)

// String returns what is wanted.
func (s writerState) String() string {
	return [...]string{"the header", "a record", "a record other than a configuration", "the body of a section", "RAM", "a footer or a record", "a description", "nothing"}[s]
}

// NewWriter returns a Writer that writes to w.
func NewWriter(w io.Writer, o *WriterOptions) *Writer {
	if o == nil {
		o = new(WriterOptions)
	}
	return &Writer{output: output{w: w, err: pageSizeFault(o.PageSize)}, pageSize: o.PageSize, ids: make(map[uint32]bool)}
}

// Close hands what is buffered to the writer. It is an error, and what is
// buffered is lost, if the stream has not been ended. It does not close the
// writer.
func (w *Writer) Close() error {
	if w.err == nil && w.state < wantVMDesc {
		w.misuse("closed before the end of the stream")
	}
	w.state = wantNothing
	return w.flush()
}

// Write writes a record. Fields that its kind does not use are ignored, as is
// Offset. The header is written of itself where the first record is another.
func (w *Writer) Write(r *Record) error {
	if w.err != nil {
		return w.err
	}
	if w.state == wantHeader {
		w.put([]byte(classicMagic))
		w.uint32(classicVersion)
		w.state = wantFirst
		if r.Kind == RecordHeader {
			if r.Version != classicVersion {
				w.keep(fmt.Errorf("migschema: %w: %d", CodeVersion, r.Version))
			}
			return w.err
		}
	}
	if !w.expects(r.Kind) {
		return w.misuse("a %s record where %s belongs", r.Kind, w.state)
	}
	if w.state == wantFooter {
		has := no
		if r.Kind == RecordFooter {
			has = yes
		}
		if w.footers != unknown && w.footers != has {
			return w.misuse("a section with a footer and one without")
		}
		w.footers = has
	}
	switch r.Kind {
	case RecordPage:
		w.page(r)
	case RecordStart, RecordFull:
		w.open(r)
	case RecordPart, RecordEnd:
		w.resume(r)
	case RecordRAMList:
		w.list(r)
	case RecordRAMEnd:
		w.uint64(flagEOS)
		w.state = wantFooter
	case RecordState:
		w.put(r.Data)
		w.state = wantFooter
	case RecordTail:
		w.put(r.Data)
		w.state = wantRecord
	case RecordFooter:
		if r.ID != w.cur {
			w.misuse("a footer of section %d in section %d", r.ID, w.cur)
		}
		w.byte(recFooter)
		w.uint32(r.ID)
		w.state = wantRecord
	case RecordConfiguration:
		w.configuration(r)
	case RecordCommand:
		w.command(r)
	case RecordEOF:
		w.byte(recEOF)
		w.state = wantVMDesc
	case RecordVMDesc:
		if len(r.Data) > math.MaxInt32 {
			w.misuse("a description of %d bytes", len(r.Data))
		}
		w.byte(recVMDesc)
		w.uint32(uint32(len(r.Data)))
		w.put(r.Data)
		w.state = wantNothing
	}
	return w.err
}

// expects reports whether a record of kind k may come next.
func (w *Writer) expects(k RecordKind) bool {
	switch k {
	case RecordConfiguration:
		return w.state == wantFirst
	case RecordStart, RecordPart, RecordEnd, RecordFull, RecordCommand, RecordEOF:
		return w.state == wantFirst || w.state == wantRecord || w.state == wantFooter
	case RecordFooter:
		return w.state == wantFooter
	case RecordRAMList, RecordPage, RecordRAMEnd:
		return w.state == wantRAM
	case RecordState, RecordTail:
		return w.state == wantBody
	case RecordVMDesc:
		return w.state == wantVMDesc
	}
	return false
}

func (w *Writer) byte(c byte) {
	w.room(1)
	w.buf = append(w.buf, c)
}

func (w *Writer) uint16(v uint16) {
	w.room(2)
	w.buf = binary.BigEndian.AppendUint16(w.buf, v)
}

func (w *Writer) uint32(v uint32) {
	w.room(4)
	w.buf = binary.BigEndian.AppendUint32(w.buf, v)
}

func (w *Writer) uint64(v uint64) {
	w.room(8)
	w.buf = binary.BigEndian.AppendUint64(w.buf, v)
}

// name writes a name behind its length.
func (w *Writer) name(s string) {
	if len(s) < 1 || len(s) > math.MaxUint8 {
		w.keep(fmt.Errorf("migschema: %w: the name %q has %d octets", CodeSize, s, len(s)))
		return
	}
	w.room(1 + len(s))
	w.buf = append(append(w.buf, byte(len(s))), s...)
}

// open writes the head of a section.
func (w *Writer) open(r *Record) {
	if _, ok := w.ids[r.ID]; ok {
		w.misuse("section %d is opened twice", r.ID)
		return
	}
	typ := byte(recStart)
	if r.Kind == RecordFull {
		typ = recFull
	}
	w.byte(typ)
	w.uint32(r.ID)
	w.name(r.Name)
	w.uint32(r.Instance)
	w.uint32(r.Version)
	w.ids[r.ID] = r.Kind == RecordStart && r.Name == ramSection
	w.enter(r.ID)
}

// resume writes the head of a part.
func (w *Writer) resume(r *Record) {
	if _, ok := w.ids[r.ID]; !ok {
		w.misuse("a part of section %d, which is not open", r.ID)
		return
	}
	typ := byte(recPart)
	if r.Kind == RecordEnd {
		typ = recEnd
	}
	w.byte(typ)
	w.uint32(r.ID)
	w.enter(r.ID)
}

func (w *Writer) enter(id uint32) {
	w.cur = id
	w.state = wantBody
	if w.ids[id] {
		w.state = wantRAM
	}
}

// configuration writes a configuration as it was read.
func (w *Writer) configuration(r *Record) {
	c, err := parseConfiguration(r.Data)
	if err != nil {
		w.keep(err)
		return
	}
	if w.pageSize == 0 && c.TargetPageBits != 0 {
		w.pageSize = 1 << c.TargetPageBits
	}
	w.byte(recConfiguration)
	w.put(r.Data)
	w.state = wantRecord
}

func (w *Writer) command(r *Record) {
	if len(r.Data) > math.MaxUint16 {
		w.misuse("a command with %d octets of data", len(r.Data))
		return
	}
	w.byte(recCommand)
	w.uint16(r.Command)
	w.uint16(uint16(len(r.Data)))
	w.put(r.Data)
	w.state = wantRecord
}

func (w *Writer) pages() int {
	if w.pageSize == 0 {
		return PageSize
	}
	return w.pageSize
}

// list writes the list of blocks.
func (w *Writer) list(r *Record) {
	left := r.Total
	w.address(r.Total, flagMemSize)
	w.blocks = make(map[string]bool, len(r.Blocks))
	for _, b := range r.Blocks {
		if left == 0 || b.Len > left { // a reader looks for no block more
			w.keep(fmt.Errorf("migschema: %w: block %q past the sum of %d", CodeSum, b.Name, r.Total))
			return
		}
		left -= b.Len
		w.blocks[b.Name] = true
		w.name(b.Name)
		w.uint64(b.Len)
		if b.PageSize != 0 {
			w.uint64(b.PageSize)
		}
		if b.HasAddr {
			w.uint64(b.Addr)
		}
	}
	if left != 0 {
		w.keep(fmt.Errorf("migschema: %w: blocks that do not add up to %d", CodeSum, r.Total))
	}
}

// address writes an address with flags in its low bits.
func (w *Writer) address(addr, flags uint64) {
	if !align.IsAligned(addr, uint64(w.pages())) {
		w.keep(fmt.Errorf("migschema: %w: address %#x is not aligned to a page", CodePageRange, addr))
		return
	}
	w.uint64(addr | flags)
}

// page writes a page.
func (w *Writer) page(r *Record) {
	p := &r.Page
	switch p.Kind {
	case PageZero:
		w.head(r, flagZero)
		w.byte(p.Fill)
	case PageFull:
		if len(p.Data) != w.pages() {
			w.keep(fmt.Errorf("migschema: %w: a page of %d bytes", CodeSize, len(p.Data)))
			return
		}
		w.head(r, flagPage)
		w.put(p.Data)
	case PageXBZRLE:
		if len(p.Data) > min(w.pages(), math.MaxUint16) {
			w.keep(fmt.Errorf("migschema: %w: %d octets for a page", CodeXBZRLE, len(p.Data)))
			return
		}
		w.head(r, flagXBZRLE)
		w.byte(xbzrleEncoding)
		w.uint16(uint16(len(p.Data)))
		w.put(p.Data)
	case PageCompressed:
		if uint64(len(p.Data)) > compressBound(uint64(w.pages())) {
			w.keep(fmt.Errorf("migschema: %w: %d octets for a page", CodeCompressed, len(p.Data)))
			return
		}
		w.head(r, flagCompressed)
		w.uint32(uint32(len(p.Data)))
		w.put(p.Data)
	case PageHook:
		w.uint64(flagHook)
	case PageFlush:
		w.uint64(flagFlush)
	default:
		w.misuse("a page of kind %d", p.Kind)
	}
}

// head writes the address and the flags of a page, and the name of its block
// where that is another than the last, or was named again in the stream that
// the record is from.
func (w *Writer) head(r *Record, flags uint64) {
	p := &r.Page
	if p.Block == w.last && p.Block != "" && !r.Named {
		w.address(p.Addr, flags|flagContinue)
		return
	}
	if !w.blocks[p.Block] {
		w.misuse("a page of block %q, which was not announced", p.Block)
		return
	}
	w.address(p.Addr, flags)
	w.name(p.Block)
	w.last = p.Block
}
