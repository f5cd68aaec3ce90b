package vma_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/vma"
)

// extractors returns the two ways to extract an archive.
func extractors(t *testing.T, b []byte, o *vma.Options) map[string]vma.Extractor {
	t.Helper()
	a, err := vma.Open(bytes.NewReader(b), o)
	if err != nil {
		t.Fatal(err)
	}
	r, err := vma.NewReader(struct{ io.Reader }{bytes.NewReader(b)}, o)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]vma.Extractor{"archive": a, "reader": r}
}

// A buffer takes what is written at random, and tells what was not written.
type buffer struct {
	mu      sync.Mutex
	b       []byte
	written []bool // by sector
	fail    int64  // a write that touches it fails, 0 none
}

func newBuffer(n int64, before byte) *buffer {
	return &buffer{b: bytes.Repeat([]byte{before}, int(n)), written: make([]bool, n/512)}
}

// into extracts every device to w: there is one.
func into(w io.WriterAt) *vma.ExtractOptions {
	return &vma.ExtractOptions{Target: func(vma.DeviceInfo) (*vma.Target, error) { return &vma.Target{W: w}, nil }}
}

func (b *buffer) WriteAt(p []byte, off int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail > 0 && off <= b.fail && b.fail < off+int64(len(p)) {
		return 0, errFull
	}
	for i := off / 512; i < (off+int64(len(p)))/512; i++ {
		if b.written[i] {
			return 0, errors.New("written twice")
		}
		b.written[i] = true
	}
	return copy(b.b[off:], p), nil
}

// TestExtract extracts archives of any order to targets that hold something
// else, or read as zeros.
func TestExtract(t *testing.T) {
	seed := difftest.Seed(t, 4)
	for i := range difftest.Scale(t, 20) {
		rnd := rand.New(rand.NewPCG(seed, uint64(i)))
		disks := []ram{
			content(rnd.Uint64(), 512*(1+rnd.IntN(8<<11)), 0.6),
			content(rnd.Uint64(), 512*(1+rnd.IntN(2<<11)), 0.3),
			content(rnd.Uint64(), 512*(1+rnd.IntN(1<<11)), 0.9),
		}
		b := writeShuffled(t, rnd, disks)
		for name, x := range extractors(t, b, nil) {
			targets := make(map[uint8]*buffer)
			zeroed, skip := rnd.IntN(2) == 0, uint8(10+rnd.IntN(4))
			var last vma.Progress
			r, err := x.Extract(t.Context(), &vma.ExtractOptions{
				Workers: rnd.IntN(4),
				Target: func(d vma.DeviceInfo) (*vma.Target, error) {
					if d.ID == skip {
						return nil, nil
					}
					before := byte(0)
					if !zeroed {
						before = 'x'
					}
					targets[d.ID] = newBuffer(d.Size, before)
					return &vma.Target{W: targets[d.ID], Zeroed: zeroed}, nil
				},
				Progress: func(p vma.Progress) { last = p },
			})
			if err != nil || !r.OK() {
				t.Fatalf("%s: %v, %v", name, err, r.Err())
			}
			for j, d := range disks {
				id := uint8(10 + j)
				if id == skip {
					continue
				}
				got := targets[id]
				if !bytes.Equal(got.b, d) {
					t.Fatalf("%s: device %d is extracted wrong", name, id)
				}
				for at, w := range got.written {
					if block := at / 8 * 4096; w == (zeroed && isZero(d[block:min(block+4096, len(d))])) {
						t.Fatalf("%s: device %d: sector %d is written: %v", name, id, at, w)
					}
				}
			}
			if last.Done != last.Total || last.Offset != int64(len(b)) {
				t.Errorf("%s: progress ends at %+v", name, last)
			}
		}
	}
}

// TestExtractErrors lets targets, the archive and the caller fail.
func TestExtractErrors(t *testing.T) {
	disk := content(1, 9<<20, 0.5)
	whole := build(t, false, disk)
	target := func(b *buffer) func(vma.DeviceInfo) (*vma.Target, error) {
		return func(vma.DeviceInfo) (*vma.Target, error) { return &vma.Target{W: b}, nil }
	}
	for name, x := range extractors(t, whole, nil) {
		b := newBuffer(disk.Size(), 0)
		b.fail = 7 << 20
		if _, err := x.Extract(t.Context(), &vma.ExtractOptions{Target: target(b)}); !errors.Is(err, errFull) {
			t.Errorf("%s: a write fails: %v", name, err)
		}
	}
	for name, x := range extractors(t, whole, nil) {
		if _, err := x.Extract(t.Context(), &vma.ExtractOptions{
			Target: func(vma.DeviceInfo) (*vma.Target, error) { return nil, errFull },
		}); !errors.Is(err, errFull) {
			t.Errorf("%s: no target: %v", name, err)
		}
	}
	for name, x := range extractors(t, whole, nil) {
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := x.Extract(ctx, &vma.ExtractOptions{
			Target:   target(newBuffer(disk.Size(), 0)),
			Progress: func(vma.Progress) { cancel() },
		}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: canceled: %v", name, err)
		}
	}
	r, err := vma.NewReader(bytes.NewReader(whole[:len(whole)-9000]), nil)
	if err != nil {
		t.Fatal(err)
	}
	b := newBuffer(disk.Size(), 0)
	if _, err := r.Extract(t.Context(), &vma.ExtractOptions{Target: target(b)}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a cut archive: %v", err)
	}
	if n := 58 << 16; !bytes.Equal(b.b[:n], disk[:n]) {
		t.Error("what came before the cut is not extracted")
	}
	if _, err := r.Extract(t.Context(), nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("again: %v", err)
	}
}

