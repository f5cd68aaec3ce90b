package vma

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"runtime"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// CopyOptions says how a whole device is written. nil and the zero value are
// the defaults.
type CopyOptions struct {
	// Workers is how many goroutines read and look for zeros, by default
	// GOMAXPROCS but at most 8. Each takes 4 MiB of memory. The archive does
	// not depend on it.
	Workers int
	// Progress, where set, is told how many bytes of the device are done, by
	// one goroutine at a time.
	Progress func(done, size int64)
}

// CopyFrom writes all clusters of a device that were not written yet, in
// ascending order, as src reads. What src knows to be zero is not read. The
// size of src must be that of the device, or short of it by less than 512
// bytes.
func (w *Writer) CopyFrom(ctx context.Context, dev uint8, src Disk, o *CopyOptions) error {
	return w.copy(ctx, dev, src.Size(), o, func(b *extentBuffer, d *writerDevice, first, n int64) error {
		return b.readDisk(src, d, first, n)
	})
}

// ReadFrom is [Writer.CopyFrom] for a stream, such as the state of a machine
// or a pipe, which must have as many bytes as the device.
func (w *Writer) ReadFrom(ctx context.Context, dev uint8, src io.Reader, o *CopyOptions) error {
	opt := CopyOptions{}
	if o != nil {
		opt = *o
	}
	opt.Workers = 1 // reads in order
	return w.copy(ctx, dev, -1, &opt, func(b *extentBuffer, d *writerDevice, first, n int64) error {
		return b.readStream(src, d, first, n)
	})
}

const maxDefaultWorkers = 8

// fillFunc reads n clusters of a device from first on into an empty buffer.
type fillFunc func(b *extentBuffer, d *writerDevice, first, n int64) error

// A batch is the clusters of one extent, on their way from a worker to the
// archive.
type batch struct {
	buf      extentBuffer
	first, n int64
	err      error
	ready    chan struct{} // closed by the worker
}

// copy writes a device in batches that fill reads, ahead of the writing and
// in several goroutines, and that are written in order. size is that of the
// source, -1 where it is not known.
func (w *Writer) copy(ctx context.Context, dev uint8, size int64, o *CopyOptions, fill fillFunc) error {
	var opt CopyOptions
	if o != nil {
		opt = *o
	}
	if opt.Workers <= 0 {
		opt.Workers = min(runtime.GOMAXPROCS(0), maxDefaultWorkers)
	}
	d, room, err := w.begin(dev, size)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	free := make(chan *batch, opt.Workers+1) // one is written while the others are read
	for range cap(free) {
		free <- &batch{buf: newExtentBuffer(min(d.Clusters(), writerSlots))}
	}
	for b := range schedule(ctx, d, room, opt.Workers, free, fill) {
		<-b.ready
		if err == nil {
			err = w.putBatch(d, b)
		}
		if err != nil {
			cancel() // and wait for the workers
		} else if opt.Progress != nil {
			opt.Progress(min((b.first+b.n)*ClusterSize, d.Size), d.Size)
		}
		free <- b
	}
	if err == nil && ctx.Err() != nil {
		err = w.abort(canceled(ctx))
	}
	return err
}

// begin returns the device, and how many clusters fit into the pending extent.
func (w *Writer) begin(dev uint8, size int64) (d *writerDevice, room int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d, err = w.device(dev); err != nil {
		return nil, 0, err
	}
	if size >= 0 && align.Up(size, 512) != d.Size {
		return nil, 0, w.fail(fmt.Errorf("vma: device %d has %d bytes, the source %d", dev, d.Size, size))
	}
	if room = int64(writerSlots - w.pending.slots); room == 0 {
		room = writerSlots
	}
	return d, room, nil
}

// abort makes err the error of the Writer.
func (w *Writer) abort(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fail(err)
}

