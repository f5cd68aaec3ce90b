package qcow2

import (
	"io"

	"github.com/klauspost/compress/flate"

	"github.com/virtfmt/virtfmt/internal/zstd"
)

// deflateWindow is how far back the deflate data of a cluster refers: QEMU
// writes with a window of 4 KiB, and a decoder may have no larger one.
const deflateWindow = 4096

// A compressor compresses clusters, one at a time. It gives the same bytes for
// the same cluster.
type compressor struct {
	out   bounded
	flate *flate.Writer
	zstd  *zstd.Encoder
}

// newCompressor returns a compressor for clusters of the given size.
func newCompressor(kind CompressionType, cluster int64) (*compressor, error) {
	c := &compressor{out: bounded{b: make([]byte, 0, cluster)}}
	if kind == CompressionZstd {
		c.zstd = new(zstd.Encoder)
		return c, nil
	}
	var err error
	c.flate, err = flate.NewWriterWindow(&c.out, deflateWindow)
	return c, err
}

// compress returns p compressed to fewer bytes, or false if it does not
// shrink. The result is overwritten by the next call.
func (c *compressor) compress(p []byte) ([]byte, bool) {
	c.out.b = c.out.b[:0]
	if c.zstd != nil {
		c.out.b = c.zstd.Encode(c.out.b, p)
		return c.out.b, len(c.out.b) < len(p)
	}
	c.out.limit = len(p) - 1
	c.flate.Reset(&c.out)
	if _, err := c.flate.Write(p); err != nil {
		return nil, false
	}
	if err := c.flate.Close(); err != nil {
		return nil, false
	}
	return c.out.b, true
}

// bounded takes what is written up to a limit, and then fails.
type bounded struct {
	b     []byte
	limit int
}

func (w *bounded) Write(p []byte) (int, error) {
	if len(p) > w.limit-len(w.b) {
		return 0, io.ErrShortWrite
	}
	w.b = append(w.b, p...)
	return len(p), nil
}
