package migschema

import (
	"io"
	"strconv"
)

// ber tells the elements of a BER stream.
func (d *dumper) ber(src io.Reader) error {
	s := NewScanner(src, d.opt.decoder())
	return each(s.All(), func(e *Element) error { return d.element(s, e) })
}

// Depths of elements in a file, counted as [Element.Depth] does.
const (
	depthSection = 2
	depthHead    = depthSection + 1 // components of a section
)

// element tells an element, and the fields in it.
func (d *dumper) element(s *Scanner, e *Element) error {
	if e.Kind == ElementEnd {
		d.name.pop()
		if e.Depth == depthSection {
			d.dev = device{}
		}
		return nil
	}
	field, frame := d.name.last, nameFrame{}
	if !d.name.more {
		field, frame = d.name.entry(e.Name)
	}
	d.name.last, d.name.more = field, e.More
	if e.Depth == depthHead {
		switch {
		case e.Name == "name":
			d.dev.name = string(e.Data)
		case e.Name == "instanceid":
			v, _ := e.Int.Uint64()
			d.dev.instance = uint32(v)
		case e.Name == "vmstate":
			frame = nameFrame{known: true}
			if dev := d.describe(d.desc); dev != nil {
				frame.group = &dev.StructDesc
			}
		case e.Name == "oldblob":
			return d.oldBlob(s, e)
		}
	}
	if e.Kind == ElementBegin {
		d.name.push(frame)
	}
	return d.tell(Line{
		Offset: e.Offset, Tag: e.Tag.String(), Path: s.Path(), Type: e.Type, Section: d.dev.name, Field: field, Value: elementValue(e), More: e.More,
	})
}

// elementValue returns the value of an element, nil where it has none.
func elementValue(e *Element) any {
	if e.Kind != ElementValue {
		return nil
	}
	switch e.Tag {
	case tagBoolean:
		return e.Bool
	case tagInteger, tagCompr:
		return e.Int
	case tagUTF8:
		return string(e.Data)
	case tagOctets:
		return e.Data
	}
	return nil
}

// oldBlob tells opaque state, and the fields in it where it is described.
func (d *dumper) oldBlob(s *Scanner, e *Element) error {
	l := Line{
		Offset: e.Offset, Tag: e.Tag.String(), Path: s.Path(), Type: e.Type, Section: d.dev.name, Value: e.Data, More: e.More,
	}
	if !d.pieces {
		d.opaque, d.size = d.describe(d.desc), -1
		if d.opaque != nil {
			d.size, _ = d.opaque.size()
		}
		d.blob = d.blob[:0]
	}
	state := e.Data
	if d.pieces || e.More {
		if int64(len(d.blob)) <= d.size && d.size <= maxStateDefault {
			d.blob = append(d.blob, e.Data...)
		}
		state = d.blob
	}
	whole := !d.pieces && !e.More
	d.pieces = e.More
	if err := d.tell(l); err != nil || e.More || d.opaque == nil || int64(len(state)) != d.size {
		return err
	}
	at, exact := e.Offset, whole && e.Length == d.size
	if exact {
		at += int64(e.HeaderSize)
	}
	return d.fields(d.opaque, state, at, exact, l.Path)
}

// A namer finds, for each entry of typed state, the field that it is.
type namer struct {
	stack []nameFrame
	last  string // name of the entry before
	more  bool   // it is a string that goes on
}

// A nameFrame is an open element of typed state: what its entries are.
type nameFrame struct {
	known  bool         // it is one
	group  *StructDesc  // fields, then subsections
	list   *FieldDesc   // elements of an array
	subs   []StructDesc // subsections
	sub    *StructDesc  // the components of a subsection
	prefix string       // of what is in it
	n      int          // entries seen
}

func (m *namer) push(f nameFrame) {
	if f.known || len(m.stack) > 0 {
		m.stack = append(m.stack, f)
	}
}

func (m *namer) pop() {
	if n := len(m.stack); n > 0 {
		m.stack = m.stack[:n-1]
	}
}

// entry returns the name of the next entry of the innermost open element, if
// it has one, and the frame that it becomes if it holds entries.
func (m *namer) entry(component string) (field string, frame nameFrame) {
	if len(m.stack) == 0 {
		return "", nameFrame{}
	}
	f := &m.stack[len(m.stack)-1]
	i := f.n
	f.n++
	if len(f.prefix) > maxFieldPath {
		return "", nameFrame{}
	}
	switch {
	case f.group != nil && i < len(f.group.Fields):
		desc := &f.group.Fields[i]
		field = f.prefix + desc.Name
		if desc.Index != nil {
			field += string(appendIndex(nil, *desc.Index))
		}
		if desc.ArrayLen != nil {
			return field, nameFrame{list: desc, prefix: field}
		}
		return field, nameFrame{group: desc.Struct, prefix: field + "."}
	case f.group != nil && i == len(f.group.Fields):
		return "", nameFrame{subs: f.group.Subsections, prefix: f.prefix}
	case f.list != nil:
		field = f.prefix + "[" + strconv.Itoa(i) + "]"
		return field, nameFrame{group: f.list.Struct, prefix: field + "."}
	case i < len(f.subs):
		field = f.prefix + f.subs[i].VMSDName
		return field, nameFrame{sub: &f.subs[i], prefix: field + ":"}
	case f.sub != nil && component == "contents":
		return "", nameFrame{group: f.sub, prefix: f.prefix}
	}
	return "", nameFrame{}
}
