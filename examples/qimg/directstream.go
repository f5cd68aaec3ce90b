package main

import (
	"fmt"
	"io"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
)

// A directStream is written from its start to its end, past the page cache, in
// large pieces.
type directStream struct {
	file imgopen.File
	buf  []byte // what is not written yet
	at   int64  // where in the file it belongs
}

// directPiece is how much is written at a time.
const directPiece = 1 << 20

// newDirectStream returns one to a file that is there, which the caller has
// locked.
func newDirectStream(path string, o *imgopen.Options) (*directStream, error) {
	f, err := imgopen.OpenDirect(path, o)
	if err != nil {
		return nil, err
	}
	return &directStream{file: f, buf: make([]byte, 0, directPiece)}, nil
}

func (d *directStream) Write(p []byte) (n int, err error) {
	for n < len(p) {
		// Pieces end at multiples of their length.
		room := directPiece - int((d.at+int64(len(d.buf)))%directPiece)
		part := p[n:min(len(p), n+room)]
		d.buf = append(d.buf, part...)
		n += len(part)
		if len(part) == room {
			if err := d.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// flush writes what is not written yet.
func (d *directStream) flush() error {
	n, err := d.file.WriteAt(d.buf, d.at)
	d.at += int64(n)
	d.buf = d.buf[:0]
	return err
}

// Seek goes to an offset; the stream ends nowhere.
func (d *directStream) Seek(offset int64, whence int) (int64, error) {
	if err := d.flush(); err != nil {
		return d.at, err
	}
	switch whence {
	case io.SeekStart:
		d.at = offset
	case io.SeekCurrent:
		d.at += offset
	default:
		return d.at, fmt.Errorf("seek to %d from %d", offset, whence)
	}
	return d.at, nil
}

func (d *directStream) Truncate(size int64) error {
	if err := d.flush(); err != nil {
		return err
	}
	return d.file.Truncate(size)
}
