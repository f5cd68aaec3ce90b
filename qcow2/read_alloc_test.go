package qcow2_test

import (
	"bytes"
	"testing"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// TestReadAtDoesNotAllocate reads data, zeros, and what was never written, of
// an image that is open for reading and of one that can be written to.
func TestReadAtDoesNotAllocate(t *testing.T) {
	f := memfile.New()
	im, err := qcow2.Create(f, 16<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.WriteAt(bytes.Repeat([]byte("data"), 1<<18), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := im.WriteZeroesAt(4<<20, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := im.Sync(); err != nil {
		t.Fatal(err)
	}
	readOnly, err := qcow2.Open(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	p := make([]byte, 200<<10)
	for name, im := range map[string]*qcow2.Image{"read only": readOnly, "writable": im} {
		for _, n := range []int{1, 4096, len(p)} {
			got := testing.AllocsPerRun(100, func() {
				for _, off := range []int64{0, 1<<20 - 100, 1<<20 + 5000, 4<<20 + 10, 8 << 20} {
					if _, err := im.ReadAt(p[:n], off); err != nil {
						t.Fatal(err)
					}
				}
			})
			if got != 0 {
				t.Errorf("%s: %v allocations in five reads of %d bytes", name, got, n)
			}
		}
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
}
