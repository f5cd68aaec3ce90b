package imgopen_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/difftest"
)

// newDirect opens an empty file past the page cache. It is nil where the file
// system cannot do that, which is an error that says so.
func newDirect(t *testing.T) (imgopen.File, string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	newFile(t, name)
	f, err := imgopen.OpenDirect(name, nil)
	if err != nil && strings.Contains(err.Error(), "filesystem does not support O_DIRECT") {
		t.Log(err)
		return nil, name
	}
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f, name
}

// What is read and written past the page cache at any offset is what a plain
// file would hold.
func TestDirect(t *testing.T) {
	f, name := newDirect(t)
	if f == nil {
		return
	}
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	const most = 3 << 20
	var model []byte
	for range difftest.Scale(t, 400) {
		off := rng.Int64N(most)
		n := 1 + rng.Int64N(1<<rng.IntN(21))
		if rng.IntN(3) == 0 {
			off, n = off&^4095, (n+4095)&^4095
		}
		switch rng.IntN(5) {
		case 0, 1:
			p := make([]byte, n)
			p[0], p[n-1] = byte(rng.Int()), byte(rng.Int())
			if m, err := f.WriteAt(p, off); err != nil || m != len(p) {
				t.Fatalf("writing %d bytes at %d: %d, %v", n, off, m, err)
			}
			model = append(model, make([]byte, max(0, off+n-int64(len(model))))...)
			copy(model[off:], p)
		case 2, 3:
			p := bytes.Repeat([]byte{0xee}, int(n))
			m, err := f.ReadAt(p, off)
			want := model[min(off, int64(len(model))):min(off+n, int64(len(model)))]
			if !bytes.Equal(p[:m], want) || (err == io.EOF) != (len(want) < len(p)) || err != nil && err != io.EOF {
				t.Fatalf("reading %d bytes at %d of %d: %d, %v", n, off, len(model), m, err)
			}
		case 4:
			if rng.IntN(4) == 0 {
				must(t, f.Truncate(off))
				model = append(model, make([]byte, max(0, off-int64(len(model))))...)[:off]
			}
		}
	}
	got, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(got, model) {
		t.Errorf("the file holds something else: %d bytes of %d, %v", len(got), len(model), err)
	}
	for _, off := range []int64{-1, -4096} {
		if _, err := f.ReadAt(make([]byte, 1), off); err == nil {
			t.Errorf("read at %d", off)
		}
		if _, err := f.WriteAt(make([]byte, 1), off); err == nil {
			t.Errorf("wrote at %d", off)
		}
	}
}

// Writers to parts of one block do not undo what the others write.
func TestDirectConcurrent(t *testing.T) {
	f, name := newDirect(t)
	if f == nil {
		return
	}
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := range 100 {
				if _, err := f.WriteAt([]byte{byte(w + 1)}, int64(i*8+w)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	got, err := os.ReadFile(name)
	if want := bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 100); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
