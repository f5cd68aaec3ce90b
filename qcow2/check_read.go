package qcow2

import (
	"cmp"
	"context"
	"slices"
	"sync"
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

const (
	partBytes    = 256 << 10 // a multiple of every entry's size
	partsAtOnce  = 64        // that one reader takes
	checkReaders = 8
)

// A readJob is a few parts and, when they were read, their bytes.
type readJob struct {
	parts []part
	buf   []byte
	err   error
	ready chan struct{}
}

// readSegments reads segments and hands them to f in their order, in parts.
// Several goroutines read ahead; f runs in the caller's. What lies past the
// end of the file is zeros. It stops at the first error.
func (c *checker) readSegments(all []segment, name string, f func(p part, b []byte) error) error {
	for _, s := range all {
		c.total += s.n
	}
	ctx, cancel := context.WithCancel(c.ctx)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()

	ordered := make(chan *readJob, checkReaders)
	todo := make(chan *readJob)
	readers.Go(func() {
		defer close(ordered)
		defer close(todo)
		splitJobs(all, func(j *readJob) bool {
			for _, to := range []chan *readJob{ordered, todo} {
				select {
				case to <- j:
				case <-ctx.Done():
					return false
				}
			}
			return true
		})
	})
	for range checkReaders {
		readers.Go(func() {
			for j := range todo {
				j.err = c.readJob(j, name)
				close(j.ready)
			}
		})
	}
	for j := range ordered {
		select {
		case <-j.ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if j.err != nil {
			return j.err
		}
		if err := c.useJob(j, f); err != nil {
			return err
		}
	}
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	return nil
}

// splitJobs makes jobs of segments until yield returns false.
func splitJobs(all []segment, yield func(*readJob) bool) {
	var parts []part
	bytes := int64(0)
	flush := func() bool {
		if len(parts) == 0 {
			return true
		}
		j := &readJob{parts: parts, ready: make(chan struct{})}
		parts, bytes = nil, 0
		return yield(j)
	}
	for _, s := range all {
		for at := int64(0); at < s.n; at += partBytes {
			p := part{s, at}
			if (len(parts) == partsAtOnce || bytes+p.len() > partBytes) && !flush() {
				return
			}
			parts = append(parts, p)
			bytes += p.len()
		}
	}
	flush()
}

func (p *part) len() int64 { return min(p.n-p.at, partBytes) }

var jobBuffers = sync.Pool{New: func() any { return new([partBytes]byte) }}

func (c *checker) readJob(j *readJob, name string) error {
	j.buf = jobBuffers.Get().(*[partBytes]byte)[:]
	b := j.buf
	for i := range j.parts {
		p := &j.parts[i]
		if err := c.readTable(b[:p.len()], p.off+p.at, name); err != nil {
			return err
		}
		b = b[p.len():]
	}
	return nil
}

func (c *checker) useJob(j *readJob, f func(p part, b []byte) error) error {
	b := j.buf
	for i := range j.parts {
		p := &j.parts[i]
		if err := f(*p, b[:p.len()]); err != nil {
			return err
		}
		c.done += p.len()
		b = b[p.len():]
	}
	jobBuffers.Put((*[partBytes]byte)(j.buf))
	c.opts.Progress(c.done, c.total)
	return nil
}
