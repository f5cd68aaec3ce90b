package ivshmem

import "github.com/virtfmt/virtfmt/internal/align"

// configSize is the size of conventional PCI configuration space.
const configSize = 256

// Offsets in configuration space, as dwords hold them.
const (
	cfgID        = 0x00 // vendor, device
	cfgCommand   = 0x04 // command, status
	cfgClass     = 0x08 // revision, class
	cfgCacheLine = 0x0c // cache line size, latency timer, header type, BIST
	cfgBAR0      = 0x10
	cfgBAR1      = 0x14
	cfgBAR2      = 0x18
	cfgBAR3      = 0x1c // upper half of BAR2
	cfgSubsystem = 0x2c
	cfgCap       = 0x34
	cfgInterrupt = 0x3c // line, pin, min_gnt, max_lat

	capOffset   = 0x40 // MSI-X capability
	capControl  = capOffset
	capTable    = capOffset + 4
	capPending  = capOffset + 8
	capMSIXEnd  = capOffset + 12
	capMSIXID   = 0x11
	msixBAR     = 1 // the BAR that holds table and pending bits
	pinA        = 1
	statusCaps  = 1 << 4 // status register: has capabilities
	statusINTx  = 1 << 3 // status register: the pin is asserted
	bar64       = 0x4    // memory BAR: 64 bits
	barPrefetch = 0x8    // memory BAR: prefetchable
)

// Bits of the PCI command register that the device has.
const (
	commandMemory      = 1 << 1
	commandBusMaster   = 1 << 2
	commandINTxDisable = 1 << 10

	// commandMask is what a guest can change: I/O, memory, bus master, SERR and
	// INTx disable.
	commandMask = 0x0507
)

// A BAR is where one of the device's regions lies in guest-physical memory.
type BAR struct {
	Address uint64
	Size    uint64 // bytes; 0 where the device has no such BAR
	// Mapped reports whether the region answers: memory decoding is enabled in
	// the command register, and the address is neither 0 nor such that the
	// region would reach or pass the end of what the BAR can address (a guest
	// that sizes a BAR writes such an address for a moment).
	Mapped bool
}

// BAR returns the place of BAR n: 0 the registers, 1 the MSI-X table and
// pending bits, 2 the shared memory. Any other n gives the zero BAR.
func (d *Device) BAR(n int) BAR {
	var b BAR
	last := uint64(0xffffffff)
	switch n {
	case 0:
		b.Size = uint64(d.registerSize())
	case 1:
		b.Size = d.msixSize()
	case 2:
		b.Size = d.sharedSize()
	}
	if b.Size == 0 {
		return BAR{}
	}
	b.Address = uint64(d.BARs[n])
	if n == 2 && !d.Shared32 {
		b.Address |= uint64(d.BARs[3]) << 32
		last = 0xffffffff_ffffffff
	}
	b.Address = align.Down(b.Address, b.Size)
	b.Mapped = d.Command&commandMemory != 0 && b.Address != 0 && last-b.Address > b.Size-1
	return b
}

// Find returns the BAR in which a guest-physical address lies and the offset
// in it.
func (d *Device) Find(addr uint64) (bar int, off uint64, ok bool) {
	for n, b := range d.mapping() {
		if b.Mapped && addr-b.Address < b.Size {
			return n, addr - b.Address, true
		}
	}
	return 0, 0, false
}

// ReadBAR reads at an offset of BAR 0, 1 or 2. Elsewhere it reads zeros.
func (d *Device) ReadBAR(bar int, off uint64, p []byte) {
	switch bar {
	case 0:
		d.Read(off, p)
	case 1:
		d.ReadMSIX(off, p)
	case 2:
		clear(p)
		if off < uint64(len(d.Memory)) {
			copy(p, d.Memory[off:])
		}
		if d.Trace != nil {
			d.traceAccess(TraceRead, SpaceShared, off, p)
		}
	default:
		clear(p)
	}
}

// WriteBAR writes at an offset of BAR 0, 1 or 2. Elsewhere it does nothing.
func (d *Device) WriteBAR(bar int, off uint64, p []byte) {
	switch bar {
	case 0:
		d.Write(off, p)
	case 1:
		d.WriteMSIX(off, p)
	case 2:
		if d.Trace != nil {
			d.traceAccess(TraceWrite, SpaceShared, off, p)
		}
		if off < uint64(len(d.Memory)) {
			copy(d.Memory[off:], p)
		}
	}
}

// mapping returns the places of all BARs.
func (d *Device) mapping() [3]BAR { return [3]BAR{d.BAR(0), d.BAR(1), d.BAR(2)} }

// moveBARs tells of BARs that are no longer where they were before.
func (d *Device) moveBARs(before [3]BAR) {
	if d.Map == nil {
		return
	}
	for n, b := range d.mapping() {
		// The address of a region that does not answer is of no consequence.
		if was := before[n]; b.Mapped != was.Mapped || b.Mapped && b != was {
			d.Map(n, b)
		}
	}
}

// ReadConfig reads len(p) bytes at offset off of PCI configuration space. Past
// its 256 bytes it reads ones, as where there is no device.
func (d *Device) ReadConfig(off uint64, p []byte) {
	for i := 0; i < len(p); {
		if off >= configSize || off+uint64(i) >= configSize {
			p[i] = 0xff
			i++
			continue
		}
		a := uint32(off) + uint32(i)
		v := d.configDword(align.Down(a, 4)) >> (a % 4 * 8)
		if a%4 == 0 && len(p)-i >= 4 {
			putLow(p[i:i+4], v)
			i += 4
			continue
		}
		p[i] = byte(v)
		i++
	}
	if d.Trace != nil {
		d.traceAccess(TraceRead, SpaceConfig, off, p)
	}
}

