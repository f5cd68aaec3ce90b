package spapr

func hasNVRAM(m *Machine) bool { return m.NVRAM != nil }

// nvramFetch copies from NVRAM: offset, address of a buffer, length. The
// second result is the number of bytes copied, all or none.
func nvramFetch(c RTASCall) RTASStatus {
	mem, status := nvramRange(c)
	switch {
	case mem != nil:
		c.Store(c.Arg(1), mem)
		c.SetResult(1, uint32(len(mem)))
	case status == RTASParameterError && c.Is(3, 2):
		c.SetResult(1, 0)
	}
	return status
}

// nvramStore copies to NVRAM, with the same arguments. Where it fails there is
// no second result.
func nvramStore(c RTASCall) RTASStatus {
	mem, status := nvramRange(c)
	if mem != nil {
		c.Load(c.Arg(1), mem)
		c.SetResult(1, uint32(len(mem)))
	}
	return status
}

// nvramRange returns the part of NVRAM that a call speaks of, nil if the call
// fails.
func nvramRange(c RTASCall) ([]byte, RTASStatus) {
	nvram := c.Machine.NVRAM
	switch {
	case !c.Is(3, 2):
		return nil, RTASParameterError
	case nvram == nil:
		return nil, RTASHardwareError
	}
	off, n := uint64(c.Arg(0)), uint64(c.Arg(2))
	if off+n > uint64(len(nvram)) {
		return nil, RTASParameterError
	}
	return nvram[off : off+n], RTASSuccess
}
