package vma

import (
	"iter"
	"maps"
	"math"
	"math/bits"
	"slices"
)

// A table maps numbers below 1<<32 to words, all zero at first. A dense one is
// a slice; a sparse one holds the pages that were written to, so that a hostile
// number costs one page.
//
// Lookups may run concurrently with each other, not with writes.
type table struct {
	dense []uint64         // nil for a sparse table
	pages map[uint32]*page // by number / pageLen

	lastKey uint32 // of the page written to last
	last    *page

	keys []uint32 // of pages, in order, once the table is frozen
}

// A page costs a hostile archive that makes one with each slot of 8 bytes
// about 100 bytes, and a well-filled table less than 13 bytes an entry.
type page [pageLen]uint64

const (
	pageLen = 8
	noPage  = 1<<32 - 1 // no number / pageLen is as large
)

// newTable returns a table of n words, dense where the caller can afford it.
func newTable(n int64, dense bool) *table {
	const most = math.MaxInt / 64 // which a system of 32 bits has room for
	if dense && n <= most {
		return &table{dense: make([]uint64, n)}
	}
	return &table{pages: make(map[uint32]*page), lastKey: noPage}
}

// get returns word i.
//
// Preconditions: i is below the length of a dense table.
func (t *table) get(i uint32) uint64 {
	if t.dense != nil {
		return t.dense[i]
	}
	if p := t.pages[i/pageLen]; p != nil {
		return p[i%pageLen]
	}
	return 0
}

// at returns word i for writing.
//
// Preconditions: i is below the length of a dense table.
func (t *table) at(i uint32) *uint64 {
	if t.dense != nil {
		return &t.dense[i]
	}
	if i/pageLen != t.lastKey {
		t.turn(i / pageLen)
	}
	return &t.last[i%pageLen]
}

// turn makes the page of that key the last one.
func (t *table) turn(key uint32) {
	t.lastKey = key
	if t.last = t.pages[key]; t.last == nil {
		t.last = new(page)
		t.pages[key] = t.last
	}
}

// freeze ends the writing to t.
func (t *table) freeze() { t.keys = slices.Sorted(maps.Keys(t.pages)) }

// after returns a number above i, up to which all words after that of i are
// zero: the next one, or the first of the next page of a frozen sparse table.
func (t *table) after(i uint32) int64 {
	if t.dense != nil || t.pages[i/pageLen] != nil {
		return int64(i) + 1
	}
	at, _ := slices.BinarySearch(t.keys, i/pageLen)
	if at == len(t.keys) {
		return 1 << 32
	}
	return int64(t.keys[at]) * pageLen
}

// words yields the words that may be nonzero, in ascending order.
func (t *table) words() iter.Seq2[uint32, uint64] {
	return func(yield func(uint32, uint64) bool) {
		for i, w := range t.dense {
			if !yield(uint32(i), w) {
				return
			}
		}
		for _, key := range slices.Sorted(maps.Keys(t.pages)) {
			for i, w := range t.pages[key] {
				if !yield(key*pageLen+uint32(i), w) {
					return
				}
			}
		}
	}
}

// A bitset is a set of cluster numbers.
type bitset struct{ t *table }

// maxDenseBits is how many clusters a set may hold as a slice without anybody
// having seen them: 8 KiB for a device of 4 GiB.
const maxDenseBits = 1 << 16

// newBitset returns an empty set, a dense one for numbers below n.
func newBitset(n int64, dense bool) bitset {
	return bitset{newTable((n+63)/64, dense)}
}

// add puts n into the set and reports whether it was new there.
func (b bitset) add(n uint32) bool {
	w, m := b.t.at(n/64), uint64(1)<<(n%64)
	if *w&m != 0 {
		return false
	}
	*w |= m
	return true
}

// room returns how many numbers from n on are not in the set, as far as its
// words of 64 numbers tell.
func (b bitset) room(n uint32) int {
	return min(bits.TrailingZeros64(*b.t.at(n / 64)>>(n%64)), int(64-n%64))
}

// addRun puts count numbers from n on into the set.
//
// Preconditions: count is at most room(n).
func (b bitset) addRun(n uint32, count int) { *b.t.at(n / 64) |= (1<<count - 1) << (n % 64) }

// has reports whether n is in the set.
func (b bitset) has(n uint32) bool { return b.t.get(n/64)>>(n%64)&1 != 0 }

// gaps yields the runs of numbers below n that are not in the set, as first
// and count.
func (b bitset) gaps(n int64) iter.Seq2[int64, int64] {
	return func(yield func(int64, int64) bool) {
		next := int64(0) // every number below is in the set or was yielded
		for i, w := range b.t.words() {
			for w != 0 {
				lo := bits.TrailingZeros64(w)
				run := bits.TrailingZeros64(^(w >> lo))
				first := min(int64(i)*64+int64(lo), n)
				if first > next && !yield(next, first-next) {
					return
				}
				next = max(next, first+int64(run))
				if next >= n {
					return
				}
				w &^= (1<<run - 1) << lo
			}
		}
		if next < n {
			yield(next, n-next)
		}
	}
}
