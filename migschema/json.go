package migschema

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// The JSON form of a value: a SEQUENCE is an object, a CHOICE an object of one
// member named for the arm, a SEQUENCE OF an array, an INTEGER a number of any
// size, an OCTET STRING a string of hexadecimal digits, a NULL null. The end
// marks of sections are left out.

// AppendJSON appends the JSON form of v, a value of one of the types of the
// schema or a pointer to one.
func AppendJSON(b []byte, v any) ([]byte, error) {
	j := jsonWriter{b: b}
	j.value(v)
	return j.b, j.err
}

// MarshalJSON returns the JSON form of f.
func (f QemuFile) MarshalJSON() ([]byte, error) { return AppendJSON(nil, &f) }

// MarshalJSON returns the JSON form of f.
func (f SecFull) MarshalJSON() ([]byte, error) { return AppendJSON(nil, &f) }

// MarshalJSON returns the JSON form of m.
func (m SecMin) MarshalJSON() ([]byte, error) { return AppendJSON(nil, &m) }

// MarshalJSON returns the JSON form of s.
func (s VMState) MarshalJSON() ([]byte, error) { return AppendJSON(nil, s) }

// MarshalJSON returns i as a number.
func (i Int) MarshalJSON() ([]byte, error) { return []byte(i.String()), nil }

// maxNesting bounds the recursion over a value that a caller made.
const maxNesting = 10000

var errNesting = errors.New("migschema: state nested too deep")

// A jsonWriter appends values to b until the first error.
type jsonWriter struct {
	b     []byte
	depth int
	err   error
}

func (j *jsonWriter) value(v any) {
	switch v := v.(type) {
	case *Section:
		j.section(*v)
	case *RAMPage:
		j.page(*v)
	case *Entry:
		j.entry(*v)
	case *QemuFile:
		j.file(v)
	case *SecFull:
		j.secFull(v)
	case *SecMin:
		j.secMin(v)
	case *RAMBlockList:
		j.blockList(v)
	case *RAMBlockID:
		j.blockID(v)
	case *RAMSecBlock:
		j.secBlock(v)
	case *FullPage:
		j.pageData(v.Addr, v.Data)
	case *XBZRLEPage:
		j.pageData(v.Addr, v.Data)
	case *SubSection:
		j.subSection(v)
	case VMState:
		j.vmState(v)
	case *VMState:
		j.vmState(*v)
	case SubSecList:
		j.subSections(v)
	case *SubSecList:
		j.subSections(*v)
	case Int:
		j.number(v)
	case *Int:
		j.number(*v)
	case QemuString:
		j.str(string(v))
	case *QemuString:
		j.str(string(*v))
	case SecEndMark, *SecEndMark:
		j.raw("null")
	default:
		j.fail(fmt.Errorf("migschema: a %T has no JSON form", v))
	}
}

func (j *jsonWriter) fail(err error) {
	if j.err == nil {
		j.err = err
	}
}

func (j *jsonWriter) raw(s string) { j.b = append(j.b, s...) }

func (j *jsonWriter) number(i Int) { j.raw(i.String()) }

func (j *jsonWriter) str(s string) {
	if !utf8.ValidString(s) {
		j.fail(fmt.Errorf("migschema: the name %q: %w", s, CodeBadUTF8))
	}
	j.b = append(j.b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			j.b = append(j.b, '\\', c)
		case c < 0x20:
			j.b = append(j.b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			j.b = append(j.b, c)
		}
	}
	j.b = append(j.b, '"')
}

const hexDigits = "0123456789abcdef"

func (j *jsonWriter) octets(b []byte) {
	j.b = append(j.b, '"')
	j.b = hex.AppendEncode(j.b, b)
	j.b = append(j.b, '"')
}

func writeList[T any](j *jsonWriter, l []T, write func(*T)) {
	j.raw("[")
	for i := range l {
		if i > 0 {
			j.raw(",")
		}
		write(&l[i])
	}
	j.raw("]")
}

func (j *jsonWriter) file(f *QemuFile) {
	j.raw(`{"version":`)
	j.number(f.Version)
	j.raw(`,"top":`)
	writeList(j, f.Top, func(s *Section) { j.section(*s) })
	j.raw("}")
}

