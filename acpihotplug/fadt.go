package acpihotplug

import (
	"encoding/binary"
	"fmt"
)

// GPE0 holds the values of the FADT that describe the GPE block, ACPI 6.4
// section 5.2.9.
type GPE0 struct {
	Block  uint32 // GPE0_BLK: port of the block
	Length uint8  // GPE0_BLK_LEN: bytes of the block, status and enable
	SCI    uint16 // SCI_INT: interrupt line
}

// GPE0 returns the FADT's values for a Device at these ports, with i440fx's
// and q35's interrupt line.
func (s Ports) GPE0() GPE0 {
	_, gpeBase := s.bases()
	return GPE0{Block: uint32(gpeBase), Length: uint8(2 * s.Device.gpeHalf()), SCI: SCI}
}

// Offsets of the fields in the FADT.
const (
	fadtSCI     = 46  // SCI_INT, 2 bytes
	fadtBlock   = 80  // GPE0_BLK, 4 bytes
	fadtLength  = 92  // GPE0_BLK_LEN, 1 byte
	fadtXBlock  = 220 // X_GPE0_BLK, a generic address of 12 bytes
	fadtMinLen  = 116 // of ACPI 1.0's table
	fadtXMinLen = 232 // of a table with X_GPE0_BLK

	fadtMaxLength = 31 // X_GPE0_BLK has the width in bits in one byte
)

// Patch writes the values to a FADT and corrects its checksum. The 64-bit
// address X_GPE0_BLK is written where the table has one. The length is at most
// 31 bytes.
func (g GPE0) Patch(fadt []byte) error {
	if len(fadt) < fadtMinLen || string(fadt[:4]) != "FACP" {
		return fmt.Errorf("acpihotplug: not a FADT of at least %d bytes", fadtMinLen)
	}
	if n := binary.LittleEndian.Uint32(fadt[4:]); uint64(n) != uint64(len(fadt)) {
		return fmt.Errorf("acpihotplug: the FADT says that it has %d bytes, not %d", n, len(fadt))
	}
	if g.Length > fadtMaxLength {
		return fmt.Errorf("acpihotplug: GPE0_BLK_LEN %d is over %d bytes", g.Length, fadtMaxLength)
	}
	binary.LittleEndian.PutUint16(fadt[fadtSCI:], g.SCI)
	binary.LittleEndian.PutUint32(fadt[fadtBlock:], g.Block)
	fadt[fadtLength] = g.Length
	if len(fadt) >= fadtXMinLen {
		x := fadt[fadtXBlock:fadtXMinLen]
		// Space, width in bits, offset in bits, access size: one byte.
		copy(x, []byte{spaceIO, 8 * g.Length, 0, 1})
		binary.LittleEndian.PutUint64(x[4:], uint64(g.Block))
	}
	setChecksum(fadt)
	return nil
}
