package migschema

// A header is the identifier and length octets of one element.
type header struct {
	tag         Tag
	constructed bool
	size        int   // octets of identifier and length
	length      int64 // octets of contents, or indefinite
}

const indefinite = -1

// isEOC reports whether h has the identifier and the length of
// end-of-contents octets, whatever their form.
func (h *header) isEOC() bool {
	return h.tag == Tag{} && !h.constructed && h.length == 0
}

// rules are the switches that the encoding of a header depends on.
type rules struct {
	der       bool
	anyTag    bool  // accept numbers in more octets than they need
	maxLength int64 // the largest definite length
}

// short is the code of parseHeader for octets that end within the header.
const short Code = "short"

// parseHeader decodes the header that b begins with (X.690 8.1.2, 8.1.3).
// Where it cannot, it returns why, and the index in b of the octet at fault;
// for short, of the first octet of the part that is cut.
func parseHeader(b []byte, r *rules) (h header, code Code, at int) {
	if len(b) < 2 {
		return h, short, len(b)
	}
	lead := b[0]
	h.tag = Tag{Class(lead >> 6), uint32(lead & 0x1f)}
	h.constructed = lead&0x20 != 0
	i := 1
	if h.tag.Number == 0x1f {
		if h.tag.Number, i, code = parseNumber(b, r); code != "" {
			return h, code, i
		}
		if i == len(b) {
			return h, short, i
		}
	}
	n := b[i]
	i++
	switch {
	case n < 0x80:
		h.length = int64(n)
		h.size = i
		if h.length > r.maxLength {
			return h, CodeLimit, i - 1
		}
		return h, "", 0
	case n == 0x80:
		h.length = indefinite
		h.size = i
		switch {
		case !h.constructed:
			return h, CodeIndefinitePrim, i - 1
		case r.der:
			return h, CodeIndefinite, i - 1
		}
		return h, "", 0
	case n == 0xff:
		return h, CodeLengthReserved, i - 1
	}
	h.size = i + int(n&0x7f)
	if len(b) < h.size {
		return h, short, i
	}
	code, at = h.longLength(b[i:h.size], r)
	return h, code, i + at
}

// parseNumber decodes the subsequent octets of a high tag number, and returns
// the index after them or of the octet at fault.
func parseNumber(b []byte, r *rules) (num uint32, i int, code Code) {
	if b[1] == 0x80 && !r.anyTag {
		return 0, 1, CodeTagLeadingZero
	}
	for i = 1; i < len(b); i++ {
		if num >= 1<<(32-7) || i == maxIdentifier {
			return 0, i, CodeTagTooLarge
		}
		num = num<<7 | uint32(b[i]&0x7f)
		if b[i] < 0x80 {
			if num < 0x1f && !r.anyTag {
				return 0, 0, CodeTagNotLowForm
			}
			return num, i + 1, ""
		}
	}
	return 0, i, short
}

// longLength decodes the octets after the first of a long length.
func (h *header) longLength(b []byte, r *rules) (Code, int) {
	for i, c := range b {
		if h.length >= 1<<(63-8) {
			return CodeLengthTooLarge, i
		}
		h.length = h.length<<8 | int64(c)
	}
	if r.der && (b[0] == 0 || h.length < 0x80) {
		return CodeLengthNotMinimal, -1
	}
	if h.length > r.maxLength {
		return CodeLimit, -1
	}
	return "", 0
}
