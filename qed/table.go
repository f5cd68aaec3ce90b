package qed

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/virtfmt/virtfmt/internal/safeio"
	"github.com/virtfmt/virtfmt/internal/tablecache"
)

// The bytes of cached tables change only with Image.mu held exclusively, and
// lookups hold it shared.

// sliceSize is the piece in which tables are cached: the smallest cluster, so
// that no slice reaches past a table.
const sliceSize = MinClusterSize

// The stages of a write-back: each is durable before the next begins.
const (
	stageNew     = 1 // tables that nothing durable refers to
	stageEntries = 3 // entries that refer to new tables and new data
)

// tables is the cache of the L1 table and the L2 tables.
type tables struct{ *tablecache.Cache }

// newTables returns an empty cache of the tables in r. A new table that is not
// in the file yet reads as zeros.
func newTables(r io.ReaderAt, budget int64) tables {
	return tables{tablecache.New(sliceSize, budget, func(p []byte, off int64) error {
		if err := safeio.ReadZeroFill(r, p, off); err != nil {
			return fmt.Errorf("qed: table at %#x: %w", off, err)
		}
		return nil
	})}
}

// entry returns the entry at offset at of the file. It reports false if it is
// not in the cache: load gets it there.
func (t tables) entry(at hostOff) (entry, bool) {
	s := t.Get(int64(at))
	if s == nil {
		return 0, false
	}
	return entry(binary.LittleEndian.Uint64(s.Bytes()[at%sliceSize:])), true
}

// set changes the entry at offset at of the file, to be written in a stage. It
// reports false if it is not in the cache.
func (t tables) set(at hostOff, e entry, stage int) bool {
	s := t.Get(int64(at))
	if s == nil {
		return false
	}
	binary.LittleEndian.PutUint64(t.Modify(s, stage)[at%sliceSize:], uint64(e))
	return true
}

// load brings the entry at offset at of the file into the cache.
//
// Preconditions: Image.mu is not held.
func (t tables) load(at hostOff) error {
	_, err := t.Load(int64(at))
	return err
}
