package libxlfmt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
)

const (
	pageDataHead   = 8
	pageEntrySize  = 8
	pagePFNBits    = 52
	pageTypeShift  = 60
	pageReserved   = 0xff << pagePFNBits
	maxIterEntries = 1 << 20
)

// A PageType is what a page of guest memory is used as.
type PageType uint8

// Types of pages. Those of page tables occur in PV domains only; pinned ones
// stay page tables while nothing refers to them. Types 5 to 8 do not exist.
const (
	PageNormal   PageType = 0x0
	PageL1       PageType = 0x1
	PageL2       PageType = 0x2
	PageL3       PageType = 0x3
	PageL4       PageType = 0x4
	PageL1Pinned PageType = 0x9
	PageL2Pinned PageType = 0xa
	PageL3Pinned PageType = 0xb
	PageL4Pinned PageType = 0xc
	PageBroken   PageType = 0xd // defective memory, no contents
	PageXAlloc   PageType = 0xe // allocated, but contents not sent
	PageXTab     PageType = 0xf // not there
)

// Valid reports whether the type exists.
func (t PageType) Valid() bool { return t <= PageL4 || t >= PageL1Pinned && t <= PageXTab }

// HasData reports whether the stream holds the contents of such a page.
func (t PageType) HasData() bool { return t <= PageL4 || t >= PageL1Pinned && t <= PageL4Pinned }

var pageTypeNames = [16]string{0: "normal", 1: "L1", 2: "L2", 3: "L3", 4: "L4", 9: "L1-pinned", 10: "L2-pinned",
	11: "L3-pinned", 12: "L4-pinned", 13: "broken", 14: "xalloc", 15: "xtab"}

// String returns a short name of the type, such as normal or L4-pinned.
func (t PageType) String() string {
	if int(t) < len(pageTypeNames) && pageTypeNames[t] != "" {
		return pageTypeNames[t]
	}
	return fmt.Sprintf("page type %d", uint8(t))
}

// A PageEntry names a page in PAGE_DATA: its type in bits 60 to 63, its
// number in bits 0 to 51, zeros between.
type PageEntry uint64

// NewPageEntry returns the entry of page pfn. Bits of pfn over 51 are lost.
func NewPageEntry(pfn uint64, t PageType) PageEntry {
	return PageEntry(pfn&(1<<pagePFNBits-1) | uint64(t)<<pageTypeShift)
}

// PFN returns the number of the page: its address in the guest, in pages of
// 4096 bytes.
func (e PageEntry) PFN() uint64 { return uint64(e) & (1<<pagePFNBits - 1) }

// Type returns the type of the page.
func (e PageEntry) Type() PageType { return PageType(e >> pageTypeShift) }

func (e PageEntry) reserved() bool { return e&pageReserved != 0 }

// A Page is a page of guest memory in PAGE_DATA.
type Page struct {
	PFN  uint64
	Type PageType
	Data []byte // 4096 bytes, nil where the type has no contents
}

// A PageBatch is the body of PAGE_DATA.
//
//	u32 count | u32 zero | u64 entry[count] | 4096 bytes for each entry that has contents
//
// Xen sends at most 1024 pages in one.
type PageBatch struct {
	Entries []PageEntry
	Data    []byte // the contents of the entries that have any, one after the other
}

// Type returns [TypePageData].
func (PageBatch) Type() Type { return TypePageData }

// AppendBody appends the body.
func (p PageBatch) AppendBody(b []byte, o binary.AppendByteOrder) []byte {
	b = o.AppendUint32(b, uint32(len(p.Entries)))
	b = o.AppendUint32(b, 0)
	for _, e := range p.Entries {
		b = o.AppendUint64(b, uint64(e))
	}
	return append(b, p.Data...)
}

// Pages yields the pages in order. Their data are views of Data. A batch
// whose Data are too short for its entries yields the pages before that.
func (p PageBatch) Pages() iter.Seq[Page] {
	return func(yield func(Page) bool) {
		data := p.Data
		for _, e := range p.Entries {
			page := Page{PFN: e.PFN(), Type: e.Type()}
			if page.Type.HasData() {
				if len(data) < pageSize {
					return
				}
				page.Data, data = data[:pageSize:pageSize], data[pageSize:]
			}
			if !yield(page) {
				return
			}
		}
	}
}