func (j *jsonWriter) section(s Section) {
	switch s := s.(type) {
	case *SecFull:
		j.raw(`{"full":`)
		j.secFull(s)
	case *SecMin:
		j.raw(`{"min":`)
		j.secMin(s)
	default:
		j.fail(errNilChoice("Sections"))
	}
	j.raw("}")
}

func errNilChoice(typ string) error { return fmt.Errorf("migschema: a %s without a value", typ) }

func (j *jsonWriter) secFull(f *SecFull) {
	j.raw(`{"name":`)
	j.str(f.Name)
	j.raw(`,"sectionid":`)
	j.number(f.SectionID)
	j.raw(`,"instanceid":`)
	j.number(f.InstanceID)
	j.raw(`,"versionid":`)
	j.number(f.VersionID)
	j.raw(`,"contents":{`)
	switch c := f.Contents.(type) {
	case *RAMBlockList:
		j.raw(`"ramblid":`)
		j.blockList(c)
	case VMState:
		j.raw(`"vmstate":`)
		j.vmState(c)
	case OldBlob:
		j.raw(`"oldblob":`)
		j.octets(c)
	default:
		j.fail(errNilChoice("SecFull.contents"))
	}
	j.raw("}}")
}

func (j *jsonWriter) secMin(m *SecMin) {
	j.raw(`{"sectionid":`)
	j.number(m.SectionID)
	j.raw(`,"contents":{"ramsec":`)
	writeList(j, m.RAMSec, j.secBlock)
	j.raw("}}")
}

func (j *jsonWriter) blockList(l *RAMBlockList) {
	j.raw(`{"totalram":`)
	j.number(l.TotalRAM)
	j.raw(`,"blocks":`)
	writeList(j, l.Blocks, j.blockID)
	j.raw("}")
}

func (j *jsonWriter) blockID(b *RAMBlockID) {
	j.raw(`{"name":`)
	j.str(b.Name)
	j.raw(`,"len":`)
	j.number(b.Len)
	j.raw("}")
}

func (j *jsonWriter) secBlock(b *RAMSecBlock) {
	j.raw(`{"name":`)
	j.str(b.Name)
	j.raw(`,"pagelist":`)
	writeList(j, b.PageList, func(p *RAMPage) { j.page(*p) })
	j.raw("}")
}

func (j *jsonWriter) page(p RAMPage) {
	switch p := p.(type) {
	case Compr:
		j.raw(`{"compr":`)
		j.number(p.Addr)
	case *FullPage:
		j.raw(`{"fullpage":`)
		j.pageData(p.Addr, p.Data)
	case *XBZRLEPage:
		j.raw(`{"xbzrle":`)
		j.pageData(p.Addr, p.Data)
	case Hook:
		j.raw(`{"hook":null`)
	default:
		j.fail(errNilChoice("RAMPage"))
	}
	j.raw("}")
}

func (j *jsonWriter) pageData(addr Int, data []byte) {
	j.raw(`{"addr":`)
	j.number(addr)
	j.raw(`,"data":`)
	j.octets(data)
	j.raw("}")
}

func (j *jsonWriter) vmState(s VMState) {
	j.raw(`{"vmstateentries":`)
	j.entries(s)
	j.raw("}")
}

func (j *jsonWriter) entries(l []Entry) {
	if j.depth++; j.depth > maxNesting {
		j.fail(errNesting)
	} else {
		writeList(j, l, func(e *Entry) { j.entry(*e) })
	}
	j.depth--
}

func (j *jsonWriter) entry(e Entry) {
	switch e := e.(type) {
	case Array:
		j.raw(`{"array":`)
		j.entries(e)
	case Bool:
		j.raw(`{"bool":`)
		j.b = strconv.AppendBool(j.b, bool(e))
	case Int:
		j.raw(`{"int":`)
		j.number(e)
	case OldBlob:
		j.raw(`{"oldblob":`)
		j.octets(e)
	case SubSecList:
		j.raw(`{"subsecl":`)
		j.subSections(e)
	default:
		j.fail(errNilChoice("VMStateEntries"))
	}
	j.raw("}")
}

func (j *jsonWriter) subSections(l SubSecList) { writeList(j, l, j.subSection) }

func (j *jsonWriter) subSection(s *SubSection) {
	j.raw(`{"name":`)
	j.str(s.Name)
	j.raw(`,"versionid":`)
	j.number(s.VersionID)
	j.raw(`,"contents":`)
	j.entries(s.Contents)
	j.raw("}")
}
