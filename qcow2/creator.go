package qcow2

import (
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/sparse"
)

// A creator lays out a new image in the way that QEMU does, cluster by
// cluster: what it writes is to be equal byte for byte. The refcounts are in
// memory until the end; nothing but the file's being complete matters before.
//
// QEMU hands out the first free clusters after the last ones. Where their
// refcount block is missing, it first takes a cluster for that, and then looks
// again from where it had found the others; where the refcount table is too
// small, it makes a larger one after all that is described.
type creator struct {
	layout
	f, data  File
	blocks   map[int64]refBlock // the refcounts by number of block
	table    []refTableEntry    // the refcount table
	tableOff hostOff
	next     clusterIdx // where the search for free clusters goes on
	l1       l1Table
	l1Off    hostOff
	end      hostOff // the file is at least as long
}

func newCreator(l layout, f, data File) *creator {
	return &creator{layout: l, f: f, data: data, blocks: map[int64]refBlock{}}
}

// create writes the image with the header h, whose tables are given places.
func (c *creator) create(h *Header, mode Preallocation) error {
	if h.AutoclearFeatures&AutoclearRawExternal != 0 && mode == PreallocateOff {
		mode = PreallocateMetadata
	}
	if err := c.f.Truncate(0); err != nil {
		return err
	}
	// The header, the refcount table and its first block.
	c.tableOff = c.clusterOff(1)
	c.table = make([]refTableEntry, c.clusterSize()/refTableEntrySize)
	c.table[0] = refTableEntry(c.clusterOff(2))
	c.blocks[0] = make(refBlock, c.clusterSize())
	if _, err := c.alloc(3); err != nil {
		return err
	}
	c.end = c.clusterOff(3)
	if h.Size > 0 {
		off, err := c.alloc(align.CeilDiv(int64(h.L1Size)*l1EntrySize, c.clusterSize()))
		if err != nil {
			return err
		}
		c.l1Off, c.l1 = off, make(l1Table, int64(h.L1Size)*l1EntrySize)
		c.end = off + hostOff(len(c.l1))
	}
	if err := c.preallocate(h.Size, mode); err != nil {
		return err
	}
	if err := c.placeCryptoHeader(h); err != nil {
		return err
	}
	h.L1TableOffset = int64(c.l1Off)
	h.RefcountTableOffset = int64(c.tableOff)
	h.RefcountTableClusters = uint32(int64(len(c.table)) * refTableEntrySize >> c.clusterBits)
	return c.finish(h)
}

// finish writes what was kept in memory.
func (c *creator) finish(h *Header) error {
	header, err := h.AppendBinary(nil)
	if err != nil {
		return err
	}
	for i, e := range c.table {
		if b := c.blocks[int64(i)]; b != nil {
			if err := c.write(b, e.offset()); err != nil {
				return err
			}
		}
	}
	if err := c.writeTable(); err != nil {
		return err
	}
	if err := c.write(c.l1, c.l1Off); err != nil {
		return err
	}
	// The length of the file is never rounded to a cluster by QEMU.
	if err := c.f.Truncate(int64(c.end)); err != nil {
		return err
	}
	return c.write(header, 0)
}

// writeTable writes the refcount table.
func (c *creator) writeTable() error {
	b := make(refTable, len(c.table)*refTableEntrySize)
	for i, e := range c.table {
		b.set(i, e)
	}
	return c.write(b, c.tableOff)
}

func (c *creator) write(b []byte, off hostOff) error {
	if len(b) == 0 {
		return nil
	}
	c.end = max(c.end, off+hostOff(len(b)))
	_, err := c.f.WriteAt(b, int64(off))
	return err
}

func (c *creator) refcount(i clusterIdx) uint64 {
	b := c.blocks[int64(i)>>c.refBlockBits()]
	if b == nil {
		return 0
	}
	return b.at(c.refcountOrder, int(i)&(1<<c.refBlockBits()-1))
}

// alloc takes n clusters that follow each other.
func (c *creator) alloc(n int64) (hostOff, error) {
	for {
		first, err := c.search(n)
		if err != nil {
			return 0, err
		}
		again, err := c.take(first, n)
		if err != nil {
			return 0, err
		}
		if !again {
			return c.clusterOff(first), nil
		}
	}
}

// allocAt takes up to n free clusters from first on, and returns how many.
func (c *creator) allocAt(first clusterIdx, n int64) (int64, error) {
	for {
		free := int64(0)
		for free < n && c.refcount(first+clusterIdx(free)) == 0 {
			free++
		}
		again, err := c.take(first, free)
		if err != nil || !again {
			return free, err
		}
	}
}

// search finds n free clusters that follow each other.
func (c *creator) search(n int64) (clusterIdx, error) {
	for run := int64(0); run < n; c.next++ {
		if c.next >= l2OffsetLimit>>c.clusterBits {
			return 0, fmt.Errorf("image file: %w of 2^56 bytes", ErrLimit)
		}
		if run++; c.refcount(c.next) != 0 {
			run = 0
		}
	}
	return c.next - clusterIdx(n), nil
}

