package qcow2_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/crashtest"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// crashFormat judges images after a power cut: they may have leaks, nothing
// else, unless they are marked as dirty and repaired when they are opened.
func crashFormat(o *qcow2.Options) crashtest.Format[*qcow2.Image] {
	return crashtest.Format[*qcow2.Image]{
		Open: func(f *memfile.File) (*qcow2.Image, error) { return qcow2.OpenRW(f, o) },
		Before: func(f *memfile.File) error {
			im, err := qcow2.Open(f, &qcow2.Options{MetadataOnly: true})
			if err != nil {
				return err
			}
			defer im.Close()
			if im.Header().IncompatibleFeatures&qcow2.IncompatDirty != 0 {
				return nil
			}
			res, err := im.Check(context.Background(), nil)
			if err != nil {
				return err
			}
			return onlyLeaks(res)
		},
		After: func(im *qcow2.Image) error {
			res, err := im.Check(context.Background(), nil)
			if err != nil {
				return err
			}
			return onlyLeaks(res)
		},
	}
}

func onlyLeaks(res *qcow2.CheckResult) error {
	if res.Corruptions+res.CheckErrors > 0 {
		return fmt.Errorf("%d corruptions, %d check errors: %v", res.Corruptions, res.CheckErrors, res.Findings)
	}
	return nil
}

// crashKinds are the kinds of images whose power is cut.
func crashKinds() map[string]struct {
	size int64
	base int
	o    qcow2.CreateOptions
} {
	return map[string]struct {
		size int64
		base int
		o    qcow2.CreateOptions
	}{
		"512":         {96 << 10, 0, qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 16}},
		"512-wide":    {96 << 10, 0, qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 64}}, // the refcount table grows
		"512-backing": {64 << 10, 40 << 10, qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 8}},
		"v2":          {128 << 10, 0, qcow2.CreateOptions{Version: 2, ClusterSize: 1024}},
		"4k":          {256 << 10, 0, qcow2.CreateOptions{ClusterSize: 4096}},
		"lazy":        {256 << 10, 0, qcow2.CreateOptions{ClusterSize: 4096, LazyRefcounts: true}},
		"extl2":       {256 << 10, 100 << 10, qcow2.CreateOptions{ClusterSize: 16384, ExtendedL2: true}},
	}
}

// crashStart makes an image with some content, closed.
func crashStart(t *testing.T, name string) (*memfile.File, *qcow2.Options, int64) {
	t.Helper()
	k := crashKinds()[name]
	d := newDisk(t, k.size, k.base, k.o, 1)
	for range 20 {
		d.step()
	}
	if err := d.im.Close(); err != nil {
		t.Fatal(err)
	}
	return d.f, &d.opts, k.size
}

// randomSteps returns n operations on whole sectors, some of them durable.
func randomSteps(rng *rand.Rand, size int64, n int) []crashtest.Step[*qcow2.Image] {
	var steps []crashtest.Step[*qcow2.Image]
	for range n {
		off := rng.Int64N(size/512) * 512
		length := min((1+rng.Int64N(1<<rng.IntN(6)))*512, size-off)
		fill := byte(1 + rng.IntN(255))
		s := crashtest.Step[*qcow2.Image]{}
		switch k := rng.IntN(21); {
		case k < 11:
			s.Name = fmt.Sprintf("write %d %d", off, length)
			s.Do = func(im *qcow2.Image) error {
				p := make([]byte, length)
				for i := range p {
					p[i] = fill + byte(i>>9)
				}
				_, err := im.WriteAt(p, off)
				return err
			}
		case k < 13:
			s.Name = fmt.Sprintf("zero %d %d", off, length)
			s.Do = func(im *qcow2.Image) error { return im.WriteZeroesAt(off, length) }
		case k < 15:
			s.Name = fmt.Sprintf("unmap %d %d", off, length)
			s.Do = func(im *qcow2.Image) error { return im.UnmapAt(off, length) }
		case k < 17:
			s.Name = fmt.Sprintf("discard %d %d", off, length)
			s.Do = func(im *qcow2.Image) error {
				if err := im.DiscardAt(off, length); !errors.Is(err, errors.ErrUnsupported) {
					return err
				}
				return nil
			}
		case k < 18:
			s = stepCompress(off, 1, fill)
		default:
			s = stepSync
		}
		steps = append(steps, s)
	}
	return steps
}

// alone leaves out the steps that do nothing if an earlier one was done: what
// they write must not depend on which step fails.
func alone(steps []crashtest.Step[*qcow2.Image]) []crashtest.Step[*qcow2.Image] {
	return slices.DeleteFunc(slices.Clone(steps), func(s crashtest.Step[*qcow2.Image]) bool {
		return strings.HasPrefix(s.Name, "compress")
	})
}

// TestPowerCuts: whatever part of the unsynced writes survives, the image
// opens, has at most leaks, and holds what was synced.
func TestPowerCuts(t *testing.T) {
	seed := difftest.Seed(t, 1)
	var stats crashtest.Stats
	for name := range crashKinds() {
		t.Run(name, func(t *testing.T) {
			start, o, size := crashStart(t, name)
			rng := rand.New(rand.NewPCG(seed, 3))
			for range difftest.Scale(t, 30) {
				steps := randomSteps(rng, size, 12)
				stats.Add(crashtest.PowerCuts(t, crashFormat(o), start, steps, crashtest.Options{
					Seed: seed, Exhaustive: 4, Random: 3, Moments: 0.5,
				}))
			}
		})
	}
	t.Log(stats)
}

// TestFaults: each operation on the file fails once.
func TestFaults(t *testing.T) {
	seed := difftest.Seed(t, 1)
	var stats crashtest.Stats
	for name := range crashKinds() {
		t.Run(name, func(t *testing.T) {
			start, o, size := crashStart(t, name)
			rng := rand.New(rand.NewPCG(seed, 4))
			for range difftest.Scale(t, 10) {
				steps := randomSteps(rng, size, 12)
				stats.Add(crashtest.Faults(t, crashFormat(o), start, alone(steps), 1, crashtest.Options{Seed: seed, Random: 2}))
			}
		})
	}
	t.Log(stats)
}
