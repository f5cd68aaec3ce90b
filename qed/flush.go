package qed

import (
	"errors"
	"fmt"
	"time"

	"github.com/virtfmt/virtfmt/internal/block"
)

// writable returns an error if the image cannot be written to.
func (img *Image) writable() error {
	if img.f == nil {
		return ErrReadOnly
	}
	img.mu.RLock()
	defer img.mu.RUnlock()
	return img.failed()
}

// failed returns the error of an earlier write-back. What was to become
// durable then may be lost, so that nothing more is written.
//
// Preconditions: img.mu is held.
func (img *Image) failed() error {
	if img.err != nil {
		return fmt.Errorf("%w after an error: %w", ErrReadOnly, img.err)
	}
	return nil
}

// stick remembers an error of a write-back.
func (img *Image) stick(err error) error {
	if err == nil {
		return nil
	}
	img.mu.Lock()
	defer img.mu.Unlock()
	if img.err == nil {
		img.err = err
	}
	return err
}

// begin makes the file ready for the first new cluster: what lies after its
// last whole cluster goes, and the need-check bit is set and made durable. In
// an image with a backing file the bit is not used, as in QEMU: the order of
// writes is enough there. Here it would be enough without one, too, but the
// bit is what others expect.
func (img *Image) begin() error {
	img.mu.RLock()
	begun := img.begun
	img.mu.RUnlock()
	if begun {
		return nil
	}
	img.flushing.Lock()
	defer img.flushing.Unlock()
	img.mu.RLock()
	begun, end := img.begun, int64(img.alloc.next)
	img.mu.RUnlock()
	if begun {
		return nil
	}
	length, err := img.fileLength()
	if err == nil && length > end {
		err = img.f.Truncate(end)
	}
	if err == nil && img.h.Features&FeatureBackingFile == 0 {
		err = img.writeFeatures(img.h.Features | FeatureNeedCheck)
	}
	if err != nil {
		return img.stick(err)
	}
	img.mu.Lock()
	img.begun = true
	img.mu.Unlock()
	return nil
}

// writeFeatures writes the header with other feature bits and makes it
// durable.
func (img *Image) writeFeatures(f Features) error {
	h := img.h
	h.Features = f
	return img.writeHeader(&h)
}

// writeHeader writes the fixed fields, and a short name of the backing file
// after them, which lie in one sector, and makes them durable.
func (img *Image) writeHeader(h *Header) error {
	b, err := h.AppendBinary(nil)
	if err != nil {
		return err
	}
	if h.BackingNameOffset == headerSize && h.shortName() {
		b = append(b, h.BackingFile...)
	}
	if _, err := img.f.WriteAt(b, 0); err != nil {
		return fmt.Errorf("qed: header: %w", err)
	}
	if err := block.Sync(img.f); err != nil {
		return fmt.Errorf("qed: header: %w", err)
	}
	return nil
}

// Sync makes all that was written before it durable. After an error nothing is
// sure to be durable but what an earlier Sync made so; the image is read-only
// then, and every later Sync fails too.
func (img *Image) Sync() error {
	img.life.RLock()
	defer img.life.RUnlock()
	if err := img.usable(); err != nil {
		return err
	}
	if img.f == nil {
		return nil
	}
	return img.flush()
}

// limitDirty writes back when changed tables take half of the cache.
func (img *Image) limitDirty() error {
	if img.cache.Dirty() < img.opts.CacheSize/2 {
		return nil
	}
	return img.flush()
}

// flush is a write-back:
//
//	stage  what becomes durable
//	0      the need-check bit (begin)
//	1      guest data and new L2 tables
//	3      entries of tables that were in the file before, the L1 table's among them
//
// There is nothing to free, so that there is no stage after that.
func (img *Image) flush() error {
	img.flushing.Lock()
	defer img.flushing.Unlock()
	img.mu.Lock()
	if err := img.failed(); err != nil {
		img.mu.Unlock()
		return err
	}
	if img.cache.Dirty() == 0 && !img.unsynced.Load() {
		img.mu.Unlock()
		return nil
	}
	img.unsynced.Store(false)
	b := img.cache.Cut(stageEntries)
	img.alloc.durable = img.alloc.next
	img.mu.Unlock()

	err := b.Write(img.f, stageNew)
	if err == nil {
		err = block.Sync(img.f)
	}
	if err == nil && b.Has(stageEntries) {
		if err = b.Write(img.f, stageEntries); err == nil {
			err = block.Sync(img.f)
		}
	}
	if err != nil {
		err = img.stick(fmt.Errorf("qed: write-back: %w", err))
	}
	img.mu.Lock()
	b.Done()
	img.mu.Unlock()
	return err
}

// settle makes the image as it is when nobody uses it: all durable, the
// need-check bit clear.
//
// Preconditions: img.life is held exclusively.
func (img *Image) settle() error {
	if err := img.flush(); err != nil {
		return err
	}
	if !img.begun {
		return nil
	}
	img.begun = false
	if img.h.Features&FeatureBackingFile != 0 {
		return nil
	}
	return img.stick(img.writeFeatures(img.h.Features))
}

// An idleTimer settles an image some time after its last allocation.
type idleTimer struct{ timer *time.Timer }

func (t *idleTimer) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
}

// startIdle starts the time anew.
//
// Preconditions: img.mu is held exclusively.
func (img *Image) startIdle() {
	switch {
	case img.opts.IdleTime == 0:
	case img.idle.timer == nil:
		img.idle.timer = time.AfterFunc(img.opts.IdleTime, img.settleIdle)
	default:
		img.idle.timer.Reset(img.opts.IdleTime)
	}
}

// settleIdle is called when the time is over. An error is sticky: the next
// write or Sync returns it.
func (img *Image) settleIdle() {
	img.life.Lock()
	defer img.life.Unlock()
	if img.closed {
		return
	}
	if err := img.settle(); err != nil && !errors.Is(err, ErrReadOnly) {
		img.stick(err)
	}
}
