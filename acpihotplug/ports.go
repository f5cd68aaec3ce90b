package acpihotplug

// Ports places the two blocks of a [Device] in the I/O port space.
type Ports struct {
	Device  *Device
	Base    uint16 // port of the register block; 0 means the constant Base
	GPEBase uint16 // port of the GPE block; 0 means the constant GPEBase
}

// In is a guest's read of len(p) bytes from a port. It returns false, and
// leaves p alone, if the port is not one of the Device's.
func (s Ports) In(port uint16, p []byte) bool {
	off, gpe, ok := s.find(port)
	switch {
	case !ok:
		return false
	case gpe:
		s.Device.ReadGPE(off, p)
	default:
		s.Device.Read(off, p)
	}
	return true
}

// Out is a guest's write of p to a port. It returns false if the port is not
// one of the Device's.
func (s Ports) Out(port uint16, p []byte) bool {
	off, gpe, ok := s.find(port)
	switch {
	case !ok:
		return false
	case gpe:
		s.Device.WriteGPE(off, p)
	default:
		s.Device.Write(off, p)
	}
	return true
}

// bases returns the ports of the register block and of the GPE block.
func (s Ports) bases() (base, gpeBase uint16) {
	base, gpeBase = s.Base, s.GPEBase
	if base == 0 {
		base = Base
	}
	if gpeBase == 0 {
		gpeBase = GPEBase
	}
	return base, gpeBase
}

func (s Ports) find(port uint16) (off uint64, gpe, ok bool) {
	base, gpeBase := s.bases()
	if off := uint64(port) - uint64(base); port >= base && off < s.Device.size() {
		return off, false, true
	}
	off = uint64(port) - uint64(gpeBase)
	return off, true, port >= gpeBase && off < 2*s.Device.gpeHalf()
}

// SSDT returns the description of the table for a Device at these ports: its
// mode, bus 0 with the slots that are not fixed, and the acpi-index where the
// Device has a hook for it and the register.
func (s Ports) SSDT() SSDT {
	base, _ := s.bases()
	fixed := s.Device.Bus[0].Fixed
	index := s.Device.AcpiIndex != nil && s.Device.size() >= SizeQEMU6 && s.Device.Mode != Level
	return SSDT{Mode: s.Device.Mode, Base: base, Slots: defaultSlots &^ fixed, Fixed: fixed, AcpiIndex: index}
}
