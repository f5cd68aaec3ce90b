package spapr

import (
	"bytes"
	"crypto/subtle"
)

// H_LOGICAL_MEMOP, 0xf001: specification section "H_LOGICAL_MEMOP".
//
//	r4  destination    r6  log2 of the size of an element, 0 to 3
//	r5  source         r7  number of elements     r8  operation
//
// The registers stay as they were.

// Operations of H_LOGICAL_MEMOP.
const (
	MemopCopy = 0 // destination = source
	MemopNot  = 1 // destination = complement of source; "xor" in the text, see StrictXOR
)

const (
	memopMaxCount = 1 << 31 // elements in one call
	memopMaxSize  = 3       // log2 of the largest element
	memopChunk    = 4096    // bytes moved at a time where memory is not a Slicer
	memopStepCost = 64      // bytes of work that each such move but the first counts as at least
)

// A span is the work of one call: n bytes from src to dst, either end first.
type span struct {
	dst, src, n uint64
	op          uint64
	xor         bool // operation 1 is an exclusive or
	// The bytes at dst and src themselves, nil where they cannot be had.
	to, from []byte
}

func (m *Machine) memop(r *Regs) Status {
	dst, src, size, count, op := r.R[4], r.R[5], r.R[6], r.R[7], r.R[8]
	// QEMU's host takes a shift by 32 or more modulo 32.
	misaligned := (dst|src)&(1<<(size&31)-1) != 0
	switch {
	case count > memopMaxCount, op > MemopNot, misaligned:
		return HParameter
	case size > memopMaxSize && (count > 0 || m.Strict&StrictSize != 0):
		return HParameter
	case count == 0:
		return HSuccess
	}
	s := span{dst: dst, src: src, n: count << size, op: op, xor: m.Strict&StrictXOR != 0}
	if m.refuses(dst, s.n) || m.refuses(src, s.n) || s.work() > m.memopLimit() {
		return HParameter
	}
	s.to, s.from = m.slice(dst, s.n), m.slice(src, s.n)
	m.move(s)
	return HSuccess
}

func (m *Machine) memopLimit() uint64 {
	if m.MemopLimit == 0 {
		return DefaultMemopLimit
	}
	return m.MemopLimit
}

func (m *Machine) slice(addr, n uint64) []byte {
	if s, ok := m.Memory.(Slicer); ok {
		return s.Slice(addr, n)
	}
	return nil
}

// backwards reports whether the last element goes first, so that a source
// that the destination overlaps from above is read before it is overwritten.
// The sum wraps around at the end of the address space, as in QEMU.
func (s span) backwards() bool { return s.src <= s.dst && s.dst < s.src+s.n }

// chunk returns how many bytes can be moved at once with the effect of moving
// them element by element: none of them may be source and, earlier,
// destination. It takes a source that wraps around for that to be few.
func (s span) chunk() uint64 {
	n := min(s.n, memopChunk)
	if ahead := s.dst - s.src; ahead > 0 && !s.backwards() {
		n = min(n, ahead)
	}
	return n
}

// work returns what the span costs, in bytes copied.
func (s span) work() uint64 { return max(s.n, (s.n/s.chunk()-1)*memopStepCost) }

// ones is what the exclusive or with gives the complement.
var ones = [memopChunk]byte(bytes.Repeat([]byte{0xff}, memopChunk))

// move carries out the span.
func (m *Machine) move(s span) {
	if s.op == MemopCopy && s.to != nil && s.from != nil {
		copy(s.to, s.from)
		return
	}
	step, backwards := s.chunk(), s.backwards()
	for done := uint64(0); done < s.n; done += step {
		n := min(step, s.n-done)
		off := done
		if backwards {
			off = s.n - done - n
		}
		m.moveChunk(s, off, n)
	}
}

// moveChunk carries out n bytes of the span from off on. All are read before
// the first is written: Store is never given guest memory, and nothing works
// on it in place, for it may be found at several addresses.
func (m *Machine) moveChunk(s span, off, n uint64) {
	v, scratch := m.chunk(0, s.from, s.src, off, n), m.scratch[0][:n]
	switch {
	case s.op == MemopCopy:
		copy(scratch, v)
	case s.xor:
		subtle.XORBytes(scratch, v, m.chunk(1, s.to, s.dst, off, n))
	default:
		subtle.XORBytes(scratch, v, ones[:n])
	}
	if s.to != nil {
		copy(s.to[off:], scratch)
		return
	}
	m.store(s.dst+off, scratch)
}

// chunk returns n bytes of memory at addr+off, as a part of mem, the bytes at
// addr, or if that is nil in one of the scratch spaces.
func (m *Machine) chunk(scratch int, mem []byte, addr, off, n uint64) []byte {
	if mem != nil {
		return mem[off : off+n]
	}
	p := m.scratch[scratch][:n]
	m.load(addr+off, p)
	return p
}
