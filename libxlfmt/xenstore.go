package libxlfmt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// A XenstoreForm is the form of the body of EMULATOR_XENSTORE_DATA. No version
// number tells the forms apart.
type XenstoreForm uint8

const (
	// XenstoreAuto reads each body by its content. Only a text whose first
	// four characters would make an emulator id over 2, and that has no room
	// to be anything else, is taken for Draft B.
	XenstoreAuto XenstoreForm = iota
	// XenstoreFinal reads and writes the final form: an emulator sub-header,
	// then keys and values.
	XenstoreFinal
	// XenstoreDraftB reads and writes the form of Draft B, XENSTORE_DATA: keys
	// and values alone.
	XenstoreDraftB
)

var xenstoreFormNames = [...]string{"auto", "final", "draft-b"}

// String returns auto, final or draft-b.
func (f XenstoreForm) String() string {
	if int(f) < len(xenstoreFormNames) {
		return xenstoreFormNames[f]
	}
	return fmt.Sprintf("XenstoreForm(%d)", uint8(f))
}

// A XenstorePair is a key, relative to the place of the device model in
// xenstore, and its value. Neither holds a NUL.
type XenstorePair struct {
	Key   string
	Value string
}

// A Xenstore is the body of EMULATOR_XENSTORE_DATA: what a device model kept
// in xenstore.
//
//	u32 emulator id | u32 index | key NUL value NUL key NUL value NUL ...
type Xenstore struct {
	Emulator // zero in a Draft B body, which has none
	Pairs    []XenstorePair
	DraftB   bool // no sub-header; a [Writer] sets it as its options say
}

// Type returns [TypeXenstore].
func (Xenstore) Type() Type { return TypeXenstore }

// AppendBody appends the body.
func (x Xenstore) AppendBody(b []byte, o binary.AppendByteOrder) []byte {
	if !x.DraftB {
		b = x.Emulator.append(b, o)
	}
	for _, p := range x.Pairs {
		b = append(append(b, p.Key...), 0)
		b = append(append(b, p.Value...), 0)
	}
	return b
}

var errUnterminated = errors.New("key or value without its NUL")

// decodeXenstore takes a body apart, under any form.
func decodeXenstore(o binary.ByteOrder, form XenstoreForm, b []byte) (Xenstore, error) {
	var x Xenstore
	x.DraftB = isDraftB(form, o, b[:min(len(b), emulatorHead)], int64(len(b)))
	if !x.DraftB {
		if len(b) < emulatorHead {
			return x, errShortBody
		}
		x.Emulator = decodeEmulator(o, b)
		b = b[emulatorHead:]
	}
	for len(b) > 0 {
		key, rest, ok := bytes.Cut(b, []byte{0})
		value, rest, ok2 := bytes.Cut(rest, []byte{0})
		if !ok || !ok2 {
			return x, errUnterminated
		}
		x.Pairs = append(x.Pairs, XenstorePair{string(key), string(value)})
		b = rest
	}
	return x, nil
}

// isDraftB tells whether a body of n bytes has the form of Draft B. The first
// bytes of it are in head, emulatorHead of them or all.
func isDraftB(form XenstoreForm, o binary.ByteOrder, head []byte, n int64) bool {
	switch {
	case form != XenstoreAuto:
		return form == XenstoreDraftB
	case n >= emulatorHead && EmulatorID(o.Uint32(head)) <= lastEmulator:
		return false
	}
	inKey, start := true, 0
	for i, c := range head {
		switch {
		case c == 0:
			if inKey && i == start {
				return false // an empty key
			}
			inKey, start = !inKey, i+1
		case inKey && !isKeyChar(c), c < ' ', c > '~':
			return false
		}
	}
	return n >= emulatorHead || n > 0 && inKey && start == len(head)
}

// isKeyChar reports whether xenstore allows c in a key.
func isKeyChar(c byte) bool {
	switch {
	case '0' <= c && c <= '9', 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z':
		return true
	}
	return c == '-' || c == '/' || c == '_' || c == '@'
}

// A xenstoreCheck judges keys and values as they pass.
type xenstoreCheck struct {
	g       *grammar
	rec     Record
	head    [emulatorHead]byte
	pos     int64 // bytes of the body so far
	started bool  // head was judged
	inValue bool
	length  int64   // of the key or value so far
	told    [3]bool // which of keyFaults, once a record
}

func (c *xenstoreCheck) reset(g *grammar, r Record) *xenstoreCheck {
	*c = xenstoreCheck{g: g, rec: r}
	return c
}

func (c *xenstoreCheck) idle() int64 { return 0 }

func (c *xenstoreCheck) skip(n int64) {}

func (c *xenstoreCheck) feed(p []byte) error {
	if !c.started {
		n := copy(c.head[c.pos:], p)
		c.pos += int64(n)
		p = p[n:]
		if c.pos < emulatorHead {
			return nil
		}
		if err := c.judgeHead(c.head[:]); err != nil {
			return err
		}
	}
	return c.text(p)
}

// judgeHead finds out the form from the first bytes of the body, and judges
// them by it.
func (c *xenstoreCheck) judgeHead(head []byte) error {
	c.started = true
	g, r := c.g, c.rec
	if isDraftB(g.form, r.Order(), head, r.Length) {
		if g.form == XenstoreAuto {
			err := g.found(CodeDraftB, r.BodyOffset(), r.Type.field(), "no emulator id before the keys, as in Draft B")
			if err != nil {
				return err
			}
		}
		if g.form == XenstoreDraftB || g.profile != Xen {
			c.pos = 0
			return c.text(head)
		} // else as Xen: the first eight characters pass for the sub-header
	}
	if len(head) < emulatorHead {
		return g.found(CodeEmulatorShort, r.Offset+4, r.Type.field(), "length %d, at least %d", r.Length, emulatorHead)
	}
	return g.emulatorID(r, r.Order().Uint32(head))
}

// text judges keys and values.
func (c *xenstoreCheck) text(p []byte) error {
	for _, b := range p {
		var err error
		switch {
		case b == 0:
			if !c.inValue && c.length == 0 {
				err = c.keyFault(emptyKey, b)
			}
			c.inValue, c.length = !c.inValue, -1
		case c.inValue:
		case b == '/' && c.length == 0:
			err = c.keyFault(absoluteKey, b)
		case !isKeyChar(b):
			err = c.keyFault(keyCharacter, b)
		}
		if err != nil {
			return err
		}
		c.length++
		c.pos++
	}
	return nil
}

// Faults of a key.
const (
	emptyKey = iota
	absoluteKey
	keyCharacter
)

var keyFaults = [...]struct {
	code   Code
	detail string
}{
	emptyKey:     {CodeXenstoreEmpty, "empty key"},
	absoluteKey:  {CodeXenstoreAbsolute, "absolute key"},
	keyCharacter: {CodeXenstoreChars, "character that no key may have"},
}

func (c *xenstoreCheck) keyFault(fault int, b byte) error {
	if c.told[fault] {
		return nil
	}
	c.told[fault] = true
	return c.bad(keyFaults[fault].code, "%s: %q", keyFaults[fault].detail, b)
}

func (c *xenstoreCheck) bad(code Code, format string, args ...any) error {
	return c.g.found(code, c.rec.BodyOffset()+c.pos, c.rec.Type.field(), format, args...)
}

func (c *xenstoreCheck) end() error {
	if !c.started {
		if err := c.judgeHead(c.head[:c.pos]); err != nil {
			return err
		}
	}
	if c.inValue || c.length > 0 {
		return c.bad(CodeXenstoreUnended, "key or value without its NUL")
	}
	return nil
}
