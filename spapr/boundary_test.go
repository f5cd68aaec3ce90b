package spapr_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/virtfmt/virtfmt/spapr"
)

// everything gives a machine all hooks, which count what they are asked.
func everything(b *bench, asked *int) {
	b.m.PowerOff = func() { *asked++ }
	b.m.Reboot = func() { *asked++ }
	b.m.OSTerm = func(string) { *asked++ }
	b.m.CPUState = func(cpu uint32) (spapr.CPUState, bool) { return spapr.CPUStopped, true }
	b.m.StartCPU = func(cpu, entry, arg uint32) spapr.RTASStatus { *asked++; return 0 }
	b.m.PCI = counting{asked}
	b.m.Interrupts = sources{7: {1, 2}}
	b.m.SetIndicator = func(kind, index, value uint32) spapr.RTASStatus { *asked++; return 0 }
	b.m.Sensor = func(kind, index uint32) (uint32, bool) { *asked++; return 3, true }
	b.m.Event = func(mask uint32) []byte { *asked++; return []byte("log") }
}

type counting struct{ asked *int }

func (c counting) ReadConfig(uint64, uint32, int) (uint32, bool) { *c.asked++; return 5, true }
func (c counting) WriteConfig(uint64, uint32, int, uint32) bool  { *c.asked++; return true }

// TestShapes calls each service with every number of arguments and results:
// only the right ones do something, all others get the status for that.
func TestShapes(t *testing.T) {
	type shape [2]uint32
	const anyShape = -1
	for _, c := range []struct {
		name   string
		args   []uint32
		wrong  spapr.RTASStatus
		shapes []shape // nil: all
		nargs  int     // anyShape, or the only number of arguments, with any number of results
	}{
		{"get-time-of-day", nil, -3, []shape{{0, 8}}, 0},
		{"set-time-of-day", []uint32{2001, 2, 3, 4, 5, 6, 7}, -3, []shape{{7, 1}}, 0},
		{"power-off", nil, -3, []shape{{2, 1}}, 0},
		{"system-reboot", nil, -3, []shape{{0, 1}}, 0},
		{"query-cpu-stopped-state", nil, -3, []shape{{1, 2}}, 0},
		{"start-cpu", nil, -3, []shape{{3, 1}}, 0},
		{"ibm,get-system-parameter", []uint32{42, 0x3000, 8}, -3, nil, anyShape},
		{"ibm,set-xive", []uint32{7, 1, 2}, -3, []shape{{3, 1}}, 0},
		{"ibm,get-xive", []uint32{7}, -3, []shape{{1, 3}}, 0},
		{"ibm,int-off", []uint32{7}, -3, []shape{{1, 1}}, 0},
		{"ibm,int-on", []uint32{7}, -3, []shape{{1, 1}}, 0},
		{"check-exception", []uint32{0, 0, 1, 0, 0x3000, 8}, -3, []shape{{6, 1}, {7, 1}}, 0},
		{"event-scan", []uint32{1, 0, 0x3000, 8}, -3, []shape{{4, 1}}, 0},
		{"quiesce", nil, -3, nil, 0},
		{"nvram-fetch", []uint32{0, 0x3000, 8}, -3, []shape{{3, 2}}, 0},
		{"nvram-store", []uint32{0, 0x3000, 8}, -3, []shape{{3, 2}}, 0},
		{"read-pci-config", []uint32{0, 4}, -1, []shape{{2, 2}}, 0},
		{"write-pci-config", []uint32{0, 4, 1}, -1, []shape{{3, 1}}, 0},
		{"ibm,read-pci-config", []uint32{0, 0, 0, 4}, -1, []shape{{4, 2}}, 0},
		{"ibm,write-pci-config", []uint32{0, 0, 0, 4, 1}, -1, []shape{{5, 1}}, 0},
		{"set-indicator", nil, -3, []shape{{3, 1}}, 0},
		{"set-power-level", []uint32{0xffffffff}, -3, []shape{{2, 2}}, 0},
		{"get-power-level", []uint32{0xffffffff}, -3, []shape{{1, 2}}, 0},
		{"get-sensor-state", nil, -3, []shape{{2, 2}}, 0},
		{"ibm,os-term", []uint32{0x3000}, -3, nil, anyShape},
	} {
		token, _ := spapr.StandardServices().Token(c.name)
		for nargs := range uint32(10) {
			for nret := range uint32(10) {
				b, asked := newBench(0x4000), 0
				everything(b, &asked)
				const block = 0x1000
				words := append([]uint32{token, nargs, nret}, c.args...)
				for i, w := range words {
					binary.BigEndian.PutUint32(b.ram[block+4*i:], w)
				}
				r := spapr.Regs{R: [13]uint64{3: spapr.HRTAS, 4: block}}
				if got := b.m.Call(&r); got != spapr.HSuccess {
					t.Fatalf("%s: %v", c.name, got)
				}
				right := slices.Contains(c.shapes, shape{nargs, nret})
				if c.shapes == nil {
					right = c.nargs == anyShape || uint32(c.nargs) == nargs
				}
				want := c.wrong
				if right {
					want = 0
				}
				got := spapr.RTASStatus(binary.BigEndian.Uint32(b.ram[block+12+4*nargs:]))
				if got != want || !right && asked > 0 {
					t.Errorf("%s with %d arguments and %d results: %v, want %v; %d hooks were asked", c.name, nargs, nret, got, want, asked)
				}
			}
		}
	}
}

