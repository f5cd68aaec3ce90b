package qed

import (
	"fmt"
	"io"

	"github.com/virtfmt/virtfmt/internal/safeio"
)

// A run is a contiguous piece of the disk that is stored in one way.
type run struct {
	start  guestOff
	length int64
	kind   runKind
	host   hostOff // of start, where kind is runData
}

type runKind uint8

const (
	runBacking runKind = iota // falls through to the backing file
	runZero
	runData
)

// ReadAt reads len(p) bytes of the disk from off on. It implements
// [io.ReaderAt]: a read that ends past the end of the disk returns what there
// is and [io.EOF]. An entry that cannot be right is a [*FormatError] that is
// [ErrCorrupt]. Methods of Image are safe for concurrent use; a read that
// overlaps a write in flight sees the old or the new bytes of each sector.
func (img *Image) ReadAt(p []byte, off int64) (int, error) {
	img.life.RLock()
	defer img.life.RUnlock()
	if err := img.usable(); err != nil {
		return 0, err
	}
	return img.readAt(p, off)
}

// readAt is ReadAt with img.life held.
func (img *Image) readAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, img.outOfRange(off, int64(len(p)))
	}
	size := img.size.Load()
	if off >= size {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), size-off))
	for done := 0; done < n; {
		r, err := img.lookup(guestOff(off)+guestOff(done), int64(n-done))
		if err != nil {
			return done, err
		}
		if err := img.readRun(p[done:done+int(r.length)], r); err != nil {
			return done, err
		}
		done += int(r.length)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readRun fills p, whose length is that of r.
func (img *Image) readRun(p []byte, r run) error {
	switch r.kind {
	case runZero:
		clear(p)
		return nil
	case runBacking:
		return img.readBacking(p, r.start)
	}
	if err := img.readFull(p, int64(r.host)); err != nil {
		return fmt.Errorf("qed: data of %#x at %#x: %w", int64(r.start), int64(r.host), err)
	}
	return nil
}

// readFull fills p from off of the file, whose last sector counts as whole.
func (img *Image) readFull(p []byte, off int64) error {
	n, err := img.r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err != nil && err != io.EOF:
		return err
	case off+int64(n) <= img.padded-SectorSize || off+int64(len(p)) > img.padded:
		return io.ErrUnexpectedEOF
	}
	clear(p[n:])
	return nil
}

// readBacking fills p from the backing file: with zeros past its end, or where
// there is none.
func (img *Image) readBacking(p []byte, off guestOff) error {
	n := 0
	if img.unopened() {
		return ErrMetadataOnly
	}
	if img.backing != nil {
		n = int(max(0, min(int64(len(p)), img.backing.Size()-int64(off))))
		if n > 0 {
			if err := safeio.ReadFull(img.backing, p[:n], int64(off)); err != nil {
				return fmt.Errorf("qed: backing file at %#x: %w", int64(off), err)
			}
		}
	}
	clear(p[n:])
	return nil
}

// lookup returns the longest run that starts at off and is stored in one way,
// at most n bytes.
//
// Preconditions: 0 <= off, 0 < n, off+n <= the size of the disk.
func (img *Image) lookup(off guestOff, n int64) (run, error) {
	for {
		img.mu.RLock()
		r, miss, err := img.lookupLocked(off, n)
		img.mu.RUnlock()
		if miss == 0 || err != nil {
			return r, err
		}
		if err := img.cache.load(miss); err != nil {
			return run{}, err
		}
	}
}

// lookupLocked is lookup with img.mu held. A miss that is not 0 is the place
// of a table entry that is not in the cache; where a run was found before it,
// that run is returned instead.
func (img *Image) lookupLocked(off guestOff, n int64) (r run, miss hostOff, err error) {
	for r.length < n {
		next, miss, err := img.clusterLocked(off + guestOff(r.length))
		if miss != 0 || err != nil {
			if r.length > 0 {
				return r, 0, nil
			}
			return r, miss, err
		}
		switch {
		case r.length == 0:
			r = next
		case !next.follows(r):
			return r.cut(n), 0, nil
		default:
			r.length += next.length
		}
	}
	return r.cut(n), 0, nil
}

// follows reports whether r continues prev, which ends where r starts.
func (r run) follows(prev run) bool {
	return r.kind == prev.kind && (r.kind != runData || r.host == prev.host+hostOff(prev.length))
}

func (r run) cut(n int64) run {
	r.length = min(r.length, n)
	return r
}

// clusterLocked returns the run from off to the end of its cluster, or, where
// there is no L2 table, to the end of what that table would cover.
func (img *Image) clusterLocked(off guestOff) (r run, miss hostOff, err error) {
	g := &img.geo
	l1At := g.l1EntryAt(off)
	l1, ok := img.cache.entry(l1At)
	if !ok {
		return run{}, l1At, nil
	}
	if l1 == unallocated {
		return run{start: off, length: g.restOfTable(off), kind: runBacking}, 0, nil
	}
	if err := img.validTable(l1At, l1); err != nil {
		return run{}, 0, err
	}
	l2At := g.l2EntryAt(l1, off)
	e, ok := img.cache.entry(l2At)
	if !ok {
		return run{}, l2At, nil
	}
	r = run{start: off, length: g.restOfCluster(off)}
	switch e {
	case unallocated:
		r.kind = runBacking
	case zeroCluster:
		r.kind = runZero
	default:
		if err := img.validData(l2At, e); err != nil {
			return run{}, 0, err
		}
		r.kind, r.host = runData, hostOff(e)+g.inCluster(off)
	}
	return r, 0, nil
}

// usable returns an error after Close.
//
// Preconditions: img.life is held.
func (img *Image) usable() error {
	if img.closed {
		return ErrClosed
	}
	return nil
}
