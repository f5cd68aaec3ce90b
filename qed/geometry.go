package qed

import (
	"math/bits"

	"github.com/virtfmt/virtfmt/internal/align"
)

// A geometry turns offsets of the disk into places of table entries, section
// "Logical offset translation".
type geometry struct {
	clusterBits uint
	tableBits   uint // of the number of entries of a table
	l1          hostOff
	tableBytes  int64
	headerBytes int64
}

func (h *Header) geometry() geometry {
	return geometry{
		clusterBits: uint(bits.TrailingZeros32(h.ClusterSize)),
		tableBits:   uint(bits.TrailingZeros64(uint64(h.entriesPerTable()))),
		l1:          hostOff(h.L1TableOffset),
		tableBytes:  h.tableBytes(),
		headerBytes: h.headerBytes(),
	}
}

func (g *geometry) clusterSize() int64 { return 1 << g.clusterBits }

// cluster returns the number of the cluster of the disk that holds off.
func (g *geometry) cluster(off guestOff) int64 { return int64(off) >> g.clusterBits }

// inCluster returns where in its cluster off lies.
func (g *geometry) inCluster(off guestOff) hostOff { return hostOff(off) & (1<<g.clusterBits - 1) }

// restOfCluster returns how many bytes there are from off to the end of its
// cluster.
func (g *geometry) restOfCluster(off guestOff) int64 {
	return g.clusterSize() - int64(g.inCluster(off))
}

// restOfTable returns how many bytes there are from off to the end of what its
// L2 table covers. Where that is 64 bits wide it is cut to what an int64
// holds.
func (g *geometry) restOfTable(off guestOff) int64 {
	covers := g.clusterBits + g.tableBits
	if covers >= 63 {
		return 1<<63 - 1 - int64(off)
	}
	return 1<<covers - int64(off)&(1<<covers-1)
}

// l1EntryAt returns where the L1 entry for off lies.
func (g *geometry) l1EntryAt(off guestOff) hostOff {
	return g.l1 + hostOff(uint64(off)>>(g.clusterBits+g.tableBits))*entrySize
}

// l2EntryAt returns where the L2 entry for off lies in the table that l1 points
// to.
func (g *geometry) l2EntryAt(l1 entry, off guestOff) hostOff {
	i := uint64(off) >> g.clusterBits & (1<<g.tableBits - 1)
	return hostOff(l1) + hostOff(i)*entrySize
}

// checkTable holds the offset of an L2 table against a file of the given
// length: aligned, after the header, with room for the whole table.
func (g *geometry) checkTable(e entry, length int64) (FindingKind, bool) {
	switch {
	case !align.IsAligned(uint64(e), uint64(g.clusterSize())):
		return FindingMisaligned, false
	case uint64(e) < uint64(g.headerBytes) || uint64(e) > uint64(max(0, length-g.tableBytes)):
		return FindingNoRoom, false
	}
	return 0, true
}

// checkData holds the offset of a data cluster against a file of the given
// length.
func (g *geometry) checkData(e entry, length int64) (FindingKind, bool) {
	switch {
	case !align.IsAligned(uint64(e), uint64(g.clusterSize())):
		return FindingMisaligned, false
	case uint64(e) < uint64(g.headerBytes) || uint64(e) > uint64(max(0, length-g.clusterSize())):
		return FindingOutOfRange, false
	}
	return 0, true
}

// overL1 reports whether one of the n bytes at off of the file lies in the L1
// table.
func (g *geometry) overL1(off hostOff, n int64) bool {
	return off < g.l1+hostOff(g.tableBytes) && off+hostOff(n) > g.l1
}
