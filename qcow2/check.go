package qcow2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// CheckOptions says how [Check] works. The zero value is ready to use.
type CheckOptions struct {
	// MaxFindings is how many findings are kept in [CheckResult.Findings];
	// all are counted. 0 is 1000, negative is none.
	MaxFindings int

	// MaxMemory is how many bytes the refcounts may take, those stored and
	// those counted. They need 4 bytes a cluster with the usual refcount width,
	// where the file holds something. 0 is 2 GiB: an image file of 32 TiB with
	// 64 KiB clusters. An image that needs more is an error that is [ErrLimit].
	MaxMemory int64

	// Progress, if not nil, is called now and then with how much of the work
	// is done; done never exceeds total, and total may change at first. It is
	// called by one goroutine at a time.
	Progress func(done, total int64)

	// Size is the length of the file in bytes, for a reader that does not tell
	// it. 0 asks the reader.
	Size int64
}

func (o *CheckOptions) withDefaults() CheckOptions {
	var d CheckOptions
	if o != nil {
		d = *o
	}
	switch {
	case d.MaxFindings == 0:
		d.MaxFindings = 1000
	case d.MaxFindings < 0:
		d.MaxFindings = 0
	}
	if d.MaxMemory <= 0 {
		d.MaxMemory = 2 << 30
	}
	if d.Progress == nil {
		d.Progress = func(int64, int64) {}
	}
	return d
}

// A CheckResult is what [Check] found. The counts are those of
// "qemu-img check --output=json".
type CheckResult struct {
	Corruptions int64 // contradictions that lose data, now or with a later write
	Leaks       int64 // clusters that nothing uses and that are not free
	CheckErrors int64 // what could not be checked

	TotalClusters      int64 // of the disk
	AllocatedClusters  int64 // of the active disk, that own space in the file
	FragmentedClusters int64 // of those, that do not follow the one before them
	CompressedClusters int64 // of those, that are compressed; each counts as fragmented

	// ImageEndOffset is the end of the last cluster in use, in bytes from the
	// start of the file.
	ImageEndOffset int64

	// Findings are the first things found to be wrong, at most
	// [CheckOptions.MaxFindings].
	Findings []Finding

	// LeaksFixed and CorruptionsFixed say by how much [Repair] made the counts
	// smaller.
	LeaksFixed       int64
	CorruptionsFixed int64
}

// Clean reports whether nothing is wrong: no corruption, no leak, and nothing
// that could not be checked.
func (r *CheckResult) Clean() bool {
	return r.Corruptions == 0 && r.Leaks == 0 && r.CheckErrors == 0
}

// Check reads all metadata of the image in r and reports what is wrong with
// it: refcounts that do not match the references to a cluster, from the
// header, the active and all snapshots' L1 and L2 tables, compressed clusters,
// the snapshot table, the refcount structures, bitmaps and the encryption
// header; COPIED flags; references that overlap, point between clusters or
// past the end of the file; reserved bits. It writes nothing, and reads
// neither guest data nor backing nor external data files.
//
// It also checks images that cannot be opened for writing, because they are
// marked dirty or corrupt or lack a refcount table. An error means that the
// image could not be checked: its header or its snapshot table cannot be
// understood, reading failed, or ctx ended.
//
// Nothing may write to the image meanwhile; for an image that is open use
// [Image.Check].
func Check(ctx context.Context, r io.ReaderAt, o *CheckOptions) (*CheckResult, error) {
	opts := o.withDefaults()
	size := opts.Size
	if size == 0 {
		var err error
		if size, err = block.Length(r); err != nil {
			return nil, fmt.Errorf("qcow2: %w", err)
		}
	}
	h, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	c, err := newChecker(ctx, r, size, h, opts)
	if err != nil {
		return nil, err
	}
	if err := c.run(); err != nil {
		return nil, err
	}
	return &c.res, nil
}

