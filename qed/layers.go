package qed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/virtfmt/virtfmt/internal/block"
)

// CommitOptions says how an image is committed; nil and zero fields are the
// defaults:
//
//	Layers   int  // how many: 1 the image itself, 2 its backing file too, ...; default 1
//	Keep     bool // has no effect: an image cannot be emptied
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
// writing. It becomes as long as the disk if it is shorter, and is durable when
// Commit returns. The image stays as it is, because the format has no way to
// give up a cluster. Whatever fails, and if the power does, the disk reads as
// before; the backing file on its own may have become a part of what it was to
// be. What is written to the image meanwhile may be committed or not.
//
// target should be what [Options.OpenBacking] returned. If it is another
// opening of the same file, what the image knows of its backing file may be
// outdated by then: close the image and open it again.
//
// The error is [ErrNoBacking] if there is no backing file; a failure to copy is
// a [*CopyError].
func (img *Image) Commit(ctx context.Context, target io.WriterAt, o *CommitOptions) error {
	opts := o.WithDefaults()
	for d, n := Disk(img), 0; n < opts.Layers; n++ {
		b, ok := d.(interface{ Backing() Disk })
		if !ok || b.Backing() == nil {
			if img.opts.MetadataOnly {
				return ErrMetadataOnly
			}
			return fmt.Errorf("%w: %d layers were to be committed", ErrNoBacking, opts.Layers)
		}
		d = b.Backing()
	}
	return block.Commit(ctx, target, img, &opts)
}

// ChangeBacking makes the image name another backing file, or none where name
// is empty, and opens it through [Options.OpenBacking]; the one before is
// closed. What the disk reads as changes with it, see [Image.Rebase]. The
// image stores of the format only whether it is "raw". Images with unknown
// compatible features are refused, because the name might take their place.
// The change is durable when ChangeBacking returns; after a power cut the image
// names the one or the other. Other calls wait meanwhile.
func (img *Image) ChangeBacking(name, format string) error {
	return img.changeBacking(name, format, func(Disk) error { return nil })
}

// Rebase is [Image.ChangeBacking] that keeps what the disk reads as, as
// "qemu-img rebase" does: where the image holds nothing itself, it gets what
// the backing files differ in. With an empty name it gets all that it lacks to
// stand alone. Whatever fails, and if the power does, the disk reads as before.
// A failure to compare or copy is a [*CopyError]. Other calls wait meanwhile.
func (img *Image) Rebase(ctx context.Context, name, format string, o *RebaseOptions) error {
	if img.opts.MetadataOnly {
		return ErrMetadataOnly
	}
	return img.changeBacking(name, format, func(next Disk) error {
		return block.Rebase(ctx, quiet{img}, img.backing, next, img.geo.clusterSize(), o)
	})
}

// changeBacking opens and names another backing file, after prepare.
func (img *Image) changeBacking(name, format string, prepare func(next Disk) error) error {
	if name != "" && format == "" {
		return badf(16, "features", "a backing file without its format")
	}
	img.life.Lock()
	defer img.life.Unlock()
	if err := img.mayChange(); err != nil {
		return err
	}
	h := img.h
	if h.CompatFeatures != 0 {
		return &UnsupportedError{Feature: fmt.Sprintf("another backing file in an image with compatible features %#x", h.CompatFeatures)}
	}
	if err := h.setBacking(name, format); err != nil {
		return err
	}
	next := &Image{h: h, opts: img.opts}
	next.opts.BackingFormat = format
	if err := next.openBacking(); err != nil {
		return err
	}
	err := prepare(next.backing)
	if err == nil {
		err = img.settle()
	}
	if err == nil {
		err = img.placeName(&h)
	}
	if err == nil {
		err = img.stick(img.writeHeader(&h))
	}
	if err != nil {
		return errors.Join(err, next.closeOwned())
	}
	err = img.closeOwned()
	img.h, img.backing, img.owned, img.opts.BackingFormat = h, next.backing, next.owned, format
	return err
}

// placeName writes the name of the backing file, so that the fixed fields, one
// sector, can switch to it at once: a short name lies in that sector too and
// is written by the next write of it, a longer one goes where the old name is
// not and is durable first.
func (img *Image) placeName(h *Header) error {
	if h.BackingFile == "" || h.shortName() {
		return nil
	}
	h.BackingNameOffset = longNameOffset
	if old := img.h; old.BackingNameOffset < 2*longNameOffset && int64(old.BackingNameOffset)+int64(len(old.BackingFile)) > longNameOffset {
		h.BackingNameOffset = 2 * longNameOffset
	}
	if _, err := img.f.WriteAt([]byte(h.BackingFile), int64(h.BackingNameOffset)); err != nil {
		return fmt.Errorf("qed: backing file name: %w", err)
	}
	if err := block.Sync(img.f); err != nil {
		return img.stick(fmt.Errorf("qed: backing file name: %w", err))
	}
	return nil
}

// longNameOffset is where a name goes that does not fit into the first sector,
// or twice as far. The smallest header has room for both.
const longNameOffset = 1024

// A quiet image is one whose life the caller holds exclusively.
type quiet struct{ *Image }

func (q quiet) ReadAt(p []byte, off int64) (int, error)  { return q.readAt(p, off) }
func (q quiet) WriteAt(p []byte, off int64) (int, error) { return q.write(p, off) }
func (q quiet) WriteZeroesAt(off, n int64) error         { return q.zero(off, n) }

func (q quiet) Extents(off, n int64) iter.Seq2[Extent, error] {
	return q.extents(off, n, func(off guestOff, n int64) (run, Disk, error) {
		r, err := q.lookup(off, n)
		return r, q.backing, err
	})
}
