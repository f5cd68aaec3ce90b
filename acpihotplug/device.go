package acpihotplug

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// Errors of the VMM's side: what a Plug or a RequestUnplug was refused for.
var (
	ErrNoSlot = errors.New("acpihotplug: no such bus or slot")
	ErrEmpty  = errors.New("acpihotplug: the slot holds no device")
	ErrFixed  = errors.New("acpihotplug: the device in the slot cannot be removed")
)

// A Device is the register block and the GPE block of one machine. The zero
// value is ready for use: mode [Latched], no device in any slot. The VMM
// forwards the guest's port accesses to Read, Write, ReadGPE and WriteGPE (see
// [Ports]) and reports what happens to slots with ColdPlug, Plug and
// RequestUnplug. Hooks that are nil are not called.
//
// A Device is not safe for concurrent use; serialise access as the VMM's
// device lock does. A hook may use the Device: its state is consistent at
// each call.
type Device struct {
	State

	// Mode is the generation of the block that the guest's firmware expects.
	Mode Mode

	// EjectAll ejects every slot that a write to RegEject names, which is how
	// the text reads and what Cloud Hypervisor does. QEMU ejects only the
	// lowest.
	EjectAll bool

	// BlockSize is the length of the register block in bytes: one of the
	// Size constants. 0 means Size2012 in mode Level, else SizeQEMU6. Accesses
	// past it read all ones.
	BlockSize uint64

	// GPELen is the length of the GPE block in bytes, even: half status, half
	// enable. 0 means 4, as on i440fx; q35's is 16, which is the most.
	GPELen uint8

	// GPESurvivesReset keeps the GPE block over a Reset, as QEMU 5.2 does.
	GPESurvivesReset bool

	// SetIRQ is called with the level of the SCI whenever that changes.
	SetIRQ func(level bool)

	// Eject is called when the guest, or a Reset, removes what is in a slot:
	// all functions of it. The slot is empty by then.
	Eject func(bus, slot int)

	// AcpiIndex returns the acpi-index of the device in a slot, 0 if it has
	// none. nil means that no device has one.
	AcpiIndex func(bus, slot int) uint32

	// Trace is told of accesses and calls, and of what follows from each, in
	// that order.
	Trace func(Event)
}

// size returns the length of the register block.
func (d *Device) size() uint64 {
	switch {
	case d.BlockSize != 0:
		return d.BlockSize
	case d.Mode == Level:
		return Size2012
	}
	return SizeQEMU6
}

// bus returns the bus that the registers speak of and its number, nil if the
// guest selected none.
func (d *Device) bus() (*Bus, int) {
	if d.Mode != ClearOnRead {
		return &d.Bus[0], 0
	}
	if d.Select >= NumBuses {
		return nil, -1
	}
	return &d.Bus[d.Select], int(d.Select)
}

// isRegister reports whether an access of n bytes at off reaches a register:
// only whole registers can be accessed.
func (d *Device) isRegister(off uint64, n int) bool {
	return n == 4 && off%4 == 0 && off < d.size()
}

// Read is a guest's read of len(p) bytes at off from the block's base. Only
// aligned reads of 4 bytes return registers; others within the block return
// zeros and have no effect; what lies past the block reads as ones.
func (d *Device) Read(off uint64, p []byte) {
	if d.isRegister(off, len(p)) {
		binary.LittleEndian.PutUint32(p, d.read(off))
	} else {
		fill(p, off, d.size())
	}
	if d.Trace != nil {
		d.traceAccess(EventRead, off, p, !d.isRegister(off, len(p)))
	}
}

// fill sets p, read at off, to zeros up to size and ones past it.
func fill(p []byte, off, size uint64) {
	for i := range p {
		p[i] = 0xff
		if off < size && uint64(i) < size-off {
			p[i] = 0
		}
	}
}

func (d *Device) read(off uint64) uint32 {
	b, _ := d.bus()
	if b == nil {
		return 0
	}
	switch off {
	case RegUp:
		switch d.Mode {
		case ClearOnRead:
			up := b.Up
			b.Up = 0
			return up
		case Level:
			return b.Present &^ b.Locked
		}
		return b.Up
	case RegDown:
		return b.Down
	case RegRemovable:
		return ^b.Locked
	case RegSelect:
		if d.Mode == ClearOnRead {
			return d.Select
		}
	case RegIndex:
		index := d.Index
		d.Index = 0
		return index
	}
	return 0
}

// Write is a guest's write of p at off from the block's base. Only aligned
// writes of 4 bytes within the block have an effect.
func (d *Device) Write(off uint64, p []byte) {
	register := d.isRegister(off, len(p))
	if d.Trace != nil {
		d.traceAccess(EventWrite, off, p, !register)
	}
	if register {
		d.write(off, binary.LittleEndian.Uint32(p))
	}
}

