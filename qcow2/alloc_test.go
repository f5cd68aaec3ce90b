package qcow2_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// TestReadAtAllocatesNothing: a read whose tables are in memory takes none, of
// an image that is open for reading only and of one that can be written to.
// Compressed clusters, of which a decoded one is kept, are left out.
func TestReadAtAllocatesNothing(t *testing.T) {
	for _, name := range []string{"v2-64k", "v3-64k", "v3-512", "extl2"} {
		s := samples(t)[name]
		rw, err := qcow2.OpenRW(memfile.FromBytes(s.image), s.options())
		if err != nil {
			t.Fatal(err)
		}
		defer rw.Close()
		for what, im := range map[string]*qcow2.Image{"Open": open(t, s.image, s.options()), "OpenRW": rw} {
			random := rand.New(rand.NewPCG(1, 1))
			p, whole := make([]byte, 4096), make([]byte, len(s.content))
			if _, err := im.ReadAt(whole, 0); err != nil || !bytes.Equal(whole, s.content) {
				t.Fatalf("%s: %v", name, err)
			}
			if n := testing.AllocsPerRun(1000, func() { im.ReadAt(p, random.Int64N(im.Size()-4096)) }); n != 0 {
				t.Errorf("%s, %s: %v allocations a read", name, what, n)
			}
		}
	}
}
