package vma

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"runtime"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/ordered"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// CopyFrom writes all clusters of a device that were not written yet, in
// ascending order, as src reads. What src knows to be zero is not read. The
// size of src must be that of the device, or short of it by less than 512
// bytes. [Raw] makes a Disk of a file, an image of another package is one.
//
// Of the options, Workers says how many goroutines read and look for zeros, by
// default GOMAXPROCS but at most 8, each with 4 MiB of memory; Progress and
// ReadError are used as well. The archive does not depend on Workers.
func (w *Writer) CopyFrom(ctx context.Context, dev uint8, src Disk, o *CopyOptions) error {
	var opt CopyOptions
	if o != nil {
		opt = *o
	}
	if opt.Workers <= 0 {
		opt.Workers = min(runtime.GOMAXPROCS(0), maxDefaultWorkers)
	}
	return w.copy(ctx, dev, src.Size(), opt, diskSource{src, opt.ReadError})
}

// ReadFrom is [Writer.CopyFrom] for a stream, such as the state of a machine
// or a pipe, which must have as many bytes as the device. Of the options only
// Progress is used.
func (w *Writer) ReadFrom(ctx context.Context, dev uint8, src io.Reader, o *CopyOptions) error {
	opt := CopyOptions{Workers: 1} // who reads in order
	if o != nil {
		opt.Progress = o.Progress
	}
	return w.copy(ctx, dev, -1, opt, streamDisk{src})
}

const maxDefaultWorkers = 8

// A batch is the clusters of a device that one extent holds.
type batch struct {
	first, n int64
	extents  []Extent // of the disk that they are read from
	err      error    // in place of extents
}

// A deviceSource is what a device is read from: batches yields it in batches,
// the first with room clusters, so that the others can be extents; read reads
// one, and may be called concurrently.
type deviceSource interface {
	batches(d *writerDevice, room int64) iter.Seq[batch]
	read(e *extentBuffer, d *writerDevice, b batch) error
}

