package imgopen

import (
	"io"
	"os"
	"syscall"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/sparse"
)

// A filePart is a file that is a part of another.
type filePart struct {
	File
	offset, size int64 // size is -1 for all that follows
}

func part(f File, offset, size int64) File { return &filePart{f, offset, size} }

// limit cuts p, which is to be read or written at off, to the part.
func (p *filePart) limit(b []byte, off int64) []byte {
	if p.size < 0 {
		return b
	}
	return b[:max(0, min(int64(len(b)), p.size-off))]
}

func (p *filePart) ReadAt(b []byte, off int64) (int, error) {
	cut := p.limit(b, off)
	n, err := p.File.ReadAt(cut, p.offset+off)
	if err == nil && len(cut) < len(b) {
		err = io.EOF
	}
	return n, err
}

func (p *filePart) WriteAt(b []byte, off int64) (int, error) {
	cut := p.limit(b, off)
	n, err := p.File.WriteAt(cut, p.offset+off)
	if err == nil && len(cut) < len(b) {
		err = io.ErrShortWrite
	}
	return n, err
}

func (p *filePart) Truncate(size int64) error {
	if p.size >= 0 {
		return messagef("Cannot resize a part of a file")
	}
	return p.File.Truncate(p.offset + size)
}

func (p *filePart) Size() (int64, error) {
	n, err := block.Length(p.File)
	n = max(0, n-p.offset)
	if p.size >= 0 {
		n = min(n, p.size)
	}
	return n, err
}

// A guarded file was taken for a raw image because of how it begins, and must
// not be made to look like anything else by what is written to it.
type guarded struct{ File }

// guardedLength is how much of the file is held to be as it was.
const guardedLength = 512

func (g guarded) WriteAt(b []byte, off int64) (int, error) {
	if off < guardedLength {
		head := make([]byte, headLength)
		if _, err := g.File.ReadAt(head, 0); err != nil && err != io.EOF {
			return 0, err
		}
		if off >= 0 {
			copy(head[off:], b)
		}
		if formatOf(head) != "raw" {
			return 0, syscall.EPERM
		}
	}
	return g.File.WriteAt(b, off)
}

func (g guarded) Size() (int64, error) { return block.Length(g.File) }

// An unsynced file is one of which nothing needs to be durable.
type unsynced struct{ f *os.File }

func (u unsynced) ReadAt(b []byte, off int64) (int, error)  { return u.f.ReadAt(b, off) }
func (u unsynced) WriteAt(b []byte, off int64) (int, error) { return u.f.WriteAt(b, off) }
func (u unsynced) Truncate(size int64) error                { return u.f.Truncate(size) }
func (u unsynced) Size() (int64, error)                     { return block.Length(u.f) }
func (u unsynced) PunchHole(off, n int64) error             { return sparse.PunchHole(u.f, off, n) }
