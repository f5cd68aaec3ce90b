package spapr_test

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/spapr"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDispatch(t *testing.T) {
	m := newBench(ramSize).m
	g := spapr.Guest{Call: m.Call}
	for _, op := range []uint64{0, 4, 5, 0x1000, 0xf002, 1<<32 | spapr.HLogicalMemop, ^uint64(0)} {
		if got, r := g.Hypercall(op, 1, 2, 3); got != spapr.HFunction || r.R[3] != ^uint64(1) || r.R[4] != 1 {
			t.Errorf("hypercall 0x%x: %v, %x", op, got, r.R)
		}
	}
	must(t, m.Register(4, "H_REMOVE", func(m *spapr.Machine, r *spapr.Regs) spapr.Status {
		r.R[4] = 99
		return -7
	}))
	if got, r := g.Hypercall(4); got != -7 || r.R[4] != 99 {
		t.Errorf("registered: %v, r4 %d", got, r.R[4])
	}
	must(t, m.Register(spapr.HPageInit, "", nil))
	if got, _ := g.Hypercall(spapr.HPageInit, 0, 0, 0); got != spapr.HFunction {
		t.Errorf("taken out: %v", got)
	}
	for _, op := range []uint64{0, 2, 0x101} {
		if err := m.Register(op, "", nil); err == nil {
			t.Errorf("0x%x registered", op)
		}
	}
	r := spapr.Regs{User: true}
	r.R[3], r.R[4] = spapr.HLogicalCILoad, 1
	if got := m.Call(&r); got != spapr.HPrivilege || r.R[4] != 1 {
		t.Errorf("in user mode: %v", got)
	}
}

