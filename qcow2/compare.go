package qcow2

import (
	"context"

	"github.com/virtfmt/virtfmt/internal/block"
)

// CompareOptions says how disks are compared; nil and zero fields are the
// defaults:
//
//	Workers  int                      // pieces at a time, at most 64; default 4 to 16
//	Strict   bool                     // sizes, and what is stored, must be the same too
//	Progress func(done, total int64)  // is told of bytes of the longer disk
type CompareOptions = block.CompareOptions

// Difference is where two disks differ first:
//
//	Kind   DifferenceKind // in what
//	Offset int64          // bytes from the start of the disks; for DifferentSize, the end of the shorter one
//
// Its method String tells both.
type Difference = block.Difference

// DifferenceKind says in what disks differ: one of the constants
// DifferentBytes, DifferentSize and DifferentAllocation.
type DifferenceKind = block.DifferenceKind

// The kinds of difference.
const (
	DifferentBytes      = block.DifferentBytes      // they read differently
	DifferentSize       = block.DifferentSize       // they are not of the same size; Strict
	DifferentAllocation = block.DifferentAllocation // one is stored, zero, unallocated or placed, the other not; Strict
)

// Compare compares two disks of any format and returns where they differ
// first, or nil where they do not. Without Strict a disk is like a longer one
// that ends in zeros. A failure is a [*CopyError] that wraps what failed, or the
// cause of ctx.
func Compare(ctx context.Context, a, b Disk, o *CompareOptions) (*Difference, error) {
	return block.Compare(ctx, a, b, o)
}
