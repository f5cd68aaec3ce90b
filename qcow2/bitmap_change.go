package qcow2

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"slices"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
)

// ErrBitmapExists means that an image has a bitmap of that name. It is also
// [fs.ErrExist].
var ErrBitmapExists error = &sentinel{"there is such a bitmap already", fs.ErrExist}

// BitmapOptions describes a bitmap that is added. The zero value, like nil, is
// what qemu-img bitmap --add makes.
type BitmapOptions struct {
	// Granularity is how many bytes of the disk one bit stands for, a power of
	// two from 512 to 2 GiB. 0 means the size of a cluster, but at least 4 KiB
	// and at most 64 KiB.
	Granularity int64

	Disabled bool // writes do not set its bits
}

// AddBitmap adds a bitmap, whose bits are all zeros, under a name of 1 to 1023
// bytes. It is durable when AddBitmap returns; writes wait meanwhile. A name
// that there is already is [ErrBitmapExists]; a bitmap of more than 512 MiB is
// [ErrLimit]. Version 2 has no bitmaps, and an empty disk neither: the error is
// [errors.ErrUnsupported].
func (im *Image) AddBitmap(name string, o *BitmapOptions) error {
	var opts BitmapOptions
	if o != nil {
		opts = *o
	}
	granBits, err := im.granularityBits(opts.Granularity)
	if err != nil {
		return err
	}
	if len(name) == 0 || len(name) > maxBitmapName {
		return fmt.Errorf("qcow2: name of the bitmap: length %d is not from 1 to %d: %w", len(name), maxBitmapName, ErrLimit)
	}
	return im.changeBitmaps(func(list []*bitmap) ([]*bitmap, error) {
		if _, err := findBitmap(list, name); err == nil {
			return nil, fmt.Errorf("%w: %q", ErrBitmapExists, name)
		}
		n, entries := im.bitmapGeometry(granBits, im.Size())
		if n == 0 {
			return nil, unsupportedf("a bitmap of an empty disk")
		}
		if n/8 > maxBitmapBytes || len(list) == maxBitmaps {
			return nil, fmt.Errorf("qcow2: bitmap of %d bits: %w", n, ErrLimit)
		}
		b := &bitmap{entry: bitmapEntry{granBits: granBits, name: name}, bits: im.newBits(n, entries)}
		if !opts.Disabled {
			b.entry.flags = bitmapAuto
		}
		return append(list, b), nil
	})
}

// RemoveBitmap removes a bitmap, also one that is in use: see
// [ErrBitmapInUse]. It is durable when RemoveBitmap returns.
func (im *Image) RemoveBitmap(name string) error {
	return im.changeBitmaps(func(list []*bitmap) ([]*bitmap, error) {
		i, err := findBitmap(list, name)
		if err != nil {
			return nil, err
		}
		return slices.Delete(list, i, i+1), nil
	})
}

// ClearBitmap makes all bits of a bitmap zeros.
func (im *Image) ClearBitmap(name string) error {
	return im.changeBitmap(name, func(b *bitmap) error {
		b.bits.reset()
		return nil
	})
}

// EnableBitmap makes writes set the bits of a bitmap.
func (im *Image) EnableBitmap(name string) error {
	return im.changeBitmap(name, func(b *bitmap) error {
		b.entry.flags |= bitmapAuto
		return nil
	})
}

// DisableBitmap makes a bitmap stay as it is.
func (im *Image) DisableBitmap(name string) error {
	return im.changeBitmap(name, func(b *bitmap) error {
		b.entry.flags &^= bitmapAuto
		return nil
	})
}

// MergeBitmap sets those bits of the bitmap name that stand for what is dirty
// in a bitmap of src, which may be the same image or another one of the same
// size; their granularity may differ. If ctx ends, nothing is changed.
func (im *Image) MergeBitmap(ctx context.Context, name string, src *Image, from string) error {
	return im.changeBitmap(name, func(b *bitmap) error {
		if src.Size() != im.Size() {
			return fmt.Errorf("%w: bitmap %q is of a disk of %d bytes, %q of one of %d", ErrOutOfRange, from, src.Size(), name, im.Size())
		}
		g := b.entry.granBits
		for r, err := range src.DirtyRanges(from) {
			if err == nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			if err != nil {
				return err
			}
			if r.Start+r.Length > im.Size() { // src was resized meanwhile
				return fmt.Errorf("%w: bitmap %q has a range up to %d", ErrOutOfRange, from, r.Start+r.Length)
			}
			if err := b.bits.set(r.Start>>g, (r.Start+r.Length-1)>>g+1); err != nil {
				return err
			}
		}
		return nil
	})
}

