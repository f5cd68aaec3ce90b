package qed_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qed"
)

// TestConcurrent has writers, each with sectors of its own spread over shared
// clusters, readers, and calls that stop the world, on one image. Every sector
// names the place it belongs to, so that a reader notices another's data.
func TestConcurrent(t *testing.T) {
	const (
		size    = 1 << 20
		sector  = 512
		writers = 6
	)
	f := memfile.New()
	// A small cache makes tables come and go.
	img, err := qed.Create(f, size, &qed.CreateOptions{ClusterSize: 4096, TableSize: 2, Open: &qed.Options{CacheSize: 16 << 10}})
	if err != nil {
		t.Fatal(err)
	}
	seed := difftest.Seed(t, 11)
	rounds := difftest.Scale(t, 400)
	var wg sync.WaitGroup
	var last [writers]map[int64]uint64 // what each writer wrote last
	for w := range writers {
		last[w] = map[int64]uint64{}
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(w)))
			for i := range rounds {
				s := rnd.Int64N(size/sector/writers)*writers + int64(w)
				p := make([]byte, sector)
				version := uint64(i + 1)
				binary.LittleEndian.PutUint64(p, uint64(s))
				binary.LittleEndian.PutUint64(p[8:], version)
				if _, err := img.WriteAt(p, s*sector); err != nil {
					t.Error(err)
					return
				}
				last[w][s] = version
				got := make([]byte, sector)
				if _, err := img.ReadAt(got, s*sector); err != nil || !bytes.Equal(got, p) {
					t.Errorf("writer %d does not read what it wrote: %v", w, err)
					return
				}
			}
		})
	}
	stop := make(chan struct{})
	var others sync.WaitGroup
	for r := range 2 {
		others.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(100+r)))
			p := make([]byte, 64<<10)
			for {
				select {
				case <-stop:
					return
				default:
				}
				off := rnd.Int64N(size/sector-int64(len(p)/sector)) * sector
				if _, err := img.ReadAt(p, off); err != nil {
					t.Error(err)
					return
				}
				for i := 0; i < len(p); i += sector {
					at := binary.LittleEndian.Uint64(p[i:])
					if version := binary.LittleEndian.Uint64(p[i+8:]); version != 0 && at != uint64(off+int64(i))/sector {
						t.Errorf("the sector at %#x holds that of %#x", off+int64(i), at*sector)
						return
					}
				}
			}
		})
	}
	others.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := img.Sync(); err != nil {
				t.Error(err)
			}
			if i%8 == 0 {
				if res, err := img.Check(context.Background(), nil); err != nil || res.Corruptions != 0 {
					t.Errorf("%+v, %v", res, err)
				}
			}
			for _, err := range img.Extents(0, size) {
				if err != nil {
					t.Error(err)
				}
			}
		}
	})
	wg.Wait()
	close(stop)
	others.Wait()
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	if img, err = qed.Open(f, nil); err != nil {
		t.Fatal(err)
	}
	for w := range writers {
		for s, version := range last[w] {
			p := make([]byte, 16)
			if _, err := img.ReadAt(p, s*sector); err != nil || binary.LittleEndian.Uint64(p) != uint64(s) || binary.LittleEndian.Uint64(p[8:]) != version {
				t.Fatalf("sector %d: %x, %v, want version %d", s, p, err, version)
			}
		}
	}
}
