// Package memfile is a file in memory that can fail and lose power, so that
// tests can try every way in which storage lets an image down.
//
// A [File] reads and writes like *os.File. [File.Fault] makes chosen
// operations fail. [File.Record] starts a journal of all that reaches the
// file; [NewReplay] goes through it and gives the states in which a power cut
// may leave the file.
package memfile

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"sync"
)

const pageSize = 4096

// page is a run of the file. A page is changed only by the file whose owner
// token it carries; others that share it copy it first.
type page struct {
	owner *token
	data  [pageSize]byte
}

type token struct{ _ byte }

// A File is a sparse file in memory: what was never written takes no space
// and reads as zeros. Methods of File are safe for concurrent use.
type File struct {
	// Fault, where set, is asked before each operation. An error makes the
	// operation fail with it and change nothing, but that a [*ShortWrite]
	// first writes a part. It is called with the file locked.
	Fault func(Op) error

	mu      sync.RWMutex
	own     *token
	pages   map[int64]*page // by offset / pageSize
	size    int64
	ops     int // operations so far, failed ones included
	journal *journal
}

// New returns an empty file.
func New() *File { return &File{own: new(token), pages: map[int64]*page{}} }

// FromBytes returns a file that holds a copy of b.
func FromBytes(b []byte) *File {
	f := New()
	f.store(b, 0)
	f.size = int64(len(b))
	return f
}

// Clone returns a file with the same content, without the journal and the
// faults. It costs as much as the list of pages.
func (f *File) Clone() *File {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.clone()
}

func (f *File) clone() *File {
	c := &File{own: new(token), pages: make(map[int64]*page, len(f.pages)), size: f.size}
	maps.Copy(c.pages, f.pages)
	f.own = new(token)
	return c
}

// Bytes returns a copy of the whole content.
func (f *File) Bytes() []byte {
	f.mu.RLock()
	defer f.mu.RUnlock()
	b := make([]byte, f.size)
	f.load(b, 0)
	return b
}

// Size returns the length of the file in bytes.
func (f *File) Size() int64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.size
}

// Ops returns how many operations were tried so far, reads included.
func (f *File) Ops() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.ops
}

// ReadAt implements [io.ReaderAt].
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if f.Fault != nil {
		f.mu.Lock()
		err := f.fault(Read, off, int64(len(p)))
		f.mu.Unlock()
		if err != nil {
			return 0, err
		}
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	n := int(max(0, min(int64(len(p)), f.size-off)))
	f.load(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements [io.WriterAt].
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off < 0 || off+int64(len(p)) < off {
		return 0, fs.ErrInvalid
	}
	err := f.fault(Write, off, int64(len(p)))
	if short := (*ShortWrite)(nil); errors.As(err, &short) {
		p = p[:min(len(p), short.N)]
	} else if err != nil {
		return 0, err
	}
	f.store(p, off)
	if len(p) > 0 {
		f.size = max(f.size, off+int64(len(p)))
	}
	f.record(Write, off, p, 0)
	return len(p), err
}

// Truncate sets the length of the file.
func (f *File) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if size < 0 {
		return fs.ErrInvalid
	}
	if err := f.fault(Truncate, size, 0); err != nil {
		return err
	}
	f.setSize(size)
	f.record(Truncate, size, nil, 0)
	return nil
}

// PunchHole makes the n bytes at off read as zeros and frees their space. The
// length of the file stays.
func (f *File) PunchHole(off, n int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off < 0 || n < 0 || off+n < off {
		return fs.ErrInvalid
	}
	if err := f.fault(Punch, off, n); err != nil {
		return err
	}
	f.zero(off, min(n, max(0, f.size-off)))
	f.record(Punch, off, nil, n)
	return nil
}

// Sync makes all that was written durable.
func (f *File) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fault(Sync, 0, 0); err != nil {
		f.record(failedSync, 0, nil, 0)
		return err
	}
	f.record(Sync, 0, nil, 0)
	return nil
}

func (f *File) load(p []byte, off int64) {
	for len(p) > 0 {
		in := off % pageSize
		n := min(int64(len(p)), pageSize-in)
		if pg := f.pages[off/pageSize]; pg != nil {
			copy(p[:n], pg.data[in:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
}

func (f *File) store(p []byte, off int64) {
	for len(p) > 0 {
		in := off % pageSize
		n := copy(f.writable(off / pageSize).data[in:], p)
		p, off = p[n:], off+int64(n)
	}
}

func (f *File) writable(i int64) *page {
	pg := f.pages[i]
	switch {
	case pg == nil:
		pg = &page{owner: f.own}
	case pg.owner != f.own:
		pg = &page{owner: f.own, data: pg.data}
	}
	f.pages[i] = pg
	return pg
}

func (f *File) zero(off, n int64) {
	for n > 0 {
		in := off % pageSize
		step := min(n, pageSize-in)
		if _, ok := f.pages[off/pageSize]; ok {
			if step == pageSize {
				delete(f.pages, off/pageSize)
			} else {
				clear(f.writable(off / pageSize).data[in : in+step])
			}
		}
		off, n = off+step, n-step
	}
}

func (f *File) setSize(size int64) {
	if size < f.size {
		if in := size % pageSize; in != 0 {
			f.zero(size, pageSize-in)
		}
		for i := range f.pages {
			if i*pageSize >= size {
				delete(f.pages, i)
			}
		}
	}
	f.size = size
}
