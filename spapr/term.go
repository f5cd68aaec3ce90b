package spapr

import "encoding/binary"

// A Terminal is what a virtual serial port of the guest is wired to. Neither
// method waits; p is valid during the call only.
type Terminal interface {
	// Put takes what the guest prints, 1 to 16 bytes: all of it, or returns
	// false if it has no room now.
	Put(p []byte) bool
	// Get fills p, 16 bytes, with what was typed and returns how many bytes
	// that is.
	Get(p []byte) int
}

// maxTermChars is how many bytes one call carries, in two registers.
const maxTermChars = 16

func (m *Machine) terminal(unit uint64) Terminal {
	if m.Terminal == nil {
		return nil
	}
	return m.Terminal(unit)
}

// putTermChar is H_PUT_TERM_CHAR: r4 unit, r5 count, r6 and r7 characters, the
// first in the most significant byte of r6.
func (m *Machine) putTermChar(r *Regs) Status {
	t, n := m.terminal(r.R[4]), r.R[5]
	switch {
	case t == nil, n > maxTermChars:
		return HParameter
	case n == 0:
		return HSuccess
	}
	p := m.scratch[0][:maxTermChars]
	binary.BigEndian.PutUint64(p, r.R[6])
	binary.BigEndian.PutUint64(p[8:], r.R[7])
	if !t.Put(p[:n]) {
		return HBusy
	}
	return HSuccess
}

// getTermChar is H_GET_TERM_CHAR: r4 unit; r4 returns the count, r5 and r6 the
// characters.
func (m *Machine) getTermChar(r *Regs) Status {
	t := m.terminal(r.R[4])
	if t == nil {
		return HParameter
	}
	p := m.scratch[0][:maxTermChars]
	clear(p)
	n := min(max(t.Get(p), 0), maxTermChars)
	clear(p[n:])
	r.R[4] = uint64(n)
	r.R[5] = binary.BigEndian.Uint64(p)
	r.R[6] = binary.BigEndian.Uint64(p[8:])
	return HSuccess
}
