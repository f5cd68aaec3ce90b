// Package tablecache keeps the mapping tables of a disk image in memory as
// the bytes that are in the file. It knows no format.
//
// A table is cached in slices of a fixed size, each at an offset of the file
// that is a multiple of it. A lookup of a slice that is there takes no lock
// and copies nothing: the caller decodes the entry it needs from the slice's
// own bytes. Slices that were changed stay until they are written, in the
// order of their stages; others make room for new ones, those unused longest
// first. A slice that was dropped stays valid for whoever still looks at it.
//
// # Locking
//
// The cache guards its own lists. The bytes of slices it leaves to the owner's
// lock: [Slice.Bytes] is called with that lock held, shared or exclusive, and
// [Cache.Modify] and [Cache.Cut] with it held exclusively. An owner that never
// changes a slice needs no lock.
package tablecache

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/virtfmt/virtfmt/internal/align"
)

// A Slice is a piece of a table in memory.
type Slice struct {
	off  int64
	data []byte // guarded by the owner's lock
	used atomic.Bool

	// Guarded by Cache.mu.
	dirty   bool
	writing bool // in a batch: neither data nor the slice may go
	gone    bool // dropped or evicted
	stage   int8 // of a dirty slice
	at      int  // index in Cache.ring
}

// Offset returns where in the file the slice lies.
func (s *Slice) Offset() int64 { return s.off }

// Bytes returns the bytes of the slice, which the caller must not change. They
// are valid as long as the owner's lock is held.
func (s *Slice) Bytes() []byte { return s.data }

// overhead is what a slice costs besides its bytes.
const overhead = 160

// A Cache holds slices of tables. Its methods may be called concurrently,
// under the owner's lock where they say so.
type Cache struct {
	size   int64 // of a slice, a power of two
	shift  uint
	budget int64
	read   func(p []byte, off int64) error

	table      atomic.Pointer[[]bucket] // its length is a power of two
	dirtyBytes atomic.Int64

	mu      sync.Mutex // guards what follows, and changes of table
	loads   map[int64]*load
	ring    []*Slice // all slices; a clock goes round it
	hand    int
	dirty   []*Slice // may hold slices that are dropped
	bytes   int64
	reserve int64 // bytes of the budget that are taken by others
	stats   Stats
}

type bucket = atomic.Pointer[node]

// A node is a link of a bucket's chain. Nodes never change: readers follow
// them without a lock.
type node struct {
	off   int64
	slice *Slice
	next  *node
}

// A load is a read that is under way.
type load struct {
	done  chan struct{}
	slice *Slice
	err   error
	stale bool // the slice was dropped or inserted meanwhile
}

// Stats counts what a cache did.
type Stats struct {
	Loads     int64 // slices read from the file
	Evictions int64 // clean slices that made room
	Slices    int   // slices held now
	Bytes     int64 // memory held now
	Dirty     int64 // bytes of changed slices
}

// New returns an empty cache of slices of size bytes, a power of two, that
// takes about budget bytes of memory. The function read fills p from the file.
func New(size, budget int64, read func(p []byte, off int64) error) *Cache {
	if !align.IsPow2(size) {
		panic(fmt.Sprintf("tablecache: slice size %d", size))
	}
	c := &Cache{size: size, budget: budget, read: read}
	for s := size; s > 1; s >>= 1 {
		c.shift++
	}
	t := make([]bucket, 16)
	c.table.Store(&t)
	return c
}

// SliceSize returns the size of a slice in bytes.
func (c *Cache) SliceSize() int64 { return c.size }

// Reserve takes n bytes of the budget for tables that are held elsewhere, or
// gives them back.
func (c *Cache) Reserve(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reserve += n
}

// hash spreads slice numbers over buckets.
func (c *Cache) hash(off int64) uint64 {
	return uint64(off) >> c.shift * 0x9e3779b97f4a7c15 >> 32
}

// Get returns the slice that holds offset off of the file, or nil if it is not
// in memory.
func (c *Cache) Get(off int64) *Slice {
	off &^= c.size - 1
	t := *c.table.Load()
	for n := t[c.hash(off)&uint64(len(t)-1)].Load(); n != nil; n = n.next {
		if n.off == off {
			if !n.slice.used.Load() {
				n.slice.used.Store(true)
			}
			return n.slice
		}
	}
	return nil
}

// Load returns the slice that holds offset off of the file, which it reads if
// need be. Concurrent calls for one slice read it once. The owner's lock must
// not be held exclusively.
func (c *Cache) Load(off int64) (*Slice, error) {
	off &^= c.size - 1
	for {
		if s := c.Get(off); s != nil {
			return s, nil
		}
		c.mu.Lock()
		if s := c.Get(off); s != nil {
			c.mu.Unlock()
			return s, nil
		}
		l, shared := c.loads[off]
		if !shared {
			l = &load{done: make(chan struct{})}
			if c.loads == nil {
				c.loads = make(map[int64]*load)
			}
			c.loads[off] = l
		}
		c.mu.Unlock()
		if shared {
			<-l.done
		} else {
			c.fill(l, off)
		}
		if !l.stale || l.err != nil {
			return l.slice, l.err
		}
	}
}

