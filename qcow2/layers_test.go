package qcow2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/layertest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// openLayer opens an image for writing, and all that are below it.
func openLayer(t *testing.T, dir, name, format string) qcow2.Disk {
	t.Helper()
	path := filepath.Join(dir, name)
	if format == "raw" {
		return layertest.RawFile(t, path)
	}
	im, err := qcow2.OpenFile(path, &qcow2.Options{Write: true, OpenBacking: func(name, format string) (qcow2.Disk, error) {
		return openLayer(t, dir, name, format), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// layerAt returns the disk n layers below d.
func layerAt(d qcow2.Disk, n int) qcow2.Disk {
	for range n {
		d = d.(*qcow2.Image).Backing()
	}
	return d
}

func raw(size int64) layertest.Layer {
	return layertest.Layer{Format: "raw", Size: size, Cluster: 4096}
}

func layer(size, cluster int64, options string) layertest.Layer {
	return layertest.Layer{Format: "qcow2", Size: size, Cluster: cluster, Options: strings.TrimSuffix(fmt.Sprintf("cluster_size=%d,%s", cluster, options), ",")}
}

func withSnapshot(l layertest.Layer) layertest.Layer { l.Snapshot = true; return l }

func layerChains() map[string]layertest.Chain {
	return map[string]layertest.Chain{
		"v2 on raw":             {raw(1 << 20), layer(1<<20, 65536, "compat=0.10")},
		"v2 on longer raw":      {raw(2 << 20), layer(1<<20, 65536, "compat=0.10")},
		"512 on shorter raw":    {raw(60 << 10), layer(100<<10, 512, "refcount_bits=1")},
		"4k on odd raw":         {raw(199 << 9), layer(301<<9, 4096, "refcount_bits=64")},
		"64k on 4k":             {layer(2<<20, 4096, ""), layer(1<<20+512, 65536, "")},
		"4k on 64k":             {layer(1<<20, 65536, ""), layer(1<<20, 4096, "lazy_refcounts=on")},
		"2M on 64k":             {layer(9<<20, 65536, ""), layer(9<<20, 2<<20, "compression_type=zstd")},
		"extended on raw":       {raw(1 << 20), layer(2<<20, 65536, "extended_l2=on")},
		"extended on extended":  {layer(1<<20, 16384, "extended_l2=on"), layer(1<<20, 32768, "extended_l2=on")},
		"three":                 {raw(1 << 20), layer(900<<10, 4096, ""), layer(700<<10, 65536, "")},
		"three, longer in turn": {raw(200 << 10), layer(900<<10, 65536, ""), layer(900<<10, 4096, "compat=0.10")},
		"on shorter qcow2":      {layer(500<<10, 65536, ""), layer(900<<10, 65536, "")},
		"three, shorter middle": {raw(1 << 20), layer(300<<10+512, 4096, ""), layer(900<<10, 65536, "")},
		"snapshot":              {raw(1 << 20), withSnapshot(layer(1<<20, 4096, ""))},
		"snapshot in v2":        {layer(1<<20, 4096, ""), withSnapshot(layer(1<<20, 65536, "compat=0.10"))},
	}
}

// TestCommitAsQEMU commits one of two copies of a chain by qemu-img.
func TestCommitAsQEMU(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	names := slices.Sorted(maps.Keys(layerChains()))
	for i, name := range names {
		for round := i; round < i+difftest.Scale(t, 1); round++ {
			t.Run(fmt.Sprint(name, "/", round), func(t *testing.T) {
				c := layerChains()[name]
				one, other := c.Make(t, rng)
				layers, keep := 1, round%2 == 1
				if len(c) > 2 && round%2 == 1 {
					layers = 2
				}
				args := []string{"commit", "-q", "-f", "qcow2"}
				if keep {
					args = append(args, "-d")
				}
				target := len(c) - 1 - layers
				if layers > 1 {
					args = append(args, "-b", c[target].File(target))
				}
				want := layertest.Content(t, one, c.Top(), "qcow2")
				runIn(t, one, img, append(args, c.Top())...)

				top := openLayer(t, other, c.Top(), "qcow2").(*qcow2.Image)
				base := layerAt(top, layers)
				var last, total int64
				err := top.Commit(t.Context(), base.(io.WriterAt), &qcow2.CommitOptions{Layers: layers, Keep: keep,
					Progress: func(done, of int64) { last, total = done, of }})
				if err != nil {
					t.Fatal(err)
				}
				if last != total || total != top.Size() {
					t.Errorf("progress ended at %d of %d", last, total)
				}
				got := make([]byte, top.Size())
				if _, err := top.ReadAt(got, 0); err != nil {
					t.Error(err)
				}
				layertest.SameBytes(t, "read before it is closed", got, want)
				if err := top.Close(); err != nil {
					t.Fatal(err)
				}

				layertest.SameBytes(t, "the disk", layertest.Content(t, other, c.Top(), "qcow2"), want)
				for i, l := range c {
					layertest.SameContent(t, one, other, l.File(i), l.Format)
					layertest.Check(t, other, l.File(i), l.Format)
					if d := cmp.Diff(layertest.Info(t, one, l.File(i), l.Format), layertest.Info(t, other, l.File(i), l.Format)); d != "" && l.Format != "raw" {
						t.Errorf("%s: %s", l.File(i), d)
					}
				}
				if d := cmp.Diff(layertest.Held(layertest.Map(t, one, c.Top(), "qcow2")), layertest.Held(layertest.Map(t, other, c.Top(), "qcow2"))); d != "" {
					t.Errorf("what the image holds: %s", d)
				}
			})
		}
	}
}

// TestRebaseAsQEMU puts one of two copies of an image on another backing file
// by qemu-img.
func TestRebaseAsQEMU(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 2), 0))
	nexts := []layertest.Layer{
		raw(1 << 20), raw(3 << 20), raw(100 << 10), layer(1<<20, 65536, ""), layer(500<<10, 4096, "compat=0.10"), {},
	}
	names := slices.Sorted(maps.Keys(layerChains()))
	for i, name := range names {
		for round := i; round < i+difftest.Scale(t, 1); round++ {
			t.Run(fmt.Sprint(name, "/", round), func(t *testing.T) {
				c, next := layerChains()[name], nexts[round%len(nexts)]
				one, other := c.Make(t, rng)
				file := ""
				if next.Format != "" {
					from, _ := layertest.Chain{next}.Make(t, rng)
					file = "next"
					for _, dir := range []string{one, other} {
						copyFile(t, filepath.Join(from, next.File(0)), filepath.Join(dir, file))
					}
				}
				want := layertest.Content(t, one, c.Top(), "qcow2")
				args := []string{"rebase", "-f", "qcow2", "-b", file}
				if file != "" {
					args = append(args, "-F", next.Format)
				}
				runIn(t, one, img, append(args, c.Top())...)

				top := openLayer(t, other, c.Top(), "qcow2").(*qcow2.Image)
				last := int64(0)
				if err := top.Rebase(t.Context(), file, next.Format, &qcow2.RebaseOptions{Progress: func(done, _ int64) { last = done }}); err != nil {
					t.Fatal(err)
				}
				if last != top.Size() {
					t.Errorf("progress ended at %d of %d", last, top.Size())
				}
				got := make([]byte, top.Size())
				if _, err := top.ReadAt(got, 0); err != nil {
					t.Error(err)
				}
				layertest.SameBytes(t, "read before it is closed", got, want)
				if err := top.Close(); err != nil {
					t.Fatal(err)
				}
				layertest.SameBytes(t, "the disk", layertest.Content(t, other, c.Top(), "qcow2"), want)
				layertest.SameBytes(t, "the disk of qemu-img", layertest.Content(t, one, c.Top(), "qcow2"), want)
				layertest.Check(t, other, c.Top(), "qcow2")
				if d := cmp.Diff(layertest.Info(t, one, c.Top(), "qcow2"), layertest.Info(t, other, c.Top(), "qcow2")); d != "" {
					t.Error(d)
				}
				if d := cmp.Diff(layertest.Held(layertest.Map(t, one, c.Top(), "qcow2")), layertest.Held(layertest.Map(t, other, c.Top(), "qcow2"))); d != "" {
					t.Errorf("what the image holds: %s", d)
				}
			})
		}
	}
}

// TestChangeBackingAsQEMU changes names that fit into the header and names
// that do not, as "qemu-img rebase -u" does.
func TestChangeBackingAsQEMU(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	for _, o := range []string{"cluster_size=512", "cluster_size=1024,compat=0.10", "cluster_size=65536", "extended_l2=on"} {
		one, other := layertest.Chain{{Format: "qcow2", Options: o, Size: 1 << 20, Empty: true}}.Make(t, nil)
		fits := 0
		for _, n := range []int{1, 100, 300, 375, 380, 384, 385, 390, 400, 800, 900, 1000, 1023, 1024, 5, 0} {
			name, format := strings.Repeat("n", n), "qcow2"
			if n == 0 {
				format = ""
			}
			t.Chdir(one)
			args := []string{"rebase", "-u", "-f", "qcow2", "-b", name}
			if format != "" {
				args = append(args, "-F", format)
			}
			r := difftest.Try(t, img, append(args, "0.qcow2")...)
			im, err := qcow2.OpenFile(filepath.Join(other, "0.qcow2"), &qcow2.Options{Write: true, MetadataOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			err = im.ChangeBacking(name, format)
			if (err == nil) != (r.Code == 0) || err != nil && !errors.Is(err, qcow2.ErrLimit) {
				t.Errorf("%s: name of %d bytes: %v; qemu-img: %s", o, n, err, r.Stderr)
			}
			if err == nil {
				fits++
			}
			if err := im.Close(); err != nil {
				t.Fatal(err)
			}
			want, got := layertest.Info(t, one, "0.qcow2", "qcow2"), layertest.Info(t, other, "0.qcow2", "qcow2")
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s, %d bytes: %s", o, n, d)
			}
		}
		if fits < 5 {
			t.Errorf("only %d names fit", fits)
		}
		layertest.Check(t, other, "0.qcow2", "qcow2")
	}
}

// A rwDisk is a raw disk in memory that can be written to.
type rwDisk struct {
	block.Disk
	*memfile.File
}

func newRWDisk(f *memfile.File) rwDisk { return rwDisk{block.Raw(f, f.Size()), f} }

func (d rwDisk) ReadAt(p []byte, off int64) (int, error) { return d.Disk.ReadAt(p, off) }
func (d rwDisk) Size() int64                             { return d.File.Size() }

// onMemory makes an image on a raw disk of as many bytes, both with content.
func onMemory(t *testing.T, size int64, o qcow2.CreateOptions, opts *qcow2.Options) (*memfile.File, rwDisk) {
	t.Helper()
	base := memfile.New()
	if _, err := base.WriteAt(bytes.Repeat([]byte{0xba}, int(size)), 0); err != nil {
		t.Fatal(err)
	}
	d := newRWDisk(base)
	opts.OpenBacking = func(name, format string) (qcow2.Disk, error) {
		if name == "base" {
			return d, nil
		}
		return block.Raw(bytes.NewReader(bytes.Repeat([]byte{0xcd}, int(size/2))), size/2), nil
	}
	o.BackingFile, o.BackingFormat, o.Open = "base", "raw", opts
	f := memfile.New()
	im, err := qcow2.Create(f, size, &o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range size / 8192 {
		if _, err := im.WriteAt(bytes.Repeat([]byte{byte(i)}, 4096), i*8192); err != nil {
			t.Fatal(err)
		}
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	return f, d
}

func TestCommitAndRebaseErrors(t *testing.T) {
	var o qcow2.Options
	f, base := onMemory(t, 256<<10, qcow2.CreateOptions{ClusterSize: 4096}, &o)
	open := func() *qcow2.Image {
		t.Helper()
		im, err := qcow2.OpenRW(f, &o)
		if err != nil {
			t.Fatal(err)
		}
		return im
	}
	im := open()
	want := make([]byte, im.Size())
	if _, err := im.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	same := func(what string) {
		t.Helper()
		got := make([]byte, im.Size())
		if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v, or the disk has changed", what, err)
		}
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := im.Commit(canceled, base, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("commit: %v", err)
	}
	if err := im.Rebase(canceled, "", "", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("rebase: %v", err)
	}
	same("canceled")
	fault := errors.New("fault")
	var at *qcow2.CopyError
	if err := im.Commit(t.Context(), faultyTarget{base, fault}, nil); !errors.Is(err, fault) || !errors.As(err, &at) {
		t.Errorf("a target that fails: %v", err)
	}
	if err := im.Commit(t.Context(), base, &qcow2.CommitOptions{Layers: 2}); !errors.Is(err, qcow2.ErrNoBacking) {
		t.Errorf("more layers than there are: %v", err)
	}
	if err := im.ChangeBacking("x", ""); err == nil {
		t.Error("a backing file without its format")
	}
	if err := im.ChangeBacking(strings.Repeat("x", 5000), "raw"); !errors.Is(err, qcow2.ErrLimit) {
		t.Errorf("a long name: %v", err)
	}
	same("refused")
	if err := im.Rebase(t.Context(), "other", "raw", nil); err != nil {
		t.Error(err)
	}
	same("rebased")
	if err := im.Rebase(t.Context(), "base", "raw", nil); err != nil {
		t.Error(err)
	}
	same("rebased again")
	if err := im.Commit(t.Context(), base, nil); err != nil {
		t.Error(err)
	}
	same("committed")
	for e := range im.Extents(0, im.Size()) {
		if e.Depth == 0 {
			t.Errorf("after the commit: %+v", e)
		}
	}
	if err := im.Rebase(t.Context(), "", "", nil); err != nil {
		t.Error(err)
	}
	same("flattened")
	if im.Backing() != nil || im.Header().BackingFile != "" {
		t.Error("it has a backing file still")
	}
	if err := im.Commit(t.Context(), base, nil); !errors.Is(err, qcow2.ErrNoBacking) {
		t.Errorf("without a backing file: %v", err)
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	if err := im.Commit(t.Context(), base, nil); !errors.Is(err, qcow2.ErrClosed) && !errors.Is(err, qcow2.ErrNoBacking) {
		t.Errorf("closed: %v", err)
	}
	ro, err := qcow2.Open(f, &o)
	if err != nil {
		t.Fatal(err)
	}
	if err := ro.ChangeBacking("base", "raw"); !errors.Is(err, qcow2.ErrReadOnly) {
		t.Errorf("read-only: %v", err)
	}
}

type faultyTarget struct {
	rwDisk
	err error
}

func (f faultyTarget) WriteAt([]byte, int64) (int, error) { return 0, f.err }

// TestFailedRebase: what was written before it failed stays, although the
// refcount table has moved for it.
func TestFailedRebase(t *testing.T) {
	const size = 4 << 20
	fault := errors.New("fault")
	base := bytes.Repeat([]byte{1}, size)
	o := qcow2.Options{OpenBacking: func(name, _ string) (qcow2.Disk, error) {
		if name == "base" {
			return block.Raw(bytes.NewReader(base), size), nil
		}
		return failingDisk{block.Raw(bytes.NewReader(nil), size), size * 3 / 4, fault}, nil
	}}
	f := memfile.New()
	im, err := qcow2.Create(f, size, &qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 64, BackingFile: "base", BackingFormat: "raw", Open: &o})
	if err != nil {
		t.Fatal(err)
	}
	table := im.Header().RefcountTableOffset
	if err := im.Rebase(t.Context(), "other", "raw", &qcow2.RebaseOptions{Workers: 1}); !errors.Is(err, fault) {
		t.Errorf("rebase: %v", err)
	}
	if im.Header().RefcountTableOffset == table {
		t.Error("the refcount table has not moved: the test is about nothing")
	}
	if _, err := im.WriteAt(bytes.Repeat([]byte{1}, 100<<10), size-100<<10); err != nil {
		t.Fatal(err)
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sameDisk(f, &o, base); err != nil {
		t.Error(err)
	}
}

// A failingDisk cannot be read from some place on.
type failingDisk struct {
	qcow2.Disk
	from int64
	err  error
}

func (d failingDisk) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > d.from {
		return 0, d.err
	}
	return d.Disk.ReadAt(p, off)
}

// TestRebaseSetsBitmaps: what a rebase writes counts as written, as in QEMU.
func TestRebaseSetsBitmaps(t *testing.T) {
	var o qcow2.Options
	f, _ := onMemory(t, 128<<10, qcow2.CreateOptions{ClusterSize: 4096}, &o)
	im, err := qcow2.OpenRW(f, &o)
	if err != nil {
		t.Fatal(err)
	}
	if err := im.AddBitmap("b", &qcow2.BitmapOptions{Granularity: 4096}); err != nil {
		t.Fatal(err)
	}
	if err := im.Rebase(t.Context(), "", "", nil); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range im.DirtyRanges("b") {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 16 { // every other cluster
		t.Errorf("%d dirty ranges", n)
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
}
