package qed

import (
	"fmt"
	"math"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/inflight"
)

// An allocator hands out clusters at the end of the file: the format has no
// other free space. Nothing is ever handed out twice, so that a reader which
// holds an old mapping can never see another cluster's data. It is guarded by
// Image.mu.
//
// Invariant: durable <= next, both multiples of the cluster size.
type allocator struct {
	next hostOff // the next new cluster
	// durable is where new clusters began when the last write-back took its
	// copy: no entry in the file points at or past it.
	durable hostOff
}

// reset makes the allocator start after the last whole cluster of a file.
func (a *allocator) reset(length, clusterSize int64) {
	a.next = hostOff(align.Down(length, clusterSize))
	a.durable = a.next
}

// take hands out n bytes. Until they are written they read as zeros.
func (a *allocator) take(n int64) (hostOff, error) {
	if int64(a.next) > math.MaxInt64-n {
		return 0, fmt.Errorf("qed: the file: %w of 2^63-1 bytes", ErrLimit)
	}
	off := a.next
	a.next += hostOff(n)
	return off, nil
}

// stage returns the stage in which a change of the table at offset at is
// written.
func (a *allocator) stage(at hostOff) int {
	if at >= a.durable {
		return stageNew
	}
	return stageEntries
}

// maxClaim bounds the clusters that one claim takes.
const maxClaim = 1024

// A claim is a run of clusters of the disk that one writer may give other
// entries. Others who want to change them wait for its end.
type claim struct {
	held  inflight.Range // clusters of the disk
	first int64          // cluster of the disk
	n     int64          // clusters
	at    hostOff        // of the first L2 entry
	// zero tells that the clusters read as zeros so far, else they fall
	// through to the backing file.
	zero bool
	host hostOff // of the first cluster, where some were allocated
}

// claim takes up to n bytes of clusters from off on: as many as have their
// entries in one L2 table, own no space in the file and read alike. A claim of
// no clusters means that the first owns space by now. With alloc the clusters
// are given space in the file. Every claim that comes without an error is ended
// by publish or abandon.
func (img *Image) claim(off guestOff, n int64, alloc bool) (*claim, error) {
	g := &img.geo
	c := &claim{first: g.cluster(off)}
	last := min(g.cluster(off+guestOff(n)-1), c.first+maxClaim-1, c.first+(g.restOfTable(off)-1)>>g.clusterBits)
	c.held = inflight.Range{Start: c.first, End: last + 1}
	img.claims.Lock(&c.held)
	img.mu.Lock()
	defer img.mu.Unlock()
	err := img.claimLocked(c, off)
	if err == nil && alloc && c.n > 0 {
		c.host, err = img.alloc.take(c.n << g.clusterBits)
	}
	if err != nil {
		img.claims.Unlock(&c.held)
		return nil, err
	}
	return c, nil
}

// claimLocked finds the clusters of a claim.
func (img *Image) claimLocked(c *claim, off guestOff) error {
	if err := img.failed(); err != nil {
		return err
	}
	l2, err := img.tableFor(off)
	if err != nil {
		return err
	}
	c.at = img.geo.l2EntryAt(l2, off)
	for i := range c.held.End - c.held.Start {
		e, err := img.entryLocked(c.at + hostOff(i)*entrySize)
		if err != nil {
			return err
		}
		if e != unallocated && e != zeroCluster || c.n > 0 && (e == zeroCluster) != c.zero {
			break
		}
		c.zero = e == zeroCluster
		c.n++
	}
	return nil
}

// entryLocked returns the entry at offset at of the file.
//
// Preconditions: img.mu is held exclusively. It is given up while a table is
// read.
func (img *Image) entryLocked(at hostOff) (entry, error) {
	for {
		if e, ok := img.cache.entry(at); ok {
			return e, nil
		}
		if err := img.loadUnlocked(at); err != nil {
			return 0, err
		}
	}
}

func (img *Image) loadUnlocked(at hostOff) error {
	img.mu.Unlock()
	defer img.mu.Lock()
	return img.cache.load(at)
}

// tableFor returns the L2 table for off, a new one where there is none.
//
// Preconditions: as of entryLocked.
func (img *Image) tableFor(off guestOff) (entry, error) {
	at := img.geo.l1EntryAt(off)
	l2, err := img.entryLocked(at)
	if err != nil {
		return 0, err
	}
	if l2 != unallocated {
		err := img.validTable(at, l2)
		if err == nil && img.geo.overL1(hostOff(l2), img.geo.tableBytes) {
			err = corruptf(int64(at), "l1 entry", "%#x is not written to: it overlaps the l1 table", uint64(l2))
		}
		return l2, err
	}
	host, err := img.alloc.take(img.geo.tableBytes)
	if err != nil {
		return 0, err
	}
	// The last piece is written even if it stays empty, so that the file holds
	// the whole table. The others read as zeros until they are written.
	img.cache.Insert(int64(host)+img.geo.tableBytes-sliceSize, make([]byte, sliceSize), stageNew)
	img.cache.set(at, entry(host), img.alloc.stage(at))
	return entry(host), nil
}

// publish gives the clusters of a claim the entries that value says, and ends
// the claim.
func (img *Image) publish(c *claim, value func(i int64) entry) error {
	defer img.claims.Unlock(&c.held)
	img.mu.Lock()
	defer img.mu.Unlock()
	for i := range c.n {
		at := c.at + hostOff(i)*entrySize
		for !img.cache.set(at, value(i), img.alloc.stage(at)) {
			if err := img.loadUnlocked(at); err != nil {
				return err
			}
		}
	}
	img.startIdle()
	return img.failed()
}

// abandon ends a claim without a change. Space that it was given is leaked: it
// may have been written to in part.
func (img *Image) abandon(c *claim) { img.claims.Unlock(&c.held) }

// validTable holds an L1 entry against what is allocated.
func (img *Image) validTable(at hostOff, e entry) error {
	if kind, ok := img.geo.checkTable(e, int64(img.alloc.next)); !ok {
		return corruptf(int64(at), "l1 entry", "%#x: %v", uint64(e), kind)
	}
	return nil
}

// validData holds an L2 entry against what is allocated.
func (img *Image) validData(at hostOff, e entry) error {
	if kind, ok := img.geo.checkData(e, int64(img.alloc.next)); !ok {
		return corruptf(int64(at), "l2 entry", "%#x: %v", uint64(e), kind)
	}
	return nil
}
