package qed

import "github.com/virtfmt/virtfmt/internal/block"

// Disk is what an image is to its readers: ReadAt, Size, and Extents, which
// yields what stands behind a range. Any Disk can be a backing file.
type Disk = block.Disk

// File is what an image is stored in: ReadAt, WriteAt and Truncate. Where it
// has them, Sync makes durable what was written, PunchHole gives space back,
// and Size, Stat or Seek tell its length. A File without Sync counts as
// durable at each write.
type File = block.File

// Extent is a range of a disk that is stored in one way. Its fields are Start
// and Length in bytes, Kind, HostOffset (where in the file of its layer Start
// lies, -1 if nowhere) and Depth (0 the image, 1 its backing file, and so on).
// Its methods are End, IsZero and Follows.
type Extent = block.Extent

// Kind says what stands behind an extent.
type Kind = block.Kind

// The kinds of extent.
const (
	Unallocated = block.Unallocated // in no layer: reads as zeros
	Data        = block.Data        // stored, at HostOffset
	Compressed  = block.Compressed  // stored otherwise; only in backing files
	Zero        = block.Zero        // reads as zeros
)

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
