package qed

import (
	"iter"
	"maps"
	"math/bits"
	"slices"
)

// A bitset is a set of clusters of a file. It takes memory only around
// members, so that a sparse file of any length costs what is in use.
type bitset map[int64]*[bitsetPage / 64]uint64

const bitsetPage = 1 << 11 // members a page

// set adds i. It reports whether i was not a member.
func (s bitset) set(i int64) bool {
	p := s[i/bitsetPage]
	if p == nil {
		p = new([bitsetPage / 64]uint64)
		s[i/bitsetPage] = p
	}
	w, bit := &p[i%bitsetPage/64], uint64(1)<<(i%64)
	fresh := *w&bit == 0
	*w |= bit
	return fresh
}

// gaps yields the runs of numbers below n that are not members, as start and
// end, in order.
func (s bitset) gaps(n int64) iter.Seq2[int64, int64] {
	return func(yield func(start, end int64) bool) {
		start := int64(0)
		for i := range s.members() {
			if i >= n {
				break
			}
			if i > start && !yield(start, i) {
				return
			}
			start = i + 1
		}
		if start < n {
			yield(start, n)
		}
	}
}

// members yields the members in order.
func (s bitset) members() iter.Seq[int64] {
	return func(yield func(int64) bool) {
		for _, k := range slices.Sorted(maps.Keys(s)) {
			for i, w := range s[k] {
				for ; w != 0; w &= w - 1 {
					if !yield(k*bitsetPage + int64(i)*64 + int64(bits.TrailingZeros64(w))) {
						return
					}
				}
			}
		}
	}
}
