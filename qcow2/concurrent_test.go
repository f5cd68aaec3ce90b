package qcow2_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
)

// A cell is a sector of the disk that one goroutine writes. It holds its own
// number and a version, all over.
func fillCell(p []byte, cell int64, version uint32) {
	for i := 0; i < len(p); i += 16 {
		binary.BigEndian.PutUint64(p[i:], uint64(cell)+1)
		binary.BigEndian.PutUint64(p[i+8:], uint64(version))
	}
}

// checkCell returns the version that a cell holds, 0 for zeros. Anything but
// whole versions of the cell itself is an error; a torn mixture of two is not,
// if torn is set.
func checkCell(p []byte, cell int64, torn bool) (uint32, error) {
	first := binary.BigEndian.Uint64(p[8:])
	for i := 0; i < len(p); i += 16 {
		id, version := binary.BigEndian.Uint64(p[i:]), binary.BigEndian.Uint64(p[i+8:])
		if id == 0 && version == 0 && (torn || first == 0) {
			continue
		}
		if id != uint64(cell)+1 {
			return 0, fmt.Errorf("cell %d holds cell %d", cell, int64(id)-1)
		}
		if version != first && !torn {
			return 0, fmt.Errorf("cell %d holds versions %d and %d", cell, first, version)
		}
	}
	return uint32(first), nil
}

// TestConcurrent: goroutines write cells of their own, which share clusters
// with those of others, and read all; some zero and discard; one syncs. Nobody
// sees another cell's bytes or loses a write.
func TestConcurrent(t *testing.T) {
	seed := difftest.Seed(t, 1)
	for name, make := range writeFlavours() {
		for _, discard := range []bool{false, true} {
			t.Run(fmt.Sprint(name, "/discard=", discard), func(t *testing.T) {
				d := make(t, seed)
				fillBacking(d)
				concurrently(t, d, seed, discard)
				d.im.Close()
				checkClean(t, d.f)
			})
		}
	}
}

// fillBacking makes the backing file hold version 0 of all cells.
func fillBacking(d *disk) {
	for off := 0; off+512 <= len(d.base); off += 512 {
		fillCell(d.base[off:off+512], int64(off/512), 0)
	}
	clear(d.base[len(d.base)&^511:])
}

func concurrently(t *testing.T, d *disk, seed uint64, discard bool) {
	t.Helper()
	const workers = 4
	cells := d.im.Size() / 512
	versions := make([]uint32, cells) // each is used by its owner alone
	var stop atomic.Bool
	var wg sync.WaitGroup
	fail := func(format string, args ...any) {
		if !stop.Swap(true) {
			t.Errorf(format, args...)
		}
	}
	steps := difftest.Scale(t, 1500)
	for w := range int64(workers) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			p := make([]byte, 512)
			for i := 0; i < steps && !stop.Load(); i++ {
				cell := rng.Int64N(cells)
				switch k := rng.IntN(20); {
				case k < 9:
					cell -= cell % workers
					if cell += w; cell >= cells {
						continue
					}
					versions[cell]++
					fillCell(p, cell, versions[cell])
					if _, err := d.im.WriteAt(p, cell*512); err != nil {
						fail("write: %v", err)
					}
				case k < 11 && discard:
					cluster := d.im.ClusterSize()
					off := cell * 512 / cluster * cluster
					n := min(cluster, d.im.Size()-off)
					do := []func(off, n int64) error{d.im.DiscardAt, d.im.UnmapAt, d.im.WriteZeroesAt}[rng.IntN(3)]
					if err := do(off, n); err != nil && !d.v2 {
						fail("discard: %v", err)
					}
				case k == 19:
					if err := d.im.Sync(); err != nil {
						fail("sync: %v", err)
					}
				default:
					mine := cell%workers == w
					if _, err := d.im.ReadAt(p, cell*512); err != nil {
						fail("read: %v", err)
						continue
					}
					got, err := checkCell(p, cell, !mine)
					if err == nil && mine && !discard && got != versions[cell] {
						err = fmt.Errorf("cell %d holds version %d, not %d", cell, got, versions[cell])
					}
					if err != nil {
						fail("%v", err)
					}
				}
			}
		})
	}
	difftest.Watchdog(t, wg.Wait)
	if discard {
		return
	}
	p := make([]byte, 512)
	for cell := range cells {
		if _, err := d.im.ReadAt(p, cell*512); err != nil {
			t.Fatal(err)
		}
		if got, err := checkCell(p, cell, false); err != nil || got != versions[cell] {
			t.Fatalf("cell %d holds version %d, not %d: %v", cell, got, versions[cell], err)
		}
	}
}
