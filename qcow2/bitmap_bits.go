package qcow2

import (
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"math/bits"
	"slices"

	"github.com/virtfmt/virtfmt/internal/safeio"
)

// A bitmap table entry, section "Bitmap table":
//
//	bit 0      without an offset: all bits are ones
//	    1-8    reserved
//	    9-55   offset of a cluster of bits
//	    56-63  reserved
const bitmapTableEntryReserved = 0xff000000000001fe

// bitmapBits is what a bitmap holds: its table as in the file, and over it the
// clusters of bits that were changed. Image.bitmaps is locked while it is used.
type bitmapBits struct {
	im      *Image
	n       int64  // bits
	table   []byte // entries
	stored  []byte // the table that lies in the file, nil if there is none
	clean   bool   // the table in the file is this one
	changed map[int64]*bitCluster
}

// A bitCluster is the bits of one table entry.
type bitCluster struct {
	b    []byte // nil if all bits are alike
	ones bool
}

// newBits returns n bits that are zeros, for a table of that many entries.
func (im *Image) newBits(n, entries int64) *bitmapBits {
	return &bitmapBits{im: im, n: n, table: make([]byte, entries*bitmapTableEntrySize), changed: map[int64]*bitCluster{}}
}

// readBits reads the table of a bitmap of a disk of that size.
func (im *Image) readBits(e *bitmapEntry, disk int64) (*bitmapBits, error) {
	n, entries := im.bitmapGeometry(e.granBits, disk)
	if int64(e.size) != entries {
		return nil, badf(e.at+8, "bitmap table size", "%d entries, and the disk needs %d", e.size, entries)
	}
	b, err := safeio.ReadAt(im.r, int64(e.table), entries*bitmapTableEntrySize, im.length.Load())
	if err != nil {
		return nil, &FormatError{int64(e.table), "bitmap table", err}
	}
	seen := map[uint64]bool{}
	for i := 0; i < len(b); i += bitmapTableEntrySize {
		v := binary.BigEndian.Uint64(b[i:])
		off, at := v&entryOffsetMask, int64(e.table)+int64(i)
		switch {
		case v&bitmapTableEntryReserved != 0, off != 0 && v&1 != 0:
			return nil, badf(at, "bitmap table entry", "%#x has reserved bits", v)
		case off == 0:
			continue
		case im.offsetInCluster(int64(off)) != 0 || int64(off) >= im.length.Load() || seen[off]:
			return nil, badf(at, "bitmap table entry", "%#x is not a cluster of this bitmap alone", v)
		}
		seen[off] = true
	}
	return &bitmapBits{im: im, n: n, table: b, stored: b, clean: true, changed: map[int64]*bitCluster{}}, nil
}

// clone returns a copy that can be changed by itself.
func (t *bitmapBits) clone() *bitmapBits {
	c := *t
	c.changed = make(map[int64]*bitCluster, len(t.changed))
	for i, k := range t.changed {
		c.changed[i] = &bitCluster{slices.Clone(k.b), k.ones}
	}
	return &c
}

// reset makes all bits zeros.
func (t *bitmapBits) reset() {
	t.table, t.changed, t.clean = make([]byte, len(t.table)), map[int64]*bitCluster{}, false
}

func (t *bitmapBits) entries() int64 { return int64(len(t.table)) / bitmapTableEntrySize }

func (t *bitmapBits) entry(i int64) uint64 {
	return binary.BigEndian.Uint64(t.table[i*bitmapTableEntrySize:])
}

// perCluster is how many bits a table entry stands for.
func (t *bitmapBits) perCluster() int64 { return t.im.clusterSize() * 8 }

// cluster returns the bits of table entry i. They are not to be changed.
func (t *bitmapBits) cluster(i int64) (*bitCluster, error) {
	if c := t.changed[i]; c != nil {
		return c, nil
	}
	v := t.entry(i)
	off := v & entryOffsetMask
	if off == 0 {
		return &bitCluster{ones: v&1 != 0}, nil
	}
	b := make([]byte, t.im.clusterSize())
	if err := safeio.ReadZeroFill(t.im.r, b, int64(off)); err != nil {
		return nil, fmt.Errorf("qcow2: bitmap at %#x: %w", off, err)
	}
	return &bitCluster{b: b}, nil
}

// own returns the bits of table entry i, one by one, to be changed.
func (t *bitmapBits) own(i int64) (*bitCluster, error) {
	c, err := t.cluster(i)
	if err != nil {
		return nil, err
	}
	if c.b == nil {
		b := make([]byte, t.im.clusterSize())
		if c.ones {
			setBits(b, 0, min(t.perCluster(), t.n-i*t.perCluster()))
		}
		c = &bitCluster{b: b}
	}
	t.changed[i], t.clean = c, false
	return c, nil
}

