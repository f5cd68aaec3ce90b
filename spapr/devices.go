package spapr

// PCIConfig is the configuration space behind PCI host bridges. A bridge is
// named by its bus unit identifier; addr is that of the PAPR: bus, device and
// function from bit 16, 11 and 8 on, and an offset below. size is 1, 2 or 4.
// Values are numbers, not bytes. Both return false where there is nothing.
type PCIConfig interface {
	ReadConfig(buid uint64, addr uint32, size int) (value uint32, ok bool)
	WriteConfig(buid uint64, addr uint32, size int, value uint32) (ok bool)
}

func hasPCI(m *Machine) bool { return m.PCI != nil }

// readPCIConfig takes address and size, of the bridge with identifier 0.
func readPCIConfig(c RTASCall) RTASStatus {
	if !c.Is(2, 2) {
		return RTASHardwareError
	}
	return readConfig(c, 0, c.Arg(1))
}

// ibmReadPCIConfig takes address, identifier in two words, size.
func ibmReadPCIConfig(c RTASCall) RTASStatus {
	if !c.Is(4, 2) {
		return RTASHardwareError
	}
	return readConfig(c, c.buid(), c.Arg(3))
}

// writePCIConfig takes address, size and value.
func writePCIConfig(c RTASCall) RTASStatus {
	if !c.Is(3, 1) {
		return RTASHardwareError
	}
	return writeConfig(c, 0, c.Arg(1), c.Arg(2))
}

// ibmWritePCIConfig takes address, identifier in two words, size and value.
func ibmWritePCIConfig(c RTASCall) RTASStatus {
	if !c.Is(5, 1) {
		return RTASHardwareError
	}
	return writeConfig(c, c.buid(), c.Arg(3), c.Arg(4))
}

func (c RTASCall) buid() uint64 { return uint64(c.Arg(1))<<32 | uint64(c.Arg(2)) }

func readConfig(c RTASCall, buid uint64, size uint32) RTASStatus {
	if c.Machine.PCI == nil || size != 1 && size != 2 && size != 4 {
		return RTASHardwareError
	}
	v, ok := c.Machine.PCI.ReadConfig(buid, c.Arg(0), int(size))
	if !ok {
		return RTASHardwareError
	}
	c.SetResult(1, v)
	return RTASSuccess
}

func writeConfig(c RTASCall, buid uint64, size, v uint32) RTASStatus {
	if c.Machine.PCI == nil || size != 1 && size != 2 && size != 4 {
		return RTASHardwareError
	}
	if !c.Machine.PCI.WriteConfig(buid, c.Arg(0), int(size), v) {
		return RTASHardwareError
	}
	return RTASSuccess
}

// InterruptSources are the sources of an interrupt controller. Each method
// returns false if there is no such source, or server.
type InterruptSources interface {
	// Get returns the server that a source interrupts, and with what priority:
	// 255 is masked.
	Get(source uint32) (server, priority uint32, ok bool)
	// Set sets them.
	Set(source, server, priority uint32) (ok bool)
	// Enable masks a source or restores its priority.
	Enable(source uint32, on bool) (ok bool)
}

func hasInterrupts(m *Machine) bool { return m.Interrupts != nil }

func getXIVE(c RTASCall) RTASStatus {
	if !c.Is(1, 3) || c.Machine.Interrupts == nil {
		return RTASParameterError
	}
	server, priority, ok := c.Machine.Interrupts.Get(c.Arg(0))
	if !ok {
		return RTASParameterError
	}
	c.SetResult(1, server)
	c.SetResult(2, priority)
	return RTASSuccess
}

func setXIVE(c RTASCall) RTASStatus {
	if !c.Is(3, 1) || c.Machine.Interrupts == nil || !c.Machine.Interrupts.Set(c.Arg(0), c.Arg(1), c.Arg(2)) {
		return RTASParameterError
	}
	return RTASSuccess
}

func intOff(c RTASCall) RTASStatus { return enable(c, false) }
func intOn(c RTASCall) RTASStatus  { return enable(c, true) }

func enable(c RTASCall, on bool) RTASStatus {
	if !c.Is(1, 1) || c.Machine.Interrupts == nil || !c.Machine.Interrupts.Enable(c.Arg(0), on) {
		return RTASParameterError
	}
	return RTASSuccess
}
