package qcow2

import (
	"fmt"
	"slices"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/safeio"
	"github.com/virtfmt/virtfmt/internal/tablecache"
)

// refcounts hands out the clusters of the image file. The refcount blocks are
// in the table cache, and change only with Image.allocMu held; it may be held
// while one of their slices is read.
//
// In memory a refcount is never lower than what the file needs: it grows
// before a cluster is linked, and is lowered only once the unlinking is
// durable. So whatever is in memory may be written at any time.
type refcounts struct {
	table *tablecache.Resident // the refcount table, nil until it is needed
	bad   error                // why it cannot be used
	next  clusterIdx           // where the search for free clusters goes on
	end   clusterIdx           // from here on the file was never written

	// freed is past all clusters that were freed, 0 if none was.
	freed clusterIdx

	// packed is where the next compressed cluster may go, behind the last, or
	// 0. Its cluster is in use.
	packed hostOff
}

// openRefs reads the refcount table. Image.allocMu is held.
func (im *Image) openRefs() error {
	if im.refs.table != nil || im.refs.bad != nil {
		return im.refs.bad
	}
	im.mu.RLock()
	off, n := im.hdr.RefcountTableOffset, int64(im.hdr.RefcountTableClusters)<<im.clusterBits
	im.mu.RUnlock()
	b, err := safeio.ReadAt(zeroFill{im.r}, off, n, maxRefcountTableBytes)
	if err != nil {
		return fmt.Errorf("qcow2: refcount table at %#x: %w", off, err)
	}
	if im.refs.bad = checkShared(off, b); im.refs.bad != nil {
		return im.refs.bad
	}
	im.tables.Reserve(n)
	im.refs.table = tablecache.NewResident(off, b)
	im.refs.end = clusterIdx(align.CeilDiv(im.length.Load(), im.clusterSize()))
	return nil
}

// checkShared reports a corruption if two entries of the refcount table at off
// point to the same block. Such a table makes a short file describe so many
// clusters that a search among them does not end.
func checkShared(off int64, t refTable) error {
	n := 0
	for i := range t.len() {
		if t.at(i).offset() != 0 {
			n++
		}
	}
	blocks := make([]hostOff, 0, n)
	for i := range t.len() {
		if b := t.at(i).offset(); b != 0 {
			blocks = append(blocks, b)
		}
	}
	slices.Sort(blocks)
	for k := 1; k < n; k++ {
		if blocks[k] == blocks[k-1] {
			return corruptf(off, "refcount table", "two entries point to the block at %#x", uint64(blocks[k]))
		}
	}
	return nil
}

// refSliceBits is the number of refcounts in a slice of a block as a power of
// two.
func (im *Image) refSliceBits() uint {
	bits := im.refBlockBits()
	if im.clusterBits > 12 {
		bits -= im.clusterBits - 12
	}
	return bits
}

// refSlice returns the slice that holds the refcount of cluster i, and its
// index in it. The slice is nil where there is no refcount block.
func (im *Image) refSlice(i clusterIdx) (*tablecache.Slice, int, error) {
	t := refTable(im.refs.table.Bytes())
	index := int64(i) >> im.refBlockBits()
	if index >= int64(t.len()) {
		return nil, 0, nil
	}
	e := t.at(int(index))
	if e.offset() == 0 {
		return nil, 0, nil
	}
	if e.offset() < 0 || !align.IsAligned(int64(e.offset()), im.clusterSize()) {
		return nil, 0, corruptf(im.refs.table.Offset()+index*refTableEntrySize, "refcount table entry", "%#x is not aligned to a cluster", uint64(e))
	}
	in := int64(i) & (1<<im.refBlockBits() - 1)
	s, err := im.tables.Load(int64(e.offset()) + in<<im.refcountOrder>>3)
	return s, int(in) & (1<<im.refSliceBits() - 1), err
}

// refcount returns the refcount of cluster i.
func (im *Image) refcount(i clusterIdx) (uint64, error) {
	s, at, err := im.refSlice(i)
	if s == nil || err != nil {
		return 0, err
	}
	return refBlock(s.Bytes()).at(im.refcountOrder, at), nil
}