// fill does the read of l.
func (c *Cache) fill(l *load, off int64) {
	data := make([]byte, c.size)
	err := c.read(data, off)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.loads, off)
	c.stats.Loads++
	switch {
	case err != nil:
		l.err = err
	case !l.stale:
		l.slice = &Slice{off: off, data: data}
		c.insert(l.slice)
	}
	close(l.done)
}

// Insert puts data into the cache as the slice at off, changed, to be written
// in a stage. A slice that was there is dropped. The cache keeps data. The
// owner's lock is held exclusively.
func (c *Cache) Insert(off int64, data []byte, stage int) *Slice {
	if !align.IsAligned(off, c.size) || int64(len(data)) != c.size {
		panic(fmt.Sprintf("tablecache: %d bytes at %#x", len(data), off))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(off)
	s := &Slice{off: off, data: data}
	c.insert(s)
	c.mark(s, int8(stage))
	return s
}

// Modify returns the bytes of s for the caller to change, and remembers that
// they are to be written in a stage; of several stages the first counts. The
// owner's lock is held exclusively, and s was looked up under it.
func (c *Cache) Modify(s *Slice, stage int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.gone { // evicted since it was looked up: what was read anew is equal
		c.drop(s.off)
		s.gone = false
		c.insert(s)
	}
	if s.writing {
		s.data = slices.Clone(s.data) // the batch keeps the bytes of the cut
		s.writing = false
	}
	c.mark(s, int8(stage))
	return s.data
}

// mark makes s dirty.
func (c *Cache) mark(s *Slice, stage int8) {
	if s.dirty {
		s.stage = min(s.stage, stage)
		return
	}
	s.dirty, s.stage = true, stage
	c.dirty = append(c.dirty, s)
	c.dirtyBytes.Add(c.size)
}

// Drop forgets the slices in the n bytes at off, changed or not: the tables
// there are no longer tables. The owner's lock is held exclusively, and no
// batch is being written.
func (c *Cache) Drop(off, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for o := align.Down(off, c.size); o < off+n; o += c.size {
		c.drop(o)
	}
}

func (c *Cache) drop(off int64) {
	if l := c.loads[off]; l != nil {
		l.stale = true
	}
	if s := c.peek(off); s != nil {
		c.remove(s)
	}
}

// Dirty returns how many bytes of slices were changed and are not yet in a
// batch.
func (c *Cache) Dirty() int64 { return c.dirtyBytes.Load() }

// Stats returns what the cache did and holds.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Slices, s.Bytes, s.Dirty = len(c.ring), c.bytes+c.reserve, c.Dirty()
	return s
}

// peek is Get without counting as a use.
func (c *Cache) peek(off int64) *Slice {
	t := *c.table.Load()
	for n := t[c.hash(off)&uint64(len(t)-1)].Load(); n != nil; n = n.next {
		if n.off == off {
			return n.slice
		}
	}
	return nil
}

// insert links s, which is not in the cache, and makes room for it.
func (c *Cache) insert(s *Slice) {
	s.used.Store(true)
	t := *c.table.Load()
	if len(c.ring) >= 2*len(t) {
		t = c.grow()
	}
	b := &t[c.hash(s.off)&uint64(len(t)-1)]
	b.Store(&node{s.off, s, b.Load()})
	s.at = len(c.ring)
	c.ring = append(c.ring, s)
	c.bytes += c.size + overhead
	c.evict(s)
}

// grow doubles the number of buckets.
func (c *Cache) grow() []bucket {
	t := make([]bucket, 2*len(*c.table.Load()))
	for _, s := range c.ring {
		b := &t[c.hash(s.off)&uint64(len(t)-1)]
		b.Store(&node{s.off, s, b.Load()})
	}
	c.table.Store(&t)
	return t
}

// remove unlinks s.
func (c *Cache) remove(s *Slice) {
	t := *c.table.Load()
	b := &t[c.hash(s.off)&uint64(len(t)-1)]
	b.Store(without(b.Load(), s))
	last := len(c.ring) - 1
	c.ring[s.at] = c.ring[last]
	c.ring[s.at].at = s.at
	c.ring[last] = nil
	c.ring = c.ring[:last]
	c.bytes -= c.size + overhead
	s.gone = true
	if s.dirty {
		s.dirty = false
		c.dirtyBytes.Add(-c.size)
	}
}

// without returns a chain that lacks s; readers may still walk the old one.
func without(n *node, s *Slice) *node {
	switch {
	case n == nil:
		return nil
	case n.slice == s:
		return n.next
	}
	return &node{n.off, n.slice, without(n.next, s)}
}

// evict drops clean slices, but not keep, until the cache is within its
// budget. The clock's hand spares a slice that was used since it last passed.
func (c *Cache) evict(keep *Slice) {
	for tries := 2 * len(c.ring); c.bytes+c.reserve > c.budget && tries > 0; tries-- {
		if c.hand >= len(c.ring) {
			c.hand = 0
		}
		s := c.ring[c.hand]
		if s == keep || s.dirty || s.writing || s.used.Swap(false) {
			c.hand++
			continue
		}
		c.remove(s) // the last slice of the ring takes its place
		c.stats.Evictions++
	}
}
