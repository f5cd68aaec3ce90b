package qed_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qed"
)

func TestReaderAt(t *testing.T) {
	b, _ := written(t)
	img, err := qed.Open(bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	const off, n = 60000, 200000
	if err := iotest.TestReader(io.NewSectionReader(img, off, n), readAll(t, img)[off:off+n]); err != nil {
		t.Error(err)
	}
	if n, err := img.ReadAt(make([]byte, 10), img.Size()-4); n != 4 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if n, err := img.ReadAt(make([]byte, 10), img.Size()+4); n != 0 || err != io.EOF {
		t.Errorf("past the end: %d, %v", n, err)
	}
	if _, err := img.ReadAt(make([]byte, 10), -1); !errors.Is(err, qed.ErrOutOfRange) {
		t.Errorf("before the start: %v", err)
	}
}

func TestReadingTakesNoMemory(t *testing.T) {
	b, _ := written(t)
	img, err := qed.Open(bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4096)
	if n := testing.AllocsPerRun(100, func() {
		for _, off := range []int64{0, 4096, 70000, 10 << 20, 1 << 20, 15 << 20} {
			if _, err := img.ReadAt(p, off); err != nil {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestExtents(t *testing.T) {
	b, l2 := written(t)
	img, err := qed.Open(bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	data := l2 - testCluster
	var got []qed.Extent
	for e, err := range img.Extents(1000, 11<<20) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	const c = testCluster
	want := []qed.Extent{
		{Start: 1000, Length: c - 1000, Kind: qed.Data, HostOffset: got[0].HostOffset},
		{Start: c, Length: c, Kind: qed.Data, HostOffset: got[1].HostOffset},
		{Start: 2 * c, Length: 14 * c, Kind: qed.Unallocated, HostOffset: -1},
		{Start: 16 * c, Length: c, Kind: qed.Zero, HostOffset: -1},
		{Start: 17 * c, Length: 143 * c, Kind: qed.Unallocated, HostOffset: -1},
		{Start: 160 * c, Length: c, Kind: qed.Data, HostOffset: got[5%len(got)].HostOffset},
		{Start: 161 * c, Length: 15*c + 1000, Kind: qed.Unallocated, HostOffset: -1},
	}
	if got[1].Start != c { // the first two clusters follow each other in the file
		want = append([]qed.Extent{{Start: 1000, Length: 2*c - 1000, Kind: qed.Data, HostOffset: got[0].HostOffset}}, want[2:]...)
		want[4].HostOffset = got[4].HostOffset
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got), data near %#x:\n%s", data, diff)
	}
	for _, e := range got {
		if e.Kind == qed.Data && !bytes.Equal(b[e.HostOffset:e.HostOffset+512], bytes.Repeat([]byte{0xaa}, 512)) {
			t.Errorf("%+v does not lie there", e)
		}
	}
}

func TestAfterClose(t *testing.T) {
	img, err := qed.Create(memfile.New(), 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	_, readErr := img.ReadAt(make([]byte, 1), 0)
	_, writeErr := img.WriteAt(make([]byte, 1), 0)
	for _, err := range []error{readErr, writeErr, img.Sync(), img.WriteZeroesAt(0, 1), img.Resize(2 << 20), img.Close()} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%v is not fs.ErrClosed", err)
		}
	}
}

func TestRefusedWrites(t *testing.T) {
	b, _ := written(t)
	ro, err := qed.Open(bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ro.WriteAt([]byte("x"), 0); !errors.Is(err, qed.ErrReadOnly) || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("read-only: %v", err)
	}
	img, err := qed.OpenRW(memfile.FromBytes(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ off, n int64 }{{-1, 1}, {img.Size(), 1}, {img.Size() - 1, 2}, {1 << 62, 1}} {
		if _, err := img.WriteAt(make([]byte, c.n), c.off); !errors.Is(err, qed.ErrOutOfRange) {
			t.Errorf("WriteAt(%d, %d): %v", c.off, c.n, err)
		}
		if err := img.WriteZeroesAt(c.off, c.n); !errors.Is(err, qed.ErrOutOfRange) {
			t.Errorf("WriteZeroesAt(%d, %d): %v", c.off, c.n, err)
		}
	}
	if err := img.Resize(1 << 20); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("shrinking: %v", err)
	}
}

// TestNoBackingWithoutLeave: nothing is opened that the caller did not grant.
func TestNoBackingWithoutLeave(t *testing.T) {
	raw := image(t, &qed.CreateOptions{BackingFile: "/etc/passwd", BackingFormat: "raw"})
	if _, err := qed.Open(bytes.NewReader(raw), nil); !errors.Is(err, qed.ErrNotGranted) || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("without OpenBacking: %v", err)
	}
	other := image(t, &qed.CreateOptions{BackingFile: "base.img", BackingFormat: "qcow2"})
	asked := ""
	o := &qed.Options{OpenBacking: func(name, format string) (qed.Disk, error) {
		asked = name + " as " + format
		return bytesDisk("x"), nil
	}}
	if _, err := qed.Open(bytes.NewReader(other), o); err == nil || asked != "" {
		t.Errorf("the format was guessed: %v, %q", err, asked)
	}
	o.BackingFormat = "qcow2"
	if _, err := qed.Open(bytes.NewReader(other), o); err != nil || asked != "base.img as qcow2" {
		t.Errorf("%v, %q", err, asked)
	}
	if _, err := qed.Open(bytes.NewReader(raw), o); err != nil || asked != "/etc/passwd as raw" {
		t.Errorf("%v, %q", err, asked)
	}
}

func TestIdleTime(t *testing.T) {
	f := memfile.New()
	img, err := qed.Create(f, 1<<20, &qed.CreateOptions{Open: &qed.Options{IdleTime: 10 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Minute); f.Bytes()[16]&2 != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the need-check bit stays")
		}
	}
	if _, err := img.WriteAt([]byte("y"), 300<<10); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestChangeBackingAndResize(t *testing.T) {
	f := memfile.New()
	one, two := bytes.Repeat([]byte{1}, 1<<20), bytes.Repeat([]byte{2}, 1<<20)
	open := func(name, _ string) (qed.Disk, error) {
		return map[string]bytesDisk{"one": one, "two": two}[name], nil
	}
	img, err := qed.Create(f, 1<<20, &qed.CreateOptions{BackingFile: "one", BackingFormat: "raw", Open: &qed.Options{OpenBacking: open}})
	if err != nil {
		t.Fatal(err)
	}
	at := func(off int64) byte {
		var b [1]byte
		if _, err := img.ReadAt(b[:], off); err != nil {
			t.Fatal(err)
		}
		return b[0]
	}
	if _, err := img.WriteAt([]byte{9}, 0); err != nil {
		t.Fatal(err)
	}
	if err := img.ChangeBacking("two", "raw"); err != nil {
		t.Fatal(err)
	}
	if at(0) != 9 || at(1) != 1 || at(70000) != 2 {
		t.Errorf("read %d %d %d", at(0), at(1), at(70000))
	}
	if err := img.ChangeBacking("", ""); err != nil {
		t.Fatal(err)
	}
	if at(0) != 9 || at(70000) != 0 || img.Header().Features != 0 {
		t.Errorf("read %d %d, features %v", at(0), at(70000), img.Header().Features)
	}
	if err := img.Resize(2<<20 + 1); err != nil || img.Size() != 2<<20+512 {
		t.Errorf("%d bytes, %v", img.Size(), err)
	}
	if _, err := img.WriteAt([]byte{8}, 2<<20); err != nil || at(2<<20) != 8 {
		t.Error(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkReadAt(b *testing.B) {
	const size = 256 << 20
	name := filepath.Join(b.TempDir(), "a.qed")
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	img, err := qed.Create(f, size, nil)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(buf)
	for off := int64(0); off < size; off += int64(len(buf)) {
		if _, err := img.WriteAt(buf, off); err != nil {
			b.Fatal(err)
		}
	}
	if err := img.Sync(); err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 4096)
	for _, c := range []struct {
		name string
		r    io.ReaderAt
	}{{"raw", f}, {"qed", img}} {
		b.Run("random4K/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(4096)
			for off := int64(0); b.Loop(); off = (off + 4096*40503) % size {
				if _, err := c.r.ReadAt(p, off); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestGrowOverBacking: a backing file that is longer than the disk does not
// come to light when the disk grows.
func TestGrowOverBacking(t *testing.T) {
	base := bytesDisk(bytes.Repeat([]byte{0xba}, 300<<10))
	for _, write := range []int64{-1, 9 << 10} { // where the last cluster is written to
		f := memfile.New()
		img, err := qed.Create(f, 10<<10, &qed.CreateOptions{
			ClusterSize: 4096, TableSize: 2, BackingFile: "base", BackingFormat: "raw",
			Open: &qed.Options{OpenBacking: func(string, string) (qed.Disk, error) { return base, nil }},
		})
		if err != nil {
			t.Fatal(err)
		}
		want := append(bytes.Clone(base[:10<<10]), make([]byte, 490<<10)...)
		if write >= 0 {
			if _, err := img.WriteAt([]byte("hello"), write); err != nil {
				t.Fatal(err)
			}
			copy(want[write:], "hello")
		}
		for _, size := range []int64{100 << 10, 500 << 10} {
			if err := img.Resize(size); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, size)
			if _, err := img.ReadAt(got, 0); err != nil || !bytes.Equal(got, want[:size]) {
				t.Errorf("after growing to %d: %v, or it reads otherwise", size, err)
			}
		}
		if err := img.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
