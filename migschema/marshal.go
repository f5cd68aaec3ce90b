package migschema

import "fmt"

// Marshal returns the encoding of v, a value of one of the types of the schema
// or a pointer to one, in DER unless o says otherwise. Streamed differs from
// DER in the file and its list of sections alone, which then have no length.
func Marshal(v any, o *EncoderOptions) ([]byte, error) {
	return AppendMarshal(nil, v, o)
}

// AppendMarshal appends what [Marshal] returns to b.
func AppendMarshal(b []byte, v any, o *EncoderOptions) ([]byte, error) {
	out := sliceWriter{b}
	e := &Encoder{output: output{w: &out}, opt: o.withDefaults()}
	if f, ok := v.(*QemuFile); ok {
		e.wholeFile(f)
	} else {
		e.whole(func() { e.value(v) })
	}
	if e.flush() != nil {
		return b, e.err
	}
	return out.b, nil
}

type sliceWriter struct{ b []byte }

func (w *sliceWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// Section writes a whole section.
func (e *Encoder) Section(s Section) error {
	if e.file() == nil && e.in(nodeTop, "a section") {
		e.whole(func() { e.section(s) })
	}
	return e.err
}

// Contents writes the whole contents of a SecFull that has begun.
func (e *Encoder) Contents(c FullContents) error {
	if e.contents("contents") {
		e.whole(func() { e.fullContents(c) })
	}
	return e.err
}

func (e *Encoder) value(v any) {
	switch v := v.(type) {
	case *Section:
		e.section(*v)
	case *SecFull:
		e.section(v)
	case *SecMin:
		e.section(v)
	case *RAMBlockList:
		e.blockList(v)
	case *RAMBlockID:
		e.blockID(v.Name, v.Len)
	case *RAMSecBlock:
		e.secBlock(v)
	case *RAMPage:
		e.page(*v)
	case RAMPage:
		e.page(v)
	case VMState:
		e.entries(nodeStateList, v)
	case *VMState:
		e.entries(nodeStateList, *v)
	case *Entry:
		e.stateEntry(*v)
	case *Int:
		e.integer(tagInteger, *v)
	case *SubSecList:
		e.stateEntry(*v)
	case Entry:
		e.stateEntry(v)
	case *SubSection:
		e.subSection(v)
	case QemuString:
		e.name(string(v))
	case *QemuString:
		e.name(string(*v))
	case SecEndMark, *SecEndMark:
		e.null(tagSecEndMark)
	default:
		e.keep(fmt.Errorf("migschema: cannot encode a %T", v))
	}
}

func (e *Encoder) nilChoice(typ string) { e.keep(errNilChoice(typ)) }

// wholeFile writes a file, in DER with the length of all of it.
func (e *Encoder) wholeFile(f *QemuFile) {
	if v, ok := f.Version.Int64(); !ok || v != e.opt.Version {
		e.keep(fmt.Errorf("migschema: %w: %s", CodeVersion, f.Version))
		return
	}
	write := func() {
		e.file()
		for _, s := range f.Top {
			e.whole(func() { e.section(s) })
		}
		e.finish()
	}
	if e.opt.Form == Streamed {
		write()
	} else {
		e.whole(write)
	}
}

func (e *Encoder) section(s Section) {
	switch s := s.(type) {
	case *SecFull:
		e.fullHead(s.Name, s.SectionID, s.InstanceID, s.VersionID)
		e.fullContents(s.Contents)
	case *SecMin:
		e.minHead(s.SectionID)
		for i := range s.RAMSec {
			e.secBlock(&s.RAMSec[i])
		}
		e.end()
	default:
		e.nilChoice("Sections")
		return
	}
	e.null(tagSecEndMark)
	e.end()
}

func (e *Encoder) fullContents(c FullContents) {
	switch c := c.(type) {
	case *RAMBlockList:
		e.blockList(c)
	case VMState:
		e.entries(nodeStateList, c)
	case OldBlob:
		e.octets(tagOctets, c)
	default:
		e.nilChoice("SecFull.contents")
	}
}

func (e *Encoder) blockList(l *RAMBlockList) {
	e.begin(nodeRAMBlockList)
	e.integer(tagInteger, l.TotalRAM)
	e.begin(nodeRAMBlockIDs)
	for _, b := range l.Blocks {
		e.blockID(b.Name, b.Len)
	}
	e.end()
	e.end()
}

func (e *Encoder) secBlock(b *RAMSecBlock) {
	e.begin(nodeRAMSecBlock)
	e.name(b.Name)
	e.begin(nodePageList)
	for _, p := range b.PageList {
		e.page(p)
	}
	e.end()
	e.end()
}

func (e *Encoder) page(p RAMPage) {
	switch p := p.(type) {
	case Compr:
		e.integer(tagCompr, p.Addr)
	case *FullPage:
		e.pageData(tagFullPage, p.Addr, p.Data)
	case *XBZRLEPage:
		e.pageData(tagXBZRLEPage, p.Addr, p.Data)
	case Hook:
		e.null(tagHook)
	default:
		e.nilChoice("RAMPage")
	}
}

// entries writes a list of state of type n.
func (e *Encoder) entries(n *node, l []Entry) {
	e.begin(n)
	for _, s := range l {
		if e.err != nil {
			break
		}
		e.stateEntry(s)
	}
	e.end()
}

func (e *Encoder) stateEntry(s Entry) {
	switch s := s.(type) {
	case Array:
		e.entries(nodeArray, s)
	case Bool:
		e.boolean(bool(s))
	case Int:
		e.integer(tagInteger, s)
	case OldBlob:
		e.octets(tagOctets, s)
	case SubSecList:
		e.begin(nodeSubSecList)
		for i := range s {
			e.subSection(&s[i])
		}
		e.end()
	default:
		e.nilChoice("VMStateEntries")
	}
}

func (e *Encoder) subSection(s *SubSection) {
	e.begin(nodeSubSection)
	e.name(s.Name)
	e.integer(tagInteger, s.VersionID)
	e.entries(nodeEntries, s.Contents)
	e.end()
}
