package block

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/ordered"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// CopyOptions says how a disk is copied. The zero value and nil are the
// defaults.
type CopyOptions struct {
	// Workers is how many pieces are copied at a time, at most 64. Default:
	// twice the processors that Go uses, at least 4 and at most 16.
	Workers int
	// BufferSize is how many bytes a piece has at most, and so how much memory
	// each worker takes: a power of two from 4 KiB to 64 MiB, and no less than
	// a cluster of the source. Default: 256 KiB.
	BufferSize int
	// Sparse is the size of the pieces, in bytes, that are left out where they
	// hold nothing but zeros: a power of two from 512 to BufferSize. Negative:
	// data is not looked at. Between files the system then copies without
	// reading, if it can. Default: 4096.
	Sparse int
	// Zeroed says that the target reads as zeros, so that zeros need not be
	// written. A target that has Truncate and is empty does.
	Zeroed bool
	// InOrder has the target written from its start to its end, by one write
	// at a time. Reading is parallel all the same.
	InOrder bool
	// KeepSize leaves the size of the target as it is. By default a target
	// that has Truncate gets the size of the source.
	KeepSize bool
	// Progress is called now and then with how many bytes of the disk are
	// dealt with, of how many. The calls do not overlap.
	Progress func(done, total int64)
	// ReadError is asked about a range that cannot be read. If it returns nil,
	// the range is copied as zeros; otherwise its error ends the copy. It may
	// be called by several goroutines. Default: the error ends the copy.
	ReadError func(off, n int64, err error) error
}

// CopyStats is what a copy did, in bytes of the disk. The sum is its size,
// unless the copy ended with an error.
type CopyStats struct {
	Written int64 // as data, what the system copied included
	Shared  int64 // of that, what the system copied
	Zeroed  int64 // made to read as zeros
	Skipped int64 // not written, because the target reads as zeros there
}

// A CopyError tells where a copy failed.
type CopyError struct {
	Op     string // "map" or "read" the source; "write" or "truncate" the target
	Offset int64  // in bytes of the disk
	Err    error
}

func (e *CopyError) Error() string { return fmt.Sprintf("%s at %#x: %v", e.Op, e.Offset, e.Err) }

// Unwrap returns e.Err.
func (e *CopyError) Unwrap() error { return e.Err }

const (
	defaultBuffer = 256 << 10
	minBuffer     = 4 << 10
	maxBuffer     = 64 << 20
	defaultGrain  = 4 << 10
	minGrain      = 512
	maxWorkers    = 64

	// sharedPiece is how much the system copies in one go, and zeroPiece how
	// much it makes read as zeros: a copy that is cancelled ends within that.
	sharedPiece = 64 << 20
	zeroPiece   = 64 << 20

	// worthSharing is how much the system has to be asked for at once to be no
	// slower than reading and writing, where it does just that too.
	worthSharing = 2 << 20
)

// Workers returns the number of workers that options of that name ask for: for
// 0 twice the processors that Go uses, at least 4 and at most 16.
func Workers(options string, n int) (int, error) {
	if n < 0 || n > maxWorkers {
		return 0, fmt.Errorf("%s.Workers is %d, not 1 to %d", options, n, maxWorkers)
	}
	if n == 0 {
		n = min(max(2*runtime.GOMAXPROCS(0), 4), 16)
	}
	return n, nil
}

