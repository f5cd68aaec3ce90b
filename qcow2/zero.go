package qcow2

import (
	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/inflight"
)

// WriteZeroesAt makes the n bytes at off of the disk read as zeros. Clusters
// and subclusters that have a place in the file keep it, so that writing to
// them later takes no new space; compressed ones lose it, and so do all in
// version 2. Zeros are written to parts of a cluster that holds something
// else, and in version 2 if there is a backing file.
func (im *Image) WriteZeroesAt(off, n int64) error { return im.zeroRange(off, n, false) }

// UnmapAt makes the n bytes at off of the disk read as zeros, and gives back
// the space of whole clusters. Otherwise it is [Image.WriteZeroesAt].
func (im *Image) UnmapAt(off, n int64) error { return im.zeroRange(off, n, true) }

func (im *Image) zeroRange(off, n int64, unmap bool) error {
	if err := im.beginWrite(off, n); err != nil {
		return err
	}
	err := im.zero(guestOff(off), n, unmap)
	im.gate.RUnlock()
	if err != nil {
		return im.markCorrupt(err)
	}
	return im.tidy()
}

// DiscardAt tells that the n bytes at off of the disk are not needed any more.
// Whole clusters, and the last one of the disk if it is covered up to the end
// of the disk, give back their space and read as zeros afterwards, also where
// a backing file holds something; parts of clusters stay as they are. In a
// version 2 image with a backing file that cannot be told: the error is
// [errors.ErrUnsupported].
func (im *Image) DiscardAt(off, n int64) error {
	if err := im.beginWrite(off, n); err != nil {
		return err
	}
	err := im.discard(off, n)
	im.gate.RUnlock()
	if err != nil {
		return im.markCorrupt(err)
	}
	return im.tidy()
}

// discard is DiscardAt. The gate is held.
func (im *Image) discard(off, n int64) error {
	hasBacking := im.hasBacking()
	if im.version < 3 && hasBacking {
		return unsupportedf("discard in version 2 with a backing file")
	}
	end := off + n
	if end != im.Size() {
		end = align.Down(end, im.clusterSize())
	}
	first := align.CeilDiv(off, im.clusterSize())
	last := align.CeilDiv(end, im.clusterSize())
	return im.eachTable(first, last-first, hasBacking, func(first, n int64) error {
		if im.externalRaw {
			if err := im.zeroData(first<<im.clusterBits, n<<im.clusterBits); err != nil {
				return err
			}
		}
		return im.setEntries(first, n, freedDiscard, func(_ int64, old entry) entry {
			switch kind := im.kind(old.l2Entry); {
			case (kind == kindUnallocated || kind == kindZeroPlain) && !hasBacking:
				return old
			case im.extended:
				return entry{0, allZeroes}
			case im.version < 3:
				return entry{}
			}
			return entry{l2Entry: flagZero}
		})
	})
}

// zero makes n bytes at off read as zeros. The gate is held.
func (im *Image) zero(off guestOff, n int64, unmap bool) error {
	if im.version < 3 && im.hasBacking() {
		return im.writeZeros(off, n)
	}
	sub := im.subclusterSize()
	end := int64(off) + n
	if head := int64(off) & (sub - 1); head != 0 {
		m := min(n, sub-head)
		if err := im.zeroPart(off, m, unmap); err != nil {
			return err
		}
		off, n = off+guestOff(m), n-m
	}
	tail := min(n, end&(sub-1))
	if end == im.Size() {
		tail = 0 // what lies past the end counts as covered
	}
	if err := im.zeroSubclusters(off, n-tail, unmap); err != nil || tail == 0 {
		return err
	}
	return im.zeroPart(guestOff(end-tail), tail, unmap)
}

// zeroPart makes a part of a subcluster zeros: by making all of it zeros if
// the rest is already, otherwise by writing.
func (im *Image) zeroPart(off guestOff, n int64, unmap bool) error {
	written := false
	err := im.eachTable(int64(off)>>im.clusterBits, 1, im.version >= 3, func(guest, _ int64) (err error) {
		// Locked, so that nobody writes to the rest before it is made zeros.
		if written, err = im.holdsMore(off, n); err != nil || written {
			return err
		}
		if !im.extended {
			return im.zeroClusters(guest, 1, unmap)
		}
		sub := guestOff(im.subclusterSize())
		start := off &^ (sub - 1)
		_, err = im.zeroLocked(guest, start, start+sub)
		return err
	})
	if err == nil && written {
		return im.writeZeros(off, n)
	}
	return err
}

// holdsMore reports whether the subcluster of the n bytes at off has to keep
// its place, or something that is not zeros besides them.
func (im *Image) holdsMore(off guestOff, n int64) (bool, error) {
	got, err := im.find(im.active, off, 1)
	if err != nil || got.kind == kindNormal || got.kind == kindCompressed {
		return true, err
	}
	sub := im.subclusterSize()
	start := int64(off) &^ (sub - 1)
	after := int64(off) + n
	for _, rest := range [][2]int64{{start, int64(off) - start}, {after, min(start+sub, im.Size()) - after}} {
		for e, err := range im.Extents(rest[0], rest[1]) {
			if err != nil || !e.IsZero() {
				return true, err
			}
		}
	}
	return false, nil
}

