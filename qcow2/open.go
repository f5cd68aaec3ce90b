package qcow2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/tablecache"
)

// Options says how an image is opened. The zero Options, like nil, opens an
// image that stands alone.
type Options struct {
	// Size is the length of the file in bytes, for a reader that does not tell
	// it. It is not looked at otherwise.
	Size int64

	// OpenBacking opens the backing file that the image names, and returns the
	// decoded disk, which Close closes if it is an io.Closer, as those of
	// RawFile and OpenFile are. The name is as it stands in the image: one that
	// is relative counts from the folder of the image. The format is what the
	// image says, such as "raw" or "qcow2", or BackingFormat. nil refuses images
	// that have a backing file: the error is ErrNotGranted.
	OpenBacking func(name, format string) (Disk, error)

	// BackingFormat is the format of the backing file where the image does not
	// tell it. Without it such an image is refused: a format is never guessed,
	// because a guest that writes a header into a raw disk could make it be
	// taken for something else.
	BackingFormat string

	// OpenData opens the external data file that the image names, or "" if it
	// names none, for writing if write is set. Close closes the file if it is
	// an io.Closer. nil refuses images that have a data file: the error is
	// ErrNotGranted.
	OpenData func(name string, write bool) (File, error)

	// MetadataOnly opens neither the backing file nor the data file. What the
	// image itself does not hold cannot be read then, and guest data cannot be
	// written: the error is ErrMetadataOnly.
	MetadataOnly bool

	// Passphrase is asked for the passphrase of an encrypted image, once, when
	// it is opened; what it returns is wiped after use. nil refuses encrypted
	// images, unless MetadataOnly is set. Unlocking a LUKS image takes as long as
	// its maker chose, about two seconds usually.
	Passphrase func() ([]byte, error)

	// MaxKeyIterations bounds how many iterations one key derivation of a LUKS
	// image may ask for; an image that asks for more is refused with ErrLimit. 0
	// is 2^26, about ten seconds.
	MaxKeyIterations uint32

	// Context ends the unlocking of a LUKS image; nil never does. It is not
	// used once the image is open.
	Context context.Context

	// CacheSize bounds the memory for tables, in bytes; 0 is 32 MiB. At least
	// 256 KiB are used.
	CacheSize int64

	// Root makes OpenFile resolve all names inside of a directory: its own
	// argument, and the names of backing and data files, each relative to the
	// file that names it. Absolute names are allowed where they lie under
	// Root.Name(). Without Root, OpenFile refuses such files unless OpenBacking
	// or OpenData is set, which come first also with Root.
	Root *os.Root

	// Write makes OpenFile open the image for writing.
	Write bool

	// NoLock keeps OpenFile from taking locks on the files that it opens. By
	// default it takes those by which QEMU and its tools keep away from each
	// other, so that an image is written by one program, or read by any number,
	// at a time, and an image that a virtual machine runs on is refused with
	// ErrLocked. Only Linux has them.
	NoLock bool

	// cryptor is that of an image that was just made.
	cryptor *cryptor

	// keepData leaves closing the external data file to the caller.
	keepData bool
}

const (
	defaultCacheSize = 32 << 20
	minCacheSize     = 256 << 10
	maxSliceSize     = 4096
)

func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	if d.CacheSize == 0 {
		d.CacheSize = defaultCacheSize
	}
	d.CacheSize = max(d.CacheSize, minCacheSize)
	return d
}

// Open opens an image for reading. It never writes to r, and opens nothing by
// name but through o. A nil o stands for the zero Options.
//
// The length of r comes from its method Size, Stat or Seek, or from o.Size;
// without any of them it is an error. An image may be shorter than its
// metadata says: what lies past the end reads as zeros.
func Open(r io.ReaderAt, o *Options) (*Image, error) { return open(r, nil, o.withDefaults()) }

// OpenRW opens an image for reading and writing, as [Open] does for reading.
// Unknown autoclear features are cleared, because what they speak of may not
// be true any more after a write. An image that is marked as dirty, because it
// has lazy refcounts and was not closed, is repaired first. One that is marked
// as corrupt is refused: see [Repair].
//
// If f has no method Sync, each of its writes counts as durable when it
// returns. Close does not close f.
func OpenRW(f File, o *Options) (*Image, error) { return openRW(f, o.withDefaults()) }

