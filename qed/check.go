package qed

import (
	"context"
	"fmt"

	"github.com/virtfmt/virtfmt/internal/align"
)

// A FindingKind is a way in which tables can be wrong, section "Consistency
// checking".
type FindingKind uint8

// The kinds of finding.
const (
	// FindingMisaligned is an offset that is not a multiple of the cluster
	// size, or one with reserved bits set.
	FindingMisaligned FindingKind = iota + 1
	// FindingOutOfRange is an offset of a data cluster that is not wholly
	// within the file, or lies in the header's clusters.
	FindingOutOfRange
	// FindingNoRoom is an offset of a table that does not leave room for it
	// before the end of the file.
	FindingNoRoom
	// FindingShared is a cluster that something else refers to as well.
	FindingShared
	// FindingLeak is a run of clusters that nothing refers to.
	FindingLeak
)

// String names the kind.
func (k FindingKind) String() string {
	switch k {
	case FindingMisaligned:
		return "not aligned"
	case FindingOutOfRange:
		return "outside of the file"
	case FindingNoRoom:
		return "no room for a table"
	case FindingShared:
		return "referenced more than once"
	case FindingLeak:
		return "leaked"
	}
	return fmt.Sprintf("finding %d", uint8(k))
}

// A Finding is one thing that is wrong in an image.
type Finding struct {
	Kind FindingKind
	// Entry is where in the file the table entry lies, in bytes; -1 for a leak.
	Entry int64
	// L2 tells whether the entry is in an L2 table; else it is in the L1 table.
	L2 bool
	// Value is what the entry holds, or the offset of the first leaked cluster.
	Value int64
	// Clusters is the number of clusters that leaked, otherwise 1.
	Clusters int64
	// Fixed tells that the repair mended it.
	Fixed bool
}

// String describes the finding.
func (f Finding) String() string {
	if f.Kind == FindingLeak {
		return fmt.Sprintf("%d clusters at %#x: leaked", f.Clusters, f.Value)
	}
	level := "l1"
	if f.L2 {
		level = "l2"
	}
	return fmt.Sprintf("%s entry at %#x: %#x: %v", level, f.Entry, f.Value, f.Kind)
}

// RepairMode says what [Image.Check] mends.
type RepairMode uint8

const (
	// RepairNone mends nothing.
	RepairNone RepairMode = iota
	// RepairErrors does what QEMU does: it clears entries that cannot be right,
	// and the need-check bit when nothing but leaks is left.
	RepairErrors
	// RepairAll also gives each reference to a data cluster that others refer
	// to a cluster of its own with the same content. Then, where no corruption
	// is left, it gives the space of leaked clusters back: the file is cut
	// after the last cluster in use, and before it holes are punched where the
	// file can do that.
	RepairAll
)

// String returns none, errors or all.
func (m RepairMode) String() string {
	switch m {
	case RepairNone:
		return "none"
	case RepairErrors:
		return "errors"
	case RepairAll:
		return "all"
	}
	return fmt.Sprintf("repair mode %d", uint8(m))
}

// CheckOptions says what [Image.Check] does. The zero value checks and mends
// nothing.
type CheckOptions struct {
	Repair RepairMode
	// MaxFindings bounds [CheckResult.Findings]. The default is 1000; negative
	// keeps none.
	MaxFindings int
	// Progress, where set, is called now and then with the number of L1
	// entries done and their total.
	Progress func(done, total int64)
}

func (o *CheckOptions) withDefaults() CheckOptions {
	var c CheckOptions
	if o != nil {
		c = *o
	}
	if c.MaxFindings == 0 {
		c.MaxFindings = 1000
	}
	return c
}

// CheckResult tells what [Image.Check] found.
type CheckResult struct {
	Corruptions      int64 // entries that are wrong and were not mended
	CorruptionsFixed int64
	Leaks            int64 // clusters that nothing refers to
	LeaksFixed       int64

	TotalClusters      int64 // of the disk
	AllocatedClusters  int64 // of the disk that have a data cluster
	FragmentedClusters int64 // of those, that do not follow the one before them in the file

	// Findings are the first of what was found; Truncated tells that there
	// were more.
	Findings  []Finding
	Truncated bool
}

