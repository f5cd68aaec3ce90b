package qcow2_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/crashtest"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

func layerKinds() map[string]qcow2.CreateOptions {
	return map[string]qcow2.CreateOptions{
		"512":   {ClusterSize: 512},
		"v2":    {Version: 2, ClusterSize: 1024},
		"4k":    {ClusterSize: 4096},
		"lazy":  {ClusterSize: 4096, LazyRefcounts: true},
		"extl2": {ClusterSize: 16384, ExtendedL2: true},
	}
}

// TestPowerCutsOverCommit: at each moment the disk reads as it always did,
// whatever is left of what was not synced in the image and in its backing
// file.
func TestPowerCutsOverCommit(t *testing.T) {
	seed := difftest.Seed(t, 1)
	var stats crashtest.Stats
	for name, o := range layerKinds() {
		t.Run(name, func(t *testing.T) {
			var opts qcow2.Options
			f, base := onMemory(t, 128<<10, o, &opts)
			files := crashtest.NewTogether(f, base.File)
			target := files.File(1)
			opts.OpenBacking = func(string, string) (qcow2.Disk, error) { return block.Raw(target, base.Size()), nil }
			im, err := qcow2.OpenRW(files.File(0), &opts)
			if err != nil {
				t.Fatal(err)
			}
			want, err := readAll(im)
			if err != nil {
				t.Fatal(err)
			}
			if err := im.Commit(t.Context(), target, nil); err != nil {
				t.Fatal(err)
			}
			if err := im.Close(); err != nil {
				t.Fatal(err)
			}
			stats.Add(files.PowerCuts(t, crashtest.Options{Seed: seed, Random: difftest.Scale(t, 20)}, func(states []*memfile.File) error {
				return sameDisk(states[0], &qcow2.Options{OpenBacking: func(string, string) (qcow2.Disk, error) {
					return block.Raw(states[1], states[1].Size()), nil
				}}, want)
			}))
		})
	}
	t.Log(stats)
}

// sameDisk opens an image after a power cut.
func sameDisk(f *memfile.File, o *qcow2.Options, want []byte) error {
	if err := crashFormat(o).Before(f); err != nil {
		return err
	}
	im, err := qcow2.OpenRW(f, o)
	if err != nil {
		return err
	}
	defer im.Close()
	got, err := readAll(im)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("the disk does not read as before")
	}
	res, err := im.Check(context.Background(), nil)
	if err != nil {
		return err
	}
	return onlyLeaks(res)
}

// TestFaultsOverCommitAndRebase: each operation on the image file fails once.
func TestFaultsOverCommitAndRebase(t *testing.T) {
	seed := difftest.Seed(t, 1)
	var stats crashtest.Stats
	for name, o := range layerKinds() {
		t.Run(name, func(t *testing.T) {
			var opts qcow2.Options
			f, base := onMemory(t, 64<<10, o, &opts)
			steps := []crashtest.Step[*qcow2.Image]{
				{Name: "rebase", Durable: true, Do: func(im *qcow2.Image) error {
					return im.Rebase(context.Background(), "other", "raw", nil)
				}},
				{Name: "rebase back", Durable: true, Do: func(im *qcow2.Image) error {
					return im.Rebase(context.Background(), "base", "raw", nil)
				}},
				{Name: "commit", Durable: true, Do: func(im *qcow2.Image) error {
					return im.Commit(context.Background(), base, nil)
				}},
			}
			stats.Add(crashtest.Faults(t, crashFormat(&opts), f, steps, 1, crashtest.Options{Seed: seed, Random: 2}))
		})
	}
	t.Log(stats)
}

// TestPowerCutsOverRebase: the same for a rebase, with names of the backing
// file that lie in one sector of the header and in several.
func TestPowerCutsOverRebase(t *testing.T) {
	seed := difftest.Seed(t, 1)
	var stats crashtest.Stats
	for name, o := range layerKinds() {
		t.Run(name, func(t *testing.T) {
			var opts qcow2.Options
			f, _ := onMemory(t, 64<<10, o, &opts)
			opened := opts.OpenBacking
			opts.OpenBacking = func(name, format string) (qcow2.Disk, error) {
				return opened(strings.TrimRight(name, "/"), format)
			}
			lengths := []int{0, 700, 30, 1000, 900}
			if o.ClusterSize < 4096 {
				lengths = []int{0, 100, 200}
			}
			var steps []crashtest.Step[*qcow2.Image]
			for i, n := range lengths {
				to := []string{"other", "base"}[i%2] + strings.Repeat("/", n)
				steps = append(steps, crashtest.Step[*qcow2.Image]{Name: fmt.Sprintf("rebase to %q", to), Durable: true, Do: func(im *qcow2.Image) error {
					return im.Rebase(context.Background(), to, "raw", nil)
				}})
			}
			stats.Add(crashtest.PowerCuts(t, crashFormat(&opts), f, steps, crashtest.Options{Seed: seed, Exhaustive: 3, Random: difftest.Scale(t, 10)}))
		})
	}
	t.Log(stats)
}