// TestMemopMost: QEMU's bound is on more than 1<<31 elements.
func TestMemopMost(t *testing.T) {
	if testing.Short() {
		return // it takes half a second
	}
	m := spapr.Machine{Memory: spapr.RAM{Data: make([]byte, 0x1000)}, MemopLimit: ^uint64(0)}
	m.Memory.(spapr.RAM).Data[0] = 1
	g := spapr.Guest{Call: m.Call}
	if got := g.Memop(0, 0, 1<<40, 0, 1<<31); got != spapr.HSuccess || m.Memory.(spapr.RAM).Data[0] != 0 {
		t.Errorf("1<<31 elements: %v", got)
	}
}

// TestTerminalIsNotAskedForNothing: a Terminal takes 1 to 16 bytes.
func TestTerminalIsNotAskedForNothing(t *testing.T) {
	b := newBench(ramSize)
	b.m.Terminal = func(uint64) spapr.Terminal { return full{} }
	g := spapr.Guest{Call: b.m.Call}
	for n, want := range map[uint64]spapr.Status{0: spapr.HSuccess, 1: spapr.HBusy, 16: spapr.HBusy, 17: spapr.HParameter} {
		if got, _ := g.Hypercall(spapr.HPutTermChar, 0, n); got != want {
			t.Errorf("%d characters: %v, want %v", n, got, want)
		}
	}
}

// TestTraceIsBounded: of arguments and results no more than 16 each.
func TestTraceIsBounded(t *testing.T) {
	for _, n := range []uint32{0, 1, 15, 16, 17, 0x3fffffff} {
		b := newBench(ramSize)
		const block = 0x1000
		token, _ := spapr.StandardServices().Token("display-character")
		for i, w := range []uint32{token, n, n} {
			binary.BigEndian.PutUint32(b.ram[block+4*i:], w)
		}
		var events []spapr.Event
		b.m.Trace = func(e spapr.Event) { events = append(events, e) }
		r := spapr.Regs{R: [13]uint64{3: spapr.HRTAS, 4: block}}
		b.m.Call(&r)
		if len(events) != 1 || events[0].RTAS == nil {
			t.Fatalf("%+v", events)
		}
		e := events[0].RTAS
		if len(e.Args) != int(min(n, 16)) || len(e.Results) != max(0, int(min(n, 16))-1) {
			t.Errorf("%d of each: %d and %d", n, len(e.Args), len(e.Results))
		}
	}
}

// TestLoadWithoutMemory: a buffer that is nowhere is zeros.
func TestLoadWithoutMemory(t *testing.T) {
	got := []byte("left over")
	m := spapr.Machine{Services: new(spapr.Services)}
	must(t, m.Services.Register("zero", 0, func(c spapr.RTASCall) spapr.RTASStatus {
		c.Load(0, got)
		return 0
	}))
	m.Call(&spapr.Regs{R: [13]uint64{3: spapr.HRTAS}})
	if string(got) != string(make([]byte, 9)) {
		t.Errorf("%q", got)
	}
}

// TestUnknownServiceIsNoSuccess: also for a caller that looks at the status only.
func TestUnknownServiceIsNoSuccess(t *testing.T) {
	g := newBench(ramSize).guest()
	if status, _, err := g.RTAS("no such", 1); err == nil || status != spapr.RTASParameterError {
		t.Errorf("%v, %v", status, err)
	}
	g.Token = func(string) (uint32, bool) { return 99, true }
	if status, _, err := g.RTAS("no such", 1); err == nil || status != spapr.RTASParameterError {
		t.Errorf("token 99: %v, %v", status, err)
	}
}
