package block

import (
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"

	"github.com/virtfmt/virtfmt/internal/sparse"
)

// A target is what a disk is copied to.
type target struct {
	w        io.WriterAt
	zeroFrom int64       // from here on it reads as zeros
	noZeroes atomic.Bool // it cannot be told to make zeros
	noShare  atomic.Bool // the system cannot copy to it
}

// file returns the file that t is, or nil.
func (t *target) file() *os.File {
	f, _ := t.w.(*os.File)
	return f
}

// resize gives t a size, where it has one that can be changed: a block device
// has not. What it gets longer by reads as zeros.
func (t *target) resize(size int64) error {
	s, ok := t.w.(interface{ Truncate(int64) error })
	if !ok {
		return nil
	}
	if f := t.file(); f != nil {
		fi, err := f.Stat()
		if err != nil {
			return err
		}
		if !fi.Mode().IsRegular() {
			return nil
		}
	}
	n, err := Length(t.w)
	if err == nil {
		t.zeroFrom = min(t.zeroFrom, n)
	}
	if err == nil && n == size {
		return nil
	}
	return s.Truncate(size)
}

// canZero reports whether zeros may be cheaper than data.
func (t *target) canZero() bool {
	switch t.w.(type) {
	case ZeroWriter, PunchHoler, *os.File:
		return true
	}
	return t.zeroFrom == 0
}

// share has the system copy p from the file that holds it.
func (t *target) share(p *piece) (int64, error) {
	if t.noShare.Load() {
		return 0, errors.ErrUnsupported
	}
	n, err := sparse.CopyRange(t.file(), p.off, p.host, p.hostAt, p.n)
	if errors.Is(err, errors.ErrUnsupported) {
		t.noShare.Store(true)
	}
	return n, err
}

// zero makes n bytes at off read as zeros.
func (t *target) zero(ctx context.Context, off, n int64) (s CopyStats, err error) {
	s.Skipped = max(0, min(n, off+n-max(off, t.zeroFrom)))
	n -= s.Skipped
	if n == 0 {
		return s, nil
	}
	if !t.noZeroes.Load() {
		err := t.makeZeroes(off, n)
		if err == nil {
			s.Zeroed = n
			return s, nil
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			return s, err
		}
		t.noZeroes.Store(true)
	}
	for s.Zeroed < n {
		if err := ctx.Err(); err != nil {
			return s, context.Cause(ctx)
		}
		p := zeros[:min(int64(len(zeros)), n-s.Zeroed)]
		c, err := t.w.WriteAt(p, off+s.Zeroed)
		s.Zeroed += int64(c)
		if err == nil && c < len(p) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

func (t *target) makeZeroes(off, n int64) error {
	if z, ok := t.w.(ZeroWriter); ok {
		return z.WriteZeroesAt(off, n)
	}
	return PunchHole(t.w, off, n)
}
