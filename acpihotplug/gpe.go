package acpihotplug

// GPEBit is the general-purpose event of PCI hot-plug: the guest's handler is
// \_GPE._E01.
const GPEBit = 1

// defaultGPELen is the length of i440fx's GPE block: 2 bytes of status, at
// port 0xafe0, and 2 of enable.
const defaultGPELen = 4

// GPE is the general-purpose event block: a status and an enable bit per
// event. It spans GPELen bytes of ports, the first half status (R, write 1 to
// clear), the second enable (RW), little-endian; any width of access reaches
// the bytes it covers.
type GPE struct {
	Status uint64 // events that happened
	Enable uint64 // events that raise the SCI
}

// gpeHalf returns how many bytes the status, and the enable, registers have.
func (d *Device) gpeHalf() uint64 {
	if d.GPELen == 0 {
		return defaultGPELen / 2
	}
	return min(uint64(d.GPELen)/2, 8)
}

// SCI returns the level of the system control interrupt: high while an event
// has happened that is enabled.
func (d *Device) SCI() bool { return d.GPE.Status&d.GPE.Enable != 0 }

// updateSCI tells the interrupt controller if the SCI is no longer as it was.
func (d *Device) updateSCI(was bool) {
	level := d.SCI()
	if level == was {
		return
	}
	if d.SetIRQ != nil {
		d.SetIRQ(level)
	}
	if d.Trace != nil {
		d.Trace(Event{Kind: EventInterrupt, Level: level})
	}
}

// RaiseGPE makes event n, counted from 0, happen: events other than [GPEBit]
// belong to other devices of the machine that share the block. An event that
// the block has no bit for is ignored.
func (d *Device) RaiseGPE(n int) {
	if n < 0 || uint64(n) >= 8*d.gpeHalf() {
		return
	}
	was := d.SCI()
	d.GPE.Status |= 1 << n
	d.updateSCI(was)
}

// ReadGPE is a guest's read of len(p) bytes at off from the GPE block's base.
// What lies past the block reads as ones.
func (d *Device) ReadGPE(off uint64, p []byte) {
	half := d.gpeHalf()
	for i := range p {
		// at is past the block also where off + i wraps around.
		switch at := off + uint64(i); {
		case at < off, at >= 2*half:
			p[i] = 0xff
		case at < half:
			p[i] = byte(d.GPE.Status >> (8 * at))
		default:
			p[i] = byte(d.GPE.Enable >> (8 * (at - half)))
		}
	}
	if d.Trace != nil {
		d.traceAccess(EventReadGPE, off, p, off >= 2*half)
	}
}

// WriteGPE is a guest's write of p at off from the GPE block's base.
func (d *Device) WriteGPE(off uint64, p []byte) {
	half := d.gpeHalf()
	if d.Trace != nil {
		d.traceAccess(EventWriteGPE, off, p, off >= 2*half)
	}
	was := d.SCI()
	for i, v := range p {
		switch at := off + uint64(i); {
		case at < off, at >= 2*half:
		case at < half:
			d.GPE.Status &^= uint64(v) << (8 * at)
		default:
			shift := 8 * (at - half)
			d.GPE.Enable = d.GPE.Enable&^(0xff<<shift) | uint64(v)<<shift
		}
	}
	d.updateSCI(was)
}
