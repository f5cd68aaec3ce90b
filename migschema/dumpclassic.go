package migschema

import (
	"fmt"
	"io"
)

// classic tells the records of a classic stream.
func (d *dumper) classic(src io.Reader) error {
	r := NewReader(src, d.opt.reader())
	return each(r.Records(), func(rec *Record) error {
		switch rec.Kind {
		case RecordConfiguration:
			return d.configuration(rec)
		case RecordStart, RecordFull, RecordPart, RecordEnd:
			return d.section(rec)
		case RecordRAMList:
			return d.ramList(rec)
		case RecordPage:
			return d.page(rec)
		case RecordState:
			return d.state(rec, r.VMDesc())
		}
		return d.other(rec)
	})
}

// one is a line of a whole record.
func one(rec *Record, tag, path string, value any) Line {
	return Line{Offset: rec.Offset, Tag: tag, Path: path, Type: rec.Kind.String(), Value: value}
}

// all tells some lines.
func (d *dumper) all(lines ...Line) error {
	for _, l := range lines {
		if err := d.tell(l); err != nil {
			return err
		}
	}
	return nil
}

func hexTag(v uint64) string { return fmt.Sprintf("%02x", v) }

func (d *dumper) configuration(rec *Record) error {
	part := func(name, typ string, value any) Line {
		l := one(rec, hexTag(recConfiguration), "configuration."+name, value)
		l.Type = typ
		return l
	}
	c := rec.Config
	lines := []Line{part("machine", "string", c.Machine)}
	for i, name := range c.Capabilities {
		lines = append(lines, part(fmt.Sprintf("capabilities[%d]", i), "string", name))
	}
	if c.TargetPageBits != 0 {
		lines = append(lines, part("target-page-bits", "uint32", NewUint(uint64(c.TargetPageBits))))
	}
	if c.HasUUID {
		lines = append(lines, part("uuid", "uuid", append([]byte{}, c.UUID[:]...)))
	}
	return d.all(lines...)
}

// section tells the head of a section.
func (d *dumper) section(rec *Record) error {
	d.dev = device{rec.Name, rec.Instance}
	tags := map[RecordKind]uint64{RecordStart: recStart, RecordFull: recFull, RecordPart: recPart, RecordEnd: recEnd}
	number := func(name string, v uint32) Line {
		l := one(rec, "", d.path()+"."+name, NewUint(uint64(v)))
		l.Type, l.Section = "uint32", rec.Name
		return l
	}
	head := one(rec, hexTag(tags[rec.Kind]), d.path(), rec.Name)
	head.Section = rec.Name
	if rec.Kind == RecordPart || rec.Kind == RecordEnd {
		return d.all(head, number("sectionid", rec.ID))
	}
	return d.all(head, number("sectionid", rec.ID), number("instanceid", rec.Instance), number("versionid", rec.Version))
}

func (d *dumper) ramList(rec *Record) error {
	number := func(name, typ string, v uint64) Line {
		l := one(rec, "", d.path()+"."+name, NewUint(v))
		l.Type, l.Section = typ, d.dev.name
		return l
	}
	total := number("totalram", "uint64", rec.Total)
	total.Tag = hexTag(flagMemSize)
	if err := d.tell(total); err != nil {
		return err
	}
	for i, b := range rec.Blocks {
		at := fmt.Sprintf("blocks[%d].", i)
		name := number(at+"name", "string", 0)
		name.Value = b.Name
		lines := []Line{name, number(at+"len", "uint64", b.Len)}
		if b.PageSize != 0 {
			lines = append(lines, number(at+"pagesize", "uint64", b.PageSize))
		}
		if b.HasAddr {
			lines = append(lines, number(at+"address", "uint64", b.Addr))
		}
		if err := d.all(lines...); err != nil {
			return err
		}
	}
	return nil
}

// pageFlags are the flags of a page by its kind.
var pageFlags = [...]uint64{
	PageZero: flagZero, PageFull: flagPage, PageXBZRLE: flagXBZRLE, PageCompressed: flagCompressed, PageHook: flagHook, PageFlush: flagFlush,
}

func (d *dumper) page(rec *Record) error {
	p := &rec.Page
	l := Line{Offset: rec.Offset, Path: d.path(), Type: p.Kind.String(), Section: d.dev.name}
	l.Tag = hexTag(pageFlags[p.Kind])
	switch p.Kind {
	case PageHook, PageFlush:
	case PageZero:
		l.Path += fmt.Sprintf(".%s[%#x]", p.Block, p.Addr)
		l.Value = NewUint(uint64(p.Fill))
	default:
		l.Path += fmt.Sprintf(".%s[%#x]", p.Block, p.Addr)
		l.Value = p.Data
	}
	return d.tell(l)
}

// state tells a device's state, field by field where it is described.
func (d *dumper) state(rec *Record, desc *VMDesc) error {
	if dev := d.describe(desc); dev != nil {
		if n, ok := dev.size(); ok && n == int64(len(rec.Data)) {
			return d.fields(dev, rec.Data, rec.Offset, true, d.path())
		}
	}
	l := one(rec, "", d.path()+".state", rec.Data)
	l.Section = d.dev.name
	return d.tell(l)
}

// other tells a record of one line or two.
func (d *dumper) other(rec *Record) error {
	switch rec.Kind {
	case RecordHeader:
		return d.tell(one(rec, classicMagic, "header.version", NewUint(uint64(rec.Version))))
	case RecordRAMEnd:
		l := one(rec, hexTag(flagEOS), d.path()+".end", nil)
		l.Section = d.dev.name
		return d.tell(l)
	case RecordFooter:
		l := one(rec, hexTag(recFooter), d.path()+".footer", NewUint(uint64(rec.ID)))
		l.Section = d.dev.name
		return d.tell(l)
	case RecordCommand:
		return d.all(one(rec, hexTag(recCommand), "command", NewUint(uint64(rec.Command))), one(rec, "", "command.data", rec.Data))
	case RecordTail:
		return d.tell(one(rec, "", "tail", rec.Data))
	case RecordEOF:
		return d.tell(one(rec, hexTag(recEOF), "eof", nil))
	}
	return d.tell(one(rec, hexTag(recVMDesc), "vmdesc", string(rec.Data)))
}
