package migschema

import (
	"iter"
	"maps"
	"math/bits"
	"slices"
)

// chunkPages is how many pages one word list of a pageSet covers: few, so
// that pages strewn over a hostile address space cost little more than the
// records that name them.
const chunkPages = 512

type chunk [chunkPages / 64]uint64

// A pageSet is a set of page numbers. The zero value is empty.
type pageSet struct {
	chunks map[uint64]*chunk
	key    uint64 // of last
	last   *chunk // the chunk used last, nil at first
	n      int64  // pages in the set
}

func (s *pageSet) chunk(page uint64, make_ bool) *chunk {
	key := page / chunkPages
	if s.last != nil && s.key == key {
		return s.last
	}
	c := s.chunks[key]
	if c == nil {
		if !make_ {
			return nil
		}
		if s.chunks == nil {
			s.chunks = make(map[uint64]*chunk)
		}
		c = new(chunk)
		s.chunks[key] = c
	}
	s.key, s.last = key, c
	return c
}

func (s *pageSet) has(page uint64) bool {
	c := s.chunk(page, false)
	return c != nil && c[page%chunkPages/64]>>(page%64)&1 != 0
}

// set puts page in the set or takes it out.
func (s *pageSet) set(page uint64, in bool) {
	c := s.chunk(page, in)
	if c == nil {
		return
	}
	w, bit := &c[page%chunkPages/64], uint64(1)<<(page%64)
	switch {
	case in && *w&bit == 0:
		*w |= bit
		s.n++
	case !in && *w&bit != 0:
		*w &^= bit
		s.n--
	}
}

// runs yields the set as runs of pages in order: first page and count.
func (s *pageSet) runs() iter.Seq2[uint64, uint64] {
	return func(yield func(first, n uint64) bool) {
		var first, n uint64
		for _, key := range slices.Sorted(maps.Keys(s.chunks)) {
			for i, w := range s.chunks[key] {
				base := key*chunkPages + uint64(i)*64
				for w != 0 {
					skip := bits.TrailingZeros64(w)
					run := bits.TrailingZeros64(^(w >> skip))
					at := base + uint64(skip)
					if n > 0 && first+n == at {
						n += uint64(run)
					} else {
						if n > 0 && !yield(first, n) {
							return
						}
						first, n = at, uint64(run)
					}
					w &^= (1<<run - 1) << skip
				}
			}
		}
		if n > 0 {
			yield(first, n)
		}
	}
}
