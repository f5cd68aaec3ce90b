package spapr

import "encoding/binary"

const (
	pageSize = 4096
	// Flags of H_PAGE_INIT: bits 40, 41, 48 and 49, the PAPR counting from the
	// most significant one.
	pageInvalidateCache = 1 << (63 - 40)
	pageSyncCache       = 1 << (63 - 41)
	pageZero            = 1 << (63 - 48)
	pageCopy            = 1 << (63 - 49)
)

// logicalSize returns the scratch space for an access of 1, 2, 4 or 8 bytes,
// nil for any other size.
func (m *Machine) logicalSize(size uint64) []byte {
	switch size {
	case 1, 2, 4, 8:
		return m.scratch[0][8-size : 8]
	}
	return nil
}

// logicalLoad is H_LOGICAL_CI_LOAD and H_LOGICAL_CACHE_LOAD: r4 size, r5
// address, of any alignment; r4 returns the value, in the guest's big-endian
// order, extended by zeros.
func (m *Machine) logicalLoad(r *Regs) Status {
	p := m.logicalSize(r.R[4])
	if p == nil || m.refuses(r.R[5], r.R[4]) {
		return HParameter
	}
	word := m.scratch[0][:8]
	clear(word)
	m.loadWhole(r.R[5], p)
	r.R[4] = binary.BigEndian.Uint64(word)
	return HSuccess
}

// logicalStore is H_LOGICAL_CI_STORE and H_LOGICAL_CACHE_STORE: r4 size, r5
// address, r6 value, of which the low bytes are stored.
func (m *Machine) logicalStore(r *Regs) Status {
	p := m.logicalSize(r.R[4])
	if p == nil || m.refuses(r.R[5], r.R[4]) {
		return HParameter
	}
	binary.BigEndian.PutUint64(m.scratch[0][:8], r.R[6])
	m.storeWhole(r.R[5], p)
	return HSuccess
}

// cacheOp is H_LOGICAL_ICBI and H_LOGICAL_DCBF: there is no cache.
func (m *Machine) cacheOp(*Regs) Status { return HSuccess }

// pageInit is H_PAGE_INIT: r4 flags, r5 destination, r6 source, all within
// memory and on pages of 4 KiB.
func (m *Machine) pageInit(r *Regs) Status {
	flags, dst, src := r.R[4], r.R[5], r.R[6]
	switch {
	case flags&^(pageInvalidateCache|pageSyncCache|pageZero|pageCopy) != 0:
		return HParameter
	case dst%pageSize != 0 || !m.contains(dst, pageSize):
		return HParameter
	}
	page := m.scratch[0][:pageSize]
	switch {
	case flags&pageCopy != 0:
		if src%pageSize != 0 || !m.contains(src, pageSize) {
			return HParameter
		}
		m.load(src, page)
	case flags&pageZero != 0:
		clear(page)
	default:
		return HSuccess
	}
	m.store(dst, page)
	return HSuccess
}
