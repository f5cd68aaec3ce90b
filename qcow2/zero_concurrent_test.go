package qcow2_test

import (
	"bytes"
	"sync"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// TestZeroesBesideWrites: zeros for a part of a cluster do not become zeros for
// what others write to the rest of it meanwhile.
func TestZeroesBesideWrites(t *testing.T) {
	const cluster, part = 64 << 10, 1 << 10
	for name, o := range map[string]*qcow2.CreateOptions{
		"clusters": {}, "subclusters": {ExtendedL2: true}, "version 2": {Version: 2},
		"preallocated subclusters": {ExtendedL2: true, Preallocation: qcow2.PreallocateMetadata},
		"data file":                {Data: memfile.New(), DataFile: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clusters := difftest.Scale(t, 2000)
			im, err := qcow2.Create(memfile.New(), int64(clusters)*cluster, o)
			if err != nil {
				t.Fatal(err)
			}
			defer im.Close()
			p, got := bytes.Repeat([]byte{7}, part), make([]byte, part)
			for i := range int64(clusters) {
				var all sync.WaitGroup
				// Zeros on both sides of what is written.
				for k, f := range []func(off int64) error{
					func(off int64) error { return im.WriteZeroesAt(off, part) },
					func(off int64) error { _, err := im.WriteAt(p, off); return err },
					func(off int64) error { return im.UnmapAt(off, part) },
				} {
					all.Go(func() {
						if err := f(i*cluster + int64(k)*part + part/2); err != nil {
							t.Error(err)
						}
					})
				}
				all.Wait()
				at := i*cluster + part + part/2
				if _, err := im.ReadAt(got, at); err != nil || !bytes.Equal(got, p) {
					t.Fatalf("what was written at %#x reads as %x..., %v", at, got[:8], err)
				}
			}
		})
	}
}
