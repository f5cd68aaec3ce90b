package main

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"strings"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/block"
)

// A ddRun is a run of "qimg dd".
type ddRun struct {
	settings
	outFormat       string
	in, out         string
	block           int64
	count           int64 // or -1
	skip            int64
	haveIn, haveOut bool
}

// dd runs "qimg dd".
func (c *command) dd(args []string) error {
	d := &ddRun{outFormat: "raw", block: 512, count: -1}
	opts, operands, err := parse(args, "f:O:U", "object: image-opts force-share=U")
	if err != nil {
		return err
	}
	for _, o := range opts {
		if ok, err := d.settings.set(o); err != nil {
			return err
		} else if !ok {
			d.outFormat = o.value
		}
	}
	for _, operand := range operands {
		if err := d.set(operand); err != nil {
			return err
		}
	}
	if !d.haveIn || !d.haveOut {
		return message("Must specify both input and output files")
	}
	return c.runDD(d)
}

// set takes an operand such as bs=1M.
func (d *ddRun) set(operand string) (err error) {
	key, value, ok := strings.Cut(operand, "=")
	if !ok {
		return messagef("unrecognized operand %s", key)
	}
	switch key {
	case "if":
		d.in, d.haveIn = value, true
	case "of":
		d.out, d.haveOut = value, true
	case "bs":
		if d.block, err = size(value, "bs"); err == nil && (d.block < 1 || d.block > math.MaxInt32) {
			err = message("Invalid bs specified. Must be between 1 and 2147483647.")
		}
	case "count":
		d.count, err = size(value, "count")
	case "skip":
		d.skip, err = size(value, "skip")
	default:
		return messagef("unrecognized operand %s", key)
	}
	return err
}

func (c *command) runDD(d *ddRun) (err error) {
	img, err := c.open(d.in, c.options(&d.settings))
	if err != nil {
		return err
	}
	defer closing(img, &err)
	// The count is from the start of the disk, and what is skipped a part of it.
	end := img.Size()
	if d.count >= 0 && d.count < math.MaxInt64/d.block {
		end = min(end, d.count*d.block)
	}
	start := int64(math.MaxInt64)
	if d.skip <= math.MaxInt64/d.block {
		start = d.skip * d.block
	}
	src := window{img, min(start, end), end}
	create, err := newValues(d.outFormat, nil)
	if err != nil {
		return message("Unknown file format")
	}
	create.value["size"] = fmt.Sprint(src.Size())
	failed := func(err error) error { return messagef("%s: error while creating output image: %v", d.out, err) }
	path, err := imgopen.Path(d.out)
	if err != nil {
		return failed(err)
	}
	v := &conversion{target: path, outFormat: d.outFormat}
	if v.notASource([]*imgopen.Image{img}) != nil {
		return failed(messagef("Failed to get \"write\" lock\nIs another process using the image [%s]?", d.out))
	}
	if err := c.makeImage(path, create, d.secrets); err != nil {
		return failed(err)
	}
	dst, err := c.openTarget(v, path, c.options(&settings{format: d.outFormat}))
	if err != nil {
		return err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return errors.Join(err, dst.Close())
	}
	if start > end {
		c.warn(fmt.Sprintf("qimg: %s: cannot skip to specified offset", d.in))
	}
	return c.copyTo(v, dst, src, &block.CopyOptions{KeepSize: true, Zeroed: fi.Mode().IsRegular()})
}

// A window is the bytes of a disk from one offset to another.
type window struct {
	block.Disk
	start, end int64
}

func (w window) Size() int64 { return w.end - w.start }

func (w window) ReadAt(p []byte, off int64) (int, error) { return w.Disk.ReadAt(p, w.start+off) }

func (w window) Extents(off, n int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		for x, err := range w.Disk.Extents(w.start+off, max(0, min(n, w.Size()-off))) {
			x.Start -= w.start
			if !yield(x, err) {
				return
			}
		}
	}
}