// take gives n clusters the refcount 1. If a refcount block was missing it
// takes nothing, but adds that, and the search must be done again.
func (c *creator) take(first clusterIdx, n int64) (again bool, err error) {
	for i := range clusterIdx(n) {
		index := int64(first+i) >> c.refBlockBits()
		if c.blocks[index] == nil {
			if err := c.addBlock(first + i); err != nil {
				return false, err
			}
			for j := range i {
				c.set(first+j, 0)
			}
			c.next = min(c.next, first)
			return true, nil
		}
		c.set(first+i, 1)
	}
	return false, nil
}

// set sets a refcount whose block is there.
func (c *creator) set(i clusterIdx, n uint64) {
	c.blocks[int64(i)>>c.refBlockBits()].set(c.refcountOrder, int(i)&(1<<c.refBlockBits()-1), n)
	if n == 0 {
		c.next = min(c.next, i)
	}
}

// addBlock adds the refcount block for a cluster.
func (c *creator) addBlock(i clusterIdx) error {
	index := int64(i) >> c.refBlockBits()
	at, err := c.search(1)
	if err != nil {
		return err
	}
	block := make(refBlock, c.clusterSize())
	if int64(at)>>c.refBlockBits() == index { // it describes itself
		block.set(c.refcountOrder, int(at)&(1<<c.refBlockBits()-1), 1)
	} else {
		again, err := c.take(at, 1)
		if err != nil || again {
			return err
		}
	}
	c.end = max(c.end, c.clusterOff(at+1))
	if index < int64(len(c.table)) {
		c.blocks[index] = block
		c.table[index] = refTableEntry(c.clusterOff(at))
		return nil
	}
	used := align.CeilDiv(max(int64(i)+1, int64(at)), 1<<c.refBlockBits())
	_, err = c.addArea(clusterIdx(used<<c.refBlockBits()), 0, false, index, c.clusterOff(at), block)
	return err
}

// addArea makes a new refcount table, with the blocks that it and what follows
// it need, in the clusters from start on, of which none is in use, and room for
// the refcounts of extra clusters after it; it returns where these begin. An
// exact table is no larger than it must be. A block that was made already is given
// with its index and place.
func (c *creator) addArea(start clusterIdx, extra int64, exact bool, index int64, at hostOff, block refBlock) (clusterIdx, error) {
	total := c.blocksFor(int64(start)+extra, !exact)
	entries := total
	if !exact {
		entries += align.CeilDiv(total, 2)
	}
	entries = align.Up(entries, c.clusterSize()/refTableEntrySize)
	if entries*refTableEntrySize > maxRefcountTableBytes {
		return 0, fmt.Errorf("refcount table: %w of %d bytes", ErrLimit, maxRefcountTableBytes)
	}
	old, oldOff := c.table, c.tableOff
	if err := c.writeTable(); err != nil { // QEMU leaves it there
		return 0, err
	}
	c.table = make([]refTableEntry, entries)
	copy(c.table, old)
	if block != nil {
		c.table[index], c.blocks[index] = refTableEntry(at), block
	}
	next := start
	first := int64(start) >> c.refBlockBits()
	for i := first; i < total; i++ {
		if c.table[i] == 0 {
			c.table[i] = refTableEntry(c.clusterOff(next))
			c.blocks[i] = make(refBlock, c.clusterSize())
			next++
		}
	}
	c.tableOff = c.clusterOff(next)
	after := next + clusterIdx(entries*refTableEntrySize>>c.clusterBits)
	for i := start; i < after; i++ {
		c.set(i, 1)
	}
	for i := range len(old) * refTableEntrySize >> c.clusterBits {
		c.set(c.cluster(oldOff)+clusterIdx(i), 0)
	}
	return after, nil
}

// blocksFor returns how many refcount blocks describe a file of n clusters,
// themselves and the table that points to them. A generous count leaves room
// for half as much table again.
func (c *creator) blocksFor(n int64, generous bool) int64 {
	var table, blocks int64
	for last := int64(-1); ; {
		blocks = align.CeilDiv(n+table+blocks, 1<<c.refBlockBits())
		table = align.CeilDiv(blocks, c.clusterSize()/refTableEntrySize)
		sum := n + blocks + table
		if sum == last {
			if !generous {
				return blocks
			}
			n += align.CeilDiv(table, 2)
			sum, generous = 0, false
		}
		last = sum
	}
}

// preallocate gives every guest cluster of a disk of size bytes a place.
func (c *creator) preallocate(size int64, mode Preallocation) error {
	if c.external {
		if err := c.data.Truncate(size); err != nil {
			return err
		}
	}
	if mode == PreallocateOff {
		return nil
	}
	if mode != PreallocateMetadata && !c.external {
		return c.preallocateData(size, mode)
	}
	if err := c.preallocateInOrder(size); err != nil {
		return err
	}
	if mode != PreallocateMetadata {
		return reserve(c.data, 0, size, mode)
	}
	return nil
}

