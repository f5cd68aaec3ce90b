package qcow2_test

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/internal/mutant"
	"github.com/virtfmt/virtfmt/qcow2"
)

// oneRefcountBlock is a file of 1 MiB that says that 60 billion clusters of
// 64 KiB are in use: all entries of a large refcount table point to one block.
func oneRefcountBlock() []byte {
	const table, block, l1 = 2 << 16, 1 << 16, 15 << 16
	b := make([]byte, mebi)
	copy(b, header(16, 1<<30, l1, 2, table, 13))
	b[7] = 3 // refcounts of 1 bit
	binary.BigEndian.PutUint32(b[100:], 104)
	fill(b[table:l1], func(int) uint64 { return block })
	fill(b[block:table], func(int) uint64 { return ^uint64(0) })
	return b
}

// TestHostileImagesWritten: what a file of 1 MiB claims makes no operation that
// changes it expensive.
func TestHostileImagesWritten(t *testing.T) {
	all := maps.Clone(hostileImages)
	all["one refcount block"] = oneRefcountBlock
	names := slices.Sorted(maps.Keys(all))
	for _, name := range names[:min(len(names), difftest.Scale(t, 100))] {
		t.Run(name, func(t *testing.T) {
			b := all[name]()
			if binary.BigEndian.Uint32(b[56:]) == 0 { // no refcount table
				binary.BigEndian.PutUint32(b[56:], 1)
				binary.BigEndian.PutUint64(b[48:], 1<<b[23])
			}
			var stats mutant.Stats
			tr := &mutant.Trial{TB: t, What: name, Mutant: b, Stats: &stats}
			for seed := range uint64(3) {
				f := memfile.FromBytes(b)
				var im *qcow2.Image
				tr.Step("OpenRW", func() { im, _ = qcow2.OpenRW(f, nil) })
				if im == nil {
					continue
				}
				stats.Opened++
				w := &mutantWriter{tr, t.Context(), im, make([]byte, 64<<10), rand.New(rand.NewPCG(seed, 1))}
				w.write()
				w.snapshots()
				w.bitmaps()
				w.resize()
				tr.Step("Close", func() { im.Close() })
			}
			t.Log(&stats)
		})
	}
}
