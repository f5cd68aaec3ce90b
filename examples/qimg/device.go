package main

import (
	"io"
	"os"
	"syscall"

	"github.com/virtfmt/virtfmt/internal/block"
)

// A device is a block device that an image is made in. It seems to have the
// length that an empty file would have: what lies between what is written
// becomes zeros, whatever the device held.
type device struct {
	*os.File
	length int64
}

// fill makes the device as long as end, with zeros.
func (d *device) fill(end int64) error {
	n, err := block.Length(d.File)
	if err == nil && end > n {
		err = &os.PathError{Op: "write", Path: d.Name(), Err: syscall.ENOSPC}
	}
	if err == nil && end > d.length {
		err = writeZeros(d.File, d.length, end-d.length)
	}
	return err
}

func (d *device) Truncate(size int64) error {
	if err := d.fill(size); err != nil {
		return err
	}
	d.length = size
	return nil
}

func (d *device) WriteAt(p []byte, off int64) (int, error) {
	if err := d.fill(off); err != nil {
		return 0, err
	}
	n, err := d.File.WriteAt(p, off)
	d.length = max(d.length, off+int64(n))
	return n, err
}

func (d *device) ReadAt(p []byte, off int64) (int, error) {
	n := max(0, min(int64(len(p)), d.length-off))
	m, err := d.File.ReadAt(p[:n], off)
	if err == nil && m < len(p) {
		err = io.EOF
	}
	return m, err
}

// Size returns the length that the device seems to have.
func (d *device) Size() (int64, error) { return d.length, nil }
