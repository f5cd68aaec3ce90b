package qcow2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/virtfmt/virtfmt/internal/crashtest"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// A snapLog knows what each snapshot must hold, by name. The steps that take
// snapshots tell it, in each run anew.
type snapLog struct {
	mu   sync.Mutex
	kept map[string][]byte
}

func readAll(d qcow2.Disk) ([]byte, error) {
	b := make([]byte, d.Size())
	_, err := d.ReadAt(b, 0)
	return b, err
}

// create returns a step that takes a snapshot.
func (l *snapLog) create(name string) crashtest.Step[*qcow2.Image] {
	return crashtest.Step[*qcow2.Image]{Name: "create " + name, Durable: true, Do: func(im *qcow2.Image) error {
		b, err := readAll(im)
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.kept[name] = b
		l.mu.Unlock()
		_, err = im.CreateSnapshot(context.Background(), name, nil)
		return err
	}}
}

// tolerate marks the error of an operation whose snapshot is missing because
// taking it failed as one that follows from an earlier one.
func tolerate(err error) error {
	if errors.Is(err, qcow2.ErrNoSnapshot) {
		return errors.Join(err, fs.ErrPermission)
	}
	return err
}

// judge holds the snapshots of an image against what they must hold. In
// version 2, which has no mark for it, COPIED flags may be missing.
func (l *snapLog) judge(im *qcow2.Image) error {
	list, err := im.Snapshots()
	if err != nil {
		return err
	}
	for _, s := range list {
		d, err := im.OpenSnapshot(s.ID)
		if err != nil {
			return err
		}
		got, err := readAll(d)
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", s.Name, err)
		}
		l.mu.Lock()
		want, ok := l.kept[s.Name]
		l.mu.Unlock()
		if ok && !bytes.Equal(got, want) {
			return fmt.Errorf("snapshot %s differs at %d", s.Name, differ(got, want))
		}
	}
	res, err := im.Check(context.Background(), nil)
	if err != nil {
		return err
	}
	return noHarm(res, im.Header().Version)
}

// noHarm accepts leaks, and in version 2 COPIED flags that are not set.
func noHarm(res *qcow2.CheckResult, version uint32) error {
	missing := int64(0)
	for _, f := range res.Findings {
		if version == 2 && f.Kind == qcow2.FindingCopied && f.Value>>63 == 0 {
			missing++
		}
	}
	if res.Corruptions-missing+res.CheckErrors > 0 {
		return fmt.Errorf("%d corruptions, %d check errors: %v", res.Corruptions, res.CheckErrors, res.Findings)
	}
	return nil
}

// format judges what a power cut leaves of an image with snapshots.
func (l *snapLog) format(o *qcow2.Options) crashtest.Format[*qcow2.Image] {
	fm := crashFormat(o)
	fm.Before = func(f *memfile.File) error {
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
		return noHarm(res, im.Header().Version)
	}
	fm.After = l.judge
	return fm
}

// resizeStep returns a step that resizes a disk to at least half the size that
// it had at first: what randomSteps write to.
func resizeStep(rng *rand.Rand, size int64) crashtest.Step[*qcow2.Image] {
	to := size/2 + rng.Int64N(size/512)*512
	o := &qcow2.ResizeOptions{Shrink: true, Preallocation: qcow2.Preallocation(rng.IntN(3))}
	return crashtest.Step[*qcow2.Image]{Name: fmt.Sprintf("resize to %d, %v", to, o.Preallocation), Durable: true, Do: func(im *qcow2.Image) error {
		o := *o
		if to <= im.Size() {
			o.Preallocation = qcow2.PreallocateOff
		}
		return im.Resize(context.Background(), to, &o)
	}}
}

