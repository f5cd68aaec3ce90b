package qcow2

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// cut publishes an L1 table of n entries that describes only the first size
// bytes of the active mapping, and with it what f does to the header. What
// lies past them is dropped. What was changed before is in the file.
func (c *change) cut(ctx context.Context, size int64, n int, f func(h *Header)) error {
	im := c.im
	kept := slices.Clone(l1Table(im.active.l1.Bytes()))
	lost := make(l1Table, len(kept))
	first := int(im.l1EntriesFor(size))
	for i := first; i < kept.len(); i++ {
		lost.set(i, kept.at(i))
		kept.set(i, 0)
	}
	refs, err := im.references(ctx, lost)
	if err != nil {
		return err
	}
	if last := first - 1; last >= 0 {
		e, err := c.cutTable(kept.at(last), size-int64(last)<<im.l1CoverageBits(), refs)
		if err != nil {
			return err
		}
		kept.set(last, e)
	}
	if err := refs.canDrop(); err != nil {
		return err
	}
	if n == im.active.entries && bytes.Equal(kept, im.active.l1.Bytes()) {
		c.publish(f)
		return nil
	}
	if err := c.setActive(kept[:min(len(kept), n*l1EntrySize)], n, f); err != nil {
		return err
	}
	im.renewMetadata()
	refs.drop(c)
	return nil
}

// cutTable returns an L1 entry for the first size bytes of what the entry e
// describes: e, or that of a copy of its L2 table. What is lost then is counted.
func (c *change) cutTable(e l1Entry, size int64, lost *references) (l1Entry, error) {
	im := c.im
	at := align.CeilDiv(size, im.clusterSize()) << im.entryBits()
	if e.offset() == 0 || at == im.clusterSize() {
		return e, nil
	}
	table := make([]byte, im.clusterSize())
	if err := safeio.ReadZeroFill(im.r, table, int64(e.offset())); err != nil {
		return 0, fmt.Errorf("qcow2: L2 table at %#x: %w", e.offset(), err)
	}
	if block.IsZero(table[at:]) {
		return e, nil
	}
	if err := lost.addTable(table[at:], int64(e.offset())+at); err != nil {
		return 0, err
	}
	if err := lost.addRange(e.offset(), im.clusterSize()); err != nil {
		return 0, err
	}
	clear(table[at:])
	off, err := c.alloc(1)
	if err != nil {
		return 0, err
	}
	return makeL1Entry(off, true), c.write(table, off)
}
