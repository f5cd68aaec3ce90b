package vma_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/virtfmt/virtfmt/vma"
)

// TestReadAtDoesNotAllocate reads stored blocks and zeros of a device, within
// clusters and across.
func TestReadAtDoesNotAllocate(t *testing.T) {
	a, err := vma.Open(bytes.NewReader(build(t, true, content(1, 4<<20, 0.5))), nil)
	if err != nil {
		t.Fatal(err)
	}
	d := a.Devices()[0]
	r := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, 100<<10)
	n := testing.AllocsPerRun(200, func() {
		if _, err := d.ReadAt(p[:1+r.IntN(len(p)-1)], r.Int64N(d.Size()-int64(len(p)))); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations a read", n)
	}
}
