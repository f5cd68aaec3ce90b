package zstd

import (
	"encoding/binary"
	"slices"
)

// A backwardWriter writes a bitstream that is read from its end. RFC 8878 4.1.
//
// Invariant: after flush, have < 8.
type backwardWriter struct {
	dst  []byte // as long as what may be written, and eight bytes
	pos  int
	acc  uint64
	have uint // bits of acc
}

// newBackwardWriter returns a writer that appends up to n bytes to dst.
func newBackwardWriter(dst []byte, n int) backwardWriter {
	pos := len(dst)
	dst = slices.Grow(dst, n+8)
	return backwardWriter{dst: dst[:cap(dst)], pos: pos}
}

// add adds the low n bits of v, n at most 32. There must be room: 56 bits
// after flush.
func (w *backwardWriter) add(v uint32, n uint) {
	w.acc |= uint64(v) & (1<<(n&63) - 1) << (w.have & 63)
	w.have += n
}

// flush writes the whole bytes.
func (w *backwardWriter) flush() {
	binary.LittleEndian.PutUint64(w.dst[w.pos:w.pos+8:w.pos+8], w.acc)
	w.pos += int(w.have >> 3)
	w.acc >>= w.have &^ 7 & 63
	w.have &= 7
}

// close ends the bitstream with a bit that is set.
func (w *backwardWriter) close() []byte {
	w.add(1, 1)
	w.flush()
	if w.have > 0 {
		w.pos++ // flush wrote it
	}
	return w.dst[:w.pos]
}
