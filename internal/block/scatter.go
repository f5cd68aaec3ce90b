package block

import (
	"context"
	"io"
)

// A Target is what a disk is copied to by someone who has its pieces in no
// order, and under the rules of [Copy] for zeros. Its methods may be called
// concurrently, for ranges that do not overlap.
type Target struct{ t target }

// NewTarget returns w as a target for a disk of that size. It is resized
// unless o says KeepSize, and reads as zeros where o says Zeroed or where the
// resizing makes it. Nothing else of o is used.
func NewTarget(w io.WriterAt, size int64, o *CopyOptions) (*Target, error) {
	t := &Target{target{w: w, zeroFrom: size}}
	if o != nil && o.Zeroed {
		t.t.zeroFrom = 0
	}
	if o == nil || !o.KeepSize {
		if err := t.t.resize(size); err != nil {
			return nil, &CopyError{"truncate", size, err}
		}
	}
	return t, nil
}

// WriteAt writes p at off, or fails with a [*CopyError].
func (t *Target) WriteAt(p []byte, off int64) (int, error) {
	n, err := t.t.w.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return n, &CopyError{"write", off + int64(n), err}
	}
	return n, nil
}

// WriteZeroes makes the n bytes at off read as zeros, which is nothing to do
// where they do already.
func (t *Target) WriteZeroes(ctx context.Context, off, n int64) error {
	if _, err := t.t.zero(ctx, off, n); err != nil {
		return &CopyError{"write", off, err}
	}
	return nil
}