// zeroSubclusters makes whole subclusters zeros, the last one of the disk
// counting as whole.
func (im *Image) zeroSubclusters(off guestOff, n int64, unmap bool) error {
	mask := guestOff(im.clusterSize() - 1)
	end := off + guestOff(n)
	if int64(end) == im.Size() {
		end = (end + mask) &^ mask
	}
	if off&mask != 0 && off < end {
		m := min(end, (off+mask)&^mask)
		if err := im.zeroInCluster(off, m); err != nil {
			return err
		}
		off = m
	}
	whole := end &^ mask
	if off < whole {
		// In version 2 what has no table reads as zeros, and a new one would stay
		// empty.
		create := im.version >= 3
		err := im.eachTable(int64(off)>>im.clusterBits, int64(whole-off)>>im.clusterBits, create, func(first, n int64) error {
			return im.zeroClusters(first, n, unmap)
		})
		if err != nil {
			return err
		}
		off = whole
	}
	if off < end {
		return im.zeroInCluster(off, end)
	}
	return nil
}

// zeroClusters makes n clusters zeros. They are locked, and their L2 table is
// there.
func (im *Image) zeroClusters(first, n int64, unmap bool) error {
	if im.externalRaw {
		if err := im.zeroData(first<<im.clusterBits, n<<im.clusterBits); err != nil {
			return err
		}
	}
	return im.setEntries(first, n, freedDiscard, func(_ int64, old entry) entry {
		kind := im.kind(old.l2Entry)
		if im.version < 3 {
			return entry{}
		}
		if kind == kindCompressed || unmap && (kind == kindNormal || kind == kindZeroAlloc) {
			old.l2Entry = 0
		}
		if im.extended {
			return entry{old.l2Entry, allZeroes}
		}
		return entry{l2Entry: old.l2Entry | flagZero}
	})
}

// zeroInCluster makes some subclusters of a cluster zeros. What is compressed
// has none: there zeros are written.
func (im *Image) zeroInCluster(off, end guestOff) error {
	compressed := false
	err := im.eachTable(int64(off)>>im.clusterBits, 1, true, func(guest, _ int64) (err error) {
		compressed, err = im.zeroLocked(guest, off, end)
		return err
	})
	if err == nil && compressed {
		return im.writeZeros(off, int64(end-off))
	}
	return err
}

// zeroLocked makes some subclusters of a cluster zeros that is locked and has
// an L2 table, unless it is compressed.
func (im *Image) zeroLocked(guest int64, off, end guestOff) (compressed bool, err error) {
	if im.externalRaw {
		if err := im.zeroData(int64(off), int64(end-off)); err != nil {
			return false, err
		}
	}
	start := guestOff(guest) << im.clusterBits
	first := int(off-start) >> im.subBits()
	last := int(end-1-start) >> im.subBits()
	err = im.setEntries(guest, 1, freedDiscard, func(_ int64, old entry) entry {
		if old.compressed() {
			compressed = true
			return old
		}
		return entry{old.l2Entry, old.subs.withZeroes(subclusterRange(first, last-first+1))}
	})
	return compressed, err
}

// eachTable calls f with the parts of n guest clusters that share an L2 table,
// locked. Where there is none it is made or, without create, the part is left
// out.
func (im *Image) eachTable(first, n int64, create bool, f func(first, n int64) error) error {
	for n > 0 {
		part := min(n, int64(1)<<im.l2Bits()-first&(1<<im.l2Bits()-1))
		if err := im.oneTable(first, part, create, f); err != nil {
			return err
		}
		first, n = first+part, n-part
	}
	return nil
}

func (im *Image) oneTable(first, n int64, create bool, f func(first, n int64) error) error {
	lock := inflight.Range{Start: first, End: first + n}
	im.clusters.Lock(&lock)
	defer im.clusters.Unlock(&lock)
	i := first >> im.l2Bits()
	if !create {
		im.mu.RLock()
		e := im.active.at(i)
		im.mu.RUnlock()
		if e.offset() == 0 {
			return nil
		}
	}
	if err := im.ownTable(i); err != nil {
		return err
	}
	return f(first, n)
}

// writeZeros writes zeros as data.
func (im *Image) writeZeros(off guestOff, n int64) error {
	return im.withBuffer(min(n, 1<<20), func(b []byte) error {
		clear(b)
		for n > 0 {
			m, err := im.wholeSectors(b[:min(n, int64(len(b)))], off, im.write)
			if err != nil {
				return err
			}
			off, n = off+guestOff(m), n-int64(m)
		}
		return nil
	})
}

// zeroData makes n bytes of the raw external data file zeros, as far as the
// disk goes.
func (im *Image) zeroData(off, n int64) error {
	n = min(n, im.Size()-off)
	if block.PunchHole(im.dataW, off, n) == nil {
		im.dataUnsynced.Store(true)
		return nil
	}
	return im.zeroStored(hostOff(off), n)
}

// zeroStored writes zeros to where guest clusters lie.
func (im *Image) zeroStored(off hostOff, n int64) error {
	return im.withBuffer(min(n, 1<<20), func(b []byte) error {
		clear(b)
		for ; n > 0; n -= int64(len(b)) {
			b = b[:min(n, int64(len(b)))]
			if err := im.writeStored(b, off); err != nil {
				return err
			}
			off += hostOff(len(b))
		}
		return nil
	})
}
