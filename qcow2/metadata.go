package qcow2

import (
	"cmp"
	"slices"

	"github.com/virtfmt/virtfmt/internal/align"
)

// A claim is clusters of the image file that hold metadata.
type claim struct {
	clusterRun
	role claimRole
	// shared means that another claim of the same role may have the clusters
	// too: nothing changes them in place.
	shared bool
}

type claimRole uint8

const (
	claimHeader claimRole = iota
	claimL1
	claimL2
	claimRefTable
	claimRefBlock
	claimCrypto
	claimSnapshots
	claimSnapshotL1
)

func (r claimRole) String() string {
	return [...]string{"header", "L1 table", "L2 table", "refcount table", "refcount block", "encryption header",
		"snapshot table", "L1 table of a snapshot"}[r]
}

// takeStock finds out what guest data must not be written to. No two pieces of
// metadata may lie in the same place: a change of one would destroy the other.
// allocMu and mu are not held.
func (im *Image) takeStock(snaps *snapshotTable, list []*bitmap) error {
	im.allocMu.Lock()
	defer im.allocMu.Unlock()
	if err := im.openRefs(); err != nil {
		return err
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	claims := im.claims(snaps, l1Table(im.active.l1.Bytes()))
	if err := im.checkClaims(claims); err != nil {
		return err
	}
	im.meta = metadata(claims)
	return im.claimBitmaps(list)
}

// claims returns what holds metadata if l1 is what the active L1 table holds.
// L2 tables that only snapshots use, and bitmaps, are not among it. allocMu and
// mu are held.
func (im *Image) claims(snaps *snapshotTable, l1 l1Table) []claim {
	refs := refTable(im.refs.table.Bytes())
	list := []claim{{clusterRun: clusterRun{0, 1}, role: claimHeader}}
	add := func(role claimRole, shared bool, off, n int64) {
		first := im.cluster(hostOff(off))
		run := clusterRun{first, first + clusterIdx(align.CeilDiv(n, im.clusterSize()))}
		list = append(list, claim{run, role, shared})
	}
	inFile := func(off, n int64) int64 { return min(n, max(im.length.Load()-off, 0)) }
	add(claimL1, false, im.active.l1.Offset(), int64(len(im.active.l1.Bytes())))
	add(claimRefTable, false, im.refs.table.Offset(), int64(len(refs)))
	if p, ok := im.hdr.CryptoHeader(); ok {
		add(claimCrypto, false, p.Offset, inFile(p.Offset, p.Length))
	}
	if snaps != nil {
		add(claimSnapshots, false, im.hdr.SnapshotsOffset, snaps.size)
		for _, s := range snaps.list {
			if im.checkL1(s) == nil {
				add(claimSnapshotL1, true, int64(s.l1Offset), inFile(int64(s.l1Offset), int64(s.l1Size)*l1EntrySize))
			}
		}
	}
	for i := range l1.len() {
		if e := l1.at(i); e.offset() != 0 {
			add(claimL2, !e.copied(), int64(e.offset()), 1)
		}
	}
	for i := range refs.len() {
		if off := refs.at(i).offset(); off > 0 {
			add(claimRefBlock, false, int64(off), 1)
		}
	}
	slices.SortFunc(list, func(a, b claim) int { return cmp.Compare(a.first, b.first) })
	return list
}

// checkActive reports a corruption if l1 cannot become the active L1 table,
// because an L2 table that it points to lies where other metadata does.
func (im *Image) checkActive(snaps *snapshotTable, l1 l1Table) error {
	im.allocMu.Lock()
	defer im.allocMu.Unlock()
	im.mu.RLock()
	defer im.mu.RUnlock()
	return im.checkClaims(im.claims(snaps, l1))
}

// checkClaims reports a corruption if sorted claims overlap.
func (im *Image) checkClaims(list []claim) error {
	last := list[0] // of those so far, the one that ends last
	for _, c := range list[1:] {
		if c.first < last.end && c.first < c.end && (c.role != last.role || !c.shared || !last.shared) {
			return corruptf(int64(im.clusterOff(c.first)), c.role.String(), "it overlaps metadata: %v; the image can only be read, or copied to a new one", last.role)
		}
		if c.end > last.end {
			last = c
		}
	}
	return nil
}

// metadata returns the clusters of sorted claims.
func metadata(list []claim) clusterSet {
	runs := make([]clusterRun, len(list))
	for i, c := range list {
		runs[i] = c.clusterRun
	}
	return newClusterSet(runs)
}

// renewMetadata takes stock of what guest data must not be written to.
func (im *Image) renewMetadata() {
	snaps, _ := im.snapshotList()
	im.allocMu.Lock()
	defer im.allocMu.Unlock()
	im.mu.Lock()
	defer im.mu.Unlock()
	im.meta = metadata(im.claims(snaps, l1Table(im.active.l1.Bytes())))
	im.bitmaps.Lock()
	defer im.bitmaps.Unlock()
	for _, r := range im.bitmapRuns(im.bitmaps.list) {
		im.meta.add(r.first, r.n)
	}
}