// set sets the bits from first up to end.
func (t *bitmapBits) set(first, end int64) error {
	for first < end {
		i := first / t.perCluster()
		start := i * t.perCluster()
		stop := min(end, start+t.perCluster())
		c, err := t.setIn(i, first-start, stop-start)
		if err != nil {
			return err
		}
		if c != nil {
			setBits(c.b, first-start, stop-start)
		}
		first = stop
	}
	return nil
}

// setIn returns the bits of entry i in which those from first up to end are to
// be set, or nil if that is done.
func (t *bitmapBits) setIn(i, first, end int64) (*bitCluster, error) {
	if end-first == t.perCluster() {
		t.changed[i], t.clean = &bitCluster{ones: true}, false
		return nil, nil
	}
	c, err := t.cluster(i)
	if err != nil || c.b == nil && c.ones {
		return nil, err
	}
	return t.own(i)
}

// resize makes them n bits for a table of that many entries. New ones are
// zeros.
func (t *bitmapBits) resize(n, entries int64) error {
	if n < t.n && n%t.perCluster() != 0 {
		c, err := t.own(n / t.perCluster())
		if err != nil {
			return err
		}
		rest := n % t.perCluster()
		c.b[rest/8] &= 1<<(rest%8) - 1
		clear(c.b[rest/8+1:])
	} else if last := t.n / t.perCluster(); n > t.n && t.n%t.perCluster() != 0 {
		// All ones would be those that are new as well.
		if _, err := t.own(last); err != nil {
			return err
		}
	}
	maps.DeleteFunc(t.changed, func(i int64, _ *bitCluster) bool { return i >= entries })
	grown := make([]byte, entries*bitmapTableEntrySize)
	copy(grown, t.table)
	t.table, t.n, t.clean = grown, n, false
	return nil
}

// ranges yields the runs of ones: first bit and end. The bits of a table entry
// are those of the bitmap as it is when they are reached.
func (t *bitmapBits) ranges(name string) iter.Seq2[[2]int64, error] {
	return func(yield func([2]int64, error) bool) {
		start := int64(-1)
		for i := range t.entries() {
			c, err := t.current(name, i)
			if err != nil {
				yield([2]int64{}, err)
				return
			}
			first := i * t.perCluster()
			for at := int64(0); at < t.perCluster(); {
				n := c.run(at, start >= 0, t.perCluster())
				if at += n; at == t.perCluster() {
					break
				}
				if start < 0 {
					start = first + at
				} else if !yield([2]int64{start, first + at}, nil) {
					return
				} else {
					start = -1
				}
			}
		}
		if start >= 0 {
			yield([2]int64{start, t.n}, nil)
		}
	}
}

// current returns the bits of table entry i of the bitmap of that name as it
// is now. What t refers to may have been dropped, unless nothing was written
// since it was read.
func (t *bitmapBits) current(name string, i int64) (*bitCluster, error) {
	t.im.bitmaps.Lock()
	defer t.im.bitmaps.Unlock()
	if t.im.started.Load() {
		k, err := findBitmap(t.im.bitmaps.list, name)
		if err != nil {
			return nil, err
		}
		b := t.im.bitmaps.list[k]
		if err := b.load(t.im, t.im.Size()); err != nil {
			return nil, err
		}
		if t = b.bits; i >= t.entries() {
			return &bitCluster{}, nil
		}
	}
	c, err := t.cluster(i)
	if err == nil && c.b != nil {
		c = &bitCluster{b: slices.Clone(c.b), ones: c.ones}
	}
	return c, err
}

// run returns how many bits from at on, up to end, are as the argument says.
func (c *bitCluster) run(at int64, ones bool, end int64) int64 {
	if c.b == nil {
		if c.ones == ones {
			return end - at
		}
		return 0
	}
	n := int64(0)
	for at+n < end {
		word := binary.LittleEndian.Uint64(c.b[(at+n)/64*8:]) >> ((at + n) % 64)
		if ones {
			word = ^word
		}
		left := 64 - (at+n)%64
		same := min(int64(bits.TrailingZeros64(word)), left)
		if n += same; same < left {
			break
		}
	}
	return n
}

// setBits sets the bits of b from first up to end.
func setBits(b []byte, first, end int64) {
	for ; first < end && first%8 != 0; first++ {
		b[first/8] |= 1 << (first % 8)
	}
	for ; first+8 <= end; first += 8 {
		b[first/8] = 0xff
	}
	for ; first < end; first++ {
		b[first/8] |= 1 << (first % 8)
	}
}
