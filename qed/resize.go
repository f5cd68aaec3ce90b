package qed

import "github.com/virtfmt/virtfmt/internal/align"

// Resize makes the disk size bytes long, rounded up to a multiple of
// [SectorSize]. What is new reads as zeros, also where a backing file is longer
// than the disk was. The format cannot shrink a disk: that is
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
		old := h.ImageSize
		h.ImageSize = size
		return img.hideBacking(guestOff(old), size)
	})
}

// hideBacking makes zeros of what the backing file holds from the end of the
// disk up to size, before the disk reaches there.
func (img *Image) hideBacking(end guestOff, size int64) error {
	if img.unopened() {
		return ErrMetadataOnly
	}
	if img.backing == nil {
		return nil
	}
	for size = min(size, img.backing.Size()); int64(end) < size; {
		n, err := img.zeroSome(end, size-int64(end))
		if err == nil {
			err = img.limitDirty()
		}
		if err != nil {
			return err
		}
		end += guestOff(n)
	}
	return nil
}

// changeHeader changes and writes the header while nothing else goes on.
func (img *Image) changeHeader(change func(h *Header) error) error {
	img.life.Lock()
	defer img.life.Unlock()
	if err := img.mayChange(); err != nil {
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