func TestPageInit(t *testing.T) {
	ram := make([]byte, 0x3000)
	for i := range ram {
		ram[i] = byte(i>>12 + 1)
	}
	m := spapr.Machine{Memory: spapr.RAM{Data: ram}}
	g := spapr.Guest{Call: m.Call}
	const zero, cp, caches = 0x8000, 0x4000, 0xc00000
	for _, c := range []struct {
		flags, dst, src uint64
		want            spapr.Status
		then            byte // at dst
	}{
		{cp, 0, 0x1000, spapr.HSuccess, 2},
		{caches, 0, 1, spapr.HSuccess, 2},
		{zero | caches, 0, 1, spapr.HSuccess, 0},
		{zero, 0x800, 0, spapr.HParameter, 0},
		{zero, 0x3000, 0, spapr.HParameter, 0},
		{zero, 1<<64 - 0x1000, 0, spapr.HParameter, 0},
		{cp, 0x1000, 0x2001, spapr.HParameter, 2},
		{cp, 0x1000, 0x3000, spapr.HParameter, 2},
		{1, 0x1000, 0, spapr.HParameter, 2},
		{1 << 63, 0x1000, 0, spapr.HParameter, 2},
		{cp | zero, 0x1000, 0x2000, spapr.HSuccess, 3},
	} {
		got, _ := g.Hypercall(spapr.HPageInit, c.flags, c.dst, c.src)
		if got != c.want || c.dst < 0x3000 && (ram[c.dst] != c.then || ram[c.dst|0x7ff] != c.then) {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestTerminal(t *testing.T) {
	b := newBench(ramSize)
	g := spapr.Guest{Call: b.m.Call}
	if got, _ := g.Hypercall(spapr.HPutTermChar, 0, 10, 0x6869206775657374, 0x2e0a000000000000); got != spapr.HSuccess || string(b.term.out) != "hi guest.\n" {
		t.Errorf("%v, printed %q", got, b.term.out)
	}
	b.term.in = []byte("typed: sixteen and more")
	if got, r := g.Hypercall(spapr.HGetTermChar, 0); got != spapr.HSuccess || r.R[4] != 16 || r.R[5] != 0x74797065643a2073 || r.R[6] != 0x69787465656e2061 {
		t.Errorf("%v, %x", got, r.R)
	}
	if got, r := g.Hypercall(spapr.HGetTermChar, 0, ^uint64(0), ^uint64(0)); got != spapr.HSuccess || r.R[4] != 7 || r.R[5] != 0x6e64206d6f726500 || r.R[6] != 0 {
		t.Errorf("%v, %x", got, r.R)
	}
	b.m.Terminal = func(uint64) spapr.Terminal { return full{} }
	if got, _ := g.Hypercall(spapr.HPutTermChar, 0, 1); got != spapr.HBusy {
		t.Errorf("a full terminal: %v", got)
	}
	if got, r := g.Hypercall(spapr.HGetTermChar, 0); got != spapr.HSuccess || r.R[4] != 16 {
		t.Errorf("a terminal that lies: %v, %d", got, r.R[4])
	}
	b.m.Terminal = nil
	for _, op := range []uint64{spapr.HGetTermChar, spapr.HPutTermChar} {
		if got, _ := g.Hypercall(op, 0, 0); got != spapr.HParameter {
			t.Errorf("0x%x without terminals: %v", op, got)
		}
	}
}

// full is a terminal that takes nothing and claims to give too much.
type full struct{}

func (full) Put([]byte) bool  { return false }
func (full) Get(p []byte) int { return 1 << 20 }

func TestStateJSON(t *testing.T) {
	m := spapr.Machine{State: spapr.State{ClockOffset: -1 << 40, Power: spapr.PowerReboot}}
	b, err := json.Marshal(m.State)
	must(t, err)
	if want := `{"ClockOffset":-1099511627776,"Power":2}`; string(b) != want {
		t.Errorf("%s, want %s", b, want)
	}
	var s spapr.State
	if must(t, json.Unmarshal(b, &s)); s != m.State {
		t.Errorf("came back as %+v", s)
	}
	if m.Reset(); m.State != (spapr.State{ClockOffset: -1 << 40}) {
		t.Errorf("after a reset %+v", m.State)
	}
}

func TestStatusNames(t *testing.T) {
	for s, want := range map[spapr.Status]string{0: "H_SUCCESS", 1: "H_BUSY", -1: "H_HARDWARE", -2: "H_FUNCTION", -3: "H_PRIVILEGE", -4: "H_PARAMETER", -55: "Status(-55)"} {
		if s.String() != want {
			t.Errorf("%d is %s", int64(s), s)
		}
	}
	for s, want := range map[spapr.RTASStatus]string{0: "success", 1: "no events", -1: "hardware error", -2: "busy", -3: "parameter error", -9002: "not authorized", -9999: "system parameter error", 7: "RTASStatus(7)"} {
		if s.String() != want {
			t.Errorf("%d is %s", int32(s), s)
		}
	}
}

// TestRandom makes a million hypercalls of any kind with any registers and
// memory, by a guest that knows where to hurt.
func TestRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 1), 5))
	b := newBench(ramSize)
	b.m.Memory = spapr.Regions{{Base: 0, Data: b.ram[:0x2000]}, {Base: 1<<64 - 0x1000, Data: b.ram[0x2000:0x3000]}}
	b.m.MemopLimit = 1 << 16
	b.m.OSTerm = func(string) {}
	words := 0
	ops := []uint64{spapr.HPageInit, 0x3c, 0x40, 0x44, 0x48, 0x4c, 0x50, 0x54, 0x58, spapr.HRTAS, spapr.HRTAS, spapr.HRTAS, spapr.HLogicalMemop, spapr.HLogicalMemop, 4}
	number := func() uint64 {
		switch rng.IntN(6) {
		case 0:
			return rng.Uint64()
		case 1:
			return -rng.Uint64N(0x2000)
		case 2:
			return rng.Uint64N(0x20000) &^ 0xfff
		case 3:
			return 1 << rng.IntN(64)
		default:
			return rng.Uint64N(0x2100)
		}
	}
	for i := range difftest.Scale(t, 1_000_000) {
		b.m.Strict = spapr.Strict(rng.IntN(int(spapr.StrictAll) + 1))
		b.m.Trace = nil
		if i%64 == 0 {
			b.m.Trace = func(e spapr.Event) { words += len(strings.Fields(e.String())) }
		}
		var r spapr.Regs
		for i := range r.R {
			r.R[i] = number()
		}
		r.R[3] = ops[rng.IntN(len(ops))]
		if r.R[3] == spapr.HRTAS && rng.IntN(4) != 0 {
			r.R[4] = rng.Uint64N(0x2000)
			block := []uint32{0x2000 + rng.Uint32N(0x30), uint32(number()), uint32(number())}
			if rng.IntN(2) == 0 {
				block[1], block[2] = rng.Uint32N(8), rng.Uint32N(9)
			}
			for range 8 {
				block = append(block, uint32(number()))
			}
			var p []byte
			for _, v := range block {
				p = binary.BigEndian.AppendUint32(p, v)
			}
			b.m.Memory.Store(r.R[4], p)
		}
		b.m.Call(&r)
		b.term.out = b.term.out[:0]
	}
	if words == 0 {
		t.Error("nothing told")
	}
}

func TestAllocs(t *testing.T) {
	b := newBench(ramSize)
	binary.BigEndian.PutUint32(b.ram[0x100:], 0x2005)
	binary.BigEndian.PutUint64(b.ram[0x104:], 1<<32|2)
	var r spapr.Regs
	if n := testing.AllocsPerRun(100, func() {
		for _, op := range []uint64{0x3c, 0x40, 0x2c, 0x54, spapr.HRTAS, spapr.HLogicalMemop, 4} {
			r.R[3], r.R[4], r.R[5], r.R[6], r.R[7], r.R[8] = op, 0x100, 8, 0, 4, 1
			b.m.Call(&r)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCall(b *testing.B) {
	m := newBench(ramSize).m
	for _, c := range []struct {
		name string
		args []uint64
	}{
		{"unknown", []uint64{4}},
		{"load8", []uint64{spapr.HLogicalCILoad, 8, 0x1000}},
		{"store8", []uint64{spapr.HLogicalCIStore, 8, 0x1000, 1}},
		{"getTermChar", []uint64{spapr.HGetTermChar, 0}},
		{"unknownToken", []uint64{spapr.HRTAS, 0x2000}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			var r spapr.Regs
			for b.Loop() {
				copy(r.R[3:], c.args)
				m.Call(&r)
			}
		})
	}
}
