package qcow2

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
)

// ErrShrink means that an image was to become smaller, and that this was not
// allowed.
var ErrShrink = errors.New("qcow2: making the disk smaller was not allowed")

// ResizeOptions says how an image is resized. The zero value, like nil, lets it
// grow.
type ResizeOptions struct {
	// Shrink allows a smaller size. What lies past it is lost.
	Shrink bool

	// Preallocation says how much of what is added is laid out. It must be
	// PreallocateOff where nothing is.
	Preallocation Preallocation
}

// Resize gives the disk a size of a multiple of 512 bytes. What is added
// reads as zeros, whatever a backing file holds there and whatever the disk
// held there when it was larger. Snapshots keep their size. What was written
// by [Image.WriteVMStateAt] is lost. An external data file gets the same size.
//
// A smaller size without [ResizeOptions.Shrink] is [ErrShrink]; one that the
// L1 table cannot describe is [ErrLimit]. As QEMU it refuses with
// [errors.ErrUnsupported] a version 2 image that has snapshots, or one with
// bitmaps that would become empty, and with [ErrBitmapInUse] an image with such
// a bitmap. Bits of bitmaps for what is added are zeros.
//
// Readers go on meanwhile, writers wait. The new size is durable when Resize
// returns; a power cut before leaves the one or the other, and nothing of a
// disk that grew but zeros. If ctx ends, the size is as it was.
func (im *Image) Resize(ctx context.Context, size int64, o *ResizeOptions) error {
	var opts ResizeOptions
	if o != nil {
		opts = *o
	}
	if size < 0 || !align.IsAligned(size, sectorSize) {
		return fmt.Errorf("%w: a disk of %d bytes is not one of whole sectors of 512 bytes", ErrOutOfRange, size)
	}
	entries := im.l1EntriesFor(size)
	if entries > maxL1Bytes/l1EntrySize || size > maxDiskSize {
		return fmt.Errorf("qcow2: disk of %d bytes: %w of an L1 table of %d bytes", size, ErrLimit, maxL1Bytes)
	}
	return im.change(false, func(c *change) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := c.checkResize(size, &opts); err != nil {
			return err
		}
		if err := c.settle(); err != nil {
			return err
		}
		if err := c.sizeSnapshots(); err != nil {
			return err
		}
		n := int(max(1, entries))
		switch {
		case size > im.Size():
			return c.grow(ctx, size, n, opts.Preallocation)
		case size < im.Size():
			return c.shrink(ctx, size, n)
		}
		return nil
	})
}

// maxDiskSize is the largest disk, as in QEMU: what follows could not be
// rounded up.
const maxDiskSize = math.MaxInt64 &^ (1<<30 - 1)

// checkResize reports why the disk cannot get that size.
func (c *change) checkResize(size int64, o *ResizeOptions) error {
	im := c.im
	if o.Preallocation > PreallocateFull {
		return fmt.Errorf("qcow2: %v: %w", o.Preallocation, errors.ErrUnsupported)
	}
	if o.Preallocation != PreallocateOff && size <= im.Size() {
		return errors.New("qcow2: only what is added to a disk can be preallocated")
	}
	switch {
	case size < im.Size() && !o.Shrink:
		return fmt.Errorf("%w: from %d to %d bytes", ErrShrink, im.Size(), size)
	case size == im.Size():
		return nil
	case im.version < 3 && im.hdr.SnapshotCount > 0:
		return unsupportedf("resizing a version 2 image that has snapshots")
	}
	return im.writable()
}

// sizeSnapshots makes all snapshots tell the size of their disk, which is not
// that of the image any more.
func (c *change) sizeSnapshots() error {
	t, err := c.im.snapshotList()
	if err != nil {
		return err
	}
	for _, s := range t.list {
		if s.sized {
			continue
		}
		sized := &snapshotTable{list: t.list}
		publish, err := c.prepareTable(t, sized)
		if err != nil {
			return err
		}
		c.publish(publish)
		c.im.renewMetadata()
		return c.flush()
	}
	return nil
}

// newSize makes the header tell the size of the disk.
func (im *Image) newSize(size int64) func(h *Header) {
	return func(h *Header) {
		h.Size = size
		im.setSize()
	}
}

// shrink publishes the smaller size together with an L1 table that describes
// no more.
func (c *change) shrink(ctx context.Context, size int64, entries int) error {
	im := c.im
	sizeBitmaps, err := c.resizeBitmaps(size)
	if err != nil {
		return err
	}
	newSize := im.newSize(size)
	err = c.cut(ctx, size, entries, func(h *Header) {
		newSize(h)
		sizeBitmaps(h)
	})
	if err != nil {
		return err
	}
	if err := c.settle(); err != nil {
		return err
	}
	if im.external {
		if err := im.truncateData(size); err != nil {
			return err
		}
	}
	return im.trimFile(ctx)
}

