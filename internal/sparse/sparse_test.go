package sparse_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/sparse"
)

func create(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// can fails the test for any error but that the system cannot do it, which it
// logs; it reports whether the system can.
func can(t *testing.T, err error) bool {
	t.Helper()
	if errors.Is(err, errors.ErrUnsupported) {
		t.Logf("not here: %v", err)
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}

func TestNextData(t *testing.T) {
	f := create(t, "f")
	const hole = 1 << 20
	for _, off := range []int64{hole, 3 * hole} {
		if _, err := f.WriteAt(bytes.Repeat([]byte{1}, 64<<10), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(5 * hole); err != nil {
		t.Fatal(err)
	}
	var ranges [][2]int64
	off := int64(0)
	for {
		start, end, err := sparse.NextData(f, off)
		if err == io.EOF {
			break
		}
		if !can(t, err) {
			return
		}
		ranges = append(ranges, [2]int64{start, end})
		off = end
	}
	// A file system may have larger holes or none, but data is data.
	for _, want := range []int64{hole, 3 * hole} {
		found := false
		for _, r := range ranges {
			found = found || r[0] <= want && want+64<<10 <= r[1]
		}
		if !found {
			t.Errorf("the data at %#x is not in %#x", want, ranges)
		}
	}
	if runtime.GOOS == "linux" && len(ranges) != 2 {
		t.Logf("%d ranges of data: %#x", len(ranges), ranges)
	}
	if _, _, err := sparse.NextData(f, 5*hole); err != io.EOF {
		t.Errorf("at the end of the file: %v", err)
	}
}

func TestPunchHole(t *testing.T) {
	f := create(t, "f")
	want := bytes.Repeat([]byte{7}, 300<<10)
	if _, err := f.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	const off, n = 5000, 200 << 10
	if !can(t, sparse.PunchHole(f, off, n)) {
		return
	}
	clear(want[off : off+n])
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("other bytes than the hole changed, or the size: %d, %v", len(got), err)
	}
	if !can(t, sparse.PunchHole(f, 1<<30, 1<<20)) {
		return
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != int64(len(want)) {
		t.Errorf("a hole past the end made the file %d bytes long", fi.Size())
	}
}

func TestReserve(t *testing.T) {
	f := create(t, "f")
	if _, err := f.WriteString("data"); err != nil {
		t.Fatal(err)
	}
	if !can(t, sparse.Reserve(f, 0, 1<<20)) {
		return
	}
	got, err := os.ReadFile(f.Name())
	if want := append([]byte("data"), make([]byte, 1<<20-4)...); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// Whether a file system follows these is its own affair; the file stays one that
// can be used.
func TestHints(t *testing.T) {
	f := create(t, "hints")
	can(t, sparse.NoCopyOnWrite(f))
	for _, n := range []uint32{1 << 20, 0} {
		can(t, sparse.ExtentSizeHint(f, n))
	}
	if _, err := f.WriteAt([]byte("x"), 0); err != nil {
		t.Error(err)
	}
	f.Close()
	if err := sparse.NoCopyOnWrite(f); err == nil {
		t.Error("a closed file takes hints")
	}
	if err := sparse.ExtentSizeHint(f, 0); err == nil {
		t.Error("a closed file takes hints")
	}
}

func TestCopyRange(t *testing.T) {
	src, dst := create(t, "src"), create(t, "dst")
	r := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	data, want := make([]byte, 1<<20), make([]byte, 1<<20)
	for i := range data {
		data[i], want[i] = byte(r.Uint32()), byte(r.Uint32())
	}
	for f, p := range map[*os.File][]byte{src: data, dst: want} {
		if _, err := f.WriteAt(p, 0); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		from, to := r.IntN(len(data)), r.IntN(len(data))
		n := r.IntN(len(data) - max(from, to))
		c, err := sparse.CopyRange(dst, int64(to), src, int64(from), int64(n))
		if !can(t, err) {
			return
		}
		if c != int64(n) {
			t.Fatalf("copied %d of %d bytes", c, n)
		}
		copy(want[to:], data[from:from+n])
	}
	got, err := os.ReadFile(dst.Name())
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("not what was copied: %v", err)
	}
	if n, err := sparse.CopyRange(dst, 0, src, int64(len(data))-10, 100); n != 10 || err != nil {
		t.Errorf("past the end: %d, %v", n, err)
	}
}

func TestClosed(t *testing.T) {
	f, g := create(t, "f"), create(t, "g")
	f.Close()
	if err := sparse.PunchHole(f, 0, 1); err == nil {
		t.Error("punched a hole in a closed file")
	}
	if _, _, err := sparse.NextData(f, 0); err == nil || err == io.EOF {
		t.Errorf("data of a closed file: %v", err)
	}
	if _, err := sparse.CopyRange(f, 0, g, 0, 1); err == nil {
		t.Error("copied to a closed file")
	}
}