// TestExtractSalvage extracts what is left of damaged archives over other
// content: what is lost becomes zeros.
func TestExtractSalvage(t *testing.T) {
	whole := build(t, true, salvageDisks...)
	p := takeApart(whole)
	clear(p.extents[1][:512])
	p.extents = p.extents[:len(p.extents)-1]
	b := p.join()
	o := &vma.Options{Profile: vma.Salvage}
	a, err := vma.Open(bytes.NewReader(b), o)
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range extractors(t, b, o) {
		targets := make(map[uint8]*buffer)
		r, err := x.Extract(t.Context(), &vma.ExtractOptions{Target: func(d vma.DeviceInfo) (*vma.Target, error) {
			targets[d.ID] = newBuffer(d.Size, 'x')
			return &vma.Target{W: targets[d.ID]}, nil
		}})
		if err != nil || r.OK() {
			t.Fatalf("%s: %v, OK: %v", name, err, r.OK())
		}
		for _, d := range a.Devices() {
			want := make([]byte, d.Size())
			if _, err := d.ReadAt(want, 0); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(targets[d.Info().ID].b, want) {
				t.Errorf("%s: device %s is extracted otherwise than it reads", name, d.Name())
			}
		}
	}
	// Without the header only the devices' numbers are known.
	clear(b[:12288])
	for name, x := range extractors(t, b, o) {
		dir := t.TempDir()
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		if _, err := vma.ExtractDir(t.Context(), x, root, nil); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "disk-device1.raw"))
		if err != nil {
			t.Fatal(err)
		}
		if n := 58 << 16; !bytes.Equal(got[:n], salvageDisks[0][:n]) || len(got)%vma.ClusterSize != 0 {
			t.Errorf("%s: a disk without a header is extracted wrong", name)
		}
	}
}

