package qcow2

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
)

// A RepairMode says what [Repair] may change.
type RepairMode uint8

const (
	// RepairLeaks frees clusters that nothing refers to, and changes nothing
	// else but the COPIED flags that follow from it.
	RepairLeaks RepairMode = iota
	// RepairAll repairs what can be repaired.
	RepairAll
)

// String returns leaks or all.
func (m RepairMode) String() string {
	switch m {
	case RepairLeaks:
		return "leaks"
	case RepairAll:
		return "all"
	}
	return fmt.Sprintf("repair mode %d", uint8(m))
}

// Repair repairs the image in f and returns what [Check] finds afterwards;
// [CheckResult.CorruptionsFixed] and [CheckResult.LeaksFixed] say what has
// become better. No guest data is lost: what a reader gets is the same before
// and after, unless a damage makes a part of the disk show metadata. The marks
// that an image is dirty or corrupt are removed if no corruption is left.
//
// RepairAll sets refcounts to the number of references, replacing the
// refcount structures where they cannot be used; sets and clears COPIED flags;
// clears reserved bits; completes the entries of the snapshot table; drops the
// place of preallocated clusters that lies between clusters. What would lose
// data stays: references past the end of the file or between clusters, L1
// tables of snapshots and bitmaps that are not where they can be, subclusters
// that are both allocated and zero. As long as such references are left,
// leaked clusters are not freed, because they may be what was meant; but those
// of a file that was cut are, where the refcounts say that each reference past
// its end is right.
//
// If it is interrupted, at any point, by a power cut or by ctx, then the image
// is no worse than it was, and a version 3 image is marked as dirty, so that
// it is repaired when it is opened for writing. The steps, each durable before
// the next:
//
//	0  the dirty bit (version 3)
//	1  COPIED flags cleared, entries mended; a new snapshot table, and then
//	   its place in the header
//	2  refcounts, in place; or new refcount structures in space that nothing
//	   refers to, and then their place in the header
//	3  COPIED flags set
//	4  dirty and corrupt bits cleared
//
// Nothing else may use the image meanwhile. Progress is told for each pass
// over the metadata anew. Errors are those of [Check] and of writing.
func Repair(ctx context.Context, f File, mode RepairMode, o *CheckOptions) (*CheckResult, error) {
	r := &repairer{ctx: ctx, f: f, mode: mode, opts: o.withDefaults()}
	first, err := r.check(false)
	if err != nil {
		return nil, err
	}
	last := first
	if !first.res.Clean() {
		if err := r.repair(first); err != nil {
			return nil, err
		}
		if last, err = r.check(false); err != nil {
			return nil, err
		}
	}
	if err := r.finish(last); err != nil {
		return nil, err
	}
	res := &last.res
	res.LeaksFixed = max(first.res.Leaks-res.Leaks, 0)
	res.CorruptionsFixed = max(first.res.Corruptions+first.res.CheckErrors-res.Corruptions-res.CheckErrors, 0)
	return res, nil
}

// repairDirty repairs an image that is marked as dirty, before it is opened
// for writing.
func repairDirty(f File, o *Options) error {
	h, err := readHeader(f)
	if err != nil || h.IncompatibleFeatures&(IncompatDirty|IncompatCorrupt) != IncompatDirty {
		return err
	}
	r, err := Repair(o.context(), f, RepairAll, &CheckOptions{Size: o.Size})
	if err != nil {
		return err
	}
	if h, err = readHeader(f); err == nil && h.IncompatibleFeatures&IncompatDirty != 0 {
		err = corruptf(incompatibleField, "incompatible_features",
			"the image is marked as dirty, and repairing it leaves %d errors: %v", r.Corruptions+r.CheckErrors, r.Findings[0])
	}
	return err
}

// A repairer is one run of [Repair].
type repairer struct {
	ctx     context.Context
	f       File
	mode    RepairMode
	opts    CheckOptions
	marked  bool // the dirty bit was set by this run
	changed bool // a table was written
}