// withDefaults returns a copy of o with the defaults filled in for a source
// with clusters of the given size.
func (o *CopyOptions) withDefaults(cluster int64) (CopyOptions, error) {
	var c CopyOptions
	if o != nil {
		c = *o
	}
	var err error
	if c.Workers, err = Workers("CopyOptions", c.Workers); err != nil {
		return c, err
	}
	if c.BufferSize == 0 {
		c.BufferSize = defaultBuffer
	}
	if !align.IsPow2(c.BufferSize) || c.BufferSize < minBuffer || c.BufferSize > maxBuffer {
		return c, fmt.Errorf("CopyOptions.BufferSize is %d, not a power of two from %d to %d", c.BufferSize, minBuffer, maxBuffer)
	}
	if align.IsPow2(cluster) {
		c.BufferSize = max(c.BufferSize, int(min(cluster, maxBuffer)))
	}
	if c.Sparse == 0 {
		c.Sparse = min(defaultGrain, c.BufferSize)
	}
	if c.Sparse > 0 && (!align.IsPow2(c.Sparse) || c.Sparse < minGrain || c.Sparse > c.BufferSize) {
		return c, fmt.Errorf("CopyOptions.Sparse is %d, not a power of two from %d to %d", c.Sparse, minGrain, c.BufferSize)
	}
	return c, nil
}

// Copy copies src to dst: what the extents of src tell is stored, a piece for
// each worker at a time, and zeros elsewhere. Zeros are not written where dst
// is known to read as zeros; otherwise dst is told to make them
// ([ZeroWriter], or [PunchHoler], as an [*os.File] counts too), or they are
// written. Nothing is left to a discard. A dst that has Truncate gets the size
// of src first.
//
// dst and what of src is used must allow for concurrent calls. A failure is a
// [*CopyError] that wraps what failed, or the cause of ctx; the target is
// incomplete then. The memory that Copy takes is Workers times BufferSize,
// twice that with InOrder.
func Copy(ctx context.Context, dst io.WriterAt, src Disk, o *CopyOptions) (CopyStats, error) {
	if dst == nil || src == nil {
		return CopyStats{}, ErrNil
	}
	cluster := int64(0)
	if c, ok := src.(Clusterer); ok {
		cluster = c.ClusterSize()
	}
	opts, err := o.withDefaults(cluster)
	if err != nil {
		return CopyStats{}, err
	}
	t := target{w: dst, zeroFrom: src.Size()}
	if opts.Zeroed {
		t.zeroFrom = 0
	}
	if !opts.KeepSize {
		if err := t.resize(src.Size()); err != nil {
			return CopyStats{}, &CopyError{"truncate", src.Size(), err}
		}
	}
	if opts.Sparse > 0 && !t.canZero() {
		opts.Sparse = -1
	}
	return copyTo(ctx, &t, src, opts, nil)
}

// copyTo copies src, but for extents that skip reports.
func copyTo(ctx context.Context, t *target, src Disk, o CopyOptions, skip func(Extent) bool) (CopyStats, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &copier{CopyOptions: o, ctx: ctx, cancel: cancel, src: src, dst: t, skip: skip, total: src.Size()}
	var err error
	if o.InOrder {
		err = c.inOrder()
	} else {
		err = c.anyOrder()
	}
	return c.stats, err
}

// A piece of the disk: at most BufferSize bytes to read and write, or a range
// of any length that is zeros or that the system copies.
type piece struct {
	off, n int64
	zero   bool
	host   *os.File // the file that holds it, at hostAt
	hostAt int64
}

// A buffer holds what was read of a piece.
type buffer struct {
	b    []byte
	lost bool // it could not be read, and counts as zeros
}

// A copier is one copy in progress.
type copier struct {
	CopyOptions
	ctx    context.Context
	cancel context.CancelCauseFunc
	src    Disk
	dst    *target
	skip   func(Extent) bool // extents to leave out, or nil
	total  int64

	mu    sync.Mutex // guards what follows
	done  int64
	stats CopyStats
}

// report adds what was done to the stats.
func (c *copier) report(s CopyStats) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Written += s.Written
	c.stats.Shared += s.Shared
	c.stats.Zeroed += s.Zeroed
	c.stats.Skipped += s.Skipped
	c.done += s.Written + s.Zeroed + s.Skipped
	if c.Progress != nil {
		c.Progress(c.done, c.total)
	}
}

