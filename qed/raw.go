package qed

import (
	"io"
	"os"

	"github.com/virtfmt/virtfmt/internal/block"
)

// Raw returns the bytes of r as a disk of the given size: a backing file
// without a format, or what another disk is compared with. What r does not have
// reads as zeros. If r is an [*os.File] the extents tell its holes, where the
// system knows them. Raw closes nothing.
func Raw(r io.ReaderAt, size int64) Disk { return block.Raw(r, size) }

// RawFile returns what f holds as a disk that f belongs to: it is an
// [io.Closer] that closes f, so that [Options.OpenBacking] can return it. If
// there is an error f is closed.
func RawFile(f *os.File) (Disk, error) { return block.RawFile(f) }
