package main

import (
	"fmt"
	"math/bits"
	"os"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/block"
)

// A conversion is a run of "qimg convert".
type conversion struct {
	settings
	target        string
	sources       []string
	outFormat     string // -O
	backing       string // -B
	backingFormat string // -F
	hasBacking    bool
	options       []string // -o
	snapshot      string   // -l
	hasSnapshot   bool
	sparse        int64 // -S, or -1
	rate          int64 // -r
	workers       int   // -m
	compress      bool
	exists        bool // -n
	offload       bool // -C
	salvage       bool
	targetOpts    bool
	targetZero    bool
	bitmaps       bool
	skipBroken    bool
}

// convert runs "qimg convert".
func (c *command) convert(args []string) error {
	v := &conversion{outFormat: "raw", sparse: -1}
	v.cache = "unsafe"
	opts, operands, err := parse(args, "f:O:B:CcF:o:l:S:pt:T:qnm:WUr:",
		"source-image-opts=image-opts object: image-opts force-share=U target-image-opts salvage target-is-zero bitmaps skip-broken-bitmaps")
	if err != nil {
		return err
	}
	outGiven := false
	for _, o := range opts {
		ok, err := v.settings.set(o)
		if !ok && err == nil {
			err = v.set(o)
		}
		if err != nil {
			return err
		}
		outGiven = outGiven || o.name == "O"
	}
	if wantsHelp(v.options) {
		return c.optionHelp(v.outFormat, len(operands) > 0)
	}
	if len(operands) < 2 {
		if err := v.check(); err != nil {
			return err
		}
		return message("Must specify image file name")
	}
	v.sources, v.target = operands[:len(operands)-1], operands[len(operands)-1]
	if v.targetOpts && outGiven {
		return message("-O and --target-image-opts are mutually exclusive")
	}
	if err := v.check(); err != nil {
		return err
	}
	return c.runConversion(v)
}

// set takes an option of convert alone.
func (v *conversion) set(o option) (err error) {
	switch o.name {
	case "O":
		v.outFormat = o.value
	case "B":
		v.backing, v.hasBacking = o.value, true
	case "F":
		v.backingFormat = o.value
	case "C":
		v.offload = true
	case "c":
		v.compress = true
	case "o":
		v.options = append(v.options, o.value)
		err = optionList(o.value)
	case "S":
		if v.sparse, err = size(o.value, "buffer size for sparse output"); err == nil && (v.sparse%512 != 0 || v.sparse > 16<<20) {
			err = message("Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to 16777216. " +
				"Select 0 to disable sparse detection (fully allocates output).")
		}
	case "l":
		v.snapshot, v.hasSnapshot = o.value, true
	case "n":
		v.exists = true
	case "m":
		n, perr := parseNumber(o.value)
		if perr != nil || n < 1 || n > 16 {
			return message("Invalid number of coroutines. Allowed number of coroutines is between 1 and 16")
		}
		v.workers = int(n)
	case "W": // writes have no order anyway
	case "r":
		v.rate, err = size(o.value, "rate limit")
	case "salvage":
		v.salvage = true
	case "target-image-opts":
		v.targetOpts = true
	case "target-is-zero":
		v.targetZero = true
	case "bitmaps":
		v.bitmaps = true
	case "skip-broken-bitmaps":
		v.skipBroken = true
	}
	return err
}

// check holds that the options go together.
func (v *conversion) check() error {
	switch {
	case v.skipBroken && !v.bitmaps:
		return message("Use of --skip-broken-bitmaps requires --bitmaps")
	case v.targetOpts && !v.exists:
		return message("--target-image-opts requires use of -n flag")
	case v.targetZero && !v.exists:
		return message("--target-is-zero requires use of -n flag")
	case v.exists && len(v.options) > 0:
		return message("-o has no effect when skipping image creation")
	case v.offload && v.sparse >= 0:
		return message("Cannot enable copy offloading when -S is used")
	case v.offload && v.compress:
		return message("Cannot enable copy offloading when -c is used")
	case v.imageOpts && v.format != "":
		return errExclusive
	}
	return v.settings.check()
}

// runConversion opens the sources and converts them.
func (c *command) runConversion(v *conversion) (err error) {
	var disks []block.Disk
	var images []*imgopen.Image
	for _, name := range v.sources {
		img, err := c.open(name, c.options(&v.settings))
		if err != nil {
			return err
		}
		defer closing(img, &err)
		disks, images = append(disks, img), append(images, img)
	}
	if v.hasSnapshot {
		if len(images) > 1 {
			return message("No support for concatenating multiple snapshot")
		}
		d, err := images[0].Snapshot(v.snapshot)
		if err != nil {
			return err
		}
		defer closing(d, &err)
		disks[0] = d
	}
	if err := v.notASource(images); err != nil {
		return err
	}
	src := join(disks)
	if v.rate > 0 {
		src = &limited{src, &limiter{ctx: c.ctx, rate: v.rate}}
	}
	if v.sparse == 0 {
		src = solid(src)
	}
	if !v.bitmaps {
		return c.write(v, src)
	}
	if err := v.checkBitmaps(images); err != nil {
		return err
	}
	if err := c.write(v, src); err != nil {
		return err
	}
	return c.bitmapsToTarget(v, images[0].Qcow2)
}

// notASource refuses a target that is one of the files that is read.
func (v *conversion) notASource(images []*imgopen.Image) error {
	target, err := os.Stat(v.target)
	if err != nil || !target.Mode().IsRegular() {
		return nil
	}
	for _, img := range images {
		for layer := img; layer != nil; layer = layer.Below {
			for _, path := range []string{layer.Path, layer.Data} {
				if fi, err := os.Stat(path); err == nil && os.SameFile(fi, target) {
					return messagef("%s: error while converting %s: Failed to get \"write\" lock\nIs another process using the image [%s]?",
						v.target, v.outFormat, v.target)
				}
			}
		}
	}
	return nil
}

// copyOptions returns how the disk is copied to an image that is open.
func (c *command) copyOptions(v *conversion, p *progress) *block.CopyOptions {
	o := &block.CopyOptions{Workers: v.workers, KeepSize: true, Progress: p.show}
	switch {
	case v.offload || v.sparse == 0:
		o.Sparse = -1
	case v.sparse > 0:
		o.Sparse = min(1<<(bits.Len64(uint64(v.sparse))-1), 256<<10)
	}
	if v.salvage {
		o.ReadError = func(off, n int64, err error) error {
			if c.ctx.Err() != nil {
				return err
			}
			c.warn(fmt.Sprintf("qimg: warning: error while reading offset %d: %v", off, err))
			return nil
		}
	}
	return o
}

// convertingError adds what was being done to an error of making the target.
func (v *conversion) convertingError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: error while converting %s: %w", v.target, v.outFormat, err)
}

var errCompression error = message("Compression not supported for this file format")