// anyOrder has every worker read and write its pieces itself.
func (c *copier) anyOrder() error {
	pieces := make(chan piece)
	var workers sync.WaitGroup
	for range c.Workers {
		workers.Go(func() {
			buf := buffer{b: getBuffer(c.BufferSize)}
			defer putBuffer(buf.b)
			for p := range pieces {
				if c.ctx.Err() != nil {
					continue
				}
				if err := c.copy(p, &buf); err != nil {
					c.cancel(err)
				}
			}
		})
	}
	for p := range c.pieces() {
		select {
		case pieces <- p:
			continue
		case <-c.ctx.Done():
		}
		break
	}
	close(pieces)
	workers.Wait()
	return context.Cause(c.ctx)
}

// inOrder has the workers read, and one goroutine write what they read in the
// order of the disk.
func (c *copier) inOrder() error {
	const ahead = 2 // pieces for each worker
	taken := make(chan []byte, ahead*c.Workers)
	err := ordered.Run(c.ctx, c.Workers, cap(taken), c.pieces(), func(p piece, buf *buffer) error {
		if buf.b == nil {
			buf.b = getBuffer(c.BufferSize)
			taken <- buf.b
		}
		return c.read(p, buf)
	}, c.write)
	close(taken)
	for b := range taken {
		putBuffer(b)
	}
	return err
}

// copy copies p by way of buf.
func (c *copier) copy(p piece, buf *buffer) error {
	if p.host != nil {
		if err := c.share(&p); err != nil {
			return err
		}
	}
	for p.n > 0 && c.ctx.Err() == nil {
		part := p
		if !p.zero {
			part.n = min(p.n, int64(len(buf.b)))
		}
		if err := c.read(part, buf); err != nil {
			return err
		}
		if err := c.write(part, buf); err != nil {
			return err
		}
		p.off += part.n
		p.n -= part.n
	}
	return nil
}

// share has the system copy p. What it cannot copy is left in p, and is not
// tried with other pieces.
func (c *copier) share(p *piece) error {
	n, err := c.dst.share(p)
	c.report(CopyStats{Written: n, Shared: n})
	p.off += n
	p.n -= n
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return &CopyError{"write", p.off, err}
	}
	return nil
}

// read reads p.
func (c *copier) read(p piece, buf *buffer) error {
	buf.lost = false
	if p.zero {
		return nil
	}
	err := safeio.ReadFull(c.src, buf.b[:p.n], p.off)
	if err == nil {
		return nil
	}
	if c.ReadError != nil {
		if err = c.ReadError(p.off, p.n, err); err == nil {
			buf.lost = true
			return nil
		}
	}
	return &CopyError{"read", p.off, err}
}

// write writes what was read of p, less the zeros in it.
func (c *copier) write(p piece, buf *buffer) error {
	var s CopyStats
	defer func() { c.report(s) }()
	zero := func(off, n int64) error {
		if n == 0 {
			return nil
		}
		z, err := c.dst.zero(c.ctx, off, n)
		s.Zeroed += z.Zeroed
		s.Skipped += z.Skipped
		if err != nil {
			return &CopyError{"write", off, err}
		}
		return nil
	}
	if p.zero || buf.lost {
		return zero(p.off, p.n)
	}
	for data, off := buf.b[:p.n], p.off; len(data) > 0; {
		start, end := 0, len(data)
		if c.Sparse > 0 {
			start, end = nextStored(data, c.Sparse)
		}
		if err := zero(off, int64(start)); err != nil {
			return err
		}
		if start < end {
			n, err := c.dst.w.WriteAt(data[start:end], off+int64(start))
			s.Written += int64(n)
			if err == nil && n < end-start {
				err = io.ErrShortWrite
			}
			if err != nil {
				return &CopyError{"write", off + int64(start+n), err}
			}
		}
		data = data[end:]
		off += int64(end)
	}
	return nil
}

var buffers sync.Pool // of *[]byte

// getBuffer returns a buffer of n bytes.
func getBuffer(n int) []byte {
	if b, _ := buffers.Get().(*[]byte); b != nil && cap(*b) >= n {
		return (*b)[:n]
	}
	return make([]byte, n)
}

func putBuffer(b []byte) { buffers.Put(&b) }
