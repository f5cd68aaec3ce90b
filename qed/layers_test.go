package qed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/crashtest"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/layertest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qed"
)

// openLayer opens an image for writing, and all that are below it.
func openLayer(t *testing.T, dir, name, format string) qed.Disk {
	t.Helper()
	path := filepath.Join(dir, name)
	if format == "raw" {
		return layertest.RawFile(t, path)
	}
	img, err := qed.OpenFile(path, &qed.Options{Write: true, BackingFormat: "qed", OpenBacking: func(name, format string) (qed.Disk, error) {
		return openLayer(t, dir, name, format), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// layerAt returns the disk n layers below d.
func layerAt(d qed.Disk, n int) qed.Disk {
	for range n {
		d = d.(*qed.Image).Backing()
	}
	return d
}

func raw(size int64) layertest.Layer {
	return layertest.Layer{Format: "raw", Size: size, Cluster: 4096}
}

func layer(size, cluster int64) layertest.Layer {
	return layertest.Layer{Format: "qed", Size: size, Cluster: cluster, Options: fmt.Sprintf("cluster_size=%d", cluster)}
}

func layerChains() map[string]layertest.Chain {
	return map[string]layertest.Chain{
		"on raw":                {raw(1 << 20), layer(1<<20, 65536)},
		"on longer raw":         {raw(2 << 20), layer(1<<20, 65536)},
		"on odd raw":            {raw(199 << 9), layer(301<<9, 65536)},
		"on shorter":            {layer(1<<20, 65536), layer(2<<20, 65536)},
		"128k on 64k":           {layer(1<<20, 65536), layer(1<<20+512, 131072)},
		"three":                 {raw(1 << 20), layer(700<<10, 65536), layer(900<<10, 65536)},
		"three, longer in turn": {raw(200 << 10), layer(500<<10, 65536), layer(900<<10, 131072)},
	}
}

// readsAs compares what an open image reads as.
func readsAs(t *testing.T, img *qed.Image, want []byte) {
	t.Helper()
	got := make([]byte, img.Size())
	if _, err := img.ReadAt(got, 0); err != nil {
		t.Error(err)
	}
	layertest.SameBytes(t, "the open image", got, want)
}

// TestCommitAsQEMU commits one of two copies of a chain by qemu-img.
func TestCommitAsQEMU(t *testing.T) {
	tool := difftest.Tool(t, "qemu-img", "7.2")
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	for i, name := range slices.Sorted(maps.Keys(layerChains())) {
		for round := i; round < i+difftest.Scale(t, 1); round++ {
			t.Run(fmt.Sprint(name, "/", round), func(t *testing.T) {
				c := layerChains()[name]
				one, other := c.Make(t, rng)
				layers := 1
				if len(c) > 2 && round%2 == 1 {
					layers = 2
				}
				target := len(c) - 1 - layers
				args := []string{"commit", "-q", "-f", "qed"}
				if layers > 1 {
					args = append(args, "-b", c[target].File(target))
				}
				want := layertest.Content(t, one, c.Top(), "qed")
				t.Chdir(one)
				r := difftest.Try(t, tool, append(args, c.Top())...)
				// QEMU does not make an image longer that has a backing file.
				refused := strings.Contains(string(r.Stderr), "Operation not supported")
				if r.Code != 0 && !refused {
					t.Fatalf("qemu-img: %s", r.Stderr)
				}

				top := openLayer(t, other, c.Top(), "qed").(*qed.Image)
				if err := top.Commit(t.Context(), layerAt(top, layers).(io.WriterAt), &qed.CommitOptions{Layers: layers}); err != nil {
					t.Fatal(err)
				}
				readsAs(t, top, want)
				if err := top.Close(); err != nil {
					t.Fatal(err)
				}
				layertest.SameBytes(t, "the disk", layertest.Content(t, other, c.Top(), "qed"), want)
				if refused {
					layertest.SameBytes(t, "the backing file", layertest.Content(t, other, c[target].File(target), c[target].Format)[:len(want)], want)
					return
				}
				for i, l := range c {
					layertest.SameContent(t, one, other, l.File(i), l.Format)
					layertest.Check(t, other, l.File(i), l.Format)
					if l.Format == "raw" {
						continue
					}
					if d := cmp.Diff(layertest.Info(t, one, l.File(i), l.Format), layertest.Info(t, other, l.File(i), l.Format)); d != "" {
						t.Errorf("%s: %s", l.File(i), d)
					}
				}
				if d := cmp.Diff(layertest.Held(layertest.Map(t, one, c.Top(), "qed")), layertest.Held(layertest.Map(t, other, c.Top(), "qed"))); d != "" {
					t.Errorf("what the image holds: %s", d)
				}
			})
		}
	}
}

// TestRebaseAsQEMU puts one of two copies of an image on another backing file
// by qemu-img.
func TestRebaseAsQEMU(t *testing.T) {
	tool := difftest.Tool(t, "qemu-img", "7.2")
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 2), 0))
	nexts := []layertest.Layer{raw(1 << 20), raw(3 << 20), layer(500<<10, 65536), {}}
	for i, name := range slices.Sorted(maps.Keys(layerChains())) {
		for round := i; round < i+difftest.Scale(t, 1); round++ {
			t.Run(fmt.Sprint(name, "/", round), func(t *testing.T) {
				c, next := layerChains()[name], nexts[round%len(nexts)]
				one, other := c.Make(t, rng)
				file := ""
				if next.Format != "" {
					from, _ := layertest.Chain{next}.Make(t, rng)
					file = "next"
					b, err := os.ReadFile(filepath.Join(from, next.File(0)))
					if err != nil {
						t.Fatal(err)
					}
					newFile(t, one, file, b)
					newFile(t, other, file, b)
				}
				want := layertest.Content(t, one, c.Top(), "qed")
				args := []string{"rebase", "-f", "qed", "-b", file}
				if file != "" {
					args = append(args, "-F", next.Format)
				}
				t.Chdir(one)
				difftest.Run(t, tool, append(args, c.Top())...)

				top := openLayer(t, other, c.Top(), "qed").(*qed.Image)
				if err := top.Rebase(t.Context(), file, next.Format, nil); err != nil {
					t.Fatal(err)
				}
				readsAs(t, top, want)
				if err := top.Close(); err != nil {
					t.Fatal(err)
				}
				layertest.SameBytes(t, "the disk", layertest.Content(t, other, c.Top(), "qed"), want)
				layertest.Check(t, other, c.Top(), "qed")
				if d := cmp.Diff(layertest.Info(t, one, c.Top(), "qed"), layertest.Info(t, other, c.Top(), "qed")); d != "" {
					t.Error(d)
				}
				if d := cmp.Diff(layertest.Held(layertest.Map(t, one, c.Top(), "qed")), layertest.Held(layertest.Map(t, other, c.Top(), "qed"))); d != "" {
					t.Errorf("what the image holds: %s", d)
				}
			})
		}
	}
}

// TestChangeBackingAsQEMU changes names that fit into the header and names
// that do not, as "qemu-img rebase -u" does.
func TestChangeBackingAsQEMU(t *testing.T) {
	tool := difftest.Tool(t, "qemu-img", "7.2")
	for _, o := range []string{"cluster_size=4096", "cluster_size=65536"} {
		one, other := layertest.Chain{{Format: "qed", Options: o, Size: 1 << 20, Empty: true}}.Make(t, nil)
		for i, n := range []int{1, 100, 448, 449, 500, 900, 1000, 1023, 5, 0} {
			name, format := strings.Repeat("n", n), []string{"qed", "raw"}[i%2]
			args := []string{"rebase", "-u", "-f", "qed", "-b", name}
			if n > 0 {
				args = append(args, "-F", format)
			}
			t.Chdir(one)
			r := difftest.Try(t, tool, append(args, "0.qed")...)
			img, err := qed.OpenFile(filepath.Join(other, "0.qed"), &qed.Options{Write: true, MetadataOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			err = img.ChangeBacking(name, format)
			if (err == nil) != (r.Code == 0) || err != nil && !errors.Is(err, qed.ErrLimit) {
				t.Errorf("%s: name of %d bytes: %v; qemu-img: %s", o, n, err, r.Stderr)
			}
			if err := img.Close(); err != nil {
				t.Fatal(err)
			}
			want, got := layertest.Info(t, one, "0.qed", "qed"), layertest.Info(t, other, "0.qed", "qed")
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s, %d bytes: %s", o, n, d)
			}
		}
		layertest.Check(t, other, "0.qed", "qed")
	}
}

// onMemory makes an image on a raw disk of as many bytes, both with content.
func onMemory(t *testing.T, size int64) (f, base *memfile.File) {
	t.Helper()
	base, f = memfile.New(), memfile.New()
	if _, err := base.WriteAt(bytes.Repeat([]byte{0xba}, int(size)), 0); err != nil {
		t.Fatal(err)
	}
	img, err := qed.Create(f, size, &qed.CreateOptions{ClusterSize: 4096, TableSize: 2, BackingFile: "base", BackingFormat: "raw", Open: layerOptions(base)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range size / 8192 {
		if _, err := img.WriteAt(bytes.Repeat([]byte{byte(i)}, 4096), i*8192); err != nil {
			t.Fatal(err)
		}
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	return f, base
}

// layerOptions open the backing file "base", with slashes after it or not, and
// for any other name a disk of half of its size.
func layerOptions(base block.File) *qed.Options {
	return &qed.Options{OpenBacking: func(name, _ string) (qed.Disk, error) {
		n, err := block.Length(base)
		if err != nil || strings.TrimRight(name, "/") == "base" {
			return block.Raw(base, n), err
		}
		return block.Raw(bytes.NewReader(bytes.Repeat([]byte{0xcd}, int(n/2))), n/2), nil
	}}
}

func TestCommitAndRebaseErrors(t *testing.T) {
	f, base := onMemory(t, 256<<10)
	img, err := qed.OpenRW(f, layerOptions(base))
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, img.Size())
	if _, err := img.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := img.Commit(canceled, base, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("commit: %v", err)
	}
	if err := img.Rebase(canceled, "", "", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("rebase: %v", err)
	}
	if err := img.Commit(t.Context(), base, &qed.CommitOptions{Layers: 2}); !errors.Is(err, qed.ErrNoBacking) {
		t.Errorf("more layers than there are: %v", err)
	}
	if err := img.ChangeBacking("x", ""); err == nil {
		t.Error("a backing file without its format")
	}
	readsAs(t, img, want)
	for _, name := range []string{"other", "base", ""} {
		if err := img.Rebase(t.Context(), name, "raw", nil); err != nil {
			t.Errorf("rebase to %q: %v", name, err)
		}
		readsAs(t, img, want)
	}
	if err := img.Commit(t.Context(), base, nil); !errors.Is(err, qed.ErrNoBacking) {
		t.Errorf("without a backing file: %v", err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	ro, err := qed.Open(f, layerOptions(base))
	if err != nil {
		t.Fatal(err)
	}
	if err := ro.ChangeBacking("base", "raw"); !errors.Is(err, qed.ErrReadOnly) {
		t.Errorf("read-only: %v", err)
	}
}

func TestMetadataOnly(t *testing.T) {
	f, _ := onMemory(t, 64<<10)
	img, err := qed.OpenRW(f, &qed.Options{MetadataOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4096)
	if _, err := img.ReadAt(p, 0); err != nil {
		t.Errorf("what the image holds: %v", err)
	}
	if _, err := img.ReadAt(p, 4096); !errors.Is(err, qed.ErrMetadataOnly) {
		t.Errorf("what it does not hold: %v", err)
	}
	if _, err := img.WriteAt(p, 0); !errors.Is(err, qed.ErrMetadataOnly) {
		t.Errorf("write: %v", err)
	}
	if err := img.Rebase(t.Context(), "", "", nil); !errors.Is(err, qed.ErrMetadataOnly) {
		t.Errorf("rebase: %v", err)
	}
	if err := img.ChangeBacking("", ""); err != nil {
		t.Error(err)
	}
	if _, err := img.ReadAt(p, 4096); err != nil || !block.IsZero(p) {
		t.Errorf("without a backing file: %v", err)
	}
}

// TestPowerCutsOverCommit: at each moment the disk reads as it always did,
// whatever is left of what was not synced in the image and in its backing
// file.
func TestPowerCutsOverCommit(t *testing.T) {
	seed := difftest.Seed(t, 1)
	f, base := onMemory(t, 128<<10)
	files := crashtest.NewTogether(f, base)
	img, err := qed.OpenRW(files.File(0), layerOptions(files.File(1)))
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, img.Size())
	if _, err := img.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if err := img.Commit(t.Context(), files.File(1), nil); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	t.Log(files.PowerCuts(t, crashtest.Options{Seed: seed, Random: difftest.Scale(t, 20)}, func(states []*memfile.File) error {
		img, err := qed.OpenRW(states[0], layerOptions(states[1]))
		if err != nil {
			return err
		}
		got := make([]byte, img.Size())
		if _, err := img.ReadAt(got, 0); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return errors.New("the disk does not read as before")
		}
		return errors.Join(noCorruption(img), img.Close())
	}))
}

// TestPowerCutsOverRebase: the same for a rebase, with names of the backing
// file that lie in one sector of the header and in several.
func TestPowerCutsOverRebase(t *testing.T) {
	f, base := onMemory(t, 64<<10)
	c := &crashCase{opts: layerOptions(base)}
	var steps []step
	for i, n := range []int{0, 700, 30, 1000, 900} {
		to := []string{"other", "base"}[i%2] + strings.Repeat("/", n)
		steps = append(steps, step{Name: "rebase to " + to, Durable: true, Do: func(img *qed.Image) error {
			return img.Rebase(context.Background(), to, "raw", nil)
		}})
	}
	o := crashtest.Options{Seed: difftest.Seed(t, 1), Exhaustive: 3, Random: difftest.Scale(t, 10)}
	t.Log(crashtest.PowerCuts(t, crashFormat(c), f, steps, o))
}

// TestFaultsOverRebase: each operation on the image file fails once.
func TestFaultsOverRebase(t *testing.T) {
	f, base := onMemory(t, 64<<10)
	c := &crashCase{opts: layerOptions(base)}
	var steps []step
	for _, to := range []string{"other", "base" + strings.Repeat("/", 700), ""} {
		steps = append(steps, step{Name: "rebase to " + to, Durable: true, Do: func(img *qed.Image) error {
			return img.Rebase(context.Background(), to, "raw", nil)
		}})
	}
	t.Log(crashtest.Faults(t, crashFormat(c), f, steps, 1, crashtest.Options{Seed: difftest.Seed(t, 1), Random: 2}))
}
