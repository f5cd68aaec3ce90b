package qcow2

import (
	"context"
	"fmt"

	"github.com/virtfmt/virtfmt/internal/safeio"
	"github.com/virtfmt/virtfmt/internal/tablecache"
)

// The COPIED flag of an active L1 or L2 entry says that the refcount of what it
// points to is 1, so that it can be written in place. Before a refcount is
// raised above 1 the flag is cleared, durably; after one fell to 1 it is set.

// never and once say what COPIED flags are to be.
func never(clusterIdx) (bool, error) { return false, nil }

func (im *Image) once(i clusterIdx) (bool, error) {
	im.allocMu.Lock()
	defer im.allocMu.Unlock()
	n, err := im.refcount(i)
	return n == 1, err
}

// setCopied sets and clears the COPIED flags of active entries: of those L1
// entries that only accepts, and of their L2 entries. The gate is held
// exclusively.
func (im *Image) setCopied(ctx context.Context, only func(i int) bool, copied func(clusterIdx) (bool, error)) error {
	buf := make([]byte, im.clusterSize())
	for i := range im.active.entries {
		e := im.active.at(int64(i))
		if e.offset() == 0 || !only(i) {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		flag, err := copied(im.cluster(e.offset()))
		if err != nil {
			return err
		}
		if flag != e.copied() {
			im.mu.Lock()
			l1Table(im.active.l1.Modify(i*l1EntrySize, l1EntrySize)).set(i, makeL1Entry(e.offset(), flag))
			im.mu.Unlock()
		}
		if err := im.setTableCopied(e.offset(), buf, copied); err != nil {
			return err
		}
	}
	return nil
}

// setTableCopied sets and clears the COPIED flags of the entries of an L2
// table. What of it is not in memory is read into buf, a cluster, at once: most
// of it stays as it is.
func (im *Image) setTableCopied(table hostOff, buf []byte, copied func(clusterIdx) (bool, error)) error {
	inBuf := false
	step := im.tables.SliceSize()
	for i := int64(0); i < im.clusterSize(); i += step {
		at := int64(table) + i
		var b []byte
		if s := im.tables.Get(at); s != nil {
			b = s.Bytes()
		} else {
			if !inBuf {
				if err := safeio.ReadZeroFill(im.r, buf, int64(table)); err != nil {
					return fmt.Errorf("qcow2: L2 table at %#x: %w", table, err)
				}
				inBuf = true
			}
			b = buf[i : i+step]
		}
		wrong, err := im.wrongCopied(b, copied)
		if err != nil {
			return err
		}
		if len(wrong) > 0 {
			if err := im.putCopied(at, wrong); err != nil {
				return err
			}
		}
	}
	// Not before, because then buf could be older than the file.
	return im.tidyTables()
}

// A copiedFlag is the flag that an entry is to have.
type copiedFlag struct {
	at   int // in its slice
	flag l2Entry
}

// wrongCopied returns the entries of a slice whose flag is wrong.
func (im *Image) wrongCopied(b []byte, copied func(clusterIdx) (bool, error)) (wrong []copiedFlag, err error) {
	for i := 0; i < len(b); i += im.entrySize() {
		e := l2Table(b[i:]).at(0)
		if e.compressed() || e.offset() == 0 {
			continue
		}
		flag, err := copied(im.cluster(e.offset()))
		if err != nil {
			return nil, err
		}
		if flag != e.copied() {
			wrong = append(wrong, copiedFlag{i, ^e & flagCopied})
		}
	}
	return wrong, nil
}

// putCopied gives entries of the slice at offset at their flags.
func (im *Image) putCopied(at int64, entries []copiedFlag) error {
	for {
		im.mu.Lock()
		var s *tablecache.Slice
		if s = im.tables.Get(at); s != nil {
			b := im.tables.Modify(s, stageMapping)
			for _, e := range entries {
				t := l2Table(b[e.at:])
				t.set(0, t.at(0)&^flagCopied|e.flag)
			}
		}
		im.mu.Unlock()
		if s != nil {
			return nil
		}
		if _, err := im.tables.Load(at); err != nil {
			return err
		}
	}
}

// all accepts every L1 entry.
func all(int) bool { return true }
