package qcow2

import (
	"context"
	"encoding/binary"
	"fmt"
)

// repairRefcounts is step 2 of [Repair]. It returns the checker whose counts
// are the refcounts now.
func (r *repairer) repairRefcounts(c *checker) (*checker, error) {
	if c.badRefcounts || c.kinds[FindingOverflow] > 0 || r.refTableShared(c) || r.refBlockMissing(c) {
		if r.mode == RepairLeaks {
			return c, nil
		}
		c, err := r.check(true)
		if err != nil {
			return nil, err
		}
		return c, r.rebuildRefcounts(c)
	}
	return c, r.updateRefcounts(c)
}

// refTableShared reports whether anything else lies where the refcount table
// lies.
func (r *repairer) refTableShared(c *checker) bool {
	first := c.cluster(hostOff(c.h.RefcountTableOffset))
	for i := range clusterIdx(c.h.RefcountTableClusters) {
		if c.counted.at(first+i) != 1 {
			return true
		}
	}
	return c.h.RefcountTableClusters == 0
}

// refBlockMissing reports whether a cluster needs a refcount and has no block
// to keep it in.
func (r *repairer) refBlockMissing(c *checker) bool {
	for bi := range c.counted.blocks {
		if !r.hasBlock(c, bi) && r.needsBlock(c, bi) {
			return true
		}
	}
	return false
}

// hasBlock reports whether the refcount table points to a block.
func (r *repairer) hasBlock(c *checker, bi int) bool {
	return bi < len(c.stored.blocks) && c.refcountTable.at(bi).offset() != 0
}

// updateRefcounts sets the refcounts in the blocks that there are. Raising and
// lowering need no order: both only make what was wrong right, and nothing
// allocates meanwhile.
func (r *repairer) updateRefcounts(c *checker) error {
	for bi := range c.stored.blocks {
		if err := c.ctx.Err(); err != nil {
			return context.Cause(c.ctx)
		}
		if !r.hasBlock(c, bi) {
			continue
		}
		was := c.stored.blocks[bi].data
		if was == nil {
			was = make(refBlock, c.clusterSize())
		}
		now := r.wanted(c, bi, was)
		if err := r.write(was, now, int64(c.refcountTable.at(bi).offset())); err != nil {
			return err
		}
	}
	return r.sync()
}

// wanted returns the refcount block bi as it shall be.
func (r *repairer) wanted(c *checker, bi int, was refBlock) refBlock {
	now := append(refBlock(nil), was...)
	first := clusterIdx(bi) << c.counted.bits
	for i := range now.len(c.refcountOrder) {
		now.set(c.refcountOrder, i, r.final(c, first+clusterIdx(i)))
	}
	return now
}

// A rebuild is new refcount structures at the end of the file.
type rebuild struct {
	*checker
	refLayout
}

// rebuildRefcounts replaces the refcount structures.
//
// Preconditions: c counted without the old ones.
func (r *repairer) rebuildRefcounts(c *checker) error {
	b := rebuild{c, refLayout{shape: c.layout, first: c.cluster(hostOff(r.fresh(c)))}}
	for bi := range c.counted.blocks {
		if r.needsBlock(c, bi) {
			b.blocks = append(b.blocks, bi)
		}
	}
	if err := b.layOut(); err != nil {
		return err
	}
	table := make(refTable, b.table<<c.clusterBits)
	off := c.clusterOff(b.first)
	for _, bi := range b.blocks {
		if err := c.ctx.Err(); err != nil {
			return context.Cause(c.ctx)
		}
		block := r.rebuilt(&b, bi)
		if _, err := r.f.WriteAt(block, int64(off)); err != nil {
			return fmt.Errorf("qcow2: refcount block at %#x: %w", off, err)
		}
		table.set(bi, refTableEntry(off))
		off += hostOff(c.clusterSize())
	}
	if _, err := r.f.WriteAt(table, int64(off)); err != nil {
		return fmt.Errorf("qcow2: refcount table at %#x: %w", off, err)
	}
	if err := r.sync(); err != nil {
		return err
	}
	h := binary.BigEndian.AppendUint64(nil, uint64(off))
	h = binary.BigEndian.AppendUint32(h, uint32(b.table))
	return r.putHeader(h, refcountTableField)
}

// needsBlock reports whether a cluster of block bi will have a refcount.
func (r *repairer) needsBlock(c *checker, bi int) bool {
	if c.counted.blocks[bi] == nil && (bi >= len(c.stored.blocks) || c.stored.blocks[bi].data == nil) {
		return false
	}
	first := clusterIdx(bi) << c.counted.bits
	for i := first; i < min(first+1<<c.counted.bits, c.clusters); i++ {
		if r.final(c, i) != 0 {
			return true
		}
	}
	return false
}

// rebuilt returns the new refcount block bi.
func (r *repairer) rebuilt(b *rebuild, bi int) refBlock {
	block := make(refBlock, b.clusterSize())
	first := clusterIdx(bi) << b.counted.bits
	for i := range block.len(b.refcountOrder) {
		switch at := first + clusterIdx(i); {
		case at < b.clusters:
			block.set(b.refcountOrder, i, r.final(b.checker, at))
		case b.first <= at && at < b.end():
			block.set(b.refcountOrder, i, 1)
		}
	}
	return block
}
