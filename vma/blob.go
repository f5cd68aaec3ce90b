package vma

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// blobs holds the blobs of a buffer by their offset in it.
type blobs map[uint32][]byte

// findBlobs walks the blob buffer from byte 1 (byte 0 is a dummy, so that
// offset 0 means none) and returns the blobs at the offsets wanted. A blob is
// a little-endian uint16 length, though all else is big-endian, and its
// bytes; only an offset that the walk meets is one of a blob. overrun is the
// offset of a last blob that passes the end of the buffer and is left out, or
// -1.
func findBlobs(buf []byte, want []uint32) (found blobs, overrun int64) {
	want = slices.Clone(want)
	slices.Sort(want)
	found, overrun = make(blobs), -1
	for pos := int64(1); pos+2 <= int64(len(buf)); {
		n := int64(binary.LittleEndian.Uint16(buf[pos:]))
		end := pos + 2 + n
		if end > int64(len(buf)) {
			overrun = pos
			break
		}
		if _, ok := slices.BinarySearch(want, uint32(pos)); ok {
			found[uint32(pos)] = buf[pos+2 : end]
		}
		pos = end
	}
	return found, overrun
}

// text returns the blob at off as a name: it ends in NUL, and text after an
// earlier NUL is ignored. An empty blob is an empty name, as the reference
// reader takes it.
func (b blobs) text(off uint32) (string, bool) {
	s, ok := b[off]
	if !ok || len(s) > 0 && s[len(s)-1] != 0 {
		return "", false
	}
	s, _, _ = bytes.Cut(s, []byte{0})
	return string(s), true
}
