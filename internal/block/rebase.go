package block

import (
	"bytes"
	"context"
	"io"
	"sync"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// RebaseOptions says how a disk gets another backing file. The zero value and
// nil are the defaults.
type RebaseOptions struct {
	// Workers is how many pieces are compared at a time, at most 64. Default:
	// as for [CopyOptions].
	Workers int
	// Progress is called now and then with how many bytes of the disk are
	// dealt with, of how many. The calls do not overlap.
	Progress func(done, total int64)
}

// An Overlay is a disk on top of another. What it does not hold itself its
// extents tell at a Depth of 1 and more, or as [Unallocated].
type Overlay interface {
	Disk
	io.WriterAt
	ZeroWriter
}

// Rebase writes to d, which lies on top of old, what it needs to read on top
// of next as it does now: where it holds nothing itself and the two differ, the
// units of grain bytes that do. A backing disk that is nil, or ends, reads as
// zeros there. A failure is a [*CopyError] that wraps what failed, or the cause
// of ctx; d reads as before, on top of old, in any case.
func Rebase(ctx context.Context, d Overlay, old, next Disk, grain int64, o *RebaseOptions) error {
	if o == nil {
		o = new(RebaseOptions)
	}
	workers, err := Workers("RebaseOptions", o.Workers)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &rebaser{RebaseOptions: *o, ctx: ctx, cancel: cancel, d: d, old: old, next: next, total: d.Size()}
	r.grain = int(min(grain, maxRebaseGrain))
	r.buffer = max(defaultBuffer, r.grain)
	r.Workers = workers
	r.run()
	return context.Cause(ctx)
}

// maxRebaseGrain bounds the memory of a worker. A unit of the disk that is
// larger is written in parts.
const maxRebaseGrain = 2 << 20

// A rebaser is one rebase in progress.
type rebaser struct {
	RebaseOptions
	ctx       context.Context
	cancel    context.CancelCauseFunc
	d         Overlay
	old, next Disk // nil: none
	total     int64
	grain     int
	buffer    int // a multiple of grain

	mu   sync.Mutex // guards what follows
	done int64
}

// A span is a part of a disk.
type span struct{ off, n int64 }

func (r *rebaser) run() {
	spans := make(chan span)
	var workers sync.WaitGroup
	for range r.Workers {
		workers.Go(func() {
			p, q := getBuffer(r.buffer), getBuffer(r.buffer)
			defer putBuffer(p)
			defer putBuffer(q)
			for s := range spans {
				if err := r.keep(s, p[:s.n], q[:s.n]); err != nil {
					r.cancel(err)
				}
				r.report(s.n)
			}
		})
	}
	if err := r.walk(spans); err != nil {
		r.cancel(err)
	}
	close(spans)
	workers.Wait()
}

// walk sends what has to be compared.
func (r *rebaser) walk(spans chan<- span) error {
	var open span // that d does not hold
	for e, err := range WholeDisk(r.d) {
		if err != nil {
			return &CopyError{"map", e.Start, err}
		}
		if e.Depth == 0 && e.Kind != Unallocated {
			if err := r.send(spans, open); err != nil {
				return err
			}
			r.report(e.Length)
			open = span{}
			continue
		}
		if open.n == 0 {
			open.off = e.Start
		}
		open.n += e.Length
	}
	return r.send(spans, open)
}

// send sends the parts of s that are not zeros in both, cut at multiples of the
// buffer size.
func (r *rebaser) send(spans chan<- span, s span) error {
	for off, end := s.off, s.off+s.n; off < end; {
		at := end
		for _, d := range []Disk{r.old, r.next} {
			zeros, err := zeroUntil(d, off, at)
			if err != nil {
				return &CopyError{"map", off, err}
			}
			at = min(at, zeros)
		}
		if at < end {
			at = max(off, align.Down(at, int64(r.grain)))
		}
		r.report(at - off)
		next := span{at, min(end, align.Down(at, int64(r.buffer))+int64(r.buffer)) - at}
		if next.n > 0 {
			select {
			case spans <- next:
			case <-r.ctx.Done():
				return context.Cause(r.ctx)
			}
		}
		off = at + next.n
	}
	return nil
}

// zeroUntil returns how far d is known to be zeros from off, at most end.
func zeroUntil(d Disk, off, end int64) (int64, error) {
	if d == nil || off >= d.Size() {
		return end, nil
	}
	for e, err := range d.Extents(off, min(end, d.Size())-off) {
		if err != nil {
			return 0, err
		}
		if !e.IsZero() {
			return e.Start, nil
		}
	}
	return end, nil
}

func (r *rebaser) report(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done += n
	if r.Progress != nil && n > 0 {
		r.Progress(r.done, r.total)
	}
}

// keep writes to d what it would lose of s, by way of two buffers.
func (r *rebaser) keep(s span, old, next []byte) error {
	if r.ctx.Err() != nil {
		return nil
	}
	if err := readBacking(r.old, old, s.off); err != nil {
		return err
	}
	if err := readBacking(r.next, next, s.off); err != nil {
		return err
	}
	what := func(i int) grainState {
		j := min(i+r.grain, len(old))
		switch {
		case bytes.Equal(old[i:j], next[i:j]):
			return grainSame
		case IsZero(old[i:j]):
			return grainZero
		}
		return grainData
	}
	for i := 0; i < len(old); {
		state, j := what(i), i+r.grain
		for j < len(old) && what(j) == state {
			j += r.grain
		}
		j = min(j, len(old))
		var err error
		switch at := s.off + int64(i); state {
		case grainZero:
			err = r.d.WriteZeroesAt(at, int64(j-i))
		case grainData:
			_, err = r.d.WriteAt(old[i:j], at)
		}
		if err != nil {
			return &CopyError{"write", s.off + int64(i), err}
		}
		i = j
	}
	return nil
}

// A grainState is what has to be done with a unit of the disk.
type grainState uint8

const (
	grainSame grainState = iota // nothing
	grainZero                   // it becomes zeros
	grainData                   // it is copied
)

// readBacking fills p from a backing disk: with zeros where that has ended.
func readBacking(d Disk, p []byte, off int64) error {
	n := 0
	if d != nil {
		n = int(max(0, min(int64(len(p)), d.Size()-off)))
	}
	clear(p[n:])
	if n == 0 {
		return nil
	}
	if err := safeio.ReadFull(d, p[:n], off); err != nil {
		return &CopyError{"read", off, err}
	}
	return nil
}
