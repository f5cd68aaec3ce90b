package qcow2

import "encoding/binary"

// Offsets of the two address spaces do not mix. The exported API speaks
// int64.
type (
	guestOff   int64 // byte of the virtual disk
	hostOff    int64 // byte of the image file, or of the external data file
	clusterIdx int64 // host cluster: a hostOff divided by the cluster size
)

// Bits of L1 and L2 entries, section "Cluster mapping".
const (
	flagCopied     = 1 << 63 // the refcount is exactly one
	flagCompressed = 1 << 62
	flagZero       = 1 << 0 // standard cluster of version 3 without subclusters

	entryOffsetMask    = 0x00fffffffffffe00 // bits 9 to 55
	l1ReservedMask     = 0x7f000000000001ff
	l2ReservedMask     = 0x3f000000000001fe
	tableEntryReserved = 0x1ff // refcount table: bits 0 to 8
)

// An l1Entry points to an L2 table:
//
//	bit 0-8    reserved
//	    9-55   offset of the L2 table, 0 if there is none
//	    56-62  reserved
//	    63     COPIED: the refcount of the L2 table is exactly one
type l1Entry uint64

const l1EntrySize = 8

func makeL1Entry(off hostOff, copied bool) l1Entry {
	e := l1Entry(off)
	if copied {
		e |= flagCopied
	}
	return e
}

func (e l1Entry) offset() hostOff  { return hostOff(e & entryOffsetMask) }
func (e l1Entry) copied() bool     { return e&flagCopied != 0 }
func (e l1Entry) reserved() uint64 { return uint64(e) & l1ReservedMask }

// An l2Entry is an L2 table entry, or the first word of an extended one:
//
//	bit 0      reads as zeros (version 3 without subclusters)
//	    1-8    reserved
//	    9-55   offset of the host cluster
//	    56-61  reserved
//	    62     compressed: bits 0-61 are a compressed cluster descriptor
//	    63     COPIED: the refcount of the cluster is exactly one
type l2Entry uint64

func makeL2Entry(off hostOff, copied bool) l2Entry {
	e := l2Entry(off)
	if copied {
		e |= flagCopied
	}
	return e
}

func (e l2Entry) copied() bool     { return e&flagCopied != 0 }
func (e l2Entry) compressed() bool { return e&flagCompressed != 0 }

// zero reports the zero flag. Only meaningful for a standard cluster of an
// image without subclusters.
func (e l2Entry) zero() bool { return e&flagZero != 0 }

// offset returns the host cluster of a standard cluster.
func (e l2Entry) offset() hostOff { return hostOff(e & entryOffsetMask) }

// reserved returns the reserved bits that are set in a standard cluster
// descriptor.
func (e l2Entry) reserved() uint64 { return uint64(e) & l2ReservedMask }

// subclusters is the second word of an extended L2 entry:
//
//	bit 0-31   subcluster i is allocated
//	    32-63  subcluster i-32 reads as zeros
//
// Both bits of one subcluster set is a corruption. Images without extended L2
// entries have no such word.
type subclusters uint64

const (
	subclustersPerCluster = 32
	allAllocated          = subclusters(0x00000000ffffffff)
	allZeroes             = subclusters(0xffffffff00000000)
)

func (s subclusters) allocated() uint32 { return uint32(s) }
func (s subclusters) zeroes() uint32    { return uint32(s >> 32) }
func (s subclusters) valid() bool       { return s.allocated()&s.zeroes() == 0 }

// subclusterRange returns a mask of the n subclusters from first on.
//
// Preconditions: first+n <= subclustersPerCluster.
func subclusterRange(first, n int) uint32 {
	return uint32((uint64(1)<<n - 1) << first)
}

// withAllocated returns s with the subclusters of mask allocated.
func (s subclusters) withAllocated(mask uint32) subclusters {
	return (s | subclusters(mask)) &^ (subclusters(mask) << 32)
}

// withZeroes returns s with the subclusters of mask reading as zeros and not
// allocated.
func (s subclusters) withZeroes(mask uint32) subclusters {
	return (s | subclusters(mask)<<32) &^ subclusters(mask)
}

// An entry is an L2 entry of either form: subs is 0 in an image without
// extended entries.
type entry struct {
	l2Entry
	subs subclusters
}