// WriteConfig writes p at offset off of PCI configuration space. Bits that are
// not writable keep their value. An access that touches the command register,
// a BAR or the MSI-X control word acts once, after all its bytes are in place.
func (d *Device) WriteConfig(off uint64, p []byte) {
	if d.Trace != nil {
		d.traceAccess(TraceWrite, SpaceConfig, off, p)
	}
	if off >= configSize {
		return
	}
	level, bars, control := d.Level(), d.mapping(), d.MSIXControl
	for i := 0; i < len(p) && off+uint64(i) < configSize; {
		a := uint32(off) + uint32(i)
		reg := align.Down(a, 4)
		var v, mask uint32
		for ; i < len(p) && a < reg+4; i, a = i+1, a+1 {
			v |= uint32(p[i]) << (a % 4 * 8)
			mask |= 0xff << (a % 4 * 8)
		}
		mask &= d.configMask(reg)
		d.setConfig(reg, d.configDword(reg)&^mask|v&mask)
	}
	d.moveLine(level)
	d.moveBARs(bars)
	if d.MSIXControl != control {
		d.deliverPending()
	}
}

// configDword returns the dword at reg.
//
// Preconditions: reg is a multiple of 4 and below configSize.
func (d *Device) configDword(reg uint32) uint32 {
	switch reg {
	case cfgID:
		return DeviceID<<16 | VendorID
	case cfgCommand:
		return uint32(d.status())<<16 | uint32(d.Command&commandMask)
	case cfgClass:
		return ClassCode<<8 | d.revisionID()
	case cfgCacheLine:
		return uint32(d.CacheLine)
	case cfgBAR0, cfgBAR1, cfgBAR2, cfgBAR3:
		return d.barRegister(reg)
	case cfgSubsystem:
		return SubsystemID<<16 | SubsystemVendorID
	case cfgCap:
		if d.hasMSIX() {
			return capOffset
		}
	case cfgInterrupt:
		return d.interruptPin()<<8 | uint32(d.InterruptLine)
	}
	if d.hasMSIX() && reg >= capOffset && reg < capMSIXEnd {
		return d.msixCapability(reg)
	}
	if reg >= capOffset {
		return low(d.Scratch[reg-capOffset:][:4])
	}
	return 0
}

// configMask returns which bits of the dword at reg a guest can change.
func (d *Device) configMask(reg uint32) uint32 {
	switch reg {
	case cfgCommand:
		return commandMask
	case cfgCacheLine, cfgInterrupt:
		return 0xff
	case cfgBAR0:
		return ^(d.registerSize() - 1)
	case cfgBAR1:
		return barMask(d.msixSize())
	case cfgBAR2:
		return barMask(d.sharedSize())
	case cfgBAR3:
		if d.Shared32 {
			return 0
		}
		return uint32(^(d.sharedSize() - 1) >> 32)
	}
	switch {
	case reg < capOffset:
		return 0
	case d.hasMSIX() && reg == capControl:
		return (MSIXEnable | MSIXMaskAll) << 16
	case d.hasMSIX() && reg < capMSIXEnd:
		return 0
	}
	return 0xffffffff
}

// setConfig stores the dword at reg, of which only bits in configMask differ
// from what it was.
func (d *Device) setConfig(reg, v uint32) {
	switch reg {
	case cfgCommand:
		d.Command = uint16(v) & commandMask
	case cfgCacheLine:
		d.CacheLine = uint8(v)
	case cfgInterrupt:
		d.InterruptLine = uint8(v)
	case cfgBAR0, cfgBAR1, cfgBAR2, cfgBAR3:
		d.BARs[(reg-cfgBAR0)/4] = v & d.configMask(reg)
	}
	switch {
	case reg < capOffset:
	case d.hasMSIX() && reg == capControl:
		d.MSIXControl = uint16(v>>16) & (MSIXEnable | MSIXMaskAll)
	case d.hasMSIX() && reg < capMSIXEnd:
	default:
		putLow(d.Scratch[reg-capOffset:][:4], v)
	}
}

func (d *Device) status() uint16 {
	var s uint16
	if d.hasMSIX() {
		s |= statusCaps
	}
	if d.asserted() {
		s |= statusINTx
	}
	return s
}

func (d *Device) revisionID() uint32 {
	if d.Revision == Revision1 {
		return 1
	}
	return 0
}

// interruptPin returns the interrupt pin register: revision 0 names pin A
// whether it has MSI-X or not.
func (d *Device) interruptPin() uint32 {
	if d.Revision == Revision1 {
		return 0
	}
	return pinA
}

func (d *Device) barRegister(reg uint32) uint32 {
	v := d.BARs[(reg-cfgBAR0)/4] & d.configMask(reg)
	if reg == cfgBAR2 {
		v |= barPrefetch
		if !d.Shared32 {
			v |= bar64
		}
	}
	return v
}

// barMask returns the address bits of the low dword of a BAR of that size,
// none for size 0.
func barMask(size uint64) uint32 {
	if size == 0 {
		return 0
	}
	return uint32(^(size - 1))
}
