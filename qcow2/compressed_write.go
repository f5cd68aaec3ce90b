package qcow2

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/inflight"
	"github.com/virtfmt/virtfmt/internal/ordered"
)

// ErrAllocated means that a cluster that was to be written compressed has a
// place already.
var ErrAllocated = errors.New("qcow2: cluster is allocated already")

// compressBatch is how much is compressed before it is stored.
const compressBatch = 4 << 20

// WriteCompressedAt writes whole clusters to the disk and stores them
// compressed, as the image's [CompressionType] says; one that does not become
// smaller is stored as it is. The last cluster of the disk is whole if p
// reaches to the end of the disk. Clusters that are allocated already cannot
// be written so: the error is [ErrAllocated]. Nor can those of an image with
// an external data file, or of an encrypted one: it is
// [errors.ErrUnsupported].
//
// The clusters of p are compressed in parallel, so that long writes are fast,
// and stored in their order, each directly behind the one before, so that the
// same calls make the same image.
func (im *Image) WriteCompressedAt(p []byte, off int64) (int, error) {
	if err := im.beginWrite(off, int64(len(p))); err != nil {
		return 0, err
	}
	n, err := im.writeCompressed(p, off)
	im.gate.RUnlock()
	if err == nil {
		err = im.tidy()
	}
	return n, err
}

// writeCompressed is WriteCompressedAt. The gate is held.
func (im *Image) writeCompressed(p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	switch {
	case im.external:
		return 0, unsupportedf("compressed clusters with an external data file")
	case im.encrypted:
		return 0, unsupportedf("compressed clusters with encryption")
	case !align.IsAligned(off, im.clusterSize()) || !align.IsAligned(end, im.clusterSize()) && end != im.Size():
		return 0, fmt.Errorf("%w: compressed writes are of whole clusters of %d bytes", ErrOutOfRange, im.clusterSize())
	}
	for n := 0; n < len(p); {
		m := min(len(p)-n, max(compressBatch, int(im.clusterSize())))
		if err := im.compressBatch(p[n:n+m], off+int64(n)); err != nil {
			return n, im.markCorrupt(err)
		}
		n += m
	}
	return len(p), nil
}

// compressBatch compresses some clusters in parallel and stores them in order.
func (im *Image) compressBatch(p []byte, off int64) error {
	first := off >> im.clusterBits
	count := align.CeilDiv(int64(len(p)), im.clusterSize())
	lock := inflight.Range{Start: first, End: first + count}
	im.clusters.Lock(&lock)
	defer im.clusters.Unlock(&lock)
	if err := im.mustBeFree(first, count); err != nil {
		return err
	}
	cluster := func(i int64) []byte {
		b := p[i<<im.clusterBits : min(int64(len(p)), (i+1)<<im.clusterBits)]
		if int64(len(b)) < im.clusterSize() { // the disk ends in it
			b = append(slices.Clone(b), make([]byte, im.clusterSize()-int64(len(b)))...)
		}
		return b
	}
	im.packMu.Lock()
	defer im.packMu.Unlock()
	var pk pack
	workers := int(min(int64(runtime.GOMAXPROCS(0)), count))
	jobs := func(yield func(int64) bool) {
		for i := range count {
			if !yield(i) {
				return
			}
		}
	}
	err := ordered.Run(context.Background(), workers, 2*workers, jobs, func(i int64, z *[]byte) error {
		c, _ := im.codec.compressors.Get().(*compressor)
		if c == nil {
			var err error
			if c, err = newCompressor(im.codec.kind, im.clusterSize()); err != nil {
				return err
			}
		}
		defer im.codec.compressors.Put(c)
		out, ok := c.compress(cluster(i))
		if *z = append((*z)[:0], out...); !ok {
			*z = nil
		}
		return nil
	}, func(i int64, z *[]byte) error {
		if *z == nil {
			if err := im.storePack(&pk); err != nil {
				return err
			}
			return im.storePlain(first+i, cluster(i))
		}
		return im.addToPack(&pk, first+i, *z)
	})
	if err != nil {
		return errors.Join(err, im.dropPack(&pk))
	}
	return im.storePack(&pk)
}

// mustBeFree makes sure that there are L2 tables for n guest clusters, and
// that none of these has a place. The clusters are locked.
func (im *Image) mustBeFree(first, n int64) error {
	for n > 0 {
		part := min(n, int64(1)<<im.l2Bits()-first&(1<<im.l2Bits()-1))
		if err := im.ownTable(first >> im.l2Bits()); err != nil {
			return err
		}
		err := im.eachEntry(first, part, func(guest int64, e entry, at int64) (bool, error) {
			kind := im.kind(e.l2Entry)
			if kind != kindUnallocated && kind != kindZeroPlain {
				return false, fmt.Errorf("%w: the one at %#x", ErrAllocated, guest<<im.clusterBits)
			}
			return true, im.checkAny(e, kind, guestOff(guest)<<im.clusterBits, at)
		})
		if err != nil {
			return err
		}
		first, n = first+part, n-part
	}
	return nil
}

