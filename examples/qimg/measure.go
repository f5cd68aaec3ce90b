package main

import (
	"errors"
	"fmt"
	"iter"

	"github.com/virtfmt/virtfmt/examples/internal/imginfo"
	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/qcow2"
)

// A measuring is a run of "qimg measure".
type measuring struct {
	settings
	outFormat string
	options   []string
	snapshot  string
	hasSource bool  // options that speak of a source are given
	size      int64 // or -1
	hasSnap   bool
}

// measure runs "qimg measure".
func (c *command) measure(args []string) error {
	m := &measuring{outFormat: "raw", size: -1}
	opts, operands, err := parse(args, "f:l:o:O:U", "image-opts object: output: size: force-share=U")
	if err != nil {
		return err
	}
	for _, o := range opts {
		ok, err := m.settings.set(o)
		switch {
		case ok || err != nil:
		case o.name == "l":
			m.snapshot, m.hasSnap = o.value, true
		case o.name == "o":
			if err = optionList(o.value); err != nil {
				return err
			}
			m.options = append(m.options, o.value)
		case o.name == "O":
			m.outFormat = o.value
		default:
			m.size, err = size(o.value, "image size")
		}
		if err != nil {
			return err
		}
	}
	m.hasSource = m.imageOpts || m.format != "" || m.hasSnap
	switch {
	case len(operands) > 1:
		return message("At most one filename argument is allowed.")
	case len(operands) == 0 && m.hasSource:
		return message("--image-opts, -f, and -l require a filename argument.")
	case len(operands) == 0 && m.size < 0:
		return message("Either --size N or one filename must be specified.")
	case len(operands) == 1 && m.size >= 0:
		return message("--size N cannot be used together with a filename.")
	}
	if len(operands) == 0 {
		return c.measureDisk(m, nil)
	}
	return c.measureImage(m, operands[0])
}

func (c *command) measureImage(m *measuring, name string) (err error) {
	img, err := c.open(name, c.options(&m.settings))
	if err != nil {
		return err
	}
	defer closing(img, &err)
	src := block.Disk(mapped{img})
	if m.hasSnap {
		d, err := img.Snapshot(m.snapshot)
		if err != nil {
			return err
		}
		defer closing(d, &err)
		src = d
	}
	return c.measureDisk(m, src)
}

// measureDisk prints how large an image of a disk becomes, or if src is nil of
// an empty one.
func (c *command) measureDisk(m *measuring, src block.Disk) error {
	if imgopen.Foreign(m.outFormat) {
		return messagef("Block driver '%s' does not support size measurement", m.outFormat)
	}
	v, err := newValues(m.outFormat, m.options)
	if err != nil && createOptions(m.outFormat) != nil {
		err = messagef("%v\nInvalid options for file format '%s'", err, m.outFormat)
	}
	if err != nil {
		return err
	}
	if src != nil {
		m.size = src.Size()
	}
	var r qcow2.Measurement
	switch m.outFormat {
	case "raw", "file":
		r.Required = align.Up(m.size, 512)
		r.FullyAllocated = r.Required
	case "qcow2":
		if s := v.get("compat"); s != "" && s != "0.10" && s != "1.1" {
			return messagef("Invalid compatibility level: '%s'", s)
		}
		delete(v.value, "data_file") // it counts as a part of the image
		delete(v.value, "data_file_raw")
		if v.get("encrypt.format") == "aes" || v.on("encryption") { // takes no space
			delete(v.value, "encrypt.format")
			delete(v.value, "encryption")
			delete(v.value, "encrypt.key-secret")
		}
		o, err := c.qcow2Options(v, m.secrets)
		if err != nil {
			return err
		}
		r, err = c.measureQcow2(m, src, o)
		if errors.Is(err, qcow2.ErrLimit) {
			err = message("The image size is too large (try using a larger cluster size)")
		}
		if err != nil {
			return err
		}
	default:
		return messagef("Block driver '%s' does not support size measurement", m.outFormat)
	}
	return c.printMeasure(m, r, m.outFormat == "qcow2" && bitmapSource(src) != nil)
}

func (c *command) measureQcow2(m *measuring, src block.Disk, o *qcow2.CreateOptions) (r qcow2.Measurement, err error) {
	if src == nil {
		return qcow2.Measure(m.size, o)
	}
	if r, err = qcow2.MeasureDisk(c.ctx, src, o); err != nil {
		return r, err
	}
	if im := bitmapSource(src); im != nil {
		own, err := qcow2.MeasureDisk(c.ctx, im, o)
		r.Bitmaps = own.Bitmaps
		return r, err
	}
	return r, nil
}

// bitmapSource returns the image that a disk is, if it can have bitmaps.
func bitmapSource(src block.Disk) *qcow2.Image {
	if d, ok := src.(mapped); ok && d.Qcow2 != nil && d.Qcow2.Header().Version >= 3 {
		return d.Qcow2
	}
	return nil
}

// A mapped disk has the extents that map tells: data in holes of a file counts
// as zeros.
type mapped struct{ *imgopen.Image }

func (d mapped) Extents(off, n int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		for s, err := range statuses(d.Image, off, n) {
			x := block.Extent{Start: s.start, Length: s.length, Kind: block.Data, HostOffset: s.offset, Depth: s.depth}
			switch {
			case s.zero && s.present:
				x.Kind = block.Zero
			case s.zero:
				x.Kind = block.Unallocated
			}
			if !yield(x, err) {
				return
			}
		}
	}
}

func (c *command) printMeasure(m *measuring, r qcow2.Measurement, bitmaps bool) error {
	if m.json {
		o := imginfo.Object{{"required", r.Required}, {"fully-allocated", r.FullyAllocated}}
		if bitmaps {
			o.Add("bitmaps", r.Bitmaps)
		}
		return imginfo.WriteJSON(c.stdout, o)
	}
	fmt.Fprintf(c.stdout, "required size: %d\nfully allocated size: %d\n", r.Required, r.FullyAllocated)
	if bitmaps {
		fmt.Fprintf(c.stdout, "bitmaps size: %d\n", r.Bitmaps)
	}
	return nil
}