// Clean reports whether nothing wrong is left: no corruption, and no leak.
func (r *CheckResult) Clean() bool { return r.Corruptions == 0 && r.Leaks == 0 }

// Check holds the tables against the invariants of the section "Consistency
// checking": each cluster referenced once, offsets aligned and within the
// file, room for each table. Its error means that the image could not be
// checked; what is wrong in it stands in the result. With a repair the image
// must be open for writing. Readers and writers wait meanwhile.
//
// Memory grows with the number of clusters that are in use, by a bit each, and
// not with the length that the file claims.
func (img *Image) Check(ctx context.Context, o *CheckOptions) (*CheckResult, error) {
	opts := o.withDefaults()
	if opts.Repair != RepairNone {
		if err := img.writable(); err != nil {
			return nil, err
		}
	}
	img.life.Lock()
	defer img.life.Unlock()
	if err := img.usable(); err != nil {
		return nil, err
	}
	if img.f != nil {
		if err := img.flush(); err != nil {
			return nil, err
		}
	}
	return img.checkLocked(ctx, opts)
}

// checkLocked is Check with nothing else going on in the image and no table
// dirty.
func (img *Image) checkLocked(ctx context.Context, opts CheckOptions) (*CheckResult, error) {
	length, err := img.fileLength()
	if err != nil {
		return nil, err
	}
	c := &checker{
		ctx: ctx, img: img, opts: opts,
		clusters: length / int64(img.h.ClusterSize),
		used:     bitset{},
		res: CheckResult{
			TotalClusters: align.CeilDiv(img.h.ImageSize, int64(img.h.ClusterSize)),
		},
	}
	if err := c.run(); err != nil {
		return nil, err
	}
	return &c.res, nil
}

// A checker is the state of one check.
type checker struct {
	ctx      context.Context
	img      *Image
	opts     CheckOptions
	clusters int64  // whole ones in the file
	used     bitset // by cluster of the file
	last     int64  // offset of the data cluster seen last
	fixes    []fix
	res      CheckResult
}

// A fix is a change of one table entry.
type fix struct {
	at      int64 // in the file
	copyOf  int64 // the entry becomes a copy of this cluster; 0: it is cleared
	finding int   // index into the findings, -1 where it was not kept
}

// chunkEntries is how many entries of a table are read at a time.
const chunkEntries = 64 << 10 / entrySize

func (c *checker) run() error {
	h := &c.img.h
	for i := range min(int64(h.HeaderSize), c.clusters) {
		c.used.set(i)
	}
	c.markRun(h.L1TableOffset, h.tableBytes())
	n := h.entriesPerTable()
	err := c.walk(h.L1TableOffset, func(i, at int64, e entry) error {
		if c.opts.Progress != nil && i%1024 == 0 {
			c.opts.Progress(i, n)
		}
		return c.l1(at, e)
	})
	if err != nil {
		return err
	}
	if c.opts.Progress != nil {
		c.opts.Progress(n, n)
	}
	if c.opts.Repair != RepairNone {
		if err := c.repair(); err != nil {
			return err
		}
	}
	if err := c.leaks(); err != nil {
		return err
	}
	return c.finish()
}

