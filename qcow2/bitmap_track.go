package qcow2

import (
	"encoding/binary"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/virtfmt/virtfmt/internal/align"
)

// Bitmaps are held in memory while an image is written to. In the file those
// that writes change are marked as in use before the first write, and get
// their bits, and lose the mark, when the image is closed. So after a power
// cut nobody takes what they hold for the truth.

// bitmaps are the bitmaps of an image that is being written to.
type bitmaps struct {
	sync.Mutex           // guards what follows, and the bits
	list       []*bitmap // replaced as a whole, with the gate held exclusively
	recording  atomic.Bool
}

// A bitmap is one of the bitmaps of an image.
type bitmap struct {
	entry bitmapEntry
	stale bool        // it was in use when the image was opened
	bits  *bitmapBits // nil until they are needed
}

// records reports whether writes set its bits.
func (b *bitmap) records() bool { return b.entry.enabled() && !b.stale }

// load reads the bits, of a disk of that size. Image.bitmaps is locked, or
// nobody else has b.
func (b *bitmap) load(im *Image, disk int64) error {
	if b.stale {
		return fmt.Errorf("%w: %q", ErrBitmapInUse, b.entry.name)
	}
	if b.bits != nil {
		return nil
	}
	var err error
	b.bits, err = im.readBits(&b.entry, disk)
	return err
}

// readBitmaps returns the bitmaps as the file has them.
func (im *Image) readBitmaps() ([]*bitmap, error) {
	entries, err := im.readBitmapDirectory()
	if err != nil {
		return nil, err
	}
	list := make([]*bitmap, len(entries))
	for i, e := range entries {
		list[i] = &bitmap{entry: e, stale: e.flags&bitmapInUse != 0}
	}
	return list, nil
}

// loadBitmaps returns the bitmaps with their bits. Those that record writes must
// be readable.
func (im *Image) loadBitmaps() ([]*bitmap, error) {
	list, err := im.readBitmaps()
	if err != nil {
		return nil, err
	}
	var used int64
	for _, b := range list {
		if used += align.Up(int64(b.entry.size)*bitmapTableEntrySize, im.clusterSize()); used > im.length.Load()+im.clusterSize() {
			return nil, badf(b.entry.at, "bitmap table", "it overlaps another")
		}
		if err := b.load(im, im.Size()); err != nil && b.records() {
			return nil, err
		}
	}
	return list, nil
}

// claimBitmaps adds what the bitmaps lie in to the metadata, unless they share
// it. allocMu and mu are held.
func (im *Image) claimBitmaps(list []*bitmap) error {
	for _, r := range im.bitmapRuns(list) {
		if im.meta.overlaps(r.first, r.n) {
			return badf(int64(im.clusterOff(r.first)), "bitmap", "it overlaps other metadata")
		}
		im.meta.add(r.first, r.n)
	}
	return nil
}

// bitmapRuns returns the clusters of the bitmap directory, and of the tables
// and bits of the bitmaps, as far as they are known. mu is held, and
// Image.bitmaps locked unless nobody else has the list.
func (im *Image) bitmapRuns(list []*bitmap) []freed {
	var runs []freed
	add := func(off, n int64) {
		if n > 0 {
			runs = append(runs, freed{first: im.cluster(hostOff(off)), n: align.CeilDiv(n, im.clusterSize())})
		}
	}
	if x, ok := im.hdr.Bitmaps(); ok {
		add(x.DirectoryOffset, x.DirectorySize)
	}
	for _, b := range list {
		add(int64(b.entry.table), int64(b.entry.size)*bitmapTableEntrySize)
		if b.bits == nil {
			continue
		}
		for i := 0; i < len(b.bits.stored); i += bitmapTableEntrySize {
			if off := binary.BigEndian.Uint64(b.bits.stored[i:]) & entryOffsetMask; off != 0 {
				add(int64(off), im.clusterSize())
			}
		}
	}
	return runs
}

// openBitmaps marks those bitmaps as in use that writes change, durably,
// before the first write. flushMu is held.
func (im *Image) openBitmaps(list []*bitmap) error {
	for _, b := range list {
		if !b.records() {
			continue
		}
		b.entry.flags |= bitmapInUse
		flags := binary.BigEndian.AppendUint32(nil, b.entry.flags)
		if err := im.writeFile(flags, hostOff(b.entry.at+bitmapFlagsField)); err != nil {
			return err
		}
	}
	if err := im.syncFiles(); err != nil {
		return err
	}
	im.setBitmaps(list)
	return nil
}

// setBitmaps replaces the list. Nobody records meanwhile.
func (im *Image) setBitmaps(list []*bitmap) {
	im.bitmaps.Lock()
	defer im.bitmaps.Unlock()
	im.bitmaps.list = list
	recording := false
	for _, b := range list {
		recording = recording || b.records()
	}
	im.bitmaps.recording.Store(recording)
}

// record sets the bits of the n bytes at off, which are about to be written.
// The gate is held.
func (im *Image) record(off, n int64) error {
	if n == 0 || !im.bitmaps.recording.Load() {
		return nil
	}
	im.bitmaps.Lock()
	defer im.bitmaps.Unlock()
	for _, b := range im.bitmaps.list {
		if !b.records() {
			continue
		}
		g := b.entry.granBits
		if err := b.bits.set(off>>g, (off+n-1)>>g+1); err != nil {
			return err
		}
	}
	return nil
}

// storeBitmaps writes the bitmaps that were in use and removes the mark, when
// the image is closed. The gate is held exclusively.
func (im *Image) storeBitmaps() error {
	list := im.bitmaps.list
	var marked bool
	for _, b := range list {
		marked = marked || b.records() && b.entry.flags&bitmapInUse != 0
	}
	if !marked {
		return nil
	}
	c := &change{im: im}
	if err := c.flush(); err != nil {
		return err
	}
	publish, err := c.prepareBitmaps(list, true)
	if err != nil {
		return im.markCorrupt(c.undo(err))
	}
	c.publish(publish)
	return c.settle()
}

// DirtyRanges yields the parts of the disk whose bits in a bitmap are set, in
// their order: what was written to since the bitmap was added or cleared,
// rounded to its granularity. Writes may go on meanwhile; what they set may be
// missing. The error is [ErrNoBitmap], [ErrBitmapInUse], or one of reading;
// nothing follows it.
func (im *Image) DirtyRanges(name string) iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) {
		bits, g, size, err := im.bitmapBits(name)
		if err != nil {
			yield(Range{}, err)
			return
		}
		for r, err := range bits.ranges(name) {
			if err != nil {
				yield(Range{}, err)
				return
			}
			start, end := r[0]<<g, min(r[1], bits.n)<<g
			if end > size || end < 0 {
				end = size
			}
			if start < end && !yield(Range{start, end - start}, nil) {
				return
			}
		}
	}
}

// A Range is a range of the disk, in bytes.
type Range struct{ Start, Length int64 }

// bitmapBits returns the bits of a bitmap, its granularity, and the size of the
// disk.
func (im *Image) bitmapBits(name string) (t *bitmapBits, granBits uint8, size int64, err error) {
	list, err := im.currentBitmaps()
	if err != nil {
		return nil, 0, 0, err
	}
	i, err := findBitmap(list, name)
	if err != nil {
		return nil, 0, 0, err
	}
	im.bitmaps.Lock()
	defer im.bitmaps.Unlock()
	b := list[i]
	size = im.Size()
	if err := b.load(im, size); err != nil {
		return nil, 0, 0, err
	}
	copied := *b.bits // table and count; others may change them
	return &copied, b.entry.granBits, size, nil
}
