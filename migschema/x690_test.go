package migschema_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/virtfmt/virtfmt/migschema"
)

// stateAt is where the elements begin that state puts into a file.
const stateAt = 30

// state returns a file with a device whose typed state is of these elements.
func state(elements ...byte) []byte {
	b := []byte{0x7f, 0x8f, 0x53, 0x80, 0x0c, 3, 'd', 'e', 'v', 2, 1, 1, 2, 1, 0, 2, 1, 1, 0x30, 0x80}
	return file(append(append(b, elements...), 0, 0, 0x5f, 0xd3, 0x45, 0, 0, 0)...)
}

// TestRulesOfX690 breaks one rule after the other, next to what keeps it.
func TestRulesOfX690(t *testing.T) {
	type L = migschema.Lenient
	zeros := func(n int) []byte { return make([]byte, n) }
	cat := func(head []byte, tail ...byte) []byte { return append(bytes.Clone(head), tail...) }
	for _, c := range []struct {
		name     string
		elements []byte
		code     migschema.Code // "" for sound
		at       int64          // of the fault, from the elements on
		lenient  L              // bears it
	}{
		// 8.1.2: identifier octets.
		{"tag 30 in the low form", []byte{0xbe, 0}, migschema.CodeNoChoiceArm, 0, L{Unknown: true}},
		{"tag 31 in the high form", []byte{0xbf, 31, 0}, migschema.CodeNoChoiceArm, 0, L{Unknown: true}},
		{"tag 30 in the high form", []byte{0xbf, 30, 0}, migschema.CodeTagNotLowForm, 0, L{Unknown: true, AnyTag: true}},
		{"tag 2 in the high form", []byte{0x1f, 2, 1, 5}, migschema.CodeTagNotLowForm, 0, L{AnyTag: true}},
		{"tag padded with zeros", []byte{0x1f, 0x80, 2, 1, 5}, migschema.CodeTagLeadingZero, 1, L{AnyTag: true}},
		{"tag of a subsection list padded", []byte{0x7f, 0x80, 0xd3, 0x4c, 0}, migschema.CodeTagLeadingZero, 1, L{AnyTag: true}},
		// 8.1.3: length octets.
		{"length in the long form", []byte{2, 0x81, 1, 5}, "", 0, L{}},
		{"length in 126 octets", append(cat([]byte{2, 0x80 | 126}, zeros(125)...), 1, 5), "", 0, L{}},
		{"length octet ff", []byte{2, 0xff, 5}, migschema.CodeLengthReserved, 1, L{}},
		{"length octet ff of a SEQUENCE", []byte{0x30, 0xff, 0, 0}, migschema.CodeLengthReserved, 1, L{}},
		{"length 2^63-1", []byte{4, 0x88, 0x7f, 255, 255, 255, 255, 255, 255, 255}, migschema.CodeLengthExceeds, 0, L{}},
		{"length 2^63", []byte{4, 0x88, 0x80, 0, 0, 0, 0, 0, 0, 0}, migschema.CodeLengthTooLarge, 9, L{}},
		{"length 2^64+1", []byte{4, 0x89, 1, 0, 0, 0, 0, 0, 0, 0, 1, 5}, migschema.CodeLengthTooLarge, 10, L{}},
		{"indefinite INTEGER", []byte{2, 0x80, 5, 0, 0}, migschema.CodeIndefinitePrim, 1, L{}},
		{"indefinite OCTET STRING, primitive", []byte{4, 0x80, 5, 0, 0}, migschema.CodeIndefinitePrim, 1, L{}},
		{"longer than its SEQUENCE", []byte{0x30, 3, 2, 2, 5, 1}, migschema.CodeLengthExceeds, 2, L{}},
		{"as long as its SEQUENCE", []byte{0x30, 4, 2, 2, 5, 1}, "", 0, L{}},
		{"no end within a SEQUENCE", []byte{0x30, 5, 0x30, 0x80, 2, 1, 5}, migschema.CodeMissingEOC, 7, L{}},
		{"an end within a SEQUENCE", []byte{0x30, 7, 0x30, 0x80, 2, 1, 5, 0, 0}, "", 0, L{}},
		{"an end too many", []byte{0x30, 2, 0, 0}, migschema.CodeUnexpectedEOC, 2, L{}},
		// 8.2: BOOLEAN.
		{"BOOLEAN 00", []byte{1, 1, 0}, "", 0, L{}},
		{"BOOLEAN 01", []byte{1, 1, 1}, "", 0, L{}},
		{"BOOLEAN of no octet", []byte{1, 0}, migschema.CodeBoolLength, 0, L{}},
		{"BOOLEAN of two octets", []byte{1, 2, 0, 0}, migschema.CodeBoolLength, 0, L{}},
		{"BOOLEAN constructed", []byte{0x21, 3, 1, 1, 0}, migschema.CodeMustBePrimitive, 0, L{}},
		// 8.3: INTEGER.
		{"INTEGER of no octet", []byte{2, 0}, migschema.CodeIntEmpty, 0, L{}},
		{"INTEGER 00 7f", []byte{2, 2, 0, 0x7f}, migschema.CodeIntNotMinimal, 2, L{IntNotMinimal: true}},
		{"INTEGER 00 80", []byte{2, 2, 0, 0x80}, "", 0, L{}},
		{"INTEGER ff 80", []byte{2, 2, 0xff, 0x80}, migschema.CodeIntNotMinimal, 2, L{IntNotMinimal: true}},
		{"INTEGER ff 7f", []byte{2, 2, 0xff, 0x7f}, "", 0, L{}},
		{"INTEGER constructed", []byte{0x22, 3, 2, 1, 0}, migschema.CodeMustBePrimitive, 0, L{}},
		// 8.7, 8.23: strings.
		{"string in segments", []byte{0x24, 0x80, 4, 1, 5, 0x24, 2, 4, 0, 0, 0}, "", 0, L{}},
		{"segment UTF8String", []byte{0x24, 3, 0x0c, 1, 'a'}, migschema.CodeBadSegmentTag, 2, L{}},
		{"segment INTEGER", []byte{0x24, 3, 2, 1, 5}, migschema.CodeBadSegmentTag, 2, L{}},
		{"name in segments", []byte{0x7f, 0xd3, 0x4c, 14, 0x7f, 0xd3, 0x53, 10, 0x2c, 3, 4, 1, 'a', 2, 1, 1, 0x30, 0}, "", 0, L{}},
		{"name in UTF8Strings", []byte{0x7f, 0xd3, 0x4c, 14, 0x7f, 0xd3, 0x53, 10, 0x2c, 3, 0x0c, 1, 'a', 2, 1, 1, 0x30, 0}, migschema.CodeBadSegmentTag, 10, L{UTF8Segments: true}},
		{"empty name in segments", []byte{0x7f, 0xd3, 0x4c, 13, 0x7f, 0xd3, 0x53, 9, 0x2c, 2, 4, 0, 0x0c, 0, 0, 0, 0}, migschema.CodeSize, 8, L{}},
		// 8.9, 8.10: SEQUENCE.
		{"SEQUENCE OF primitive", []byte{0x10, 0}, migschema.CodeMustBeConstructed, 0, L{}},
		{"subsection list primitive", []byte{0x5f, 0xd3, 0x4c, 0}, migschema.CodeMustBeConstructed, 0, L{}},
	} {
		b := state(c.elements...)
		for how, decode := range map[string]func(o *migschema.DecoderOptions) error{
			"slice": func(o *migschema.DecoderOptions) error { _, err := count(migschema.NewDecoderBytes(b, o)); return err },
			"reader": func(o *migschema.DecoderOptions) error {
				_, err := count(migschema.NewDecoder(bytes.NewReader(b), o))
				return err
			},
			"Unmarshal": func(o *migschema.DecoderOptions) error { return migschema.Unmarshal(b, new(migschema.QemuFile), o) },
		} {
			err := decode(nil)
			var bad *migschema.FormatError
			switch {
			case c.code == "" && err != nil:
				t.Errorf("%s, %s: %v", c.name, how, err)
			case c.code != "" && (!errors.As(err, &bad) || bad.Code != c.code || bad.Offset != stateAt+c.at):
				t.Errorf("%s, %s: %v, want %s at %#x", c.name, how, err, c.code, stateAt+c.at)
			}
			all := L{IntNotMinimal: true, AnyTag: true, UTF8Segments: true, PageSize: true, NameSize: true, Version: true, Unknown: true, TrailingData: true}
			if c.lenient != (L{}) {
				if err := decode(&migschema.DecoderOptions{Lenient: c.lenient}); err != nil {
					t.Errorf("%s, %s, with the switch: %v", c.name, how, err)
				}
			} else if c.code != "" {
				if err := decode(&migschema.DecoderOptions{Lenient: all}); err == nil && c.code != migschema.CodeSize {
					t.Errorf("%s, %s: borne with every switch on", c.name, how)
				}
			}
		}
	}
}

