package vma

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// ExtractOptions says what is extracted and where to.
type ExtractOptions struct {
	// Target returns where the content of a device goes, nil for one that is
	// not extracted. It is called once for each device, in order of ID, before
	// anything is written; for a device that only the salvage of a stream comes
	// to know, whose Size is 0, when its first cluster comes. nil extracts
	// nothing. That a device is not in the archive is for the caller to notice.
	Target func(d DeviceInfo) (*Target, error)
	// Workers is how many goroutines write, by default twice the processors
	// from a file, at least 4 and at most 16. From a stream it is one less than
	// the processors, at least 1 and at most 4, and each takes 4 MiB of memory.
	Workers int
	// Progress, where set, is told how far the extraction has come, after
	// every extent. The calls do not overlap.
	Progress func(p Progress)
}

// A Target is where a device is extracted to.
type Target struct {
	// W takes the content, by concurrent calls for ranges that do not overlap:
	// a file, which becomes a raw image, or an image of another package. A W
	// that has Truncate gets the size of the device.
	W io.WriterAt
	// Zeroed says that W reads as zeros, so that zeros need not be written. A
	// W that has Truncate and is empty does.
	Zeroed bool
	// KeepSize leaves the size of W as it is.
	KeepSize bool
	// Whole has clusters of 64 KiB written whole if any of their blocks is
	// stored, zeros included: better for an image with clusters of that size,
	// which cannot leave out a part of one.
	Whole bool
}

// Extract reads the archive to its end and writes each device to its target,
// in the order of the archive. What a device has not stored is not written
// where the target is known to read as zeros.
//
// The report is that of [Reader.Report]. Where the error is a [*FormatError],
// and under [Salvage] where the stream fails, targets hold what was read before
// it. Of a stream that [Decompress] returned they may hold content that a
// checksum at its end, which is an error then, does not confirm. A Reader
// extracts once, and not after [Reader.Next]: what was read is gone.
func (r *Reader) Extract(ctx context.Context, o *ExtractOptions) (*Report, error) {
	if r.w.err == io.EOF || r.w.err == nil && r.w.count > 0 {
		return r.w.result(), errors.New("vma: extract: the archive was read from already")
	}
	x := newExtraction(o, min(max(runtime.GOMAXPROCS(0)-1, 1), 4))
	free := make(chan []byte, x.workers+1)
	for range cap(free) {
		free <- nil
	}
	// A salvage takes what a frame holds even if it is not what it should be.
	if z, ok := r.stream.r.(*zstdReader); ok && !r.stream.lenient {
		r.stream.late = newLateSums(z, len(r.stream.buf))
	}
	work := func(j *job, _ *[]byte) error {
		defer func() { free <- j.data }()
		if err := j.check(); err != nil {
			return ioError(j.offset, err)
		}
		return x.scatter(j.clusters, j.data, 0)
	}
	report, err := x.run(ctx, r.w, r.w.header.Devices, work, func(e *extent) *job {
		j := &job{offset: e.offset, data: e.data, clusters: e.clusters}
		e.clusters = nil
		r.w.release() // and leave the data to the job
		j.check = r.stream.swap(<-free)
		return j
	})
	if serr := r.stream.settle(); serr != nil && err == nil {
		err = ioError(r.stream.offset(), serr)
	}
	r.stream.late = nil
	return report, cmp.Or(err, r.stream.failed)
}

// Extract writes each device to its target, in parallel and in the order of
// the archive, which is read once more. The report is that of
// [Archive.Report].
func (a *Archive) Extract(ctx context.Context, o *ExtractOptions) (*Report, error) {
	x := newExtraction(o, min(max(2*runtime.GOMAXPROCS(0), 4), 16))
	opt := a.opt
	opt.Progress = nil
	w, err := newWalker(ctx, &fileSource{r: a.r, size: a.size}, a.size, opt, opt.Profile == Salvage)
	if err != nil {
		return nil, err
	}
	w.list = true
	devices := make([]DeviceInfo, len(a.devices))
	for i, d := range a.devices {
		devices[i] = d.info
	}
	return x.run(ctx, w, devices, func(j *job, buf *[]byte) error { return x.copyOut(a.r, j, buf) }, func(e *extent) *job {
		j := &job{offset: e.offset, clusters: e.clusters}
		e.clusters = nil
		return j
	})
}

