package vma

import "github.com/virtfmt/virtfmt/internal/block"

// Extent is a range of a disk that is stored in one way. Its fields are
//
//	Start, Length int64 // bytes of the disk
//	Kind          Kind  // what stands behind the range
//	HostOffset    int64 // where Start lies in the archive, or NoOffset
//	Depth         int   // the layer, 0 in an archive
//
// and its methods End, the offset after the range; IsZero, whether it is known
// to read as zeros; and Follows(prev), whether it continues another.
type Extent = block.Extent

// Kind says what stands behind a range of a device: one of the constants
// Unallocated, Data and Zero. Its method String names it.
type Kind = block.Kind

// The kinds of ranges of a [Device].
const (
	Unallocated = block.Unallocated // missing, which only Salvage accepts; reads as zeros
	Data        = block.Data        // stored in the archive at HostOffset
	Zero        = block.Zero        // reads as zeros, not stored
)

// NoOffset is the HostOffset of an extent that has no place of its own.
const NoOffset = block.NoOffset

// Disk is a virtual disk that can be read: a [*Device] or an image of another
// format. Its methods are ReadAt, Size() int64 and
// Extents(off, n int64) iter.Seq2[Extent, error].
type Disk = block.Disk