// Check is the function [Check] for the file of an open image. What was
// written is made durable first, and nobody writes meanwhile.
func (im *Image) Check(ctx context.Context, o *CheckOptions) (*CheckResult, error) {
	if im.closed.Load() {
		return nil, ErrClosed
	}
	if im.w != nil {
		im.gate.Lock()
		defer im.gate.Unlock()
		// The second time for refcounts that the first has lowered.
		if err := errors.Join(im.writeBackAll(), im.writeBackAll()); err != nil {
			return nil, err
		}
	}
	var opts CheckOptions
	if o != nil {
		opts = *o
	}
	opts.Size = im.length.Load()
	return Check(ctx, im.r, &opts)
}

// refcountTableField is where the header tells the place of the refcount table.
const refcountTableField = 48

// A checker is one run of [Check]. It counts the references to every cluster
// and then holds the counts against the refcounts of the file.
//
// Work and memory are bounded by the file, not by what it claims: a table that
// many entries point to is read once and counts as often as it is pointed to,
// and a reference past the end of the file is a finding, not a count.
type checker struct {
	ctx  context.Context
	r    io.ReaderAt
	size int64 // of the file, in whole sectors
	h    *Header
	layout
	opts CheckOptions
	res  CheckResult

	refcountTable refTable
	stored        storedRefcounts  // what the file says
	counted       countedRefcounts // what was found
	clusters      clusterIdx       // of the file, one more where a reference straddles its end

	snapshots []checkedSnapshot
	kinds     [FindingBitmap + 1]int64 // how often each was found
	lost      bool                     // something refers to clusters in a way that cannot be followed
	dangling  int64                    // end of what is referred to past the end of the file, but near it
	cutOff    map[clusterIdx]uint64    // references to guest clusters past the end that have a refcount
	l1        []segment                // all L1 tables

	// badRefcounts means that the refcount structures are not where they can
	// be used.
	badRefcounts bool

	// withoutRefcounts leaves out the references to refcount structures, which
	// are about to be replaced.
	withoutRefcounts bool

	done  int64 // bytes of metadata read
	total int64 // of those known so far
}

func newChecker(ctx context.Context, r io.ReaderAt, size int64, h *Header, o CheckOptions) (*checker, error) {
	c := &checker{ctx: ctx, r: r, size: align.Up(size, sectorSize), h: h, layout: h.layout(), opts: o}
	if size < 0 || c.size < size {
		return nil, fmt.Errorf("qcow2: file of %d bytes: %w", size, ErrLimit)
	}
	c.clusters = clusterIdx(align.CeilDiv(c.size, c.clusterSize()))
	c.counted = newCountedRefcounts(&c.layout, c.clusters+1, o.MaxMemory)
	return c, nil
}

func (c *checker) run() error {
	disk := c.h.Size &^ (sectorSize - 1)
	c.res.TotalClusters = align.CeilDiv(disk, c.clusterSize())
	if err := c.loadRefcounts(); err != nil {
		return err
	}
	c.reference(0, c.clusterSize(), 1, StructureHeader, 0)
	if err := c.readSnapshots(); err != nil {
		return err
	}
	if err := c.walkTables(); err != nil {
		return err
	}
	c.referenceMetadata()
	if err := c.walkBitmaps(); err != nil {
		return err
	}
	if !c.withoutRefcounts {
		c.checkRefcountBlocks()
	}
	if c.counted.err != nil {
		return c.counted.err
	}
	return c.compareRefcounts()
}

// report records a finding that counts n times.
func (c *checker) report(k FindingKind, s Structure, off int64, value, n uint64) {
	c.keep(Finding{k, s, off, value, n})
	ofRefcounts := s == StructureRefcountTable || s == StructureHeader && off == refcountTableField
	switch k {
	case FindingBeyondEnd, FindingUnaligned, FindingSnapshot, FindingBitmap, FindingReserved, FindingRefcountBlock:
		c.badRefcounts = c.badRefcounts || ofRefcounts
		c.lost = c.lost || !ofRefcounts && k != FindingReserved && k != FindingBeyondEnd
	}
	if k == FindingLeak || k == FindingRefcount {
		n = 1
	}
	c.kinds[k] += int64(n)
	switch k {
	case FindingLeak:
		c.res.Leaks++
	case FindingNoRefcount:
		c.res.CheckErrors += int64(n)
	default:
		c.res.Corruptions += int64(n)
	}
}

