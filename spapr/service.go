package spapr

import "fmt"

// RTASTokenBase is the token of the first of StandardServices.
const RTASTokenBase = 0x2000

// standardEntries are the services in QEMU 7.2's order: a service's place is
// its token. What has no function is known, but not there.
var standardEntries = [...]serviceEntry{
	{name: "display-character", call: displayCharacter},
	{name: "get-time-of-day", call: getTimeOfDay},
	{name: "set-time-of-day", call: setTimeOfDay},
	{name: "power-off", call: powerOff},
	{name: "system-reboot", call: systemReboot},
	{name: "query-cpu-stopped-state", call: queryCPUStoppedState},
	{name: "start-cpu", call: startCPU, there: func(m *Machine) bool { return m.StartCPU != nil }},
	{name: "stop-self"},
	{name: "ibm,get-system-parameter", call: getSystemParameter},
	{name: "ibm,set-system-parameter", call: setSystemParameter},
	{name: "ibm,set-xive", call: setXIVE, there: hasInterrupts},
	{name: "ibm,get-xive", call: getXIVE, there: hasInterrupts},
	{name: "ibm,int-off", call: intOff, there: hasInterrupts},
	{name: "ibm,int-on", call: intOn, there: hasInterrupts},
	{name: "check-exception", call: checkException},
	{name: "event-scan", call: eventScan},
	{name: "ibm,set-tce-bypass"},
	{name: "quiesce", call: quiesce},
	{name: "nvram-fetch", call: nvramFetch, there: hasNVRAM},
	{name: "nvram-store", call: nvramStore, there: hasNVRAM},
	{name: "read-pci-config", call: readPCIConfig, there: hasPCI},
	{name: "write-pci-config", call: writePCIConfig, there: hasPCI},
	{name: "ibm,read-pci-config", call: ibmReadPCIConfig, there: hasPCI},
	{name: "ibm,write-pci-config", call: ibmWritePCIConfig, there: hasPCI},
	{name: "ibm,query-interrupt-source-number"},
	{name: "ibm,change-msi"},
	{name: "set-indicator", call: setIndicator, there: func(m *Machine) bool { return m.SetIndicator != nil }},
	{name: "set-power-level", call: setPowerLevel},
	{name: "get-power-level", call: getPowerLevel},
	{name: "get-sensor-state", call: getSensorState, there: func(m *Machine) bool { return m.Sensor != nil }},
	{name: "ibm,configure-connector"},
	{name: "ibm,os-term", call: osTerm},
	{name: "ibm,set-eeh-option"},
	{name: "ibm,get-config-addr-info2"},
	{name: "ibm,read-slot-reset-state2"},
	{name: "ibm,set-slot-reset"},
	{name: "ibm,configure-pe"},
	{name: "ibm,slot-error-detail"},
	{name: "ibm,query-pe-dma-window"},
	{name: "ibm,create-pe-dma-window"},
	{name: "ibm,remove-pe-dma-window"},
	{name: "ibm,reset-pe-dma-window"},
	{name: "ibm,suspend-me"},
	{name: "ibm,nmi-register"},
	{name: "ibm,nmi-interlock"},
}

// standardServices serves every Machine that brings no registry; nothing
// changes it.
var standardServices = StandardServices()

// StandardServices returns a registry of the services that QEMU 7.2 has, with
// its tokens: 0x2000 to 0x202c. Those that speak of devices which are not
// modelled are known, and refuse every call. The caller may change it.
func StandardServices() *Services {
	s := new(Services)
	for i, e := range standardEntries {
		e.token = RTASTokenBase + uint32(i)
		if err := s.register(e); err != nil {
			panic(err) // two services of one name
		}
	}
	return s
}

// displayCharacter prints the low byte of its argument on the first terminal,
// whatever the counts say.
func displayCharacter(c RTASCall) RTASStatus {
	char := byte(c.Arg(0))
	t := c.Machine.terminal(0)
	if t == nil {
		return RTASHardwareError
	}
	p := c.Machine.scratch[0][:1]
	p[0] = char
	if !t.Put(p) {
		return RTASBusy
	}
	return RTASSuccess
}

func powerOff(c RTASCall) RTASStatus {
	if !c.Is(2, 1) {
		return RTASParameterError
	}
	c.Machine.Power = PowerOff
	if c.Machine.PowerOff != nil {
		c.Machine.PowerOff()
	}
	return RTASSuccess
}

func systemReboot(c RTASCall) RTASStatus {
	if !c.Is(0, 1) {
		return RTASParameterError
	}
	c.Machine.Power = PowerReboot
	if c.Machine.Reboot != nil {
		c.Machine.Reboot()
	}
	return RTASSuccess
}

// MaxOSTermMessage is how many bytes of a last message are taken over.
const MaxOSTermMessage = 1024

