package vma

import (
	"io"
	"os"

	"github.com/virtfmt/virtfmt/internal/block"
)

// Raw returns the bytes of r as a disk of the given size, for
// [Writer.CopyFrom]. What r does not have reads as zeros. If r is an
// [*os.File] its holes, where the system knows them, are not read. Raw closes
// nothing.
func Raw(r io.ReaderAt, size int64) Disk { return block.Raw(r, size) }

// RawFile returns what f holds, a file or a block device, as a disk that f
// belongs to: it is an [io.Closer] that closes f. If there is an error f is
// closed.
func RawFile(f *os.File) (Disk, error) { return block.RawFile(f) }
