package migschema

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"
)

// Typed state of a device, by its description:
//
//	int*, uint*, timer, * equal   INTEGER
//	bool                          BOOLEAN
//	struct, array                 array
//	subsections                   subsecl, the last entry
//	all else                      oldblob
//
// A field whose bytes the type cannot say, such as a bool of 2, is an oldblob
// too.

// maxFieldPath is how many octets the path of a field has at most: each value
// is told with its own.
const maxFieldPath = 1024

// maxStructs is how deep structs may nest in a description.
const maxStructs = 64

// A FieldValue is one value in the state of a device.
type FieldValue struct {
	Path   string // names and indices, such as env.segs[2].base; of a subsection, behind its name
	Type   string // as the description calls it
	Offset int64  // in the state
	Data   []byte // the bytes, a view of the state
	Value  Entry  // Int, Bool or OldBlob
}

// Decode returns the typed form of the state of a device that s describes.
// [StructDesc.Encode] gives the same bytes again. State that does not fit the
// description is a [CodeVMDesc]. Blobs in it are views of state.
func (s *StructDesc) Decode(state []byte) (VMState, error) {
	d := stateDecoder{b: state}
	l, err := d.whole(s)
	return l, err
}

// Values returns the values in the state of a device that s describes, in
// order. It ends after the first error.
func (s *StructDesc) Values(state []byte) iter.Seq2[FieldValue, error] {
	return func(yield func(FieldValue, error) bool) {
		d := stateDecoder{b: state, leaf: func(v FieldValue) bool { return yield(v, nil) }}
		if _, err := d.whole(s); err != nil && err != errStopped {
			yield(FieldValue{}, err)
		}
	}
}

var errStopped = errors.New("stopped")

// A stateDecoder walks through the state of a device. With leaf it tells each
// value, otherwise it collects them.
type stateDecoder struct {
	b     []byte
	pos   int
	depth int
	steps int                   // that are left: a short description can ask for far more than the state has bytes
	sizes map[*StructDesc]int64 // of structs in fields, -1 of what has none
	leaf  func(FieldValue) bool
	path  []byte
}

func (d *stateDecoder) fail(s *StructDesc, what string) error {
	return &coded{CodeVMDesc, fmt.Errorf("%q at %#x of the state: %s", s.VMSDName, d.pos, what)}
}

func (d *stateDecoder) whole(s *StructDesc) ([]Entry, error) {
	if n, ok := s.size(); !ok || n != int64(len(d.b)) {
		return nil, d.fail(s, "the state has another size")
	}
	d.steps = 4*len(d.b) + maxDescObjects
	return d.group(s)
}

// group decodes the fields and the subsections of s.
func (d *stateDecoder) group(s *StructDesc) (l []Entry, err error) {
	if d.depth++; d.depth > maxStructs {
		return nil, d.fail(s, "structs nest too deep")
	}
	defer func() { d.depth-- }()
	if d.steps -= len(s.Fields) + len(s.Subsections) + 1; d.steps < 0 {
		return nil, d.fail(s, "too many fields without bytes")
	}
	for i := range s.Fields {
		e, err := d.field(s, &s.Fields[i])
		if err != nil {
			return nil, err
		}
		if d.leaf == nil {
			l = append(l, e)
		}
	}
	if len(s.Subsections) == 0 {
		return l, nil
	}
	var subs SubSecList
	for i := range s.Subsections {
		sub, err := d.subsection(s, &s.Subsections[i])
		if err != nil {
			return nil, err
		}
		subs = append(subs, sub)
	}
	if d.leaf == nil {
		l = append(l, subs)
	}
	return l, nil
}

func (d *stateDecoder) subsection(s, desc *StructDesc) (sub SubSection, err error) {
	head := appendSubsectionHead(nil, desc.VMSDName, uint32(desc.Version))
	if !strings.HasPrefix(string(d.b[d.pos:]), string(head)) {
		return sub, d.fail(s, fmt.Sprintf("no subsection %q", desc.VMSDName))
	}
	d.pos += len(head)
	sub = SubSection{Name: desc.VMSDName, VersionID: NewInt(int64(uint32(desc.Version)))}
	mark := len(d.path)
	if d.leaf != nil {
		d.path = append(append(d.path, desc.VMSDName...), ':')
	}
	sub.Contents, err = d.group(desc)
	d.path = d.path[:mark]
	return sub, err
}

