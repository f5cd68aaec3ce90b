package qcow2

import (
	"fmt"
	"iter"

	"github.com/virtfmt/virtfmt/internal/block"
)

// Extents yields what stands behind the n bytes at off, in order and without
// gaps, cut to the end of the disk. Neighbours that are stored alike are one
// extent; what the image does not hold is told by its backing file. After an
// error it yields nothing more.
//
// A HostOffset is true until the image is written to.
func (im *Image) Extents(off, n int64) iter.Seq2[Extent, error] {
	return im.extentsOf(im.active, off, n)
}

// extentsOf is Extents for any mapping.
func (im *Image) extentsOf(r *root, off, n int64) iter.Seq2[Extent, error] {
	return block.Merge(func(yield func(Extent, error) bool) {
		if err := im.checkRange(off, n); err != nil {
			yield(Extent{}, err)
			return
		}
		im.extents(r, off, min(n, max(0, r.size.Load()-off)), yield)
	})
}

// extents yields the extents of a range before neighbours are merged.
//
// Preconditions: off and n are within the disk.
func (im *Image) extents(r *root, off, n int64, yield func(Extent, error) bool) {
	for end := off + n; off < end; {
		backing := im.Backing()
		got, err := im.find(r, guestOff(off), end-off)
		if err != nil {
			yield(Extent{}, err)
			return
		}
		e := Extent{Start: off, Length: got.n, HostOffset: NoOffset}
		off += got.n
		switch got.kind {
		case kindUnallocated, kindPlaced:
			send := yield
			if got.kind == kindPlaced && !im.encrypted {
				send = placed(e.Start, got.host, yield)
			}
			if !block.BackingExtents(backing, e.Start, e.Length, send) {
				return
			}
			continue
		case kindCompressed:
			e.Kind = Compressed
		case kindNormal:
			e.Kind, e.HostOffset = Data, int64(got.host)
		case kindZeroAlloc:
			e.Kind, e.HostOffset = Zero, int64(got.host)
		case kindZeroPlain:
			e.Kind = Zero
		}
		if im.encrypted {
			e.HostOffset = NoOffset // what lies there is not what is read
		}
		if !yield(e, nil) {
			return
		}
	}
}

// placed returns a yield that tells where subclusters lie that this layer has a
// place for, and nothing in it. The first byte at start lies at host.
func placed(start int64, host hostOff, yield func(Extent, error) bool) func(Extent, error) bool {
	return func(e Extent, err error) bool {
		if err == nil && e.Kind == Unallocated && e.Depth == 0 {
			e.HostOffset = int64(host) + e.Start - start
		}
		return yield(e, err)
	}
}

// checkRange refuses ranges that no disk has, and closed images.
func (im *Image) checkRange(off, n int64) error {
	if off < 0 || n < 0 {
		return im.outOfRange(off, n)
	}
	if im.closed.Load() {
		return ErrClosed
	}
	return nil
}

// outOfRange is the error for n bytes at off.
func (im *Image) outOfRange(off, n int64) error {
	return fmt.Errorf("%w: %d bytes at %d of %d", ErrOutOfRange, n, off, im.Size())
}
