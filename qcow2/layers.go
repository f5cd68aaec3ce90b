package qcow2

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/virtfmt/virtfmt/internal/block"
)

// CommitOptions says how an image is committed; nil and zero fields are the
// defaults:
//
//	Layers   int  // how many: 1 the image itself, 2 its backing file too, ...; default 1
//	Keep     bool // do not empty the image; so it is anyway with 2 Layers and more
//	Grow     func(size int64) error   // makes the target longer; default: its Resize or Truncate
//	Workers  int                      // pieces at a time, at most 64; default 4 to 16
//	Progress func(done, total int64)  // is told of bytes of the disk
type CommitOptions = block.CommitOptions

// RebaseOptions says how an image is rebased; nil and zero fields are the
// defaults:
//
//	Workers  int                      // pieces at a time, at most 64; default 4 to 16
//	Progress func(done, total int64)  // is told of bytes of the disk
type RebaseOptions = block.RebaseOptions

// Commit writes what the image holds itself to its backing file, as
// "qemu-img commit" does: target, an image or a raw file that is open for
// writing. It becomes as long as the disk if it is shorter; is durable when
// Commit returns; and the image, unless [CommitOptions] tell otherwise, is
// emptied after that, so that it shows its backing file. Whatever fails, and
// if the power does, the disk reads as before; the backing file on its own may
// have become a part of what it was to be.
//
// target should be what [Options.OpenBacking] returned. If it is another
// opening of the same file, what the image knows of its backing file may be
// outdated by then: close the image and open it again.
//
// Writes wait meanwhile. The error is [ErrNoBacking] if there is no backing
// file; a failure to copy is a [*CopyError].
func (im *Image) Commit(ctx context.Context, target io.WriterAt, o *CommitOptions) error {
	opts := o.WithDefaults()
	for d, n := Disk(im), 0; n < opts.Layers; n++ {
		b, ok := d.(interface{ Backing() Disk })
		if !ok || b.Backing() == nil {
			if im.backingUnopened.Load() {
				return ErrMetadataOnly
			}
			return fmt.Errorf("%w: %d layers were to be committed", ErrNoBacking, opts.Layers)
		}
		d = b.Backing()
	}
	if to, ok := target.(*Image); ok && opts.Grow == nil {
		opts.Grow = func(size int64) error { return to.Resize(ctx, size, nil) }
	}
	if opts.Keep {
		im.gate.Lock()
		defer im.gate.Unlock()
		if im.closed.Load() {
			return ErrClosed
		}
		return block.Commit(ctx, target, im, &opts)
	}
	return im.change(false, func(c *change) error {
		if err := im.writable(); err != nil {
			return err
		}
		if err := block.Commit(ctx, target, im, &opts); err != nil {
			return err
		}
		return c.empty()
	})
}

// empty makes the active mapping hold nothing.
func (c *change) empty() error {
	for i := range c.im.active.entries {
		if err := c.dropTable(i); err != nil {
			return err
		}
		if err := c.im.tidy(); err != nil {
			return err
		}
	}
	return nil
}

