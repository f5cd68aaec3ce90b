package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/qcow2"
	"github.com/virtfmt/virtfmt/vma"
)

// A disk is an image or a block device that a device is made of or written to.
type disk struct {
	disk  vma.Disk
	w     io.WriterAt
	whole bool // it has clusters
	size  int64
	close io.Closer
}

// openDisk opens a disk. A format that is not given is found out when it is
// only read; what a guest wrote could pass for an image of another format.
func openDisk(path, format string, write bool) (*disk, error) {
	if format == "" {
		format = "raw"
		if !write && isQcow2(path) {
			format = "qcow2"
		}
	}
	switch format {
	case "raw":
		return openRaw(path, write)
	case "qcow2":
		im, err := qcow2.OpenFile(path, &qcow2.Options{Write: write})
		if err != nil {
			return nil, err
		}
		return &disk{disk: im, w: im, whole: true, size: im.Size(), close: im}, nil
	}
	return nil, fmt.Errorf("%s: no support for format %q", path, format)
}

func openRaw(path string, write bool) (*disk, error) {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd) // of a block device too
	if fi, e := f.Stat(); e == nil && fi.IsDir() {
		err = &fs.PathError{Op: "open", Path: path, Err: syscall.EISDIR}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &disk{disk: block.Raw(f, size), w: f, size: size, close: f}, nil
}

func isQcow2(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var magic [4]byte
	_, err = io.ReadFull(f, magic[:])
	return err == nil && string(magic[:]) == "QFI\xfb"
}
