package qcow2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// The header is one sector, or a few with its extensions and the name of the
// backing file. A power cut leaves each sector old or new; so a change of
// fields at fixed places is one write of the first sector, and any other goes
// through a first sector that needs no other.

// writeHeader makes the header in the file be h, and im.diskHdr. It syncs the
// file only between its steps. flushMu is held.
func (im *Image) writeHeader(h *Header) error {
	if h.equal(im.diskHdr) {
		return nil
	}
	if err := im.rewriteHeader(h); err != nil {
		return fmt.Errorf("qcow2: header: %w", err)
	}
	im.diskHdr = h.clone()
	return nil
}

func (im *Image) rewriteHeader(h *Header) error {
	if h.sameVariable(im.diskHdr) {
		var sector [sectorSize]byte
		if err := safeio.ReadZeroFill(im.r, sector[:], 0); err != nil {
			return err
		}
		h.patchFixed(sector[:])
		return im.writeFile(sector[:], 0)
	}
	final, err := h.AppendBinary(nil)
	if err != nil {
		return err
	}
	final = append(final, make([]byte, align.Up(len(final), sectorSize)-len(final))...)
	if len(final) == sectorSize {
		return im.writeFile(final, 0)
	}
	type step struct {
		b   []byte
		off int64
	}
	steps := []step{{final[sectorSize:], sectorSize}, {final[:sectorSize], 0}}
	if alone, name, at := h.selfContained(im.diskHdr); alone != nil {
		steps = append([]step{{name, at}, {alone, 0}}, steps...)
	}
	for _, s := range steps {
		if len(s.b) == 0 {
			continue
		}
		if err := im.syncFiles(); err != nil {
			return err
		}
		if err := im.writeFile(s.b, hostOff(s.off)); err != nil {
			return err
		}
	}
	return nil
}

// equal reports whether h and o are written alike.
func (h *Header) equal(o *Header) bool {
	var a, b [headerSizeMin]byte
	h.patchFixed(a[:])
	o.patchFixed(b[:])
	return a == b && h.sameVariable(o)
}

// sameVariable reports whether h and o differ at most in fields at fixed
// places.
func (h *Header) sameVariable(o *Header) bool {
	return h.Version == o.Version && h.CompressionType == o.CompressionType && h.BackingFile == o.BackingFile &&
		bytes.Equal(h.Extra, o.Extra) &&
		slices.EqualFunc(h.Extensions, o.Extensions, func(x, y Extension) bool { return x.Type == y.Type && bytes.Equal(x.Data, y.Data) })
}

// patchFixed sets the fields at fixed places in the first sector of a header,
// but for the length of the header and the place of the backing file name.
func (h *Header) patchFixed(sector []byte) {
	b := h.appendFixed(make([]byte, 0, 2*headerSizeV3))
	copy(sector, b[:8])
	copy(sector[20:], b[20:min(len(b), 100)])
}

// selfContained returns a first sector that makes sense without the others.
// Extensions that do not fit are left out, the feature names first. A name of
// the backing file that does not fit is returned with the place in the first
// cluster where the sector expects it, which is not that of the name of old.
// Clusters of 1 and 2 KiB may have no such place: there is no such sector then.
func (h *Header) selfContained(old *Header) (sector, name []byte, at int64) {
	c := h.clone()
	c.setExtension(ExtensionFeatureNames, nil)
	c.BackingFile = ""
	slices.SortStableFunc(c.Extensions, func(x, y Extension) int { return len(x.Data) - len(y.Data) })
	for n := len(c.Extensions); !c.fits(0) && n > 0; n-- {
		c.Extensions = c.Extensions[:n-1]
	}
	if !c.fits(0) {
		c.Extra = nil // fields that this package does not know
	}
	if c.fits(len(h.BackingFile)) {
		c.BackingFile = h.BackingFile
	} else {
		name, at = []byte(h.BackingFile), h.ClusterSize()-int64(len(h.BackingFile))
		if oldEnd := old.BackingFileOffset + int64(len(old.BackingFile)); oldEnd > at {
			at = old.BackingFileOffset - int64(len(name))
		}
		if at < sectorSize {
			return nil, nil, 0
		}
	}
	sector, _ = c.AppendBinary(nil)
	sector = append(sector, make([]byte, sectorSize-len(sector))...)
	if name != nil {
		binary.BigEndian.PutUint64(sector[8:], uint64(at))
		binary.BigEndian.PutUint32(sector[16:], uint32(len(name)))
	}
	return sector, name, at
}

// fits reports whether h and a name of n bytes fit into a sector.
func (h *Header) fits(n int) bool {
	b, err := h.AppendBinary(nil)
	return err == nil && len(b)+n <= sectorSize
}

// changeFeatures changes feature bits durably, ahead of all else. flushMu is
// held.
func (im *Image) changeFeatures(change func(h *Header)) error {
	im.mu.Lock()
	change(im.hdr)
	im.mu.Unlock()
	next := im.diskHdr.clone()
	change(next)
	if next.equal(im.diskHdr) {
		return nil
	}
	if err := im.syncFiles(); err != nil { // what the bits speak of
		return err
	}
	if err := im.writeHeader(next); err != nil {
		return err
	}
	return im.syncFiles()
}

// setDirty sets or clears the dirty bit durably.
func (im *Image) setDirty(on bool) error {
	return im.changeFeatures(func(h *Header) {
		h.IncompatibleFeatures &^= IncompatDirty
		if on {
			h.IncompatibleFeatures |= IncompatDirty
		}
	})
}
