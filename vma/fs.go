package vma

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// FS returns the archive as a file system of one directory, with the files
// that [ExtractDir] would make: each config under its name, each device as
// disk-NAME.raw, the state of the machine as vmstate.bin. Files can be read at
// random, as they are io.ReaderAt and io.Seeker; those of devices are large.
// All have the time of the backup.
func (a *Archive) FS() fs.FS {
	h := a.header.clone()
	h.Devices = h.Devices[:0]
	for _, d := range a.devices {
		h.Devices = append(h.Devices, d.info)
	}
	configs, devices := fileNames(&h)
	f := archiveFS{time: h.Time()}
	for i, c := range h.Configs {
		f.files = append(f.files, fileInfo{name: configs[i], size: int64(len(c.Data)), time: f.time, r: bytes.NewReader(c.Data)})
	}
	for i, d := range a.devices {
		f.files = append(f.files, fileInfo{name: devices[i], size: d.Size(), time: f.time, r: d, disk: d})
	}
	slices.SortFunc(f.files, func(a, b fileInfo) int { return strings.Compare(a.name, b.name) })
	return &f
}

// An archiveFS is an [fs.FS] of a single directory.
type archiveFS struct {
	files []fileInfo // sorted by name
	time  time.Time
}

func (f *archiveFS) find(op, name string) (*fileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	if i, ok := slices.BinarySearchFunc(f.files, name, func(x fileInfo, name string) int { return strings.Compare(x.name, name) }); ok {
		return &f.files[i], nil
	}
	return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

// Open opens a file, or the directory ".".
func (f *archiveFS) Open(name string) (fs.File, error) {
	if name == "." {
		return &openDir{info: fileInfo{name: ".", time: f.time, dir: true}, fs: f}, nil
	}
	x, err := f.find("open", name)
	if err != nil {
		return nil, err
	}
	return &openFile{SectionReader: io.NewSectionReader(x.r, 0, x.size), info: x}, nil
}

// Stat describes a file without opening it.
func (f *archiveFS) Stat(name string) (fs.FileInfo, error) {
	if name == "." {
		return &fileInfo{name: ".", time: f.time, dir: true}, nil
	}
	return f.find("stat", name)
}

// A fileInfo is a file or the directory: its [fs.FileInfo] and [fs.DirEntry].
type fileInfo struct {
	name string
	size int64
	time time.Time
	dir  bool
	r    io.ReaderAt
	disk *Device // nil for a config
}

func (i *fileInfo) Name() string               { return i.name }
func (i *fileInfo) Size() int64                { return i.size }
func (i *fileInfo) ModTime() time.Time         { return i.time }
func (i *fileInfo) IsDir() bool                { return i.dir }
func (i *fileInfo) Type() fs.FileMode          { return i.Mode().Type() }
func (i *fileInfo) Info() (fs.FileInfo, error) { return i, nil }

// Sys returns the [*Device] of a device's file, nil for a config.
func (i *fileInfo) Sys() any {
	if i.disk == nil {
		return nil
	}
	return i.disk
}

func (i *fileInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

// String formats i as ls does.
func (i *fileInfo) String() string { return fs.FormatFileInfo(i) }

// An openFile is a file that was opened.
type openFile struct {
	*io.SectionReader
	info   *fileInfo
	closed bool
}

func (f *openFile) Stat() (fs.FileInfo, error) {
	if f.closed {
		return nil, f.error("stat")
	}
	return f.info, nil
}

func (f *openFile) Read(p []byte) (int, error) {
	if f.closed {
		return 0, f.error("read")
	}
	return f.SectionReader.Read(p)
}

func (f *openFile) ReadAt(p []byte, off int64) (int, error) {
	if f.closed {
		return 0, f.error("read")
	}
	return f.SectionReader.ReadAt(p, off)
}

func (f *openFile) Seek(offset int64, whence int) (int64, error) {
	if f.closed {
		return 0, f.error("seek")
	}
	return f.SectionReader.Seek(offset, whence)
}

func (f *openFile) Close() error {
	if f.closed {
		return f.error("close")
	}
	f.closed = true
	return nil
}

func (f *openFile) error(op string) error {
	return &fs.PathError{Op: op, Path: f.info.name, Err: fs.ErrClosed}
}

// An openDir is the directory, being read.
type openDir struct {
	info fileInfo
	fs   *archiveFS
	next int
}

func (d *openDir) Stat() (fs.FileInfo, error) { return &d.info, nil }
func (d *openDir) Close() error               { return nil }
func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: ".", Err: errors.New("is a directory")}
}

// ReadDir returns the next n entries, all that are left where n <= 0.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	left := d.fs.files[d.next:]
	if n > 0 {
		if len(left) == 0 {
			return nil, io.EOF
		}
		left = left[:min(n, len(left))]
	}
	entries := make([]fs.DirEntry, len(left))
	for i := range left {
		entries[i] = &left[i]
	}
	d.next += len(left)
	return entries, nil
}
