package spapr_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/spapr"
)

// plain hides everything about a memory but what Memory asks for.
type plain struct{ spapr.Memory }

// memopModel does what H_LOGICAL_MEMOP is said to do, element by element.
func memopModel(mem spapr.Memory, op, dst, src, log2size, count uint64, xor bool) {
	size := uint64(1) << log2size
	from, to := make([]byte, size), make([]byte, size)
	backwards := src <= dst && dst < src+count<<log2size
	for i := range count {
		if backwards {
			i = count - 1 - i
		}
		mem.Load(src+i*size, from)
		mem.Load(dst+i*size, to)
		for j, v := range from {
			switch {
			case op == spapr.MemopCopy:
				to[j] = v
			case xor:
				to[j] ^= v
			default:
				to[j] = ^v
			}
		}
		mem.Store(dst+i*size, to)
	}
}

// regions returns memory in three pieces with gaps, the last one at the end of
// the address space.
func regions(b []byte) spapr.Regions {
	return spapr.Regions{
		{Base: 0, Data: b[:0x3000]},
		{Base: 0x3000, Data: b[0x3000:0x5000]},
		{Base: 0x6000, Data: b[0x5000:0x8000]},
		{Base: 1<<64 - 0x1000, Data: b[0x8000:0x9000]},
	}
}

// TestMemopModel compares random calls, in memory of all kinds, with the
// model: overlaps, gaps, and ranges that wrap around among them.
func TestMemopModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 1), 1))
	start := make([]byte, 0x9000)
	for i := range start {
		start[i] = byte(rng.Uint32())
	}
	got, want := make([]byte, len(start)), make([]byte, len(start))
	place := func(size uint64) uint64 {
		a := rng.Uint64N(0xa000)
		switch rng.IntN(4) {
		case 0:
			a -= 0x2000 // wraps around
		case 1:
			a = 0x2000 + rng.Uint64N(0x100)
		}
		return a &^ (size - 1)
	}
	for range difftest.Scale(t, 4000) {
		copy(got, start)
		copy(want, start)
		op, log2size := rng.Uint64N(2), rng.Uint64N(4)
		size := uint64(1) << log2size
		dst, src := place(size), place(size)
		if rng.IntN(2) == 0 { // near each other
			dst = src + size*(rng.Uint64N(40)-20)
		}
		count := rng.Uint64N([]uint64{4, 64, 0x3000}[rng.IntN(3)])
		m := spapr.Machine{Memory: regions(got)}
		if rng.IntN(2) == 0 {
			m.Memory = plain{m.Memory}
		}
		if rng.IntN(4) == 0 {
			m.Strict = spapr.StrictXOR
		}
		g := spapr.Guest{Call: m.Call}
		if status := g.Memop(op, dst, src, log2size, count); status != spapr.HSuccess {
			t.Fatalf("op %d dst 0x%x src 0x%x size %d count %d: %v", op, dst, src, size, count, status)
		}
		memopModel(regions(want), op, dst, src, log2size, count, m.Strict != 0)
		if !bytes.Equal(got, want) {
			i := 0
			for got[i] == want[i] {
				i++
			}
			t.Fatalf("op %d dst 0x%x src 0x%x size %d count %d, %T: byte 0x%x is 0x%02x, want 0x%02x", op, dst, src, size, count, m.Memory, i, got[i], want[i])
		}
	}
}

