package qcow2

import (
	"math/rand/v2"
	"testing"
)

// TestRefBlock compares every width with a plain array, and with single bits
// counted from the least significant one of the first byte.
func TestRefBlock(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for order := uint(0); order <= maxRefcountOrder; order++ {
		b := make(refBlock, 512)
		want := make([]uint64, b.len(order))
		if len(want) != 4096>>order {
			t.Fatalf("order %d: %d entries", order, len(want))
		}
		for range 4 * len(want) {
			i := rng.IntN(len(want))
			want[i] = rng.Uint64() & maxRefcount(order)
			b.set(order, i, want[i])
		}
		for i, w := range want {
			if got := b.at(order, i); got != w {
				t.Fatalf("order %d, entry %d: got %#x, want %#x", order, i, got, w)
			}
			for bit := uint(0); order < 3 && bit < 1<<order; bit++ {
				at := uint(i)<<order + bit
				if uint64(b[at/8]>>(at%8))&1 != w>>bit&1 {
					t.Fatalf("order %d: entry %d does not start at bit %d", order, i, uint(i)<<order)
				}
			}
		}
	}
	if maxRefcount(0) != 1 || maxRefcount(4) != 65535 || maxRefcount(6) != 1<<64-1 {
		t.Error("maxRefcount")
	}
}

func TestEntries(t *testing.T) {
	e := l2Entry(0x8000000000050001)
	if !e.copied() || e.compressed() || !e.zero() || e.offset() != 0x50000 || e.reserved() != 0 {
		t.Errorf("%#x", uint64(e))
	}
	if makeL2Entry(0x50000, true) != e&^flagZero || makeL1Entry(0x50000, false) != 0x50000 {
		t.Error("made entries differ")
	}
	// QEMU ignores reserved bits above the offset; they are for Check to find.
	if e := l2Entry(0x0400000000050000); e.offset() != 0x50000 || e.reserved() != 1<<58 {
		t.Errorf("reserved bit 58: %#x %#x", e.offset(), e.reserved())
	}
	if r := refTableEntry(0x20001); r.offset() != 0x20000 || r.reserved() != 1 {
		t.Error("refcount table entry")
	}
}

func TestTableViews(t *testing.T) {
	l1 := make(l1Table, 64)
	l1.set(3, 0x8000000000040000)
	l2 := make(l2Table, 64)
	l2.set(7, 0x1)
	ext := make(extL2Table, 64)
	ext.set(3, entry{0x8000000000050000, 0x9})
	rt := make(refTable, 64)
	rt.set(0, 0x20000)
	if l1.len() != 8 || l1.at(3) != 0x8000000000040000 || l1[24] != 0x80 ||
		l2.len() != 8 || l2.at(7) != 1 || l2[63] != 1 ||
		ext.len() != 4 || ext.at(3) != (entry{0x8000000000050000, 0x9}) || ext[63] != 9 ||
		rt.len() != 8 || rt.at(0) != 0x20000 || rt[5] != 2 {
		t.Error("views")
	}
}

func TestSubclusters(t *testing.T) {
	s := subclusters(0).withAllocated(subclusterRange(0, 1)).withAllocated(subclusterRange(3, 1))
	if s != 0x9 {
		t.Errorf("%#x", uint64(s))
	}
	if s = allAllocated.withZeroes(1); s != 0x00000001fffffffe || !s.valid() {
		t.Errorf("%#x", uint64(s))
	}
	if s = s.withAllocated(subclusterRange(0, 32)); s != allAllocated {
		t.Errorf("%#x", uint64(s))
	}
	if subclusters(0x0000000100000001).valid() {
		t.Error("both bits are valid")
	}
	if subclusterRange(5, 0) != 0 || subclusterRange(31, 1) != 1<<31 {
		t.Error("subclusterRange")
	}
}

func TestCompressedEntry(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for bits := uint(minClusterBits); bits <= maxClusterBits; bits++ {
		l := layout{version: 3, clusterBits: bits}
		for range 1000 {
			off := hostOff(rng.Int64N(int64(l.compressedLimit())))
			n := 1 + rng.Int64N(l.clusterSize())
			e := l.makeCompressedEntry(off, n)
			gotOff, gotN := l.compressedRange(e)
			if gotOff != off || gotN < n || gotN >= n+512 || (int64(off)+gotN)%512 != 0 {
				t.Fatalf("bits %d: %#x+%d became %#x+%d", bits, off, n, gotOff, gotN)
			}
			if l.kind(e) != kindCompressed || e.copied() {
				t.Fatalf("kind of %#x", uint64(e))
			}
		}
	}
	l := layout{clusterBits: 16}
	if l.compressedLimit() != 1<<54 {
		t.Errorf("limit %#x", l.compressedLimit())
	}
	if l.clusterBits = 21; l.compressedLimit() != 1<<49 {
		t.Errorf("limit %#x", l.compressedLimit())
	}
	if l.clusterBits = 9; l.compressedLimit() != 1<<56 {
		t.Errorf("limit %#x", l.compressedLimit())
	}
}

func TestKind(t *testing.T) {
	plain, ext := layout{version: 3, clusterBits: 16}, layout{version: 3, clusterBits: 16, extended: true}
	data := layout{version: 3, clusterBits: 16, external: true}
	for _, tc := range []struct {
		l    layout
		e    l2Entry
		want clusterKind
	}{
		{plain, 0, kindUnallocated},
		{plain, flagCopied, kindUnallocated},
		{data, flagCopied, kindNormal}, // external data at offset 0
		{data, 0, kindUnallocated},
		{plain, 1, kindZeroPlain},
		{plain, 0x8000000000050001, kindZeroAlloc},
		{plain, 0x8000000000050000, kindNormal},
		{plain, 0x50000, kindNormal},
		{plain, flagCompressed | 0x50001, kindCompressed},
		{ext, 0x50001, kindNormal}, // bit 0 is reserved there
		{ext, 1, kindUnallocated},
	} {
		if got := tc.l.kind(tc.e); got != tc.want {
			t.Errorf("%+v %#x: got %d, want %d", tc.l, uint64(tc.e), got, tc.want)
		}
	}
}

func TestLayout(t *testing.T) {
	l := layout{clusterBits: 16, refcountOrder: 4}
	if l.l2Bits() != 13 || l.l1EntriesFor(1<<30) != 2 || l.l1EntriesFor(1<<29+1) != 2 || l.refBlockBits() != 15 {
		t.Error("64 KiB clusters")
	}
	if off := guestOff(1<<29 + 5<<16 + 7); l.l1Index(off) != 1 || l.l2Index(off) != 5 || l.offsetInCluster(int64(off)) != 7 {
		t.Error("indexes")
	}
	l = layout{clusterBits: 14, refcountOrder: 0, extended: true}
	if l.l2Bits() != 10 || l.subclusterSize() != 512 || l.entrySize() != 16 || l.refBlockBits() != 17 {
		t.Error("extended")
	}
}
