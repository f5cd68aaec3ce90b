package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

var (
	// ErrNoBitmap means that an image has no such bitmap. It is also
	// [fs.ErrNotExist].
	ErrNoBitmap error = &sentinel{"no such bitmap", fs.ErrNotExist}

	// ErrBitmapInUse means that a bitmap was not stored after the image was
	// last written to, so that nobody knows what it should hold. All that can
	// be done with it is to remove it.
	ErrBitmapInUse = errors.New("qcow2: bitmap is marked as in use: it was not stored after the last writes")
)

// A Bitmap describes a persistent bitmap: which parts of the disk were written
// to while it was enabled. Section "Bitmaps".
type Bitmap struct {
	Name string // unique in the image

	// Granularity is how many bytes of the disk one bit stands for, a power of
	// two from 512 to 2 GiB.
	Granularity int64

	Enabled bool // writes set its bits
	InUse   bool // what it holds is not known: see [ErrBitmapInUse]
}

// A bitmapEntry is an entry of the bitmap directory. Section "Bitmap
// directory".
//
//	byte  0- 7  table
//	      8-11  size
//	     12-15  flags
//	     16     type
//	     17     granBits
//	     18-19  length of name
//	     20-23  length of extra
//	     24-    extra, name, padding to a multiple of 8
type bitmapEntry struct {
	table    hostOff
	size     uint32 // entries of the table
	flags    uint32
	granBits uint8
	extra    []byte
	name     string
	at       int64 // of the entry in the file
}

const (
	bitmapInUse      = 1 << 0 // what it holds may be out of date
	bitmapAuto       = 1 << 1 // it is enabled
	bitmapExtraKnown = 1 << 2 // who does not know the extra data may use it

	bitmapTypeDirty      = 1
	bitmapFlagsField     = 12
	bitmapDirEntrySize   = 24 // the fixed part
	bitmapTableEntrySize = 8

	minGranularityBits = 9
	maxGranularityBits = 31
	maxBitmapName      = 1023
	maxBitmapBytes     = 512 << 20 // of the bits of one bitmap, as in QEMU
)

func (e *bitmapEntry) enabled() bool { return e.flags&bitmapAuto != 0 }

func (e *bitmapEntry) describe(inUse bool) Bitmap {
	return Bitmap{Name: e.name, Granularity: 1 << e.granBits, Enabled: e.enabled(), InUse: inUse}
}

// bitmapGeometry returns how many bits stand for a disk, and how many entries
// a bitmap table has for them.
func (im *Image) bitmapGeometry(granBits uint8, disk int64) (n, entries int64) {
	n = align.CeilDiv(disk, 1<<granBits)
	return n, align.CeilDiv(align.CeilDiv(n, 8), im.clusterSize())
}

// readBitmapDirectory returns the entries of the bitmap directory, none if
// there is no bitmaps extension that counts.
func (im *Image) readBitmapDirectory() ([]bitmapEntry, error) {
	x, ok := im.Header().Bitmaps()
	if !ok {
		return nil, nil
	}
	b, err := safeio.ReadAt(im.r, x.DirectoryOffset, x.DirectorySize, maxBitmapDirectory)
	if err != nil {
		return nil, &FormatError{x.DirectoryOffset, "bitmap directory", err}
	}
	list := make([]bitmapEntry, 0, min(int64(x.Count), int64(len(b))/bitmapDirEntrySize))
	names := make(map[string]bool, cap(list))
	at := x.DirectoryOffset
	for range x.Count {
		e, n, err := decodeBitmapEntry(b, at)
		if err != nil {
			return nil, err
		}
		if names[e.name] {
			return nil, badf(at, "bitmap directory", "there are two bitmaps %q", e.name)
		}
		if err := im.checkBitmapTable(&e); err != nil {
			return nil, err
		}
		names[e.name] = true
		list, b, at = append(list, e), b[n:], at+n
	}
	if len(b) > 0 {
		return nil, badf(at, "bitmap directory", "%d bytes follow its last entry", len(b))
	}
	return list, nil
}

