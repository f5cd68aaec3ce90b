package migschema

import "fmt"

// BeginFull begins a SecFull: the RAM list or the state of a device, which is
// the contents to write next. [Encoder.EndSection] ends it.
func (e *Encoder) BeginFull(name string, id, instance, version int64) error {
	return e.beginFull(name, NewInt(id), NewInt(instance), NewInt(version))
}

func (e *Encoder) beginFull(name string, id, instance, version Int) error {
	if e.file() != nil || !e.in(nodeTop, "a section") {
		return e.err
	}
	e.fullHead(name, id, instance, version)
	return e.err
}

func (e *Encoder) fullHead(name string, id, instance, version Int) {
	e.begin(nodeSecFull)
	e.name(name)
	e.integer(tagInteger, id)
	e.integer(tagInteger, instance)
	e.integer(tagInteger, version)
}

// BeginMin begins a SecMin: pages, block by block. [Encoder.EndSection] ends
// it.
func (e *Encoder) BeginMin(id int64) error {
	if e.file() != nil || !e.in(nodeTop, "a section") {
		return e.err
	}
	e.minHead(NewInt(id))
	return e.err
}

func (e *Encoder) minHead(id Int) {
	e.begin(nodeSecMin)
	e.integer(tagInteger, id)
	e.begin(nodeRAMSec)
}

// EndSection ends the section that BeginFull or BeginMin began.
func (e *Encoder) EndSection() error {
	if e.err != nil {
		return e.err
	}
	if e.top().node == nodeRAMSec {
		e.end()
	} else if !e.in(nodeSecFull, "the end of a section") {
		return e.err
	} else if !e.top().filled || e.blob.open {
		return e.misuse("the end of a section before its contents")
	}
	e.null(tagSecEndMark)
	e.end()
	return e.err
}

// contents reports whether a value may be written here that is the contents
// of a section; otherwise it keeps an error.
func (e *Encoder) contents(what string) bool {
	if !e.in(nodeSecFull, what) {
		return false
	}
	if e.top().filled || e.blob.open {
		e.misuse("%s after the contents of the section", what)
		return false
	}
	e.top().filled = true
	return true
}

// RAMList writes the list of blocks, the contents of a SecFull. What a
// [RAMBlock] has besides name and length the schema cannot say.
func (e *Encoder) RAMList(total uint64, blocks []RAMBlock) error {
	if !e.contents("a RAM list") {
		return e.err
	}
	for _, b := range blocks {
		if b.PageSize != 0 || b.HasAddr {
			return e.keep(fmt.Errorf("migschema: %w: page size or address of block %q", CodeLossy, b.Name))
		}
	}
	e.whole(func() {
		e.begin(nodeRAMBlockList)
		e.integer(tagInteger, NewUint(total))
		e.begin(nodeRAMBlockIDs)
		for _, b := range blocks {
			e.blockID(b.Name, NewUint(b.Len))
		}
		e.end()
		e.end()
	})
	return e.err
}

func (e *Encoder) blockID(name string, size Int) {
	e.begin(nodeRAMBlockID)
	e.name(name)
	e.integer(tagInteger, size)
	e.end()
}

// BeginBlock begins the pages of a block of RAM within a SecMin.
// [Encoder.EndBlock] ends it.
func (e *Encoder) BeginBlock(name string) error {
	if e.in(nodeRAMSec, "a block") {
		e.begin(nodeRAMSecBlock)
		e.name(name)
		e.begin(nodePageList)
	}
	return e.err
}

// EndBlock ends the pages of a block.
func (e *Encoder) EndBlock() error {
	if e.in(nodePageList, "the end of a block") {
		e.end()
		e.end()
	}
	return e.err
}

// Page writes a page of the block that has begun, whatever p.Block says. A
// zero page with a fill byte, a compressed page and a flush mark the schema
// cannot say.
func (e *Encoder) Page(p *Page) error {
	switch {
	case p.Kind == PageZero && p.Fill == 0:
		return e.ZeroPage(p.Addr)
	case p.Kind == PageFull:
		return e.FullPage(p.Addr, p.Data)
	case p.Kind == PageXBZRLE:
		return e.XBZRLEPage(p.Addr, p.Data)
	case p.Kind == PageHook:
		return e.Hook()
	}
	return e.keep(fmt.Errorf("migschema: %w: %s page, fill %#x", CodeLossy, p.Kind, p.Fill))
}

// ZeroPage writes a page of zeros at addr of the block.
func (e *Encoder) ZeroPage(addr uint64) error {
	if e.in(nodePageList, "a page") {
		e.integer(tagCompr, NewUint(addr))
	}
	return e.err
}

// FullPage writes a page as it is.
func (e *Encoder) FullPage(addr uint64, data []byte) error {
	if e.in(nodePageList, "a page") {
		e.pageData(tagFullPage, NewUint(addr), data)
	}
	return e.err
}

// XBZRLEPage writes a page as its difference to what was sent before.
func (e *Encoder) XBZRLEPage(addr uint64, delta []byte) error {
	if e.in(nodePageList, "a page") {
		e.pageData(tagXBZRLEPage, NewUint(addr), delta)
	}
	return e.err
}

// Hook writes the mark that the transport has its own word on the next page.
func (e *Encoder) Hook() error {
	if e.in(nodePageList, "a hook") {
		e.null(tagHook)
	}
	return e.err
}

// pageData writes a FullPage or an XBZRLEPage. Its length is known at once,
// so that no sizing pass has to note it.
func (e *Encoder) pageData(t Tag, addr Int, data []byte) {
	if t == tagFullPage && len(data) != e.opt.PageSize {
		e.keep(fmt.Errorf("migschema: %w: a page of %d bytes", CodeSize, len(data)))
		return
	}
	if e.opt.Form == CER {
		e.beginSegments(t)
		e.integer(tagInteger, addr)
		e.octets(tagOctets, data)
		e.endSegments()
		return
	}
	e.checkDepth()
	size := addr.size()
	n := 1 + lengthSize(int64(size)) + size + 1 + lengthSize(int64(len(data))) + len(data)
	if e.sizing {
		e.count += int64(identifierSize(t) + lengthSize(int64(n)) + n)
		return
	}
	e.room(maxHeader)
	e.buf = appendLength(appendIdentifier(e.buf, t, true), int64(n))
	e.integer(tagInteger, addr)
	e.octets(tagOctets, data)
}
