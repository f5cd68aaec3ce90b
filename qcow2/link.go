package qcow2

import (
	"errors"
	"fmt"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/tablecache"
)

// eachEntry calls f with the L2 entries of n guest clusters within one L2
// table, and their places in the file, until f says to stop. The metadata lock
// is held shared while f runs. There is an L2 table.
func (im *Image) eachEntry(first, n int64, f func(guest int64, e entry, at int64) (bool, error)) error {
	for i := int64(0); i < n; {
		im.mu.RLock()
		at := im.entryOffset(first + i)
		s := im.tables.Get(at)
		for ; s != nil && i < n; i++ {
			e, last := im.entryIn(s, first+i)
			if more, err := f(first+i, e, at); err != nil || !more {
				im.mu.RUnlock()
				return err
			}
			at += int64(im.entrySize())
			if last {
				i++
				break
			}
		}
		im.mu.RUnlock()
		if s == nil {
			if _, err := im.tables.Load(at); err != nil {
				return err
			}
		}
	}
	return nil
}

// entryOffset returns where the L2 entry of a guest cluster lies. There is an
// L2 table, and the metadata lock is held.
func (im *Image) entryOffset(guest int64) int64 {
	table := im.active.at(guest >> im.l2Bits()).offset()
	return int64(table) + guest&(1<<im.l2Bits()-1)<<im.entryBits()
}

// entryIn returns the entry of a guest cluster in its slice, and whether it is
// the last there.
func (im *Image) entryIn(s *tablecache.Slice, guest int64) (e entry, last bool) {
	b := s.Bytes()
	i := int(guest) & (len(b)>>im.entryBits() - 1)
	if im.extended {
		return extL2Table(b).at(i), i == extL2Table(b).len()-1
	}
	return entry{l2Entry: l2Table(b).at(i)}, i == l2Table(b).len()-1
}

// setEntries replaces the L2 entries of n guest clusters within one L2 table
// by what f makes of them, and unlinks the clusters that they pointed to and
// do no more. The clusters are locked, and the table belongs to the active
// mapping alone.
func (im *Image) setEntries(first, n int64, what freedKind, f func(guest int64, old entry) entry) error {
	for i := int64(0); i < n; {
		im.mu.Lock()
		at := im.entryOffset(first + i)
		s := im.tables.Get(at)
		for s != nil && i < n {
			old, last := im.entryIn(s, first+i)
			if e := f(first+i, old); e != old {
				unlink := e.compressed() || old.compressed() || e.offset() != old.offset()
				if unlink {
					if err := im.checkUnlink(old.l2Entry, at); err != nil {
						im.mu.Unlock()
						return err
					}
				}
				im.setEntry(s, first+i, e)
				if unlink {
					im.unlinkEntry(old.l2Entry, what)
				}
			}
			at += int64(im.entrySize())
			if i++; last {
				break
			}
		}
		im.mu.Unlock()
		if s == nil {
			if _, err := im.tables.Load(at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (im *Image) setEntry(s *tablecache.Slice, guest int64, e entry) {
	b := im.tables.Modify(s, stageMapping)
	i := int(guest) & (len(b)>>im.entryBits() - 1)
	if im.extended {
		extL2Table(b).set(i, e)
		return
	}
	l2Table(b).set(i, e.l2Entry)
}

// checkUnlink reports a corruption if the entry e at offset at points to what
// cannot be guest data, so that it must not be freed. Image.mu is held.
func (im *Image) checkUnlink(e l2Entry, at int64) error {
	first, n := im.entryClusters(e)
	switch {
	case n > 0 && !e.compressed() && !align.IsAligned(int64(e.offset()), im.clusterSize()):
		return corruptf(at, "L2 entry", "%#x is not aligned to a cluster", uint64(e))
	case n > 0 && im.meta.overlaps(first, n):
		return corruptf(at, "L2 entry", "%#x points to metadata", uint64(e))
	}
	return nil
}

// unlinkEntry unlinks what an entry that is no more pointed to. Image.mu is
// held exclusively.
func (im *Image) unlinkEntry(e l2Entry, what freedKind) {
	if first, n := im.entryClusters(e); n > 0 {
		im.unlink(first, n, what)
	}
}

// entryClusters returns the clusters of the image file that e points to.
func (im *Image) entryClusters(e l2Entry) (first clusterIdx, n int64) {
	if im.external {
		return 0, 0
	}
	switch im.kind(e) {
	case kindNormal, kindZeroAlloc:
		return im.cluster(e.offset()), 1
	case kindCompressed:
		off, n := im.compressedRange(e)
		first, last := im.cluster(off), im.cluster(off+hostOff(n)-1)
		return first, int64(last-first) + 1
	}
	return 0, 0
}

// ownTable makes sure that the L1 entry i points to an L2 table that belongs
// to the active mapping alone. It stays so while the gate is held.
func (im *Image) ownTable(i int64) error {
	owned := func() (l1Entry, bool, error) {
		im.mu.RLock()
		defer im.mu.RUnlock()
		e := im.active.at(i)
		if i >= int64(im.active.entries) {
			return 0, false, fmt.Errorf("qcow2: L1 index %d: %w of %d", i, ErrLimit, im.active.entries)
		}
		return e, e.offset() != 0 && e.copied(), im.checkL1Entry(im.active, i, e)
	}
	if _, ok, err := owned(); ok || err != nil {
		return err
	}
	im.tableMu.Lock()
	defer im.tableMu.Unlock()
	old, ok, err := owned()
	if ok || err != nil {
		return err
	}
	off, virgin, err := im.alloc(1)
	if err != nil {
		return err
	}
	if old.offset() == 0 {
		err = im.newTable(off, virgin)
	} else {
		err = im.copyTable(off, old.offset())
	}
	if err != nil {
		return errors.Join(err, im.giveBack(off, 1))
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	l1Table(im.active.l1.Modify(int(i)*l1EntrySize, l1EntrySize)).set(int(i), makeL1Entry(off, true))
	if old.offset() != 0 {
		im.unlink(im.cluster(old.offset()), 1, freedTable)
	}
	return nil
}

// copyTable makes the cluster at off, which nothing points to, a copy of an
// L2 table that nobody changes.
func (im *Image) copyTable(off, old hostOff) error {
	b := make([]byte, 0, im.clusterSize())
	for int64(len(b)) < im.clusterSize() {
		at := int64(old) + int64(len(b))
		if _, err := im.tables.Load(at); err != nil {
			return err
		}
		im.mu.RLock()
		if s := im.tables.Get(at); s != nil {
			b = append(b, s.Bytes()...)
		}
		im.mu.RUnlock()
	}
	if err := im.writeFile(b, off); err != nil {
		return err
	}
	return im.newTable(off, true)
}
