package qcow2

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/safeio"
	"github.com/virtfmt/virtfmt/internal/tablecache"
)

// L1 tables are in memory as a whole, L2 tables in slices of at most 4 KiB in
// the table cache. Both are the bytes of the file. They change only with
// Image.mu held exclusively; lookups hold it shared, or not at all in an image
// that is open for reading only.

// A root is where a mapping of guest to host clusters begins: the active L1
// table, or that of a snapshot.
type root struct {
	l1      *tablecache.Resident
	entries int // may be more than l1 holds: the rest is zeros

	// size is that of the disk. Past it nothing is seen of a backing file.
	size *atomic.Int64
	// gone means that the snapshot was deleted. It is set before what it held
	// is unlinked, so that a pin taken before it is seen not to be set protects
	// that.
	gone atomic.Bool
}

// at returns entry i, which is 0 past the end of the table.
func (r *root) at(i int64) l1Entry {
	t := l1Table(r.l1.Bytes())
	if i >= int64(t.len()) {
		return 0
	}
	return t.at(int(i))
}

// unallocated returns how many of n bytes lie before the next L2 table: n0 of
// them before entry i, each of whose entries stands for covered bytes.
func (r *root) unallocated(i, n0, n, covered int64) int64 {
	for held := int64(l1Table(r.l1.Bytes()).len()); n0 < n && r.at(i).offset() == 0; i++ {
		if i >= held {
			return n
		}
		n0 += covered
	}
	return min(n0, n)
}

// loadRoot reads the L1 table of n entries at off. What lies past the end of
// the file is zeros, and is not held in memory while the image cannot be
// written to.
//
// Preconditions: n is within maxL1Bytes.
func (im *Image) loadRoot(off hostOff, n int, size *atomic.Int64) (*root, error) {
	have := int64(n) * l1EntrySize
	inFile := align.Up(max(0, min(have, im.length.Load()-int64(off))), l1EntrySize)
	b, err := safeio.ReadAt(zeroFill{im.r}, int64(off), inFile, maxL1Bytes)
	if err != nil {
		return nil, fmt.Errorf("qcow2: L1 table at %#x: %w", off, err)
	}
	if im.w != nil {
		b = append(b, make([]byte, have-inFile)...)
	}
	im.tables.Reserve(int64(len(b)))
	return &root{l1: tablecache.NewResident(int64(off), b), entries: n, size: size}, nil
}

// zeroFill reads zeros past the end of a file.
type zeroFill struct{ io.ReaderAt }