// changeBitmap changes a bitmap by f, which gets a copy with its bits.
func (im *Image) changeBitmap(name string, f func(b *bitmap) error) error {
	return im.changeBitmaps(func(list []*bitmap) ([]*bitmap, error) {
		i, err := findBitmap(list, name)
		if err != nil {
			return nil, err
		}
		b, err := list[i].copy(im)
		if err != nil {
			return nil, err
		}
		list[i] = b
		return list, f(b)
	})
}

// copy returns a copy of the bitmap, with bits that can be changed.
func (b *bitmap) copy(im *Image) (*bitmap, error) {
	im.bitmaps.Lock()
	defer im.bitmaps.Unlock()
	if err := b.load(im, im.Size()); err != nil {
		return nil, err
	}
	c := *b
	c.bits = b.bits.clone()
	return &c, nil
}

// changeBitmaps replaces the list of bitmaps by what f makes of it, durably.
func (im *Image) changeBitmaps(f func(list []*bitmap) ([]*bitmap, error)) error {
	if im.version < 3 {
		return unsupportedf("bitmaps in version 2")
	}
	return im.change(false, func(c *change) error {
		list, err := f(slices.Clone(im.bitmaps.list))
		if err != nil {
			return err
		}
		publish, err := c.prepareBitmaps(list, false)
		if err != nil {
			return err
		}
		c.publish(publish)
		return nil
	})
}

// resizeBitmaps prepares the bitmaps for a disk of that size. What it returns
// publishes them.
func (c *change) resizeBitmaps(size int64) (func(h *Header), error) {
	im := c.im
	list := slices.Clone(im.bitmaps.list)
	if len(list) == 0 {
		return func(*Header) {}, nil
	}
	if size == 0 {
		return nil, unsupportedf("an empty disk with bitmaps")
	}
	for i := range list {
		b, err := list[i].copy(im)
		if err != nil {
			return nil, err
		}
		n, entries := im.bitmapGeometry(b.entry.granBits, size)
		if n/8 > maxBitmapBytes {
			return nil, fmt.Errorf("qcow2: bitmap %q of %d bits: %w", b.entry.name, n, ErrLimit)
		}
		if err := b.bits.resize(n, entries); err != nil {
			return nil, err
		}
		list[i] = b
	}
	return c.prepareBitmaps(list, false)
}

// prepareBitmaps writes a new bitmap directory, and what was changed of the
// bitmaps of list. What it returns publishes them. Those that record writes
// stay marked as in use, unless the image is being closed.
func (c *change) prepareBitmaps(list []*bitmap, closing bool) (func(h *Header), error) {
	im := c.im
	p := &preparedBitmaps{c: c}
	var dir []byte
	for _, b := range list {
		b, err := p.add(b, closing)
		if err != nil {
			return nil, err
		}
		dir = b.entry.append(dir)
	}
	p.addDropped()
	if len(dir) > maxBitmapDirectory {
		return nil, fmt.Errorf("qcow2: bitmap directory of %d bytes: %w of %d", len(dir), ErrLimit, maxBitmapDirectory)
	}
	var x BitmapsExtension
	if len(list) > 0 {
		off, err := c.alloc(align.CeilDiv(int64(len(dir)), im.clusterSize()))
		if err != nil {
			return nil, err
		}
		if err := c.write(dir, off); err != nil {
			return nil, err
		}
		x = BitmapsExtension{Count: uint32(len(list)), DirectorySize: int64(len(dir)), DirectoryOffset: int64(off)}
		at := int64(off)
		for _, b := range p.list {
			b.entry.at = at
			at += int64(len(b.entry.append(nil)))
		}
	}
	next := im.hdr.clone()
	next.setBitmaps(x)
	if _, err := next.AppendBinary(nil); err != nil {
		return nil, err
	}
	return func(h *Header) {
		if old, ok := h.Bitmaps(); ok {
			p.free(hostOff(old.DirectoryOffset), old.DirectorySize)
		}
		for _, f := range p.dropped {
			im.unlink(f.first, f.n, freedTable)
		}
		h.setBitmaps(x)
		im.setBitmaps(p.list)
	}, nil
}