// setRefcount sets the refcount of cluster i, whose block is there.
func (im *Image) setRefcount(i clusterIdx, n uint64) error {
	s, at, err := im.refSlice(i)
	if err != nil {
		return err
	}
	refBlock(im.tables.Modify(s, im.refStage())).set(im.refcountOrder, at, n)
	if n == 0 {
		im.refs.next = min(im.refs.next, i)
	}
	return nil
}

// alloc takes n clusters that follow each other, with the refcount 1. It
// reports whether they are virgin: past everything that the file ever held, so
// that they read as zeros until they are written.
func (im *Image) alloc(n int64) (_ hostOff, virgin bool, err error) {
	im.allocMu.Lock()
	defer im.allocMu.Unlock()
	return im.allocLocked(n)
}

func (im *Image) allocLocked(n int64) (_ hostOff, virgin bool, err error) {
	if err := im.openRefs(); err != nil {
		return 0, false, err
	}
	for {
		first, err := im.search(n)
		if err != nil {
			return 0, false, err
		}
		if err := im.checkFree(first, n); err != nil {
			return 0, false, err
		}
		if done, err := im.addBlocks(first, n); err != nil {
			return 0, false, err
		} else if !done {
			im.refs.next = first
			continue
		}
		for i := range clusterIdx(n) {
			if err := im.setRefcount(first+i, 1); err != nil {
				return 0, false, err
			}
		}
		virgin = first >= im.refs.end
		im.refs.end = max(im.refs.end, first+clusterIdx(n))
		return im.clusterOff(first), virgin, nil
	}
}

// checkFree reports a corruption if clusters that count as free hold metadata.
func (im *Image) checkFree(first clusterIdx, n int64) error {
	im.mu.RLock()
	defer im.mu.RUnlock()
	if im.meta.overlaps(first, n) {
		return corruptf(int64(im.clusterOff(first)), "refcount", "a cluster of metadata counts as free")
	}
	return nil
}

// search finds n clusters that follow each other and are free.
func (im *Image) search(n int64) (clusterIdx, error) {
	for run := int64(0); ; {
		if int64(im.refs.next) > l2OffsetLimit>>im.clusterBits {
			return 0, fmt.Errorf("qcow2: image file: %w of 2^56 bytes", ErrLimit)
		}
		s, at, err := im.refSlice(im.refs.next)
		if err != nil {
			return 0, err
		}
		if s == nil { // all that a missing block describes is free
			left := int64(1)<<im.refBlockBits() - int64(im.refs.next)&(1<<im.refBlockBits()-1)
			take := min(left, n-run)
			run += take
			im.refs.next += clusterIdx(take)
		} else {
			b := refBlock(s.Bytes())
			for ; at < 1<<im.refSliceBits() && run < n; at++ {
				if run++; b.at(im.refcountOrder, at) != 0 {
					run = 0
				}
				im.refs.next++
			}
		}
		if run == n {
			return im.refs.next - clusterIdx(n), nil
		}
	}
}

