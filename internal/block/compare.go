package block

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// CompareOptions says how disks are compared. The zero value and nil are the
// defaults.
type CompareOptions struct {
	// Workers is how many pieces are compared at a time, at most 64. Default:
	// as for [CopyOptions].
	Workers int
	// Strict takes disks for different too that are not of the same size, and
	// where one is stored, zero or unallocated, or has a place in a file, and
	// the other is not. By default a disk is like a longer one that ends in
	// zeros.
	Strict bool
	// Progress is called now and then with how many bytes of the longer disk
	// are dealt with, of how many. The calls do not overlap.
	Progress func(done, total int64)
}

// A DifferenceKind says in what disks differ.
type DifferenceKind uint8

const (
	DifferentBytes      DifferenceKind = iota // they read differently
	DifferentSize                             // they are not of the same size
	DifferentAllocation                       // one is stored, zero or unallocated and the other is not
)

// String returns "bytes", "size" or "allocation".
func (k DifferenceKind) String() string {
	switch k {
	case DifferentBytes:
		return "bytes"
	case DifferentSize:
		return "size"
	case DifferentAllocation:
		return "allocation"
	}
	return fmt.Sprintf("DifferenceKind(%d)", uint8(k))
}

// A Difference is where two disks differ first.
type Difference struct {
	Kind   DifferenceKind
	Offset int64 // bytes from the start of the disks; for DifferentSize, the end of the shorter one
}

func (d Difference) String() string {
	what := [...]string{"content", "size", "allocation"}
	return fmt.Sprintf("%s differs at %#x", what[d.Kind%3], d.Offset)
}

// Compare compares two disks and returns where they differ first, or nil where
// they do not. A failure before that is a [*CopyError] that wraps what failed,
// or the cause of ctx; what lies behind the first difference does not matter.
func Compare(ctx context.Context, a, b Disk, o *CompareOptions) (*Difference, error) {
	if o == nil {
		o = new(CompareOptions)
	}
	workers, err := Workers("CompareOptions", o.Workers)
	if err != nil {
		return nil, err
	}
	if o.Strict && a.Size() != b.Size() {
		return &Difference{DifferentSize, min(a.Size(), b.Size())}, nil
	}
	c := &comparer{CompareOptions: *o, ctx: ctx, a: a, b: b, total: max(a.Size(), b.Size())}
	c.Workers = workers
	c.buffer = defaultBuffer
	for _, d := range []Disk{a, b} {
		if k, ok := d.(Clusterer); ok && align.IsPow2(k.ClusterSize()) {
			c.buffer = max(c.buffer, int(min(k.ClusterSize(), maxBuffer)))
		}
	}
	c.run()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case c.failed != nil && (c.first == nil || c.failed.Offset <= c.first.Offset):
		return nil, c.failed
	}
	return c.first, nil
}

// A comparer is one comparison in progress.
type comparer struct {
	CompareOptions
	ctx    context.Context
	a, b   Disk
	total  int64
	buffer int

	mu     sync.Mutex // guards what follows
	done   int64
	first  *Difference // the one with the least offset
	failed *CopyError  // the same
}

// A pair is a range in which each of two disks is stored in one way.
type pair struct {
	off, n int64
	a, b   allocation
}

func (c *comparer) run() {
	pairs := make(chan pair)
	var workers sync.WaitGroup
	for range c.Workers {
		workers.Go(func() {
			p, q := getBuffer(c.buffer), getBuffer(c.buffer)
			defer putBuffer(p)
			defer putBuffer(q)
			for r := range pairs {
				if c.wanted(r.off) {
					c.compare(r, p[:r.n], q[:r.n])
				}
				c.report(r.n)
			}
		})
	}
	for r, err := range pairsOf(c.a, c.b, c.total) {
		switch {
		case err != nil:
			c.fail("map", r.off, err)
		case c.Strict && r.a != r.b:
			c.differ(DifferentAllocation, r.off)
		case r.a.zero() && r.b.zero():
			c.report(r.n)
		default:
			c.send(pairs, r)
		}
		if !c.wanted(r.off) {
			break
		}
	}
	close(pairs)
	workers.Wait()
}