// walk calls f for every entry of the table at off that is not 0, with its
// index and its place in the file.
func (c *checker) walk(off int64, f func(i, at int64, e entry) error) error {
	buf := make([]byte, min(c.img.h.tableBytes(), chunkEntries*entrySize))
	for done := int64(0); done < c.img.h.tableBytes(); done += int64(len(buf)) {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		if err := c.img.readFull(buf, off+done); err != nil {
			return fmt.Errorf("qed: table at %#x: %w", off, err)
		}
		t := table(buf)
		for i := range t.len() {
			e := t.at(i)
			if e == unallocated {
				continue
			}
			at := done + int64(i)*entrySize
			if err := f(at/entrySize, off+at, e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) l1(at int64, e entry) error {
	h := &c.img.h
	kind, ok := c.img.geo.checkTable(e, c.clusters*int64(h.ClusterSize))
	if ok && !c.markRun(int64(e), h.tableBytes()) {
		kind, ok = FindingShared, false
	}
	if !ok {
		// Two L1 entries that share a table, or a table that overlaps data, are
		// left: which of them is right cannot be told.
		c.wrong(Finding{Kind: kind, Entry: at, Value: int64(e), Clusters: 1}, kind != FindingShared, 0)
		return nil
	}
	return c.walk(int64(e), func(_, at int64, e entry) error { return c.l2(at, e) })
}

func (c *checker) l2(at int64, e entry) error {
	if e == zeroCluster {
		return nil
	}
	size := int64(c.img.h.ClusterSize)
	kind, ok := c.img.geo.checkData(e, c.clusters*size)
	if ok || c.opts.Repair == RepairNone { // QEMU counts those too that are wrong and stay
		c.res.AllocatedClusters++
		if c.last != 0 && int64(e) != c.last+size {
			c.res.FragmentedClusters++
		}
		c.last = int64(e)
	}
	if !ok {
		c.wrong(Finding{Kind: kind, Entry: at, L2: true, Value: int64(e), Clusters: 1}, true, 0)
		return nil
	}
	if !c.used.set(int64(e) / size) {
		c.wrong(Finding{Kind: FindingShared, Entry: at, L2: true, Value: int64(e), Clusters: 1}, true, int64(e))
	}
	return nil
}

// markRun marks n bytes of clusters as used, those that lie within the file.
// It reports whether none of them was.
func (c *checker) markRun(off, n int64) bool {
	size, fresh := int64(c.img.h.ClusterSize), true
	for i := off / size; i < min((off+n)/size, c.clusters); i++ {
		fresh = c.used.set(i) && fresh
	}
	return fresh
}

// wrong notes a corruption. One that can be mended becomes a fix: the entry is
// cleared, or, with copyOf, points to a copy of that cluster.
func (c *checker) wrong(f Finding, mendable bool, copyOf int64) {
	c.res.Corruptions++
	i := c.note(f)
	if mendable && (c.opts.Repair == RepairAll || c.opts.Repair == RepairErrors && copyOf == 0) {
		c.fixes = append(c.fixes, fix{at: f.Entry, copyOf: copyOf, finding: i})
	}
}

// note keeps a finding and returns its index, -1 if there are too many.
func (c *checker) note(f Finding) int {
	if len(c.res.Findings) >= c.opts.MaxFindings {
		c.res.Truncated = true
		return -1
	}
	c.res.Findings = append(c.res.Findings, f)
	return len(c.res.Findings) - 1
}

// leaks counts the clusters that nothing refers to, and frees them on request.
func (c *checker) leaks() error {
	size := int64(c.img.h.ClusterSize)
	for start, end := range c.used.gaps(c.clusters) {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		f := Finding{Kind: FindingLeak, Entry: -1, Value: start * size, Clusters: end - start}
		if c.opts.Repair == RepairAll && c.res.Corruptions == 0 {
			var err error
			if f.Fixed, err = c.free(start*size, end*size); err != nil {
				return err
			}
		}
		if f.Fixed {
			c.res.LeaksFixed += f.Clusters
		} else {
			c.res.Leaks += f.Clusters
		}
		c.note(f)
	}
	return nil
}

// free gives the clusters from start to end back. Those at the end of the file
// go with it; others become a hole, and stay leaked in what a check counts.
func (c *checker) free(start, end int64) (bool, error) {
	if end == c.clusters*int64(c.img.h.ClusterSize) {
		return true, c.img.cutTo(start)
	}
	return false, c.img.punch(start, end-start)
}

// finish clears the need-check bit where a repair left nothing wrong.
func (c *checker) finish() error {
	if c.opts.Repair == RepairNone || c.res.Corruptions != 0 || c.img.h.Features&FeatureNeedCheck == 0 {
		return nil
	}
	return c.img.clearNeedCheck()
}
