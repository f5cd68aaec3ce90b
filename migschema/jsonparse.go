package migschema

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
)

// ParseJSON decodes the JSON form of a value, all of data, into v: a pointer
// as [Unmarshal] takes. Members may come in any order; none may be missing,
// doubled or unknown. Constraints of the schema are left to [Marshal].
func ParseJSON(data []byte, v any) error {
	p := jsonParser{dec: json.NewDecoder(bytes.NewReader(data))}
	p.dec.UseNumber()
	set := p.into(v)
	if p.err == nil {
		if _, err := p.dec.Token(); err != io.EOF {
			p.fail(errors.New("more after the value"))
		}
	}
	if p.err != nil {
		return fmt.Errorf("migschema: JSON: %w", p.err)
	}
	set()
	return nil
}

// UnmarshalJSON sets f from its JSON form.
func (f *QemuFile) UnmarshalJSON(data []byte) error { return ParseJSON(data, f) }

// UnmarshalJSON sets f from its JSON form.
func (f *SecFull) UnmarshalJSON(data []byte) error { return ParseJSON(data, f) }

// UnmarshalJSON sets m from its JSON form.
func (m *SecMin) UnmarshalJSON(data []byte) error { return ParseJSON(data, m) }

// UnmarshalJSON sets s from its JSON form.
func (s *VMState) UnmarshalJSON(data []byte) error { return ParseJSON(data, s) }

// UnmarshalJSON sets i from a number.
func (i *Int) UnmarshalJSON(data []byte) error { return ParseJSON(data, i) }

// A jsonParser reads values token by token until the first error, after which
// its values are empty.
type jsonParser struct {
	dec   *json.Decoder
	depth int
	err   error
}

func (p *jsonParser) into(v any) (set func()) {
	switch v := v.(type) {
	case *QemuFile:
		return store(v, p.file)
	case *Section:
		return store(v, p.section)
	case *SecFull:
		return storeAt(v, p.secFull)
	case *SecMin:
		return storeAt(v, p.secMin)
	case *RAMBlockList:
		return storeAt(v, p.blockList)
	case *RAMBlockID:
		return store(v, p.blockID)
	case *RAMSecBlock:
		return store(v, p.secBlock)
	case *RAMPage:
		return store(v, p.page)
	case *FullPage:
		return store(v, func() FullPage { return FullPage(p.pageData()) })
	case *XBZRLEPage:
		return store(v, func() XBZRLEPage { return XBZRLEPage(p.pageData()) })
	case *VMState:
		return store(v, p.vmState)
	case *Entry:
		return store(v, p.entry)
	case *SubSecList:
		return store(v, p.subSections)
	case *SubSection:
		return store(v, p.subSection)
	case *Int:
		return store(v, p.number)
	case *QemuString:
		return store(v, func() QemuString { return QemuString(p.str()) })
	case *SecEndMark:
		p.null()
		return func() {}
	}
	p.fail(fmt.Errorf("cannot decode into a %T", v))
	return nil
}

func (p *jsonParser) fail(err error) {
	if p.err == nil {
		p.err = fmt.Errorf("offset %d: %w", p.dec.InputOffset(), err)
	}
}

func (p *jsonParser) token() json.Token {
	if p.err != nil {
		return nil
	}
	t, err := p.dec.Token()
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		p.fail(err)
	}
	return t
}

func (p *jsonParser) want(d json.Delim) {
	if t := p.token(); t != d {
		p.fail(fmt.Errorf("want %v, have %v", d, t))
	}
}

// object reads an object that has each of the members once.
func (p *jsonParser) object(members map[string]func()) {
	p.want('{')
	seen := make(map[string]bool, len(members))
	for p.err == nil && p.dec.More() {
		name, _ := p.token().(string)
		read := members[name]
		if read == nil || seen[name] {
			p.fail(fmt.Errorf("unknown or second member %q", name))
			return
		}
		seen[name] = true
		read()
	}
	p.want('}')
	for name := range members {
		if !seen[name] {
			p.fail(fmt.Errorf("no member %q", name))
		}
	}
}

// choice reads an object that has one of the members.
func (p *jsonParser) choice(arms map[string]func()) {
	p.want('{')
	name, _ := p.token().(string)
	if read := arms[name]; read != nil {
		read()
	} else {
		p.fail(fmt.Errorf("no arm %q", name))
	}
	p.want('}')
}

// set returns a function that reads a member into *v.
func set[T any](v *T, read func() T) func() { return func() { *v = read() } }

func readList[T any](p *jsonParser, read func() T) (l []T) {
	if p.depth++; p.depth > maxNesting {
		p.fail(errNesting)
	}
	p.want('[')
	for p.err == nil && p.dec.More() {
		l = append(l, read())
	}
	p.want(']')
	p.depth--
	return l
}