func appendSubsectionHead(b []byte, name string, version uint32) []byte {
	b = append(append(b, recSubsection, byte(len(name))), name...)
	return binary.BigEndian.AppendUint32(b, version)
}

// field decodes a field: one value, or an array of them.
func (d *stateDecoder) field(s *StructDesc, f *FieldDesc) (Entry, error) {
	mark := len(d.path)
	defer func() { d.path = d.path[:mark] }()
	if d.leaf != nil {
		d.path = append(d.path, f.Name...)
		if f.Index != nil {
			d.path = appendIndex(d.path, *f.Index)
		}
		if len(d.path) > maxFieldPath {
			return nil, d.fail(s, "the path of a field is too long")
		}
	}
	if f.ArrayLen == nil {
		return d.value(f)
	}
	if f.Size == 0 {
		return OldBlob{}, nil // as many as it may be
	}
	list := Array{}
	if d.leaf == nil {
		list = make(Array, 0, *f.ArrayLen)
	}
	for i := range *f.ArrayLen {
		inner := len(d.path)
		if d.leaf != nil {
			d.path = appendIndex(d.path, i)
		}
		e, err := d.value(f)
		if err != nil {
			return nil, err
		}
		d.path = d.path[:inner]
		if d.leaf == nil {
			list = append(list, e)
		}
	}
	return list, nil
}

func appendIndex(b []byte, i int64) []byte {
	return append(strconv.AppendInt(append(b, '['), i, 10), ']')
}

// value decodes one element of f.
func (d *stateDecoder) value(f *FieldDesc) (Entry, error) {
	if f.Struct != nil && d.size(f.Struct) == f.Size {
		if d.leaf != nil {
			d.path = append(d.path, '.')
		}
		l, err := d.group(f.Struct)
		return Array(l), err
	}
	b := d.b[d.pos : d.pos+int(f.Size)]
	e := f.decode(b)
	if d.leaf != nil && !d.leaf(FieldValue{string(d.path), f.Type, int64(d.pos), b, e}) {
		return nil, errStopped
	}
	d.pos += len(b)
	return e, nil
}

// size returns the size of a struct, -1 where it has none. It is worked out
// once, for a struct can be in an array.
func (d *stateDecoder) size(s *StructDesc) int64 {
	n, ok := d.sizes[s]
	if ok {
		return n
	}
	if n, ok = s.size(); !ok {
		n = -1
	}
	if d.sizes == nil {
		d.sizes = make(map[*StructDesc]int64)
	}
	d.sizes[s] = n
	return n
}

// An intType is how the bytes of a field make a number.
type intType struct{ signed, little bool }

// number returns how f is a number, if it is one.
func (f *FieldDesc) number() (t intType, ok bool) {
	switch f.Size {
	case 1, 2, 4, 8:
	default:
		return t, false
	}
	name := strings.TrimSuffix(f.Type, " equal")
	name, t.little = strings.CutSuffix(name, " le")
	bits := strconv.FormatInt(8*f.Size, 10)
	switch name {
	case "int" + bits, "timer":
		t.signed = true
		return t, true
	case "uint" + bits:
		return t, true
	}
	return t, false
}

// decode returns the value of b, in a way that encode gives b again.
func (f *FieldDesc) decode(b []byte) Entry {
	if f.Type == "bool" && len(b) == 1 && b[0] <= 1 {
		return Bool(b[0] == 1)
	}
	t, ok := f.number()
	if !ok {
		return OldBlob(b)
	}
	var v uint64
	for i := range b {
		if t.little {
			v |= uint64(b[i]) << (8 * i)
		} else {
			v = v<<8 | uint64(b[i])
		}
	}
	if t.signed {
		shift := 64 - 8*len(b)
		return NewInt(int64(v<<shift) >> shift)
	}
	return NewUint(v)
}

// Encode returns the bytes of the typed state of a device that s describes.
// State that does not fit the description is a [CodeVMDesc].
func (s *StructDesc) Encode(state VMState) ([]byte, error) {
	e := stateEncoder{}
	if err := e.group(s, state); err != nil {
		return nil, err
	}
	return e.b, nil
}

