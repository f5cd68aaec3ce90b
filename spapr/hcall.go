package spapr

import (
	"fmt"
	"strings"
	"time"
)

// Numbers of the hypercalls that are modelled, which the guest puts in r3.
// Those from 0xf000 on are QEMU's own.
const (
	HPageInit          = 0x2c
	HLogicalCILoad     = 0x3c
	HLogicalCIStore    = 0x40
	HLogicalCacheLoad  = 0x44
	HLogicalCacheStore = 0x48
	HLogicalICBI       = 0x4c
	HLogicalDCBF       = 0x50
	HGetTermChar       = 0x54
	HPutTermChar       = 0x58
	HRTAS              = 0xf000
	HLogicalMemop      = 0xf001
)

// Regs are the registers of a hypercall: R[3] is r3, the number of the call
// and after it its status; R[4] to R[12] hold arguments and results. R[0] to
// R[2] are not used.
type Regs struct {
	R [13]uint64
	// User says that the guest made the call in user mode, MSR[PR] = 1.
	User bool
}

// A Hypercall carries out a call. It finds arguments in r.R[4] and up, puts
// results there, and returns the status.
type Hypercall func(m *Machine, r *Regs) Status

// Strict makes a [Machine] follow the text where QEMU does not. Zero is
// QEMU's behaviour, in all of these the same in 5.2, 7.2 and 10.0.
type Strict uint8

const (
	// StrictMemory refuses addresses outside the guest's memory with
	// HParameter, before anything is written: those in the registers of
	// hypercalls, and an RTAS parameter block's. QEMU reads zeros there, drops
	// writes, and reports success. Buffers of RTAS services behave as in QEMU.
	StrictMemory Strict = 1 << iota
	// StrictXOR makes operation 1 of H_LOGICAL_MEMOP an exclusive or of
	// destination and source, as the text says. In QEMU, and for the firmware
	// that uses it, it stores the complement of the source.
	StrictXOR
	// StrictSize refuses element sizes above 8 bytes with HParameter also for
	// no element at all, which QEMU accepts.
	StrictSize
	// StrictClock has get-time-of-day return nanoseconds below one second, as
	// the PAPR says. QEMU returns the low 32 bits of a count of nanoseconds.
	StrictClock

	StrictAll = StrictMemory | StrictXOR | StrictSize | StrictClock // all of them
)

var strictNames = [...]string{"memory", "xor", "size", "clock"}

