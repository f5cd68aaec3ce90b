package main

import (
	"context"
	"errors"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/block"
)

// A rebaser is an image that can have another backing file.
type rebaser interface {
	Rebase(ctx context.Context, name, format string, o *block.RebaseOptions) error
	ChangeBacking(name, format string) error
}

// A rebasing is a run of "qimg rebase".
type rebasing struct {
	settings
	backing, backingFormat string
	given, unsafe          bool
}

// rebase runs "qimg rebase".
func (c *command) rebase(args []string) error {
	var r rebasing
	opts, operands, err := parse(args, "f:F:b:upt:T:qU", "object: image-opts force-share=U")
	if err != nil {
		return err
	}
	for _, o := range opts {
		if ok, err := r.set(o); err != nil {
			return err
		} else if ok {
			continue
		}
		switch o.name {
		case "F":
			r.backingFormat = o.value
		case "b":
			r.backing, r.given = o.value, true
		case "u":
			r.unsafe = true
		}
	}
	name, err := oneFile(operands)
	switch {
	case err != nil:
		return err
	case !r.given && !r.unsafe:
		return usageError("Must specify backing file (-b) or use unsafe mode (-u)")
	}
	if err := r.check(); err != nil {
		return err
	}
	return c.rebaseImage(name, &r)
}

func (c *command) rebaseImage(name string, r *rebasing) (err error) {
	o := c.writing(&r.settings)
	o.NoLock = false
	o.MetadataOnly = r.unsafe
	img, err := c.open(name, o)
	if err != nil {
		return err
	}
	defer closing(img, &err)
	refused := func(err error) error {
		if err == nil {
			return nil
		}
		return messagef("Could not change the backing file to '%s': %v", r.backing, err)
	}
	im, ok := img.Disk.(rebaser)
	switch {
	case r.backingFormat != "" && createOptions(r.backingFormat) == nil && r.backingFormat != "vma" && !imgopen.Foreign(r.backingFormat):
		return messagef("Invalid format name: '%s'", r.backingFormat)
	case !ok:
		return refused(message("Operation not supported"))
	case r.backing != "" && r.backingFormat == "":
		return refused(message("backing format must be specified"))
	case r.unsafe:
		return refused(im.ChangeBacking(r.backing, r.backingFormat))
	}
	if r.backing != "" {
		below := c.options(&settings{format: r.backingFormat, noLock: r.noLock, secrets: r.secrets, srcCache: r.srcCache})
		b, err := imgopen.Open(imgopen.Resolve(img.Path, r.backing), below)
		if err != nil {
			return messagef("Could not open new backing file '%s': %v", r.backing, innermost(err))
		}
		if err := b.Close(); err != nil {
			return err
		}
	}
	p := c.newProgress(&r.settings)
	if err := im.Rebase(c.ctx, r.backing, r.backingFormat, &block.RebaseOptions{Progress: p.show}); err != nil {
		p.end()
		var ce *block.CopyError
		if errors.As(err, &ce) {
			return copyFailed(err)
		}
		return refused(err)
	}
	p.finish()
	return nil
}