// check returns a checker that has run.
func (r *repairer) check(withoutRefcounts bool) (*checker, error) {
	size, err := block.Length(r.f)
	if err != nil {
		if size = r.opts.Size; size == 0 {
			return nil, fmt.Errorf("qcow2: %w", err)
		}
	}
	h, err := readHeader(r.f)
	if err != nil {
		return nil, err
	}
	c, err := newChecker(r.ctx, r.f, size, h, r.opts)
	if err != nil {
		return nil, err
	}
	c.withoutRefcounts = withoutRefcounts
	return c, c.run()
}

// repair does steps 0 to 3.
func (r *repairer) repair(c *checker) error {
	if err := r.markDirty(c); err != nil {
		return err
	}
	if r.mode == RepairAll {
		if err := r.mendEntries(c); err != nil {
			return err
		}
		if r.changed {
			var err error
			if c, err = r.check(false); err != nil {
				return err
			}
		}
	}
	c, err := r.repairRefcounts(c)
	if err != nil || r.mode == RepairLeaks && c.res.Corruptions+c.res.CheckErrors > c.kinds[FindingCopied] {
		return err
	}
	return r.fixCopied(c)
}

// markDirty is step 0.
func (r *repairer) markDirty(c *checker) error {
	h := c.h
	if h.Version < 3 || h.IncompatibleFeatures&IncompatDirty != 0 {
		return nil
	}
	r.marked = true
	return r.putFeatures(h.IncompatibleFeatures|IncompatDirty, h.AutoclearFeatures&autoclearKnown)
}

// finish is step 4. A version 2 image has no marks.
func (r *repairer) finish(c *checker) error {
	h := c.h
	if h.Version < 3 {
		return r.sync()
	}
	features := h.IncompatibleFeatures
	switch {
	case c.res.Corruptions == 0 && c.res.CheckErrors == 0:
		features &^= IncompatDirty | IncompatCorrupt
	case r.marked || c.refcountsRight():
		features &^= IncompatDirty
	}
	if features == h.IncompatibleFeatures {
		return nil
	}
	return r.putFeatures(features, h.AutoclearFeatures&autoclearKnown)
}

// refcountsRight reports whether what the dirty bit warns of is not the case,
// whatever else may be wrong.
func (c *checker) refcountsRight() bool {
	return c.kinds[FindingRefcount]+c.kinds[FindingCopied]+c.kinds[FindingOverflow]+c.res.CheckErrors == 0 && !c.badRefcounts
}

// Where the header has what is changed here. All of it lies in the first
// sector, which storage writes whole.
const (
	snapshotsField    = 64
	incompatibleField = 72
	autoclearField    = 88
)

// putFeatures writes feature bits, after all that was written before.
func (r *repairer) putFeatures(incompatible, autoclear uint64) error {
	if err := r.sync(); err != nil {
		return err
	}
	var b [autoclearField + 8 - incompatibleField]byte
	if _, err := r.f.ReadAt(b[:], incompatibleField); err != nil {
		return fmt.Errorf("qcow2: header: %w", err)
	}
	binary.BigEndian.PutUint64(b[:], incompatible)
	binary.BigEndian.PutUint64(b[autoclearField-incompatibleField:], autoclear)
	return r.putHeader(b[:], incompatibleField)
}

// putHeader writes a field of the header and makes it durable.
func (r *repairer) putHeader(b []byte, off int64) error {
	if _, err := r.f.WriteAt(b, off); err != nil {
		return fmt.Errorf("qcow2: header: %w", err)
	}
	return r.sync()
}

func (r *repairer) sync() error {
	if err := block.Sync(r.f); err != nil {
		return fmt.Errorf("qcow2: %w", err)
	}
	return nil
}

// fresh returns where new structures can lie: past the end of the file, and
// of what something wrongly refers to there.
func (r *repairer) fresh(c *checker) int64 {
	return align.Up(max(c.size, c.dangling), c.clusterSize())
}

// final returns the refcount that a cluster will have. Leaked clusters are
// kept where a reference was lost, and clusters past the end of the file have
// what they have, so that nothing is put where a dangling reference points.
func (r *repairer) final(c *checker, i clusterIdx) uint64 {
	have, ok := c.stored.at(i)
	want := c.counted.at(i)
	switch {
	case !ok:
		return want
	case i >= c.clusters, have > want && c.lost, have < want && r.mode == RepairLeaks:
		return have
	}
	return want
}
