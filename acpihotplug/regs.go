package acpihotplug

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Where QEMU's machine types place the two blocks in the I/O port space.
const (
	Base    = 0xae00 // register block of i440fx
	BaseQ35 = 0x0cc0 // register block of q35, 6.1 and later
	GPEBase = 0xafe0 // GPE block of i440fx; q35's is at PMBASE + 0x20
	SCI     = 9      // interrupt line of both
)

// Registers of the block, as offsets from its base. Each is 32 bits wide, in
// little-endian order, one bit per slot unless stated.
const (
	RegUp        = 0x00 // R   slots with a device that was plugged in; reset 0
	RegDown      = 0x04 // R   slots whose removal is asked for; reset 0
	RegEject     = 0x08 // R   feature set, 0: the base set; W slots to eject
	RegRemovable = 0x0c // R   slots whose device can be removed; empty ones count; reset 0xffffffff
	RegSelect    = 0x10 // RW  number of the bus that the other registers speak of; reset 0; ClearOnRead only
	RegIndex     = 0x14 // RW  W loads the acpi-index of the slot, R returns it once; reset 0
)

// NumBuses is how many buses [RegSelect] can tell apart, NumSlots how many
// slots each has.
const (
	NumBuses = 256
	NumSlots = 32
)

// Sizes of the register block in bytes.
const (
	Size2012  = 0x10 // the 2012 text: four registers
	SizeQEMU2 = 0x14 // QEMU 2.0 to 5.2: and RegSelect
	SizeQEMU6 = 0x18 // QEMU 6.0 and later: and RegIndex
)

// Mode is a generation of the register block. They differ in what reading
// [RegUp] shows and does.
type Mode uint8

const (
	// Latched is the 2012 text: a plug sets a bit of RegUp, which stays until
	// that slot is ejected. Today's QEMU behaves so on machine types up to
	// pc-i440fx-1.7 and with acpi-pci-hotplug-with-bridge-support=off. It has
	// one bus: RegSelect reads 0 and ignores writes.
	Latched Mode = iota
	// ClearOnRead is QEMU 2.0 and later: a read of RegUp returns its bits and
	// clears them; RegDown stays until eject. RegSelect chooses the bus.
	ClearOnRead
	// Level is QEMU 1.1 to 1.7 itself: RegUp shows every slot that holds a
	// removable device, those present at power-on too. It has one bus, and the
	// block ends after RegRemovable.
	Level
)

var modeNames = [...]string{Latched: "latched", ClearOnRead: "clear-on-read", Level: "level"}

// String returns the name of m in lower case, such as "clear-on-read".
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return "Mode(" + strconv.Itoa(int(m)) + ")"
}

// ParseMode returns the mode that String gives the name s.
func ParseMode(s string) (Mode, error) {
	for m, name := range modeNames {
		if s == name {
			return Mode(m), nil
		}
	}
	return 0, fmt.Errorf("acpihotplug: no mode is called %q: %s", s, strings.Join(modeNames[:], ", "))
}

// State is everything about a [Device] that changes: its zero value is
// power-on, before the VMM has placed devices. It is comparable, a copy is a
// snapshot, and it marshals to JSON and back.
type State struct {
	GPE    GPE
	Select uint32 // RegSelect as written; 256 and above select no bus
	Index  uint32 // RegIndex, what its next read returns
	Bus    Buses
}

// Bus is the state of one bus: one bit per slot in each field.
type Bus struct {
	Up      uint32 `json:",omitzero"` // plugged in and, as the mode says, not yet seen or not yet ejected
	Down    uint32 `json:",omitzero"` // removal asked for and not yet ejected
	Present uint32 `json:",omitzero"` // holds a device
	Fixed   uint32 `json:",omitzero"` // holds a device that cannot be removed
	// Locked is the complement of RegRemovable. Reset copies Fixed to it, and
	// nothing else changes it once the guest runs.
	Locked uint32 `json:",omitzero"`
}

// Buses holds a bus for each value of [RegSelect]. Where there is no select
// register only the first is used. In JSON it is an object of the buses that
// differ from zero, keyed by selector.
type Buses [NumBuses]Bus

// MarshalJSON implements [json.Marshaler].
func (b Buses) MarshalJSON() ([]byte, error) {
	m := make(map[int]Bus)
	for i, bus := range b {
		if bus != (Bus{}) {
			m[i] = bus
		}
	}
	return json.Marshal(m)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (b *Buses) UnmarshalJSON(data []byte) error {
	var m map[int]Bus
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	var got Buses
	for i, bus := range m {
		if i < 0 || i >= NumBuses {
			return fmt.Errorf("acpihotplug: bus %d: selectors are 0 to %d", i, NumBuses-1)
		}
		got[i] = bus
	}
	*b = got
	return nil
}
