package acpihotplug

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// PortIO is what a [Guest] reaches the machine through. [Ports] is one; a
// program that tests another VMM brings its own. What In and Out return is not
// looked at: a port that nothing answers reads as p was.
type PortIO interface {
	In(port uint16, p []byte) bool
	Out(port uint16, p []byte) bool
}

// Notification is what the guest's firmware tells its operating system of a
// slot.
type Notification uint8

// Notifications by their ACPI number.
const (
	DeviceCheck  Notification = notifyDeviceCheck  // look for a new device
	EjectRequest Notification = notifyEjectRequest // give the device up
)

// String returns the name that ACPI has for n.
func (n Notification) String() string {
	switch n {
	case DeviceCheck:
		return "Device Check"
	case EjectRequest:
		return "Eject Request"
	}
	return fmt.Sprintf("Notification(%d)", uint8(n))
}

// Notice is one notification of one slot.
type Notice struct {
	Bus, Slot int
	Event     Notification
}

// A Guest plays an operating system with the firmware that [SSDT] describes:
// it makes the accesses that Linux 6.1 makes, in that order. It serves tests
// of a VMM and the explanation of the interface.
type Guest struct {
	IO      PortIO
	Mode    Mode
	Base    uint16 // port of the register block; 0 means the constant Base
	GPEBase uint16 // port of the GPE block; 0 means the constant GPEBase
	GPELen  uint8  // bytes of the GPE block; 0 means 4
	Buses   []int  // selectors of the buses, mode ClearOnRead only; nil means 0
}

// bases returns the ports of the register block, of the status and of the
// enable register.
func (g *Guest) bases() (block, status, enable uint16) {
	block, status = Ports{Base: g.Base, GPEBase: g.GPEBase}.bases()
	half := (&Device{GPELen: g.GPELen}).gpeHalf()
	return block, status, status + uint16(half)
}

func (g *Guest) in8(port uint16) byte {
	b := []byte{0xff}
	g.IO.In(port, b)
	return b[0]
}

func (g *Guest) in32(port uint16) uint32 {
	b := []byte{0xff, 0xff, 0xff, 0xff}
	g.IO.In(port, b)
	return binary.LittleEndian.Uint32(b)
}

func (g *Guest) out32(port uint16, v uint32) {
	g.IO.Out(port, binary.LittleEndian.AppendUint32(nil, v))
}

// Boot disables and clears all events, then enables that of hot-plug. What was
// plugged in before, an operating system finds when it scans the buses, and
// [Guest.Interrupt] does not tell of it by itself.
func (g *Guest) Boot() {
	_, status, enable := g.bases()
	for i := range enable - status {
		g.IO.Out(enable+i, []byte{0})
		g.IO.Out(status+i, []byte{0xff})
	}
	g.IO.Out(enable, []byte{g.in8(enable) | 1<<GPEBit})
}

// Interrupt handles the SCI. If hot-plug caused it, it masks and acknowledges
// the event, runs the handler \_GPE._E01, unmasks, and returns what the handler
// told of which slots; otherwise nil. In modes [Latched] and [Level] that
// includes what was told before, as in a real guest.
func (g *Guest) Interrupt() []Notice {
	_, status, enable := g.bases()
	if g.in8(status)&g.in8(enable)&(1<<GPEBit) == 0 {
		return nil
	}
	g.IO.Out(enable, []byte{g.in8(enable) &^ (1 << GPEBit)})
	g.IO.Out(status, []byte{1 << GPEBit})
	notices := g.handler()
	g.IO.Out(enable, []byte{g.in8(enable) | 1<<GPEBit})
	return notices
}

// handler does what \_GPE._E01 does.
func (g *Guest) handler() []Notice {
	block, _, _ := g.bases()
	var notices []Notice
	for _, bus := range g.buses() {
		g.selectBus(bus)
		notices = appendNotices(notices, bus, g.in32(block+RegUp), DeviceCheck)
		notices = appendNotices(notices, bus, g.in32(block+RegDown), EjectRequest)
	}
	return notices
}

func appendNotices(to []Notice, bus int, slots uint32, event Notification) []Notice {
	for ; slots != 0; slots &= slots - 1 {
		to = append(to, Notice{bus, bits.TrailingZeros32(slots), event})
	}
	return to
}

func (g *Guest) buses() []int {
	if g.Mode != ClearOnRead || g.Buses == nil {
		return []int{0}
	}
	return g.Buses
}

func (g *Guest) selectBus(bus int) {
	if g.Mode == ClearOnRead {
		block, _, _ := g.bases()
		g.out32(block+RegSelect, uint32(bus))
	}
}

// Eject does what the _EJ0 method of a slot's device does. An operating system
// calls it once it has given the device up.
func (g *Guest) Eject(bus, slot int) {
	block, _, _ := g.bases()
	g.selectBus(bus)
	g.out32(block+RegEject, 1<<slot)
}

// Removable does what the _RMV method of a slot's device does.
func (g *Guest) Removable(bus, slot int) bool {
	block, _, _ := g.bases()
	g.selectBus(bus)
	return g.in32(block+RegRemovable)>>slot&1 == 1
}

// AcpiIndex does what the _DSM method of a slot's device does to learn its
// acpi-index. It is 0 if the device has none, or the block no [RegIndex].
func (g *Guest) AcpiIndex(bus, slot int) uint32 {
	block, _, _ := g.bases()
	g.selectBus(bus)
	g.out32(block+RegIndex, 1<<slot)
	if index := g.in32(block + RegIndex); index != 0xffffffff {
		return index
	}
	return 0
}
