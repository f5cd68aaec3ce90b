package berbench

import (
	"bytes"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	ber "github.com/go-asn1-ber/asn1-ber"

	"github.com/virtfmt/virtfmt/migschema"
)

const pageSize = 4096

// The tags of the schema, all of class APPLICATION.
const (
	tagQemuFile   = 1270481
	tagSecMin     = 211
	tagRAMSec     = 9810
	tagFullPage   = 9040
	tagSecEndMark = 10693
)

const blockName = "pc.ram"

// newMemory returns n pages, no two alike.
func newMemory(n int) []byte {
	b := make([]byte, n*pageSize)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], uint64(i)*0x9e3779b97f4a7c15)
	}
	return b
}

// encode writes memory as one section of one block.
func encode(w io.Writer, memory []byte, form migschema.Form) error {
	produce := func(e *migschema.Encoder) error {
		e.BeginMin(2)
		e.BeginBlock(blockName)
		for i := 0; i < len(memory); i += pageSize {
			e.FullPage(uint64(i), memory[i:i+pageSize])
		}
		e.EndBlock()
		return e.EndSection()
	}
	o := &migschema.EncoderOptions{Form: form}
	if form == migschema.DER {
		return migschema.EncodeDER(w, o, produce)
	}
	e := migschema.NewEncoder(w, o)
	if err := produce(e); err != nil {
		return err
	}
	return e.Close()
}

// sum is what a decoder found: so many pages, whose first octets and
// addresses add up to total.
type sum struct {
	pages int
	total uint64
}

func (s *sum) add(addr uint64, page []byte) {
	s.pages++
	s.total += addr + uint64(page[0])
}

// decode reads a stream.
func decode(d *migschema.Decoder) (s sum, err error) {
	for {
		ev, err := d.Next()
		if err == io.EOF {
			return s, nil
		}
		if err != nil {
			return s, err
		}
		if ev.Kind == migschema.EventPage {
			s.add(ev.Page.Addr, ev.Page.Data)
		}
	}
}

// The types of the schema as encoding/asn1 wants them: it has no CHOICE, and
// no tags for the elements of a list, so that these stay raw.
type (
	stdFile struct {
		Version int
		Top     []asn1.RawValue
	}
	stdSecMin struct {
		SectionID  int
		RAMSec     []stdBlock `asn1:"application,tag:9810"`
		SecEndMark asn1.RawValue
	}
	stdBlock struct {
		Name     string `asn1:"utf8"`
		PageList []asn1.RawValue
	}
	stdPage struct {
		Addr int64
		Data []byte
	}
)

var errRest = errors.New("octets are left")

func stdUnmarshal(b []byte, v any, tag int) error {
	rest, err := asn1.UnmarshalWithParams(b, v, fmt.Sprintf("application,tag:%d", tag))
	if err == nil && len(rest) > 0 {
		err = errRest
	}
	return err
}

// decodeStd reads a stream with encoding/asn1.
func decodeStd(b []byte) (s sum, err error) {
	var f stdFile
	if err := stdUnmarshal(b, &f, tagQemuFile); err != nil {
		return s, err
	}
	page := fmt.Sprintf("application,tag:%d", tagFullPage)
	for _, raw := range f.Top {
		var m stdSecMin
		if err := stdUnmarshal(raw.FullBytes, &m, tagSecMin); err != nil {
			return s, err
		}
		for _, block := range m.RAMSec {
			for _, raw := range block.PageList {
				var p stdPage
				if _, err := asn1.UnmarshalWithParams(raw.FullBytes, &p, page); err != nil {
					return s, err
				}
				s.add(uint64(p.Addr), p.Data)
			}
		}
	}
	return s, nil
}

// encodeStd encodes memory as encode does, with encoding/asn1.
func encodeStd(memory []byte) ([]byte, error) {
	block := stdBlock{Name: blockName}
	page := fmt.Sprintf("application,tag:%d", tagFullPage)
	for i := 0; i < len(memory); i += pageSize {
		b, err := asn1.MarshalWithParams(stdPage{int64(i), memory[i : i+pageSize]}, page)
		if err != nil {
			return nil, err
		}
		block.PageList = append(block.PageList, asn1.RawValue{FullBytes: b})
	}
	end := asn1.RawValue{Class: asn1.ClassApplication, Tag: tagSecEndMark}
	sec, err := asn1.MarshalWithParams(stdSecMin{2, []stdBlock{block}, end}, fmt.Sprintf("application,tag:%d", tagSecMin))
	if err != nil {
		return nil, err
	}
	return asn1.MarshalWithParams(stdFile{3, []asn1.RawValue{{FullBytes: sec}}}, fmt.Sprintf("application,tag:%d", tagQemuFile))
}

// decodeGoBER reads a stream with go-asn1-ber, which makes a tree of it.
func decodeGoBER(r io.Reader) (s sum, err error) {
	root, err := ber.ReadPacket(r)
	if err != nil {
		return s, err
	}
	for _, sec := range root.Children[1].Children {
		for _, block := range sec.Children[1].Children {
			for _, p := range block.Children[1].Children {
				addr, _ := p.Children[0].Value.(int64)
				s.add(uint64(addr), p.Children[1].ByteValue)
			}
		}
	}
	return s, nil
}

// encodeGoBER encodes memory as encode does, with go-asn1-ber.
func encodeGoBER(memory []byte) []byte {
	application := func(tag int, children ...*ber.Packet) *ber.Packet {
		p := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ber.Tag(tag), nil, "")
		for _, c := range children {
			p.AppendChild(c)
		}
		return p
	}
	integer := func(v int64) *ber.Packet {
		return ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, v, "")
	}
	pages := ber.NewSequence("")
	for i := 0; i < len(memory); i += pageSize {
		data := ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, string(memory[i:i+pageSize]), "")
		pages.AppendChild(application(tagFullPage, integer(int64(i)), data))
	}
	block := ber.NewSequence("")
	block.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagUTF8String, blockName, ""))
	block.AppendChild(pages)
	end := ber.Encode(ber.ClassApplication, ber.TypePrimitive, tagSecEndMark, nil, "")
	top := ber.NewSequence("")
	top.AppendChild(application(tagSecMin, integer(2), application(tagRAMSec, block), end))
	return application(tagQemuFile, integer(3), top).Bytes()
}

// A sink is memory that is written from its start.
type sink struct {
	b []byte
	n int
}

func (s *sink) Write(p []byte) (int, error) {
	if len(p) > len(s.b)-s.n {
		return 0, bytes.ErrTooLarge
	}
	s.n += copy(s.b[s.n:], p)
	return len(p), nil
}
