package qcow2

import (
	"context"
	"errors"
	"fmt"
	"math/bits"

	"github.com/virtfmt/virtfmt/internal/safeio"
)

// AmendOptions says what [Image.Amend] changes. The zero value, like nil,
// changes nothing.
type AmendOptions struct {
	// Version is 2 (compat 0.10) or 3 (compat 1.1); 0 keeps it.
	Version int

	// LazyRefcounts turns lazy refcounts on or off; nil keeps them, but
	// version 2 has none.
	LazyRefcounts *bool

	// RefcountBits is the width of a refcount: a power of two from 1 to 64, and
	// 16 in version 2. 0 keeps it.
	RefcountBits int

	// DataFile is the name by which the external data file is found from now
	// on, "" for none: then whoever opens the image has to know. Nothing is
	// opened or moved, and this Image goes on with the file that it has. nil
	// keeps the name; an image without an external data file has none to change.
	DataFile *string

	// DataFileRaw false gives up that the external data file is a raw image of
	// the disk as well. It cannot become one. nil keeps what it is.
	DataFileRaw *bool
}

// Amend changes the format of the image as "qemu-img amend" does. What else
// that changes has functions of its own: [Image.Resize], [Image.Rebase],
// [Image.ChangeBacking], [Image.AddPassphrase], [Image.RemovePassphrase] and
// [Image.EraseSlot].
//
// Version 2 has no refcounts of another width than 16 bits, no incompatible
// features, no bitmaps, and no clusters of zeros: those of the disk are made
// something else. What cannot be in it is [errors.ErrUnsupported]; unlike with
// QEMU that goes for bitmaps, which would be lost, for zstd, which would be
// unreadable, and for clusters of zeros in snapshots. Fields and compatible
// features that only version 3 has are lost. A refcount that the new width has
// no room for is [ErrLimit]. What can be known before is refused before
// anything is changed; otherwise what comes first has been done: version 3, then
// what is known of the external data file, the refcounts, lazy refcounts, and
// version 2.
//
// A power cut leaves each of these as before or as after. Amend must not run
// concurrently with any other method of the image or of its snapshots.
func (im *Image) Amend(ctx context.Context, o *AmendOptions) error {
	var a AmendOptions
	if o != nil {
		a = *o
	}
	return im.change(false, func(c *change) error {
		if err := a.complete(im); err != nil {
			return err
		}
		if err := c.settle(); err != nil {
			return err
		}
		if a.Version == 3 && im.version == 2 {
			if err := c.upgrade(); err != nil {
				return err
			}
		}
		if err := c.setDataFile(&a); err != nil {
			return err
		}
		if order := uint(bits.TrailingZeros(uint(a.RefcountBits))); order != im.refcountOrder {
			if err := c.resizeRefcounts(ctx, order); err != nil {
				return err
			}
		}
		if err := c.setLazy(*a.LazyRefcounts); err != nil {
			return err
		}
		if a.Version == 2 && im.version == 3 {
			return c.downgrade(ctx)
		}
		return nil
	})
}

// complete fills in what is to stay, and reports what cannot be.
func (a *AmendOptions) complete(im *Image) error {
	h := im.Header()
	if a.Version == 0 {
		a.Version = int(h.Version)
	}
	if a.RefcountBits == 0 {
		a.RefcountBits = h.RefcountBits()
	}
	if a.LazyRefcounts == nil {
		lazy := a.Version == 3 && h.CompatibleFeatures&CompatLazyRefcounts != 0
		a.LazyRefcounts = &lazy
	}
	switch {
	case a.Version != 2 && a.Version != 3:
		return fmt.Errorf("qcow2: version %d: %w", a.Version, errors.ErrUnsupported)
	case a.RefcountBits < 1 || a.RefcountBits > 64 || a.RefcountBits&(a.RefcountBits-1) != 0:
		return fmt.Errorf("qcow2: refcounts of %d bits: %w: not a power of two from 1 to 64", a.RefcountBits, errors.ErrUnsupported)
	case a.Version == 2 && a.RefcountBits != 16:
		return unsupportedf("version 2 with refcounts of %d bits", a.RefcountBits)
	case a.Version == 2 && *a.LazyRefcounts:
		return unsupportedf("version 2 with lazy refcounts")
	case a.DataFile != nil && !im.external:
		return unsupportedf("name of a data file in an image without one")
	case a.DataFileRaw != nil && *a.DataFileRaw && !im.externalRaw:
		return unsupportedf("existing data file that becomes a raw image")
	case a.Version == 2 && h.Version == 3:
		return im.canDowngrade(h)
	}
	return nil
}

// canDowngrade reports what keeps the image from being one of version 2.
func (im *Image) canDowngrade(h *Header) error {
	if other := h.IncompatibleFeatures &^ IncompatDirty; other != 0 {
		return &UnsupportedError{Features: append([]string{"version 2"}, h.featureNames(FeatureIncompatible, other)...)}
	}
	if _, ok := h.Bitmaps(); ok {
		return unsupportedf("bitmaps in version 2")
	}
	if im.encrypted && h.CryptMethod != CryptAES {
		return unsupportedf("%v in version 2", h.CryptMethod)
	}
	if im.backingUnopened.Load() || im.dataW == nil {
		return ErrMetadataOnly
	}
	t, err := im.snapshotList()
	if err != nil {
		return err
	}
	for _, s := range t.list {
		if size, _, err := im.diskSize(s); err != nil {
			return err
		} else if size != h.Size {
			return unsupportedf("version 2 with a snapshot of another size")
		}
		if err := im.holdsNoZeros(s); err != nil {
			return err
		}
	}
	return nil
}