func openRW(f File, o Options) (*Image, error) {
	if err := repairDirty(f, &o); err != nil {
		return nil, err
	}
	im, err := open(f, f, o)
	if err != nil {
		return nil, err
	}
	im.lazy = im.version >= 3 && im.hdr.CompatibleFeatures&CompatLazyRefcounts != 0
	im.diskHdr = im.hdr.clone()
	if im.hdr.AutoclearFeatures&^autoclearKnown != 0 {
		if err := im.changeFeatures(func(h *Header) { h.AutoclearFeatures &= autoclearKnown }); err != nil {
			return nil, errors.Join(err, im.closeAll())
		}
	}
	return im, nil
}

// open opens the image r, for writing if w, which is the same file, is not
// nil.
func open(r io.ReaderAt, w File, o Options) (_ *Image, err error) {
	im := &Image{r: r, w: w, data: r, dataW: w, opts: o}
	length, err := block.Length(r)
	if errors.Is(err, block.ErrNoLength) {
		if length = o.Size; length <= 0 {
			return nil, fmt.Errorf("qcow2: %w, nor does Options.Size", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("qcow2: %w", err)
	}
	im.length.Store(length)
	if im.hdr, err = readHeader(r); err != nil {
		return nil, err
	}
	im.layout = im.hdr.layout()
	im.setSize()
	if err := im.checkUsable(); err != nil {
		return nil, err
	}
	sliceSize := min(im.clusterSize(), maxSliceSize)
	im.tables = tablecache.New(sliceSize, o.CacheSize, im.readTable)
	im.codec.init(im.hdr)
	if im.active, err = im.loadRoot(hostOff(im.hdr.L1TableOffset), int(im.hdr.L1Size), &im.size); err != nil {
		return nil, err
	}
	if o.MetadataOnly {
		im.backingUnopened.Store(im.hdr.BackingFile != "")
		if im.external || im.encrypted {
			im.data, im.dataW = unopened{}, nil
		}
		return im, nil
	}
	if err := im.unlock(); err != nil {
		return nil, err
	}
	if err := im.openOthers(); err != nil {
		im.closeAll()
		return nil, err
	}
	return im, nil
}

// checkUsable refuses images that cannot be used as the options want.
func (im *Image) checkUsable() error {
	h := im.hdr
	switch {
	case h.IncompatibleFeatures&IncompatCorrupt != 0 && im.w != nil:
		return &FormatError{72, "incompatible_features", fmt.Errorf("%w: it is marked so, and must be repaired first", ErrCorrupt)}
	case h.RefcountTableClusters == 0 && im.w != nil:
		return badf(56, "refcount_table_clusters", "there is no refcount table")
	}
	return nil
}

// openOthers opens the backing file and the external data file.
func (im *Image) openOthers() error {
	if err := im.openData(); err != nil {
		return err
	}
	name, format := im.hdr.BackingFile, im.hdr.BackingFormat()
	switch {
	case name == "":
		return nil
	case im.externalRaw:
		return badf(8, "backing_file_offset", "a raw external data file conflicts with the backing file %q", name)
	}
	if format == "" {
		format = im.opts.BackingFormat
	}
	d, err := im.openBackingFile(name, format)
	if err != nil {
		return err
	}
	im.setBackingDisk(d)
	im.closeLater(d)
	return nil
}

// openBackingFile opens a backing file that the image names, or is to. It is
// nil if name is empty, or the image open for its metadata only.
func (im *Image) openBackingFile(name, format string) (Disk, error) {
	switch {
	case name == "" || im.opts.MetadataOnly:
		return nil, nil
	case im.opts.OpenBacking == nil:
		return nil, fmt.Errorf("qcow2: backing file %q: %w", name, ErrNotGranted)
	case format == "":
		return nil, fmt.Errorf("qcow2: backing file %q: neither the image nor Options.BackingFormat tells its format", name)
	}
	d, err := im.opts.OpenBacking(name, format)
	if err != nil {
		return nil, fmt.Errorf("qcow2: backing file %q: %w", name, err)
	}
	return d, nil
}

// unopened stands for a file that was not to be opened.
type unopened struct{}

func (unopened) ReadAt([]byte, int64) (int, error) { return 0, ErrMetadataOnly }

func (im *Image) openData() error {
	if !im.external {
		return nil
	}
	name := im.hdr.DataFile()
	if im.opts.OpenData == nil {
		return fmt.Errorf("qcow2: data file %q: %w", name, ErrNotGranted)
	}
	f, err := im.opts.OpenData(name, im.w != nil)
	if err != nil {
		return fmt.Errorf("qcow2: data file %q: %w", name, err)
	}
	im.data = f
	if im.w != nil {
		im.dataW = f
	}
	if !im.opts.keepData {
		im.closeLater(f)
	}
	n, err := block.Length(f)
	if err != nil {
		return fmt.Errorf("qcow2: data file %q: %w", name, err)
	}
	im.dataLength.Store(n)
	return nil
}