// decodeBitmapEntry decodes the entry that b begins with, and returns its
// length. It lies at offset at of the file.
func decodeBitmapEntry(b []byte, at int64) (bitmapEntry, int64, error) {
	if len(b) < bitmapDirEntrySize {
		return bitmapEntry{}, 0, badf(at, "bitmap directory", "entry: %w", io.ErrUnexpectedEOF)
	}
	be := binary.BigEndian
	name, extra := int64(be.Uint16(b[18:])), int64(be.Uint32(b[20:]))
	e := bitmapEntry{
		table:    hostOff(be.Uint64(b)),
		size:     be.Uint32(b[8:]),
		flags:    be.Uint32(b[bitmapFlagsField:]),
		granBits: b[17],
		at:       at,
	}
	n := align.Up(bitmapDirEntrySize+extra+name, 8)
	switch {
	case n > int64(len(b)):
		return e, 0, badf(at, "bitmap directory", "entry of %d bytes: %w", n, io.ErrUnexpectedEOF)
	case b[16] != bitmapTypeDirty:
		return e, 0, badf(at+16, "bitmap type", "%d: %w", b[16], errors.ErrUnsupported)
	case e.flags&^(bitmapInUse|bitmapAuto|bitmapExtraKnown) != 0:
		return e, 0, badf(at+bitmapFlagsField, "bitmap flags", "%#x has reserved bits", e.flags)
	case e.granBits < minGranularityBits || e.granBits > maxGranularityBits:
		return e, 0, badf(at+17, "bitmap granularity", "2^%d is not from 2^%d to 2^%d", e.granBits, minGranularityBits, maxGranularityBits)
	case name == 0 || name > maxBitmapName:
		return e, 0, badf(at+18, "bitmap name", "length %d is not from 1 to %d", name, maxBitmapName)
	case extra > 0 && e.flags&bitmapExtraKnown == 0:
		return e, 0, badf(at+20, "bitmap extra data", "it is not known: %w", errors.ErrUnsupported)
	}
	e.extra = b[bitmapDirEntrySize:][:extra:extra]
	e.name = string(b[bitmapDirEntrySize+extra:][:name])
	return e, n, nil
}

// checkBitmapTable reports what makes a bitmap table unusable. It must lie in
// the file, so that memory is taken for no more than there is.
func (im *Image) checkBitmapTable(e *bitmapEntry) error {
	n := int64(e.size) * bitmapTableEntrySize
	switch {
	case e.table <= 0 || !align.IsAligned(int64(e.table), im.clusterSize()):
		return badf(e.at, "bitmap table offset", "%#x is not that of a cluster", uint64(e.table))
	case int64(e.table) > im.length.Load()-n:
		return badf(e.at, "bitmap table", "%d entries at %#x: %w", e.size, e.table, io.ErrUnexpectedEOF)
	}
	return nil
}

// append appends the entry as the file has it.
func (e *bitmapEntry) append(b []byte) []byte {
	be := binary.BigEndian
	b = be.AppendUint64(b, uint64(e.table))
	b = be.AppendUint32(b, e.size)
	b = be.AppendUint32(b, e.flags)
	b = append(b, bitmapTypeDirty, e.granBits)
	b = be.AppendUint16(b, uint16(len(e.name)))
	b = be.AppendUint32(b, uint32(len(e.extra)))
	b = append(b, e.extra...)
	b = append(b, e.name...)
	return append(b, make([]byte, align.Up(len(b), 8)-len(b))...)
}

// Bitmaps returns the persistent bitmaps of the image in the order of its
// directory. An error means that the directory cannot be understood or read.
func (im *Image) Bitmaps() ([]Bitmap, error) {
	list, err := im.currentBitmaps()
	if err != nil {
		return nil, err
	}
	described := make([]Bitmap, len(list))
	for i, b := range list {
		described[i] = b.entry.describe(b.stale)
	}
	return described, nil
}

// currentBitmaps returns the bitmaps as they are at this moment.
func (im *Image) currentBitmaps() ([]*bitmap, error) {
	if im.closed.Load() {
		return nil, ErrClosed
	}
	if !im.started.Load() {
		// The first change marks them in the file as in use, which is not to be
		// read.
		im.flushMu.Lock()
		defer im.flushMu.Unlock()
		if !im.started.Load() {
			return im.readBitmaps()
		}
	}
	im.bitmaps.Lock()
	defer im.bitmaps.Unlock()
	return im.bitmaps.list, nil
}

// findBitmap returns the bitmap of that name.
func findBitmap(list []*bitmap, name string) (int, error) {
	for i, b := range list {
		if b.entry.name == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%w: %q", ErrNoBitmap, name)
}

// granularityBits checks a granularity, and chooses that of a new bitmap if it
// is 0: the size of a cluster, but at least 4 KiB and at most 64 KiB.
func (im *Image) granularityBits(granularity int64) (uint8, error) {
	if granularity == 0 {
		granularity = max(4<<10, min(im.clusterSize(), 64<<10))
	}
	n := bits.Len64(uint64(granularity)) - 1
	if granularity <= 0 || granularity&(granularity-1) != 0 || n < minGranularityBits || n > maxGranularityBits {
		return 0, fmt.Errorf("qcow2: granularity of %d bytes: %w of a power of two from 512 to 2^31", granularity, ErrLimit)
	}
	return uint8(n), nil
}
