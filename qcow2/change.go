package qcow2

import (
	"fmt"
	"slices"
	"time"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/tablecache"
)

// A change is a change of the image as a whole: of its snapshots, its size,
// its bitmaps, its L1 table. It has the image to itself, but for readers.
//
// What it allocates, writes and counts comes to the file before what points
// there, and what it drops is free once nothing points there any more: see
// the stages of a write-back. So a change prepares what is new, and publishes
// it by changing the header or table entries; where something must be in the
// file before something else of the same stage, it flushes in between.
type change struct {
	im     *Image
	hdr    *Header // before the change
	allocs []freed // to give back if the change fails before its first flush
	raised []freed
}

// change runs f and makes durable what it did. If f returns an error, what it
// did since its last flush to refcounts and the header is undone; entries that
// it changed are its own to restore. An error of a flush means that the change
// may or may not be in the file; it stays in memory, and the next write-back
// tries again.
//
// With dirty the image is marked as dirty meanwhile, so that what a power cut
// leaves is repaired when the image is opened for writing: version 3.
func (im *Image) change(dirty bool, f func(c *change) error) error {
	if im.w == nil {
		return ErrReadOnly
	}
	im.gate.Lock()
	defer im.gate.Unlock()
	if im.closed.Load() {
		return ErrClosed
	}
	if err := im.startWriting(); err != nil {
		return err
	}
	c := &change{im: im}
	if err := c.flush(); err != nil {
		return err
	}
	dirty = dirty && im.version >= 3 && !im.lazy
	if dirty {
		if err := c.mark(true); err != nil {
			return err
		}
	}
	if err := f(c); err != nil {
		return im.markCorrupt(c.undo(err))
	}
	if err := c.flush(); err != nil {
		return err
	}
	if !dirty {
		return nil
	}
	if err := c.settle(); err != nil {
		return err
	}
	return c.mark(false)
}

// mark sets or clears the dirty bit, after all that was done is in the file.
func (c *change) mark(dirty bool) error {
	im := c.im
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	if err := im.writeBackLocked(stageLazy); err != nil {
		return err
	}
	if err := im.setDirty(dirty); err != nil {
		return im.fail(err)
	}
	c.hdr = im.hdr.clone()
	return nil
}

// flush makes durable what was done so far.
func (c *change) flush() error {
	if err := c.im.writeBackAll(); err != nil {
		return err
	}
	c.allocs, c.raised, c.hdr = nil, nil, c.im.hdr.clone()
	return nil
}

