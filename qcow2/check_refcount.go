package qcow2

import (
	"bytes"
	"context"
	"fmt"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
)

// Refcounts are kept twice, both times in the form of refcount blocks: as the
// file has them, and as they were counted. Comparing them is then comparing
// memory, and a count costs what it costs in the file.

// maxCheckBlocks is how many refcount blocks a refcount table can point to.
// Clusters past what they cover have no refcount, and so no right to be
// referenced.
const maxCheckBlocks = maxRefcountTableBytes / refTableEntrySize

// storedRefcounts are the refcounts of the file.
type storedRefcounts struct {
	order  uint
	bits   uint // clusters of a block, as a power of two
	blocks []storedBlock
}

// A storedBlock is a refcount block. Without data all of its refcounts are 0.
type storedBlock struct {
	data refBlock
	bad  bool // the table points to where no block can be
}

// at returns the refcount of a cluster, and whether it could be read.
func (s *storedRefcounts) at(i clusterIdx) (uint64, bool) {
	bi := i >> s.bits
	if bi >= clusterIdx(len(s.blocks)) {
		return 0, true
	}
	b := &s.blocks[bi]
	if b.data == nil {
		return 0, !b.bad
	}
	return b.data.at(s.order, int(i&(1<<s.bits-1))), true
}

// allOne reports whether the n clusters from i on, all of one piece, have
// refcount 1. It may say false where they do: of short runs, and where one
// refcount is not whole bytes.
func (s *storedRefcounts) allOne(i clusterIdx, n int) bool {
	bi := i >> s.bits
	if n < shortRun || s.order < 3 || bi >= clusterIdx(len(s.blocks)) || s.blocks[bi].data == nil {
		return false
	}
	at := int(i&(1<<s.bits-1)) << (s.order - 3)
	n <<= s.order - 3
	return bytes.Equal(s.blocks[bi].data[at:at+n], refcountOnes[s.order][:n])
}

// shortRun is how many clusters are handled one by one rather than as a run.
const shortRun = 4

// refcountOnes holds a piece of refcounts of 1 for each width of whole bytes.
var refcountOnes = func() (ones [maxRefcountOrder + 1]refBlock) {
	for order := uint(3); order <= maxRefcountOrder; order++ {
		ones[order] = make(refBlock, pieceBytes)
		for i := range ones[order].len(order) {
			ones[order].set(order, i, 1)
		}
	}
	return ones
}()

// pieceBytes is the most that countedRefcounts takes at once.
const pieceBytes = 4096

// countedRefcounts are the references counted so far. Memory is taken for the
// parts of blocks that hold a count.
type countedRefcounts struct {
	order     uint
	bits      uint // clusters of a block, as a power of two
	pieceBits uint // clusters of a piece, as a power of two
	size      int  // bytes of a piece
	blocks    [][]refBlock
	limit     int64 // bytes that may yet be taken
	err       error // the limit was passed

	lastIdx clusterIdx // of the piece in last
	last    refBlock
}

func newCountedRefcounts(l *layout, clusters clusterIdx, limit int64) countedRefcounts {
	size := min(pieceBytes, l.clusterSize())
	c := countedRefcounts{
		order:   l.refcountOrder,
		bits:    l.refBlockBits(),
		size:    int(size),
		limit:   limit,
		lastIdx: -1,
	}
	for c.pieceBits = c.bits; l.clusterSize()>>(c.bits-c.pieceBits) > size; {
		c.pieceBits--
	}
	c.blocks = make([][]refBlock, min(align.CeilDiv(clusters, 1<<c.bits), maxCheckBlocks))
	return c
}

// add counts n references to a cluster. It returns how many of them a
// refcount cannot count.
func (c *countedRefcounts) add(i clusterIdx, n uint64) (over uint64) {
	if i>>c.pieceBits != c.lastIdx && !c.seek(i) {
		return 0
	}
	at := int(i & (1<<c.pieceBits - 1))
	was, most := c.last.at(c.order, at), maxRefcount(c.order)
	if n > most-was {
		over = n - (most - was)
		n = most - was
	}
	c.last.set(c.order, at, was+n)
	return over
}

