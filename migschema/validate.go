package migschema

import "math"

// maxSections is how many sections a Validator keeps account of.
const maxSections = 1 << 16

// A Validator holds the records of one stream against one another. What it
// finds is a [Code]:
//
//   - [CodeDuplicateID]: a section id or a block name used twice. In BER, a
//     section that is no RAM may come in parts, under the same name, instance
//     and version. Devices may share name and instance: QEMU's isa-ide do.
//   - [CodeUnknownID]: a part of a section, or pages of a block, that was not
//     announced; a part of a section that is no RAM.
//   - [CodeSum]: a list of blocks whose lengths do not add up to its total.
//   - [CodePageRange]: a page that does not lie in its block, or is unaligned.
//   - [CodeOrder]: an XBZRLE page that was never sent before; a part after the
//     end of its section.
//   - [CodeXBZRLE]: an XBZRLE page that cannot be decoded.
//   - [CodeLimit]: more than 65536 sections.
//
// It takes about a bit of memory for each page sent. Sections with negative
// ids, which conversion uses for records that the schema lacks, are passed.
// A Validator is not safe for concurrent use.
type Validator struct {
	pageSize uint64
	sections map[int64]*sectionAccount
	blocks   map[string]*blockAccount
	block    *blockAccount // the one of the last page
	cur      *sectionAccount
}

type sectionAccount struct {
	name              string
	instance, version int64
	ram, over         bool
}

type blockAccount struct {
	name string
	len  uint64
	sent pageSet
}

// NewValidator returns a Validator of a stream with pages of the given size,
// 4096 if 0.
func NewValidator(pageSize int) *Validator {
	orDefault(&pageSize, PageSize)
	return &Validator{
		pageSize: uint64(pageSize),
		sections: make(map[int64]*sectionAccount),
	}
}

// Event takes the next event of a BER stream. The error is a [Code], or nil.
func (v *Validator) Event(e *Event) error {
	switch e.Kind {
	case EventFull:
		if e.SectionID >= 0 {
			return v.section(e.SectionID, sectionAccount{name: e.Name, instance: e.InstanceID, version: e.VersionID})
		}
		v.cur = nil
	case EventMin:
		return v.part(e.SectionID)
	case EventRAMList:
		return v.list(e.TotalRAM, e.Blocks)
	case EventBlock:
		return v.pages(e.Name)
	case EventPage:
		return v.page(&e.Page)
	}
	return nil
}

// section opens a section.
func (v *Validator) section(id int64, s sectionAccount) error {
	if old := v.sections[id]; old != nil {
		v.cur = old
		if old.ram || s.name == ramSection || old.name != s.name || old.instance != s.instance || old.version != s.version {
			return CodeDuplicateID
		}
		return nil
	}
	if len(v.sections) == maxSections {
		return CodeLimit
	}
	v.sections[id] = &s
	v.cur = &s
	return nil
}

// part continues a section of RAM.
func (v *Validator) part(id int64) error {
	v.cur = v.sections[id]
	switch {
	case v.cur == nil || !v.cur.ram:
		return CodeUnknownID
	case v.cur.over:
		return CodeOrder
	}
	return nil
}

func (v *Validator) list(total uint64, blocks []RAMBlock) error {
	if v.cur != nil {
		v.cur.ram = true
	}
	v.blocks = make(map[string]*blockAccount, len(blocks))
	v.block = nil
	for _, b := range blocks {
		if v.blocks[b.Name] != nil {
			return CodeDuplicateID
		}
		v.blocks[b.Name] = &blockAccount{name: b.Name, len: b.Len}
		if b.Len > total {
			return CodeSum
		}
		total -= b.Len
	}
	if total != 0 {
		return CodeSum
	}
	return nil
}

func (v *Validator) pages(block string) error {
	if v.block == nil || v.block.name != block {
		v.block = v.blocks[block]
	}
	if v.block == nil {
		return CodeUnknownID
	}
	return nil
}

func (v *Validator) page(p *Page) error {
	if p.Kind == PageHook || p.Kind == PageFlush {
		return nil
	}
	if err := v.pages(p.Block); err != nil {
		return err
	}
	b := v.block
	if p.Addr%v.pageSize != 0 || p.Addr > math.MaxUint64-v.pageSize || p.Addr+v.pageSize > b.len {
		return CodePageRange
	}
	n := p.Addr / v.pageSize
	if p.Kind == PageXBZRLE {
		if !b.sent.has(n) {
			return CodeOrder
		}
		if checkXBZRLE(int(v.pageSize), p.Data) != nil {
			return CodeXBZRLE
		}
	}
	b.sent.set(n, true)
	return nil
}

// Record takes the next record of a classic stream. The error is a [Code], or
// nil.
func (v *Validator) Record(r *Record) error {
	switch r.Kind {
	case RecordStart, RecordFull:
		if v.sections[int64(r.ID)] != nil {
			return CodeDuplicateID
		}
		return v.section(int64(r.ID), sectionAccount{name: r.Name, instance: int64(r.Instance), version: int64(r.Version)})
	case RecordPart, RecordEnd:
		if v.cur = v.sections[int64(r.ID)]; v.cur == nil {
			return CodeUnknownID
		}
		if v.cur.over {
			return CodeOrder
		}
		v.cur.over = r.Kind == RecordEnd
	case RecordRAMList:
		return v.list(r.Total, r.Blocks)
	case RecordPage:
		return v.page(&r.Page)
	}
	return nil
}
