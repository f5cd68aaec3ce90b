package block

import (
	"errors"
	"io"
	"iter"
	"os"

	"github.com/virtfmt/virtfmt/internal/sparse"
)

// A HostFiler knows the files that the extents of a disk lie in, so that a
// copy can leave the work to the system: HostFile returns what the
// [Extent.HostOffset] of [Data] extents at that depth refers to, or nil where
// that is not known.
type HostFiler interface{ HostFile(depth int) io.ReaderAt }

// A Clusterer is a disk that is stored in units of ClusterSize bytes, a power
// of two. Whoever reads much of it reads whole clusters, because one that is
// compressed is decompressed as a whole.
type Clusterer interface{ ClusterSize() int64 }

// A raw is a disk that is stored byte for byte.
type raw struct {
	r    io.ReaderAt
	size int64
}

// Raw returns the bytes of r as a disk of the given size. What r does not
// have reads as zeros. If r is an [*os.File] the extents tell its holes, where
// the system knows them; asking for them moves the position of the file, which
// ReadAt does not use. Raw closes nothing.
func Raw(r io.ReaderAt, size int64) Disk { return &raw{r, max(size, 0)} }

// RawFile returns what f holds as a disk that is an [io.Closer]: f belongs to
// it, and is closed with it, or here if its length cannot be told.
func RawFile(f *os.File) (Disk, error) {
	n, err := Length(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &rawFile{raw{f, n}, f}, nil
}

// A rawFile is a raw disk that its file belongs to.
type rawFile struct {
	raw
	io.Closer
}

func (d *raw) Size() int64 { return d.size }

func (d *raw) HostFile(depth int) io.ReaderAt {
	if depth != 0 {
		return nil
	}
	return d.r
}

func (d *raw) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errNegative
	}
	if off >= d.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), d.size-off))
	got, err := d.r.ReadAt(p[:n], off)
	if got < n {
		if err != io.EOF && err != io.ErrUnexpectedEOF {
			if err == nil {
				err = io.ErrNoProgress
			}
			return got, err
		}
		clear(p[got:n])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d *raw) Extents(off, n int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		if off < 0 || n < 0 {
			yield(Extent{}, errNegative)
			return
		}
		off := min(off, d.size)
		end := off + min(n, d.size-off)
		stored := end
		if have, err := Length(d.r); err == nil {
			stored = min(end, max(off, have))
		}
		f, _ := d.r.(*os.File)
		for f != nil && off < stored {
			start, stop, err := sparse.NextData(f, off)
			if errors.Is(err, errors.ErrUnsupported) {
				break
			}
			if err != nil && err != io.EOF {
				yield(Extent{}, err)
				return
			}
			if err == io.EOF {
				start, stop = stored, stored
			}
			start, stop = min(start, stored), min(stop, stored)
			if off < start && !yield(Extent{off, start - off, Zero, off, 0}, nil) {
				return
			}
			if start < stop && !yield(Extent{start, stop - start, Data, start, 0}, nil) {
				return
			}
			off = stop
		}
		if off < stored {
			if !yield(Extent{off, stored - off, Data, off, 0}, nil) {
				return
			}
			off = stored
		}
		if off < end {
			yield(Extent{off, end - off, Unallocated, NoOffset, 0}, nil)
		}
	}
}

var errNegative = errors.New("negative offset or length")