// schedule starts the workers and returns a channel of their batches in order
// of the device, ready or not. The first has room clusters, so that the others
// can be extents. Who takes a batch puts it back into free. When ctx ends no
// more batches come.
func schedule(ctx context.Context, d *writerDevice, room int64, workers int, free chan *batch, fill fillFunc) <-chan *batch {
	jobs, order := make(chan *batch, cap(free)), make(chan *batch, cap(free))
	for range workers {
		go func() {
			for b := range jobs {
				b.buf.reset()
				if b.err = canceled(ctx); b.err == nil {
					b.err = fill(&b.buf, d, b.first, b.n)
				}
				close(b.ready)
			}
		}()
	}
	go func() {
		defer close(order)
		defer close(jobs)
		for first := int64(0); first < d.Clusters(); first, room = first+room, writerSlots {
			select {
			case <-ctx.Done():
				return
			case b := <-free:
				b.first, b.n, b.ready = first, min(room, d.Clusters()-first), make(chan struct{})
				jobs <- b
				order <- b
			}
		}
	}()
	return order
}

// putBatch writes the clusters of a batch that were not written yet.
func (w *Writer) putBatch(d *writerDevice, b *batch) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || w.closed {
		return cmp.Or(w.err, errClosed)
	}
	if b.err != nil {
		return w.fail(b.err)
	}
	if w.pending.slots == writerSlots {
		if err := w.flush(&w.pending); err != nil {
			return err
		}
	}
	if w.pending.slots == 0 && b.n == writerSlots && d.addAll(b.first, b.n) {
		return w.flush(&b.buf)
	}
	data := b.buf.b[holdBack+extentHeader:]
	for i := range int(b.n) {
		s := b.buf.header().slot(i)
		stored := data[:s.blocks()*BlockSize]
		data = data[len(stored):]
		if d.seen.has(s.cluster()) {
			continue
		}
		if err := w.storeBlocks(d, s, stored); err != nil {
			return err
		}
	}
	return nil
}

// addAll marks clusters as written, all of them or, where one was, none.
func (d *writerDevice) addAll(first, n int64) bool {
	for i := range n {
		if d.seen.has(uint32(first + i)) {
			return false
		}
	}
	for i := range n {
		d.seen.add(uint32(first + i))
	}
	d.count += n
	d.next = first + n
	return true
}

// pieceSize is how much is read before it is searched for zeros: little enough
// to stay in a cache.
const pieceSize = 4 * ClusterSize

// readDisk reads clusters of a disk.
func (e *extentBuffer) readDisk(src Disk, d *writerDevice, first, n int64) error {
	for num, last := first, first+n; num < last; num += pieceSize / ClusterSize {
		off := num * ClusterSize
		end := min(off+pieceSize, last*ClusterSize, d.Size)
		p := e.piece(int(end - off))
		have := min(max(src.Size()-off, 0), end-off)
		clear(p[have:]) // what rounds the size up
		stored, err := readExtents(src, p[:have], off)
		if err != nil {
			return fmt.Errorf("vma: source of device %d: %w", d.ID, err)
		}
		e.addPiece(d, num, p, stored)
	}
	return nil
}

// readExtents fills p from off of src, and reads only what is not known to be
// zero. It reports whether there was such.
func readExtents(src Disk, p []byte, off int64) (stored bool, err error) {
	next, end := off, off+int64(len(p))
	for x, err := range src.Extents(off, int64(len(p))) {
		if err != nil {
			return false, err
		}
		if x.Start != next || x.Length <= 0 || x.End() > end {
			return false, fmt.Errorf("extent of %d bytes at %#x, want one at %#x", x.Length, x.Start, next)
		}
		q := p[x.Start-off : x.End()-off]
		next = x.End()
		if x.IsZero() {
			clear(q)
			continue
		}
		stored = true
		if err := safeio.ReadFull(src, q, x.Start); err != nil {
			return false, fmt.Errorf("read at %#x: %w", x.Start, err)
		}
	}
	if next != end {
		return false, fmt.Errorf("no extent at %#x", next)
	}
	return stored, nil
}

// readStream reads clusters of a stream.
func (e *extentBuffer) readStream(src io.Reader, d *writerDevice, first, n int64) error {
	for num, last := first, first+n; num < last; num += pieceSize / ClusterSize {
		off := num * ClusterSize
		p := e.piece(int(min(pieceSize, last*ClusterSize-off, d.Size-off)))
		if _, err := io.ReadFull(src, p); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("vma: source of device %d at %#x: %w", d.ID, off, err)
		}
		e.addPiece(d, num, p, true)
	}
	return nil
}
