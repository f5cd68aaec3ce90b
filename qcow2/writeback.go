package qcow2

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/tablecache"
)

// The stages of a write-back, in which what was changed reaches the file. What
// a stage writes is durable before the next one begins.
//
//	0  the dirty bit, if refcounts are lazy
//	1  guest data and new tables, both written before; refcounts
//	2  refcount table entries; the header's pointer to a new refcount table
//	3  L2 and L1 entries; all else in the header
//	4  lowered refcounts; holes
//
// Refcounts in memory never lack a reference that is in the file or in memory,
// see type refcounts, so that stage 1 may write them at any time. The clusters
// that stage 3 unlinked are held back until it is durable and until every
// operation is over that may have looked them up before.
const (
	stageIncrease = 1
	stageRefTable = 2
	stageMapping  = 3
	stageLazy     = 4 // refcounts that wait for Close: the dirty bit says so
)

// refStage is the stage in which refcounts are written.
func (im *Image) refStage() int {
	if im.lazy {
		return stageLazy
	}
	return stageIncrease
}

// Sync makes everything durable that was written before it was called. After
// an error of the file's own Sync nothing is known about what is durable: the
// image becomes read-only, and every later Sync fails as well.
func (im *Image) Sync() error {
	if im.closed.Load() {
		return ErrClosed
	}
	if im.w == nil {
		return nil
	}
	return im.writeBack()
}

// A cut is what was changed up to one moment.
type cut struct {
	*tablecache.Batch
	hdr       *Header
	tablesEnd hostOff
	unlinked  []freed
}

// takeCut takes what was changed, up to a stage.
func (im *Image) takeCut(last int) cut {
	im.allocMu.Lock()
	defer im.allocMu.Unlock()
	im.mu.Lock()
	defer im.mu.Unlock()
	c := cut{Batch: im.tables.Cut(last)}
	if last < stageMapping {
		return c
	}
	if im.refs.table != nil {
		im.refs.table.AddTo(c.Batch, stageRefTable)
	}
	im.active.l1.AddTo(c.Batch, stageMapping)
	c.hdr, c.tablesEnd = im.hdr.clone(), im.tablesEnd
	c.unlinked, im.unlinked = im.unlinked, nil
	return c
}

// endCut ends a cut. What was not written will be in the next one.
func (im *Image) endCut(c cut, err error) {
	im.allocMu.Lock()
	defer im.allocMu.Unlock()
	im.mu.Lock()
	defer im.mu.Unlock()
	c.Done()
	if err != nil {
		im.unlinked = append(c.unlinked, im.unlinked...)
	}
}

// writeBack writes what was changed and makes it durable.
func (im *Image) writeBack() error {
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	return im.writeBackLocked(stageMapping)
}

// writeBackLocked is writeBack with flushMu held, up to stageMapping or
// stageLazy.
func (im *Image) writeBackLocked(last int) error {
	if err := im.failure(); err != nil {
		return err
	}
	c := im.takeCut(last)
	err := im.writeStages(c, last)
	im.endCut(c, err)
	if err != nil {
		return err
	}
	im.unlinkedList.Add(c.unlinked...)
	return im.reclaim()
}

// writeStages writes the stages 0 to 3 of a cut.
func (im *Image) writeStages(c cut, last int) error {
	mapping := c.Has(stageMapping) || !c.hdr.equal(im.diskHdr)
	if im.lazy && (mapping || c.Has(stageRefTable)) {
		if err := im.setDirty(true); err != nil {
			return err
		}
		c.hdr.IncompatibleFeatures |= IncompatDirty
	}
	if err := c.Write(imageFile{im}, stageIncrease); err != nil {
		return err
	}
	if h := im.diskHdr; c.Has(stageRefTable) || c.hdr.RefcountTableOffset != h.RefcountTableOffset {
		if err := im.syncFiles(); err != nil {
			return err
		}
		if err := c.Write(imageFile{im}, stageRefTable); err != nil {
			return err
		}
		if c.hdr.RefcountTableOffset != h.RefcountTableOffset {
			next := h.clone()
			next.RefcountTableOffset, next.RefcountTableClusters = c.hdr.RefcountTableOffset, c.hdr.RefcountTableClusters
			if err := im.writeHeader(next); err != nil {
				return err
			}
		}
	}
	if mapping {
		if err := im.reach(c.tablesEnd); err != nil {
			return err
		}
		if err := im.syncFiles(); err != nil {
			return err
		}
		if err := c.Write(imageFile{im}, stageMapping); err != nil {
			return err
		}
		if err := im.writeHeader(c.hdr); err != nil {
			return err
		}
	}
	if err := c.Write(imageFile{im}, last); err != nil { // lazy refcounts
		return err
	}
	return im.syncFiles()
}

