package vma

import (
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/virtfmt/virtfmt/internal/xxh64"
)

// A zstdReader decodes zstd in the goroutine that reads: the pipeline of
// goroutines that the decoder would otherwise be takes half as much time again
// of the processors, which those that write the disks need.
//
// It checks the checksums of the frames itself, which are the only ones that
// there are for the blocks of an archive, so that this may be done where the
// blocks are written; see [lateSums].
type zstdReader struct {
	frames zstdFrames
	dec    *zstd.Decoder // of one frame, without its checksum
	failed error         // the decoder, which would give more after an error

	sum   *xxh64.Digest // of the content of a frame so far
	wrong error         // a frame has not the content that it should have
}

// newZstd decodes what r holds. maxWindow is in bytes.
func newZstd(r io.Reader, maxWindow uint64) (*zstdReader, error) {
	z := &zstdReader{frames: zstdFrames{r: r}, sum: xxh64.New()}
	z.frames.next()
	var err error
	z.dec, err = zstd.NewReader(&z.frames, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderConcurrency(1), zstd.IgnoreChecksum(true))
	if err != nil {
		return nil, fmt.Errorf("vma: %w", err)
	}
	return z, nil
}

// A frameSum is the checksum at the end of a frame, if it has one.
type frameSum struct {
	given bool
	sum   uint32
}

// decode reads content into p, and does not check it. It stops where a frame
// ends: then ended is set, and n may be 0.
func (z *zstdReader) decode(p []byte) (n int, sum frameSum, ended bool, err error) {
	if z.failed != nil {
		return 0, sum, false, z.failed
	}
	n, err = z.dec.Read(p)
	switch {
	case err != nil && z.frames.failed != nil:
		err = z.frames.failed // of which the decoder makes the end between frames
	case err == io.EOF && z.frames.part == frameEnd:
		sum, ended = z.frames.sum, true
		z.frames.next()
		err = z.dec.Reset(&z.frames)
	}
	z.failed = err
	return n, sum, ended, err
}

// add checks content that follows what was checked before.
func (z *zstdReader) add(content []byte) { z.sum.Write(content) }

// end checks the end of a frame. Once one was wrong, all that follow are.
func (z *zstdReader) end(s frameSum) error {
	if s.given && uint32(z.sum.Sum64()) != s.sum && z.wrong == nil {
		z.wrong = zstd.ErrCRCMismatch
	}
	z.sum.Reset()
	return z.wrong
}

// Read implements [io.Reader].
func (z *zstdReader) Read(p []byte) (int, error) {
	for z.wrong == nil {
		n, sum, ended, err := z.decode(p)
		z.add(p[:n])
		if ended && err == nil {
			err = z.end(sum)
		}
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
	}
	return 0, z.wrong
}

// resume has z go on after a frame whose checksum was wrong, and reports
// whether that is all that keeps it from doing so.
func (z *zstdReader) resume() bool {
	ok := z.wrong != nil && z.failed == nil
	z.wrong = nil
	return ok
}

// Close ends the decoder, not what it reads from.
func (z *zstdReader) Close() error {
	z.dec.Close()
	return nil
}