type stateEncoder struct {
	b     []byte
	depth int
}

func (e *stateEncoder) fail(s *StructDesc, what string) error {
	return &coded{CodeVMDesc, fmt.Errorf("%q: %s", s.VMSDName, what)}
}

// group appends the fields and subsections of s.
func (e *stateEncoder) group(s *StructDesc, l []Entry) error {
	if e.depth++; e.depth > maxStructs {
		return e.fail(s, "structs nest too deep")
	}
	defer func() { e.depth-- }()
	want := len(s.Fields)
	if len(s.Subsections) > 0 {
		want++
	}
	if len(l) != want {
		return e.fail(s, fmt.Sprintf("%d entries for %d", len(l), want))
	}
	for i := range s.Fields {
		if err := e.field(s, &s.Fields[i], l[i]); err != nil {
			return err
		}
	}
	if len(s.Subsections) == 0 {
		return nil
	}
	subs, ok := l[want-1].(SubSecList)
	if !ok || len(subs) != len(s.Subsections) {
		return e.fail(s, "other subsections")
	}
	for i := range subs {
		if err := e.subsection(s, &s.Subsections[i], &subs[i]); err != nil {
			return err
		}
	}
	return nil
}

func (e *stateEncoder) subsection(s, desc *StructDesc, sub *SubSection) error {
	version, ok := sub.VersionID.Uint64()
	if sub.Name != desc.VMSDName || !ok || version != uint64(uint32(desc.Version)) || len(sub.Name) > math.MaxUint8 {
		return e.fail(s, fmt.Sprintf("subsection %q of version %v", sub.Name, sub.VersionID))
	}
	e.b = appendSubsectionHead(e.b, sub.Name, uint32(version))
	return e.group(desc, sub.Contents)
}

// field appends a field: one value, or an array of them.
func (e *stateEncoder) field(s *StructDesc, f *FieldDesc, v Entry) error {
	total, ok := f.total()
	if !ok {
		return e.fail(s, f.Name+" has no size")
	}
	if b, ok := v.(OldBlob); ok && int64(len(b)) == total {
		e.b = append(e.b, b...)
		return nil
	}
	if f.ArrayLen == nil {
		return e.value(s, f, v)
	}
	list, ok := v.(Array)
	if !ok || int64(len(list)) != *f.ArrayLen {
		return e.fail(s, f.Name+" is an array of another length")
	}
	for _, v := range list {
		if err := e.value(s, f, v); err != nil {
			return err
		}
	}
	return nil
}

// value appends one element of f.
func (e *stateEncoder) value(s *StructDesc, f *FieldDesc, v Entry) error {
	switch v := v.(type) {
	case OldBlob:
		if int64(len(v)) == f.Size {
			e.b = append(e.b, v...)
			return nil
		}
	case Bool:
		if f.Type == "bool" && f.Size == 1 {
			c := byte(0)
			if v {
				c = 1
			}
			e.b = append(e.b, c)
			return nil
		}
	case Int:
		if t, ok := f.number(); ok && e.number(t, int(f.Size), v) {
			return nil
		}
	case Array:
		if f.Struct != nil {
			at := len(e.b)
			if err := e.group(f.Struct, v); err != nil || int64(len(e.b)-at) == f.Size {
				return err
			}
		}
	}
	return e.fail(s, fmt.Sprintf("%s, a %s of %d bytes, does not hold the %T", f.Name, f.Type, f.Size, v))
}

// number appends v in size bytes, if it fits.
func (e *stateEncoder) number(t intType, size int, v Int) bool {
	bits := 8 * size
	u, ok := v.Uint64()
	if t.signed {
		var i int64
		i, ok = v.Int64()
		u = uint64(i)
		ok = ok && i<<(64-bits)>>(64-bits) == i
	} else {
		ok = ok && u<<(64-bits)>>(64-bits) == u
	}
	if !ok {
		return false
	}
	for i := range size {
		shift := bits - 8*(i+1)
		if t.little {
			shift = 8 * i
		}
		e.b = append(e.b, byte(u>>shift))
	}
	return true
}
