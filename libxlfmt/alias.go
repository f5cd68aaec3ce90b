package libxlfmt

import "github.com/virtfmt/virtfmt/internal/block"

// Extent is a range of guest memory that is stored in one way. Its fields are
//
//	Start, Length int64 // bytes of the memory
//	Kind          Kind  // what stands behind the range
//	HostOffset    int64 // where Start lies in the stream, or NoOffset
//	Depth         int   // 0
//
// and its methods End, the offset after the range; IsZero, whether it is known
// to read as zeros; and Follows(prev), whether it continues another.
type Extent = block.Extent

// Kind says what stands behind a range of memory: one of the constants
// Unallocated, Data and Zero. Its method String names it.
type Kind = block.Kind

// The kinds of ranges.
const (
	Unallocated = block.Unallocated // a hole: pages that were not sent, or are gone
	Data        = block.Data        // pages, at HostOffset
	Zero        = block.Zero        // pages that were allocated, but whose contents were not sent
)

// NoOffset is the HostOffset of an extent that has no place in the stream.
const NoOffset = block.NoOffset

// CopyOptions says how memory is copied; nil and zero fields are the defaults:
//
//	Workers    int  // pieces at a time; default twice the processors, 4 to 16
//	BufferSize int  // bytes of a piece, a power of two; default 256 KiB
//	Sparse     int  // unit in which zeros in data are left out; default 4096, negative none
//	Zeroed     bool // the target reads as zeros, so that zeros need not be written
//	InOrder    bool // write from the start of the target to its end
//	KeepSize   bool // do not give the target the size of the memory
//	Progress   func(done, total int64)                    // is told of bytes done
//	ReadError  func(off, n int64, err error) error        // nil from it: copy zeros instead
//
// With a negative Sparse the system copies, if stream and target are files.
type CopyOptions = block.CopyOptions

// CopyStats is what a copy did, in bytes of the memory:
//
//	Written int64 // as data, what the system copied included
//	Shared  int64 // of that, what the system copied
//	Zeroed  int64 // made to read as zeros
//	Skipped int64 // not written, because the target reads as zeros there
type CopyStats = block.CopyStats

// CopyError tells where a copy failed:
//
//	Op     string // "map" or "read" the source; "write" or "truncate" the target
//	Offset int64  // in bytes of the memory
//	Err    error
type CopyError = block.CopyError