// setBitmaps makes the header point to a bitmap directory, or to none.
func (h *Header) setBitmaps(x BitmapsExtension) {
	if x.Count == 0 {
		h.setExtension(ExtensionBitmaps, nil)
		h.AutoclearFeatures &^= AutoclearBitmaps
		return
	}
	be := binary.BigEndian
	b := be.AppendUint32(nil, x.Count)
	b = be.AppendUint32(b, 0)
	b = be.AppendUint64(b, uint64(x.DirectorySize))
	h.setExtension(ExtensionBitmaps, be.AppendUint64(b, uint64(x.DirectoryOffset)))
	h.AutoclearFeatures |= AutoclearBitmaps
}

// preparedBitmaps are bitmaps that are about to be published.
type preparedBitmaps struct {
	c       *change
	list    []*bitmap
	dropped []freed
}

// add returns the bitmap as it will be in the directory.
func (p *preparedBitmaps) add(b *bitmap, closing bool) (*bitmap, error) {
	p.c.im.bitmaps.Lock() // a reader may load its bits
	prepared := *b
	p.c.im.bitmaps.Unlock()
	b = &prepared
	p.list = append(p.list, b)
	if !b.stale {
		b.entry.flags &^= bitmapInUse
		if b.entry.enabled() && !closing {
			b.entry.flags |= bitmapInUse
		}
	}
	if b.bits != nil && !b.bits.clean {
		if err := p.writeBits(b); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// writeBits writes the bits that were changed, and a new table.
func (p *preparedBitmaps) writeBits(b *bitmap) error {
	t := b.bits.clone()
	im := p.c.im
	table := slices.Clone(t.table)
	for i, c := range t.changed {
		var e uint64
		switch {
		case c.b == nil && c.ones:
			e = 1
		case c.b != nil && !block.IsZero(c.b):
			off, err := p.c.alloc(1)
			if err != nil {
				return err
			}
			if err := p.c.write(c.b, off); err != nil {
				return err
			}
			e = uint64(off)
		}
		binary.BigEndian.PutUint64(table[i*bitmapTableEntrySize:], e)
	}
	p.dropBits(t.stored, table)
	if b.entry.table != 0 {
		p.free(b.entry.table, int64(len(t.stored)))
	}
	off, err := p.c.alloc(align.CeilDiv(int64(len(table)), im.clusterSize()))
	if err != nil {
		return err
	}
	if err := p.c.write(table, off); err != nil {
		return err
	}
	b.entry.table, b.entry.size = off, uint32(len(table)/bitmapTableEntrySize)
	t.table, t.stored, t.clean, t.changed = table, table, true, map[int64]*bitCluster{}
	b.bits = t
	return nil
}

// dropBits drops the clusters of bits that the old table refers to and the new
// one does not.
func (p *preparedBitmaps) dropBits(old, table []byte) {
	for i := 0; i < len(old); i += bitmapTableEntrySize {
		e := binary.BigEndian.Uint64(old[i:])
		if off := e & entryOffsetMask; off != 0 && (i >= len(table) || binary.BigEndian.Uint64(table[i:]) != e) {
			p.free(hostOff(off), 1)
		}
	}
}

// free drops the clusters of the n bytes at off.
func (p *preparedBitmaps) free(off hostOff, n int64) {
	p.dropped = append(p.dropped, freed{first: p.c.im.cluster(off), n: align.CeilDiv(n, p.c.im.clusterSize())})
}

// addDropped drops the bitmaps that are no more in the list.
func (p *preparedBitmaps) addDropped() {
	im := p.c.im
	kept := make(map[string]bool, len(p.list))
	for _, b := range p.list {
		kept[b.entry.name] = true
	}
	for _, old := range im.bitmaps.list {
		if kept[old.entry.name] {
			continue
		}
		// What cannot be understood stays where it is, unused.
		im.bitmaps.Lock()
		bits := old.bits
		im.bitmaps.Unlock()
		if bits == nil {
			var err error
			if bits, err = im.readBits(&old.entry, im.Size()); err != nil || im.sharesBits(bits) {
				continue
			}
		}
		p.dropBits(bits.stored, nil)
		p.free(old.entry.table, int64(len(bits.stored)))
	}
}

// sharesBits reports whether bits that nobody claimed lie in metadata.
func (im *Image) sharesBits(t *bitmapBits) bool {
	im.mu.RLock()
	defer im.mu.RUnlock()
	for i := 0; i < len(t.stored); i += bitmapTableEntrySize {
		off := binary.BigEndian.Uint64(t.stored[i:]) & entryOffsetMask
		if off != 0 && im.meta.overlaps(im.cluster(hostOff(off)), 1) {
			return true
		}
	}
	return false
}