var (
	errPageCount = errors.New("no pages, or more than the record holds")
	errPageSize  = errors.New("length differs from what the pages need")
)

func decodePageBatch(o binary.ByteOrder, b []byte) (PageBatch, error) {
	if len(b) < pageDataHead {
		return PageBatch{}, errShortBody
	}
	count := int64(o.Uint32(b))
	b = b[pageDataHead:]
	if count == 0 || count > int64(len(b))/pageEntrySize {
		return PageBatch{}, errPageCount
	}
	p := PageBatch{Entries: decodeEntries(o, b[:count*pageEntrySize]), Data: b[count*pageEntrySize:]}
	var data int64
	for _, e := range p.Entries {
		if e.Type().HasData() {
			data += pageSize
		}
	}
	if int64(len(p.Data)) != data {
		return PageBatch{}, errPageSize
	}
	return p, nil
}

// readEntries reads the head of a PAGE_DATA body of n bytes up to its page
// contents, into buf where that has room.
func readEntries(r io.Reader, o binary.ByteOrder, n int64, buf []byte) ([]byte, error) {
	if n < pageDataHead {
		return nil, errShortBody
	}
	var head [pageDataHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, noEOF(err)
	}
	count := int64(o.Uint32(head[:]))
	if count == 0 || count > (n-pageDataHead)/pageEntrySize {
		return nil, errPageCount
	}
	if count > maxIterEntries {
		return nil, fmt.Errorf("%d pages in one record: %w", count, errors.ErrUnsupported)
	}
	return readInto(r, count*pageEntrySize, buf)
}

// decodeEntries decodes what [readEntries] read.
func decodeEntries(o binary.ByteOrder, b []byte) []PageEntry {
	entries := make([]PageEntry, len(b)/pageEntrySize)
	for i := range entries {
		entries[i] = PageEntry(o.Uint64(b[i*pageEntrySize:]))
	}
	return entries
}

// A pager hands out the pages of PAGE_DATA bodies; its buffers are used again
// for each.
type pager struct {
	entries []byte
	data    []byte
}

// pagerChunk is how much page contents are read at once.
const pagerChunk = 64 << 10

// pages yields the pages of a body of n bytes. Their data stay valid until the
// next is asked for.
func (p *pager) pages(r io.Reader, o binary.ByteOrder, n int64) iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		entries, err := readEntries(r, o, n, p.entries)
		if err != nil {
			yield(Page{}, err)
			return
		}
		p.entries = entries
		if p.data == nil {
			p.data = make([]byte, pagerChunk)
		}
		left := n - pageDataHead - int64(len(entries)) // of the page contents
		var data []byte                                // read, not handed out
		for ; len(entries) > 0; entries = entries[pageEntrySize:] {
			e := PageEntry(o.Uint64(entries))
			page := Page{PFN: e.PFN(), Type: e.Type()}
			if page.Type.HasData() {
				if len(data) == 0 {
					data = p.data[:min(left, pagerChunk)]
					if len(data)%pageSize != 0 || len(data) == 0 {
						yield(Page{}, errPageSize)
						return
					}
					if _, err := io.ReadFull(r, data); err != nil {
						yield(Page{}, noEOF(err))
						return
					}
					left -= int64(len(data))
				}
				page.Data, data = data[:pageSize:pageSize], data[pageSize:]
			}
			if !yield(page, nil) {
				return
			}
		}
		if left+int64(len(data)) != 0 {
			yield(Page{}, errPageSize)
		}
	}
}

// A pageCheck judges PAGE_DATA as it passes: the entries one by one, then
// that the record has the length which they need.
type pageCheck struct {
	g     *grammar
	rec   Record
	buf   [pageEntrySize]byte // a header or entry in parts
	n     int                 // bytes in buf
	pos   int64               // bytes of the body so far
	count int64               // entries to come
	need  int64               // length of the body by its entries so far
	state pageState
	told  pageFault // once a record
}

type pageState uint8