// addBlocks makes sure that there are refcount blocks for n free clusters, the
// last that were found. It reports false if they must be searched again,
// because the refcount table had to grow.
func (im *Image) addBlocks(first clusterIdx, n int64) (bool, error) {
	for index := int64(first) >> im.refBlockBits(); index <= (int64(first)+n-1)>>im.refBlockBits(); index++ {
		if ok, err := im.addBlock(index); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// addBlock makes sure that there is the refcount block of that index. It comes
// to lie in the next free cluster, so that those found before stay together,
// and so may need another block to describe it.
func (im *Image) addBlock(index int64) (bool, error) {
	for {
		t := refTable(im.refs.table.Bytes())
		if index >= int64(t.len()) {
			return false, im.growRefTable(index)
		}
		if t.at(int(index)).offset() != 0 {
			return true, nil
		}
		at, err := im.search(1)
		if err != nil {
			return false, err
		}
		own := int64(at) >> im.refBlockBits() // of the block that describes it
		if own != index && (own >= int64(t.len()) || t.at(int(own)).offset() == 0) {
			im.refs.next = at
			if ok, err := im.addBlock(own); !ok || err != nil {
				return false, err
			}
			continue
		}
		if err := im.newRefBlock(at); err != nil {
			return false, err
		}
		refTable(im.refs.table.Modify(int(index)*refTableEntrySize, refTableEntrySize)).set(int(index), refTableEntry(im.clusterOff(at)))
		return true, im.setRefcount(at, 1)
	}
}

// newRefBlock makes cluster i, which is free, a refcount block of zeros.
func (im *Image) newRefBlock(i clusterIdx) error {
	if err := im.checkFree(i, 1); err != nil {
		return err
	}
	virgin := i >= im.refs.end
	im.refs.end = max(im.refs.end, i+1)
	return im.newTable(im.clusterOff(i), virgin)
}

// newTable makes the cluster at off, which nothing points to, a table of
// zeros.
func (im *Image) newTable(off hostOff, virgin bool) error {
	if !virgin {
		if err := im.writeFile(make([]byte, im.clusterSize()), off); err != nil {
			return err
		}
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.tables.Drop(int64(off), im.clusterSize())
	im.meta.add(im.cluster(off), 1)
	im.tablesEnd = max(im.tablesEnd, off+hostOff(im.clusterSize()))
	return nil
}

// growRefTable makes a refcount table that has an entry for the block of that
// index. It lies, with the blocks that describe it and themselves, past all
// that the present table describes; the header points to it with the next
// write-back.
func (im *Image) growRefTable(index int64) error {
	old := im.refs.table
	first := clusterIdx(int64(refTable(old.Bytes()).len()) << im.refBlockBits())
	blocks, clusters := im.sizeRefTable(first, index)
	if clusters<<im.clusterBits > maxRefcountTableBytes {
		return fmt.Errorf("qcow2: refcount table: %w of %d bytes", ErrLimit, maxRefcountTableBytes)
	}
	if err := im.checkFree(first, blocks+clusters); err != nil {
		return err
	}
	at := im.clusterOff(first + clusterIdx(blocks))
	grown := make(refTable, clusters<<im.clusterBits)
	copy(grown, old.Bytes())
	for b := range clusterIdx(blocks) {
		if err := im.newRefBlock(first + b); err != nil {
			return err
		}
		grown.set(int(int64(first)>>im.refBlockBits())+int(b), refTableEntry(im.clusterOff(first+b)))
	}
	im.refs.table = tablecache.NewTable(int64(at), grown, stageIncrease)
	for i := range clusterIdx(blocks + clusters) {
		if err := im.setRefcount(first+i, 1); err != nil {
			im.refs.table = old
			return err
		}
	}
	im.refs.end = max(im.refs.end, first+clusterIdx(blocks+clusters))
	im.tables.Reserve(int64(len(grown) - len(old.Bytes())))
	im.mu.Lock()
	defer im.mu.Unlock()
	im.hdr.RefcountTableOffset, im.hdr.RefcountTableClusters = int64(at), uint32(clusters)
	im.meta.add(first, blocks+clusters)
	im.unlink(im.cluster(hostOff(old.Offset())), int64(len(old.Bytes()))>>im.clusterBits, freedTable)
	return nil
}

// sizeRefTable returns how many blocks describe a new refcount table that lies
// behind them at first, and how many clusters it has: half as much again as
// now, and enough for the block of that index.
func (im *Image) sizeRefTable(first clusterIdx, index int64) (blocks, clusters int64) {
	now := int64(first) >> im.refBlockBits() // entries
	perCluster := im.clusterSize() / refTableEntrySize
	for blocks = 1; ; {
		entries := max(now+now/2, index+1, now+blocks)
		clusters = align.CeilDiv(entries, perCluster)
		need := align.CeilDiv(blocks+clusters, 1<<im.refBlockBits())
		if need <= blocks {
			return blocks, clusters
		}
		blocks = need
	}
}

// A freed is a run of clusters that lost a reference.
type freed struct {
	first clusterIdx
	n     int64
	what  freedKind
}

type freedKind uint8

const (
	freedData    freedKind = iota // will be needed again soon
	freedDiscard                  // the space is to be given back to the file system
	freedTable                    // was metadata
)

// unlink remembers that n clusters lost a reference in the tables in memory.
// Their refcounts are lowered once that is durable. Image.mu is held
// exclusively.
func (im *Image) unlink(first clusterIdx, n int64, what freedKind) {
	im.unlinkedClusters.Add(n)
	if what == freedTable {
		im.meta.remove(first, n)
	}
	if k := len(im.unlinked) - 1; k >= 0 {
		if last := &im.unlinked[k]; last.what == what && last.first+clusterIdx(last.n) == first {
			last.n += n
			return
		}
	}
	im.unlinked = append(im.unlinked, freed{first, n, what})
}

// release lowers refcounts. Nothing refers to the references any more: neither
// the file, durably, nor an operation under way, nor the tables in memory.
func (im *Image) release(list []freed) error {
	var holes []freed
	im.allocMu.Lock()
	defer im.allocMu.Unlock()
	if err := im.openRefs(); err != nil {
		return err
	}
	for _, f := range list {
		im.unlinkedClusters.Add(-f.n)
		im.forget(f)
		for i := f.first; i < f.first+clusterIdx(f.n); i++ {
			last, err := im.lower(i, f.what == freedDiscard)
			if err != nil {
				return err
			}
			if last && f.what == freedDiscard {
				holes = addRun(holes, i)
			}
		}
	}
	if len(holes) == 0 {
		return nil
	}
	// Nobody gets these clusters while their refcount is still 1.
	im.allocMu.Unlock()
	for _, h := range holes {
		// The space stays taken where this cannot be done.
		_ = block.PunchHole(im.w, int64(im.clusterOff(h.first)), h.n<<im.clusterBits)
		im.unsynced.Store(true)
	}
	im.allocMu.Lock()
	for _, h := range holes {
		for i := h.first; i < h.first+clusterIdx(h.n); i++ {
			if _, err := im.lower(i, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// forget drops what is held in memory of clusters that may be used again.
func (im *Image) forget(f freed) {
	off, n := im.clusterOff(f.first), f.n<<im.clusterBits
	im.codec.kept.drop(&im.layout, off, n)
	if f.what == freedTable {
		im.mu.Lock()
		im.tables.Drop(int64(off), n)
		im.mu.Unlock()
	}
}

// addRun adds cluster i to a list of runs.
func addRun(list []freed, i clusterIdx) []freed {
	if k := len(list) - 1; k >= 0 && list[k].first+clusterIdx(list[k].n) == i {
		list[k].n++
		return list
	}
	return append(list, freed{first: i, n: 1})
}

// lower takes one from a refcount, and reports whether it was the last. With
// keepLast that one stays.
func (im *Image) lower(i clusterIdx, keepLast bool) (last bool, err error) {
	n, err := im.refcount(i)
	if err != nil {
		return false, err
	}
	if n == 0 {
		return false, corruptf(int64(im.clusterOff(i)), "refcount", "a cluster that was in use has the refcount 0")
	}
	if n == 1 && im.cluster(im.refs.packed) == i {
		im.refs.packed = 0
	}
	if n == 1 && keepLast {
		return true, nil
	}
	if n == 1 {
		im.refs.freed = max(im.refs.freed, i+1)
	}
	return n == 1, im.setRefcount(i, n-1)
}

// maxTail bounds how many free clusters are looked at for clearTail.
const maxTail = 1 << 20

// clearTail makes what lies past the last cluster in use read as zeros, if some
// of it was freed: QEMU 7.2 takes that for granted when it makes a disk larger
// and preallocates what is added, and the guest would see what was there.
func (im *Image) clearTail() {
	im.allocMu.Lock()
	defer im.allocMu.Unlock()
	if im.refs.freed == 0 {
		return
	}
	length := im.length.Load()
	i := clusterIdx(align.CeilDiv(length, im.clusterSize()))
	for range maxTail {
		if i == 0 {
			return
		}
		if n, err := im.refcount(i - 1); err != nil {
			return
		} else if n > 0 {
			break
		}
		i--
	}
	if off := int64(im.clusterOff(i)); i < im.refs.freed && off < length {
		// It stays as it is where this cannot be done.
		_ = block.PunchHole(im.w, off, length-off)
	}
}

// giveBack frees clusters that were allocated and never linked.
func (im *Image) giveBack(off hostOff, n int64) error {
	im.allocMu.Lock()
	defer im.allocMu.Unlock()
	for i := range clusterIdx(n) {
		if _, err := im.lower(im.cluster(off)+i, false); err != nil {
			return err
		}
	}
	return nil
}
