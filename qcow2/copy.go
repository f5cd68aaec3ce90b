package qcow2

import (
	"context"
	"io"

	"github.com/virtfmt/virtfmt/internal/block"
)

// CopyTo copies what the disk holds to dst, in parallel and without its zeros
// where dst is known to read as zeros, as [CopyOptions] say. The target may be
// a file, which becomes a raw image of the disk, or another image. A failure
// is a [*CopyError] that wraps what failed, or the cause of ctx.
func (im *Image) CopyTo(ctx context.Context, dst io.WriterAt, o *CopyOptions) (CopyStats, error) {
	return block.Copy(ctx, dst, im, o)
}

// ClusterSize returns the unit in which the image is stored, in bytes: a power
// of two, 512 to 2 MiB.
func (im *Image) ClusterSize() int64 { return im.clusterSize() }

// HostFile returns the file that the HostOffset of extents of kind [Data] at
// that depth refers to. It is nil where a backing file does not tell, and for
// an image that is open for writing, whose clusters move, or encrypted.
func (im *Image) HostFile(depth int) io.ReaderAt {
	if depth > 0 {
		if h, ok := im.Backing().(block.HostFiler); ok {
			return h.HostFile(depth - 1)
		}
		return nil
	}
	if im.w != nil || im.encrypted {
		return nil
	}
	return im.data
}

var (
	_ block.HostFiler = (*Image)(nil)
	_ block.Clusterer = (*Image)(nil)
)
