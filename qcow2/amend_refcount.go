package qcow2

import (
	"context"
	"fmt"
	"slices"

	"github.com/virtfmt/virtfmt/internal/align"
)

// A refLayout is where new refcount structures lie: blocks, and then their
// table, in clusters that follow each other.
type refLayout struct {
	shape  layout     // with the width of the new refcounts
	first  clusterIdx // of the new clusters
	blocks []int      // indexes in the refcount table of those that are needed, in order
	table  int64      // clusters of the table
}

// end returns the cluster after the last new one.
func (b *refLayout) end() clusterIdx {
	return b.first + clusterIdx(len(b.blocks)) + clusterIdx(b.table)
}

// layOut adds the blocks that describe the new structures themselves, until
// none is missing.
func (b *refLayout) layOut() error {
	perBlock := b.shape.refBlockBits()
	for {
		last := int(b.first >> perBlock)
		if n := len(b.blocks); n > 0 {
			last = max(last, b.blocks[n-1])
		}
		b.table = align.CeilDiv(int64(last+1)*refTableEntrySize, b.shape.clusterSize())
		if b.table<<b.shape.clusterBits > maxRefcountTableBytes {
			return badf(refcountTableField, "refcount table", "%d bytes: %w of %d", b.table<<b.shape.clusterBits, ErrLimit, maxRefcountTableBytes)
		}
		missing := -1
		for bi := int(b.first >> perBlock); bi <= int((b.end()-1)>>perBlock); bi++ {
			if n := len(b.blocks); n == 0 || b.blocks[n-1] < bi {
				missing = bi
				break
			}
		}
		if missing < 0 {
			return nil
		}
		b.blocks = append(b.blocks, missing)
	}
}

// resizeRefcounts gives all refcounts another width. The new structures lie
// past the end of the file, where the old ones count nothing, and take their
// place with one write of a sector of the header.
func (c *change) resizeRefcounts(ctx context.Context, order uint) error {
	im := c.im
	if err := c.clean(); err != nil { // lazy refcounts
		return err
	}
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	im.allocMu.Lock()
	defer im.allocMu.Unlock()
	r := refResizer{im: im, old: map[clusterIdx]bool{}}
	r.shape = im.layout
	r.shape.refcountOrder = order
	if err := r.plan(ctx); err != nil {
		return err
	}
	off, err := r.write(ctx)
	if err != nil {
		return err
	}
	if err := im.syncFiles(); err != nil {
		return im.fail(err)
	}
	point := func(h *Header) {
		h.RefcountTableOffset, h.RefcountTableClusters = int64(off), uint32(r.table)
		h.RefcountOrder = uint32(order)
	}
	next := im.diskHdr.clone()
	point(next)
	if err := im.writeHeader(next); err != nil {
		return im.fail(err)
	}
	if err := im.syncFiles(); err != nil {
		return im.fail(err)
	}
	r.adopt(c, point)
	return im.openRefs()
}

// adopt makes the image use the new structures, which are in the file.
func (r *refResizer) adopt(c *change, point func(h *Header)) {
	im := r.im
	cluster := im.clusterSize()
	im.mu.Lock()
	for i := range r.old {
		im.tables.Drop(int64(im.clusterOff(i)), cluster)
		im.meta.remove(i, 1)
	}
	n := int64(r.end() - r.first)
	im.tables.Drop(int64(im.clusterOff(r.first)), n*cluster)
	im.meta.add(r.first, n)
	im.tables.Reserve(-int64(len(im.refs.table.Bytes())))
	im.mu.Unlock()
	im.refs = refcounts{}
	c.publish(func(h *Header) {
		point(h)
		im.layout = h.layout()
	})
}

// A refResizer copies refcounts to blocks of another width.
type refResizer struct {
	refLayout
	im  *Image
	old map[clusterIdx]bool // the clusters of the old structures
}

// plan finds out which blocks are needed, and whether all refcounts fit.
func (r *refResizer) plan(ctx context.Context) error {
	im := r.im
	table := refTable(im.refs.table.Bytes())
	for i := range clusterIdx(len(table)) >> im.clusterBits {
		r.old[im.cluster(hostOff(im.refs.table.Offset()))+i] = true
	}
	for i := range table.len() {
		off := table.at(i).offset()
		if off <= 0 {
			continue
		}
		if r.old[im.cluster(off)] {
			return corruptf(im.refs.table.Offset()+int64(i)*refTableEntrySize, "refcount table entry", "%#x is in use already", off)
		}
		r.old[im.cluster(off)] = true
	}
	most := maxRefcount(r.shape.refcountOrder)
	r.first = max(im.refs.end, clusterIdx(align.CeilDiv(im.length.Load(), im.clusterSize())))
	err := r.each(ctx, func(i clusterIdx, n uint64) error {
		if n > most {
			return fmt.Errorf("qcow2: refcount %d of the cluster at %#x: %w of %d", n, im.clusterOff(i), ErrLimit, most)
		}
		if bi := int(i >> r.shape.refBlockBits()); len(r.blocks) == 0 || r.blocks[len(r.blocks)-1] != bi {
			r.blocks = append(r.blocks, bi)
		}
		r.first = max(r.first, i+1)
		return nil
	})
	if err != nil {
		return err
	}
	return r.layOut()
}

// each calls f for the clusters that have a refcount, in order, but not for
// those of the old structures.
func (r *refResizer) each(ctx context.Context, f func(i clusterIdx, n uint64) error) error {
	im := r.im
	table := refTable(im.refs.table.Bytes())
	for bi := range table.len() {
		if table.at(bi).offset() == 0 || int64(table.at(bi).offset()) >= im.length.Load() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		first := clusterIdx(bi) << im.refBlockBits()
		for i := first; i < first+1<<im.refBlockBits(); i++ {
			n, err := im.refcount(i)
			if err != nil {
				return err
			}
			if n == 0 || r.old[i] && n == 1 {
				continue
			}
			if err := f(i, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// write writes the new structures, and returns where the table lies.
func (r *refResizer) write(ctx context.Context) (hostOff, error) {
	im := r.im
	table := make(refTable, r.table<<im.clusterBits)
	block := make(refBlock, im.clusterSize())
	current := 0 // index in r.blocks
	put := func() error {
		bi := r.blocks[current]
		first := clusterIdx(bi) << r.shape.refBlockBits()
		for i := max(first, r.first); i < min(first+1<<r.shape.refBlockBits(), r.end()); i++ {
			block.set(r.shape.refcountOrder, int(i-first), 1)
		}
		off := im.clusterOff(r.first + clusterIdx(current))
		table.set(bi, refTableEntry(off))
		current++
		err := im.writeFile(slices.Clone(block), off)
		clear(block)
		return err
	}
	err := r.each(ctx, func(i clusterIdx, n uint64) error {
		bi := int(i >> r.shape.refBlockBits())
		for r.blocks[current] != bi {
			if err := put(); err != nil {
				return err
			}
		}
		block.set(r.shape.refcountOrder, int(i)&(1<<r.shape.refBlockBits()-1), n)
		return nil
	})
	for err == nil && current < len(r.blocks) {
		err = put()
	}
	if err != nil {
		return 0, err
	}
	off := im.clusterOff(r.first + clusterIdx(len(r.blocks)))
	return off, im.writeFile(table, off)
}
