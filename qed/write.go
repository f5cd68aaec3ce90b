package qed

import (
	"fmt"
	"io"

	"github.com/virtfmt/virtfmt/internal/safeio"
)

// WriteAt writes p to the disk at off. It implements [io.WriterAt]. A range
// that does not lie within the disk is refused whole. The write is durable
// after the next [Image.Sync]; before that a power cut may leave the old or
// the new bytes of each sector.
//
// A cluster that owns no space is given it at the end of the file, and what p
// does not cover of it is filled from the backing file or with zeros.
func (img *Image) WriteAt(p []byte, off int64) (int, error) {
	img.life.RLock()
	defer img.life.RUnlock()
	return img.write(p, off)
}

// write is WriteAt with img.life held.
func (img *Image) write(p []byte, off int64) (int, error) {
	if err := img.mayWrite(off, int64(len(p))); err != nil {
		return 0, err
	}
	for done := 0; done < len(p); {
		n, err := img.writeSome(p[done:], guestOff(off)+guestOff(done))
		if err != nil {
			return done, err
		}
		done += n
	}
	return len(p), img.limitDirty()
}

// mayChange checks the state of the image.
//
// Preconditions: img.life is held.
func (img *Image) mayChange() error {
	if err := img.usable(); err != nil {
		return err
	}
	return img.writable()
}

// mayWrite checks the state of the image and a range of the disk.
//
// Preconditions: img.life is held.
func (img *Image) mayWrite(off, n int64) error {
	if err := img.mayChange(); err != nil {
		return err
	}
	if img.unopened() {
		return ErrMetadataOnly
	}
	if size := img.size.Load(); off < 0 || n < 0 || off > size || n > size-off {
		return img.outOfRange(off, n)
	}
	return nil
}

// outOfRange is the error for n bytes at off.
func (img *Image) outOfRange(off, n int64) error {
	return fmt.Errorf("%w: %d bytes at %d of %d", ErrOutOfRange, n, off, img.size.Load())
}

// writeSome writes a first part of p and returns its length.
func (img *Image) writeSome(p []byte, off guestOff) (int, error) {
	r, err := img.lookup(off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	if r.kind == runData {
		if img.geo.overL1(r.host, r.length) {
			return 0, corruptf(int64(r.host), "data cluster", "it is not written to: it overlaps the l1 table")
		}
		n, err := img.f.WriteAt(p[:r.length], int64(r.host))
		img.unsynced.Store(true)
		if err != nil {
			return n, fmt.Errorf("qed: data of %#x at %#x: %w", int64(off), int64(r.host), err)
		}
		return n, nil
	}
	if err := img.begin(); err != nil {
		return 0, err
	}
	c, err := img.claim(off, r.length, true)
	if err != nil {
		return 0, err
	}
	if c.n == 0 {
		img.abandon(c)
		return 0, nil // another writer was faster: look again
	}
	n, err := img.fill(c, p, off)
	img.unsynced.Store(true)
	if err != nil {
		img.abandon(c)
		return 0, err
	}
	return n, img.publish(c, func(i int64) entry { return entry(c.host + hostOff(i<<img.geo.clusterBits)) })
}

// fill writes the new clusters of a claim: what p covers of them, before and
// after that what the clusters read as so far.
func (img *Image) fill(c *claim, p []byte, off guestOff) (int, error) {
	start := guestOff(c.first << img.geo.clusterBits)
	end := start + guestOff(c.n<<img.geo.clusterBits)
	n := int(min(int64(len(p)), int64(end-off)))
	if err := img.copyUp(c, start, off, start); err != nil {
		return 0, err
	}
	if _, err := img.f.WriteAt(p[:n], int64(c.host)+int64(off-start)); err != nil {
		return 0, fmt.Errorf("qed: data of %#x at %#x: %w", int64(off), int64(c.host)+int64(off-start), err)
	}
	return n, img.copyUp(c, off+guestOff(n), end, start)
}

// copyUp writes what a claim's clusters read as so far, from one offset of the
// disk to another. A new cluster reads as zeros until it is written, so that
// zeros need not be; but the file must cover its last cluster.
func (img *Image) copyUp(c *claim, from, to, start guestOff) error {
	if from == to {
		return nil
	}
	backed := int64(0) // bytes that come from the backing file
	if !c.zero && img.backing != nil {
		backed = max(0, min(int64(to), img.backing.Size())-int64(from))
	}
	buf := make([]byte, min(backed, copyUpBuffer))
	for done := int64(0); done < backed; done += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), backed-done)]
		at := int64(from) + done
		if err := safeio.ReadFull(img.backing, b, at); err != nil {
			return fmt.Errorf("qed: backing file at %#x: %w", at, err)
		}
		if _, err := img.f.WriteAt(b, int64(c.host)+at-int64(start)); err != nil {
			return fmt.Errorf("qed: copy of %#x at %#x: %w", at, int64(c.host)+at-int64(start), err)
		}
	}
	if from += guestOff(backed); from == to || img.geo.inCluster(to) != 0 {
		return nil
	}
	last := min(int64(to-from), SectorSize)
	if _, err := img.f.WriteAt(make([]byte, last), int64(c.host)+int64(to-start)-last); err != nil {
		return fmt.Errorf("qed: end of a cluster at %#x: %w", int64(c.host)+int64(to-start)-last, err)
	}
	return nil
}

// copyUpBuffer bounds the memory for copying from the backing file.
const copyUpBuffer = 1 << 20

// WriteZeroesAt makes the n bytes of the disk at off read as zeros. Whole
// clusters that own no space are marked in their L2 table and go on owning
// none. To others, and to what does not fill a cluster, zeros are written, as
// QEMU does: the format has no way to free a cluster.
func (img *Image) WriteZeroesAt(off, n int64) error {
	img.life.RLock()
	defer img.life.RUnlock()
	return img.zero(off, n)
}

// zero is WriteZeroesAt with img.life held.
func (img *Image) zero(off, n int64) error {
	if err := img.mayWrite(off, n); err != nil {
		return err
	}
	for at, end := guestOff(off), guestOff(off+n); at < end; {
		step, err := img.zeroSome(at, int64(end-at))
		if err != nil {
			return err
		}
		at += guestOff(step)
	}
	return img.limitDirty()
}

// zeroSome zeroes a first part of n bytes at off and returns its length.
func (img *Image) zeroSome(off guestOff, n int64) (int64, error) {
	size := img.geo.clusterSize()
	if head := img.geo.restOfCluster(off); head < size || n < size {
		return img.writeZeros(off, min(n, head))
	}
	n &^= size - 1
	r, err := img.lookup(off, n)
	if err != nil {
		return 0, err
	}
	if r.kind == runData {
		return img.writeZeros(off, r.length)
	}
	if err := img.begin(); err != nil {
		return 0, err
	}
	c, err := img.claim(off, n, false)
	if err != nil {
		return 0, err
	}
	return c.n << img.geo.clusterBits, img.publish(c, func(int64) entry { return zeroCluster })
}

// writeZeros writes n bytes of zeros.
func (img *Image) writeZeros(off guestOff, n int64) (int64, error) {
	buf := make([]byte, min(n, copyUpBuffer))
	done := int64(0)
	for done < n {
		k, err := img.writeSome(buf[:min(int64(len(buf)), n-done)], off+guestOff(done))
		if err != nil {
			return done, err
		}
		done += int64(k)
	}
	return done, nil
}

var _ interface {
	io.ReaderAt
	io.WriterAt
} = (*Image)(nil)
