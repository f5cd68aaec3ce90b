package qed

import (
	"errors"
	"fmt"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
)

// Resize makes the disk size bytes long, rounded up to a multiple of
// [SectorSize]. The format cannot shrink a disk: that is
// [errors.ErrUnsupported]. The change is durable when Resize returns. Other
// calls wait meanwhile.
func (img *Image) Resize(size int64) error {
	return img.changeHeader(func(h *Header) error {
		if size < 0 || size > h.MaxImageSize() {
			return badf(48, "image_size", "%d: %w of %d for this geometry", size, ErrLimit, h.MaxImageSize())
		}
		size = align.Up(size, SectorSize)
		if size < h.ImageSize {
			return &UnsupportedError{Feature: "shrinking a disk"}
		}
		h.ImageSize = size
		return nil
	})
}

// ChangeBacking makes the image name another backing file, or none where name
// is empty, and opens it through [Options.OpenBacking]; the one before is
// closed. What the disk reads as changes with it, see [Image.Rebase]. The
// image stores of the format only whether it is "raw". Images with unknown
// compatible features are refused, because the name might take their place.
// The change is durable when ChangeBacking returns.
func (img *Image) ChangeBacking(name, format string) error {
	if name != "" && format == "" {
		return badf(16, "features", "a backing file without its format")
	}
	return img.changeHeader(func(h *Header) error {
		if h.CompatFeatures != 0 {
			return &UnsupportedError{Feature: fmt.Sprintf("another backing file in an image with compatible features %#x", h.CompatFeatures)}
		}
		return img.changeBacking(h, name, format)
	})
}

// changeHeader changes and writes the header while nothing else goes on.
func (img *Image) changeHeader(change func(h *Header) error) error {
	img.life.Lock()
	defer img.life.Unlock()
	if err := img.mayWrite(0, 0); err != nil {
		return err
	}
	h := img.h
	if err := change(&h); err != nil {
		return err
	}
	if err := img.settle(); err != nil {
		return err
	}
	if err := img.writeHeader(&h); err != nil {
		return img.stick(err)
	}
	img.h = h
	img.size.Store(h.ImageSize)
	return nil
}

// changeBacking opens the new backing file and puts its name into h.
func (img *Image) changeBacking(h *Header, name, format string) error {
	old := *h
	if err := h.setBacking(name, format); err != nil {
		return err
	}
	next := &Image{h: *h, opts: img.opts}
	next.opts.BackingFormat = format
	if err := next.openBacking(); err != nil {
		return err
	}
	if err := img.placeName(&old, h); err != nil {
		return errors.Join(err, next.closeOwned())
	}
	err := img.closeOwned()
	img.backing, img.owned, img.opts.BackingFormat = next.backing, next.owned, format
	return err
}

// placeName writes the name of the backing file, so that the fixed fields, one
// sector, can switch to it at once: a short name lies in that sector too and
// is written by the next write of it, a longer one goes where the old name is
// not and is durable first.
func (img *Image) placeName(old, h *Header) error {
	if h.BackingFile != "" && !h.shortName() {
		h.BackingNameOffset = longNameOffset
		if old.BackingNameOffset < 2*longNameOffset && int64(old.BackingNameOffset)+int64(len(old.BackingFile)) > longNameOffset {
			h.BackingNameOffset = 2 * longNameOffset
		}
	}
	if h.shortName() {
		return nil
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
