package qcow2

import (
	"context"
	"fmt"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// references counts how often an L1 table refers to each cluster of the image
// file: as an L2 table, or through one.
type references struct {
	im      *Image
	counted countedRefcounts
	limit   clusterIdx // clusters from here on cannot have a refcount
	copied  bool       // some L2 entry has the COPIED flag
}

// references counts what an L1 table refers to. What was changed is in the
// file, and nobody changes anything meanwhile.
func (im *Image) references(ctx context.Context, l1 l1Table) (*references, error) {
	im.allocMu.Lock()
	limit := clusterIdx(refTable(im.refs.table.Bytes()).len()) << im.refBlockBits()
	im.allocMu.Unlock()
	r := &references{im: im, limit: limit, counted: newCountedRefcounts(&im.layout, limit, 2<<30)}
	table := make([]byte, im.clusterSize())
	for i := range l1.len() {
		e := l1.at(i)
		if e.offset() == 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		if im.offsetInCluster(int64(e.offset())) != 0 {
			return nil, corruptf(int64(e.offset()), "L1 entry", "%#x is not aligned to a cluster", uint64(e))
		}
		if err := r.add(im.cluster(e.offset()), 1); err != nil {
			return nil, err
		}
		// A table that more entries point to than its refcount says would be
		// read again and again.
		if err := im.checkHas(im.cluster(e.offset()), r.counted.at(im.cluster(e.offset()))); err != nil {
			return nil, err
		}
		if err := safeio.ReadZeroFill(im.r, table, int64(e.offset())); err != nil {
			return nil, fmt.Errorf("qcow2: L2 table at %#x: %w", e.offset(), err)
		}
		if err := r.addTable(table, int64(e.offset())); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// addTable counts what the L2 table at offset at of the file refers to.
// Clusters of an external data file have no refcounts.
func (r *references) addTable(table []byte, at int64) error {
	if r.im.external {
		return nil
	}
	for step := r.im.entrySize(); len(table) > 0; table, at = table[step:], at+int64(step) {
		e := l2Table(table).at(0)
		if e == 0 {
			continue
		}
		r.copied = r.copied || e.copied()
		off, n := e.offset(), int64(1)
		switch {
		case e.compressed():
			off, n = r.im.compressedRange(e)
			n = int64(r.im.cluster(off+hostOff(n)-1)-r.im.cluster(off)) + 1
		case off == 0:
			continue
		case r.im.offsetInCluster(int64(off)) != 0:
			return corruptf(at, "L2 entry", "%#x is not aligned to a cluster", uint64(e))
		}
		if err := r.add(r.im.cluster(off), n); err != nil {
			return err
		}
	}
	return nil
}

// addRange counts a reference to the n bytes at off.
func (r *references) addRange(off hostOff, n int64) error {
	return r.add(r.im.cluster(off), align.CeilDiv(n, r.im.clusterSize()))
}

// add counts a reference to n clusters.
func (r *references) add(first clusterIdx, n int64) error {
	for i := first; i < first+clusterIdx(n); i++ {
		if i >= r.limit {
			return corruptf(int64(r.im.clusterOff(i)), "refcount", "a cluster that is in use has none")
		}
		if r.counted.add(i, 1) > 0 {
			return corruptf(int64(r.im.clusterOff(i)), "refcount", "the cluster is used more often than it says")
		}
	}
	return r.counted.err
}

// each calls f for runs of clusters that are referred to equally often, in the
// order of the file.
func (r *references) each(f func(first clusterIdx, n int64, count uint64) error) error {
	var run clusterIdx
	var n int64
	var count uint64
	flush := func() error {
		if count == 0 {
			return nil
		}
		return f(run, n, count)
	}
	step := clusterIdx(1) << r.counted.pieceBits
	for bi, block := range r.counted.blocks {
		if block == nil {
			continue
		}
		first := clusterIdx(bi) << r.counted.bits
		for i := first; i < first+1<<r.counted.bits; i += step {
			p := r.counted.piece(i)
			if p == nil {
				continue
			}
			for k := range int(step) {
				k, now := i+clusterIdx(k), p.at(r.counted.order, k)
				if now == count && k == run+clusterIdx(n) {
					n++
					continue
				}
				if err := flush(); err != nil {
					return err
				}
				run, n, count = k, 1, now
			}
		}
	}
	return flush()
}

// checkHas reports a corruption if the refcount of a cluster is less than n.
func (im *Image) checkHas(i clusterIdx, n uint64) error {
	im.allocMu.Lock()
	defer im.allocMu.Unlock()
	return im.checkHasLocked(i, n)
}

func (im *Image) checkHasLocked(i clusterIdx, n uint64) error {
	have, err := im.refcount(i)
	if err == nil && have < n {
		err = corruptf(int64(im.clusterOff(i)), "refcount", "%d, but the cluster is used %d times", have, n)
	}
	return err
}

// check calls f for each cluster that is referred to.
func (r *references) check(f func(i clusterIdx, count uint64) error) error {
	r.im.allocMu.Lock()
	defer r.im.allocMu.Unlock()
	return r.each(func(first clusterIdx, n int64, count uint64) error {
		for i := first; i < first+clusterIdx(n); i++ {
			if err := f(i, count); err != nil {
				return err
			}
		}
		return nil
	})
}

// canDrop reports why the references cannot be dropped.
func (r *references) canDrop() error { return r.check(r.im.checkHasLocked) }

// canRaise reports why the clusters cannot be referred to once more for each
// reference: ErrLimit if a refcount is too narrow.
func (r *references) canRaise() error {
	most := maxRefcount(r.im.refcountOrder)
	return r.check(func(i clusterIdx, count uint64) error {
		have, err := r.im.refcount(i)
		switch {
		case err != nil:
			return err
		case have < count:
			return r.im.checkHasLocked(i, count)
		case have > most-count:
			return fmt.Errorf("qcow2: refcount of the cluster at %#x: %w of %d", r.im.clusterOff(i), ErrLimit, most)
		}
		return nil
	})
}

// raise adds the references to the refcounts.
func (r *references) raise(c *change) error {
	return r.each(func(first clusterIdx, n int64, count uint64) error {
		for range count {
			if err := c.raise(first, n); err != nil {
				return err
			}
		}
		return nil
	})
}

// drop removes the references, once the change is published.
func (r *references) drop(c *change) {
	// f returns no error.
	_ = r.each(func(first clusterIdx, n int64, count uint64) error {
		for range count {
			c.drop(first, n, freedDiscard)
		}
		return nil
	})
}