// An extraction is one in progress.
type extraction struct {
	ExtractOptions
	ctx     context.Context
	workers int
	devices [256]extracted

	mu       sync.Mutex // guards progress
	progress Progress
}

// extracted is what is known of a device that is extracted.
type extracted struct {
	asked  bool          // for the target
	w      io.WriterAt   // its target
	target *block.Target // nil if it is not extracted
	whole  bool
	keep   bool // the size of w
}

// A job is an extent to be written out.
type job struct {
	offset   int64 // in the archive
	end      int64
	clusters []cluster

	// From a stream.
	data  []byte       // the extent
	check func() error // of data, to be called before it is used
}

func newExtraction(o *ExtractOptions, workers int) *extraction {
	x := &extraction{workers: workers}
	if o != nil {
		x.ExtractOptions = *o
	}
	if x.Workers > 0 {
		x.workers = min(x.Workers, maxWorkers)
	}
	return x
}

const maxWorkers = 64

// run walks the archive and hands its extents to the workers: what take makes
// of each goes to work.
func (x *extraction) run(ctx context.Context, w *walker, devices []DeviceInfo, work func(*job, *[]byte) error, take func(*extent) *job) (*Report, error) {
	parent := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w.ctx, x.ctx = ctx, ctx
	x.progress.Size = w.size
	for _, d := range devices {
		x.progress.Total += d.Clusters() * ClusterSize
		if err := x.ask(d); err != nil {
			return w.result(), err
		}
	}
	jobs := make(chan *job)
	var group sync.WaitGroup
	for range x.workers {
		group.Go(func() {
			var buf []byte
			for j := range jobs {
				n := len(j.clusters)
				if err := work(j, &buf); err != nil {
					cancel(err)
					continue
				}
				x.report(j.end, n)
			}
		})
	}
	err := x.feed(w, jobs, take)
	close(jobs)
	group.Wait()
	if err == nil {
		err = x.finish(w)
	}
	switch {
	case parent.Err() != nil:
		err = canceled(parent)
	case ctx.Err() != nil:
		err = context.Cause(ctx) // of a worker
	}
	return w.result(), err
}

// feed sends the extents to the workers.
func (x *extraction) feed(w *walker, jobs chan<- *job, take func(*extent) *job) error {
	for {
		e, err := w.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, c := range e.clusters {
			if !x.devices[c.dev()].asked {
				if err := x.ask(DeviceInfo{ID: c.dev(), Name: w.ledger.devs[c.dev()].Name}); err != nil {
					return err
				}
			}
		}
		end := e.offset + int64(e.length)
		j := take(e)
		j.end = end
		jobs <- j
	}
}

// ask asks for the target of a device.
func (x *extraction) ask(d DeviceInfo) error {
	e := &x.devices[d.ID]
	e.asked = true
	if x.Target == nil {
		return nil
	}
	t, err := x.Target(d)
	if err == nil && t != nil {
		o := &CopyOptions{Zeroed: t.Zeroed, KeepSize: t.KeepSize}
		if d.Size == 0 { // not known yet
			d.Size, o.KeepSize = MaxDeviceSize, true
		}
		e.w, e.whole, e.keep = t.W, t.Whole, t.KeepSize
		e.target, err = block.NewTarget(t.W, d.Size, o)
	}
	if err != nil {
		return fmt.Errorf("vma: target of device %d: %w", d.ID, err)
	}
	return nil
}

// report tells of progress.
func (x *extraction) report(offset int64, clusters int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.progress.Offset = max(x.progress.Offset, offset)
	x.progress.Done += int64(clusters) * ClusterSize
	if x.Progress != nil {
		x.Progress(x.progress)
	}
}

// finish deals with what the archive does not have, where a salvage goes on
// without: what a target held before becomes zeros there.
func (x *extraction) finish(w *walker) error {
	for _, d := range w.ledger.devs {
		if d == nil || x.devices[d.ID].target == nil {
			continue
		}
		for first, n := range d.seen.gaps(d.count) {
			off := first * ClusterSize
			if err := x.zero(d.ID, off, min(n*ClusterSize, d.Size-off)); err != nil {
				return err
			}
		}
		if e := &x.devices[d.ID]; !d.known && !e.keep { // the size is known now
			if _, err := block.NewTarget(e.w, d.Size, nil); err != nil {
				return fmt.Errorf("vma: device %d: %w", d.ID, err)
			}
		}
	}
	return nil
}

// chunk is about how much is read at a time from a file.
const chunk = 256 << 10

