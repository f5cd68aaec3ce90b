package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/qcow2"
)

// A bitmapRun is a run of "qimg bitmap".
type bitmapRun struct {
	settings
	actions      []option // in their order: add, remove, clear, enable, disable, merge
	granularity  int64
	source       string // -b
	sourceFormat string // -F

}

// bitmap runs "qimg bitmap".
func (c *command) bitmap(args []string) error {
	b := &bitmapRun{}
	opts, operands, err := parse(args, "b:f:F:g:", "add remove clear enable disable merge: image-opts object: source-file:=b source-format:=F granularity:=g")
	if err != nil {
		return err
	}
	given := map[string]bool{}
	for _, o := range opts {
		ok, err := b.settings.set(o)
		if err != nil {
			return err
		} else if ok {
			continue
		}
		given[o.name] = true
		switch o.name {
		case "b":
			b.source = o.value
		case "F":
			b.sourceFormat = o.value
		case "g":
			if b.granularity, err = size(o.value, "granularity"); err != nil {
				return err
			}
		default:
			b.actions = append(b.actions, o)
		}
	}
	switch {
	case len(b.actions) == 0:
		return message("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge")
	case given["g"] && b.granularity != 0 && !given["add"]:
		return message("granularity only supported with --add")
	case given["F"] && !given["b"]:
		return message("-F only supported with -b")
	case given["b"] && !given["merge"]:
		return message("Merge bitmap source file only supported with --merge")
	case len(operands) != 2:
		return message("Expecting filename and bitmap name")
	}
	return c.onBitmap(operands[0], operands[1], b)
}

// onBitmap does to a bitmap of an image what is asked for.
func (c *command) onBitmap(file, name string, b *bitmapRun) (err error) {
	o := c.writing(&b.settings)
	img, err := c.open(file, o)
	if err != nil {
		return err
	}
	defer closing(img, &err)
	src := img
	if b.source != "" {
		s := c.options(&settings{format: b.sourceFormat, secrets: b.secrets})
		s.NoBacking = true
		if src, err = imgopen.Open(b.source, s); err != nil {
			return err
		}
		defer closing(src, &err)
	}
	for _, a := range b.actions {
		if err := c.bitmapAction(img, src, name, a, b.granularity); err != nil {
			return messagef("Operation %s on bitmap %s failed: %v", a.name, name, err)
		}
	}
	return nil
}

func (c *command) bitmapAction(img, src *imgopen.Image, name string, a option, granularity int64) error {
	im := img.Qcow2
	switch {
	case im == nil:
		return messagef("Images of format '%s' have no bitmaps", img.Format)
	case src.Qcow2 == nil && a.name == "merge":
		return messagef("Dirty bitmap '%s' not found", a.value)
	}
	var err error
	switch a.name {
	case "add":
		err = im.AddBitmap(name, &qcow2.BitmapOptions{Granularity: granularity})
	case "remove":
		err = im.RemoveBitmap(name)
	case "clear":
		err = im.ClearBitmap(name)
	case "enable":
		err = im.EnableBitmap(name)
	case "disable":
		err = im.DisableBitmap(name)
	case "merge":
		err = im.MergeBitmap(c.ctx, name, src.Qcow2, a.value)
	}
	switch {
	case errors.Is(err, qcow2.ErrBitmapExists):
		return messagef("Bitmap already exists: %s", name)
	case errors.Is(err, qcow2.ErrNoBitmap) && a.name == "merge" && hasBitmap(im, name):
		return messagef("Dirty bitmap '%s' not found", a.value)
	case errors.Is(err, qcow2.ErrNoBitmap):
		return messagef("Dirty bitmap '%s' not found", name)
	case a.name == "add" && name == "":
		return message("Bitmap name cannot be empty")
	case a.name == "add" && errors.Is(err, qcow2.ErrLimit) && granularity != 0 && (granularity < 512 || granularity&(granularity-1) != 0 || granularity > 1<<31):
		return message("Granularity must be power of 2 and at least 512")
	}
	return err
}

func hasBitmap(im *qcow2.Image, name string) bool {
	all, err := im.Bitmaps()
	return err == nil && slices.ContainsFunc(all, func(b qcow2.Bitmap) bool { return b.Name == name })
}

// checkBitmaps holds that a conversion can copy bitmaps.
func (v *conversion) checkBitmaps(images []*imgopen.Image) error {
	switch create, err := parseCreate(v.outFormat, v.options); {
	case err != nil:
		return err
	case len(images) > 1:
		return message("Copying bitmaps only possible with single source")
	case images[0].Qcow2 == nil || images[0].Qcow2.Header().Version < 3:
		return message("Source lacks bitmap support")
	case v.outFormat != "qcow2" && !v.targetOpts, create.get("compat") == "0.10", create.get("compat") == "v2":
		return messagef("Format driver '%s' does not support bitmaps", v.outFormat)
	}
	all, err := images[0].Qcow2.Bitmaps()
	if err != nil {
		return err
	}
	for _, b := range all {
		if b.InUse && !v.skipBroken {
			return messagef("Cannot copy inconsistent bitmap '%s'\nTry --skip-broken-bitmaps, or use 'qimg bitmap --remove'", b.Name)
		}
	}
	return nil
}

// bitmapsToTarget gives the target, which holds the disk already, the bitmaps of
// the source.
func (c *command) bitmapsToTarget(v *conversion, src *qcow2.Image) (err error) {
	o := c.options(&settings{format: v.outFormat, secrets: v.secrets, imageOpts: v.targetOpts})
	if v.targetOpts {
		o.Format = ""
	}
	o.MetadataOnly = true
	dst, err := c.openTarget(v, v.target, o)
	if err != nil {
		return err
	}
	defer closing(dst, &err)
	all, err := src.Bitmaps()
	if err != nil {
		return err
	}
	for _, b := range all {
		if b.InUse {
			c.warn(fmt.Sprintf("qimg: warning: Skipping inconsistent bitmap '%s'", b.Name))
			continue
		}
		err := dst.Qcow2.AddBitmap(b.Name, &qcow2.BitmapOptions{Granularity: b.Granularity, Disabled: !b.Enabled})
		if errors.Is(err, qcow2.ErrBitmapExists) {
			err = messagef("Bitmap already exists: %s", b.Name)
		}
		if err != nil {
			return messagef("Failed to create bitmap %s: %v", b.Name, err)
		}
		if err := dst.Qcow2.MergeBitmap(c.ctx, b.Name, src, b.Name); err != nil {
			return messagef("Failed to populate bitmap %s: %v", b.Name, err)
		}
	}
	return nil
}
