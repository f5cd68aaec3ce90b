package migschema

import "fmt"

// A Class is the class of a tag (X.680 8.1).
type Class uint8

// The four classes.
const (
	Universal   Class = 0
	Application Class = 1
	Context     Class = 2
	Private     Class = 3
)

// String returns the name of c.
func (c Class) String() string {
	return [...]string{"UNIVERSAL", "APPLICATION", "CONTEXT", "PRIVATE"}[c&3]
}

// A Tag is the class and number of an element.
type Tag struct {
	Class  Class
	Number uint32
}

// String returns t in the notation of the schema, such as [APPLICATION 2003].
func (t Tag) String() string { return fmt.Sprintf("[%s %d]", t.Class, t.Number) }

// The tags of the schema.
var (
	tagBoolean  = Tag{Universal, 1}
	tagInteger  = Tag{Universal, 2}
	tagOctets   = Tag{Universal, 4}
	tagUTF8     = Tag{Universal, 12}
	tagSequence = Tag{Universal, 16}

	tagQemuFile     = Tag{Application, 1270481} // the file begins with 7f cd c5 51
	tagSecFull      = Tag{Application, 2003}
	tagSecMin       = Tag{Application, 211}
	tagSecEndMark   = Tag{Application, 10693}
	tagRAMBlockList = Tag{Application, 8018}
	tagRAMSec       = Tag{Application, 9810}
	tagCompr        = Tag{Application, 0}
	tagFullPage     = Tag{Application, 9040}
	tagXBZRLEPage   = Tag{Application, 11330}
	tagHook         = Tag{Application, 9295}
	tagSubSection   = Tag{Application, 10707}
	tagSubSecList   = Tag{Application, 10700}
)

// maxHeader is more than the octets of any identifier and length that is
// read: 16 of identifier at most, 127 of length.
const maxHeader = 16 + 1 + 126

// maxIdentifier bounds an identifier that pads its number with zeros.
const maxIdentifier = 16

// appendIdentifier appends the identifier octets of t (X.690 8.1.2).
func appendIdentifier(b []byte, t Tag, constructed bool) []byte {
	lead := byte(t.Class) << 6
	if constructed {
		lead |= 0x20
	}
	if t.Number < 0x1f {
		return append(b, lead|byte(t.Number))
	}
	b = append(b, lead|0x1f)
	shift := 0
	for t.Number>>shift >= 0x80 {
		shift += 7
	}
	for ; shift > 0; shift -= 7 {
		b = append(b, 0x80|byte(t.Number>>shift)&0x7f)
	}
	return append(b, byte(t.Number)&0x7f)
}

// identifierSize returns how many octets appendIdentifier appends.
func identifierSize(t Tag) int {
	n := 1
	if t.Number >= 0x1f {
		for v := t.Number; v > 0; v >>= 7 {
			n++
		}
	}
	return n
}

// appendLength appends the length octets of n in the fewest octets.
//
// Preconditions: n >= 0.
func appendLength(b []byte, n int64) []byte {
	if n < 0x80 {
		return append(b, byte(n))
	}
	size := lengthSize(n) - 1
	b = append(b, 0x80|byte(size))
	for s := 8 * (size - 1); s >= 0; s -= 8 {
		b = append(b, byte(n>>s))
	}
	return b
}

// lengthSize returns how many octets appendLength appends.
func lengthSize(n int64) int {
	size := 1
	if n >= 0x80 {
		for ; n > 0; n >>= 8 {
			size++
		}
	}
	return size
}