// TestRulesOfDER breaks one rule of section 10 and 11 after the other.
func TestRulesOfDER(t *testing.T) {
	long := make([]byte, 130)
	for _, c := range []struct {
		name     string
		elements []byte
		code     migschema.Code
		at       int64
	}{
		{"BOOLEAN 00", []byte{1, 1, 0}, "", 0},
		{"BOOLEAN ff", []byte{1, 1, 0xff}, "", 0},
		{"BOOLEAN 01", []byte{1, 1, 1}, migschema.CodeBoolNotCanonical, 0},
		{"length 127", append([]byte{4, 127}, long[:127]...), "", 0},
		{"length 127 in two octets", append([]byte{4, 0x81, 127}, long[:127]...), migschema.CodeLengthNotMinimal, 1},
		{"length 128", append([]byte{4, 0x81, 128}, long[:128]...), "", 0},
		{"length 128 in three octets", append([]byte{4, 0x82, 0, 128}, long[:128]...), migschema.CodeLengthNotMinimal, 1},
		{"indefinite array", []byte{0x30, 0x80, 0, 0}, migschema.CodeIndefinite, 1},
		{"string in segments", []byte{0x24, 3, 4, 1, 5}, migschema.CodeMustBePrimitive, 0},
	} {
		sec := []byte{0x0c, 3, 'd', 'e', 'v', 2, 1, 1, 2, 1, 0, 2, 1, 1}
		sec = append(appendTLV(sec, []byte{0x30}, c.elements), 0x5f, 0xd3, 0x45, 0)
		top := appendTLV(nil, []byte{0x7f, 0x8f, 0x53}, sec)
		b := appendTLV(nil, []byte{0x7f, 0xcd, 0xc5, 0x51}, appendTLV([]byte{2, 1, 3}, []byte{0x30}, top))
		at := int64(len(b) - 4 - len(c.elements))
		_, err := count(migschema.NewDecoderBytes(b, &migschema.DecoderOptions{DER: true}))
		var bad *migschema.FormatError
		switch {
		case c.code == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.code != "" && (!errors.As(err, &bad) || bad.Code != c.code || bad.Offset != at+c.at):
			t.Errorf("%s: %v, want %s at %#x", c.name, err, c.code, at+c.at)
		}
		if _, err := count(migschema.NewDecoderBytes(b, nil)); err != nil {
			t.Errorf("%s is sound BER: %v", c.name, err)
		}
	}
}

// appendTLV appends an element with a length in the fewest octets.
func appendTLV(b, tag, contents []byte) []byte {
	b = append(b, tag...)
	switch n := len(contents); {
	case n < 0x80:
		b = append(b, byte(n))
	case n < 0x100:
		b = append(b, 0x81, byte(n))
	default:
		b = append(b, 0x82, byte(n>>8), byte(n))
	}
	return append(b, contents...)
}