// dropTable makes an L1 entry empty, and unlinks the L2 table and what that
// points to.
func (c *change) dropTable(i int) error {
	im := c.im
	im.mu.RLock()
	table := im.active.at(int64(i))
	err := im.checkL1Entry(im.active, int64(i), table)
	im.mu.RUnlock()
	if err != nil || table.offset() == 0 {
		return err
	}
	var used []l2Entry
	err = im.eachEntry(int64(i)<<im.l2Bits(), 1<<im.l2Bits(), func(guest int64, e entry, at int64) (bool, error) {
		if e.l2Entry != 0 {
			used = append(used, e.l2Entry)
		}
		return true, im.checkAny(e, im.kind(e.l2Entry), guestOff(guest)<<im.clusterBits, at)
	})
	if err != nil {
		return err
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	for _, e := range used {
		im.unlinkEntry(e, freedDiscard)
	}
	l1Table(im.active.l1.Modify(i*l1EntrySize, l1EntrySize)).set(i, 0)
	im.unlink(im.cluster(table.offset()), 1, freedTable)
	return nil
}

// ChangeBacking makes the image name another backing file and its format, such
// as "raw" or "qcow2", or none where name is empty, and opens it through
// [Options.OpenBacking], unless the image is open for its metadata only. What
// the disk reads as changes with it: see [Image.Rebase]. The one before stays
// open until the image is closed.
//
// The error is [ErrLimit] if the name does not fit into the header. The change
// is durable when ChangeBacking returns; after a power cut the image names the
// one or the other, unless a cluster of 1 or 2 KiB has no room for both.
func (im *Image) ChangeBacking(name, format string) error {
	return im.changeBacking(name, format, func(*change, Disk) error { return nil })
}

// Rebase is [Image.ChangeBacking] that keeps what the disk reads as, as
// "qemu-img rebase" does: where the image holds nothing itself, it gets what
// the backing files differ in. With an empty name it gets all that it lacks to
// stand alone.
//
// Writes wait meanwhile. Whatever fails, and if the power does, the disk reads
// as before. A failure to compare or copy is a [*CopyError].
func (im *Image) Rebase(ctx context.Context, name, format string, o *RebaseOptions) error {
	if im.backingUnopened.Load() {
		return ErrMetadataOnly
	}
	return im.changeBacking(name, format, func(c *change, next Disk) error {
		if err := im.writable(); err != nil {
			return err
		}
		err := block.Rebase(ctx, gated{im}, im.Backing(), next, im.subclusterSize(), o)
		// What was written stays, if there is an error too, and with it the
		// place of the refcount table, which may have moved.
		c.publish(func(*Header) {})
		if err != nil {
			return err
		}
		return c.flush()
	})
}

// changeBacking opens and names another backing file, after prepare.
func (im *Image) changeBacking(name, format string, prepare func(c *change, next Disk) error) error {
	if err := im.checkNewBacking(name, format); err != nil {
		return err
	}
	next, err := im.openBackingFile(name, format)
	if err != nil {
		return err
	}
	taken := false
	err = im.change(false, func(c *change) error {
		if err := prepare(c, next); err != nil {
			return err
		}
		taken = true
		c.header(func(h *Header) { h.setBacking(name, format) })
		im.setBackingDisk(next)
		im.backingUnopened.Store(name != "" && next == nil)
		im.closeLater(next)
		return nil
	})
	if c, ok := next.(io.Closer); ok && !taken {
		err = errors.Join(err, c.Close())
	}
	return err
}

// A gated is an image whose gate the caller holds exclusively.
type gated struct{ *Image }

func (g gated) WriteAt(p []byte, off int64) (int, error) {
	if err := g.record(off, int64(len(p))); err != nil {
		return 0, err
	}
	n, err := g.wholeSectors(p, guestOff(off), g.write)
	if err == nil {
		err = g.tidy()
	}
	return n, err
}

func (g gated) WriteZeroesAt(off, n int64) error {
	err := g.record(off, n)
	if err == nil {
		err = g.zero(guestOff(off), n, false)
	}
	if err == nil {
		err = g.tidy()
	}
	return err
}

// setBacking names another backing file, or none.
func (h *Header) setBacking(name, format string) {
	h.BackingFile = name
	if name == "" {
		h.setExtension(ExtensionBackingFormat, nil)
		return
	}
	h.setExtension(ExtensionBackingFormat, []byte(format))
}

// checkNewBacking refuses a backing file that the header cannot name.
func (im *Image) checkNewBacking(name, format string) error {
	switch {
	case im.w == nil:
		return ErrReadOnly
	case name != "" && format == "":
		return fmt.Errorf("qcow2: backing file %q without its format", name)
	case len(format) > maxFormatName:
		return fmt.Errorf("qcow2: format of the backing file: %w of %d bytes", ErrLimit, maxFormatName)
	case name != "" && im.externalRaw:
		return unsupportedf("a backing file beside a raw external data file")
	}
	h := im.Header()
	h.setBacking(name, format)
	_, err := h.AppendBinary(nil)
	return err
}
