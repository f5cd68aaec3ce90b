// Package safeio reads sizes that a file claims without trusting them.
package safeio

import (
	"errors"
	"fmt"
	"io"
)

// chunk is how much memory is taken before any of it has been read.
const chunk = 1 << 20

// ErrLimit means that a size which a file claims is over the limit for it.
var ErrLimit = errors.New("over the limit")

// ReadAt returns the n bytes of r at off, n at most limit. Memory grows with
// what was read, not with n, so that a short file costs at most twice its own
// length. A file that ends early gives [io.ErrUnexpectedEOF].
func ReadAt(r io.ReaderAt, off, n, limit int64) ([]byte, error) {
	if err := check(off, n, limit); err != nil {
		return nil, err
	}
	buf := make([]byte, 0, min(n, chunk))
	for int64(len(buf)) < n {
		have := len(buf)
		step := min(n-int64(have), max(chunk, int64(have)))
		buf = append(buf, make([]byte, step)...)
		if err := ReadFull(r, buf[have:], off+int64(have)); err != nil {
			return nil, err
		}
	}
	return buf, nil
}

// Read returns the next n bytes of r, n at most limit, under the rules of
// [ReadAt].
func Read(r io.Reader, n, limit int64) ([]byte, error) {
	if err := check(0, n, limit); err != nil {
		return nil, err
	}
	buf := make([]byte, 0, min(n, chunk))
	for int64(len(buf)) < n {
		have := len(buf)
		step := min(n-int64(have), max(chunk, int64(have)))
		buf = append(buf, make([]byte, step)...)
		if _, err := io.ReadFull(r, buf[have:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return buf, nil
}

// ReadFull fills p from off. An end of file before p is full is
// [io.ErrUnexpectedEOF]; a full p is success whatever r says besides.
func ReadFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == io.EOF || err == nil {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ReadZeroFill fills p from off with what the file holds and zeros past its
// end.
func ReadZeroFill(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	if err == nil {
		return io.ErrNoProgress
	}
	clear(p[n:])
	return nil
}

func check(off, n, limit int64) error {
	if n < 0 || n > limit {
		return fmt.Errorf("size %d: %w of %d", n, ErrLimit, limit)
	}
	if off < 0 || off+n < off {
		return fmt.Errorf("offset %#x and size %d: %w", off, n, ErrLimit)
	}
	return nil
}
