package vma

import (
	"cmp"
	"context"
	"fmt"

	"github.com/virtfmt/virtfmt/internal/block"
)

// Options says how an archive is read. nil and the zero value are the
// defaults.
type Options struct {
	// Profile is the rules that the archive is judged by, [Proxmox] by
	// default.
	Profile Profile
	// Size is the length of the archive in bytes, for an io.ReaderAt that does
	// not tell it. Streams do not use it.
	Size int64
	// MaxHeaderSize is the largest header accepted in bytes, 64 MiB by
	// default and at most 1 GiB; 256 configs and 254 devices of the largest
	// names fit in the default.
	MaxHeaderSize int64
	// MaxFindings is how many findings of each [Code] a [Report] holds, 100 by
	// default.
	MaxFindings int
	// Progress, where set, is told how far a walk over the whole archive has
	// come, after every extent. [Archive.Extract] and [Reader.Extract] have
	// their own.
	Progress func(p Progress)
}

// Progress is how far reading an archive has come.
type Progress struct {
	Offset, Size int64 // bytes of the archive, and its length or -1
	Done, Total  int64 // bytes of all devices, in clusters of 64 KiB
}

const (
	defaultMaxHeader   = 64 << 20
	defaultMaxFindings = 100
)

// withDefaults returns a copy of o with the defaults filled in.
func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	if c.Profile >= numProfiles {
		c.Profile = Proxmox
	}
	c.MaxHeaderSize = min(cmp.Or(c.MaxHeaderSize, defaultMaxHeader), 1<<30)
	c.MaxFindings = cmp.Or(c.MaxFindings, defaultMaxFindings)
	return c
}

// length returns the length of r: what it tells, otherwise o.Size.
func (o *Options) length(r any) (int64, error) {
	n, err := block.Length(r)
	if err != nil && o.Size > 0 {
		return o.Size, nil
	}
	if err != nil {
		return 0, fmt.Errorf("vma: length of the archive: %w", err)
	}
	return n, nil
}

// canceled returns the cause of ctx's end, nil while it goes on.
func canceled(ctx context.Context) error {
	if ctx.Err() != nil {
		return fmt.Errorf("vma: %w", context.Cause(ctx))
	}
	return nil
}
