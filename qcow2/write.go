package qcow2

import (
	"errors"
	"math/bits"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/inflight"
)

// WriteAt writes to the disk at off. It implements [io.WriterAt]: concurrent
// calls must not overlap. What it wrote is seen by reads from when it returns,
// and durable after [Image.Sync]. A range that does not lie within the disk is
// ErrOutOfRange, and nothing is written then.
//
// Where a cluster has no place of its own yet, or shares it with a snapshot,
// it gets a new one, into which the rest of it is copied.
func (im *Image) WriteAt(p []byte, off int64) (int, error) {
	if err := im.beginWrite(off, int64(len(p))); err != nil {
		return 0, err
	}
	n, err := im.wholeSectors(p, guestOff(off), im.write)
	im.gate.RUnlock()
	if err == nil {
		err = im.tidy()
	}
	return n, err
}

// beginWrite makes sure that the n bytes at off can be written, and holds the
// gate shared.
func (im *Image) beginWrite(off, n int64) error {
	if err := im.checkRange(off, n); err != nil {
		return err
	}
	if err := im.enter(); err != nil {
		return err
	}
	if off > im.Size() || n > im.Size()-off {
		im.gate.RUnlock()
		return im.outOfRange(off, n)
	}
	if err := im.record(off, n); err != nil {
		im.gate.RUnlock()
		return err
	}
	return nil
}

// enter holds the gate shared, if guest data can be written.
func (im *Image) enter() error {
	im.gate.RLock()
	err := im.writable()
	if err == nil {
		err = im.startWriting()
	}
	if err != nil {
		im.gate.RUnlock()
	}
	return err
}

// writable reports why guest data cannot be written, or nil.
func (im *Image) writable() error {
	switch {
	case im.closed.Load():
		return ErrClosed
	case im.w == nil:
		return ErrReadOnly
	case im.backingUnopened.Load() || im.dataW == nil:
		return ErrMetadataOnly
	}
	return im.failure()
}

// startWriting prepares the image for its first change.
func (im *Image) startWriting() error {
	if im.started.Load() {
		return nil
	}
	// A table that cannot be understood is not protected.
	snaps, _ := im.snapshotList()
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	if im.started.Load() {
		return nil
	}
	list, err := im.loadBitmaps()
	if err != nil {
		return err
	}
	if err := im.takeStock(snaps, list); errors.Is(err, ErrCorrupt) {
		return im.failCorrupt(err)
	} else if err != nil {
		return err
	}
	if err := im.openBitmaps(list); err != nil {
		return err
	}
	im.started.Store(true)
	return nil
}

// write writes p to the active mapping, at an offset that may lie past the
// end of the disk, where VM state is. The gate is held.
func (im *Image) write(p []byte, off guestOff) (int, error) {
	n := 0
	for n < len(p) {
		m, err := im.writeSome(p[n:], off+guestOff(n))
		n += m
		if err != nil {
			return n, im.markCorrupt(err)
		}
	}
	return n, nil
}

// writeSome writes the start of p.
func (im *Image) writeSome(p []byte, off guestOff) (int, error) {
	pin := im.pins.Pin(uint64(off) >> 12)
	got, err := im.find(im.active, off, int64(len(p)))
	if err == nil && im.inPlace(&got) {
		err = im.overwrite(p[:got.n], got.host, off)
		pin.Unpin()
		if err != nil {
			return 0, err
		}
		return int(got.n), nil
	}
	pin.Unpin()
	if err != nil {
		return 0, err
	}
	return im.writeNew(p, off)
}

// inPlace reports whether a run of the active mapping can be overwritten.
func (im *Image) inPlace(r *run) bool { return r.kind == kindNormal && r.copied }

// overwrite writes guest data to clusters that the disk owns alone. The
// caller holds a pin.
func (im *Image) overwrite(p []byte, host hostOff, guest guestOff) error {
	if err := im.checkOverlap(host, int64(len(p))); err != nil {
		return err
	}
	return im.writeData(p, host, guest)
}

// checkOverlap reports a corruption if guest data would go to metadata.
func (im *Image) checkOverlap(host hostOff, n int64) error {
	if im.external {
		return nil
	}
	first, last := im.cluster(host), im.cluster(host+hostOff(n)-1)
	im.mu.RLock()
	bad := im.meta.overlaps(first, int64(last-first)+1)
	im.mu.RUnlock()
	if bad {
		return corruptf(int64(host), "guest data", "it overlaps metadata")
	}
	return nil
}

// A plan is how a range of clusters that cannot just be overwritten is to be
// written: they are all of one kind, and get or have places that follow each
// other.
type plan struct {
	first int64 // guest cluster
	n     int64 // clusters
	host  hostOff
	fresh bool // host is to be allocated
	// What is written: the guest bytes from lo up to hi, of which those that
	// the caller gives are in between.
	lo, hi guestOff
}

