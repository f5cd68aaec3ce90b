package migschema

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// ram reads the next record of RAM: an address with flags in its low bits,
// and what the flags say.
func (r *Reader) ram() error {
	if !r.src.has(8) {
		return r.cut("ram.page")
	}
	word := binary.BigEndian.Uint64(r.src.window())
	mask := r.pages() - 1
	addr, flags := word&^mask, word&mask
	switch flags &^ flagContinue {
	case flagZero, flagPage, flagXBZRLE, flagCompressed:
		return r.page(addr, flags)
	case flagMemSize:
		if flags == flagMemSize {
			return r.ramList(addr)
		}
	case flagEOS:
		if word == flagEOS {
			r.src.pos += 8
			return r.found(RecordRAMEnd, (*Reader).footer)
		}
	case flagHook:
		if word == flagHook {
			return r.mark(PageHook)
		}
	case flagFlush:
		if word == flagFlush {
			return r.mark(PageFlush)
		}
	}
	return &FormatError{r.rec.Offset, "ram.page", CodeFlags, fmt.Errorf("flags %#x", flags)}
}

// mark reads a page record that is no page.
func (r *Reader) mark(kind PageKind) error {
	r.src.pos += 8
	r.rec.Page = Page{Kind: kind, Block: r.last}
	r.rec.Named = false
	return r.found(RecordPage, (*Reader).ram)
}

// page reads a page.
func (r *Reader) page(addr, flags uint64) error {
	r.src.pos += 8
	if err := r.block(flags&flagContinue != 0); err != nil {
		return err
	}
	p := &r.rec.Page
	p.Addr, p.Block, p.Fill = addr, r.last, 0
	var err error
	switch flags &^ flagContinue {
	case flagZero:
		p.Kind, p.Data = PageZero, nil
		p.Fill, err = r.uint8("ram.page.fill")
	case flagPage:
		p.Kind = PageFull
		p.Data, err = r.take("ram.page.data", int(r.pages()))
	case flagXBZRLE:
		p.Kind = PageXBZRLE
		p.Data, err = r.delta()
	default:
		p.Kind = PageCompressed
		p.Data, err = r.compressed()
	}
	if err != nil {
		return err
	}
	return r.found(RecordPage, (*Reader).ram)
}

// block reads the name of the block that a page is of, or takes the last one.
// The last one stays across sections.
func (r *Reader) block(same bool) error {
	if same {
		if r.last == "" {
			return &FormatError{r.rec.Offset, "ram.page", CodeFlags, errors.New("the first page continues a block")}
		}
		r.rec.Named = false
		return nil
	}
	b, err := r.name("ram.page.block")
	if err != nil {
		return err
	}
	if r.rec.Named = string(b) == r.last; r.rec.Named {
		return nil
	}
	name, ok := r.blocks[string(b)]
	if !ok {
		return &FormatError{r.rec.Offset + 8, "ram.page.block", CodeUnknownID, fmt.Errorf("block %q", b)}
	}
	r.last = name
	return nil
}

// delta reads the data of an XBZRLE page.
func (r *Reader) delta() ([]byte, error) {
	at := r.src.offset()
	enc, err := r.uint8("ram.page.encoding")
	if err != nil {
		return nil, err
	}
	if enc != xbzrleEncoding {
		return nil, &FormatError{at, "ram.page.encoding", CodeXBZRLE, fmt.Errorf("encoding %d: %w", enc, errors.ErrUnsupported)}
	}
	n, err := r.uint16("ram.page.length")
	if err != nil {
		return nil, err
	}
	if uint64(n) > r.pages() {
		return nil, r.fail("ram.page.length", CodeXBZRLE, at+1)
	}
	return r.take("ram.page.data", int(n))
}

// compressed reads the data of a compressed page, which zlib makes longer
// than the page by little.
func (r *Reader) compressed() ([]byte, error) {
	at := r.src.offset()
	n, err := r.uint32("ram.page.length")
	if err != nil {
		return nil, err
	}
	if uint64(n) > compressBound(r.pages()) {
		return nil, r.fail("ram.page.length", CodeCompressed, at)
	}
	return r.take("ram.page.data", int(n))
}

// compressBound is more than zlib makes of n octets.
func compressBound(n uint64) uint64 { return n + n>>8 + 64 }

// ramList reads the list of blocks. The lengths of blocks that it names add
// up to total.
func (r *Reader) ramList(total uint64) error {
	r.src.pos += 8
	r.rec.Total = total
	r.rec.Blocks = r.rec.Blocks[:0]
	r.blocks = make(map[string]string)
	for left := total; left > 0; {
		if len(r.rec.Blocks) == r.opt.MaxBlocks {
			return r.fail("ram.list", CodeLimit, r.src.offset())
		}
		at := r.src.offset()
		b, err := r.listed()
		if err != nil {
			return err
		}
		if b.Len > left {
			return r.fail("ram.list.length", CodeSum, at)
		}
		if b.Name == "" {
			return r.fail("ram.list.name", CodeSize, at)
		}
		left -= b.Len
		r.blocks[b.Name] = b.Name
		r.rec.Blocks = append(r.rec.Blocks, b)
	}
	return r.found(RecordRAMList, (*Reader).ram)
}

// listed reads one block of the list.
func (r *Reader) listed() (b RAMBlock, err error) {
	name, err := r.name("ram.list.name")
	if err != nil {
		return b, err
	}
	b.Name = string(name)
	if b.Len, err = r.uint64("ram.list.length"); err != nil {
		return b, err
	}
	if b.PageSize, err = r.blockPageSize(); err != nil {
		return b, err
	}
	if r.addresses {
		b.HasAddr = true
		b.Addr, err = r.uint64("ram.list.address")
	}
	return b, err
}

// blockPageSize reads the page size of a block, where it is told: in a stream
// prepared for postcopy, for blocks whose pages are not of the host's usual
// size. Nothing says for which blocks that is. But a size is one of those that
// postcopy announced, and begins with an octet 0, which no name does, while
// the record after the list has a flag for which there is no such size.
func (r *Reader) blockPageSize() (uint64, error) {
	if bits.OnesCount64(r.summary) < 2 && r.summary <= PageSize {
		return 0, nil
	}
	if !r.src.has(8) {
		return 0, r.cut("ram.list.pagesize")
	}
	size := binary.BigEndian.Uint64(r.src.window())
	if bits.OnesCount64(size) != 1 || size&r.summary == 0 {
		return 0, nil
	}
	r.src.pos += 8
	return size, nil
}
