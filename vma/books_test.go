package vma_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/vma"
)

// books are kept here one cluster at a time.
type books struct {
	clusters, zero, stored, duplicates, outOfOrder, interleaved int64

	seen [3]map[uint32]bool
	next [3]uint32
	last uint8
}

func (b *books) take(dev uint8, num uint32, blocks int) {
	if dev != b.last && b.next[dev] > 0 {
		b.interleaved++
	}
	if num < b.next[dev] {
		b.outOfOrder++
	}
	b.last, b.next[dev] = dev, num+1
	if b.seen[dev][num] {
		b.duplicates++
		return
	}
	b.seen[dev][num] = true
	b.clusters++
	b.stored += int64(blocks)
	if blocks == 0 {
		b.zero++
	}
}

// TestBooks makes archives of runs of clusters, in order and not, some of them
// twice, and counts them in another way.
func TestBooks(t *testing.T) {
	const clusters = 300
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 1), 1))
	empty := build(t, false, make(ram, clusters<<16), make(ram, clusters<<16))
	for range difftest.Scale(t, 100) {
		p := takeApart(empty)
		p.extents = nil
		want := books{seen: [3]map[uint32]bool{1: {}, 2: {}}}
		dev, num, left := uint8(1), uint32(0), 0
		for range 1 + rng.IntN(12) {
			e, stored := emptyExtent(p), 0
			p.extents = append(p.extents, e)
			for i := range 59 {
				if left == 0 || num == clusters {
					dev, left = uint8(1+rng.IntN(2)), 1+rng.IntN(80)
					if num = want.next[dev]; num == clusters || rng.IntN(2) == 0 {
						num = uint32(rng.IntN(clusters))
					}
				}
				blocks := max(0, rng.IntN(8)-5)
				want.take(dev, num, blocks)
				p.setSlot(len(p.extents)-1, i, 1<<blocks-1, dev, num)
				stored += blocks
				num, left = num+1, left-1
			}
			binary.BigEndian.PutUint16(e[6:], uint16(stored))
			p.extents[len(p.extents)-1] = append(e, make([]byte, stored*4096)...)
		}
		r := verify(t, p.sign().join(), &vma.Options{MaxFindings: 10 + rng.IntN(1000)})
		for _, c := range []struct {
			what      string
			got, want int64
		}{
			{"clusters", r.Clusters, want.clusters}, {"zero", r.ZeroClusters, want.zero}, {"blocks", r.StoredBlocks, want.stored},
			{"duplicates", r.Count(vma.CodeDuplicate), want.duplicates}, {"out of order", r.Count(vma.CodeOutOfOrder), want.outOfOrder},
			{"interleaved", r.Count(vma.CodeInterleaved), want.interleaved},
		} {
			if c.got != c.want {
				t.Errorf("%s: %d, want %d", c.what, c.got, c.want)
			}
		}
		for i, d := range r.Devices {
			if seen := int64(len(want.seen[i+1])); d.Clusters != seen || d.Missing != clusters-seen {
				t.Errorf("device %d: %d clusters and %d missing, want %d and %d", i+1, d.Clusters, d.Missing, seen, clusters-seen)
			}
		}
		if t.Failed() {
			return
		}
	}
}