// holdsNoZeros reports if a snapshot has clusters of zeros.
func (im *Image) holdsNoZeros(s *snapshot) error {
	l1, err := im.readL1(s)
	if err != nil {
		return err
	}
	table := make(l2Table, im.clusterSize())
	last := hostOff(0)
	for i := range l1.len() {
		off := l1.at(i).offset()
		if off == 0 || off == last {
			continue
		}
		last = off
		if err := safeio.ReadZeroFill(im.r, table, int64(off)); err != nil {
			return fmt.Errorf("qcow2: L2 table at %#x: %w", off, err)
		}
		for k := range table.len() {
			if kind := im.kind(table.at(k)); kind == kindZeroPlain || kind == kindZeroAlloc {
				return unsupportedf("version 2 with clusters of zeros in a snapshot")
			}
		}
	}
	return nil
}

// upgrade makes the image one of version 3.
func (c *change) upgrade() error {
	if err := c.sizeSnapshots(); err != nil {
		return err
	}
	next := c.im.Header()
	next.upgrade()
	if _, err := next.AppendBinary(nil); err != nil {
		return err // no room
	}
	return c.setFormat((*Header).upgrade)
}

func (h *Header) upgrade() {
	h.Version = 3
	h.IncompatibleFeatures, h.CompatibleFeatures, h.AutoclearFeatures = 0, 0, 0
	h.RefcountOrder = 4
	if _, ok := h.Extension(ExtensionFeatureNames); !ok && h.ClusterSize() > 4096 {
		h.setExtension(ExtensionFeatureNames, appendFeatureNames(nil, defaultFeatureNames()))
	}
}

// downgrade makes the image one of version 2.
func (c *change) downgrade(ctx context.Context) error {
	if err := c.expandZeros(ctx); err != nil {
		return err
	}
	if err := c.settle(); err != nil {
		return err
	}
	return c.setFormat(func(h *Header) {
		h.Version = 2
		h.IncompatibleFeatures, h.CompatibleFeatures, h.AutoclearFeatures = 0, 0, 0
		h.Extra = nil
		h.setExtension(ExtensionFeatureNames, nil)
	})
}

// setFormat changes the header, and what the image knows of its format.
func (c *change) setFormat(f func(h *Header)) error {
	c.publish(func(h *Header) {
		f(h)
		c.im.layout = h.layout()
	})
	return c.flush()
}

// setDataFile changes what the header says of the external data file.
func (c *change) setDataFile(a *AmendOptions) error {
	if a.DataFile == nil && a.DataFileRaw == nil {
		return nil
	}
	set := func(h *Header) {
		if a.DataFile != nil && *a.DataFile == "" {
			h.setExtension(ExtensionDataFile, nil)
		} else if a.DataFile != nil {
			h.setExtension(ExtensionDataFile, []byte(*a.DataFile))
		}
		if a.DataFileRaw != nil && !*a.DataFileRaw {
			h.AutoclearFeatures &^= AutoclearRawExternal
		}
	}
	next := c.im.Header()
	set(next)
	if _, err := next.AppendBinary(nil); err != nil {
		return err // no room
	}
	return c.setFormat(set)
}

// setLazy turns lazy refcounts on or off. Off they are in the file, and the
// image is clean, before the bit goes.
func (c *change) setLazy(on bool) error {
	im := c.im
	if on == im.lazy {
		return nil
	}
	if !on {
		if err := c.clean(); err != nil {
			return err
		}
	}
	im.lazy = on
	c.publish(func(h *Header) {
		h.CompatibleFeatures &^= CompatLazyRefcounts
		if on {
			h.CompatibleFeatures |= CompatLazyRefcounts
		}
	})
	return c.flush()
}

// clean puts refcounts that were held back into the file, and clears the dirty
// bit.
func (c *change) clean() error {
	if err := c.settle(); err != nil {
		return err
	}
	return c.mark(false)
}

// expandZeros makes the active mapping free of clusters of zeros: they are not
// allocated where nothing lies below, and written otherwise.
func (c *change) expandZeros(ctx context.Context) error {
	im := c.im
	for i := range int64(im.active.entries) {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		im.mu.RLock()
		table := im.active.at(i).offset()
		im.mu.RUnlock()
		if table == 0 {
			continue
		}
		if err := c.expandTable(i << im.l2Bits()); err != nil {
			return err
		}
		if err := im.tidy(); err != nil {
			return err
		}
	}
	return nil
}

// expandTable is expandZeros for the L2 table whose first guest cluster is
// first.
func (c *change) expandTable(first int64) error {
	im := c.im
	var zeros []int64
	err := im.eachEntry(first, 1<<im.l2Bits(), func(guest int64, e entry, at int64) (bool, error) {
		kind := im.kind(e.l2Entry)
		if kind == kindZeroPlain || kind == kindZeroAlloc {
			zeros = append(zeros, guest)
		}
		return true, im.checkAny(e, kind, guestOff(guest)<<im.clusterBits, at)
	})
	if err != nil {
		return err
	}
	hasBacking := im.hasBacking()
	for _, guest := range zeros {
		if hasBacking {
			if err := im.writeZeros(guestOff(guest)<<im.clusterBits, im.clusterSize()); err != nil {
				return err
			}
			continue
		}
		err := im.eachTable(guest, 1, false, func(first, n int64) error {
			return im.setEntries(first, n, freedDiscard, func(int64, entry) entry { return entry{} })
		})
		if err != nil {
			return err
		}
	}
	return nil
}
