package qcow2

import (
	"fmt"
	"io"
	"sync/atomic"

	"github.com/virtfmt/virtfmt/internal/inflight"
)

// ReadAt reads from the disk at off. It implements [io.ReaderAt]: it reads all
// of p, or returns an error, which is [io.EOF] where the disk ends.
func (im *Image) ReadAt(p []byte, off int64) (int, error) {
	return im.readDisk(im.active, p, off)
}

// readDisk is ReadAt for any mapping.
func (im *Image) readDisk(r *root, p []byte, off int64) (int, error) {
	if err := im.checkRange(off, int64(len(p))); err != nil {
		return 0, err
	}
	rest := r.size.Load() - off
	if rest >= int64(len(p)) {
		return im.readVia(r, p, guestOff(off))
	}
	if rest <= 0 {
		return 0, io.EOF
	}
	n, err := im.readVia(r, p[:rest], guestOff(off))
	if err == nil {
		err = io.EOF
	}
	return n, err
}

// readVia fills p from any mapping, at an offset that may lie past the end of
// the disk, where VM state is.
func (im *Image) readVia(r *root, p []byte, off guestOff) (int, error) {
	if host, ok := im.findPlain(r, off, int64(len(p))); ok {
		if err := im.readStored(p, host); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	n := 0
	for n < len(p) {
		m, err := im.readRun(r, p[n:], off+guestOff(n))
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// readRun fills the start of p with what is stored in one way.
func (im *Image) readRun(r *root, p []byte, off guestOff) (int, error) {
	var pin inflight.Pin
	if im.w != nil {
		pin = im.pins.Pin(uint64(off) >> 12)
	}
	backing := im.Backing()
	got, err := im.find(r, off, int64(len(p)))
	if err == nil {
		p = p[:got.n]
		switch got.kind {
		case kindNormal:
			err = im.readData(p, got.host, off)
		case kindCompressed:
			err = im.readCompressed(p, got.entry, im.offsetInCluster(int64(off)))
		}
	}
	if im.w != nil {
		pin.Unpin()
	}
	if err != nil {
		return 0, err
	}
	switch got.kind {
	case kindUnallocated, kindPlaced:
		err = im.readBacking(r, backing, p, off)
	case kindZeroPlain, kindZeroAlloc:
		clear(p)
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// readTail fills p from a file, with zeros past its end, which length tells.
func readTail(r io.ReaderAt, p []byte, off hostOff, length *atomic.Int64) error {
	n, err := r.ReadAt(p, int64(off))
	if n == len(p) {
		return nil
	}
	end := length.Load()
	if int64(off)+int64(n) < end && isEnd(err) { // a write may have moved the end since
		var m int
		m, err = r.ReadAt(p[n:], int64(off)+int64(n))
		n += m
	}
	switch {
	case n == len(p):
		return nil
	case !isEnd(err):
	case int64(off)+int64(n) < end:
		err = io.ErrUnexpectedEOF
	default:
		clear(p[n:])
		return nil
	}
	return fmt.Errorf("qcow2: cluster data at %#x: %w", int64(off)+int64(n), err)
}

func isEnd(err error) bool { return err == nil || err == io.EOF || err == io.ErrUnexpectedEOF }

// readBacking fills p with what the backing file holds, and zeros past its
// end and that of the disk.
func (im *Image) readBacking(r *root, backing Disk, p []byte, off guestOff) error {
	if backing == nil {
		if im.backingUnopened.Load() {
			return ErrMetadataOnly
		}
		clear(p)
		return nil
	}
	n := max(0, min(int64(len(p)), backing.Size()-int64(off), r.size.Load()-int64(off)))
	clear(p[n:])
	if n == 0 {
		return nil
	}
	m, err := backing.ReadAt(p[:n], int64(off))
	if int64(m) == n {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("qcow2: backing file: %w", err)
}
