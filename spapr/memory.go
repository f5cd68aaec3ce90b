package spapr

import "math"

// Memory is the guest's physical memory, and what else its addresses reach
// that a hypercall may access, such as a frame buffer. Addresses are hostile:
// any may be asked for. p is valid during the call only.
type Memory interface {
	// Load fills p from addr on. Bytes outside memory are zeros.
	Load(addr uint64, p []byte)
	// Store writes p from addr on. Bytes outside memory are dropped.
	Store(addr uint64, p []byte)
	// Contains reports whether all n bytes from addr on are memory. A range
	// that wraps around at the end of the address space is not.
	Contains(addr, n uint64) bool
}

// A Slicer is Memory that lies in this process. H_LOGICAL_MEMOP works in it
// without a copy.
type Slicer interface {
	// Slice returns the n bytes at addr themselves, nil if not all of them are
	// memory, and in one piece.
	Slice(addr, n uint64) []byte
}

// RAM is memory at one address, held in Data, that ends at the end of the
// address space at the latest. It implements [Memory] and [Slicer].
type RAM struct {
	Base uint64 // address of Data[0]
	Data []byte
}

// Slice implements [Slicer].
func (r RAM) Slice(addr, n uint64) []byte {
	// off wraps around below Base, and is then past any Data.
	off := addr - r.Base
	if off > uint64(len(r.Data)) || n > uint64(len(r.Data))-off {
		return nil
	}
	return r.Data[off : off+n : off+n]
}

// Contains implements [Memory].
func (r RAM) Contains(addr, n uint64) bool { return r.Slice(addr, n) != nil || n == 0 }

// Load implements [Memory].
func (r RAM) Load(addr uint64, p []byte) {
	if s := r.Slice(addr, uint64(len(p))); s != nil {
		copy(p, s)
		return
	}
	clear(p)
	r.overlap(addr, p, func(p, mem []byte) { copy(p, mem) })
}

// Store implements [Memory].
func (r RAM) Store(addr uint64, p []byte) {
	if s := r.Slice(addr, uint64(len(p))); s != nil {
		copy(s, p)
		return
	}
	r.overlap(addr, p, func(p, mem []byte) { copy(mem, p) })
}

// overlap calls f with the parts of p, which stands for addresses from addr
// on, that are memory, and that memory: its start may lie below Base and its
// end past Data's, or wrap around.
func (r RAM) overlap(addr uint64, p []byte, f func(p, mem []byte)) {
	if off := addr - r.Base; off < uint64(len(r.Data)) {
		n := min(uint64(len(p)), uint64(len(r.Data))-off)
		f(p[:n], r.Data[off:off+n])
	}
	// The gap before Base, also that from a high address around the end.
	if gap := r.Base - addr; gap > 0 && gap < uint64(len(p)) {
		n := min(uint64(len(p))-gap, uint64(len(r.Data)))
		f(p[gap:gap+n], r.Data[:n])
	}
}

// Regions is memory in several pieces, none of which overlap. It implements
// [Memory] and [Slicer].
type Regions []RAM

// Slice implements [Slicer].
func (rs Regions) Slice(addr, n uint64) []byte {
	for _, r := range rs {
		if s := r.Slice(addr, n); s != nil {
			return s
		}
	}
	return nil
}

// Contains implements [Memory]: the range may go on in another piece.
func (rs Regions) Contains(addr, n uint64) bool {
	if n > 0 && addr > math.MaxUint64-(n-1) {
		return false
	}
	for n > 0 {
		step := uint64(0)
		for _, r := range rs {
			if off := addr - r.Base; off < uint64(len(r.Data)) {
				step = min(n, uint64(len(r.Data))-off)
			}
		}
		if step == 0 {
			return false
		}
		addr, n = addr+step, n-step
	}
	return true
}

// Load implements [Memory].
func (rs Regions) Load(addr uint64, p []byte) {
	if s := rs.Slice(addr, uint64(len(p))); s != nil {
		copy(p, s)
		return
	}
	clear(p)
	for _, r := range rs {
		r.overlap(addr, p, func(p, mem []byte) { copy(p, mem) })
	}
}

// Store implements [Memory].
func (rs Regions) Store(addr uint64, p []byte) {
	for _, r := range rs {
		r.overlap(addr, p, func(p, mem []byte) { copy(mem, p) })
	}
}