func (c *checker) keep(f Finding) {
	if len(c.res.Findings) < c.opts.MaxFindings {
		c.res.Findings = append(c.res.Findings, f)
	}
}

// reference counts weight references from the entry at offset at to the n
// bytes at off.
//
// Preconditions: 0 <= n <= 1<<62.
func (c *checker) reference(off uint64, n int64, weight uint64, s Structure, at int64) {
	if !c.inFile(off, n, weight, s, at) {
		return
	}
	last := c.cluster(hostOff(int64(off) + n - 1))
	c.clusters = max(c.clusters, last+1)
	for i := c.cluster(hostOff(off)); i <= last; i++ {
		if over := c.counted.add(i, weight); over > 0 {
			c.report(FindingOverflow, s, at, off, over)
		}
	}
}

// inFile reports whether there are references to count: n is not 0, and what
// it refers to ends before the end of the file or in the cluster after it. The
// arguments are those of reference.
func (c *checker) inFile(off uint64, n int64, weight uint64, s Structure, at int64) bool {
	if n == 0 {
		return false
	}
	if off > 1<<62 || int64(off)+n-c.size >= c.clusterSize() {
		c.report(FindingBeyondEnd, s, at, off, weight)
		if (s != StructureHeader || at != refcountTableField) && (s != StructureL2 || !c.isCutOff(off, n, weight)) {
			c.lost = true
		}
		if near := c.size + min(int64(64)<<(c.refBlockBits()+c.clusterBits), 1<<30); off < uint64(near) && n < near {
			c.dangling = max(c.dangling, int64(off)+n)
		}
		return false
	}
	return true
}

// maxCutOff is how many clusters past the end of the file are told apart.
const maxCutOff = 1 << 16

// isCutOff reports whether a reference to guest clusters past the end of the
// file is one that their refcounts count: it says what was meant, and the file
// was cut. The arguments are those of reference.
func (c *checker) isCutOff(off uint64, n int64, weight uint64) bool {
	if off > 1<<62 || c.withoutRefcounts { // those are to be replaced, and say nothing
		return false
	}
	for i := c.cluster(hostOff(off)); i <= c.cluster(hostOff(int64(off)+n-1)); i++ {
		have, _ := c.stored.at(i)
		if counted := c.cutOff[i]; have < counted || have-counted < weight || len(c.cutOff) == maxCutOff {
			return false
		}
		if c.cutOff == nil {
			c.cutOff = map[clusterIdx]uint64{}
		}
		c.cutOff[i] += weight
	}
	return true
}

// referenceSpans is reference for many spans that may overlap much and that
// begin at clusters.
//
// Preconditions: inFile of each.
func (c *checker) referenceSpans(spans []span) {
	for i := range spans {
		spans[i].end = align.Up(spans[i].end, c.clusterSize())
	}
	for _, s := range sweep(spans, math.MaxInt64) {
		first := c.cluster(hostOff(s.off))
		for i := range c.cluster(hostOff(s.n)) {
			if over := c.counted.add(first+i, s.total); over > 0 {
				c.report(FindingOverflow, StructureCluster, int64(c.clusterOff(first+i)), maxRefcount(c.refcountOrder), over)
			}
		}
		c.clusters = max(c.clusters, first+c.cluster(hostOff(s.n)))
	}
}

// referenceMetadata counts the structures that only the header points to.
func (c *checker) referenceMetadata() {
	h := c.h
	if !c.withoutRefcounts {
		c.reference(uint64(h.RefcountTableOffset), int64(h.RefcountTableClusters)<<c.clusterBits, 1, StructureHeader, refcountTableField)
	}
	if p, ok := h.CryptoHeader(); ok {
		c.reference(uint64(p.Offset), min(p.Length, 1<<62), 1, StructureHeader, 0)
	}
}

// readTable fills p from off: what lies past the end of the file is zeros.
func (c *checker) readTable(p []byte, off int64, name string) error {
	if err := safeio.ReadZeroFill(c.r, p, off); err != nil {
		return fmt.Errorf("qcow2: %s at %#x: %w", name, off, err)
	}
	return nil
}