func TestMemopStrict(t *testing.T) {
	const ram = 0x10000
	for _, c := range []struct {
		name                          string
		strict                        spapr.Strict
		op, dst, src, log2size, count uint64
		want                          spapr.Status
	}{
		{"inside", spapr.StrictAll, 0, 0, ram - 8, 3, 1, spapr.HSuccess},
		{"source outside", spapr.StrictAll, 0, 0, ram, 3, 1, spapr.HParameter},
		{"end outside", spapr.StrictMemory, 0, ram - 8, 0, 3, 2, spapr.HParameter},
		{"as QEMU", spapr.StrictXOR, 0, ram, ram, 3, 2, spapr.HSuccess},
		{"wraps", spapr.StrictMemory, 0, 0, 1<<64 - 8, 3, 2, spapr.HParameter},
		{"large elements", spapr.StrictSize, 0, 0, 0, 4, 0, spapr.HParameter},
		{"large elements as QEMU", spapr.StrictMemory, 0, 0, 0, 4, 0, spapr.HSuccess},
		{"nothing outside", spapr.StrictAll, 0, ram, ram, 3, 0, spapr.HSuccess},
	} {
		m := spapr.Machine{Memory: spapr.RAM{Data: make([]byte, ram)}, Strict: c.strict}
		g := spapr.Guest{Call: m.Call}
		if got := g.Memop(c.op, c.dst, c.src, c.log2size, c.count); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestMemopXOR(t *testing.T) {
	for strict, want := range map[spapr.Strict]string{0: "\xcc\x0f", spapr.StrictXOR: "\x66\xf3"} {
		ram := []byte("\x33\xf0\x00\x00\x55\x03")
		m := spapr.Machine{Memory: spapr.RAM{Data: ram}, Strict: strict}
		g := spapr.Guest{Call: m.Call}
		if got := g.Memop(spapr.MemopNot, 4, 0, 0, 2); got != spapr.HSuccess || string(ram[4:]) != want {
			t.Errorf("strict %d: %v, %x, want %x", strict, got, ram[4:], want)
		}
	}
}

// TestMemopLimit holds that one call cannot keep the machine busy: neither by
// what it says nor by the way that it overlaps.
func TestMemopLimit(t *testing.T) {
	m := spapr.Machine{Memory: spapr.RAM{Data: make([]byte, 0x1000)}}
	g := spapr.Guest{Call: m.Call}
	if got := g.Memop(0, 0, 1<<40, 3, spapr.DefaultMemopLimit/8+1); got != spapr.HParameter {
		t.Errorf("one more than the default limit: %v", got)
	}
	const limit = 1 << 20
	m.MemopLimit = limit
	for _, c := range []struct {
		dst, src, log2size, count uint64
		want                      spapr.Status
	}{
		{0, 1 << 40, 3, 1 << 31, spapr.HParameter},
		{0, 1 << 40, 0, 1 << 31, spapr.HParameter},
		{0, 1 << 40, 3, limit / 8, spapr.HSuccess},
		{0, 1 << 40, 3, limit/8 + 1, spapr.HParameter},
		// The source wraps around and feeds on the destination.
		{0, 1<<64 - 1, 0, limit, spapr.HParameter},
		{0, 1<<64 - 1, 0, limit / 64, spapr.HSuccess},
	} {
		if got := g.Memop(0, c.dst, c.src, c.log2size, c.count); got != c.want {
			t.Errorf("dst 0x%x src 0x%x size %d count 0x%x: %v, want %v", c.dst, c.src, c.log2size, c.count, got, c.want)
		}
	}
	m.MemopLimit = 16
	if g.Memop(0, 0, 0, 0, 16) != spapr.HSuccess || g.Memop(0, 0, 0, 0, 17) != spapr.HParameter {
		t.Error("MemopLimit is not the limit")
	}
	m.MemopLimit = ^uint64(0) // QEMU's
	if g.Memop(0, 0, 0, 0, 1<<31+1) != spapr.HParameter {
		t.Error("more than 1<<31 elements")
	}
}

func TestNoMemory(t *testing.T) {
	var m spapr.Machine
	g := spapr.Guest{Call: m.Call}
	if got := g.Memop(1, 8, 0, 3, 1); got != spapr.HSuccess {
		t.Error(got)
	}
	if got, r := g.Hypercall(spapr.HLogicalCILoad, 8, 0); got != spapr.HSuccess || r.R[4] != 0 {
		t.Error(got, r.R[4])
	}
	m.Strict = spapr.StrictAll
	for _, args := range [][]uint64{{spapr.HLogicalMemop, 8, 0, 3, 1}, {spapr.HLogicalCILoad, 8}, {spapr.HLogicalCIStore, 8}, {spapr.HRTAS}, {spapr.HPageInit, 0x8000}} {
		if got, _ := g.Hypercall(args[0], args[1:]...); got != spapr.HParameter {
			t.Errorf("0x%x without memory: %v", args[0], got)
		}
	}
}

func BenchmarkMemop(b *testing.B) {
	ram := make([]byte, 8<<20)
	for op, name := range []string{"copy", "not"} {
		for _, mem := range []spapr.Memory{spapr.RAM{Data: ram}, plain{spapr.RAM{Data: ram}}} {
			for _, n := range []uint64{64, 4 << 20} {
				b.Run(fmt.Sprintf("%s/%T/%d", name, mem, n), func(b *testing.B) {
					m := &spapr.Machine{Memory: mem}
					b.SetBytes(int64(n))
					b.ReportAllocs()
					var r spapr.Regs
					for b.Loop() {
						r.R[3], r.R[4], r.R[5], r.R[6], r.R[7], r.R[8] = spapr.HLogicalMemop, 4<<20, 0, 3, n/8, uint64(op)
						m.Call(&r)
					}
				})
			}
		}
	}
}
