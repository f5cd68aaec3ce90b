package qed

import "encoding/binary"

// Offsets of the two address spaces do not mix. The exported API speaks
// int64.
type (
	guestOff int64 // byte of the disk
	hostOff  int64 // byte of the file
)

// entrySize is the length of a table entry in bytes.
const entrySize = 8

// An entry is an offset in an L1 or L2 table, section "Tables": 0 is
// unallocated, 1 in an L2 table a cluster of zeros that owns no space, all
// else the offset of a table or of a data cluster. The low 12 bits are
// reserved.
type entry uint64

const (
	unallocated entry = 0
	zeroCluster entry = 1
)

// A table is a view of a piece of an L1 or L2 table.
type table []byte

func (t table) len() int       { return len(t) / entrySize }
func (t table) at(i int) entry { return entry(binary.LittleEndian.Uint64(t[i*entrySize:])) }