func (p *jsonParser) number() Int {
	n, ok := p.token().(json.Number)
	v, good := new(big.Int).SetString(n.String(), 10)
	if !ok || !good {
		p.fail(errors.New("want an integer"))
		return Int{}
	}
	return IntFromBig(v)
}

func (p *jsonParser) str() string {
	s, ok := p.token().(string)
	if !ok {
		p.fail(errors.New("want a string"))
	}
	return s
}

func (p *jsonParser) octets() []byte {
	b, err := hex.DecodeString(p.str())
	if err != nil {
		p.fail(err)
	}
	return b
}

func (p *jsonParser) null() {
	if t := p.token(); t != nil {
		p.fail(fmt.Errorf("want null, have %v", t))
	}
}

func (p *jsonParser) file() (f QemuFile) {
	p.object(map[string]func(){
		"version": set(&f.Version, p.number),
		"top":     func() { f.Top = readList(p, p.section) },
	})
	return f
}

func (p *jsonParser) section() (s Section) {
	p.choice(map[string]func(){
		"full": func() { s = p.secFull() },
		"min":  func() { s = p.secMin() },
	})
	return s
}

func (p *jsonParser) secFull() *SecFull {
	f := new(SecFull)
	p.object(map[string]func(){
		"name":       set(&f.Name, p.str),
		"sectionid":  set(&f.SectionID, p.number),
		"instanceid": set(&f.InstanceID, p.number),
		"versionid":  set(&f.VersionID, p.number),
		"contents": func() {
			p.choice(map[string]func(){
				"ramblid": func() { f.Contents = p.blockList() },
				"vmstate": func() { f.Contents = p.vmState() },
				"oldblob": func() { f.Contents = OldBlob(p.octets()) },
			})
		},
	})
	return f
}

func (p *jsonParser) secMin() *SecMin {
	m := new(SecMin)
	p.object(map[string]func(){
		"sectionid": set(&m.SectionID, p.number),
		"contents": func() {
			p.choice(map[string]func(){
				"ramsec": func() { m.RAMSec = readList(p, p.secBlock) },
			})
		},
	})
	return m
}

func (p *jsonParser) blockList() *RAMBlockList {
	l := new(RAMBlockList)
	p.object(map[string]func(){
		"totalram": set(&l.TotalRAM, p.number),
		"blocks":   func() { l.Blocks = readList(p, p.blockID) },
	})
	return l
}

func (p *jsonParser) blockID() (b RAMBlockID) {
	p.object(map[string]func(){
		"name": set(&b.Name, p.str),
		"len":  set(&b.Len, p.number),
	})
	return b
}

func (p *jsonParser) secBlock() (b RAMSecBlock) {
	p.object(map[string]func(){
		"name":     set(&b.Name, p.str),
		"pagelist": func() { b.PageList = readList(p, p.page) },
	})
	return b
}

func (p *jsonParser) page() (g RAMPage) {
	p.choice(map[string]func(){
		"compr":    func() { g = Compr{p.number()} },
		"fullpage": func() { d := FullPage(p.pageData()); g = &d },
		"xbzrle":   func() { d := XBZRLEPage(p.pageData()); g = &d },
		"hook":     func() { p.null(); g = Hook{} },
	})
	return g
}

func (p *jsonParser) pageData() (d struct {
	Addr Int
	Data []byte
}) {
	p.object(map[string]func(){
		"addr": set(&d.Addr, p.number),
		"data": set(&d.Data, p.octets),
	})
	return d
}

func (p *jsonParser) vmState() (s VMState) {
	p.choice(map[string]func(){
		"vmstateentries": func() { s = readList(p, p.entry) },
	})
	return s
}

func (p *jsonParser) entry() (e Entry) {
	p.choice(map[string]func(){
		"array":   func() { e = Array(readList(p, p.entry)) },
		"bool":    func() { e = p.boolean() },
		"int":     func() { e = p.number() },
		"oldblob": func() { e = OldBlob(p.octets()) },
		"subsecl": func() { e = p.subSections() },
	})
	return e
}

func (p *jsonParser) boolean() Bool {
	v, ok := p.token().(bool)
	if !ok {
		p.fail(errors.New("want true or false"))
	}
	return Bool(v)
}

func (p *jsonParser) subSections() SubSecList { return readList(p, p.subSection) }

func (p *jsonParser) subSection() (s SubSection) {
	p.object(map[string]func(){
		"name":      set(&s.Name, p.str),
		"versionid": set(&s.VersionID, p.number),
		"contents":  func() { s.Contents = readList(p, p.entry) },
	})
	return s
}
