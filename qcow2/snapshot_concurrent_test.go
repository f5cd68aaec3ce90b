package qcow2_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// TestConcurrentSnapshots: snapshots come and go, and the size changes, while
// others read the disk and its snapshots, write, and sync. Every cell holds at
// any time one of its own versions, and in a snapshot always the same.
func TestConcurrentSnapshots(t *testing.T) {
	seed := difftest.Seed(t, 1)
	for name, o := range map[string]qcow2.CreateOptions{
		"512":   {ClusterSize: 512},
		"4k":    {ClusterSize: 4096, RefcountBits: 8},
		"lazy":  {ClusterSize: 4096, LazyRefcounts: true},
		"extl2": {ClusterSize: 16384, ExtendedL2: true},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t, 256<<10, 0, o, seed)
			snapshotsConcurrently(t, d, seed)
			d.reopen()
			if err := d.im.Close(); err != nil {
				t.Fatal(err)
			}
			checkClean(t, d.f)
		})
	}
}

// snapshotsConcurrently runs one goroutine that changes snapshots beside some
// that use the disk.
func snapshotsConcurrently(t *testing.T, d *disk, seed uint64) {
	t.Helper()
	const workers = 3
	cells := d.im.Size() / 512
	var stop atomic.Bool
	var wg sync.WaitGroup
	fail := func(format string, args ...any) {
		if !stop.Swap(true) {
			t.Errorf(format, args...)
		}
	}
	for w := range int64(workers) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			p := make([]byte, 512)
			for version := uint32(1); !stop.Load(); version++ {
				cell := rng.Int64N(cells)
				var err error
				switch k := rng.IntN(20); {
				case k < 8:
					cell = min(cell-cell%workers+w, cells-1)
					if cell%workers != w {
						continue
					}
					fillCell(p, cell, version)
					_, err = d.im.WriteAt(p, cell*512)
				case k < 9:
					err = d.im.Sync()
				case k < 11:
					err = lookAtSnapshot(d.im, rng)
				default:
					if _, err = d.im.ReadAt(p, cell*512); err == nil {
						_, err = checkCell(p, cell, true)
					}
				}
				if err != nil {
					fail("%v", err)
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(seed, 99))
	for i := range difftest.Scale(t, 60) {
		if err := changeSnapshots(t, d.im, rng, i); err != nil {
			fail("%v", err)
		}
		if stop.Load() {
			break
		}
	}
	stop.Store(true)
	wg.Wait()
}

// lookAtSnapshot reads a snapshot twice.
func lookAtSnapshot(im *qcow2.Image, rng *rand.Rand) error {
	list, err := im.Snapshots()
	if err != nil || len(list) == 0 {
		return err
	}
	s := list[rng.IntN(len(list))]
	v, err := im.OpenSnapshot(s.ID)
	if errors.Is(err, qcow2.ErrNoSnapshot) {
		return nil
	}
	if err != nil {
		return err
	}
	defer v.Close()
	first, again := make([]byte, 512), make([]byte, 512)
	for range 20 {
		cell := rng.Int64N(v.Size() / 512)
		_, err := v.ReadAt(first, cell*512)
		if err == nil {
			_, err = v.ReadAt(again, cell*512)
		}
		if errors.Is(err, qcow2.ErrNoSnapshot) {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		if !bytes.Equal(first, again) {
			return fmt.Errorf("snapshot %s changed in cell %d", s.Name, cell)
		}
		if _, err := checkCell(first, cell, true); err != nil {
			return fmt.Errorf("snapshot %s: %w", s.Name, err)
		}
	}
	return nil
}

// changeSnapshots does one change of snapshots, or of the size, which never is
// less than at first.
func changeSnapshots(t *testing.T, im *qcow2.Image, rng *rand.Rand, i int) error {
	list, err := im.Snapshots()
	if err != nil {
		return err
	}
	k := rng.IntN(6)
	switch {
	case k < 2 && len(list) < 5 || len(list) == 0:
		_, err := im.CreateSnapshot(t.Context(), fmt.Sprint("s", i), nil)
		return err
	case k < 4:
		return im.DeleteSnapshot(t.Context(), list[rng.IntN(len(list))].ID)
	case k < 5:
		return im.ApplySnapshot(t.Context(), list[rng.IntN(len(list))].ID)
	}
	return im.Resize(t.Context(), 256<<10+rng.Int64N(100)*512, &qcow2.ResizeOptions{Shrink: true})
}
