package qcow2

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/inflight"
	"github.com/virtfmt/virtfmt/internal/tablecache"
)

// sectorSize is what a disk is addressed in, and what storage writes whole.
const sectorSize = 512

// An Image is an open qcow2 image: a virtual disk.
//
// Methods of Image are safe for concurrent use. ReadAt may run concurrently
// with any method except Close.
type Image struct {
	layout
	r       io.ReaderAt // the image file
	w       File        // the same, nil if it is open for reading only
	data    io.ReaderAt // where guest clusters lie: r, or the external data file
	backing Disk        // nil if there is none, or it is not open
	// backingUnopened means that what the image does not hold is not known.
	backingUnopened bool
	opts            Options
	closers         []io.Closer // what Close closes, in this order

	size       atomic.Int64 // of the disk
	length     atomic.Int64 // of the image file, as far as it is known
	dataLength atomic.Int64 // of the external data file
	closed     atomic.Bool

	pins   inflight.Pins
	tables *tablecache.Cache
	codec  codec

	mu     sync.RWMutex // guards what follows, and the L2 tables in memory
	hdr    *Header
	active *root
}

// Size returns the size of the disk in bytes: a multiple of 512, to which a
// size that is none is rounded down, as QEMU does it.
func (im *Image) Size() int64 { return im.size.Load() }

// Header returns a copy of the header.
func (im *Image) Header() *Header {
	im.mu.RLock()
	defer im.mu.RUnlock()
	return im.hdr.clone()
}

// Backing returns the disk that [Options.OpenBacking] returned, or nil.
func (im *Image) Backing() Disk { return im.backing }

// Close ends the use of the image. It closes what was opened by
// [OpenFile], [Options.OpenBacking] and [Options.OpenData] and can be closed,
// nothing else.
func (im *Image) Close() error {
	if im.closed.Swap(true) {
		return ErrClosed
	}
	return im.closeAll()
}

func (im *Image) closeAll() error {
	var errs []error
	for _, c := range im.closers {
		errs = append(errs, c.Close())
	}
	im.closers = nil
	return errors.Join(errs...)
}

// closeLater makes Close close what v is, if it can be closed.
func (im *Image) closeLater(v any) {
	if c, ok := v.(io.Closer); ok {
		im.closers = append(im.closers, c)
	}
}

// setSize takes the size of the disk from the header.
func (im *Image) setSize() { im.size.Store(im.hdr.Size &^ (sectorSize - 1)) }

var _ block.Disk = (*Image)(nil)