// untilPiece returns how many clusters there are from i to the end of its
// piece.
func (c *countedRefcounts) untilPiece(i clusterIdx) int {
	return 1<<c.pieceBits - int(i&(1<<c.pieceBits-1))
}

// addFirst counts one reference to each of the n clusters from i on, all of
// one piece, if that can be done at once: it is a long run that nothing was
// counted for yet.
func (c *countedRefcounts) addFirst(i clusterIdx, n int, weight uint64) bool {
	if n < shortRun || c.order < 3 || weight != 1 || i>>c.pieceBits != c.lastIdx && !c.seek(i) {
		return false
	}
	at := int(i&(1<<c.pieceBits-1)) << (c.order - 3)
	n <<= c.order - 3
	if !block.IsZero(c.last[at : at+n]) {
		return false
	}
	copy(c.last[at:], refcountOnes[c.order][:n])
	return true
}

// at returns how many references to a cluster were counted.
func (c *countedRefcounts) at(i clusterIdx) uint64 {
	p := c.piece(i)
	if p == nil {
		return 0
	}
	return p.at(c.order, int(i&(1<<c.pieceBits-1)))
}

// piece returns the piece of a cluster, nil if nothing was counted in it.
func (c *countedRefcounts) piece(i clusterIdx) refBlock {
	bi := i >> c.bits
	if bi >= clusterIdx(len(c.blocks)) || c.blocks[bi] == nil {
		return nil
	}
	return c.blocks[bi][(i&(1<<c.bits-1))>>c.pieceBits]
}

// seek makes the piece of a cluster the last one, taking memory for it.
func (c *countedRefcounts) seek(i clusterIdx) bool {
	bi := i >> c.bits
	if bi >= clusterIdx(len(c.blocks)) || c.err != nil {
		return false
	}
	b := c.blocks[bi]
	if b == nil {
		b = make([]refBlock, 1<<(c.bits-c.pieceBits))
		c.blocks[bi] = b
	}
	p := &b[(i&(1<<c.bits-1))>>c.pieceBits]
	if *p == nil {
		if c.limit -= int64(c.size); c.limit < 0 {
			c.err = fmt.Errorf("qcow2: memory for refcounts: %w", ErrLimit)
			return false
		}
		*p = make(refBlock, c.size)
	}
	c.last, c.lastIdx = *p, i>>c.pieceBits
	return true
}

// readRefcountTable reads the refcount table, but not what lies past the end
// of the file.
func (c *checker) readRefcountTable() error {
	off := c.h.RefcountTableOffset
	n := min(int64(c.h.RefcountTableClusters)<<c.clusterBits, c.size-off)
	c.refcountTable = make(refTable, max(n, 0))
	return c.readTable(c.refcountTable, off, "refcount table")
}

// loadRefcounts reads the refcount blocks of the clusters that the file has.
func (c *checker) loadRefcounts() error {
	if err := c.readRefcountTable(); err != nil {
		return err
	}
	n := min(c.refcountTable.len(), len(c.counted.blocks))
	c.stored = storedRefcounts{order: c.refcountOrder, bits: c.refBlockBits(), blocks: make([]storedBlock, n)}
	var parts []segment
	owner := map[int64]int64{} // several entries may point to one block
	for i := range int64(n) {
		off := c.refcountTable.at(int(i)).offset()
		switch {
		case off < 0 || c.offsetInCluster(int64(off)) != 0:
			c.stored.blocks[i].bad = true
		case off != 0 && int64(off) < c.size:
			if _, ok := owner[int64(off)]; !ok {
				owner[int64(off)] = i
				parts = append(parts, segment{off: int64(off), n: c.clusterSize(), index: i})
			}
		}
	}
	err := c.readSegments(parts, "refcount block", func(p part, b []byte) error {
		if block.IsZero(b) {
			return nil
		}
		block := &c.stored.blocks[p.index]
		if block.data == nil {
			block.data = make(refBlock, c.clusterSize())
			c.counted.limit -= c.clusterSize()
		}
		copy(block.data[p.at:], b)
		return nil
	})
	for i := range c.stored.blocks {
		if first, ok := owner[int64(c.refcountTable.at(i).offset())]; ok {
			c.stored.blocks[i] = c.stored.blocks[first]
		}
	}
	return err
}