const (
	pageHead pageState = iota
	pageEntries
	pageRest // contents, or what follows something that makes no sense
)

type pageFault uint8

const (
	faultType pageFault = 1 << iota
	faultReserved
	faultPFN
)

func (c *pageCheck) reset(g *grammar, r Record) *pageCheck {
	*c = pageCheck{g: g, rec: r}
	return c
}

func (c *pageCheck) idle() int64 {
	if c.state == pageRest {
		return c.rec.Length - c.pos
	}
	return 0
}

func (c *pageCheck) skip(n int64) { c.pos += n }

func (c *pageCheck) feed(p []byte) error {
	for len(p) > 0 && c.state != pageRest {
		if c.state == pageEntries && c.n == 0 && len(p) >= pageEntrySize {
			n := int(min(int64(len(p)/pageEntrySize), c.count)) * pageEntrySize
			if err := c.entries(p[:n]); err != nil {
				return err
			}
			p = p[n:]
			continue
		}
		n := copy(c.buf[c.n:], p)
		c.n += n
		p = p[n:]
		if c.n < len(c.buf) {
			return nil
		}
		c.n = 0
		if err := c.word(); err != nil {
			return err
		}
	}
	c.pos += int64(len(p))
	return nil
}

// word takes the header or entry in buf.
func (c *pageCheck) word() error {
	if c.state == pageEntries {
		return c.entries(c.buf[:])
	}
	o := c.rec.Order()
	c.count, c.pos = int64(o.Uint32(c.buf[:])), pageDataHead
	c.need = pageDataHead + pageEntrySize*c.count
	c.state = pageRest
	at, field := c.rec.BodyOffset(), c.rec.Type.field()
	if c.count == 0 || c.need > c.rec.Length {
		return c.g.found(CodePageCount, at, field, "%d pages in %d bytes", c.count, c.rec.Length)
	}
	c.state = pageEntries
	if r := o.Uint32(c.buf[4:]); r != 0 {
		return c.g.found(CodePageReserved, at+4, field, "reserved field %#x", r)
	}
	return nil
}

// entries takes whole entries.
func (c *pageCheck) entries(p []byte) error {
	o := c.rec.Order()
	maxPFN := uint64(1<<pagePFNBits - 1)
	if c.g.libxc.Type == PV && c.g.seenP2M {
		maxPFN = c.g.maxPFN
	}
	for ; len(p) > 0; p = p[pageEntrySize:] {
		e := PageEntry(o.Uint64(p))
		if t := e.Type(); t.HasData() {
			c.need += pageSize
		} else if !t.Valid() {
			if err := c.fault(faultType, CodePageType, "page type %d", t); err != nil {
				return err
			}
		}
		if e.reserved() {
			if err := c.fault(faultReserved, CodePageReserved, "reserved bits in entry %#x", uint64(e)); err != nil {
				return err
			}
		}
		if e.PFN() > maxPFN {
			if err := c.fault(faultPFN, CodePagePFN, "pfn %#x past the P2M, which ends at %#x", e.PFN(), maxPFN); err != nil {
				return err
			}
		}
		c.pos += pageEntrySize
		c.count--
	}
	if c.count > 0 {
		return nil
	}
	c.state = pageRest
	if c.need != c.rec.Length && c.told&faultType == 0 {
		return c.g.found(CodePageSize, c.rec.Offset+4, c.rec.Type.field(), "length %d, its pages need %d", c.rec.Length, c.need)
	}
	return nil
}

// fault reports the entry at pos, once a record for each kind of fault.
func (c *pageCheck) fault(f pageFault, code Code, format string, args ...any) error {
	if c.told&f != 0 {
		return nil
	}
	c.told |= f
	return c.g.found(code, c.rec.BodyOffset()+c.pos, c.rec.Type.field(), format, args...)
}

// end takes the end of the body, which may come before a whole header.
func (c *pageCheck) end() error {
	if c.state != pageHead {
		return nil
	}
	return c.g.found(CodePageCount, c.rec.BodyOffset(), c.rec.Type.field(), "%d bytes, at least %d", c.rec.Length, pageDataHead)
}