func (z zeroFill) ReadAt(p []byte, off int64) (int, error) {
	if err := safeio.ReadZeroFill(z.ReaderAt, p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

// readTable fills p for the table cache.
func (im *Image) readTable(p []byte, off int64) error {
	if off >= im.length.Load() {
		return nil // p is zeros
	}
	if err := safeio.ReadZeroFill(im.r, p, off); err != nil {
		return fmt.Errorf("qcow2: table at %#x: %w", off, err)
	}
	return nil
}

// A run is a range of the disk that is stored in one way.
type run struct {
	kind  clusterKind
	n     int64   // bytes, at least 1
	host  hostOff // of the first byte, where hosted
	entry l2Entry // of a compressed cluster
	// copied means that the clusters of a hosted run have the refcount 1, if the
	// mapping is the active one.
	copied bool
}

// errMiss means that a slice of a table is not in memory: run.host says which.
var errMiss = errors.New("table slice not in memory")

// find returns what stands behind the disk from off on, up to n bytes of it.
// In an image that can be written to, the caller holds a pin for as long as it
// uses the run.
//
// Preconditions: off >= 0, n > 0.
func (im *Image) find(r *root, off guestOff, n int64) (run, error) {
	for {
		im.lockShared()
		got, err := im.lookup(r, off, n)
		for err == nil && got.n < n && got.kind == kindNormal {
			next, nextErr := im.lookup(r, off+guestOff(got.n), n-got.n)
			if nextErr != nil || next.kind != kindNormal || next.copied != got.copied || next.host != got.host+hostOff(got.n) {
				break
			}
			got.n += next.n
		}
		im.unlockShared()
		if err != errMiss {
			return got, err
		}
		if _, err := im.tables.Load(int64(got.host)); err != nil {
			return run{}, err
		}
	}
}

// findPlain is find for what most reads are: n bytes of one cluster that is
// stored as it is, of an image without writers, whose tables are in memory. It
// leaves all else to find, errors included. It is short so that a random read
// costs little more than that of the file.
func (im *Image) findPlain(r *root, off guestOff, n int64) (host hostOff, ok bool) {
	in := im.offsetInCluster(int64(off))
	if im.w != nil || im.extended || im.external || im.transform != nil || in+n > im.clusterSize() || r.gone.Load() {
		return 0, false
	}
	table := r.at(im.l1Index(off)).offset()
	if table == 0 || im.offsetInCluster(int64(table)) != 0 {
		return 0, false
	}
	index := im.l2Index(off)
	s := im.tables.Get(int64(table) + int64(index)<<im.entryBits())
	if s == nil {
		return 0, false
	}
	t := l2Table(s.Bytes())
	e := t.at(index & (t.len() - 1))
	if im.kind(e) != kindNormal || im.offsetInCluster(int64(e.offset())) != 0 {
		return 0, false
	}
	return e.offset() + hostOff(in), true
}

func (im *Image) lockShared() {
	if im.w != nil {
		im.mu.RLock()
	}
}

func (im *Image) unlockShared() {
	if im.w != nil {
		im.mu.RUnlock()
	}
}

// lookup is find for what one slice of an L2 table tells. The metadata lock is
// held.
func (im *Image) lookup(r *root, off guestOff, n int64) (run, error) {
	if r.gone.Load() {
		return run{}, ErrNoSnapshot
	}
	i := im.l1Index(off)
	l1e := r.at(i)
	table := l1e.offset()
	covered := int64(1) << im.l1CoverageBits()
	left := covered - int64(off)&(covered-1)
	if table == 0 {
		return run{kind: kindUnallocated, n: r.unallocated(i+1, left, n, covered)}, nil
	}
	n = min(n, left)
	if err := im.checkL1Entry(r, i, l1e); err != nil {
		return run{}, err
	}
	index := im.l2Index(off)
	at := int64(table) + int64(index)<<im.entryBits()
	s := im.tables.Get(at)
	if s == nil {
		return run{host: hostOff(at)}, errMiss
	}
	index &= int(im.tables.SliceSize()>>im.entryBits()) - 1
	if im.extended {
		return im.lookupExtended(extL2Table(s.Bytes()), index, off, n, at)
	}
	return im.lookupPlain(l2Table(s.Bytes()), index, off, n, at)
}

// lookupPlain looks at the entries of t from index i on. The first lies at
// offset at of the file.
func (im *Image) lookupPlain(t l2Table, i int, off guestOff, n, at int64) (run, error) {
	e := t.at(i)
	in := im.offsetInCluster(int64(off))
	got := run{kind: im.kind(e), n: min(n, im.clusterSize()-in)}
	if err := im.checkEntry(e, got.kind, off, at); err != nil {
		return run{}, err
	}
	hosted := false
	switch got.kind {
	case kindCompressed:
		got.entry = e
		return got, nil
	case kindNormal, kindZeroAlloc:
		got.host, got.copied = e.offset()+hostOff(in), e.copied()
		hosted = true
	}
	next := e.offset() + hostOff(im.clusterSize())
	for i++; got.n < n && i < t.len(); i++ {
		e = t.at(i)
		if im.kind(e) != got.kind || hosted && (e.offset() != next || e.copied() != got.copied) {
			break
		}
		next += hostOff(im.clusterSize())
		got.n = min(n, got.n+im.clusterSize())
	}
	return got, nil
}

// lookupExtended is lookupPlain for extended entries.
func (im *Image) lookupExtended(t extL2Table, i int, off guestOff, n, at int64) (run, error) {
	var got run
	in := im.offsetInCluster(int64(off))
	for ; got.n < n && i < t.len(); i++ {
		e := t.at(i)
		kind := im.kind(e.l2Entry)
		here := off + guestOff(got.n)
		if err := im.checkExtendedEntry(e, kind, here, at); err != nil {
			if got.n > 0 {
				break // the error is told when it is its turn
			}
			return run{}, err
		}
		if kind == kindCompressed {
			if got.n == 0 {
				got = run{kind: kind, n: min(n, im.clusterSize()-in), entry: e.l2Entry}
			}
			break
		}
		part, whole := im.subRun(e, kind, in)
		if got.n == 0 {
			got = part
		} else if part.kind != got.kind || got.hosted() && (part.host != got.host+hostOff(got.n) || part.copied != got.copied) {
			break
		} else {
			got.n += part.n
		}
		if !whole {
			break
		}
		in, at = 0, at+extL2EntrySize
	}
	got.n = min(got.n, n)
	return got, nil
}

// hosted reports whether r.host says where r lies.
func (r *run) hosted() bool {
	return r.kind == kindNormal || r.kind == kindZeroAlloc || r.kind == kindPlaced
}

// subRun returns the run of equal subclusters that begins at offset in of the
// cluster, and whether it reaches the cluster's end.
func (im *Image) subRun(e entry, kind clusterKind, in int64) (_ run, whole bool) {
	first := int(in >> im.subBits())
	k := e.subKind(kind, first)
	last := first + 1
	for last < subclustersPerCluster && e.subKind(kind, last) == k {
		last++
	}
	got := run{kind: k, n: int64(last)<<im.subBits() - in}
	if got.hosted() {
		got.host, got.copied = e.offset()+hostOff(in), e.copied()
	}
	return got, last == subclustersPerCluster
}

// subKind returns the kind of subcluster i of an extended entry of the kind
// that the whole cluster has, which is not compressed.
func (e entry) subKind(cluster clusterKind, i int) clusterKind {
	switch {
	case e.subs.zeroes()>>i&1 != 0 && cluster == kindNormal:
		return kindZeroAlloc
	case e.subs.zeroes()>>i&1 != 0:
		return kindZeroPlain
	case e.subs.allocated()>>i&1 != 0:
		return kindNormal
	case cluster == kindNormal:
		return kindPlaced
	}
	return kindUnallocated
}

// checkL1Entry reports what makes an L1 entry unusable.
func (im *Image) checkL1Entry(r *root, i int64, e l1Entry) error {
	if !align.IsAligned(int64(e.offset()), im.clusterSize()) {
		return corruptf(r.l1.Offset()+i*l1EntrySize, "L1 entry", "%#x is not aligned to a cluster", uint64(e))
	}
	return nil
}

// checkEntry reports what makes an entry unusable: section "L2 table entry".
func (im *Image) checkEntry(e l2Entry, kind clusterKind, off guestOff, at int64) error {
	switch {
	case kind == kindUnallocated:
		return nil
	case kind == kindCompressed && im.external:
		return corruptf(at, "L2 entry", "%#x is compressed, in an image with an external data file", uint64(e))
	case kind == kindCompressed:
		return nil
	case !align.IsAligned(int64(e.offset()), im.clusterSize()):
		return corruptf(at, "L2 entry", "%#x is not aligned to a cluster", uint64(e))
	case im.external && kind != kindZeroPlain && e.offset() != hostOff(align.Down(int64(off), im.clusterSize())):
		return corruptf(at, "L2 entry", "%#x is not at its guest offset %#x", uint64(e), off)
	case im.version < 3 && e.zero():
		return corruptf(at, "L2 entry", "%#x has the zero flag of version 3", uint64(e))
	}
	return nil
}

// checkAny is checkEntry for entries of either form.
func (im *Image) checkAny(e entry, kind clusterKind, off guestOff, at int64) error {
	if im.extended {
		return im.checkExtendedEntry(e, kind, off, at)
	}
	return im.checkEntry(e.l2Entry, kind, off, at)
}

// checkExtendedEntry is checkEntry for extended entries.
func (im *Image) checkExtendedEntry(e entry, kind clusterKind, off guestOff, at int64) error {
	if kind == kindCompressed {
		return im.checkEntry(e.l2Entry, kind, off, at)
	}
	if !e.subs.valid() {
		return corruptf(at, "L2 entry", "subclusters %#x are both allocated and zeros", uint64(e.subs))
	}
	if kind == kindUnallocated && e.subs.allocated() != 0 {
		return corruptf(at, "L2 entry", "subclusters %#x are allocated in a cluster that has no place", uint64(e.subs))
	}
	return im.checkEntry(e.l2Entry, kind, off, at)
}
