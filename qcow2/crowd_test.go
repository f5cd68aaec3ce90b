package qcow2_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// TestConcurrentCrowd: while goroutines write and read cells, others take
// snapshots, read them twice, apply and delete them, check the image, list its
// extents, resize what lies past the cells, and sync. Nobody sees another
// cell's bytes, a snapshot never changes, and without applying one no write is
// lost.
func TestConcurrentCrowd(t *testing.T) {
	seed := difftest.Seed(t, 1)
	for _, k := range []struct {
		name string
		base int
		o    qcow2.CreateOptions
	}{
		{"512", 0, qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 8}},
		{"4k-backing", 200 << 10, qcow2.CreateOptions{ClusterSize: 4096}},
		{"lazy", 0, qcow2.CreateOptions{ClusterSize: 4096, LazyRefcounts: true}},
		{"extended", 100 << 10, qcow2.CreateOptions{ClusterSize: 16384, ExtendedL2: true}},
	} {
		for _, apply := range []bool{false, true} {
			t.Run(fmt.Sprint(k.name, "/apply=", apply), func(t *testing.T) {
				d := newDisk(t, 400<<10, k.base, k.o, seed)
				fillBacking(d)
				c := &crowd{t: t, d: d, versions: make([]uint32, d.im.Size()/512), apply: apply, resize: !apply}
				c.run(seed)
				if err := d.im.Close(); err != nil {
					t.Fatal(err)
				}
				checkClean(t, d.f)
			})
		}
	}
}

// A crowd is goroutines that use one image.
type crowd struct {
	t        *testing.T
	d        *disk
	versions []uint32 // of cells, each used by its owner alone
	apply    bool
	resize   bool
	stop     atomic.Bool
}

func (c *crowd) fail(format string, args ...any) {
	if !c.stop.Swap(true) {
		c.t.Errorf(format, args...)
	}
}

func (c *crowd) run(seed uint64) {
	c.t.Helper()
	var writers, others sync.WaitGroup
	const workers = 3
	for w := range int64(workers) {
		writers.Go(func() { c.write(rand.New(rand.NewPCG(seed, uint64(w))), w, workers, difftest.Scale(c.t, 600)) })
	}
	for i, f := range []func(rng *rand.Rand, i int) error{c.snapshot, c.snapshot, c.check, c.sync} {
		rng := rand.New(rand.NewPCG(seed, 100+uint64(i)))
		others.Go(func() {
			for n := 0; !c.stop.Load(); n++ {
				if err := f(rng, 1000*i+n); err != nil {
					c.fail("%v", err)
				}
			}
		})
	}
	difftest.Watchdog(c.t, func() {
		writers.Wait()
		c.stop.Store(true)
		others.Wait()
	})
}

// write writes cells of its own and reads any.
func (c *crowd) write(rng *rand.Rand, w, workers int64, steps int) {
	p := make([]byte, 512)
	cells := int64(len(c.versions))
	for i := 0; i < steps && !c.stop.Load(); i++ {
		cell := rng.Int64N(cells/workers)*workers + w
		if rng.IntN(2) == 0 {
			c.versions[cell]++
			fillCell(p, cell, c.versions[cell])
			if _, err := c.d.im.WriteAt(p, cell*512); err != nil {
				c.fail("write: %v", err)
			}
			continue
		}
		if rng.IntN(2) == 0 {
			cell = rng.Int64N(cells)
		}
		mine := cell%workers == w
		if _, err := c.d.im.ReadAt(p, cell*512); err != nil {
			c.fail("read: %v", err)
			continue
		}
		got, err := checkCell(p, cell, !mine)
		if err == nil && mine && !c.apply && got != c.versions[cell] {
			err = fmt.Errorf("cell %d holds version %d, not %d", cell, got, c.versions[cell])
		}
		if err != nil {
			c.fail("%v", err)
		}
	}
}

// snapshot takes a snapshot, reads it twice, and deletes it.
func (c *crowd) snapshot(rng *rand.Rand, i int) error {
	im, ctx := c.d.im, c.t.Context()
	name := fmt.Sprint("s", i)
	s, err := im.CreateSnapshot(ctx, name, nil)
	if errors.Is(err, qcow2.ErrLimit) { // the refcounts are full
		return nil
	}
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	d, err := im.OpenSnapshot(s.ID)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	size := int64(len(c.versions)) * 512
	first, second := make([]byte, size), make([]byte, size)
	for _, p := range [][]byte{first, second} {
		if _, err := d.ReadAt(p, 0); err != nil {
			return fmt.Errorf("read snapshot: %w", err)
		}
	}
	if !bytes.Equal(first, second) {
		return fmt.Errorf("snapshot %s changed at %d", name, differ(first, second))
	}
	for cell := range int64(len(c.versions)) {
		if _, err := checkCell(first[cell*512:][:512], cell, false); err != nil {
			return fmt.Errorf("snapshot %s: %w", name, err)
		}
	}
	if c.apply && rng.IntN(2) == 0 {
		if err := im.ApplySnapshot(ctx, s.ID); err != nil {
			return fmt.Errorf("apply: %w", err)
		}
	}
	if err := im.DeleteSnapshot(ctx, s.ID); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// check checks the image, lists extents, and resizes the disk past the cells.
func (c *crowd) check(rng *rand.Rand, i int) error {
	res, err := c.d.im.Check(c.t.Context(), nil)
	if err != nil {
		return err
	}
	if err := onlyLeaks(res); err != nil {
		return err
	}
	for e, err := range c.d.im.Extents(rng.Int64N(c.d.im.Size()), 50000) {
		if err != nil {
			return fmt.Errorf("extents: %+v: %w", e, err)
		}
	}
	if c.resize {
		o := &qcow2.ResizeOptions{Shrink: true}
		if err := c.d.im.Resize(c.t.Context(), int64(len(c.versions))*512+rng.Int64N(100)*512, o); err != nil {
			return fmt.Errorf("resize: %w", err)
		}
	}
	time.Sleep(time.Millisecond)
	return nil
}

func (c *crowd) sync(rng *rand.Rand, i int) error {
	time.Sleep(time.Millisecond)
	return c.d.im.Sync()
}