// osTerm takes the address of a string that ends with a zero. QEMU does not
// look at the counts of the call.
func osTerm(c RTASCall) RTASStatus {
	if c.Machine.OSTerm == nil {
		return RTASSuccess
	}
	var message []byte
	for addr := c.Arg(0); len(message) < MaxOSTermMessage; addr++ {
		var b [1]byte
		c.Load(addr, b[:])
		if b[0] == 0 {
			break
		}
		message = append(message, b[0])
	}
	c.Machine.OSTerm(string(message))
	return RTASSuccess
}

// quiesce is what firmware calls before it hands over to the operating system:
// nothing here runs on by itself.
func quiesce(c RTASCall) RTASStatus {
	if c.NArgs != 0 {
		return RTASParameterError
	}
	return RTASSuccess
}

// CPUState is the state of a CPU as query-cpu-stopped-state tells it.
type CPUState uint32

// States of CPUs.
const (
	CPUStopped  CPUState = 0
	CPUStopping CPUState = 1
	CPURunning  CPUState = 2
)

var cpuStateNames = [...]string{"stopped", "stopping", "running"}

// String returns stopped, stopping or running.
func (s CPUState) String() string {
	if int64(s) < int64(len(cpuStateNames)) {
		return cpuStateNames[s]
	}
	return fmt.Sprintf("CPUState(%d)", uint32(s))
}

func (m *Machine) cpuState(cpu uint32) (CPUState, bool) {
	if m.CPUState == nil {
		return CPURunning, cpu == 0
	}
	return m.CPUState(cpu)
}

func queryCPUStoppedState(c RTASCall) RTASStatus {
	if !c.Is(1, 2) {
		return RTASParameterError
	}
	state, ok := c.Machine.cpuState(c.Arg(0))
	if !ok {
		return RTASParameterError
	}
	c.SetResult(1, uint32(state))
	return RTASSuccess
}

// startCPU starts CPU arg 0 at address arg 1, with arg 2 in its r3.
func startCPU(c RTASCall) RTASStatus {
	if !c.Is(3, 1) {
		return RTASParameterError
	}
	state, ok := c.Machine.cpuState(c.Arg(0))
	switch {
	case !ok:
		return RTASParameterError
	case state != CPUStopped, c.Machine.StartCPU == nil:
		return RTASHardwareError
	}
	return c.Machine.StartCPU(c.Arg(0), c.Arg(1), c.Arg(2))
}

// livePowerDomain is the only one there is, always at full power.
const (
	livePowerDomain = 0xffffffff
	fullPower       = 100
)

func setPowerLevel(c RTASCall) RTASStatus {
	if !c.Is(2, 2) {
		return RTASParameterError
	}
	return powerLevel(c)
}

func getPowerLevel(c RTASCall) RTASStatus {
	if !c.Is(1, 2) {
		return RTASParameterError
	}
	return powerLevel(c)
}

func powerLevel(c RTASCall) RTASStatus {
	if c.Arg(0) != livePowerDomain {
		return RTASParameterError
	}
	c.SetResult(1, fullPower)
	return RTASSuccess
}

func setIndicator(c RTASCall) RTASStatus {
	if !c.Is(3, 1) || c.Machine.SetIndicator == nil {
		return RTASParameterError
	}
	return c.Machine.SetIndicator(c.Arg(0), c.Arg(1), c.Arg(2))
}

// getSensorState writes a second result also where it fails, and where the
// guest said that there is none.
func getSensorState(c RTASCall) RTASStatus {
	var state uint32
	status := RTASParameterError
	if c.Is(2, 2) && c.Machine.Sensor != nil {
		if s, ok := c.Machine.Sensor(c.Arg(0), c.Arg(1)); ok {
			state, status = s, RTASSuccess
		}
	}
	c.SetResult(1, state)
	return status
}

// eventScan takes a mask of event classes, a word that is critical events
// only, and a buffer for the log: address and length.
func eventScan(c RTASCall) RTASStatus {
	if !c.Is(4, 1) {
		return RTASParameterError
	}
	return event(c, 0, 2)
}

// checkException takes a vector offset, a word of additional information,
// then the same as eventScan, and possibly more information.
func checkException(c RTASCall) RTASStatus {
	if !c.Is(6, 1) && !c.Is(7, 1) {
		return RTASParameterError
	}
	return event(c, 2, 4)
}

// event stores the next error log of the classes in argument mask to the
// buffer in arguments buf and buf + 1, as much of it as fits.
func event(c RTASCall, mask, buf int) RTASStatus {
	if c.Machine.Event == nil {
		return RTASNoEvents
	}
	log := c.Machine.Event(c.Arg(mask))
	if log == nil {
		return RTASNoEvents
	}
	c.Store(c.Arg(buf), log[:min(uint64(len(log)), uint64(c.Arg(buf+1)))])
	return RTASSuccess
}