// copyOut reads the extent of a job, a chunk at a time, and writes it out.
func (x *extraction) copyOut(r io.ReaderAt, j *job, buf *[]byte) error {
	if *buf == nil {
		*buf = make([]byte, chunk+ClusterSize)
	}
	for rest := j.clusters; len(rest) > 0; {
		n, size := 0, 0
		// Clusters whose blocks follow each other, but for those of devices
		// that are not extracted.
		for n < len(rest) && size < chunk && x.devices[rest[n].dev()].target != nil && rest[n].data == rest[0].data+size {
			size += rest[n].blocks() * BlockSize
			n++
		}
		if n == 0 {
			rest = rest[1:]
			continue
		}
		if x.ctx.Err() != nil {
			return canceled(x.ctx)
		}
		b, off := (*buf)[:size], j.offset+int64(rest[0].data)
		if err := safeio.ReadFull(r, b, off); err != nil {
			return ioError(off, err)
		}
		if err := x.scatter(rest[:n], b, rest[0].data); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// scatter writes clusters to their targets, with neighbours in one go. data
// begins at offset base of the extent.
func (x *extraction) scatter(clusters []cluster, data []byte, base int) error {
	s := scatterer{x: x, data: data}
	for i := range clusters {
		c := &clusters[i]
		if x.devices[c.dev()].target == nil {
			continue
		}
		off, at := int64(c.cluster())*ClusterSize, c.data-base
		if x.devices[c.dev()].whole && c.mask() != 0 && c.mask() != 0xffff {
			if err := s.putWhole(c, data[at:]); err != nil {
				return err
			}
			continue
		}
		for b := 0; b*BlockSize < c.size; b++ {
			next := run{c.dev(), off + int64(b)*BlockSize, min(BlockSize, c.size-b*BlockSize), -1}
			if c.mask()>>b&1 != 0 {
				if !block.IsZero(data[at : at+next.n]) {
					next.at = at
				}
				at += BlockSize
			}
			if err := s.put(next); err != nil {
				return err
			}
		}
	}
	return s.flush()
}

// A scatterer joins runs into longer ones.
type scatterer struct {
	x     *extraction
	data  []byte
	last  run    // not written yet
	whole []byte // a cluster
}

// A run is a range of a device that is written at once.
type run struct {
	dev uint8
	off int64 // in the device
	n   int
	at  int // in data, -1 for zeros
}

// follows reports whether r goes on where prev ends, both in the device and in
// data.
func (r run) follows(prev run) bool {
	if r.dev != prev.dev || r.off != prev.off+int64(prev.n) {
		return false
	}
	return r.at == prev.at && r.at < 0 || prev.at >= 0 && r.at == prev.at+prev.n
}

func (s *scatterer) put(r run) error {
	if r.follows(s.last) {
		s.last.n += r.n
		return nil
	}
	err := s.flush()
	s.last = r
	return err
}

// putWhole writes a cluster with its zeros; data begins with its blocks.
func (s *scatterer) putWhole(c *cluster, data []byte) error {
	if err := s.flush(); err != nil {
		return err
	}
	if s.whole == nil {
		s.whole = make([]byte, ClusterSize)
	}
	stored := Cluster{Number: c.cluster(), Mask: c.mask(), Data: data[:c.blocks()*BlockSize], size: c.size}
	stored.CopyTo(s.whole)
	s.last = run{}
	if _, err := s.x.devices[c.dev()].target.WriteAt(s.whole[:c.size], stored.Start()); err != nil {
		return fmt.Errorf("vma: device %d: %w", c.dev(), err)
	}
	return nil
}

// flush writes the last run.
func (s *scatterer) flush() error {
	r, x := s.last, s.x
	if r.n == 0 {
		return nil
	}
	if x.ctx.Err() != nil {
		return canceled(x.ctx)
	}
	if r.at < 0 {
		return x.zero(r.dev, r.off, int64(r.n))
	}
	if _, err := x.devices[r.dev].target.WriteAt(s.data[r.at:r.at+r.n], r.off); err != nil {
		return fmt.Errorf("vma: device %d: %w", r.dev, err)
	}
	return nil
}

// zero makes a range of a target read as zeros.
func (x *extraction) zero(dev uint8, off, n int64) error {
	if err := x.devices[dev].target.WriteZeroes(x.ctx, off, n); err != nil {
		return fmt.Errorf("vma: device %d: %w", dev, err)
	}
	return nil
}