// snapshotSteps returns n steps: those of randomSteps, and some that concern
// snapshots and, but in version 2, the size.
func (l *snapLog) snapshotSteps(rng *rand.Rand, size int64, n int, v2 bool) []crashtest.Step[*qcow2.Image] {
	var steps []crashtest.Step[*qcow2.Image]
	names := []string{"s0"}
	for len(steps) < n {
		i := rng.IntN(max(1, len(names)))
		switch k := rng.IntN(9); {
		case k == 8 && !v2:
			steps = append(steps, resizeStep(rng, size))
		case k < 2:
			name := fmt.Sprintf("r%d-%d", rng.Uint32(), len(steps))
			names = append(names, name)
			steps = append(steps, l.create(name))
		case k < 3 && len(names) > 0:
			name := names[i]
			names = slices.Delete(names, i, i+1)
			steps = append(steps, crashtest.Step[*qcow2.Image]{Name: "delete " + name, Durable: true, Do: func(im *qcow2.Image) error {
				return tolerate(im.DeleteSnapshot(context.Background(), name))
			}})
		case k < 4 && len(names) > 0:
			name := names[i]
			steps = append(steps, crashtest.Step[*qcow2.Image]{Name: "apply " + name, Durable: true, Do: func(im *qcow2.Image) error {
				return tolerate(im.ApplySnapshot(context.Background(), name))
			}})
		default:
			steps = append(steps, randomSteps(rng, size/2, 1)...)
		}
	}
	return steps
}

// snapshotStart makes an image with a snapshot, closed.
func snapshotStart(t *testing.T, name string) (*memfile.File, *qcow2.Options, int64, []byte) {
	t.Helper()
	f, o, size := crashStart(t, name)
	im, err := qcow2.OpenRW(f, o)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := readAll(im)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.CreateSnapshot(t.Context(), "s0", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := im.WriteAt(bytes.Repeat([]byte("after"), 1000), 3000); err != nil {
		t.Fatal(err)
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	return f, o, size, kept
}

// TestSnapshotPowerCuts: whatever a power cut leaves, the image opens, what
// was synced is there, each snapshot is there as it was or not at all, and no
// cluster that is shared can be written in place.
func TestSnapshotPowerCuts(t *testing.T) {
	seed := difftest.Seed(t, 1)
	var stats crashtest.Stats
	for name := range crashKinds() {
		t.Run(name, func(t *testing.T) {
			start, o, size, s0 := snapshotStart(t, name)
			rng := rand.New(rand.NewPCG(seed, 3))
			for range difftest.Scale(t, 10) {
				l := &snapLog{kept: map[string][]byte{"s0": s0}}
				steps := l.snapshotSteps(rng, size, 10, name == "v2")
				stats.Add(crashtest.PowerCuts(t, l.format(o), start, steps, crashtest.Options{
					Seed: seed, Exhaustive: 3, Random: 3, Moments: 0.4,
				}))
			}
		})
	}
	t.Log(stats)
}

// TestSnapshotFaults: each operation on the file fails once.
func TestSnapshotFaults(t *testing.T) {
	seed := difftest.Seed(t, 1)
	var stats crashtest.Stats
	for name := range crashKinds() {
		t.Run(name, func(t *testing.T) {
			start, o, size, s0 := snapshotStart(t, name)
			rng := rand.New(rand.NewPCG(seed, 4))
			for range difftest.Scale(t, 5) {
				l := &snapLog{kept: map[string][]byte{"s0": s0}}
				steps := l.snapshotSteps(rng, size, 8, name == "v2")
				stats.Add(crashtest.Faults(t, l.format(o), start, alone(steps), 3, crashtest.Options{Seed: seed, Random: 2}))
			}
		})
	}
	t.Log(stats)
}

// TestResizePowerCuts: after a power cut, or a fault, the disk has the old or
// the new size, and what was added reads as zeros.
func TestResizePowerCuts(t *testing.T) {
	seed := difftest.Seed(t, 1)
	stride := 2
	if testing.Short() {
		stride = 10
	}
	var stats crashtest.Stats
	for name := range crashKinds() {
		t.Run(name, func(t *testing.T) {
			start, o, size := crashStart(t, name)
			rng := rand.New(rand.NewPCG(seed, 5))
			for i := range difftest.Scale(t, 6) {
				var steps []crashtest.Step[*qcow2.Image]
				for range 4 {
					steps = append(steps, randomSteps(rng, size/2, 1)...)
					steps = append(steps, resizeStep(rng, size))
				}
				stats.Add(crashtest.PowerCuts(t, crashFormat(o), start, steps, crashtest.Options{
					Seed: seed, Exhaustive: 3, Random: 3, Moments: 0.4,
				}))
				if i%2 == 0 {
					stats.Add(crashtest.Faults(t, crashFormat(o), start, alone(steps), stride, crashtest.Options{Seed: seed, Random: 2}))
				}
			}
		})
	}
	t.Log(stats)
}