// copy writes a device in batches that are read ahead of the writing and in
// several goroutines, and that are written in order. size is that of the
// source, -1 where it is not known.
func (w *Writer) copy(ctx context.Context, dev uint8, size int64, o CopyOptions, src deviceSource) error {
	d, room, err := w.begin(dev, size)
	if err != nil {
		return err
	}
	err = ordered.Run(ctx, o.Workers, o.Workers+1, src.batches(d, room),
		func(b batch, e *extentBuffer) error {
			if e.b == nil {
				*e = newExtentBuffer(min(d.Clusters(), writerSlots))
			}
			e.reset()
			return src.read(e, d, b)
		},
		func(b batch, e *extentBuffer) error {
			if err := w.putBatch(d, b, e); err != nil {
				return err
			}
			if o.Progress != nil {
				o.Progress(min((b.first+b.n)*ClusterSize, d.Size), d.Size)
			}
			return nil
		})
	if err != nil {
		return w.abort(fmt.Errorf("vma: device %d: %w", dev, err))
	}
	return nil
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

// abort makes err the error of the Writer, which may have one.
func (w *Writer) abort(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fail(err)
}

// putBatch writes the clusters of a batch that were not written yet.
func (w *Writer) putBatch(d *writerDevice, b batch, e *extentBuffer) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || w.closed {
		return cmp.Or(w.err, errClosed)
	}
	if w.pending.slots == writerSlots {
		if err := w.flush(&w.pending); err != nil {
			return err
		}
	}
	if w.pending.slots == 0 && b.n == writerSlots && d.addAll(b) {
		return w.flush(e)
	}
	data := e.b[holdBack+extentHeader:]
	for i := range int(b.n) {
		s := e.header().slot(i)
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
func (d *writerDevice) addAll(b batch) bool {
	for i := range b.n {
		if d.seen.has(uint32(b.first + i)) {
			return false
		}
	}
	for i := range b.n {
		d.seen.add(uint32(b.first + i))
	}
	d.count += b.n
	d.next = b.first + b.n
	return true
}

// pieceSize is how much is read before it is searched for zeros: little enough
// to stay in a cache.
const pieceSize = 4 * ClusterSize

// pieces yields the ranges of the device, as offset and length, in which a
// batch is read.
func (b batch) pieces(d *writerDevice) iter.Seq2[int64, int64] {
	return func(yield func(int64, int64) bool) {
		end := min((b.first+b.n)*ClusterSize, d.Size)
		for off := b.first * ClusterSize; off < end; off += pieceSize {
			if !yield(off, min(pieceSize, end-off)) {
				return
			}
		}
	}
}

// batches yields the device in batches.
func (d *writerDevice) batches(room int64) iter.Seq[batch] {
	return func(yield func(batch) bool) {
		for first := int64(0); first < d.Clusters(); {
			n := min(room, d.Clusters()-first)
			if !yield(batch{first: first, n: n}) {
				return
			}
			first, room = first+n, writerSlots
		}
	}
}

// A diskSource reads clusters of a disk.
type diskSource struct {
	src       Disk
	readError func(off, n int64, err error) error
}

// batches asks for the extents of the disk but once: where a file has its next
// hole can take long to find out.
func (s diskSource) batches(d *writerDevice, room int64) iter.Seq[batch] {
	return func(yield func(batch) bool) {
		size := s.src.Size()
		next, stop := iter.Pull2(s.src.Extents(0, size))
		defer stop()
		var x Extent // the last one, of which a part may be left
		for b := range d.batches(room) {
			end := min((b.first+b.n)*ClusterSize, size)
			for off := b.first * ClusterSize; off < end && b.err == nil; {
				if x.End() <= off {
					x, b.err = pull(next, off, size)
				}
				part := Extent{Start: off, Length: min(x.End(), end) - off, Kind: x.Kind}
				b.extents = append(b.extents, part)
				off = part.End()
			}
			if !yield(b) {
				return
			}
		}
	}
}

// pull returns the next extent, which must begin at off.
func pull(next func() (Extent, error, bool), off, size int64) (Extent, error) {
	x, err, ok := next()
	switch {
	case err != nil:
		return x, err
	case !ok || x.Start != off || x.Length <= 0 || x.Length > size-off:
		return x, fmt.Errorf("extent of %d bytes at %#x, want one at %#x", x.Length, x.Start, off)
	}
	return x, nil
}

func (s diskSource) read(e *extentBuffer, d *writerDevice, b batch) error {
	if b.err != nil {
		return b.err
	}
	for off, n := range b.pieces(d) {
		p := e.piece(int(n))
		have := min(max(s.src.Size()-off, 0), n)
		clear(p[have:]) // what rounds the size up
		stored, err := s.readExtents(p[:have], off, &b.extents)
		if err != nil {
			return err
		}
		e.addPiece(d, off/ClusterSize, p, stored)
	}
	return nil
}

// readExtents fills p from off, and reads only what is not known to be zero.
// It reports whether there was such. It drops the extents that are done.
func (s diskSource) readExtents(p []byte, off int64, extents *[]Extent) (stored bool, err error) {
	for len(p) > 0 {
		x := (*extents)[0]
		n := min(x.End()-off, int64(len(p)))
		if x.IsZero() {
			clear(p[:n])
		} else {
			stored = true
			if err := s.readAt(p[:n], off); err != nil {
				return false, err
			}
		}
		p = p[n:]
		if off += n; off == x.End() {
			*extents = (*extents)[1:]
		}
	}
	return stored, nil
}

func (s diskSource) readAt(p []byte, off int64) error {
	err := safeio.ReadFull(s.src, p, off)
	if err != nil && s.readError != nil {
		err = s.readError(off, int64(len(p)), err)
		clear(p)
	}
	if err != nil {
		return fmt.Errorf("read at %#x: %w", off, err)
	}
	return nil
}

// A streamDisk reads clusters of a stream, in order.
type streamDisk struct{ src io.Reader }

func (s streamDisk) batches(d *writerDevice, room int64) iter.Seq[batch] { return d.batches(room) }

func (s streamDisk) read(e *extentBuffer, d *writerDevice, b batch) error {
	for off, n := range b.pieces(d) {
		p := e.piece(int(n))
		if _, err := io.ReadFull(s.src, p); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read at %#x: %w", off, err)
		}
		e.addPiece(d, off/ClusterSize, p, true)
	}
	return nil
}
