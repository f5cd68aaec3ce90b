package qcow2

import "fmt"

// A FindingKind says what [Check] found wrong.
type FindingKind uint8

// What can be wrong with an image. Leaks waste space; everything else is a
// corruption, but for [FindingNoRefcount].
const (
	// FindingLeak is a cluster whose refcount is larger than the number of
	// references to it.
	FindingLeak FindingKind = iota
	// FindingRefcount is a cluster whose refcount is smaller than the number
	// of references to it: a write may destroy what it holds.
	FindingRefcount
	// FindingOverflow is a cluster with more references than a refcount of the
	// image's width can count.
	FindingOverflow
	// FindingNoRefcount is a range of clusters whose refcounts cannot be read,
	// because their refcount block is not where one can be.
	FindingNoRefcount
	// FindingCopied is an L1 or L2 entry whose COPIED flag does not say
	// whether the refcount is one.
	FindingCopied
	// FindingBeyondEnd is a reference to what lies past the end of the file.
	FindingBeyondEnd
	// FindingReserved is an entry with reserved bits set.
	FindingReserved
	// FindingUnaligned is an entry that points between clusters.
	FindingUnaligned
	// FindingCompressedCopied is a compressed cluster with the COPIED flag.
	FindingCompressedCopied
	// FindingCompressedExternal is a compressed cluster in an image with an
	// external data file, which cannot hold one.
	FindingCompressedExternal
	// FindingSubclusters is an extended L2 entry whose subcluster bits
	// contradict each other or the entry.
	FindingSubclusters
	// FindingRefcountBlock is a refcount table entry that points outside of
	// the file, or to what something else uses.
	FindingRefcountBlock
	// FindingSnapshot is a snapshot that lacks what it must have, or that an
	// image of its kind cannot hold.
	FindingSnapshot
	// FindingBitmap is a bitmap directory or table that is not well-formed.
	FindingBitmap
)

var findingNames = [...]string{
	FindingLeak:               "leaked cluster",
	FindingRefcount:           "refcount too small",
	FindingOverflow:           "refcount overflow",
	FindingNoRefcount:         "refcount unreadable",
	FindingCopied:             "wrong COPIED flag",
	FindingBeyondEnd:          "reference past the end of the file",
	FindingReserved:           "reserved bits set",
	FindingUnaligned:          "not cluster-aligned",
	FindingCompressedCopied:   "COPIED flag on a compressed cluster",
	FindingCompressedExternal: "compressed cluster with an external data file",
	FindingSubclusters:        "contradicting subcluster bits",
	FindingRefcountBlock:      "bad refcount block",
	FindingSnapshot:           "bad snapshot",
	FindingBitmap:             "bad bitmap",
}

// String returns a few words such as "leaked cluster".
func (k FindingKind) String() string {
	if int(k) < len(findingNames) {
		return findingNames[k]
	}
	return fmt.Sprintf("finding kind %d", uint8(k))
}

// A Structure is a part of an image that findings lie in.
type Structure uint8

// The parts of an image.
const (
	StructureCluster       Structure = iota // a host cluster, whatever it holds
	StructureHeader                         // the header and its extensions
	StructureL1                             // an L1 table, the active or a snapshot's
	StructureL2                             // an L2 table
	StructureRefcountTable                  // the refcount table
	StructureSnapshotTable                  // the snapshot table
	StructureBitmap                         // the bitmap directory or a bitmap table
)

var structureNames = [...]string{
	StructureCluster:       "cluster",
	StructureHeader:        "header",
	StructureL1:            "L1 entry",
	StructureL2:            "L2 entry",
	StructureRefcountTable: "refcount table entry",
	StructureSnapshotTable: "snapshot table entry",
	StructureBitmap:        "bitmap",
}

// String returns a word or two such as "L2 entry".
func (s Structure) String() string {
	if int(s) < len(structureNames) {
		return structureNames[s]
	}
	return fmt.Sprintf("structure %d", uint8(s))
}

// A Finding is one thing that is wrong with an image.
type Finding struct {
	Kind      FindingKind
	Structure Structure // where Offset lies

	// Offset is the place in the image file: of the cluster for those about
	// refcounts, of the entry otherwise.
	Offset int64

	// Value is the refcount that is stored for a cluster, or the entry.
	Value uint64

	// References is how many references there are to a cluster. For an entry
	// it is how many times the finding counts: an L2 table that several
	// snapshots share is reported once, and counts for each of them.
	References uint64
}

// String returns a line of text about f.
func (f Finding) String() string {
	switch f.Kind {
	case FindingLeak, FindingRefcount, FindingOverflow:
		return fmt.Sprintf("%v at %#x: %v: refcount %d, references %d", f.Structure, f.Offset, f.Kind, f.Value, f.References)
	case FindingNoRefcount:
		return fmt.Sprintf("%v at %#x and %d more: %v", f.Structure, f.Offset, f.References-1, f.Kind)
	}
	return fmt.Sprintf("%v at %#x: %v: %#x", f.Structure, f.Offset, f.Kind, f.Value)
}
