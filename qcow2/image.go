package qcow2

// What is where, for those who read or extend this package:
//
//	header.go extension.go entry.go layout.go   the format
//	open.go openfile.go create.go               how an Image comes about
//	measure.go                                  how large one would be
//	table.go extent.go read.go compressed.go    guest offset to run, and reading
//	write.go zero.go link.go alloc.go           changing the mapping
//	snapshot*.go reference.go copied.go         snapshots
//	resize.go cut.go preallocate.go             the size of the disk
//	amend*.go                                   version, width of refcounts, lazy ones
//	layers.go                                   commit, rebase, another backing file
//	writeback.go header_write.go                what reaches the file, and when
//	transform.go                                guest data on its way: encryption
//
// Locks, in the order in which they are taken:
//
//	gate      shared by whoever changes guest data, for as long as that takes;
//	          exclusively by what needs the image to itself: see Image.change
//	snapMu    reading the snapshot table; held over it
//	sectors   ranges of bytes that are read, changed and written
//	clusters  ranges of guest clusters whose L2 entries are being changed. Data
//	          is written before its entry, so that the lock is held over I/O
//	packMu    compressed clusters get their places and are written
//	tableMu   L2 tables are made or copied
//	flushMu   a write-back, the header in the file; held over I/O
//	allocMu   refcounts; held over reading a slice of them
//	mu        L1 and L2 tables, the header; never held over I/O
//	bitmaps   the bits of bitmaps; held over reading them
//
// Readers hold none but mu, shared, for the lookup. What keeps a cluster from
// being used again under them is a pin, see package inflight: taken before the
// lookup, given back after the access, and held by writers in place as well.
// L2 entries that belong to the active mapping change only with the gate held
// shared and the cluster locked, or the gate held exclusively.

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
// Methods of Image are safe for concurrent use, but for Amend, which nothing
// may run beside. ReadAt may run concurrently with any other method except
// Close.
type Image struct {
	layout
	r       io.ReaderAt // the image file
	w       File        // the same, nil if it is open for reading only
	data    io.ReaderAt // where guest clusters lie: r, or the external data file
	backing atomic.Pointer[Disk]
	// backingUnopened means that what the image does not hold is not known.
	backingUnopened atomic.Bool
	opts            Options
	closers         []io.Closer // what Close closes, in this order

	size       atomic.Int64 // of the disk
	length     atomic.Int64 // of the image file, as far as it is known
	dataLength atomic.Int64 // of the external data file
	closed     atomic.Bool

	pins      inflight.Pins
	tables    *tablecache.Cache
	codec     codec
	buffers   sync.Pool // of *[]byte
	transform transform // of guest data, or nil

	// For writing.
	dataW        File // where guest clusters lie, nil if it cannot be written
	lazy         bool // lazy refcounts
	started      atomic.Bool
	unsynced     atomic.Bool // the image file was written since its last sync
	dataUnsynced atomic.Bool // the external data file was
	failed       atomic.Pointer[failedError]
	// unlinkedClusters counts those that wait to be used again.
	unlinkedClusters atomic.Int64

	keys sync.Mutex   // guards the LUKS header in the file
	gate sync.RWMutex // see the head of this file, and guards what follows
	// copiedDue means that active COPIED flags may be missing.
	copiedDue bool

	snapMu sync.Mutex                    // guards reading the snapshot table
	snaps  atomic.Pointer[snapshotTable] // nil until it was read; never changed, but replaced

	clusters inflight.Ranges // guest clusters whose entries are being changed
	sectors  inflight.Ranges // bytes of the disk that are read, changed and written
	packMu   sync.Mutex      // guards placing and writing compressed clusters
	tableMu  sync.Mutex      // guards making L2 tables the active mapping's own

	flushMu      sync.Mutex // guards what follows, and holding the file in order
	diskHdr      *Header    // as it is in the file
	unlinkedList inflight.Reclaimer[freed]

	allocMu sync.Mutex // guards what follows, and refcount blocks in memory
	refs    refcounts

	mu       sync.RWMutex // guards what follows, and L2 tables in memory
	hdr      *Header
	active   *root
	meta     clusterSet // the clusters that hold metadata, once started
	unlinked []freed    // by the tables in memory, not yet in the file
	// tablesEnd is how long the file has to be for the tables that were made.
	tablesEnd hostOff
	views     map[*SnapshotDisk]struct{}

	bitmaps bitmaps // its lock comes last
}

// hasBacking reports whether the image names a backing file.
func (im *Image) hasBacking() bool {
	im.mu.RLock()
	defer im.mu.RUnlock()
	return im.hdr.BackingFile != ""
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
func (im *Image) Backing() Disk {
	if d := im.backing.Load(); d != nil {
		return *d
	}
	return nil
}

// setBackingDisk makes d, or nil, what is read where the image holds nothing.
// Readers load it before they look up what the image holds, so that both go
// together.
func (im *Image) setBackingDisk(d Disk) {
	if d == nil {
		im.backing.Store(nil)
		return
	}
	im.backing.Store(&d)
}

// Close makes everything durable that was written, marks the image as clean,
// and ends its use. It closes what was opened by [OpenFile],
// [Options.OpenBacking] and [Options.OpenData] and can be closed, nothing
// else. The image is closed also if there is an error. A second Close is
// [ErrClosed].
func (im *Image) Close() error {
	if im.closed.Swap(true) {
		return ErrClosed
	}
	var err error
	if im.w != nil {
		err = im.finish()
	}
	return errors.Join(err, im.closeAll())
}

// finish writes all that is left.
func (im *Image) finish() error {
	im.gate.Lock() // operations that have begun come to their end
	defer im.gate.Unlock()
	if err := im.mendCopied(); err != nil {
		return err
	}
	if err := im.storeBitmaps(); err != nil {
		return err
	}
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	if err := im.writeBackLocked(stageLazy); err != nil {
		return err
	}
	im.clearTail()
	if im.diskHdr.IncompatibleFeatures&IncompatDirty == 0 {
		return nil
	}
	// Refcounts that the write-back itself has lowered.
	if err := im.writeBackLocked(stageLazy); err != nil {
		return err
	}
	return im.setDirty(false)
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
