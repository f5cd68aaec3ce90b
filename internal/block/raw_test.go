package block_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/corpus"
	"github.com/virtfmt/virtfmt/internal/difftest"
)

// TestRawFile: a disk of a file closes it.
func TestRawFile(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "raw"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	d, err := block.RawFile(f)
	if err != nil || d.Size() != 5 {
		t.Fatalf("a disk of %d bytes, %v", d.Size(), err)
	}
	if h := d.(block.HostFiler).HostFile(0); h != io.ReaderAt(f) {
		t.Errorf("the host file is %v", h)
	}
	if err := d.(io.Closer).Close(); err != nil {
		t.Error(err)
	}
	if _, err := d.ReadAt(make([]byte, 5), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	if d, err := block.RawFile(f); d != nil || !errors.Is(err, os.ErrClosed) {
		t.Errorf("a file that is closed: %v, %v", d, err)
	}
}

func TestRaw(t *testing.T) {
	data := corpus.Bytes(corpus.Noise(1), 10000)
	for _, size := range []int64{0, 1, 9999, 10000, 10001, 20000} {
		want := make([]byte, size)
		copy(want, data)
		d := block.Raw(bytes.NewReader(data), size)
		if d.Size() != size {
			t.Errorf("size %d, want %d", d.Size(), size)
		}
		if err := iotest.TestReader(io.NewSectionReader(d, 0, size), want); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		if n, err := d.ReadAt(make([]byte, 10), size); n != 0 || err != io.EOF {
			t.Errorf("at the end of %d: %d, %v", size, n, err)
		}
		if n, err := d.ReadAt(make([]byte, 10), -1); n != 0 || err == nil {
			t.Errorf("before the start: %d, %v", n, err)
		}
	}
	d := block.Raw(iotestReaderAt{errFault}, 100)
	if n, err := d.ReadAt(make([]byte, 10), 0); n != 0 || !errors.Is(err, errFault) {
		t.Errorf("a fault: %d, %v", n, err)
	}
}

type iotestReaderAt struct{ err error }

func (r iotestReaderAt) ReadAt([]byte, int64) (int, error) { return 0, r.err }

func TestRawExtents(t *testing.T) {
	d := block.Raw(bytes.NewReader(make([]byte, 100)), 150)
	got, err := collect(t, d.Extents(10, 1000))
	want := []block.Extent{
		{Start: 10, Length: 90, Kind: block.Data, HostOffset: 10},
		{Start: 100, Length: 50, Kind: block.Unallocated, HostOffset: block.NoOffset},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, r := range [][2]int64{{-1, 5}, {5, -1}} {
		if _, err := collect(t, d.Extents(r[0], r[1])); err == nil {
			t.Errorf("extents of %d bytes at %d", r[1], r[0])
		}
	}
	if got, err := collect(t, d.Extents(150, 1)); len(got) != 0 || err != nil {
		t.Errorf("at the end: %v, %v", got, err)
	}
}

// sparseFile makes a file with holes between data.
func sparseFile(t *testing.T, seed uint64, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse.raw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	r := rand.New(rand.NewPCG(seed, 0))
	for off := r.Int64N(size / 8); off < size; off += r.Int64N(size / 8) {
		n := min(1+r.Int64N(size/16), size-off)
		if _, err := f.WriteAt(corpus.Bytes(corpus.Noise(seed), int(n)), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestRawHoles holds that extents of a file with holes tell all of it, and
// that what they say is zero reads so, from wherever they start.
func TestRawHoles(t *testing.T) {
	const size = 4 << 20
	f := sparseFile(t, 1, size)
	data, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	d := block.Raw(f, size)
	r := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	for range difftest.Scale(t, 200) {
		off := r.Int64N(size)
		n := r.Int64N(size - off)
		at := off
		for e, err := range d.Extents(off, n) {
			if err != nil || e.Start != at || e.Length <= 0 || e.End() > off+n || e.HostOffset != e.Start {
				t.Fatalf("extents of %d at %d: %+v, %v", n, off, e, err)
			}
			if e.IsZero() && !block.IsZero(data[e.Start:e.End()]) {
				t.Fatalf("%+v is not zero", e)
			}
			at = e.End()
		}
		if at != off+n {
			t.Fatalf("extents of %d at %d end at %d", n, off, at)
		}
	}
}

func TestRawHolesAsQEMU(t *testing.T) {
	qemu := difftest.Tool(t, "qemu-img", "7.2")
	for seed := range uint64(5) {
		f := sparseFile(t, seed, 8<<20+512)
		var want []struct {
			Start, Length int64
			Zero          bool
		}
		out := difftest.Run(t, qemu, "map", "--output=json", "-f", "raw", f.Name())
		if err := json.Unmarshal(out, &want); err != nil {
			t.Fatal(err)
		}
		got, err := collect(t, block.Raw(f, 8<<20+512).Extents(0, 1<<40))
		if err != nil || len(got) != len(want) {
			t.Fatalf("%v: %d extents, want %d:\n%v\n%s", err, len(got), len(want), got, out)
		}
		for i, w := range want {
			if g := got[i]; g.Start != w.Start || g.Length != w.Length || g.IsZero() != w.Zero {
				t.Errorf("%+v, want %+v", g, w)
			}
		}
	}
}

func TestIsZero(t *testing.T) {
	p := make([]byte, 70000)
	for _, n := range []int{0, 1, 7, 8, 4095, 4096, 4097, 8192, 65536, 70000} {
		if !block.IsZero(p[:n]) {
			t.Errorf("%d zeros are not", n)
		}
		for _, at := range []int{0, 1, n / 2, n - 1} {
			if at < 0 || at >= n {
				continue
			}
			p[at] = 1
			if block.IsZero(p[:n]) {
				t.Errorf("%d bytes with a one at %d are zeros", n, at)
			}
			p[at] = 0
		}
	}
}

func BenchmarkIsZero(b *testing.B) {
	p := make([]byte, 256<<10)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if !block.IsZero(p) {
			b.Fatal("not zero")
		}
	}
}
