package imgopen

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/sparse"
)

const (
	// directBuffer is how much is moved at a time.
	directBuffer = 1 << 20
	// directUnit is what offsets, lengths and addresses are multiples of: no
	// disk has larger sectors. A device may have smaller ones, and end within
	// such a unit.
	directUnit  = 4096
	smallSector = 512
)

// A directFile is a file whose bytes bypass the page cache, at any offset:
// what is not aligned goes through buffers that are.
type directFile struct {
	*os.File
	unit int64

	// whole is held shared by whatever moves whole units, and exclusively by
	// writes of a part of one, which read it first.
	whole sync.RWMutex
	free  chan []byte // mapped buffers that nobody uses
}

// openDirect opens a file so that the page cache is bypassed.
func openDirect(name string, flag int, _ func(string)) (File, *os.File, error) {
	f, err := os.OpenFile(name, flag|syscall.O_DIRECT, 0)
	if errors.Is(err, syscall.EINVAL) {
		return nil, nil, messagef("filesystem does not support O_DIRECT")
	}
	if err != nil {
		return nil, nil, err
	}
	d := &directFile{File: f, unit: directUnit, free: make(chan []byte, 16)}
	if fi, err := f.Stat(); err == nil && !fi.Mode().IsRegular() {
		d.findUnit()
	}
	return d, f, nil
}

// findUnit finds whether a device has small sectors.
func (d *directFile) findUnit() {
	buf, err := d.buffer()
	if err != nil {
		return
	}
	defer d.release(buf)
	if _, err := d.pread(buf[:smallSector], smallSector); err == nil {
		d.unit = smallSector
	}
}

// buffer returns memory that is aligned, because it is mapped.
func (d *directFile) buffer() ([]byte, error) {
	select {
	case b := <-d.free:
		return b, nil
	default:
		return syscall.Mmap(-1, 0, directBuffer, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	}
}

func (d *directFile) release(b []byte) {
	select {
	case d.free <- b:
	default:
		syscall.Munmap(b)
	}
}

// pread reads once: a file may end within a unit, after which no offset is
// aligned any more.
func (d *directFile) pread(b []byte, off int64) (n int, err error) {
	c, err := d.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := c.Control(func(fd uintptr) {
		for {
			if n, err = syscall.Pread(int(fd), b, off); err != syscall.EINTR {
				return
			}
		}
	})
	if err == nil {
		err = cerr
	}
	if err != nil {
		return 0, &os.PathError{Op: "read", Path: d.Name(), Err: err}
	}
	return n, nil
}

func (d *directFile) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, &os.PathError{Op: "readat", Path: d.Name(), Err: errors.New("negative offset")}
	}
	buf, err := d.buffer()
	if err != nil {
		return 0, err
	}
	defer d.release(buf)
	d.whole.RLock()
	defer d.whole.RUnlock()
	for n < len(p) {
		at := off + int64(n)
		start := align.Down(at, d.unit)
		want := buf[:min(directBuffer, align.Up(at-start+int64(len(p)-n), d.unit))]
		got, err := d.pread(want, start)
		if err != nil {
			return n, err
		}
		if int64(got) <= at-start {
			return n, io.EOF
		}
		n += copy(p[n:], want[at-start:got])
		if n < len(p) && int64(got)%d.unit != 0 {
			return n, io.EOF
		}
	}
	return n, nil
}

func (d *directFile) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &os.PathError{Op: "writeat", Path: d.Name(), Err: errors.New("negative offset")}
	}
	buf, err := d.buffer()
	if err != nil {
		return 0, err
	}
	defer d.release(buf)
	if off%d.unit == 0 && int64(len(p))%d.unit == 0 {
		d.whole.RLock()
		defer d.whole.RUnlock()
		return d.writeUnits(buf, p, off)
	}
	d.whole.Lock()
	defer d.whole.Unlock()
	fi, err := d.Stat()
	if err != nil {
		return 0, err
	}
	n, err := d.writeUnits(buf, p, off)
	// The last unit may have made the file longer than it should be.
	if size := max(fi.Size(), off+int64(n)); fi.Mode().IsRegular() && n > 0 && align.Up(off+int64(n), d.unit) > size {
		err = errors.Join(err, d.File.Truncate(size))
	}
	return n, err
}

// writeUnits writes p as whole units, of which the first and the last keep
// what is not written.
func (d *directFile) writeUnits(buf, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		at := off + int64(n)
		start := align.Down(at, d.unit)
		end := min(at+int64(len(p)-n), start+directBuffer)
		part := buf[:align.Up(end-start, d.unit)]
		if at > start {
			err = d.fill(part[:d.unit], start)
		}
		if last := int64(len(part)) - d.unit; err == nil && end%d.unit != 0 && (last > 0 || at == start) {
			err = d.fill(part[last:], start+last)
		}
		if err != nil {
			return n, err
		}
		copy(part[at-start:], p[n:n+int(end-at)])
		if m, err := d.File.WriteAt(part, start); err != nil {
			return n + max(0, min(int(end-at), m-int(at-start))), err
		}
		n += int(end - at)
	}
	return n, nil
}

// fill reads a unit; what lies behind the end of the file becomes zeros.
func (d *directFile) fill(b []byte, off int64) error {
	n, err := d.pread(b, off)
	clear(b[n:])
	return err
}

// holed returns the file, of which the system knows the holes.
func (d *directFile) holed() *os.File { return d.File }

// Size returns the length of the file.
func (d *directFile) Size() (int64, error) {
	d.whole.RLock()
	defer d.whole.RUnlock()
	return block.Length(d.File)
}

func (d *directFile) Truncate(size int64) error {
	d.whole.Lock()
	defer d.whole.Unlock()
	return d.File.Truncate(size)
}

func (d *directFile) PunchHole(off, n int64) error {
	d.whole.Lock()
	defer d.whole.Unlock()
	return sparse.PunchHole(d.File, off, n)
}

func (d *directFile) Close() error {
	err := d.File.Close()
	for {
		select {
		case b := <-d.free:
			err = errors.Join(err, syscall.Munmap(b))
		default:
			return err
		}
	}
}