// TestExtractDir extracts to files, which are sparse, get their names only
// when all is well, and never lie outside of the directory.
func TestExtractDir(t *testing.T) {
	disks := []ram{content(1, 3<<20+512, 0.3), content(2, 540672, 0.5), content(3, 700<<10, 0.5)}
	whole := build(t, true, disks...)
	for name, x := range extractors(t, whole, nil) {
		dir := t.TempDir()
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		r, err := vma.ExtractDir(t.Context(), x, root, nil)
		if err != nil || !r.OK() {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff([]string{"disk-disk0.raw", "disk-disk1.raw", "qemu-server.conf", "vmstate.bin"}, list(t, dir)); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
		for i, file := range []string{"disk-disk0.raw", "disk-disk1.raw", "vmstate.bin"} {
			got, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil || !bytes.Equal(got, disks[i]) {
				t.Errorf("%s: %s: %v, or other bytes", name, file, err)
			}
		}
	}
	x := extractors(t, whole, nil)["reader"]
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	only := func(d vma.DeviceInfo) bool { return d.Name == "disk1" }
	if _, err := vma.ExtractDir(t.Context(), x, root, &vma.DirOptions{Select: only}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"disk-disk1.raw", "qemu-server.conf"}, list(t, dir)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	x = extractors(t, whole, nil)["archive"]
	if _, err := vma.ExtractDir(t.Context(), x, root, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over files that exist: %v", err)
	}
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestExtractDirCut leaves temporary files where the archive is not whole.
func TestExtractDirCut(t *testing.T) {
	whole := build(t, false, content(1, 9<<20, 0.2))
	r, err := vma.NewReader(bytes.NewReader(whole[:len(whole)-100]), nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := vma.ExtractDir(t.Context(), r, root, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a cut archive: %v", err)
	}
	if diff := cmp.Diff([]string{"qemu-server.conf", "tmp-disk-disk0.raw"}, list(t, dir)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestExtractHostileNames extracts archives with names that lead elsewhere.
func TestExtractHostileNames(t *testing.T) {
	for _, m := range mutations {
		if !strings.Contains(m.name, "name") {
			continue
		}
		b := mutant(t, m.name)
		a, err := vma.Open(bytes.NewReader(b), nil)
		if err != nil {
			continue
		}
		top := t.TempDir()
		dir := filepath.Join(top, "a", "b", "c")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := vma.ExtractDir(t.Context(), a, root, nil); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		if err := root.Close(); err != nil {
			t.Fatal(err)
		}
		h := a.Header()
		if n := len(list(t, dir)); n != len(h.Configs)+len(h.Devices) {
			t.Errorf("%s: %d files of %d configs and %d devices: %q", m.name, n, len(h.Configs), len(h.Devices), list(t, dir))
		}
		for _, up := range []string{"", "a", "a/b"} {
			if n := len(list(t, filepath.Join(top, up))); n != 1 {
				t.Errorf("%s: files outside of the directory", m.name)
			}
		}
	}
}

// TestExtractPipe extracts a disk of 10 GiB, nearly all of it zeros, from a
// pipe within 64 MiB of memory.
func TestExtractPipe(t *testing.T) {
	size := int64(10 << 30)
	if testing.Short() {
		size = 1 << 30
	}
	stored := []int64{0, 5, 1 << 10, 1<<13 + 1, size/vma.ClusterSize - 1}
	cluster := content(1, vma.ClusterSize, 0.7)
	r, w := io.Pipe()
	go func() {
		wr, err := vma.NewWriter(w, testHeader(vma.DeviceInfo{Name: "a", Size: size}), &vma.WriterOptions{FillMissing: true})
		for _, n := range stored {
			if err == nil {
				err = wr.WriteCluster(1, uint32(n), cluster)
			}
		}
		if err == nil {
			err = wr.Close()
		}
		w.CloseWithError(err)
	}()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	peak := peakMemory(func() {
		rd, err := vma.NewReader(r, nil)
		if err == nil {
			_, err = rd.Extract(t.Context(), &vma.ExtractOptions{
				Target: func(vma.DeviceInfo) (*vma.Target, error) { return &vma.Target{W: f}, nil },
			})
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	if peak > 64<<20 {
		t.Errorf("took %d MiB", peak>>20)
	}
	fi, err := f.Stat()
	if err != nil || fi.Size() != size {
		t.Fatalf("size %d, %v", fi.Size(), err)
	}
	got := make([]byte, vma.ClusterSize)
	for _, n := range append(stored, 1, 77, 1<<13) {
		if _, err := f.ReadAt(got, n*vma.ClusterSize); err != nil {
			t.Fatal(err)
		}
		if want := slices.Contains(stored, n); want != bytes.Equal(got, cluster) || !want && !isZero(got) {
			t.Errorf("cluster %d is wrong", n)
		}
	}
}

// TestCopyTo copies a device to a file and back.
func TestCopyTo(t *testing.T) {
	disk := content(1, 5<<20+512, 0.5)
	a, err := vma.Open(bytes.NewReader(build(t, false, disk)), nil)
	if err != nil {
		t.Fatal(err)
	}
	b := newBuffer(disk.Size(), 0)
	s, err := a.Devices()[0].CopyTo(t.Context(), b, &vma.CopyOptions{Zeroed: true})
	if err != nil || !bytes.Equal(b.b, disk) || s.Written+s.Skipped != disk.Size() {
		t.Errorf("%v, %+v, or other bytes", err, s)
	}
}

// TestExtractWhole extracts to a target that takes clusters whole.
func TestExtractWhole(t *testing.T) {
	disks := []ram{content(1, 5<<20+66048, 0.2), content(2, 512, 1)}
	for name, x := range extractors(t, build(t, false, disks...), nil) {
		var targets []*buffer
		if _, err := x.Extract(t.Context(), &vma.ExtractOptions{Target: func(d vma.DeviceInfo) (*vma.Target, error) {
			targets = append(targets, newBuffer(d.Size, 0))
			return &vma.Target{W: targets[len(targets)-1], Zeroed: true, Whole: true}, nil
		}}); err != nil {
			t.Fatal(err)
		}
		for i, d := range disks {
			if !bytes.Equal(targets[i].b, d) {
				t.Errorf("%s: device %d is extracted wrong", name, i)
			}
			for start := 0; start < len(d); start += vma.ClusterSize {
				end := min(start+vma.ClusterSize, len(d))
				stored := !isZero(d[start:end])
				if slices.Contains(targets[i].written[start/512:end/512], !stored) {
					t.Fatalf("%s: device %d: of the cluster at %#x, stored: %v, not all is like that", name, i, start, stored)
				}
			}
		}
	}
}
