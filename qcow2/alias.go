package qcow2

import "github.com/virtfmt/virtfmt/internal/block"

// Extent is a range of a disk that is stored in one way. Its fields are
//
//	Start, Length int64 // bytes of the disk
//	Kind          Kind  // what stands behind the range
//	HostOffset    int64 // where Start lies in the file of its layer, or NoOffset
//	Depth         int   // the layer: 0 the image itself, 1 its backing file, ...
//
// and its methods End, the offset after the range; IsZero, whether it is known
// to read as zeros; and Follows(prev), whether it continues another.
type Extent = block.Extent

// Kind says what stands behind a range of a disk: one of the constants
// Unallocated, Data, Compressed and Zero. Its method String names it.
type Kind = block.Kind

// The kinds of ranges.
const (
	Unallocated = block.Unallocated // held by no layer, reads as zeros; may have a place at HostOffset
	Data        = block.Data        // stored as it is, at HostOffset
	Compressed  = block.Compressed  // stored, but not byte for byte
	Zero        = block.Zero        // reads as zeros, may own space at HostOffset
)

// NoOffset is the HostOffset of an extent that has no place of its own.
const NoOffset = block.NoOffset

// Disk is a virtual disk that can be read: an [*Image] or one of another
// format. Its methods are ReadAt, Size() int64 and
// Extents(off, n int64) iter.Seq2[Extent, error].
type Disk = block.Disk

// File is what an image is stored in. Its methods are ReadAt, WriteAt and
// Truncate(size int64) error. It may also have
//
//	Sync() error                      // without it each write counts as durable
//	PunchHole(off, n int64) error     // gives space back
//	Size() int64 (or Stat, or Seek)   // tells its length
//
// An [*os.File] does all of that.
type File = block.File

// CopyOptions says how a disk is copied; nil and zero fields are the defaults:
//
//	Workers    int  // pieces at a time; default twice the processors, 4 to 16
//	BufferSize int  // bytes of a piece, a power of two; default 256 KiB or a cluster
//	Sparse     int  // unit in which zeros in data are left out; default 4096, negative none
//	Zeroed     bool // the target reads as zeros, so that zeros need not be written
//	InOrder    bool // write from the start of the target to its end
//	KeepSize   bool // do not give the target the size of the disk
//	Progress   func(done, total int64)                    // is told of bytes done
//	ReadError  func(off, n int64, err error) error        // nil from it: copy zeros instead
type CopyOptions = block.CopyOptions

// CopyStats is what a copy did, in bytes of the disk:
//
//	Written int64 // as data, what the system copied included
//	Shared  int64 // of that, what the system copied
//	Zeroed  int64 // made to read as zeros
//	Skipped int64 // not written, because the target reads as zeros there
type CopyStats = block.CopyStats

// CopyError tells where a copy failed:
//
//	Op     string // "map" or "read" the source; "write" or "truncate" the target
//	Offset int64  // in bytes of the disk
//	Err    error
type CopyError = block.CopyError
