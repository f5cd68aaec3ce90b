package migschema

import "encoding/binary"

// comprArm is the arm of a page that is all zeros.
var comprArm = nodeRAMPage.arm(tagCompr)

// maxZeroPage is how many octets zeroPage looks at.
const maxZeroPage = 1 + 1 + 8

// zeroPage reads the next element of a list of pages where that is a page of
// zeros, in the usual form: 40, a length of 1 to 8, an address in the fewest
// octets that is not negative. Streams have such pages by the million. It
// reports false, and has done nothing, where it is anything else, or too near
// an end to tell.
func (w *walker) zeroPage(list *frame) bool {
	b := w.src.window()
	if len(b) < maxZeroPage || b[0] != 0x40 {
		return false
	}
	n, at := int64(b[1]), w.src.offset()
	if n < 1 || n > 8 || n > int64(w.opt.MaxInteger) || n > w.opt.MaxLength || 2+n > list.limit-at {
		return false
	}
	v := binary.BigEndian.Uint64(b[2:])
	// The first bit is the sign; where the first nine are 0, an octet is not needed.
	if v>>63 != 0 || n > 1 && v>>55 == 0 {
		return false
	}
	w.src.pos += int(2 + n)
	w.at, w.h = at, header{tag: tagCompr, size: 2, length: n}
	w.event, w.node, w.num = ElementValue, nodeCompr, NewUint(v>>(64-8*n))
	w.part, w.arm, w.child = nil, comprArm, true
	list.n++
	return true
}
