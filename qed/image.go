package qed

// What is where, for those who read or extend this package:
//
//	header.go geometry.go entry.go         the format
//	image.go openfile.go create.go         how an Image comes about
//	table.go read.go extent.go             guest offset to run, and reading
//	write.go alloc.go                      changing the mapping
//	resize.go layers.go                    the size of the disk; backing files
//	flush.go                               what reaches the file, and when
//	check.go bitset.go repair.go           what is wrong, and mending it
//
// Locks, in the order in which they are taken:
//
//	life      shared by whoever uses the image, for as long as that takes;
//	          exclusively by what needs it to be quiet: Close, Check, Resize,
//	          ChangeBacking, Rebase
//	claims    ranges of guest clusters that are being written
//	flushing  a write-back; held over I/O
//	mu        tables in memory, the allocator; never held over I/O

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/inflight"
)

// Options says how an image is opened. The zero value is the default.
type Options struct {
	// Size is the length of the file in bytes, for a reader that does not tell
	// it by Size, Stat or Seek.
	Size int64

	// OpenBacking returns the backing file that the image names: the decoded
	// disk. format is "raw" where the image says so, otherwise BackingFormat.
	// The disk is closed by Close if it is an io.Closer, as those of RawFile and
	// OpenFile are. A name that is relative counts from the folder of the image.
	// nil refuses images that have a backing file: the error is ErrNotGranted.
	OpenBacking func(name, format string) (Disk, error)

	// BackingFormat is the format of a backing file of which the image does
	// not say that it is raw, because QED stores no other format. Without it
	// such an image is refused: formats are not guessed. It does not change
	// what the image says.
	BackingFormat string

	// MetadataOnly does not open the backing file. What the image itself does
	// not hold cannot be read then, and guest data cannot be written: the error
	// is ErrMetadataOnly.
	MetadataOnly bool

	// CacheSize bounds the memory for tables in bytes. The default is 32 MiB.
	CacheSize int64

	// IdleTime, where it is not 0, is the time after the last write that
	// allocated a cluster when the image is synced and its need-check bit
	// cleared, as QEMU does after 5 seconds. By default only Close does that.
	IdleTime time.Duration

	// Root makes OpenFile resolve all names inside of a directory: its own
	// argument, and the names of backing files, each relative to the file that
	// names it. Absolute names are allowed where they lie under Root.Name().
	// Without Root, OpenFile refuses backing files unless OpenBacking is set,
	// which comes first also with Root.
	Root *os.Root

	// Write makes OpenFile open the image for writing.
	Write bool

	// NoLock keeps OpenFile from taking locks on the files that it opens. By
	// default it takes those by which QEMU and its tools keep away from each
	// other, so that an image is written by one program, or read by any number,
	// at a time, and an image that a virtual machine runs on is refused with
	// ErrLocked. Only Linux has them.
	NoLock bool
}

const defaultCacheSize = 32 << 20

func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	if c.CacheSize == 0 {
		c.CacheSize = defaultCacheSize
	}
	return c
}

// An Image is an open QED image: a virtual disk.
//
// Methods of Image are safe for concurrent use. Concurrent WriteAt calls must
// not overlap.
type Image struct {
	r       io.ReaderAt
	f       File // nil when the image is open for reading
	opts    Options
	backing Disk
	owned   []io.Closer // closed by Close, in order; another backing file replaces them
	file    io.Closer   // that OpenFile opened, or nil

	geo    geometry     // does not change
	padded int64        // where the last sector of the file ends if that did not, when it was opened
	size   atomic.Int64 // of the disk, in bytes
	claims inflight.Ranges
	// unsynced tells that data was written since the last write-back began.
	unsynced atomic.Bool

	life     sync.RWMutex // guards h, closed
	h        Header
	closed   bool
	flushing sync.Mutex // held by a write-back

	mu    sync.RWMutex // guards the content of cache, and all below
	cache tables
	alloc allocator
	begun bool  // see Image.begin
	err   error // of a write-back that failed; sticky
	idle  idleTimer
}

// Open opens an image for reading. It writes nothing, and opens nothing by
// name but through [Options.OpenBacking]. r must not change meanwhile. An
// image that needs a check is read as it is. The error is [ErrFormat] if r is
// no QED image, a [*FormatError] if its header is wrong, an
// [*UnsupportedError] if it has unknown features.
func Open(r io.ReaderAt, o *Options) (*Image, error) { return open(r, nil, o) }

// OpenRW opens an image for reading and writing. Unknown autoclear features
// are cleared. An image that needs a check is checked and repaired first; if
// that cannot be done the error is [ErrCorrupt], and the image can still be
// opened for reading.
func OpenRW(f File, o *Options) (*Image, error) {
	img, err := open(f, f, o)
	if err != nil {
		return nil, err
	}
	if err := img.prepare(); err != nil {
		return nil, errors.Join(err, img.closeOwned())
	}
	return img, nil
}

