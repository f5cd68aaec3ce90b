package migschema

import (
	"io"
	"iter"
)

// An ElementKind says what a [Scanner] found.
type ElementKind uint8

const (
	// ElementBegin opens an element that holds others.
	ElementBegin ElementKind = iota
	// ElementEnd closes the innermost open element.
	ElementEnd
	// ElementValue is an element that holds none.
	ElementValue
)

// String returns begin, end or value.
func (k ElementKind) String() string { return [...]string{"begin", "end", "value"}[k%3] }

// An Element is one element of a BER stream, as it lies there.
type Element struct {
	Kind ElementKind
	// Name is the component or the arm by which the schema calls the element,
	// empty in a list and at the root.
	Name string
	// Type is the schema's type, such as SecFull, INTEGER or SEQUENCE OF
	// RAMPage.
	Type string
	// Tag is the class and number; for an end, those of what ends.
	Tag Tag
	// Offset is that of the identifier in the stream; for an end, of the octet
	// after the element.
	Offset int64
	// HeaderSize is how many octets of identifier and length there are.
	HeaderSize int
	// Length is how many octets the contents have, -1 where that is not told
	// beforehand, and for an end.
	Length int64
	// Depth is how many elements hold this one.
	Depth int

	// Int is the value of an INTEGER.
	Int Int
	// Bool is the value of a BOOLEAN.
	Bool bool
	// Data is the contents of a string, valid until the next call.
	Data []byte
	// More says that the string goes on with the next element, which has the
	// same offset and name. Only strings without a bound (oldblob) are handed
	// out in pieces.
	More bool
}

// A Scanner reads a BER stream element by element and holds each against the
// schema. It shows the encoding, for dumps; a [Decoder] shows the contents.
// A Scanner is not safe for concurrent use.
type Scanner struct {
	w  walker
	el Element
}

// NewScanner returns a Scanner of the QemuFile in r.
func NewScanner(r io.Reader, o *DecoderOptions) *Scanner {
	s := new(Scanner)
	s.w.init(newSource(r, o != nil && o.NoReadAhead), nodeQemuFile, o)
	return s
}

// NewScannerBytes returns a Scanner of the QemuFile in b. Strings that it
// hands out are views of b, valid as long as b is.
func NewScannerBytes(b []byte, o *DecoderOptions) *Scanner {
	s := new(Scanner)
	s.w.init(bytesSource(b), nodeQemuFile, o)
	return s
}

// Next returns the next element, or [io.EOF] after the end of the file. The
// element is valid until the next call. Errors are [*FormatError] or those of
// the reader, and stay.
func (s *Scanner) Next() (*Element, error) {
	w := &s.w
	if err := w.next(); err != nil {
		return nil, err
	}
	s.el = Element{
		Kind:   w.event,
		Name:   w.name(),
		Type:   w.node.name,
		Tag:    w.node.tag,
		Offset: w.at,
		Length: indefinite,
		Depth:  len(w.stack),
	}
	switch w.event {
	case ElementBegin:
		s.el.Depth--
		s.el.HeaderSize, s.el.Length = w.h.size, w.h.length
	case ElementValue:
		if w.more {
			s.el.Depth = w.split
		}
		s.el.HeaderSize, s.el.Length = w.h.size, w.h.length
		switch w.node.kind {
		case kindInteger:
			s.el.Int = w.num
		case kindBoolean:
			s.el.Bool = w.flag
		case kindOctets, kindUTF8:
			s.el.Data, s.el.More = w.data, w.more
		}
	}
	return &s.el, nil
}

// name returns the name of the element that next found.
func (w *walker) name() string {
	switch {
	case w.arm != nil && w.arm.name != "":
		return w.arm.name
	case w.part != nil:
		return w.part.name
	}
	return ""
}

// All returns the elements that are left. It ends after the first error, and
// does not give [io.EOF].
func (s *Scanner) All() iter.Seq2[*Element, error] { return all(s.Next) }

// all makes an iterator of a Next method.
func all[T any](next func() (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			v, err := next()
			if err == io.EOF || !yield(v, err) || err != nil {
				return
			}
		}
	}
}

// Path returns the path of the element that Next returned last, such as
// QemuFile.top[3].full.contents.oldblob.
func (s *Scanner) Path() string { return s.w.elementPath() }

// Offset returns the offset of the first octet not consumed.
func (s *Scanner) Offset() int64 { return s.w.src.offset() }

// elementPath returns the path of the element that next found.
func (w *walker) elementPath() string {
	switch {
	case w.err != nil || w.node == nil:
		return w.path()
	case w.event == ElementBegin:
		return string(w.appendFrames(nil, len(w.stack)))
	case w.event == ElementEnd:
		return w.endedPath()
	}
	return w.valuePath()
}

// valuePath is path for an element that is complete: its parent's count is
// one past it.
func (w *walker) valuePath() string {
	n := len(w.stack)
	if !w.more && n > 0 {
		w.stack[n-1].n--
		defer func() { w.stack[n-1].n++ }()
	}
	w.child = true
	return w.path()
}

// endedPath is the path of the frame that has just been closed.
func (w *walker) endedPath() string {
	n := len(w.stack)
	b := w.appendFrames(nil, n)
	if n == 0 {
		return string(appendStep(b, nil, w.arm, -1))
	}
	return string(appendStep(b, w.part, w.arm, w.stack[n-1].n-1))
}