// grow makes what is added zeros, and then publishes the size.
func (c *change) grow(ctx context.Context, size int64, entries int, mode Preallocation) error {
	im := c.im
	old := im.Size()
	// VM state, and what a change that failed has left.
	if err := c.cut(ctx, old, entries, func(*Header) {}); err != nil {
		return err
	}
	if err := c.settle(); err != nil {
		return err
	}
	if im.externalRaw && mode == PreallocateOff {
		mode = PreallocateMetadata
	}
	err := im.fillGrown(ctx, old, size, mode)
	var sizeBitmaps func(h *Header)
	if err == nil {
		sizeBitmaps, err = c.resizeBitmaps(size)
	}
	if err != nil {
		// What is past the end now must not stay there, if that can be helped.
		err = c.undo(err)
		_ = c.flush()
		_ = c.cut(context.WithoutCancel(ctx), old, entries, func(*Header) {})
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	newSize := im.newSize(size)
	c.publish(func(h *Header) {
		newSize(h)
		sizeBitmaps(h)
	})
	return nil
}

// fillGrown prepares what is added to the disk.
func (im *Image) fillGrown(ctx context.Context, old, size int64, mode Preallocation) error {
	if err := im.hideBacking(ctx, old, size); err != nil {
		return err
	}
	if im.external {
		if err := im.growData(old, size, mode != PreallocateOff); err != nil {
			return err
		}
	}
	if mode == PreallocateOff {
		return nil
	}
	return im.preallocate(ctx, align.Up(old, im.clusterSize()), size, mode)
}

// hideBacking makes sure that nothing but zeros is seen between the old and
// the new end of the disk.
func (im *Image) hideBacking(ctx context.Context, old, size int64) error {
	shown := old // end of what would be seen of the backing file
	if backing := im.Backing(); backing != nil {
		shown = min(size, max(old, backing.Size()))
	}
	whole := align.Up(old, im.clusterSize())
	if old < whole {
		if zero, err := im.tailIsZero(old, whole, shown); err != nil {
			return err
		} else if !zero {
			if err := im.writeZeros(guestOff(old), whole-old); err != nil {
				return err
			}
		}
	}
	for shown = align.Up(shown, im.clusterSize()); whole < shown; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n := min(shown-whole, max(1<<30, im.clusterSize()))
		do := func() error { return im.zeroSubclusters(guestOff(whole), n, false) }
		if im.version < 3 {
			do = func() error { return im.writeZeros(guestOff(whole), n) }
		}
		if err := do(); err != nil {
			return err
		}
		if err := im.tidyTables(); err != nil {
			return err
		}
		whole += n
	}
	return nil
}

// tailIsZero reports whether the rest of the cluster that the disk ends in
// reads as zeros, also if the backing file is seen up to shown.
func (im *Image) tailIsZero(off, end, shown int64) (bool, error) {
	for off < end {
		got, err := im.find(im.active, guestOff(off), end-off)
		if err != nil {
			return false, err
		}
		switch got.kind {
		case kindUnallocated, kindPlaced:
			if off < shown {
				return false, nil
			}
		case kindNormal, kindCompressed:
			b := make([]byte, got.n)
			if _, err := im.readVia(im.active, b, guestOff(off)); err != nil || !block.IsZero(b) {
				return false, err
			}
		}
		off += got.n
	}
	return true, nil
}

// growData makes the external data file as long as the disk will be. What it
// already holds past the old end becomes zeros, if that will be seen.
func (im *Image) growData(old, size int64, seen bool) error {
	if have := im.dataLength.Load(); have < size {
		if err := im.truncateData(size); err != nil {
			return err
		}
		size = have
	}
	if !seen || old >= size {
		return nil
	}
	return im.zeroStored(hostOff(old), size-old)
}

func (im *Image) truncateData(size int64) error {
	if err := im.dataW.Truncate(size); err != nil {
		return fmt.Errorf("qcow2: data file: %w", err)
	}
	im.dataLength.Store(size)
	im.dataUnsynced.Store(true)
	return nil
}

// trimFile cuts off the end of the file that nothing uses. Nothing waits to be
// freed.
func (im *Image) trimFile(ctx context.Context) error {
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	im.allocMu.Lock()
	defer im.allocMu.Unlock()
	end := clusterIdx(align.CeilDiv(im.length.Load(), im.clusterSize()))
	last, err := im.lastUsed(ctx, end)
	if last == end || err != nil {
		return err
	}
	if err := im.w.Truncate(int64(im.clusterOff(last))); err != nil {
		return fmt.Errorf("qcow2: %w", err)
	}
	im.length.Store(int64(im.clusterOff(last)))
	im.refs.end = min(im.refs.end, last)
	im.mu.Lock()
	im.tablesEnd = min(im.tablesEnd, im.clusterOff(last))
	im.mu.Unlock()
	im.unsynced.Store(true)
	return nil
}

// lastUsed returns the end of the last cluster before end that is in use. The
// file may be sparse and of any length: what has no refcounts, or just zeros,
// is passed over as a whole. allocMu is held.
func (im *Image) lastUsed(ctx context.Context, end clusterIdx) (clusterIdx, error) {
	// What the table does not reach is free.
	end = min(end, clusterIdx(refTable(im.refs.table.Bytes()).len())<<im.refBlockBits())
	for end > 1 {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		s, at, err := im.refSlice(end - 1)
		switch {
		case err != nil:
			return 0, err
		case s == nil:
			end = (end - 1) &^ (1<<im.refBlockBits() - 1)
		case block.IsZero(s.Bytes()):
			end = (end - 1) &^ (1<<im.refSliceBits() - 1)
		default:
			b := refBlock(s.Bytes())
			for ; at >= 0; at-- {
				if b.at(im.refcountOrder, at) != 0 {
					return end, nil
				}
				end--
			}
		}
	}
	return 1, nil
}