func (d *Device) write(off uint64, v uint32) {
	d.Index = 0 // by a write to any register
	b, sel := d.bus()
	switch off {
	case RegEject:
		if b != nil {
			d.eject(sel, v)
		}
	case RegSelect:
		if d.Mode == ClearOnRead {
			d.Select = v
		}
	case RegIndex:
		if b != nil && v != 0 && d.AcpiIndex != nil {
			d.Index = d.AcpiIndex(sel, bits.TrailingZeros32(v))
		}
	}
}

func (d *Device) eject(sel int, slots uint32) {
	if !d.EjectAll {
		slots &= -slots // the lowest
	}
	for ; slots != 0; slots &= slots - 1 {
		d.ejectSlot(sel, bits.TrailingZeros32(slots))
	}
}

// ejectSlot ends what is pending for a slot, and empties it if it holds a
// device that can be removed. No request need have come before.
func (d *Device) ejectSlot(sel, slot int) {
	b, bit := &d.Bus[sel], uint32(1)<<slot
	b.Up &^= bit
	b.Down &^= bit
	if b.Present&^b.Fixed&bit == 0 {
		return
	}
	b.Present &^= bit
	if d.Eject != nil {
		d.Eject(sel, slot)
	}
	if d.Trace != nil {
		d.Trace(Event{Kind: EventEjected, Bus: sel, Slot: slot})
	}
}

// Reset is a reset of the machine. Slots whose removal is pending are ejected,
// the lowest first; RegRemovable follows Fixed; the GPE block is cleared
// unless GPESurvivesReset. RegUp and RegSelect survive, as in QEMU.
func (d *Device) Reset() {
	for sel := range d.Bus {
		b := &d.Bus[sel]
		for down := b.Down; down != 0; down &= down - 1 {
			d.ejectSlot(sel, bits.TrailingZeros32(down))
		}
		b.Locked = b.Fixed
	}
	if !d.GPESurvivesReset {
		was := d.SCI()
		d.GPE = GPE{}
		d.updateSCI(was)
	}
	if d.Trace != nil {
		d.Trace(Event{Kind: EventReset})
	}
}

// slot returns the bus and the bit of a slot.
func (d *Device) slot(bus, slot int) (*Bus, uint32, error) {
	if bus < 0 || bus >= NumBuses || slot < 0 || slot >= NumSlots || bus > 0 && d.Mode != ClearOnRead {
		return nil, 0, fmt.Errorf("%w: bus %d slot %d in mode %v", ErrNoSlot, bus, slot, d.Mode)
	}
	return &d.Bus[bus], 1 << slot, nil
}

// ColdPlug places a device in a slot before the guest starts: the guest is not
// told. A fixed device, such as the host bridge in slot 0, cannot be removed.
func (d *Device) ColdPlug(bus, slot int, fixed bool) error {
	b, bit, err := d.slot(bus, slot)
	if err != nil {
		return err
	}
	b.Present |= bit
	if fixed {
		b.Fixed |= bit
		b.Locked |= bit
	}
	return nil
}

// Plug places a device in a slot while the guest runs and tells it. To plug
// one more function of a device that is already there tells it again.
func (d *Device) Plug(bus, slot int) error {
	b, bit, err := d.slot(bus, slot)
	if err != nil {
		return err
	}
	b.Present |= bit
	b.Up |= bit
	d.notify(EventPlugged, bus, slot)
	return nil
}

// RequestUnplug asks the guest to give up the device in a slot, which stays
// there until the guest ejects it. A guest may take its time, or never answer
// if no operating system runs yet: see [Device.Pending] and
// [Device.CancelUnplug]. To ask again tells the guest again, as QEMU up to 5.2
// does; later ones refuse to for five seconds after the first time.
func (d *Device) RequestUnplug(bus, slot int) error {
	b, bit, err := d.slot(bus, slot)
	if err != nil {
		return err
	}
	if b.Present&bit == 0 {
		return fmt.Errorf("%w: bus %d slot %d", ErrEmpty, bus, slot)
	}
	if b.Fixed&bit != 0 {
		return fmt.Errorf("%w: bus %d slot %d", ErrFixed, bus, slot)
	}
	b.Down |= bit
	d.notify(EventUnplugRequested, bus, slot)
	return nil
}

// Pending reports whether the removal of a slot's device was asked for and the
// guest has not ejected it.
func (d *Device) Pending(bus, slot int) bool {
	b, bit, err := d.slot(bus, slot)
	return err == nil && b.Down&bit != 0
}

// CancelUnplug takes back a RequestUnplug, as far as the guest has not seen
// it.
func (d *Device) CancelUnplug(bus, slot int) {
	if b, bit, err := d.slot(bus, slot); err == nil {
		b.Down &^= bit
	}
}

// notify raises the event that makes the guest look at RegUp and RegDown.
func (d *Device) notify(k EventKind, bus, slot int) {
	if d.Trace != nil {
		d.Trace(Event{Kind: k, Bus: bus, Slot: slot})
	}
	d.RaiseGPE(GPEBit)
}
