package main

import (
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
)

// The exit codes of compare besides 0.
const (
	exitDifferent = 1
	exitFailed    = 2 // an image cannot be opened
	exitUnmapped  = 3 // or does not tell what it stores
	exitUnread    = 4 // or cannot be read
)

// compare runs "qimg compare".
func (c *command) compare(args []string) error {
	var s settings
	var strict bool
	var second string
	opts, operands, err := parse(args, "f:F:T:pqsU", "object: image-opts force-share=U")
	if err != nil {
		return err
	}
	for _, o := range opts {
		if ok, err := s.set(o); err != nil {
			return failed(err)
		} else if ok {
			continue
		}
		switch o.name {
		case "s":
			strict = true
		case "F":
			if second = o.value; second == "" {
				return failed(errNoDriver)
			}
		}
	}
	if len(operands) != 2 {
		return usageError("Expecting two image file names")
	}
	if err := s.check(); err != nil {
		return failed(err)
	}
	return c.compareImages(operands, &s, second, strict)
}

// failed gives an error the exit code 2.
func failed(err error) error {
	var exit *exitError
	if err == nil || errors.As(err, &exit) || errors.Is(err, errHelp) {
		return err
	}
	return &exitError{exitFailed, err}
}

func (c *command) compareImages(names []string, s *settings, second string, strict bool) (err error) {
	a, err := c.open(names[0], c.options(s))
	if err != nil {
		return failed(err)
	}
	defer closing(a, &err)
	o := c.options(s)
	o.Format = second
	b, err := c.open(names[1], o)
	if err != nil {
		return failed(err)
	}
	defer closing(b, &err)
	return c.compareDisks(&compared{a, names[0]}, &compared{b, names[1]}, s, strict)
}

// A compared is an image whose errors have the exit codes of compare.
type compared struct {
	*imgopen.Image
	name string
}

func (d *compared) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.Image.ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = &exitError{exitUnread, messagef("Error while reading offset %d of %s: %v", off, d.name, err)}
	}
	return n, err
}

func (d *compared) Extents(off, n int64) iter.Seq2[block.Extent, error] {
	return unmapped(d, d.Image.Extents(off, n))
}

func (d *compared) statuses() iter.Seq2[status, error] {
	return unmapped(d, statuses(d.Image, 0, d.Size()))
}

// unmapped gives the errors of seq an exit code.
func unmapped[T any](d *compared, seq iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for v, err := range seq {
			if err != nil {
				err = &exitError{exitUnmapped, messagef("Sector allocation test failed for %s: %v", d.name, err)}
			}
			if !yield(v, err) {
				return
			}
		}
	}
}

// say prints what a quiet run does not.
func (c *command) say(s *settings, format string, args ...any) {
	if !s.quiet {
		fmt.Fprintf(c.stdout, format, args...)
	}
}

func (c *command) compareDisks(a, b *compared, s *settings, strict bool) error {
	if strict && a.Size() != b.Size() {
		c.say(s, "Strict mode: Image size mismatch!\n")
		return &exitError{code: exitDifferent}
	}
	p := c.newProgress(s)
	defer p.end()
	var at int64 = -1 // where what is stored is not the same
	if strict {
		var err error
		if at, err = statusMismatch(a, b); err != nil {
			return failed(err)
		}
	}
	x, y := block.Disk(a), block.Disk(b)
	if at >= 0 {
		x, y = front{a, at}, front{b, at}
	}
	d, err := block.Compare(c.ctx, x, y, &block.CompareOptions{Progress: p.show})
	if err != nil {
		return failed(err)
	}
	if a.Size() != b.Size() && (d == nil || d.Offset >= min(a.Size(), b.Size())) {
		c.say(s, "Warning: Image size mismatch!\n")
	}
	switch {
	case d != nil:
		c.say(s, "Content mismatch at offset %d!\n", align.Down(d.Offset, 512))
	case at >= 0:
		c.say(s, "Strict mode: Offset %d block status mismatch!\n", at)
	default:
		c.say(s, "Images are identical.\n")
		return nil
	}
	return &exitError{code: exitDifferent}
}

// statusMismatch returns where one image stores something and the other does
// not in the same way, or -1.
func statusMismatch(a, b *compared) (int64, error) {
	next, stop := iter.Pull2(b.statuses())
	defer stop()
	var other status
	for s, err := range a.statuses() {
		if err != nil {
			return 0, err
		}
		for at := s.start; at < s.end(); at = min(s.end(), other.end()) {
			for other.end() <= at {
				o, err, ok := next()
				if err != nil || !ok {
					return 0, err
				}
				other = o
			}
			if s.present != other.present || s.zero != other.zero || s.data != other.data || (s.offset < 0) != (other.offset < 0) ||
				knownToEnd(a.Image, s, at) != knownToEnd(b.Image, other, at) {
				return at, nil
			}
		}
	}
	return -1, nil
}

// knownToEnd reports whether qemu-img learns in one go that all from at to the
// end of the disk is like s. It counts that as a part of the status, and asks
// for no more than an L2 table tells, or 64 KiB of it.
func knownToEnd(img *imgopen.Image, s status, at int64) bool {
	if s.end() < img.Size() {
		return false
	}
	if img.Qcow2 == nil {
		return true
	}
	cluster := img.ClusterSize()
	table := min(cluster, 64<<10) / 8 * cluster
	return at/table == (img.Size()-1)/table
}

// A front is the first bytes of a disk.
type front struct {
	block.Disk
	size int64
}

func (f front) Size() int64 { return f.size }

func (f front) Extents(off, n int64) iter.Seq2[block.Extent, error] {
	return f.Disk.Extents(off, max(0, min(n, f.size-off)))
}