// String returns the names of the bits that are set, with a + between them,
// such as memory+clock, and none for 0.
func (s Strict) String() string {
	if s == 0 {
		return "none"
	}
	var names []string
	for i, name := range strictNames {
		if s&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if rest := s &^ StrictAll; rest != 0 {
		names = append(names, fmt.Sprintf("%#x", uint8(rest)))
	}
	return strings.Join(names, "+")
}

// Power is what the guest asked the machine to do.
type Power uint8

// What power-off and system-reboot set; Reset returns to PowerOn.
const (
	PowerOn Power = iota
	PowerOff
	PowerReboot
)

var powerNames = [...]string{"on", "off", "reboot"}

// String returns on, off or reboot.
func (p Power) String() string {
	if int(p) < len(powerNames) {
		return powerNames[p]
	}
	return fmt.Sprintf("Power(%d)", uint8(p))
}

// State is everything about a [Machine] that changes by itself: zero is
// power-on. It is comparable, a copy is a snapshot, and it marshals to JSON
// and back.
type State struct {
	// ClockOffset is how far set-time-of-day moved the guest's clock from that
	// of the Machine. It survives a Reset.
	ClockOffset time.Duration
	// Power is what the guest asked for.
	Power Power
}

// DefaultMemopLimit is the work, in bytes, that H_LOGICAL_MEMOP does in one
// call where [Machine.MemopLimit] says nothing.
const DefaultMemopLimit = 256 << 20

// A Machine answers the hypercalls of a pseries guest. The zero value is ready
// for use: without memory, terminals or other devices, one running CPU and the
// host's clock. The VMM fills in what the machine has, and passes each
// hypercall to Call. Hooks that are nil stand for what the machine lacks.
//
// A Machine is not safe for concurrent use; serialise access as the VMM's
// device lock does. A hook must not make hypercalls.
type Machine struct {
	State

	// Memory is the guest's; nil means that there is none.
	Memory Memory

	// Strict chooses where to follow the text instead of QEMU.
	Strict Strict

	// MemopLimit bounds the work of one H_LOGICAL_MEMOP, counted in bytes
	// copied: a call for more gets HParameter. 0 means DefaultMemopLimit. QEMU
	// knows no bound but 1<<31 elements, a minute with the machine standing
	// still.
	MemopLimit uint64

	// Terminal returns the terminal of a virtual serial port, nil if there is
	// none by that unit address. 0 means the first one.
	Terminal func(unit uint64) Terminal

	// Services are the RTAS services; nil means StandardServices.
	Services *Services

	// Clock tells the time; nil means time.Now.
	Clock func() time.Time

	// CPUState returns the state of a CPU, and whether there is one by that
	// number; nil means that CPU 0 runs and there is no other.
	CPUState func(cpu uint32) (CPUState, bool)

	// StartCPU starts a stopped CPU at an address, with arg in its r3.
	StartCPU func(cpu, entry, arg uint32) RTASStatus

	// PowerOff and Reboot are called when the guest asks for it; State.Power
	// says so too.
	PowerOff, Reboot func()

	// OSTerm is called with the message of an operating system that gives up,
	// cut after MaxOSTermMessage bytes.
	OSTerm func(message string)

	// SystemParameters are the values of ibm,get-system-parameter, by token:
	// see [SPLPARCharacteristics] and [ParameterUUID].
	SystemParameters map[uint32][]byte

	// NVRAM is what nvram-fetch and nvram-store access; it is not part of
	// State.
	NVRAM []byte

	// Event returns the next error log among the classes of events that mask
	// names, nil if there is none.
	Event func(mask uint32) []byte

	// SetIndicator sets an indicator, such as the isolation state of a slot.
	SetIndicator func(kind, index, value uint32) RTASStatus

	// Sensor returns the state of a sensor, and whether there is such a one.
	Sensor func(kind, index uint32) (state uint32, ok bool)

	// PCI accesses the configuration space behind PCI host bridges.
	PCI PCIConfig

	// Interrupts are the sources of the interrupt controller.
	Interrupts InterruptSources

	// Trace is told of each hypercall after it is done.
	Trace func(Event)

	registered map[uint64]registration
	scratch    [2][memopChunk]byte
	rtas       *RTASEvent // of the call being traced
}

type registration struct {
	name string
	call Hypercall
}

// Register has the Machine answer the hypercall op, a multiple of 4 other than
// 0 as the PAPR's are or one from 0xf000 on, in place of what it answered
// before. The name is for Trace. A nil call makes it unknown.
func (m *Machine) Register(op uint64, name string, call Hypercall) error {
	if op == 0 || op%4 != 0 && op < HRTAS {
		return fmt.Errorf("spapr: hypercall 0x%x: not a multiple of 4", op)
	}
	if m.registered == nil {
		m.registered = make(map[uint64]registration)
	}
	m.registered[op] = registration{name, call}
	return nil
}

// lookup returns the hypercall op and its name, nil and "" if there is none.
func (m *Machine) lookup(op uint64) (Hypercall, string) {
	if m.registered != nil {
		if r, ok := m.registered[op]; ok {
			return r.call, r.name
		}
	}
	switch op {
	case HPageInit:
		return (*Machine).pageInit, "H_PAGE_INIT"
	case HLogicalCILoad:
		return (*Machine).logicalLoad, "H_LOGICAL_CI_LOAD"
	case HLogicalCIStore:
		return (*Machine).logicalStore, "H_LOGICAL_CI_STORE"
	case HLogicalCacheLoad:
		return (*Machine).logicalLoad, "H_LOGICAL_CACHE_LOAD"
	case HLogicalCacheStore:
		return (*Machine).logicalStore, "H_LOGICAL_CACHE_STORE"
	case HLogicalICBI:
		return (*Machine).cacheOp, "H_LOGICAL_ICBI"
	case HLogicalDCBF:
		return (*Machine).cacheOp, "H_LOGICAL_DCBF"
	case HGetTermChar:
		return (*Machine).getTermChar, "H_GET_TERM_CHAR"
	case HPutTermChar:
		return (*Machine).putTermChar, "H_PUT_TERM_CHAR"
	case HRTAS:
		return (*Machine).callRTAS, "H_RTAS"
	case HLogicalMemop:
		return (*Machine).memop, "H_LOGICAL_MEMOP"
	}
	return nil, ""
}

// Call carries out the hypercall that r.R[3] names, leaves its status there
// and returns it. It never fails towards the VMM: what a guest may not do gets
// a status.
func (m *Machine) Call(r *Regs) Status {
	if m.Trace != nil {
		return m.tracedCall(r)
	}
	return m.call(r)
}

func (m *Machine) call(r *Regs) Status {
	status := HFunction
	if r.User {
		status = HPrivilege
	} else if call, _ := m.lookup(r.R[3]); call != nil {
		status = call(m, r)
	}
	r.R[3] = uint64(status)
	return status
}

// Reset is a reset of the machine: the guest has not asked for anything yet.
// Its clock goes on as it was set.
func (m *Machine) Reset() { m.Power = PowerOn }

// load and store access guest memory; without any, every address is outside.
func (m *Machine) load(addr uint64, p []byte) {
	if m.Memory == nil {
		clear(p)
		return
	}
	m.Memory.Load(addr, p)
}

func (m *Machine) store(addr uint64, p []byte) {
	if m.Memory != nil {
		m.Memory.Store(addr, p)
	}
}

func (m *Machine) contains(addr, n uint64) bool {
	return n == 0 || m.Memory != nil && m.Memory.Contains(addr, n)
}

// loadWhole and storeWhole access one value: as in QEMU, it is outside if any
// byte of it is.
func (m *Machine) loadWhole(addr uint64, p []byte) {
	if mem := m.slice(addr, uint64(len(p))); mem != nil {
		copy(p, mem)
		return
	}
	if m.contains(addr, uint64(len(p))) {
		m.Memory.Load(addr, p)
		return
	}
	clear(p)
}

func (m *Machine) storeWhole(addr uint64, p []byte) {
	if mem := m.slice(addr, uint64(len(p))); mem != nil {
		copy(mem, p)
		return
	}
	if m.contains(addr, uint64(len(p))) {
		m.Memory.Store(addr, p)
	}
}

// refuses reports whether an access is to fail because it leaves memory.
func (m *Machine) refuses(addr, n uint64) bool {
	return m.Strict&StrictMemory != 0 && !m.contains(addr, n)
}
