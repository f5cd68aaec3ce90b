package spapr_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/spapr"
)

// TestMemory compares memories with a byte-wise model of the same: accesses
// across gaps, ends, and the end of the address space.
func TestMemory(t *testing.T) {
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 1), 6))
	back := make([]byte, 0x400)
	for name, pieces := range map[string]spapr.Regions{
		"none":  {},
		"empty": {{Base: 0x100}},
		"zero":  {{Data: back[:0x100]}},
		"high":  {{Base: 0x80, Data: back[:0x100]}},
		"last":  {{Base: 1<<64 - 0x100, Data: back[:0x100]}},
		"many":  {{Base: 1<<64 - 0x100, Data: back[:0x100]}, {Base: 0x40, Data: back[0x100:0x180]}, {Base: 0xc0, Data: back[0x180:0x200]}, {Base: 0x200, Data: back[0x200:0x201]}},
	} {
		mems := []spapr.Memory{pieces}
		if len(pieces) == 1 {
			mems = append(mems, pieces[0])
		}
		for _, mem := range mems {
			model := map[uint64]byte{}
			for _, r := range pieces {
				for i, v := range r.Data {
					model[r.Base+uint64(i)] = v
				}
			}
			p := make([]byte, 0x300)
			for range difftest.Scale(t, 20000) {
				addr, p := rng.Uint64N(0x800)-0x400, p[:rng.IntN(len(p))]
				if rng.IntN(50) == 0 {
					addr = rng.Uint64()
				}
				if rng.IntN(2) == 0 {
					p = p[:min(len(p), 9)]
				}
				inside := true
				for i := range p {
					_, ok := model[addr+uint64(i)]
					inside = inside && ok
				}
				if len(p) > 0 && addr+uint64(len(p)-1) < addr {
					inside = false
				}
				if got := mem.Contains(addr, uint64(len(p))); got != inside {
					t.Fatalf("%s %T: Contains(0x%x, 0x%x) = %v", name, mem, addr, len(p), got)
				}
				if s := mem.(spapr.Slicer).Slice(addr, uint64(len(p))); s != nil && len(p) > 0 && !inside {
					t.Fatalf("%s %T: Slice(0x%x, 0x%x) has %d bytes", name, mem, addr, len(p), len(s))
				}
				if rng.IntN(2) == 0 {
					for i := range p {
						p[i] = byte(rng.Uint32())
						if _, ok := model[addr+uint64(i)]; ok {
							model[addr+uint64(i)] = p[i]
						}
					}
					mem.Store(addr, p)
					continue
				}
				mem.Load(addr, p)
				want := make([]byte, len(p))
				for i := range want {
					want[i] = model[addr+uint64(i)]
				}
				if !bytes.Equal(p, want) {
					t.Fatalf("%s %T: Load(0x%x, 0x%x) is wrong", name, mem, addr, len(p))
				}
			}
		}
	}
	if (spapr.Regions{{Data: back}}).Contains(0, 1<<63) || (spapr.RAM{Data: back}).Contains(1, 1<<64-1) {
		t.Error("a range longer than memory is contained")
	}
}