// reclaim does stage 4 for what nobody can know any more. flushMu is held.
func (im *Image) reclaim() error {
	list := im.unlinkedList.Drained(&im.pins)
	if len(list) == 0 {
		return nil
	}
	if err := im.release(list); err != nil {
		return im.failCorrupt(err)
	}
	c := im.takeCut(stageIncrease)
	err := c.Write(imageFile{im}, stageIncrease)
	im.endCut(c, err)
	return err
}

// tidy starts a write-back if much waits for one.
func (im *Image) tidy() error {
	if im.unlinkedClusters.Load() < maxUnlinkedBytes>>im.clusterBits {
		return im.tidyTables()
	}
	return im.writeBackAll()
}

// tidyTables starts a write-back if many tables have changed.
func (im *Image) tidyTables() error {
	if im.tables.Dirty() < im.opts.CacheSize/2 {
		return nil
	}
	return im.writeBackAll()
}

// writeBackAll is writeBack that leaves no lazy refcounts behind.
func (im *Image) writeBackAll() error {
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	return im.writeBackLocked(stageLazy)
}

// maxUnlinkedBytes is how much of the file may wait to be used again.
const maxUnlinkedBytes = 256 << 20

// imageFile is the image file as an io.WriterAt, for the table cache.
type imageFile struct{ im *Image }

func (f imageFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.im.writeFile(p, hostOff(off)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// raise makes v at least n.
func raise(v *atomic.Int64, n int64) {
	for old := v.Load(); old < n && !v.CompareAndSwap(old, n); {
		old = v.Load()
	}
}

// writeFile writes to the image file.
func (im *Image) writeFile(p []byte, off hostOff) error {
	if _, err := im.w.WriteAt(p, int64(off)); err != nil {
		return fmt.Errorf("qcow2: write at %#x: %w", off, err)
	}
	raise(&im.length, int64(off)+int64(len(p)))
	im.unsynced.Store(true)
	return nil
}

// reach makes the file as long as the tables in it need. Those that were never
// written get their place before something points to them: an entry must not
// point past the end of the file. flushMu is held, so that nothing else is
// written to the last table.
func (im *Image) reach(end hostOff) error {
	if im.length.Load() >= int64(end) {
		return nil
	}
	return im.writeFile(make([]byte, sectorSize), end-sectorSize)
}

// writeStored writes to where guest clusters lie.
func (im *Image) writeStored(p []byte, off hostOff) error {
	if !im.external {
		return im.writeFile(p, off)
	}
	if _, err := im.dataW.WriteAt(p, int64(off)); err != nil {
		return fmt.Errorf("qcow2: data file: write at %#x: %w", off, err)
	}
	raise(&im.dataLength, int64(off)+int64(len(p)))
	im.dataUnsynced.Store(true)
	return nil
}

// syncFiles makes what was written to the files durable. A failure stays: the
// system may have dropped what it could not write.
func (im *Image) syncFiles() error {
	if im.external && im.dataUnsynced.Swap(false) {
		if err := block.Sync(im.dataW); err != nil {
			return im.fail(fmt.Errorf("qcow2: data file: sync: %w", err))
		}
	}
	if im.unsynced.Swap(false) {
		if err := block.Sync(im.w); err != nil {
			return im.fail(fmt.Errorf("qcow2: sync: %w", err))
		}
	}
	return nil
}

// fail makes the image read-only because of err, which it returns.
func (im *Image) fail(err error) error {
	im.failed.CompareAndSwap(nil, &failedError{err})
	return err
}

// failure returns why the image became read-only, or nil.
func (im *Image) failure() error {
	if f := im.failed.Load(); f != nil {
		return f
	}
	return nil
}

// A failedError is ErrReadOnly because of an earlier error.
type failedError struct{ cause error }

func (e *failedError) Error() string {
	return fmt.Sprintf("%v after an error: %v", ErrReadOnly, e.cause)
}
func (e *failedError) Unwrap() []error { return []error{ErrReadOnly, e.cause} }

// markCorrupt marks the image as corrupt and makes it read-only, if that is
// what err says of it. It returns err.
func (im *Image) markCorrupt(err error) error {
	if !errors.Is(err, ErrCorrupt) {
		return err
	}
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	return im.failCorrupt(err)
}

// failCorrupt makes the image read-only because of err, which it returns, and
// marks it as corrupt if that is what err says, and its version has a mark.
// flushMu is held.
func (im *Image) failCorrupt(err error) error {
	if im.failure() != nil {
		return err
	}
	im.fail(err)
	if !errors.Is(err, ErrCorrupt) || im.version < 3 {
		return err
	}
	next := im.diskHdr.clone()
	next.IncompatibleFeatures |= IncompatCorrupt
	return errors.Join(err, im.writeHeader(next), block.Sync(im.w))
}