// A pack is compressed clusters that lie behind each other in the file, and
// are yet to be written.
type pack struct {
	off     hostOff
	data    []byte
	entries []l2Entry // of the guest clusters from first on
	first   int64
}

// addToPack adds a guest cluster to the pack, or to a new one where it does not
// come to lie behind it.
func (im *Image) addToPack(pk *pack, guest int64, z []byte) error {
	off, err := im.allocBytes(int64(len(z)))
	if err != nil {
		return err
	}
	if off != pk.off+hostOff(len(pk.data)) || guest != pk.first+int64(len(pk.entries)) {
		if err := im.storePack(pk); err != nil {
			return errors.Join(err, im.freeEntry(im.makeCompressedEntry(off, int64(len(z)))))
		}
		pk.off, pk.first = off, guest
	}
	pk.data = append(pk.data, z...)
	pk.entries = append(pk.entries, im.makeCompressedEntry(off, int64(len(z))))
	return nil
}

// storePack writes a pack and links its clusters. packMu is held.
func (im *Image) storePack(pk *pack) error {
	if len(pk.entries) == 0 {
		return nil
	}
	if err := im.checkOverlap(pk.off, int64(len(pk.data))); err != nil {
		return err
	}
	// What follows in the last cluster is unused: so the file, where it ends
	// here, can end with a whole sector, see writeVirgin.
	data := pk.data
	end := int64(pk.off) + int64(len(data))
	if whole := align.Up(end, sectorSize); whole > im.length.Load() {
		data = append(data, make([]byte, whole-end)...)
	}
	if err := im.writeFile(data, pk.off); err != nil {
		return err
	}
	entries, first := pk.entries, pk.first
	*pk = pack{data: data[:0], entries: entries[:0]}
	for len(entries) > 0 {
		n := min(int64(len(entries)), int64(1)<<im.l2Bits()-first&(1<<im.l2Bits()-1))
		err := im.setEntries(first, n, freedData, func(guest int64, _ entry) entry {
			return entry{l2Entry: entries[guest-first]}
		})
		if err != nil {
			return err
		}
		first, entries = first+n, entries[n:]
	}
	return nil
}

// storePlain stores a guest cluster that does not shrink.
func (im *Image) storePlain(guest int64, p []byte) error {
	pl := plan{first: guest, n: 1, lo: guestOff(guest) << im.clusterBits, hi: guestOff(guest+1) << im.clusterBits}
	host, virgin, err := im.place(guest, 1)
	if err != nil {
		return err
	}
	pl.host = host
	if err := im.fill(&pl, p, pl.lo, virgin); err != nil {
		return errors.Join(err, im.giveBack(host, 1))
	}
	return im.publish(&pl)
}

// dropPack frees what a pack has allocated.
func (im *Image) dropPack(pk *pack) error {
	var errs []error
	for _, e := range pk.entries {
		errs = append(errs, im.freeEntry(e))
	}
	return errors.Join(errs...)
}

// freeEntry frees what a compressed cluster takes that was never linked.
func (im *Image) freeEntry(e l2Entry) error {
	off, n := im.compressedRange(e)
	first, last := im.cluster(off), im.cluster(off+hostOff(n)-1)
	return im.giveBack(im.clusterOff(first), int64(last-first)+1)
}

// allocBytes takes n bytes, at most a cluster, behind those that it took last,
// if there is room, or at the start of a free cluster. Each cluster that they
// touch is referenced once more.
func (im *Image) allocBytes(n int64) (hostOff, error) {
	im.allocMu.Lock()
	defer im.allocMu.Unlock()
	if err := im.openRefs(); err != nil {
		return 0, err
	}
	off := im.refs.packed
	if off != 0 { // a cluster that can be shared with one more
		r, err := im.refcount(im.cluster(off))
		if err != nil {
			return 0, err
		}
		if r >= maxRefcount(im.refcountOrder) {
			off = 0
		}
	}
	rest := im.clusterSize() - im.offsetInCluster(int64(off))
	if off == 0 || rest < n {
		next, _, err := im.allocLocked(1)
		if err != nil {
			return 0, err
		}
		if off == 0 || next != im.clusterOff(im.cluster(off)+1) {
			off = next
		} else if err := im.share(off); err != nil {
			return 0, err
		}
	} else if err := im.share(off); err != nil {
		return 0, err
	}
	if off+hostOff(n) > im.compressedLimit() {
		return 0, fmt.Errorf("qcow2: compressed cluster at %#x: %w of %#x", off, ErrLimit, im.compressedLimit())
	}
	if im.refs.packed = off + hostOff(n); im.offsetInCluster(int64(im.refs.packed)) == 0 {
		im.refs.packed = 0
	}
	return off, nil
}

// share adds a reference to the cluster of off.
func (im *Image) share(off hostOff) error {
	r, err := im.refcount(im.cluster(off))
	if err != nil {
		return err
	}
	return im.setRefcount(im.cluster(off), r+1)
}
