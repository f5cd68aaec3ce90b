package spapr

import (
	"encoding/binary"
	"fmt"
)

// Tokens of system parameters that QEMU has.
const (
	ParameterSPLPAR  = 20 // what the partition is entitled to: SPLPARCharacteristics
	ParameterDiagRun = 42 // run mode of diagnostics, one byte: 0 is disabled
	ParameterUUID    = 48 // the machine's identifier, 16 bytes
)

// SPLPARCharacteristics returns the value of ParameterSPLPAR as QEMU 7.2 has
// it, for a machine of so many CPUs, at most maxCPUs of them, each with so
// many threads on the host, and that much memory.
func SPLPARCharacteristics(memoryMiB uint64, cpus, maxCPUs, hostThreads int) []byte {
	return fmt.Appendf(nil, "MaxEntCap=%d,DesMem=%d,DesProcs=%d,MaxPlatProcs=%d,HostThrs=%d\x00",
		maxCPUs, memoryMiB, cpus, maxCPUs, hostThreads)
}

// getSystemParameter takes a token and a buffer: address and length. The
// buffer gets the length of the value in 2 bytes, and as much of it as fits.
// QEMU does not look at the counts of the call.
func getSystemParameter(c RTASCall) RTASStatus {
	value, ok := c.Machine.SystemParameters[c.Arg(0)]
	buf, n := c.Arg(1), c.Arg(2)
	switch {
	case !ok, len(value) > 0xffff:
		return RTASParameterError
	case n < 2:
		return RTASSystemParamError
	}
	c.Store(buf, binary.BigEndian.AppendUint16(nil, uint16(len(value))))
	// In 64 bits: the value does not wrap around to address 0.
	c.Machine.store(uint64(buf)+2, value[:min(uint64(len(value)), uint64(n-2))])
	return RTASSuccess
}

// setSystemParameter refuses: no parameter can be set. Here too QEMU does not
// look at the counts.
func setSystemParameter(c RTASCall) RTASStatus {
	if _, ok := c.Machine.SystemParameters[c.Arg(0)]; !ok {
		return RTASParameterError
	}
	return RTASNotAuthorized
}