// send sends r, cut at multiples of the buffer size.
func (c *comparer) send(pairs chan<- pair, r pair) {
	size := int64(c.buffer)
	for end := r.off + r.n; r.off < end; r.off += r.n {
		r.n = min(end-r.off, align.Down(r.off, size)+size-r.off)
		select {
		case pairs <- r:
		case <-c.ctx.Done():
			return
		}
		if !c.wanted(r.off) {
			return
		}
	}
}

// wanted reports whether a difference at off would be news.
func (c *comparer) wanted(off int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ctx.Err() == nil && (c.first == nil || off < c.first.Offset) && (c.failed == nil || off < c.failed.Offset)
}

func (c *comparer) report(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += n
	if c.Progress != nil {
		c.Progress(c.done, c.total)
	}
}

func (c *comparer) differ(kind DifferenceKind, off int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == nil || off < c.first.Offset {
		c.first = &Difference{kind, off}
	}
}

func (c *comparer) fail(op string, off int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed == nil || off < c.failed.Offset {
		c.failed = &CopyError{op, off, err}
	}
}

// compare compares r by way of p and q.
func (c *comparer) compare(r pair, p, q []byte) {
	read := func(d Disk, k allocation, p []byte) ([]byte, error) {
		if k.zero() {
			return nil, nil
		}
		return p, safeio.ReadFull(d, p, r.off)
	}
	x, err := read(c.a, r.a, p)
	y, errB := read(c.b, r.b, q)
	if err == nil {
		err = errB
	}
	if err != nil {
		c.fail("read", r.off, err)
		return
	}
	if x == nil {
		x, y = y, nil
	}
	if at := mismatch(x, y); at < len(x) {
		c.differ(DifferentBytes, r.off+int64(at))
	}
}

// mismatch returns the index of the first byte in which p differs from q, or
// from zeros where q is nil, or len(p).
func mismatch(p, q []byte) int {
	const piece = 4 << 10
	for at := 0; at < len(p); at += piece {
		x := p[at:min(at+piece, len(p))]
		y := zeros[:len(x)]
		if q != nil {
			y = q[at : at+len(x)]
		}
		if string(x) == string(y) {
			continue
		}
		i := 0
		for len(x)-i >= 8 && binary.NativeEndian.Uint64(x[i:]) == binary.NativeEndian.Uint64(y[i:]) {
			i += 8
		}
		for x[i] == y[i] {
			i++
		}
		return at + i
	}
	return len(p)
}

// An allocation is what a strict comparison compares, as QEMU does.
type allocation struct {
	kind   Kind // Compressed counts as Data
	placed bool // it has a place in a file
}

func allocationOf(e Extent) allocation {
	k := e.Kind
	if k == Compressed {
		k = Data
	}
	return allocation{k, e.HostOffset != NoOffset}
}

func (a allocation) zero() bool { return a.kind == Zero || a.kind == Unallocated }

// pairsOf yields the ranges of two disks, the shorter one of which goes on
// unallocated up to total.
func pairsOf(a, b Disk, total int64) iter.Seq2[pair, error] {
	return func(yield func(pair, error) bool) {
		next := func(d Disk) (func() (Extent, error, bool), func()) { return iter.Pull2(extended(d, total)) }
		nextA, stopA := next(a)
		defer stopA()
		nextB, stopB := next(b)
		defer stopB()
		var x, y Extent
		for off := int64(0); off < total; {
			var err error
			if x.End() <= off {
				x, err, _ = nextA()
			}
			if err == nil && y.End() <= off {
				y, err, _ = nextB()
			}
			if err != nil {
				yield(pair{off: off}, err)
				return
			}
			end := min(x.End(), y.End())
			if end <= off {
				yield(pair{off: off}, io.ErrNoProgress)
				return
			}
			if !yield(pair{off, end - off, allocationOf(x), allocationOf(y)}, nil) {
				return
			}
			off = end
		}
	}
}

// extended yields the extents of d, and nothing allocated from there to total.
func extended(d Disk, total int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		for e, err := range WholeDisk(d) {
			if !yield(e, err) || err != nil {
				return
			}
		}
		if size := d.Size(); size < total {
			yield(Extent{Start: size, Length: total - size, HostOffset: NoOffset}, nil)
		}
	}
}
