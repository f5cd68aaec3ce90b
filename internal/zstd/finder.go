package zstd

import (
	"encoding/binary"
	"math/bits"
)

// repeats are the last three offsets, the latest first. RFC 8878 3.1.1.5.
type repeats [3]uint32

// value returns what stands for an offset in a sequence with so many literals,
// and takes note of the offset.
func (r *repeats) value(offset, literals uint32) uint32 {
	first := uint32(2) // what stands for r[1]
	if literals == 0 {
		first = 1
	} else if offset == r[0] {
		return 1
	}
	switch {
	case offset == r[1]:
		r[0], r[1] = r[1], r[0]
		return first
	case offset == r[2]:
		*r = repeats{offset, r[0], r[1]}
		return first + 1
	case literals == 0 && offset == r[0]-1:
		*r = repeats{offset, r[0], r[1]}
		return 3
	}
	*r = repeats{offset, r[0], r[1]}
	return offset + 3
}

// A sequence is literals, and a match behind them. The offset is what
// repeats.value made of it.
type sequence struct{ literals, match, offset uint32 }

const (
	minMatch  = 4 // bytes of a match
	hashBytes = 5 // of the shorter of the two hashes
	lookAhead = 8 // bytes that are loaded at a position
	maxLong   = 17
	maxShort  = 16
)

// A finder finds matches: for each position the last one that began with the
// same eight bytes, and the last one that began with the same five.
type finder struct {
	long                  [1 << maxLong]uint32
	short                 [1 << maxShort]uint32
	longShift, shortShift uint
	literals              []byte
	seqs                  []sequence
}

// reset prepares for input of that length.
func (f *finder) reset(src []byte) {
	longBits := uint(max(10, min(bits.Len(uint(len(src)))-1, 17)))
	shortBits := longBits - 1
	f.longShift, f.shortShift = 64-longBits, 64-shortBits
	clear(f.long[:1<<longBits])
	clear(f.short[:1<<shortBits])
}

func load64(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[i : i+8 : i+8]) }
func load32(b []byte, i int) uint32 { return binary.LittleEndian.Uint32(b[i : i+4 : i+4]) }

func hashLong(v uint64, shift uint) uint64 {
	return v * 0xcf1bbcdcb7a56463 >> (shift & 63) & (1<<maxLong - 1)
}
func hashShort(v uint64, shift uint) uint64 {
	return v << (64 - 8*hashBytes) * 0x9e3779b185ebca87 >> (shift & 63) & (1<<maxShort - 1)
}

// matchLen returns how many bytes are the same at i and at j < i, up to end.
func matchLen(b []byte, i, j, end int) int {
	from := i
	for i+8 <= end {
		if x := load64(b, i) ^ load64(b, j); x != 0 {
			return i - from + bits.TrailingZeros64(x)>>3
		}
		i += 8
		j += 8
	}
	for i < end && b[i] == b[j] {
		i++
		j++
	}
	return i - from
}

// find returns the literals and the sequences of the block src[start:end].
func (f *finder) find(src []byte, start, end int, reps *repeats) ([]byte, []sequence) {
	f.room(end - start)
	long, short := &f.long, &f.short
	last := min(end, len(src)-1) - lookAhead // the last position that is looked at
	anchor, i := start, max(start, 1)
	for i <= last {
		v := load64(src, i)
		h, g := hashLong(v, f.longShift), hashShort(v, f.shortShift)
		far, near := int(long[h]), int(short[g])
		long[h], short[g] = uint32(i), uint32(i)

		at, n := 0, 0
		if rep := i + 1 - int(reps[0]); rep >= 0 && load32(src, i+1) == load32(src, rep) {
			i++
			at, n = rep, minMatch+matchLen(src, i+minMatch, rep+minMatch, end)
		} else if far < i && load64(src, far) == v {
			at, n = far, 8+matchLen(src, i+8, far+8, end)
		} else if near < i && load32(src, near) == uint32(v) {
			// Is there a longer one a byte on?
			w := load64(src, i+1)
			h := hashLong(w, f.longShift)
			far := int(long[h])
			long[h] = uint32(i + 1)
			if far <= i && load64(src, far) == w {
				i++
				at, n = far, 8+matchLen(src, i+8, far+8, end)
			} else {
				at, n = near, minMatch+matchLen(src, i+minMatch, near+minMatch, end)
			}
		} else {
			i += 1 + (i-anchor)>>8
			continue
		}
		for i > anchor && at > 0 && src[i-1] == src[at-1] {
			i--
			at--
			n++
		}
		n = min(n, end-i)
		f.emit(src, anchor, i, n, i-at, reps)
		inner := i + 2
		i += n
		anchor = i
		if i > last {
			break
		}
		w := load64(src, inner)
		long[hashLong(w, f.longShift)], short[hashShort(w, f.shortShift)] = uint32(inner), uint32(inner)
		w = load64(src, i-2)
		long[hashLong(w, f.longShift)] = uint32(i - 2)
		w = load64(src, i-1)
		short[hashShort(w, f.shortShift)] = uint32(i - 1)
		for i <= last {
			rep := i - int(reps[1])
			if rep < 0 || load32(src, i) != load32(src, rep) {
				break
			}
			w := load64(src, i)
			long[hashLong(w, f.longShift)], short[hashShort(w, f.shortShift)] = uint32(i), uint32(i)
			n := minMatch + matchLen(src, i+minMatch, rep+minMatch, end)
			f.emit(src, i, i, n, i-rep, reps)
			i += n
			anchor = i
		}
	}
	f.literals = append(f.literals, src[anchor:end]...)
	return f.literals, f.seqs
}

// room makes room for what a block of n bytes can be.
func (f *finder) room(n int) {
	if cap(f.literals) < n+16 {
		f.literals = make([]byte, 0, n+16)
		f.seqs = make([]sequence, 0, n/minMatch+1)
	}
	f.literals, f.seqs = f.literals[:0], f.seqs[:0]
}

// emit adds the literals from anchor to i, and a match of n bytes there.
func (f *finder) emit(src []byte, anchor, i, n, offset int, reps *repeats) {
	have, literals := len(f.literals), i-anchor
	f.literals = f.literals[:have+literals]
	if literals <= 16 && anchor+16 <= len(src) {
		from, to := src[anchor:anchor+16:anchor+16], f.literals[have:have+16:have+16]
		binary.LittleEndian.PutUint64(to, binary.LittleEndian.Uint64(from))
		binary.LittleEndian.PutUint64(to[8:], binary.LittleEndian.Uint64(from[8:]))
	} else {
		copy(f.literals[have:], src[anchor:i])
	}
	f.seqs = append(f.seqs, sequence{uint32(literals), uint32(n), reps.value(uint32(offset), uint32(literals))})
}