// settle flushes, and waits until refcounts are lowered of all that was
// dropped, which is when the reads are over that may still use it.
func (c *change) settle() error {
	for {
		if err := c.flush(); err != nil {
			return err
		}
		c.im.flushMu.Lock()
		left := c.im.unlinkedList.Len()
		c.im.flushMu.Unlock()
		if left == 0 {
			return c.flush() // what was lowered
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// undo takes back what was done since the last flush because of err.
func (c *change) undo(err error) error {
	im := c.im
	for _, list := range [][]freed{c.raised, c.allocs} {
		for _, f := range slices.Backward(list) {
			if e := im.giveBack(im.clusterOff(f.first), f.n); e != nil {
				return fmt.Errorf("%w, and undoing it: %w", err, e)
			}
		}
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	for _, f := range c.allocs {
		im.meta.remove(f.first, f.n)
	}
	// The refcount table that had to grow meanwhile stays where it is.
	table, clusters := im.hdr.RefcountTableOffset, im.hdr.RefcountTableClusters
	im.hdr = c.hdr.clone()
	im.hdr.RefcountTableOffset, im.hdr.RefcountTableClusters = table, clusters
	c.allocs, c.raised = nil, nil
	return err
}

// publish makes the header point to what was prepared: with f, which the
// metadata lock is held for. It stays in memory also if it cannot be written.
func (c *change) publish(f func(h *Header)) {
	c.im.mu.Lock()
	defer c.im.mu.Unlock()
	f(c.im.hdr)
	c.allocs, c.raised, c.hdr = nil, nil, c.im.hdr.clone()
}

// alloc takes n clusters that follow each other, for metadata, with the
// refcount 1.
func (c *change) alloc(n int64) (hostOff, error) {
	off, _, err := c.im.alloc(n)
	if err != nil {
		return 0, err
	}
	first := c.im.cluster(off)
	c.allocs = append(c.allocs, freed{first: first, n: n})
	if err := c.im.checkOverlap(off, n<<c.im.clusterBits); err != nil {
		return 0, err
	}
	c.im.mu.Lock()
	defer c.im.mu.Unlock()
	c.im.tables.Drop(int64(off), n<<c.im.clusterBits)
	c.im.meta.add(first, n)
	return off, nil
}

// write writes to clusters that nothing points to yet. The rest of the last
// cluster is filled with zeros.
func (c *change) write(p []byte, off hostOff) error {
	whole := align.Up(int64(len(p)), c.im.clusterSize())
	return c.im.writeFile(append(slices.Clip(p), make([]byte, whole-int64(len(p)))...), off)
}

// raise adds one to the refcounts of n clusters. It is ErrLimit if one of them
// cannot be larger.
func (c *change) raise(first clusterIdx, n int64) error {
	im := c.im
	im.allocMu.Lock()
	defer im.allocMu.Unlock()
	for i := first; i < first+clusterIdx(n); i++ {
		r, err := im.refcount(i)
		switch {
		case err != nil:
			return err
		case r == 0:
			return corruptf(int64(im.clusterOff(i)), "refcount", "a cluster that is in use has the refcount 0")
		case r >= maxRefcount(im.refcountOrder):
			return fmt.Errorf("qcow2: refcount of the cluster at %#x: %w of %d", im.clusterOff(i), ErrLimit, maxRefcount(im.refcountOrder))
		}
		if err := im.setRefcount(i, r+1); err != nil {
			return err
		}
		c.raised = addRun(c.raised, i)
	}
	return nil
}

// drop removes a reference to n clusters, once the change is published.
func (c *change) drop(first clusterIdx, n int64, what freedKind) {
	c.im.mu.Lock()
	defer c.im.mu.Unlock()
	c.im.unlink(first, n, what)
}

// header changes the header.
func (c *change) header(f func(h *Header)) {
	c.im.mu.Lock()
	defer c.im.mu.Unlock()
	f(c.im.hdr)
}

// setActive publishes a new L1 table of n entries as the active one, with the
// entries of t, zeros after them, and with it what f does to the header. The old
// one is dropped, but not what it points to.
func (c *change) setActive(t l1Table, n int, f func(h *Header)) error {
	im := c.im
	size := int64(n) * l1EntrySize
	if size > maxL1Bytes {
		return fmt.Errorf("qcow2: L1 table of %d bytes: %w of %d", size, ErrLimit, maxL1Bytes)
	}
	off, err := c.alloc(max(1, align.CeilDiv(size, im.clusterSize())))
	if err != nil {
		return err
	}
	grown := make([]byte, size)
	copy(grown, t)
	old := im.active.l1
	c.publish(func(h *Header) {
		im.active.l1, im.active.entries = tablecache.NewTable(int64(off), grown, stageIncrease), n
		h.L1TableOffset, h.L1Size = int64(off), uint32(n)
		f(h)
		im.tables.Reserve(size - int64(len(old.Bytes())))
		if len(old.Bytes()) > 0 {
			im.unlink(im.cluster(hostOff(old.Offset())), align.CeilDiv(int64(len(old.Bytes())), im.clusterSize()), freedTable)
		}
	})
	return nil
}

// growL1 makes the active L1 table have at least n entries.
func (im *Image) growL1(n int) error {
	return im.change(false, func(c *change) error {
		if n <= im.active.entries {
			return nil
		}
		return c.setActive(l1Table(im.active.l1.Bytes()), n, func(*Header) {})
	})
}
