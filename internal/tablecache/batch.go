package tablecache

import (
	"cmp"
	"io"
	"math/bits"
	"slices"
)

// A Batch is what was changed up to one moment, to be written in stages. Its
// bytes do not change any more, whatever is done to the tables meanwhile.
// Every batch ends with one call of Done. An owner has one batch of a cache at
// a time. A Batch is not safe for concurrent use.
type Batch struct {
	cache   *Cache
	items   []item
	sorted  bool // items, by stage and offset
	written int  // stages below this one were written
}

type item struct {
	stage int
	off   int64
	data  []byte
	slice *Slice    // what it is part of, or
	res   *Resident // this
	whole bool      // all of res, which is new
}

// Cut moves what was changed in the cache, up to a stage, into a new batch.
// The owner's lock is held exclusively.
func (c *Cache) Cut(last int) *Batch {
	b := &Batch{cache: c}
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.dirty[:0]
	for _, s := range c.dirty {
		switch {
		case s.gone || !s.dirty:
		case int(s.stage) > last:
			kept = append(kept, s)
		default:
			s.dirty, s.writing = false, true
			c.dirtyBytes.Add(-c.size)
			b.items = append(b.items, item{stage: int(s.stage), off: s.off, data: s.data, slice: s})
		}
	}
	clear(c.dirty[len(kept):])
	c.dirty = kept
	return b
}

// Has reports whether the batch has something to be written in a stage.
func (b *Batch) Has(stage int) bool {
	return slices.ContainsFunc(b.items, func(i item) bool { return i.stage == stage })
}

// maxWrite bounds what neighbouring slices are gathered into for one write.
const maxWrite = 1 << 20

// Write writes what is to be written in the stages up to this one. Its order
// within a stage is that of the file.
func (b *Batch) Write(w io.WriterAt, stage int) error {
	if !b.sorted {
		slices.SortFunc(b.items, func(x, y item) int {
			return cmp.Or(cmp.Compare(x.stage, y.stage), cmp.Compare(x.off, y.off))
		})
		b.sorted = true
	}
	var buf []byte
	for i := 0; i < len(b.items); {
		first := b.items[i]
		j, n := i+1, len(first.data)
		for j < len(b.items) && b.items[j].stage == first.stage &&
			b.items[j].off == first.off+int64(n) && n+len(b.items[j].data) <= maxWrite {
			n += len(b.items[j].data)
			j++
		}
		if first.stage < b.written || first.stage > stage {
			i = j
			continue
		}
		data := first.data
		if j > i+1 {
			buf = buf[:0]
			for _, it := range b.items[i:j] {
				buf = append(buf, it.data...)
			}
			data = buf
		}
		if _, err := w.WriteAt(data, first.off); err != nil {
			return err
		}
		i = j
	}
	b.written = stage + 1
	return nil
}

// Done ends the batch. What was not written counts as changed again, to be
// written in its stage. The owner's lock is held exclusively.
func (b *Batch) Done() {
	b.cache.mu.Lock()
	defer b.cache.mu.Unlock()
	for _, it := range b.items {
		failed := it.stage >= b.written
		switch {
		case it.slice != nil:
			it.slice.writing = false
			if failed && !it.slice.gone {
				b.cache.mark(it.slice, int8(it.stage))
			}
		case !failed:
		default:
			it.res.retry(it)
		}
	}
	b.items = nil
	b.cache.evict(nil)
}

// sector is the unit in which a resident table is written.
const sector = 512

// A Resident is a table that is in memory as a whole. The owner's lock guards
// it: lookups hold it shared, changes exclusively.
type Resident struct {
	off   int64
	data  []byte
	dirty []uint64 // a bit for each sector
	any   bool     // some bit of dirty is set
	fresh int      // the stage in which a new table is written as a whole, or -1
}

// NewResident returns the table at offset off that holds data, which it keeps.
func NewResident(off int64, data []byte) *Resident {
	return &Resident{off: off, data: data, fresh: -1}
}

// NewTable is NewResident for a table that is not yet in the file, to be
// written as a whole in a stage.
func NewTable(off int64, data []byte, stage int) *Resident {
	return &Resident{off: off, data: data, fresh: stage}
}

// Offset returns where in the file the table lies.
func (r *Resident) Offset() int64 { return r.off }

// Bytes returns the table, which the caller must not change.
func (r *Resident) Bytes() []byte { return r.data }

// Modify returns the table for the caller to change the n bytes at offset at
// of it.
func (r *Resident) Modify(at, n int) []byte {
	if r.dirty == nil {
		r.dirty = make([]uint64, (len(r.data)+64*sector-1)/(64*sector))
	}
	for s := at / sector; s <= (at+n-1)/sector; s++ {
		r.dirty[s/64] |= 1 << (s % 64)
	}
	r.any = true
	return r.data
}

// AddTo moves what was changed into a batch: to be written in a stage, or as a
// whole in its own stage if the table is new. The bytes are copied.
func (r *Resident) AddTo(b *Batch, stage int) {
	switch {
	case r.fresh >= 0:
		b.items = append(b.items, item{stage: r.fresh, off: r.off, data: slices.Clone(r.data), res: r, whole: true})
		r.fresh = -1
	case r.any:
		for w, word := range r.dirty {
			for ; word != 0; word &= word - 1 {
				at := (w*64 + bits.TrailingZeros64(word)) * sector
				data := slices.Clone(r.data[at:min(at+sector, len(r.data))])
				b.items = append(b.items, item{stage: stage, off: r.off + int64(at), data: data, res: r})
			}
		}
	}
	clear(r.dirty)
	r.any = false
	b.sorted = false
}

// retry remembers that it could not be written.
func (r *Resident) retry(it item) {
	if it.whole {
		r.fresh = it.stage
		return
	}
	r.Modify(int(it.off-r.off), len(it.data))
}
