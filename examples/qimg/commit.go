package main

import (
	"context"
	"io"
	"os"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/block"
)

// A committer is an image that can be written to its backing file.
type committer interface {
	Commit(ctx context.Context, target io.WriterAt, o *block.CommitOptions) error
}

// commit runs "qimg commit".
func (c *command) commit(args []string) error {
	var s settings
	var base string
	var rate int64
	keep := false
	opts, operands, err := parse(args, "f:t:b:dpqr:", "object: image-opts")
	if err != nil {
		return err
	}
	for _, o := range opts {
		ok, err := s.set(o)
		switch {
		case ok || err != nil:
		case o.name == "b":
			base, keep = o.value, true // what lies between would be hidden
		case o.name == "d":
			keep = true
		case o.name == "r":
			rate, err = size(o.value, "rate limit")
		}
		if err != nil {
			return err
		}
	}
	name, err := oneFile(operands)
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return err
	}
	depth, err := c.findBase(name, &s, base)
	if err != nil {
		return err
	}
	if err := c.commitImage(name, &s, depth, keep, rate); err != nil {
		return err
	}
	c.say(&s, "Image committed.\n")
	return nil
}

// findBase returns the depth of the layer that an image is to be written to.
func (c *command) findBase(name string, s *settings, base string) (depth int, err error) {
	img, err := c.open(name, c.options(s))
	if err != nil {
		return 0, err
	}
	defer closing(img, &err)
	if base == "" {
		if img.Below == nil {
			return 0, message("Image does not have a backing file")
		}
		return 1, nil
	}
	fi, missing := os.Stat(base)
	for depth, layer := 1, img.Below; layer != nil; depth, layer = depth+1, layer.Below {
		own, err := os.Stat(layer.Path)
		if backingName(img.Layer(depth-1)) == base || err == nil && missing == nil && os.SameFile(fi, own) {
			return depth, nil
		}
	}
	return 0, messagef("Did not find '%s' in the backing chain of '%s'", base, name)
}

// backingName returns what an image calls its backing file.
func backingName(img *imgopen.Image) string {
	switch {
	case img.Qcow2 != nil:
		return img.Qcow2.Header().BackingFile
	case img.Qed != nil:
		return img.Qed.Header().BackingFile
	}
	return ""
}

// commitImage writes the layers above a depth to the one at it, at no more than
// rate bytes a second, or 0 for as fast as can be.
func (c *command) commitImage(name string, s *settings, depth int, keep bool, rate int64) (err error) {
	o := c.writing(s)
	o.WriteLayer = depth
	img, err := c.open(name, o)
	if err != nil {
		return err
	}
	defer closing(img, &err)
	im, ok := img.Disk.(committer)
	base := img.Layer(depth)
	target := base.Writer()
	if !ok || target == nil {
		return messagef("Images of format '%s' cannot be committed to ones of format '%s'", img.Format, base.Format)
	}
	p := c.newProgress(s)
	opts := &block.CommitOptions{Layers: depth, Keep: keep, Progress: p.show}
	switch {
	case base.Qcow2 != nil:
		opts.Grow = func(size int64) error { return base.Qcow2.Resize(c.ctx, size, nil) }
	case base.Qed != nil:
		opts.Grow = base.Qed.Resize
	default:
		opts.Grow = base.Raw.Truncate
	}
	if rate > 0 {
		target = &limitedTarget{target, base, &limiter{ctx: c.ctx, rate: rate}}
	}
	if err := im.Commit(c.ctx, target, opts); err != nil {
		p.end()
		return copyFailed(err)
	}
	p.finish()
	return nil
}