// A refTableEntry points to a refcount block: bits 9 to 63 are its offset, 0
// if there is none.
type refTableEntry uint64

const refTableEntrySize = 8

// offset returns the place of the refcount block. It is negative where bit 63
// is set, which no file can reach.
func (e refTableEntry) offset() hostOff  { return hostOff(e &^ tableEntryReserved) }
func (e refTableEntry) reserved() uint64 { return uint64(e) & tableEntryReserved }

// l1Table is a view of an L1 table.
type l1Table []byte

func (t l1Table) len() int             { return len(t) / l1EntrySize }
func (t l1Table) at(i int) l1Entry     { return l1Entry(binary.BigEndian.Uint64(t[i*l1EntrySize:])) }
func (t l1Table) set(i int, e l1Entry) { binary.BigEndian.PutUint64(t[i*l1EntrySize:], uint64(e)) }

// refTable is a view of a refcount table.
type refTable []byte

func (t refTable) len() int { return len(t) / refTableEntrySize }
func (t refTable) at(i int) refTableEntry {
	return refTableEntry(binary.BigEndian.Uint64(t[i*refTableEntrySize:]))
}
func (t refTable) set(i int, e refTableEntry) {
	binary.BigEndian.PutUint64(t[i*refTableEntrySize:], uint64(e))
}

// Sizes of L2 entries, in bytes.
const (
	l2EntrySize    = 8
	extL2EntrySize = 16
)

// l2Table is a view of a piece of an L2 table without subclusters.
type l2Table []byte

func (t l2Table) len() int             { return len(t) / l2EntrySize }
func (t l2Table) at(i int) l2Entry     { return l2Entry(binary.BigEndian.Uint64(t[i*l2EntrySize:])) }
func (t l2Table) set(i int, e l2Entry) { binary.BigEndian.PutUint64(t[i*l2EntrySize:], uint64(e)) }

// extL2Table is a view of a piece of an L2 table with extended entries.
type extL2Table []byte

func (t extL2Table) len() int { return len(t) / extL2EntrySize }
func (t extL2Table) at(i int) entry {
	b := t[i*extL2EntrySize:][:extL2EntrySize]
	return entry{l2Entry(binary.BigEndian.Uint64(b)), subclusters(binary.BigEndian.Uint64(b[8:]))}
}
func (t extL2Table) set(i int, e entry) {
	b := t[i*extL2EntrySize:][:extL2EntrySize]
	binary.BigEndian.PutUint64(b, uint64(e.l2Entry))
	binary.BigEndian.PutUint64(b[8:], uint64(e.subs))
}

// refBlock is a view of a refcount block, or of a piece of one that begins at
// an entry. An entry has 1<<order bits; entries narrower than a byte fill it
// from the least significant bit on.
type refBlock []byte

// maxRefcount returns the largest refcount that 1<<order bits hold.
func maxRefcount(order uint) uint64 { return 1<<(1<<order) - 1 }

func (b refBlock) len(order uint) int {
	if order < 3 {
		return len(b) << (3 - order)
	}
	return len(b) >> (order - 3)
}

func (b refBlock) at(order uint, i int) uint64 {
	switch order {
	case 3:
		return uint64(b[i])
	case 4:
		return uint64(binary.BigEndian.Uint16(b[i*2:]))
	case 5:
		return uint64(binary.BigEndian.Uint32(b[i*4:]))
	case 6:
		return binary.BigEndian.Uint64(b[i*8:])
	}
	perByte := 3 - order // as a power of two
	shift := uint(i) & (1<<perByte - 1) << order
	return uint64(b[i>>perByte]>>shift) & maxRefcount(order)
}

// set stores a refcount.
//
// Preconditions: n <= maxRefcount(order).
func (b refBlock) set(order uint, i int, n uint64) {
	switch order {
	case 3:
		b[i] = byte(n)
	case 4:
		binary.BigEndian.PutUint16(b[i*2:], uint16(n))
	case 5:
		binary.BigEndian.PutUint32(b[i*4:], uint32(n))
	case 6:
		binary.BigEndian.PutUint64(b[i*8:], n)
	default:
		perByte := 3 - order
		shift := uint(i) & (1<<perByte - 1) << order
		b[i>>perByte] = b[i>>perByte]&^byte(maxRefcount(order)<<shift) | byte(n<<shift)
	}
}
