package vma

import (
	"encoding/binary"
	"math/bits"
)

// The extent header, "VMA Extent Header" of the specification. Extents follow
// the header and each other without padding; the blocks follow the header of
// their extent, in the order of the slots, in a slot from bit 0 on.
const (
	extentMagic = "VMAE"

	offExtentReserved = 4  // uint16, 0
	offBlockCount     = 6  // uint16, blocks that follow
	offExtentUUID     = 8  // 16 bytes
	offExtentMD5      = 24 // 16 bytes, taken as zero while summing the header
	offSlots          = 40 // 59 slots of 8 bytes
	extentHeader      = 512

	slotsPerExtent = (extentHeader - offSlots) / 8
	// writerSlots is how many slots the reference writer uses, and so do we.
	writerSlots = 58

	maxBlocks = slotsPerExtent * BlocksPerCluster
	maxExtent = extentHeader + slotsPerExtent*ClusterSize
	// maxPeek is how far a walk looks ahead: an extent, and the header of the
	// next one to be sure of it.
	maxPeek = maxExtent + extentHeader
)

// A slot is an entry of an extent header: mask, a reserved byte, device ID,
// cluster number, from the high bits to the low.
type slot uint64

func makeSlot(mask uint16, dev uint8, cluster uint32) slot {
	return slot(mask)<<48 | slot(dev)<<32 | slot(cluster)
}

func (s slot) mask() uint16    { return uint16(s >> 48) }
func (s slot) reserved() uint8 { return uint8(s >> 40) }
func (s slot) dev() uint8      { return uint8(s >> 32) }
func (s slot) cluster() uint32 { return uint32(s) }

// place returns s without its mask.
func (s slot) place() slot { return s << 16 >> 16 }

// of reports whether s is one of the device, and its reserved byte is 0.
func (s slot) of(dev uint8) bool { return uint16(s>>32) == uint16(dev) }

func (s slot) blocks() int { return bits.OnesCount16(s.mask()) }

// An extentView is the 512 bytes of an extent header.
type extentView []byte

func (e extentView) hasMagic() bool   { return string(e[:4]) == extentMagic }
func (e extentView) reserved() uint16 { return binary.BigEndian.Uint16(e[offExtentReserved:]) }
func (e extentView) blocks() int      { return int(binary.BigEndian.Uint16(e[offBlockCount:])) }
func (e extentView) uuid() [16]byte   { return [16]byte(e[offExtentUUID:]) }
func (e extentView) sum() [16]byte    { return [16]byte(e[offExtentMD5:]) }
func (e extentView) slot(i int) slot  { return slot(binary.BigEndian.Uint64(e[offSlots+8*i:])) }
func (e extentView) setSlot(i int, s slot) {
	binary.BigEndian.PutUint64(e[offSlots+8*i:], uint64(s))
}

// maskedBlocks returns the sum of the blocks of all slots that have a device.
func (e extentView) maskedBlocks() int {
	n := 0
	for i := range slotsPerExtent {
		if s := e.slot(i); s.dev() != 0 {
			n += s.blocks()
		}
	}
	return n
}

// check returns what is wrong with the header in an archive of that uuid, nil
// accepting any, and at which byte; -1 for nothing.
func (e extentView) check(uuid *[16]byte) (code Code, off int64, ok bool) {
	switch {
	case !e.hasMagic():
		return CodeExtentMagic, 0, false
	case checksum(e, offExtentMD5) != e.sum():
		return CodeExtentMD5, offExtentMD5, false
	case uuid != nil && e.uuid() != *uuid:
		return CodeExtentUUID, offExtentUUID, false
	case e.reserved() != 0:
		return CodeExtentReserved, offExtentReserved, false
	case e.blocks() > maxBlocks:
		return CodeBlockCount, offBlockCount, false
	}
	return 0, -1, true
}

// seal fills in everything but the slots.
func (e extentView) seal(uuid [16]byte, blocks int) {
	copy(e, extentMagic)
	binary.BigEndian.PutUint16(e[offExtentReserved:], 0)
	binary.BigEndian.PutUint16(e[offBlockCount:], uint16(blocks))
	copy(e[offExtentUUID:], uuid[:])
	sum := checksum(e, offExtentMD5)
	copy(e[offExtentMD5:], sum[:])
}
