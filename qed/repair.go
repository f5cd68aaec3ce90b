package qed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/virtfmt/virtfmt/internal/block"
)

// repair mends the entries that were found wrong. Copies of shared clusters
// are durable before an entry refers to them, so that a power cut leaves each
// entry as it was or mended.
func (c *checker) repair() error {
	if len(c.fixes) == 0 {
		return nil
	}
	values, err := c.copyShared()
	if err != nil {
		return err
	}
	var b [entrySize]byte
	for i, f := range c.fixes {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		binary.LittleEndian.PutUint64(b[:], uint64(values[i]))
		if _, err := c.img.f.WriteAt(b[:], f.at); err != nil {
			return fmt.Errorf("qed: repair of the entry at %#x: %w", f.at, err)
		}
		c.res.Corruptions--
		c.res.CorruptionsFixed++
		if f.finding >= 0 {
			c.res.Findings[f.finding].Fixed = true
		}
	}
	if err := block.Sync(c.img.f); err != nil {
		return c.img.stick(fmt.Errorf("qed: repair: %w", err))
	}
	return c.img.forget()
}

// copyShared copies the clusters that are to be copied, and returns the new
// entry for each fix.
func (c *checker) copyShared() ([]entry, error) {
	img, size := c.img, c.img.geo.clusterSize()
	values := make([]entry, len(c.fixes))
	var buf []byte
	for i, f := range c.fixes {
		if f.copyOf == 0 {
			continue
		}
		if c.ctx.Err() != nil {
			return nil, context.Cause(c.ctx)
		}
		if buf == nil {
			if err := img.begin(); err != nil {
				return nil, err
			}
			buf = make([]byte, size)
		}
		if err := img.readFull(buf, f.copyOf); err != nil {
			return nil, fmt.Errorf("qed: shared cluster at %#x: %w", f.copyOf, err)
		}
		host, err := img.alloc.take(size)
		if err != nil {
			return nil, err
		}
		if _, err := img.f.WriteAt(buf, int64(host)); err != nil {
			return nil, fmt.Errorf("qed: copy of a shared cluster at %#x: %w", int64(host), err)
		}
		values[i] = entry(host)
		c.used.set(int64(host) / size)
	}
	c.clusters = int64(img.alloc.next) / size
	if buf == nil {
		return values, nil
	}
	if err := block.Sync(img.f); err != nil {
		return nil, img.stick(fmt.Errorf("qed: repair: %w", err))
	}
	return values, nil
}

// forget drops what is cached, because the file was changed below it.
//
// Preconditions: img.life is held exclusively and no table is dirty.
func (img *Image) forget() error {
	length, err := img.fileLength()
	if err != nil {
		return err
	}
	img.mu.Lock()
	defer img.mu.Unlock()
	img.cache = newTables(img.r, img.opts.CacheSize)
	img.alloc.reset(length, img.geo.clusterSize())
	return nil
}

// clearNeedCheck clears the need-check bit.
//
// Preconditions: img.life is held exclusively.
func (img *Image) clearNeedCheck() error {
	if err := img.writeFeatures(img.h.Features &^ FeatureNeedCheck); err != nil {
		return img.stick(err)
	}
	img.h.Features &^= FeatureNeedCheck
	img.begun = false
	return nil
}

// cutTo cuts the file at the first of the leaked clusters at its end.
func (img *Image) cutTo(end int64) error {
	if err := img.f.Truncate(end); err != nil {
		return fmt.Errorf("qed: cut of the file to %d bytes: %w", end, err)
	}
	return img.forget()
}

// punch gives the space of leaked clusters back, where the file can do that.
func (img *Image) punch(off, n int64) error {
	if err := block.PunchHole(img.f, off, n); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("qed: hole at %#x: %w", off, err)
	}
	return nil
}
