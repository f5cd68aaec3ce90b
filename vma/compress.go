package vma

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
)

// A Compression is how an archive is compressed. The format knows none:
// Proxmox pipes whole archives through a compressor.
type Compression uint8

const (
	Uncompressed Compression = iota // .vma
	Zstd                            // .vma.zst
	Gzip                            // .vma.gz
	LZO                             // .vma.lzo, the format of lzop
)

// String returns the name of c: none, zstd, gzip or lzo.
func (c Compression) String() string {
	switch c {
	case Uncompressed:
		return "none"
	case Zstd:
		return "zstd"
	case Gzip:
		return "gzip"
	case LZO:
		return "lzo"
	}
	return fmt.Sprintf("compression(%d)", uint8(c))
}

// A CompressionError means that [Decompress] has no decoder for a compression.
// It satisfies [errors.ErrUnsupported].
type CompressionError struct{ Compression Compression }

// Error names the compression.
func (e *CompressionError) Error() string {
	return fmt.Sprintf("vma: no decoder for %s", e.Compression)
}

// Unwrap returns [errors.ErrUnsupported].
func (e *CompressionError) Unwrap() error { return errors.ErrUnsupported }

// DecompressOptions says how [Decompress] works. nil and the zero value are
// the defaults.
type DecompressOptions struct {
	// LZO decodes what lzop wrote. nil is none: an archive that needs it is a
	// [*CompressionError]. The result is closed where it is an [io.Closer].
	LZO func(io.Reader) (io.Reader, error)
	// MaxWindow is the largest window of zstd accepted in bytes, which is
	// about the memory that decoding takes; 32 MiB by default. "zstd --long"
	// and --ultra need more.
	MaxWindow uint64
}

const defaultMaxWindow = 32 << 20

var compressionMagic = [...]struct {
	magic string
	c     Compression
}{
	{"\x28\xb5\x2f\xfd", Zstd},
	{"\x1f\x8b", Gzip},
	{"\x89LZO\x00\r\n\x1a\n", LZO},
}

// detect tells the compression from the first bytes of a stream.
func detect(b []byte) Compression {
	for _, m := range compressionMagic {
		if bytes.HasPrefix(b, []byte(m.magic)) {
			return m.c
		}
	}
	if len(b) >= 4 && b[0]&0xf0 == 0x50 && string(b[1:4]) == "\x2a\x4d\x18" {
		return Zstd // a skippable frame, as pzstd writes first
	}
	return Uncompressed
}

// Decompress returns the archive that r holds, plain or compressed with zstd
// or gzip, recognised by its first bytes. The reader must be closed, which
// does not close r. It may read from r ahead.
func Decompress(r io.Reader, o *DecompressOptions) (io.ReadCloser, Compression, error) {
	if o == nil {
		o = &DecompressOptions{}
	}
	head := make([]byte, 16)
	n, err := io.ReadFull(r, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, Uncompressed, fmt.Errorf("vma: %w", err)
	}
	c := detect(head[:n])
	r = io.MultiReader(bytes.NewReader(head[:n]), r)
	var rc io.ReadCloser
	switch c {
	case Uncompressed:
		return io.NopCloser(r), c, nil
	case Zstd:
		rc, err = newZstd(r, cmp.Or(o.MaxWindow, defaultMaxWindow))
	case Gzip:
		rc, err = gzip.NewReader(bufio.NewReaderSize(r, 256<<10))
	case LZO:
		rc, err = newLZO(r, o.LZO)
	}
	if err != nil {
		return nil, c, err
	}
	return rc, c, nil
}

func newLZO(r io.Reader, open func(io.Reader) (io.Reader, error)) (io.ReadCloser, error) {
	if open == nil {
		return nil, &CompressionError{LZO}
	}
	d, err := open(r)
	if err != nil {
		return nil, fmt.Errorf("vma: lzo: %w", err)
	}
	if rc, ok := d.(io.ReadCloser); ok {
		return rc, nil
	}
	return io.NopCloser(d), nil
}
