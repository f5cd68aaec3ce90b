package qcow2

import "github.com/virtfmt/virtfmt/internal/align"

// A layout is what the header says about the shape of tables and entries. It
// turns offsets into indexes and entries into kinds.
type layout struct {
	version       uint32
	clusterBits   uint
	refcountOrder uint
	extended      bool // extended L2 entries: 16 bytes, 32 subclusters a cluster
	external      bool // guest clusters lie in an external data file
	externalRaw   bool // which is also a raw image of the disk
	encrypted     bool // guest clusters that are not compressed are encrypted
}

func (h *Header) layout() layout {
	external := h.IncompatibleFeatures&IncompatExternalData != 0
	return layout{
		version:       h.Version,
		clusterBits:   uint(h.ClusterBits),
		refcountOrder: uint(h.RefcountOrder),
		extended:      h.IncompatibleFeatures&IncompatExtendedL2 != 0,
		external:      external,
		externalRaw:   external && h.AutoclearFeatures&AutoclearRawExternal != 0,
		encrypted:     h.CryptMethod != CryptNone,
	}
}

func (l *layout) clusterSize() int64 { return 1 << l.clusterBits }

// entryBits is the size of an L2 entry as a power of two.
func (l *layout) entryBits() uint {
	if l.extended {
		return 4 // extL2EntrySize
	}
	return 3 // l2EntrySize
}

func (l *layout) entrySize() int { return 1 << l.entryBits() }

// l2Bits is the number of entries of an L2 table as a power of two.
func (l *layout) l2Bits() uint { return l.clusterBits - l.entryBits() }

// subBits is the size of the smallest unit that is allocated on its own, a
// subcluster or a cluster, as a power of two.
func (l *layout) subBits() uint {
	if l.extended {
		return l.clusterBits - 5 // subclustersPerCluster
	}
	return l.clusterBits
}

func (l *layout) subclusterSize() int64 { return 1 << l.subBits() }

func (l *layout) l1Index(off guestOff) int64 { return int64(off) >> (l.clusterBits + l.l2Bits()) }

// l2Index returns the index of the entry in its L2 table.
func (l *layout) l2Index(off guestOff) int {
	return int(int64(off)>>l.clusterBits) & (1<<l.l2Bits() - 1)
}

// l1CoverageBits is the number of guest bytes that one L1 entry stands for, as a
// power of two.
func (l *layout) l1CoverageBits() uint { return l.clusterBits + l.l2Bits() }

// l1EntriesFor returns how many L1 entries a disk of size bytes needs.
func (l *layout) l1EntriesFor(size int64) int64 {
	return align.CeilDiv(size, int64(1)<<l.l1CoverageBits())
}

// refBlockBits is the number of refcounts in a block as a power of two.
func (l *layout) refBlockBits() uint { return l.clusterBits + 3 - l.refcountOrder }

func (l *layout) cluster(off hostOff) clusterIdx  { return clusterIdx(off >> l.clusterBits) }
func (l *layout) clusterOff(i clusterIdx) hostOff { return hostOff(i) << l.clusterBits }

// offsetInCluster returns where in its cluster off lies.
func (l *layout) offsetInCluster(off int64) int64 { return off & (1<<l.clusterBits - 1) }

// compressedRange returns where the compressed data of e lies, at most:
// section "Compressed Clusters Descriptor".
//
// Preconditions: e.compressed().
func (l *layout) compressedRange(e l2Entry) (off hostOff, n int64) {
	x := 62 - (l.clusterBits - 8)
	off = hostOff(e & (1<<x - 1))
	sectors := int64(e&(flagCompressed-1))>>x + 1
	return off, sectors*sectorSize - int64(off)&(sectorSize-1)
}

// makeCompressedEntry is the inverse of compressedRange; the n bytes at off
// become whole sectors.
//
// Preconditions: 1 <= n <= cluster size, off < compressedLimit.
func (l *layout) makeCompressedEntry(off hostOff, n int64) l2Entry {
	x := 62 - (l.clusterBits - 8)
	sectors := (int64(off)+n-1)/sectorSize - int64(off)/sectorSize
	return l2Entry(flagCompressed | uint64(sectors)<<x | uint64(off))
}

// compressedLimit is the end of what a compressed descriptor can point to.
func (l *layout) compressedLimit() hostOff {
	return min(hostOff(1)<<(62-(l.clusterBits-8)), l2OffsetLimit)
}

// A clusterKind is what an L2 entry says of a whole cluster. Subclusters of
// one that is not compressed are told apart by the subclusters word.
type clusterKind uint8

const (
	kindUnallocated clusterKind = iota // falls through to the backing file
	kindPlaced                         // subclusters that do so in a cluster that has a place
	kindZeroPlain                      // reads as zeros, owns no cluster
	kindZeroAlloc                      // reads as zeros, owns a cluster
	kindNormal                         // stored as it is
	kindCompressed
)

// kind tells what e is. The subclusters are not looked at: a cluster that has
// a place is kindNormal even if all of its subclusters read as zeros, one that
// has none is kindUnallocated.
func (l *layout) kind(e l2Entry) clusterKind {
	switch {
	case e.compressed():
		return kindCompressed
	case e.zero() && !l.extended:
		if e.offset() != 0 {
			return kindZeroAlloc
		}
		return kindZeroPlain
	case e.offset() != 0 || l.external && e.copied():
		return kindNormal
	}
	return kindUnallocated
}
