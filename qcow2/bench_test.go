package qcow2_test

import (
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/virtfmt/virtfmt/qcow2"
)

// BenchmarkFile reads the image that VIRTFMT_BENCH_IMAGE names, and the raw
// file VIRTFMT_BENCH_RAW for comparison.
func BenchmarkFile(b *testing.B) {
	if name := os.Getenv("VIRTFMT_BENCH_RAW"); name != "" {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		fi, _ := f.Stat()
		b.Run("raw", func(b *testing.B) { randomReads(b, f, fi.Size()) })
	}
	if name := os.Getenv("VIRTFMT_BENCH_IMAGE"); name != "" {
		im, err := qcow2.OpenFile(name, nil)
		if err != nil {
			b.Fatal(err)
		}
		defer im.Close()
		b.Run("image", func(b *testing.B) { randomReads(b, im, im.Size()) })
		b.Run("open", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				im, err := qcow2.OpenFile(name, nil)
				if err != nil {
					b.Fatal(err)
				}
				im.Close()
			}
		})
	}
}

func randomReads(b *testing.B, r io.ReaderAt, size int64) {
	b.Run("4K", func(b *testing.B) {
		b.ReportAllocs()
		rng := rand.New(rand.NewPCG(1, 2))
		p := make([]byte, 4096)
		for b.Loop() {
			if _, err := r.ReadAt(p, rng.Int64N(size/4096)*4096); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("4K-parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			rng := rand.New(rand.NewPCG(1, rand.Uint64()))
			p := make([]byte, 4096)
			for pb.Next() {
				if _, err := r.ReadAt(p, rng.Int64N(size/4096)*4096); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