// maxPlan bounds the clusters that are written, and locked, at a time.
const maxPlan = 64 << 20

// writeNew writes the start of p to clusters that must change their entries.
func (im *Image) writeNew(p []byte, off guestOff) (int, error) {
	// Within one L2 table.
	covered := int64(1) << im.l1CoverageBits()
	limit := min(int64(len(p)), covered-int64(off)&(covered-1), maxPlan)
	lock := inflight.Range{Start: int64(off) >> im.clusterBits, End: (int64(off)+limit-1)>>im.clusterBits + 1}
	im.clusters.Lock(&lock)
	defer im.clusters.Unlock(&lock)
	if err := im.ownTable(im.l1Index(off)); err != nil {
		return 0, err
	}
	pl, n, err := im.plan(off, limit)
	if err != nil || pl.n == 0 { // another writer was there first
		return 0, err
	}
	virgin := false
	if pl.fresh {
		if pl.host, virgin, err = im.place(pl.first, pl.n); err != nil {
			return 0, err
		}
	} else if err := im.checkOverlap(pl.host, pl.n<<im.clusterBits); err != nil {
		return 0, err
	}
	if err := im.fill(&pl, p[:n], off, virgin); err != nil {
		if pl.fresh && !im.external {
			err = errors.Join(err, im.giveBack(pl.host, pl.n))
		}
		return 0, err
	}
	return int(n), im.publish(&pl)
}

// place returns a new place for n guest clusters.
func (im *Image) place(first, n int64) (host hostOff, virgin bool, err error) {
	if im.external {
		return im.clusterOff(clusterIdx(first)), false, nil
	}
	return im.alloc(n)
}

// plan says how the start of the n bytes at off is to be written, and how
// many of them. A plan for no clusters means that they can be overwritten. The
// clusters are locked, and their L2 table belongs to the active mapping alone.
func (im *Image) plan(off guestOff, n int64) (plan, int64, error) {
	first := int64(off) >> im.clusterBits
	last := (int64(off) + n - 1) >> im.clusterBits
	pl := plan{first: first}
	err := im.eachEntry(first, last-first+1, func(guest int64, e entry, at int64) (bool, error) {
		kind := im.kind(e.l2Entry)
		if err := im.checkAny(e, kind, guestOff(guest)<<im.clusterBits, at); err != nil {
			return false, err
		}
		lo := max(off, guestOff(guest)<<im.clusterBits)
		hi := min(off+guestOff(n), guestOff(guest+1)<<im.clusterBits)
		one := im.planOne(e, kind, guest, lo, hi)
		switch {
		case one.n == 0:
			return false, nil
		case pl.n == 0:
			pl = one
		case one.fresh != pl.fresh || !one.fresh && one.host != pl.host+im.clusterOff(clusterIdx(pl.n)):
			return false, nil
		default:
			pl.n, pl.hi = pl.n+1, one.hi
		}
		// What is written must be one piece.
		return pl.hi == guestOff(guest+1)<<im.clusterBits, nil
	})
	end := min(off+guestOff(n), pl.hi)
	return pl, int64(end - off), err
}

// planOne is plan for the part of one cluster from lo up to hi.
func (im *Image) planOne(e entry, kind clusterKind, guest int64, lo, hi guestOff) plan {
	start := guestOff(guest) << im.clusterBits
	pl := plan{first: guest, n: 1, fresh: true, lo: start, hi: start + guestOff(im.clusterSize())}
	owned := e.copied() && (kind == kindNormal || kind == kindZeroAlloc)
	if owned {
		pl.fresh, pl.host = false, e.offset()
	}
	if !im.extended {
		if owned && kind == kindNormal {
			return plan{}
		}
		return pl
	}
	if kind == kindCompressed {
		return pl
	}
	return im.planSubclusters(pl, e, kind, lo, hi)
}

// planSubclusters narrows the plan for a cluster to the subclusters that the
// bytes from lo up to hi touch.
func (im *Image) planSubclusters(pl plan, e entry, kind clusterKind, lo, hi guestOff) plan {
	start := pl.lo
	sub := guestOff(im.subclusterSize())
	firstSub, lastSub := int((lo-start)/sub), int((hi-1-start)/sub)
	touched := subclusterRange(firstSub, lastSub-firstSub+1)
	allocated := e.subs.allocated()
	if !pl.fresh && allocated&touched == touched {
		return plan{}
	}
	if pl.fresh && kind == kindNormal {
		// The cluster moves, and with it all that it holds.
		all := allocated | touched
		firstSub, lastSub = bits.TrailingZeros32(all), 31-bits.LeadingZeros32(all)
	}
	pl.lo, pl.hi = start+guestOff(firstSub)*sub, start+guestOff(lastSub+1)*sub
	if !pl.fresh {
		// What is allocated may be written by others meanwhile.
		if allocated>>firstSub&1 != 0 {
			pl.lo = lo
		}
		if allocated>>lastSub&1 != 0 {
			pl.hi = hi
		}
	}
	return pl
}

