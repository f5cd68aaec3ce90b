package imgopen

import (
	"errors"
	"fmt"
	"os"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/qcow2"
)

// openInner opens an image that another lies in.
func (s *Source) openInner(o options, settings *Options, chain []os.FileInfo) error {
	inner, err := find(o, settings, chain)
	if err != nil {
		return err
	}
	img, err := inner.Open()
	if err != nil {
		return errors.Join(err, inner.Close())
	}
	if settings.Write && img.Writer() == nil {
		return errors.Join(messagef("Images of format '%s' are read-only", img.Format), img.Close())
	}
	s.Path, s.File, s.chain = img.Path, imageFile{img}, inner.chain
	s.inside = fmt.Sprintf(`{"driver": %s, "file": %s}`, quote(img.Format), inner.inner())
	return nil
}

// An imageFile is the disk of an image, as a file that another image lies in.
type imageFile struct{ img *Image }

func (f imageFile) ReadAt(b []byte, off int64) (int, error) { return f.img.ReadAt(b, off) }
func (f imageFile) Size() int64                             { return f.img.Size() }
func (f imageFile) Close() error                            { return f.img.Close() }

// WriteAt makes the inner disk longer where it has to be.
func (f imageFile) WriteAt(b []byte, off int64) (int, error) {
	if end := off + int64(len(b)); end > f.img.Size() {
		if err := f.Truncate(end); err != nil {
			return 0, err
		}
	}
	return f.img.Writer().WriteAt(b, off)
}

func (f imageFile) Sync() error { return f.img.Writer().Sync() }

// WriteZeroesAt makes n bytes at off read as zeros.
func (f imageFile) WriteZeroesAt(off, n int64) error {
	if z, ok := f.img.Writer().(block.ZeroWriter); ok && off+n <= f.img.Size() {
		return z.WriteZeroesAt(off, n)
	}
	return errors.ErrUnsupported
}

func (f imageFile) Truncate(size int64) error {
	switch {
	case f.img.Raw != nil:
		return f.img.Raw.Truncate(size)
	case f.img.Qcow2 != nil:
		return f.img.Qcow2.Resize(f.img.o.Context, (size+sectorSize-1)&^(sectorSize-1), &qcow2.ResizeOptions{Shrink: true})
	case f.img.Qed != nil && size > f.img.Size():
		return f.img.Qed.Resize((size + sectorSize - 1) &^ (sectorSize - 1))
	}
	return messagef("Images of format '%s' cannot be made smaller", f.img.Format)
}
