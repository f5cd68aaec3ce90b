package imgopen

import (
	"errors"
	"io"
	"iter"
	"os"
	"syscall"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
)

// rawDisk returns a file as a disk of whole sectors.
func rawDisk(f File) (block.Disk, error) {
	if p, ok := f.(*filePart); ok {
		n, err := p.Size()
		if err != nil {
			return nil, err
		}
		inner, err := block.Length(p.File)
		if err != nil {
			return nil, err
		}
		d := rawOf(p.File, p.offset+n)
		if p.size < 0 {
			d = rawOf(p.File, align.Up(inner-p.offset, sectorSize)+p.offset)
		}
		return partDisk{d, p.offset}, nil
	}
	n, err := block.Length(f)
	if err != nil {
		return nil, err
	}
	return rawOf(f, align.Up(n, sectorSize)), nil
}

// rawOf returns the first bytes of a file as a disk, with the holes that the
// system knows.
func rawOf(f File, size int64) block.Disk {
	d := block.Raw(f, size)
	if h, ok := f.(interface{ holed() *os.File }); ok {
		return holedDisk{d, block.Raw(h.holed(), size)}
	}
	if inner, ok := f.(imageFile); ok {
		return holedDisk{d, inner.img}
	}
	return d
}

// A holedDisk is read one way, and its extents are found another.
type holedDisk struct {
	block.Disk
	holes block.Disk
}

func (d holedDisk) HostFile(int) io.ReaderAt { return nil } // what it is read by is not known

func (d holedDisk) Extents(off, n int64) iter.Seq2[block.Extent, error] {
	return d.holes.Extents(off, n)
}

// ClusterSize returns the unit in which the disk is stored, or 0.
func (d holedDisk) ClusterSize() int64 {
	if c, ok := d.holes.(block.Clusterer); ok {
		return c.ClusterSize()
	}
	return 0
}

// A guarded file was taken for a raw image because of how it begins, and must
// not be made to look like anything else by what is written to it.
type guarded struct{ File }

// guardedLength is how much of the file is held to be as it was.
const guardedLength = 512

func (g guarded) WriteAt(b []byte, off int64) (int, error) {
	if err := g.check(b, off); err != nil {
		return 0, err
	}
	return g.File.WriteAt(b, off)
}

// check holds that b may be written at off.
func (g guarded) check(b []byte, off int64) error {
	if off >= guardedLength {
		return nil
	}
	head := make([]byte, headLength)
	if _, err := g.File.ReadAt(head, 0); err != nil && err != io.EOF {
		return err
	}
	if off >= 0 {
		copy(head[off:], b)
	}
	if formatOf(head) != "raw" {
		return syscall.EPERM
	}
	return nil
}

func (g guarded) PunchHole(off, n int64) error {
	if err := g.check(make([]byte, min(n, headLength)), off); err != nil {
		return err
	}
	return PunchHole(g.File, off, n)
}

func (g guarded) Size() (int64, error) { return block.Length(g.File) }

// An unsynced file is one of which nothing needs to be durable.
type unsynced struct{ f File }

func (u unsynced) ReadAt(b []byte, off int64) (int, error)  { return u.f.ReadAt(b, off) }
func (u unsynced) WriteAt(b []byte, off int64) (int, error) { return u.f.WriteAt(b, off) }
func (u unsynced) Truncate(size int64) error                { return u.f.Truncate(size) }
func (u unsynced) Size() (int64, error)                     { return block.Length(u.f) }
func (u unsynced) PunchHole(off, n int64) error             { return PunchHole(u.f, off, n) }

// PunchHole makes n bytes of a file at off read as zeros and gives back the space
// they take. Where a file cannot, the error is errors.ErrUnsupported.
func PunchHole(f File, off, n int64) error {
	if z, ok := f.(block.ZeroWriter); ok {
		return z.WriteZeroesAt(off, n)
	}
	return block.PunchHole(f, off, n)
}

// A detecting writer makes zeros instead of storing them, where it can.
type detecting struct{ Writer }

func (d detecting) WriteAt(b []byte, off int64) (int, error) {
	if block.IsZero(b) && d.WriteZeroesAt(off, int64(len(b))) == nil {
		return len(b), nil
	}
	return d.Writer.WriteAt(b, off)
}

// WriteZeroesAt makes n bytes at off read as zeros.
func (d detecting) WriteZeroesAt(off, n int64) error {
	if f, ok := d.Writer.(File); ok {
		if size, err := block.Length(f); err != nil || off+n > size {
			return errors.ErrUnsupported // a hole makes no file longer
		}
		return PunchHole(f, off, n)
	}
	if z, ok := d.Writer.(block.ZeroWriter); ok {
		return z.WriteZeroesAt(off, n)
	}
	return errors.ErrUnsupported
}
