package block

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// CommitOptions says how layers of a disk are committed. The zero value and
// nil are the defaults.
type CommitOptions struct {
	// Layers is how many layers are committed into the one below them: 1, the
	// disk itself, into its backing file, 2 that and its backing file into the
	// next one. Default: 1.
	Layers int
	// Keep leaves in the image what was committed. Otherwise an image that
	// can is emptied; one of which more than 1 layer is committed never is,
	// because what it would show then are the layers in between.
	Keep bool
	// Grow makes the target as long as the disk, where it is shorter; what is
	// new must read as zeros. Default: its method Resize(size int64) error or
	// Truncate(size int64) error.
	Grow func(size int64) error
	// Workers is how many pieces are copied at a time, at most 64. Default:
	// as for [CopyOptions].
	Workers int
	// Progress is called now and then with how many bytes of the disk are
	// dealt with, of how many. The calls do not overlap.
	Progress func(done, total int64)
}

// WithDefaults returns a copy of o with the defaults filled in.
func (o *CommitOptions) WithDefaults() CommitOptions {
	var c CommitOptions
	if o != nil {
		c = *o
	}
	c.Layers = max(c.Layers, 1)
	c.Keep = c.Keep || c.Layers > 1
	return c
}

// Commit writes to dst what the upper layers of src hold, and makes it
// durable. dst is the layer below them: written to, it reads as src does. If
// it is shorter it gets the size of src. A failure to copy is a [*CopyError] that
// wraps what failed, or the cause of ctx; src reads as before then, as long as
// it is not emptied.
func Commit(ctx context.Context, dst io.WriterAt, src Disk, o *CommitOptions) error {
	opts := o.WithDefaults()
	cluster := int64(0)
	if c, ok := src.(Clusterer); ok {
		cluster = c.ClusterSize()
	}
	// Data is data, zeros or not: dst may hold something else.
	c, err := (&CopyOptions{Workers: opts.Workers, Sparse: -1, Progress: opts.Progress}).withDefaults(cluster)
	if err != nil {
		return err
	}
	have, err := Length(dst)
	if err != nil {
		return fmt.Errorf("size of the target: %w", err)
	}
	if have < src.Size() {
		if err := opts.grow(dst, src.Size()); err != nil {
			return &CopyError{"truncate", src.Size(), err}
		}
	}
	below := func(e Extent) bool {
		// What a layer has nothing of although it is not in the next one either
		// lies past the end of that one, and is zero.
		return e.Depth >= opts.Layers || e.Kind == Unallocated && e.Depth == opts.Layers-1
	}
	if _, err := copyTo(ctx, &target{w: dst, zeroFrom: have}, src, c, below); err != nil {
		return err
	}
	return Sync(dst)
}

// errCannotGrow means that a target is too short and stays so.
var errCannotGrow = fmt.Errorf("the target cannot be made longer: %w", errors.ErrUnsupported)

func (o *CommitOptions) grow(dst io.WriterAt, size int64) error {
	if o.Grow != nil {
		return o.Grow(size)
	}
	switch t := dst.(type) {
	case interface{ Resize(size int64) error }:
		return t.Resize(size)
	case interface{ Truncate(size int64) error }:
		return t.Truncate(size)
	}
	return errCannotGrow
}
