package ivshmem

import (
	"encoding/json"
	"fmt"
)

// A State is all that a guest can change and all that a server assigns: the
// registers as plain values, encoded so that the zero State is power-on.
// States compare with ==; a copy is a snapshot; the JSON form is complete.
// Values out of range, as a damaged snapshot may hold, do no harm: bits that
// do not exist read as 0.
type State struct {
	IntrMask   uint32 // Interrupt Mask
	IntrStatus uint32 // Interrupt Status

	ID    uint16 // what IVPosition reads; survives a reset
	Ready bool   // revision 0: the shared memory is there, IVPosition reads ID; survives a reset

	Command       uint16    // PCI command register
	CacheLine     uint8     // PCI cache line size
	InterruptLine uint8     // PCI interrupt line
	BARs          [4]uint32 // address bits of BAR0 to BAR3, BAR3 being the upper half of BAR2
	MSIXControl   uint16    // MSI-X message control: [MSIXEnable] and [MSIXMaskAll] only

	// Scratch is the configuration space from 0x40 on, where no capability
	// lies: QEMU lets a guest write it, and it survives a reset.
	Scratch [configSize - capOffset]uint8

	Table   MSIXTable               // MSI-X table
	Pending [MaxVectors / 64]uint64 // MSI-X pending bits, vector 0 in bit 0 of the first word
}

// An MSIXTable is the MSI-X table of a device, of which as many entries exist
// as the device has vectors. Its JSON form leaves out the entries at the end
// that are as at power-on.
type MSIXTable [MaxVectors]MSIXEntry

// An MSIXEntry is one entry of the MSI-X table.
type MSIXEntry struct {
	Address uint64 // where the message is written; all bits as the guest wrote them
	Data    uint32 // the message
	// Control is the vector control word with bit 0 inverted, so that an entry
	// is masked at zero, as it is after power-on.
	Control uint32
}

// Masked reports whether the mask bit of the entry is set.
func (e MSIXEntry) Masked() bool { return e.Control&vectorMask == 0 }

// MarshalJSON encodes the table up to the last entry that was touched.
func (t MSIXTable) MarshalJSON() ([]byte, error) {
	n := len(t)
	for n > 0 && t[n-1] == (MSIXEntry{}) {
		n--
	}
	return json.Marshal(t[:n])
}

// UnmarshalJSON decodes a table; entries that are left out are as at power-on.
func (t *MSIXTable) UnmarshalJSON(b []byte) error {
	var entries []MSIXEntry
	if err := json.Unmarshal(b, &entries); err != nil {
		return err
	}
	if len(entries) > len(t) {
		return fmt.Errorf("ivshmem: msi-x table of %d entries, at most %d exist", len(entries), len(t))
	}
	*t = MSIXTable{}
	copy(t[:], entries)
	return nil
}
