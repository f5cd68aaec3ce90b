package migschema_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/virtfmt/virtfmt/migschema"
)

// TestNestingLimit: arrays nest as deep as the limit, and not deeper.
func TestNestingLimit(t *testing.T) {
	definite := func(n int) (b []byte) {
		for range n {
			b = appendTLV(nil, []byte{0x30}, b)
		}
		return b
	}
	indefinite := func(n int) []byte {
		return append(bytes.Repeat([]byte{0x30, 0x80}, n), make([]byte, 2*n)...)
	}
	for name, nested := range map[string]func(int) []byte{"definite": definite, "indefinite": indefinite} {
		for _, max := range []int{0, 10, 300} {
			limit := max
			if max == 0 {
				limit = 128
			}
			deepest := -1
			for n := limit - 10; n < limit+3; n++ {
				b := state(nested(n)...)
				o := &migschema.DecoderOptions{MaxDepth: max}
				_, err := count(migschema.NewDecoderBytes(b, o))
				_, rerr := count(migschema.NewDecoder(bytes.NewReader(b), o))
				uerr := migschema.Unmarshal(b, new(migschema.QemuFile), o)
				if (err == nil) != (rerr == nil) || (err == nil) != (uerr == nil) || err != nil && !errors.Is(err, migschema.CodeDepth) {
					t.Errorf("%s, %d levels: %v, from a reader %v, as a whole %v", name, n, err, rerr, uerr)
				}
				if err == nil {
					deepest = n
				}
			}
			if deepest != limit-4 { // the file, its list, the section and the state hold them
				t.Errorf("%s, limit %d: %d levels", name, limit, deepest)
			}
		}
	}
}

// TestSkipDepth: what is skipped may nest as deep as what is decoded, and what
// is not in the schema too.
func TestSkipDepth(t *testing.T) {
	for _, c := range []struct {
		n  int
		ok bool
	}{{124, true}, {125, false}} {
		b := state(append(bytes.Repeat([]byte{0x30, 0x80}, c.n), make([]byte, 2*c.n)...)...)
		for stop := range 6 {
			d := migschema.NewDecoder(bytes.NewReader(b), nil)
			for range stop {
				d.Next()
			}
			d.Skip()
			if _, err := count(d); (err == nil) != c.ok || err != nil && !errors.Is(err, migschema.CodeDepth) {
				t.Errorf("%d arrays, skipped after %d events: %v", c.n, stop, err)
			}
		}
		// Elements of no known tag among the state.
		b = state(append(bytes.Repeat([]byte{0xbf, 0x7f, 0x80}, c.n), make([]byte, 2*c.n)...)...)
		o := &migschema.DecoderOptions{Lenient: migschema.Lenient{Unknown: true}}
		if err := migschema.Unmarshal(b, new(migschema.QemuFile), o); (err == nil) != c.ok {
			t.Errorf("%d unknown elements: %v", c.n, err)
		}
	}
}

// arrays returns so many arrays, each but the last holding the next.
func arrays(n int) migschema.VMState {
	var s migschema.VMState
	for range n {
		s = migschema.VMState{migschema.Array(s)}
	}
	return s
}

// TestEncodeNesting: an encoder writes what a decoder with the same limit
// reads, and refuses what is one level deeper.
func TestEncodeNesting(t *testing.T) {
	for _, max := range []int{0, 10, 300} {
		limit := max
		if max == 0 {
			limit = migschema.MaxDepth
		}
		decode := &migschema.DecoderOptions{MaxDepth: max}
		for _, form := range []migschema.Form{migschema.DER, migschema.CER, migschema.Streamed} {
			o := &migschema.EncoderOptions{Form: form, MaxDepth: max}
			for n := limit - 6; n < limit+2; n++ {
				full := &migschema.SecFull{Name: "dev", Contents: arrays(n)}
				ok := n <= limit-4
				b, err := migschema.Marshal(&migschema.QemuFile{Version: migschema.NewInt(3), Top: []migschema.Section{full}}, o)
				if (err == nil) != ok || !ok && !errors.Is(err, migschema.CodeDepth) {
					t.Errorf("%s, limit %d, %d arrays: %v", form, limit, n, err)
				}
				if err == nil {
					if err := migschema.Unmarshal(b, new(migschema.QemuFile), decode); err != nil {
						t.Errorf("%s, limit %d, %d arrays: decoding: %v", form, limit, n, err)
					}
				}
				if err := encodeArrays(form, o, n); (err == nil) != ok || !ok && !errors.Is(err, migschema.CodeDepth) {
					t.Errorf("%s, limit %d, %d arrays by events: %v", form, limit, n, err)
				}
			}
		}
	}
	for _, form := range []migschema.Form{migschema.DER, migschema.CER, migschema.Streamed} {
		pages := &migschema.SecMin{RAMSec: []migschema.RAMSecBlock{{Name: "a", PageList: []migschema.RAMPage{&migschema.FullPage{Data: make([]byte, 4096)}}}}}
		file := &migschema.QemuFile{Version: migschema.NewInt(3), Top: []migschema.Section{pages}}
		for max := 1; max < 12; max++ {
			b, err := migschema.Marshal(file, &migschema.EncoderOptions{Form: form, MaxDepth: max})
			whole, werr := migschema.Marshal(file, &migschema.EncoderOptions{Form: form})
			if werr != nil {
				t.Fatal(werr)
			}
			derr := migschema.Unmarshal(whole, new(migschema.QemuFile), &migschema.DecoderOptions{MaxDepth: max})
			if (err == nil) != (derr == nil) || err == nil && !bytes.Equal(b, whole) {
				t.Errorf("%s, a page within %d levels: encoding %v, decoding %v", form, max, err, derr)
			}
		}
	}
}

