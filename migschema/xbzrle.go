package migschema

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// maxRun is the longest run that the two octets of a length can tell.
const maxRun = 1<<14 - 1

// AppendXBZRLE appends the XBZRLE form of the change from the page old to the
// page new: pairs of a run of equal bytes and a run of changed ones, the
// latter with its bytes, lengths as ULEB128 of at most two octets. Nothing is
// appended where the pages are equal; equal bytes at the end are left out.
//
// It reports false, and appends nothing, where the form would be longer than
// the page or have a run of more than 16383 bytes: such a page is sent as it
// is. The pages must have one length.
func AppendXBZRLE(dst, old, new []byte) ([]byte, bool) {
	if len(old) != len(new) {
		return dst, false
	}
	out := dst
	for i := 0; ; {
		same := equalRun(old[i:], new[i:])
		i += same
		if i == len(new) {
			return out, true
		}
		changed := changedRun(old[i:], new[i:])
		if same > maxRun || changed > maxRun {
			return dst, false
		}
		out = binary.AppendUvarint(out, uint64(same))
		out = binary.AppendUvarint(out, uint64(changed))
		out = append(out, new[i:i+changed]...)
		if len(out)-len(dst) > len(new) {
			return dst, false
		}
		i += changed
	}
}

// equalRun returns how many bytes a and b have in common at the start.
func equalRun(a, b []byte) int {
	b = b[:len(a)]
	i := 0
	for ; len(a)-i >= 8; i += 8 {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for i < len(a) && a[i] == b[i] {
		i++
	}
	return i
}

// changedRun returns how many bytes differ at the start.
func changedRun(a, b []byte) int {
	const low, high = 0x0101010101010101, 0x8080808080808080
	b = b[:len(a)]
	i := 0
	for ; len(a)-i >= 8; i += 8 {
		x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:])
		if zero := (x - low) &^ x & high; zero != 0 {
			return i + bits.TrailingZeros64(zero)/8
		}
	}
	for i < len(a) && a[i] != b[i] {
		i++
	}
	return i
}

// DecodeXBZRLE changes page, which holds what was sent before, to what delta
// makes of it. A malformed delta is a [CodeXBZRLE] that tells the offset in
// it, and leaves the page half changed.
func DecodeXBZRLE(page, delta []byte) error {
	return xbzrleRuns(len(page), delta, func(at int, b []byte) { copy(page[at:], b) })
}

// checkXBZRLE judges a delta for a page of the given size.
func checkXBZRLE(size int, delta []byte) error {
	return xbzrleRuns(size, delta, func(int, []byte) {})
}

// xbzrleRuns calls f for each run of changed bytes.
func xbzrleRuns(size int, delta []byte, f func(at int, b []byte)) error {
	at := 0
	for i := 0; i < len(delta); {
		start := i
		same, n := runLength(delta[i:])
		if n == 0 || start > 0 && same == 0 {
			return &coded{CodeXBZRLE, fmt.Errorf("run of equal bytes at %#x of the delta", start)}
		}
		i += n
		changed, n := runLength(delta[i:])
		i += n
		if n == 0 || changed == 0 || changed > len(delta)-i || same+changed > size-at {
			return &coded{CodeXBZRLE, fmt.Errorf("run of changed bytes at %#x of the delta", i-n)}
		}
		f(at+same, delta[i:i+changed])
		i += changed
		at += same + changed
	}
	return nil
}

// runLength decodes a length and returns how many octets it has, 0 where it
// is malformed.
func runLength(b []byte) (v, n int) {
	switch {
	case len(b) > 0 && b[0] < 0x80:
		return int(b[0]), 1
	case len(b) > 1 && b[1] < 0x80:
		return int(b[0]&0x7f) | int(b[1])<<7, 2
	}
	return 0, 0
}