// checkRefcountBlocks counts the refcount blocks.
func (c *checker) checkRefcountBlocks() {
	for i := range c.refcountTable.len() {
		e := c.refcountTable.at(i)
		if e == 0 {
			continue
		}
		at := c.h.RefcountTableOffset + int64(i)*refTableEntrySize
		off := e.offset()
		switch {
		case e.reserved() != 0:
			c.report(FindingReserved, StructureRefcountTable, at, uint64(e), 1)
		case c.offsetInCluster(int64(off)) != 0:
			c.report(FindingUnaligned, StructureRefcountTable, at, uint64(e), 1)
		case off < 0 || c.cluster(off) >= c.clusters:
			c.report(FindingRefcountBlock, StructureRefcountTable, at, uint64(e), 1)
		default:
			c.reference(uint64(off), c.clusterSize(), 1, StructureRefcountTable, at)
			if c.counted.at(c.cluster(off)) != 1 {
				c.report(FindingRefcountBlock, StructureRefcountTable, at, uint64(e), 1)
			}
		}
	}
}

// compareRefcounts holds what was counted against what the file says.
func (c *checker) compareRefcounts() error {
	highest := clusterIdx(0) // in use
	size := clusterIdx(1) << c.counted.bits
	covered := min(c.clusters, clusterIdx(len(c.counted.blocks))*size)
	for first := clusterIdx(0); first < covered; first += size {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		end := min(first+size, covered)
		bi := first >> c.counted.bits
		var stored storedBlock
		if bi < clusterIdx(len(c.stored.blocks)) {
			stored = c.stored.blocks[bi]
		}
		switch {
		case stored.bad:
			c.report(FindingNoRefcount, StructureCluster, int64(c.clusterOff(first)), 0, uint64(end-first))
		case stored.data != nil || c.counted.blocks[bi] != nil:
			highest = max(highest, c.compareBlock(stored.data, first, end))
		}
	}
	c.res.ImageEndOffset = int64(c.clusterOff(highest + 1))
	return nil
}

// compareBlock compares the clusters of one refcount block, nil where the
// file has none, and returns the highest that is in use, 0 if none is.
func (c *checker) compareBlock(stored refBlock, first, end clusterIdx) (highest clusterIdx) {
	none := make(refBlock, c.counted.size)
	step := clusterIdx(1) << c.counted.pieceBits
	for i := first; i < end; i += step {
		counted, there := c.counted.piece(i), none
		if stored != nil {
			there = stored[int(i-first)>>c.counted.pieceBits*c.counted.size:][:c.counted.size]
		}
		if counted == nil {
			counted = none
		}
		last := min(i+step, end)
		if last-i == step && bytes.Equal(counted, there) {
			if h := lastUsed(counted, c.refcountOrder); h >= 0 {
				highest = i + clusterIdx(h)
			}
			continue
		}
		for j := i; j < last; j++ {
			want, have := counted.at(c.refcountOrder, int(j-i)), there.at(c.refcountOrder, int(j-i))
			if want != 0 || have != 0 {
				highest = j
			}
			switch {
			case have > want:
				c.report(FindingLeak, StructureCluster, int64(c.clusterOff(j)), have, want)
			case have < want:
				c.report(FindingRefcount, StructureCluster, int64(c.clusterOff(j)), have, want)
			}
		}
	}
	return highest
}

// lastUsed returns the index of the last refcount that is not 0, -1 if there
// is none.
func lastUsed(b refBlock, order uint) int {
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	for i := b[:align.Up(n, 8)].len(order) - 1; i >= 0; i-- {
		if b.at(order, i) != 0 {
			return i
		}
	}
	return -1
}
