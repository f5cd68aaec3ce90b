package main

import (
	"fmt"
	"iter"
	"slices"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/examples/internal/nbd"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/qcow2"
)

// open makes the export of an image.
func (c *config) open(img *imgopen.Image) error {
	e := &c.export
	e.Disk = img
	if c.snapshot != "" {
		d, err := img.Snapshot(c.snapshot)
		if err != nil {
			return err
		}
		e.Disk = d
	}
	if !c.readOnly {
		w := img.Writer()
		if w == nil {
			return fmt.Errorf("could not open '%s': images of format %s are read-only", c.name, img.Format)
		}
		e.Writable, e.Disk = true, writable(img, w, c.discard)
	}
	if c.bitmap == "" {
		return nil
	}
	return c.addBitmap(img)
}

// addBitmap offers a persistent bitmap.
func (c *config) addBitmap(img *imgopen.Image) error {
	var list []qcow2.Bitmap
	if img.Qcow2 != nil && c.snapshot == "" {
		var err error
		if list, err = img.Qcow2.Bitmaps(); err != nil {
			return err
		}
	}
	i := slices.IndexFunc(list, func(b qcow2.Bitmap) bool { return b.Name == c.bitmap })
	switch {
	case i < 0:
		return fmt.Errorf("bitmap '%s' is not found", c.bitmap)
	case list[i].InUse:
		return fmt.Errorf("bitmap '%s' is inconsistent and cannot be used", c.bitmap)
	case list[i].Enabled && c.readOnly:
		return fmt.Errorf("enabled bitmap '%s' incompatible with readonly export", c.bitmap)
	}
	c.export.Bitmaps = []nbd.Bitmap{{Name: c.bitmap, Dirty: func(off, n int64) iter.Seq2[int64, int64] {
		return func(yield func(start, n int64) bool) {
			for r, err := range img.Qcow2.DirtyRanges(c.bitmap) {
				if err != nil { // what is not known counts as dirty
					yield(off, n)
					return
				}
				start, end := max(off, r.Start), min(off+n, r.Start+r.Length)
				if r.Start >= off+n || start < end && !yield(start, end-start) {
					return
				}
			}
		}
	}}}
	return nil
}

// A rwDisk is a disk and what it is written by.
type rwDisk struct {
	block.Disk
	w imgopen.Writer
}

// A discardDisk is one of which clients may discard parts.
type discardDisk struct {
	rwDisk
	d interface{ DiscardAt(off, n int64) error }
}

// writable returns a disk that clients may write to and, if they may, and the
// format knows how, discard parts of.
func writable(d block.Disk, w imgopen.Writer, discard bool) block.Disk {
	rw := rwDisk{d, w}
	if x, ok := w.(interface{ DiscardAt(off, n int64) error }); ok && discard {
		return discardDisk{rw, x}
	}
	return rw
}

func (d rwDisk) WriteAt(p []byte, off int64) (int, error) { return d.w.WriteAt(p, off) }
func (d rwDisk) Sync() error                              { return d.w.Sync() }

// WriteZeroesAt makes the n bytes at off zeros.
func (d rwDisk) WriteZeroesAt(off, n int64) error {
	if z, ok := d.w.(block.ZeroWriter); ok {
		return z.WriteZeroesAt(off, n)
	}
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		m, err := d.w.WriteAt(zeros[:min(n, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(m), n-int64(m)
	}
	return nil
}

func (d discardDisk) DiscardAt(off, n int64) error { return d.d.DiscardAt(off, n) }