func open(r io.ReaderAt, f File, o *Options) (*Image, error) {
	img := &Image{r: r, f: f, opts: o.withDefaults()}
	exact, err := img.bytes()
	if err != nil {
		return nil, err
	}
	h, err := readHeader(r, exact)
	if err != nil {
		return nil, err
	}
	length, err := img.fileLength()
	if err != nil {
		return nil, err
	}
	if length > exact {
		img.padded = length
	}
	img.h, img.geo = *h, h.geometry()
	img.size.Store(h.ImageSize)
	if h.L1TableOffset > length-h.tableBytes() {
		return nil, badf(40, "l1_table_offset", "%#x: the table does not fit into a file of %d bytes: %w",
			h.L1TableOffset, length, io.ErrUnexpectedEOF)
	}
	img.cache = newTables(r, img.opts.CacheSize)
	img.alloc.reset(length, img.geo.clusterSize())
	if err := img.openBacking(); err != nil {
		return nil, err
	}
	return img, nil
}

// openBacking opens the backing file that the header names.
func (img *Image) openBacking() error {
	if img.h.Features&FeatureBackingFile == 0 || img.opts.MetadataOnly {
		return nil
	}
	format := img.h.BackingFormat()
	if format == "" {
		format = img.opts.BackingFormat
	}
	switch {
	case img.opts.OpenBacking == nil:
		return badf(int64(img.h.BackingNameOffset), "backing file name", "%q: %w", img.h.BackingFile, ErrNotGranted)
	case format == "":
		return badf(16, "features", "the format of backing file %q is not stored, and Options.BackingFormat does not say it", img.h.BackingFile)
	}
	d, err := img.opts.OpenBacking(img.h.BackingFile, format)
	if err != nil {
		return fmt.Errorf("qed: backing file %q: %w", img.h.BackingFile, err)
	}
	img.backing = d
	if c, ok := d.(io.Closer); ok {
		img.owned = append(img.owned, c)
	}
	return nil
}

// unopened reports whether there is a backing file that is not open.
//
// Preconditions: img.life is held.
func (img *Image) unopened() bool {
	return img.opts.MetadataOnly && img.h.Features&FeatureBackingFile != 0
}

// fileLength returns the length of the file, in whole sectors: the rest of the
// last one counts as zeros, as for QEMU.
func (img *Image) fileLength() (int64, error) {
	n, err := img.bytes()
	if n > math.MaxInt64-SectorSize+1 {
		return 0, fmt.Errorf("qed: file of %d bytes: %w", n, ErrLimit)
	}
	return align.Up(n, SectorSize), err
}

// bytes returns the length of the file.
func (img *Image) bytes() (int64, error) {
	n, err := block.Length(img.r)
	switch {
	case errors.Is(err, block.ErrNoLength) && img.opts.Size > 0:
		return img.opts.Size, nil
	case errors.Is(err, block.ErrNoLength):
		return 0, fmt.Errorf("qed: %w, nor does Options.Size", err)
	case err != nil:
		return 0, fmt.Errorf("qed: length of the file: %w", err)
	}
	return n, nil
}

// Header returns a copy of the header as it is now.
func (img *Image) Header() Header {
	img.life.RLock()
	defer img.life.RUnlock()
	return img.h
}

// Size returns the length of the disk in bytes, a multiple of [SectorSize].
func (img *Image) Size() int64 { return img.size.Load() }

// Backing returns the disk that [Options.OpenBacking] returned, or nil.
func (img *Image) Backing() Disk {
	img.life.RLock()
	defer img.life.RUnlock()
	return img.backing
}

// prepare makes an image ready for writing.
func (img *Image) prepare() error {
	if img.h.AutoclearFeatures != 0 {
		img.h.AutoclearFeatures = 0
		if err := img.writeHeader(&img.h); err != nil {
			return err
		}
	}
	if img.h.Features&FeatureNeedCheck == 0 {
		return nil
	}
	opts := (&CheckOptions{Repair: RepairErrors}).withDefaults()
	res, err := img.checkLocked(context.Background(), opts)
	if err != nil {
		return err
	}
	if res.Corruptions != 0 {
		return fmt.Errorf("%w: the image needs a check, which cannot mend %v", ErrCorrupt, res.Findings[0])
	}
	return nil
}

// Close syncs the image, clears its need-check bit if this image set it, and
// closes the backing file if Options opened it, and the file if [OpenFile]
// did. It does not close r or f.
// After an error of a write-back the bit stays, and so does what was durable
// before. The image is closed also if there is an error. A second Close is
// [ErrClosed].
func (img *Image) Close() error {
	img.life.Lock()
	defer img.life.Unlock()
	if img.closed {
		return ErrClosed
	}
	img.closed = true
	img.idle.stop()
	var err error
	if img.f != nil {
		err = img.settle()
	}
	err = errors.Join(err, img.closeOwned())
	if img.file != nil {
		err = errors.Join(err, img.file.Close())
	}
	return err
}

func (img *Image) closeOwned() error {
	var err error
	for _, c := range img.owned {
		err = errors.Join(err, c.Close())
	}
	img.owned = nil
	return err
}