// encodeArrays writes a device with so many arrays, event by event.
func encodeArrays(form migschema.Form, o *migschema.EncoderOptions, n int) error {
	produce := func(e *migschema.Encoder) error {
		e.BeginFull("dev", 1, 0, 1)
		e.BeginState()
		for range n {
			e.BeginArray()
		}
		for range n + 1 {
			e.End()
		}
		return e.EndSection()
	}
	if form == migschema.DER {
		return migschema.EncodeDER(io.Discard, o, produce)
	}
	e := migschema.NewEncoder(io.Discard, o)
	produce(e)
	return e.Close()
}

// TestMarshalCycle: a value that holds itself is refused.
func TestMarshalCycle(t *testing.T) {
	loop := migschema.Array{nil}
	loop[0] = loop
	subs := migschema.SubSecList{{Name: "s", Contents: []migschema.Entry{nil}}}
	subs[0].Contents[0] = subs
	for _, v := range []any{loop, subs, &migschema.SecFull{Name: "d", Contents: migschema.VMState{loop}}} {
		if _, err := migschema.Marshal(v, nil); !errors.Is(err, migschema.CodeDepth) {
			t.Errorf("%T: %v", v, err)
		}
		if _, err := migschema.AppendJSON(nil, v); err == nil {
			t.Errorf("%T as JSON", v)
		}
	}
}

// TestConvertNesting: device state whose description nests deeper than a
// decoder goes becomes a blob, in each form at the very same level.
func TestConvertNesting(t *testing.T) {
	const perSub = 3 // elements that a subsection adds
	for _, blob := range []int{1, 1001} {
		for subs := 38; subs < 44; subs++ {
			// Arrays of structs around, so that the levels are not all threes.
			for structs := range 4 {
				stream := nestedDevice(subs, structs, blob)
				for _, form := range convertForms {
					ber, back, report, err := roundTrip(stream, &migschema.ConvertOptions{Form: form, Typed: true})
					if err != nil || !bytes.Equal(back, stream) {
						t.Fatalf("%s, %d subsections, %d structs: %v", form, subs, structs, err)
					}
					depth := 4 + perSub*subs + structs
					if form == migschema.CER && blob > 1000 {
						depth++ // the blob comes in segments
					}
					if typed := report.Typed == 1; typed != (depth <= migschema.MaxDepth) {
						t.Errorf("%s, depth %d: typed %v", form, depth, typed)
					}
					if err := migschema.Unmarshal(ber, new(migschema.QemuFile), nil); err != nil {
						t.Errorf("%s, depth %d: %v", form, depth, err)
					}
				}
			}
		}
	}
}

// nestedDevice is a stream of one device, with subsections within subsections,
// the innermost holding structs within structs, and those a blob.
func nestedDevice(subs, structs, blob int) []byte {
	group := fmt.Sprintf(`"version": 1, "fields": [{"name": "b", "type": "buffer", "size": %d}]`, blob)
	for range structs {
		group = fmt.Sprintf(`"version": 1, "fields": [{"name": "s", "type": "struct", "size": %d, "struct": {"vmsd_name": "v", %s}}]`, blob, group)
	}
	c := newClassic().config("none").open(4, 7, "dev", 0, 1)
	for range subs {
		group = `"version": 1, "fields": [], "subsections": [{"vmsd_name": "s", ` + group + `}]`
		c.raw(5).str("s").be32(1)
	}
	desc := `{"page_size": 4096, "devices": [{"name": "dev", "instance_id": 0, ` + group + `}]}`
	c.raw(make([]byte, blob)...).footer(7).raw(0)
	return c.raw(6).be32(uint32(len(desc))).raw([]byte(desc)...).Bytes()
}