// reserve takes space for the n bytes of f at off, which read as zeros.
func reserve(f File, off, n int64, mode Preallocation) error {
	if n == 0 {
		return nil
	}
	if osFile, ok := f.(*os.File); ok && mode == PreallocateFalloc {
		if err := sparse.Reserve(osFile, off, n); !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	zeros := make([]byte, min(n, 1<<20))
	for end := off + n; off < end; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), end-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// An l2Builder fills the L2 tables of guest clusters in order.
type l2Builder struct {
	c     *creator
	table []byte
	index int64 // in the L1 table, -1 before the first
	off   hostOff
}

// open makes sure that the L2 table for a guest cluster is there.
func (b *l2Builder) open(guest int64) error {
	index := guest >> b.c.l2Bits()
	if index == b.index {
		return nil
	}
	if err := b.flush(); err != nil {
		return err
	}
	off, err := b.c.alloc(1)
	if err != nil {
		return err
	}
	b.index, b.off, b.table = index, off, make([]byte, b.c.clusterSize())
	b.c.l1.set(int(index), makeL1Entry(off, true))
	return nil
}

func (b *l2Builder) flush() error {
	if b.index < 0 {
		return nil
	}
	return b.c.write(b.table, b.off)
}

func (b *l2Builder) set(guest int64, host hostOff) {
	i := int(guest) & (1<<b.c.l2Bits() - 1)
	if b.c.extended { // no subcluster is allocated yet
		extL2Table(b.table).set(i, entry{makeL2Entry(host, true), 0})
		return
	}
	l2Table(b.table).set(i, makeL2Entry(host, true))
}

// sliceBits is how many entries of an L2 table QEMU handles at a time, as a
// power of two: at most 64 KiB of them.
func (c *creator) sliceBits() uint { return min(c.clusterBits, 16) - c.entryBits() }

// preallocateInOrder allocates data clusters in the order of the disk, as
// writing to it would do.
func (c *creator) preallocateInOrder(size int64) error {
	b := l2Builder{c: c, index: -1}
	clusters := align.CeilDiv(size, c.clusterSize())
	// QEMU does it in steps below 2 GiB.
	step := int64(math.MaxInt32) >> c.clusterBits
	for guest := int64(0); guest < clusters; {
		host, n, err := c.allocRun(&b, guest, min(step, clusters-guest))
		if err != nil {
			return err
		}
		guest += n
		if !c.external { // the last cluster counts as far as the disk goes
			n = min(n<<c.clusterBits, align.Up(size, c.subclusterSize())-(guest-n)<<c.clusterBits)
			c.end = max(c.end, host+hostOff(n))
		}
	}
	return b.flush()
}

// allocRun allocates up to n data clusters that follow each other, and
// returns where, and how many.
func (c *creator) allocRun(b *l2Builder, guest, n int64) (host hostOff, got int64, err error) {
	slice := int64(1) << c.sliceBits()
	for done := int64(0); ; {
		if err := b.open(guest + done); err != nil {
			return 0, 0, err
		}
		part := min(n-done, slice-(guest+done)%slice)
		got = part
		switch {
		case c.external:
			host = c.clusterOff(clusterIdx(guest))
		case done == 0:
			host, err = c.alloc(part)
		default:
			got, err = c.allocAt(c.cluster(host)+clusterIdx(done), part)
		}
		if err != nil {
			return 0, 0, err
		}
		for i := range got {
			b.set(guest+done+i, host+c.clusterOff(clusterIdx(done+i)))
		}
		done += got
		if got < part || done == n {
			return host, done, nil
		}
	}
}

// preallocateData allocates all data clusters in one piece, after the
// refcounts for them; the L2 tables go where there is room.
func (c *creator) preallocateData(size int64, mode Preallocation) error {
	clusters := align.CeilDiv(size, c.clusterSize())
	last := c.cluster(c.end - 1)
	host, err := c.addArea(last+1, clusters+align.CeilDiv(clusters, 1<<c.l2Bits())+1, true, 0, 0, nil)
	if err != nil {
		return err
	}
	if got, err := c.allocAt(host, clusters); err != nil || got != clusters {
		return errors.Join(err, fmt.Errorf("%d of %d clusters are free", got, clusters))
	}
	c.end = c.clusterOff(host + clusterIdx(clusters))
	if err := reserve(c.f, int64(c.clusterOff(host)), clusters<<c.clusterBits, mode); err != nil {
		return err
	}
	b := l2Builder{c: c, index: -1}
	for guest := range clusters {
		if err := b.open(guest); err != nil {
			return err
		}
		b.set(guest, c.clusterOff(host+clusterIdx(guest)))
	}
	return b.flush()
}
