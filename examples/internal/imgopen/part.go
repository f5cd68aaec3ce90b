package imgopen

import (
	"errors"
	"io"
	"iter"

	"github.com/virtfmt/virtfmt/internal/block"
)

// A filePart is a file that is a part of another, which is none itself.
type filePart struct {
	File
	offset, size int64 // size is -1 for all that follows
}

// part returns the part of a file that is size bytes long, or all if that is -1.
func part(f File, offset, size int64) (File, error) {
	have, err := block.Length(f)
	switch {
	case err != nil:
		return nil, err
	case offset > have:
		return nil, messagef("Offset (%d) cannot be greater than size of the containing file (%d)", offset, have)
	case size >= 0 && size > have-offset:
		return nil, messagef("The sum of offset (%d) and size (%d) has to be smaller or equal to the  actual size of the containing file (%d)", offset, size, have)
	case size%sectorSize != 0 && size >= 0:
		return nil, messagef("Specified size is not multiple of %d", sectorSize)
	}
	if p, ok := f.(*filePart); ok {
		if p.size >= 0 && size < 0 {
			size = p.size - offset
		}
		f, offset = p.File, p.offset+offset
	}
	return &filePart{f, offset, size}, nil
}

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
		return messagef("Cannot resize fixed-size raw disks")
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

func (p *filePart) PunchHole(off, n int64) error {
	if p.size >= 0 && off+n > p.size {
		return errors.ErrUnsupported
	}
	return PunchHole(p.File, p.offset+off, n)
}

// A partDisk is the disk of a part of a file. Its extents are those of the file.
type partDisk struct {
	block.Disk // the file up to the end of the part
	offset     int64
}

func (d partDisk) Size() int64 { return max(0, d.Disk.Size()-d.offset) }

func (d partDisk) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	return d.Disk.ReadAt(b, d.offset+off)
}

func (d partDisk) HostFile(depth int) io.ReaderAt { return d.Disk.(block.HostFiler).HostFile(depth) }

func (d partDisk) Extents(off, n int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		off := min(max(0, off), d.Size())
		for x, err := range d.Disk.Extents(d.offset+off, min(n, d.Size()-off)) {
			x.Start -= d.offset
			if !yield(x, err) {
				return
			}
		}
	}
}
