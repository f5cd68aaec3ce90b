package ivshmem

import (
	"math/bits"

	"github.com/virtfmt/virtfmt/internal/align"
)

// Bits of the MSI-X message control word that a guest can change.
const (
	MSIXEnable  = 1 << 15 // MSI-X is enabled
	MSIXMaskAll = 1 << 14 // function mask: every vector counts as masked
)

const (
	entrySize  = 16     // bytes of an MSI-X table entry
	vectorMask = 1 << 0 // vector control: masked

	entryAddressLow  = 0
	entryAddressHigh = 4
	entryData        = 8
	entryControl     = 12

	// A BAR1 of the smallest size has the pending bits in its second half; the
	// largest has the table in its first.
	minMSIXSize   = 4096
	pendingOffset = minMSIXSize / 2
	maxMSIXSize   = 2 * MaxVectors * entrySize
)

// pendingOff returns the offset of the pending bits in BAR1: half of 4 KiB, or
// right after a table that reaches past that.
func (c *Config) pendingOff() uint32 {
	return max(pendingOffset, uint32(c.vectors())*entrySize)
}

// pendingSize returns the size of the pending bits in bytes, whole quadwords.
func (c *Config) pendingSize() uint32 { return uint32(align.CeilDiv(c.vectors(), 64)) * 8 }

// msixSize returns the size of BAR1, 0 where the device has none.
func (c *Config) msixSize() uint64 {
	if !c.hasMSIX() {
		return 0
	}
	end := c.pendingOff() + c.pendingSize()
	return max(minMSIXSize, uint64(1)<<bits.Len32(end-1))
}

// msixCapability returns a dword of the MSI-X capability.
func (d *Device) msixCapability(reg uint32) uint32 {
	switch reg {
	case capControl:
		control := uint32(d.MSIXControl&(MSIXEnable|MSIXMaskAll)) | uint32(d.vectors()-1)
		return control<<16 | capMSIXID
	case capTable:
		return 0 | msixBAR
	default: // capPending
		return d.pendingOff() | msixBAR
	}
}

// ReadMSIX reads at offset off of BAR1, the MSI-X table and pending bits. An
// access is cut into naturally aligned pieces as [Device.Read] has them, of
// which the dwords read what is there; smaller ones read 0, as does what lies
// between table and pending bits.
func (d *Device) ReadMSIX(off uint64, p []byte) {
	clear(p)
	for i := 0; i < len(p) && d.hasMSIX() && off < maxMSIXSize && off+uint64(i) < maxMSIXSize; {
		n := pieceSize(off+uint64(i), len(p)-i)
		if n == 4 {
			putLow(p[i:i+4], d.msixDword(uint32(off)+uint32(i)))
		}
		i += n
	}
	if d.Trace != nil {
		d.traceAccess(TraceRead, SpaceMSIX, off, p)
	}
}

// WriteMSIX writes p at offset off of BAR1. Of the pieces of the access only
// dwords in the table have an effect. A vector that is pending and no longer
// masked is delivered.
func (d *Device) WriteMSIX(off uint64, p []byte) {
	if d.Trace != nil {
		d.traceAccess(TraceWrite, SpaceMSIX, off, p)
	}
	for i := 0; i < len(p) && d.hasMSIX() && off < maxMSIXSize && off+uint64(i) < maxMSIXSize; {
		n := pieceSize(off+uint64(i), len(p)-i)
		if n == 4 {
			d.setMSIXDword(uint32(off)+uint32(i), low(p[i:i+4]))
		}
		i += n
	}
}

// msixDword reads a dword of BAR1.
func (d *Device) msixDword(off uint32) uint32 {
	if v := off / entrySize; v < uint32(d.vectors()) {
		e := &d.Table[v]
		switch off % entrySize {
		case entryAddressLow:
			return uint32(e.Address)
		case entryAddressHigh:
			return uint32(e.Address >> 32)
		case entryData:
			return e.Data
		default: // entryControl
			return e.Control ^ vectorMask
		}
	}
	if at := off - d.pendingOff(); off >= d.pendingOff() && at < d.pendingSize() {
		return uint32(d.Pending[at/8] >> (at % 8 * 8))
	}
	return 0
}

// setMSIXDword writes a dword of BAR1, of which only the table takes any.
func (d *Device) setMSIXDword(off, w uint32) {
	v := off / entrySize
	if v >= uint32(d.vectors()) {
		return
	}
	e := &d.Table[v]
	switch off % entrySize {
	case entryAddressLow:
		e.Address = e.Address&^0xffffffff | uint64(w)
	case entryAddressHigh:
		e.Address = e.Address&0xffffffff | uint64(w)<<32
	case entryData:
		e.Data = w
	case entryControl:
		e.Control = w ^ vectorMask
		if d.isPending(uint16(v)) && !d.masked(uint16(v)) {
			d.deliver(uint16(v))
		}
	}
}

// masked reports whether a vector's message has to wait.
func (d *Device) masked(v uint16) bool {
	return d.MSIXControl&(MSIXEnable|MSIXMaskAll) != MSIXEnable || d.Table[v].Masked()
}

func (d *Device) isPending(v uint16) bool { return d.Pending[v/64]>>(v%64)&1 != 0 }

// notify handles an interrupt by a peer.
//
// Preconditions: the device has MSI-X and vector v.
func (d *Device) notify(v uint16) {
	switch {
	case d.MSIXControl&MSIXEnable == 0:
		if d.Trace != nil {
			d.Trace(TraceEvent{Kind: TraceLost, Vector: v})
		}
	case d.masked(v):
		d.Pending[v/64] |= 1 << (v % 64)
		if d.Trace != nil {
			d.Trace(TraceEvent{Kind: TracePending, Vector: v})
		}
	default:
		d.deliver(v)
	}
}

// deliver sends the message of vector v, which is then no longer pending. A
// device that is not bus master cannot write it, and it is lost.
func (d *Device) deliver(v uint16) {
	d.Pending[v/64] &^= 1 << (v % 64)
	e := d.Table[v]
	if d.Command&commandBusMaster == 0 {
		if d.Trace != nil {
			d.Trace(TraceEvent{Kind: TraceLost, Vector: v})
		}
		return
	}
	if d.Trace != nil {
		d.Trace(TraceEvent{Kind: TraceMessage, Vector: v, Off: e.Address, Value: uint64(e.Data)})
	}
	if d.SendMSI != nil {
		d.SendMSI(e.Address, e.Data)
	}
}

// deliverPending sends, in ascending order, what waited for the control word to
// enable or unmask it.
func (d *Device) deliverPending() {
	if d.MSIXControl&(MSIXEnable|MSIXMaskAll) != MSIXEnable {
		return
	}
	for i := range align.CeilDiv(d.vectors(), 64) {
		for word := d.Pending[i]; word != 0; word &= word - 1 {
			v := i*64 + bits.TrailingZeros64(word)
			if v < d.vectors() && d.isPending(uint16(v)) && !d.masked(uint16(v)) {
				d.deliver(uint16(v))
			}
		}
	}
}