// fill writes what pl says: p at off, and around it what the disk held there.
func (im *Image) fill(pl *plan, p []byte, off guestOff, virgin bool) error {
	end := off + guestOff(len(p))
	host := pl.host - hostOff(pl.first<<im.clusterBits) // of guest offset 0
	head, tail := off-pl.lo, pl.hi-end
	if head == 0 && tail == 0 {
		return im.writeData(p, host+hostOff(off), off)
	}
	if virgin && im.transform == nil && im.zeroBefore(pl.lo, head) && im.zeroBefore(end, tail) {
		return im.writeVirgin(p, host+hostOff(off))
	}
	// One write, if that is not much more than its parts.
	if total := int64(pl.hi - pl.lo); total <= 2*im.clusterSize() || total <= 256<<10 {
		return im.withBuffer(total, func(b []byte) error {
			if err := im.readOld(b[:head], pl.lo); err != nil {
				return err
			}
			copy(b[head:], p)
			if err := im.readOld(b[int64(total)-int64(tail):], end); err != nil {
				return err
			}
			return im.writeData(b, host+hostOff(pl.lo), pl.lo)
		})
	}
	for _, part := range []struct {
		at guestOff
		n  guestOff
	}{{pl.lo, head}, {end, tail}} {
		if part.n == 0 {
			continue
		}
		err := im.withBuffer(int64(part.n), func(b []byte) error {
			if err := im.readOld(b, part.at); err != nil {
				return err
			}
			return im.writeData(b, host+hostOff(part.at), part.at)
		})
		if err != nil {
			return err
		}
	}
	return im.writeData(p, host+hostOff(off), off)
}

// writeVirgin writes to where the file reads as zeros. The file ends with a
// whole sector afterwards, so that a later write that makes it longer does not
// leave a part of one if the power fails.
func (im *Image) writeVirgin(p []byte, host hostOff) error {
	if err := im.writeStored(p, host); err != nil {
		return err
	}
	end := host + hostOff(len(p))
	if rest := align.Up(int64(end), sectorSize) - int64(end); rest > 0 {
		return im.writeStored(make([]byte, rest), end)
	}
	return nil
}

// readOld reads what the disk holds, for copying it to another place.
func (im *Image) readOld(p []byte, off guestOff) error {
	_, err := im.readVia(im.active, p, off)
	return err
}

// zeroBefore reports whether n bytes at off are known to read as zeros
// without anything being read.
func (im *Image) zeroBefore(off guestOff, n guestOff) bool {
	for n > 0 {
		got, err := im.find(im.active, off, int64(n))
		if err != nil {
			return false
		}
		switch got.kind {
		case kindZeroPlain, kindZeroAlloc:
		case kindUnallocated, kindPlaced:
			if backing := im.Backing(); backing != nil && int64(off) < min(backing.Size(), im.Size()) {
				return false
			}
		default:
			return false
		}
		off, n = off+guestOff(got.n), n-guestOff(got.n)
	}
	return true
}

// publish makes the entries of the plan point to what was written, and
// unlinks what they pointed to.
func (im *Image) publish(pl *plan) error {
	return im.setEntries(pl.first, pl.n, freedData, func(guest int64, old entry) entry {
		host := pl.host + im.clusterOff(clusterIdx(guest-pl.first))
		e := entry{makeL2Entry(host, true), 0}
		if !im.extended {
			return e
		}
		start := guestOff(guest) << im.clusterBits
		lo, hi := max(pl.lo, start), min(pl.hi, start+guestOff(im.clusterSize()))
		first := int((lo - start) >> im.subBits())
		last := int((hi - 1 - start) >> im.subBits())
		if im.kind(old.l2Entry) != kindCompressed {
			e.subs = old.subs
		}
		e.subs = e.subs.withAllocated(subclusterRange(first, last-first+1))
		return e
	})
}

// withBuffer calls f with n bytes that are used again afterwards.
func (im *Image) withBuffer(n int64, f func(b []byte) error) error {
	b, _ := im.buffers.Get().(*[]byte)
	if b == nil {
		b = new([]byte)
	}
	defer im.buffers.Put(b)
	if int64(cap(*b)) < n {
		*b = make([]byte, n)
	}
	return f((*b)[:n])
}
