package qcow2

import "encoding/binary"

// walkTables counts what the active disk and all snapshots refer to: L1
// tables, L2 tables, clusters.
func (c *checker) walkTables() error {
	c.l1 = sweep(c.l1Spans(), c.size)
	var l2 []span
	err := c.readSegments(c.l1, "L1 table", func(p part, b []byte) error {
		for i := 0; i+l1EntrySize <= len(b); i += l1EntrySize {
			if e := l1Entry(binary.BigEndian.Uint64(b[i:])); e != 0 {
				c.checkL1Entry(e, p.off+p.at+int64(i), p)
				l2 = append(l2, c.l2Span(e, p))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	w := l2Walker{checker: c, end: -1}
	walk := w.walk
	if c.extended {
		walk = w.walkExtended
	}
	return c.readSegments(sweep(l2, c.size), "L2 table", walk)
}

// l1Spans counts the L1 tables and returns where they lie.
func (c *checker) l1Spans() []span {
	h := c.h
	n := int64(h.L1Size) * l1EntrySize
	c.reference(uint64(h.L1TableOffset), n, 1, StructureHeader, 40)
	spans := []span{{h.L1TableOffset, h.L1TableOffset + n, tally{1, 1, 1}}}
	if c.external && len(c.snapshots) > 0 {
		c.report(FindingSnapshot, StructureHeader, 60, uint64(len(c.snapshots)), 1)
	}
	var counted []span
	for _, s := range c.snapshots {
		n := int64(s.l1Size) * l1EntrySize
		switch {
		case s.l1Offset&uint64(c.clusterSize()-1) != 0:
			c.report(FindingUnaligned, StructureSnapshotTable, s.at, s.l1Offset, 1)
		case n > maxL1Bytes:
			c.report(FindingSnapshot, StructureSnapshotTable, s.at, uint64(s.l1Size), 1)
		default:
			t := span{int64(s.l1Offset), int64(s.l1Offset) + n, tally{total: 1}}
			if c.inFile(s.l1Offset, n, 1, StructureSnapshotTable, s.at) {
				counted = append(counted, t)
			}
			if s.l1Offset <= 1<<62 {
				spans = append(spans, t)
			}
		}
	}
	c.referenceSpans(counted)
	return spans
}

// checkL1Entry counts the L2 table of an entry at offset at of the file,
// which is part of p.total L1 tables.
func (c *checker) checkL1Entry(e l1Entry, at int64, p part) {
	if e.reserved() != 0 {
		c.report(FindingReserved, StructureL1, at, uint64(e), p.total)
	}
	off := e.offset()
	c.reference(uint64(off), c.clusterSize(), p.total, StructureL1, at)
	if c.offsetInCluster(int64(off)) != 0 {
		c.report(FindingUnaligned, StructureL1, at, uint64(e), p.total)
	}
	if off != 0 {
		c.checkCopied(e.copied(), off, StructureL1, at, uint64(e), p.active)
	}
}

// l2Span returns the L2 table of an entry of p.total L1 tables. Without an
// offset, that is with reserved bits only, it is the header.
func (c *checker) l2Span(e l1Entry, p part) span {
	off := e.offset()
	t := tally{total: p.total, active: p.active}
	// Where the refcount of a table cannot be read, qemu does not look at the
	// flags in it.
	if _, ok := c.stored.at(c.cluster(off)); ok && off != 0 {
		t.copied = p.active
	}
	return span{int64(off), int64(off) + c.clusterSize(), t}
}

// checkCopied holds the COPIED flag of n active entries against the stored
// refcount of the cluster at off. A refcount that cannot be read is another
// finding.
func (c *checker) checkCopied(copied bool, off hostOff, s Structure, at int64, e, n uint64) {
	if n == 0 {
		return
	}
	refcount, ok := c.stored.at(c.cluster(off))
	if ok && copied != (refcount == 1) {
		c.report(FindingCopied, s, at, e, n)
	}
}

// An l2Walker counts the clusters of L2 tables, which come in the order of
// the file and may overlap where their offsets are damaged.
type l2Walker struct {
	*checker
	end   int64   // of the last segment
	last  int64   // where the last standard cluster's entry lies
	next  hostOff // where that cluster ends
	fresh uint64  // how many active tables have had no standard cluster yet
}

// begin prepares for a part.
func (w *l2Walker) begin(p *part) {
	if p.at != 0 {
		return
	}
	switch {
	case p.off != w.end:
		w.fresh = 0
	case w.last < p.off-w.clusterSize():
		w.fresh -= p.ended.active
	}
	w.fresh += p.begun.active
	w.end = p.off + p.n
}

func (w *l2Walker) walk(p part, b []byte) error {
	w.begin(&p)
	t := l2Table(b)
	for i := 0; i < t.len(); {
		e := t.at(i)
		at := p.off + p.at + int64(i)*l2EntrySize
		switch {
		case e == 0:
			i++
		case w.external || e.compressed() || e.reserved() != 0 || w.offsetInCluster(int64(e.offset())) != 0:
			w.checkEntry(entry{e, 0}, at, &p)
			i++
		default:
			n := t.run(i, e, l2Entry(w.clusterSize()))
			w.checkRun(e, n, at, &p)
			i += n
		}
	}
	return nil
}

// run returns how many entries from i on point to clusters that follow one
// another, all with the flags of e.
//
// Preconditions: e is entry i.
func (t l2Table) run(i int, e, cluster l2Entry) int {
	first := i
	for i++; i < t.len() && t.at(i) == e+cluster; i++ {
		e += cluster
	}
	return i - first
}

// checkRun counts the clusters of n entries that run returned, e the first of
// them, at offset at of the file.
func (w *l2Walker) checkRun(e l2Entry, n int, at int64, p *part) {
	off, end := e.offset(), int64(e.offset())+int64(n)<<w.clusterBits
	if off == 0 || end > w.size || end > l2OffsetLimit {
		for i := range n {
			w.checkEntry(entry{e + l2Entry(i)<<w.clusterBits, 0}, at+int64(i)*l2EntrySize, p)
		}
		return
	}
	w.allocated(off, at, p)
	w.res.AllocatedClusters += int64(n-1) * int64(p.active)
	w.next, w.last = hostOff(end), at+int64(n-1)*l2EntrySize

	for first := w.cluster(off); n > 0; {
		m := min(n, w.counted.untilPiece(first))
		if !w.counted.addFirst(first, m, p.total) {
			for i := range m {
				if over := w.counted.add(first+clusterIdx(i), p.total); over > 0 {
					w.report(FindingOverflow, StructureL2, at+int64(i)*l2EntrySize, uint64(w.clusterOff(first+clusterIdx(i))), over)
				}
			}
		}
		if p.copied > 0 && !(e.copied() && w.stored.allOne(first, m)) {
			for i := range m {
				f := e + l2Entry(i)<<w.clusterBits
				w.checkCopied(f.copied(), f.offset(), StructureL2, at+int64(i)*l2EntrySize, uint64(f), p.copied)
			}
		}
		n -= m
		first += clusterIdx(m)
		at += int64(m) * l2EntrySize
		e += l2Entry(m) << w.clusterBits
	}
}

// allocated counts one cluster of the active disk.
func (w *l2Walker) allocated(off hostOff, at int64, p *part) {
	w.res.AllocatedClusters += int64(p.active)
	if off != w.next {
		w.res.FragmentedClusters += int64(p.active - w.fresh)
	}
	w.next, w.last, w.fresh = off+hostOff(w.clusterSize()), at, 0
}

func (w *l2Walker) walkExtended(p part, b []byte) error {
	w.begin(&p)
	t := extL2Table(b)
	for i := range t.len() {
		if e := t.at(i); e != (entry{}) {
			w.checkEntry(e, p.off+p.at+int64(i)*extL2EntrySize, &p)
		}
	}
	return nil
}

// checkEntry counts the clusters of an entry at offset at of the file, which
// is part of p.total L2 tables.
func (w *l2Walker) checkEntry(e entry, at int64, p *part) {
	if e.compressed() {
		w.checkCompressed(e, at, p)
		return
	}
	if e.reserved() != 0 {
		w.report(FindingReserved, StructureL2, at, uint64(e.l2Entry), p.total)
	}
	switch kind := w.kind(e.l2Entry); kind {
	case kindUnallocated:
		if e.subs.allocated() != 0 {
			w.report(FindingSubclusters, StructureL2, at, uint64(e.subs), p.total)
		}
	case kindNormal, kindZeroAlloc:
		w.checkStandard(e, at, p)
	}
}

// checkStandard counts the cluster of an entry that is not compressed.
func (w *l2Walker) checkStandard(e entry, at int64, p *part) {
	off := e.offset()
	if !e.subs.valid() {
		w.report(FindingSubclusters, StructureL2, at, uint64(e.subs), p.total)
	}
	w.allocated(off, at, p)
	if w.offsetInCluster(int64(off)) != 0 {
		w.report(FindingUnaligned, StructureL2, at, uint64(e.l2Entry), p.total)
	}
	if w.external {
		if p.copied > 0 && !e.copied() {
			w.report(FindingCopied, StructureL2, at, uint64(e.l2Entry), p.copied)
		}
		return
	}
	w.reference(uint64(off), w.clusterSize(), p.total, StructureL2, at)
	w.checkCopied(e.copied(), off, StructureL2, at, uint64(e.l2Entry), p.copied)
}

// checkCompressed counts every cluster that compressed data touches.
func (w *l2Walker) checkCompressed(e entry, at int64, p *part) {
	if e.copied() {
		w.report(FindingCompressedCopied, StructureL2, at, uint64(e.l2Entry), p.total)
	}
	if w.external {
		w.report(FindingCompressedExternal, StructureL2, at, uint64(e.l2Entry), p.total)
		return
	}
	if e.subs != 0 {
		w.report(FindingSubclusters, StructureL2, at, uint64(e.subs), p.total)
		return
	}
	w.res.AllocatedClusters += int64(p.active)
	w.res.CompressedClusters += int64(p.active)
	w.res.FragmentedClusters += int64(p.active)
	off, n := w.compressedRange(e.l2Entry)
	w.reference(uint64(off), n, p.total, StructureL2, at)
}
