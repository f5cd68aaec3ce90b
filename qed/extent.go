package qed

import (
	"iter"

	"github.com/virtfmt/virtfmt/internal/block"
)

// Extents yields what stands behind the n bytes at off, in order, without
// gaps, cut to the end of the disk. Neighbours that are stored in one way come
// as one extent. Extents of the backing file have a Depth of 1 or more; what
// no layer holds is [Unallocated]. After an error it yields nothing more.
//
// The image may be written meanwhile: each extent was true when it was
// yielded.
func (img *Image) Extents(off, n int64) iter.Seq2[Extent, error] {
	return img.extents(off, n, img.lookupOpen)
}

// extents is Extents by way of lookup, which returns a run and the backing file.
func (img *Image) extents(off, n int64, lookup func(off guestOff, n int64) (run, Disk, error)) iter.Seq2[Extent, error] {
	return block.Merge(func(yield func(Extent, error) bool) {
		if off < 0 || n < 0 {
			yield(Extent{}, img.outOfRange(off, n))
			return
		}
		end := off + min(n, max(0, img.Size()-off))
		for off < end {
			r, backing, err := lookup(guestOff(off), end-off)
			if err != nil {
				yield(Extent{}, err)
				return
			}
			if !extentsOf(r, backing, yield) {
				return
			}
			off += r.length
		}
	})
}

// lookupOpen is lookup on an image that may have been closed.
func (img *Image) lookupOpen(off guestOff, n int64) (run, Disk, error) {
	img.life.RLock()
	defer img.life.RUnlock()
	if err := img.usable(); err != nil {
		return run{}, nil, err
	}
	r, err := img.lookup(off, n)
	return r, img.backing, err
}

// extentsOf yields the extents of one run.
func extentsOf(r run, backing Disk, yield func(Extent, error) bool) bool {
	e := Extent{Start: int64(r.start), Length: r.length, HostOffset: block.NoOffset}
	switch r.kind {
	case runData:
		e.Kind, e.HostOffset = block.Data, int64(r.host)
	case runZero:
		e.Kind = block.Zero
	case runBacking:
		return block.BackingExtents(backing, e.Start, e.Length, yield)
	}
	return yield(e, nil)
}
