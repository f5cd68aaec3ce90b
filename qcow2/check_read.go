package qcow2

import (
	"cmp"
	"iter"
	"slices"

	"github.com/virtfmt/virtfmt/internal/ordered"
)

// A tally says how often something points to a table.
type tally struct {
	total  uint64 // anything
	active uint64 // the active disk
	copied uint64 // the active disk, in a way that gives COPIED flags a meaning
}

func (t *tally) add(o tally) {
	t.total += o.total
	t.active += o.active
	t.copied += o.copied
}

func (t *tally) sub(o tally) {
	t.total -= o.total
	t.active -= o.active
	t.copied -= o.copied
}

// A span is a table that something points to.
type span struct {
	off, end int64 // in the file
	tally
}

// A segment is a range of the file that belongs to the tables of a tally.
type segment struct {
	off, n int64
	index  int64 // whatever the caller counts by
	tally
	begun, ended tally // of those, what begins here; and what ends just before
}

// sweep cuts spans, which may overlap in any way, into segments in the order
// of the file: no byte is in two of them, and one begins wherever a span
// begins or ends. What lies past size is left out.
func sweep(spans []span, size int64) []segment {
	type edge struct {
		at  int64
		end bool
		tally
	}
	edges := make([]edge, 0, 2*len(spans))
	for _, s := range spans {
		if s.off < s.end && s.off < size {
			edges = append(edges, edge{s.off, false, s.tally}, edge{min(s.end, size), true, s.tally})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.at, b.at) })
	var all []segment
	var now tally
	for i := 0; i < len(edges); {
		s := segment{off: edges[i].at}
		if now.total > 0 {
			all[len(all)-1].n = s.off - all[len(all)-1].off
		}
		for ; i < len(edges) && edges[i].at == s.off; i++ {
			if edges[i].end {
				s.ended.add(edges[i].tally)
			} else {
				s.begun.add(edges[i].tally)
			}
		}
		now.sub(s.ended)
		now.add(s.begun)
		if s.tally = now; now.total > 0 {
			all = append(all, s)
		}
	}
	return all
}

// A part is as much of a segment as is read at once.
type part struct {
	segment
	at int64 // where in the segment it begins
}

func (p *part) len() int64 { return min(p.n-p.at, partBytes) }

const (
	partBytes    = 256 << 10 // a multiple of every entry's size
	partsAtOnce  = 64        // that one reader takes
	checkReaders = 8
)

// jobs cuts segments into parts and puts small ones together.
func jobs(all []segment) iter.Seq[[]part] {
	return func(yield func([]part) bool) {
		var job []part
		bytes := int64(0)
		for _, s := range all {
			for at := int64(0); at < s.n; at += partBytes {
				p := part{s, at}
				if len(job) == partsAtOnce || bytes+p.len() > partBytes {
					if !yield(job) {
						return
					}
					job, bytes = nil, 0
				}
				job = append(job, p)
				bytes += p.len()
			}
		}
		if len(job) > 0 {
			yield(job)
		}
	}
}

// readSegments reads segments, several at a time, and hands them to f in their
// order, in parts. What lies past the end of the file is zeros. It stops at
// the first error.
func (c *checker) readSegments(all []segment, name string, f func(p part, b []byte) error) error {
	for _, s := range all {
		c.total += s.n
	}
	read := func(job []part, buf *[]byte) error {
		n := int64(0)
		for i := range job {
			n += job[i].len()
		}
		if int64(len(*buf)) < n {
			*buf = make([]byte, n)
		}
		b := *buf
		for i := range job {
			p := &job[i]
			if err := c.readTable(b[:p.len()], p.off+p.at, name); err != nil {
				return err
			}
			b = b[p.len():]
		}
		return nil
	}
	use := func(job []part, buf *[]byte) error {
		b := *buf
		for i := range job {
			n := job[i].len()
			if err := f(job[i], b[:n]); err != nil {
				return err
			}
			c.done += n
			b = b[n:]
		}
		c.opts.Progress(c.done, c.total)
		return nil
	}
	return ordered.Run(c.ctx, checkReaders, 2*checkReaders, jobs(all), read, use)
}
