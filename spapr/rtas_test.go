package spapr_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/spapr"
)

// guest returns a Guest on b that finds tokens as an operating system does.
func (b *bench) guest() *spapr.Guest {
	return &spapr.Guest{Call: b.m.Call, Memory: b.m.Memory, Block: 0x1000, Token: spapr.TokenOf(b.m.Properties(0))}
}

// wantRTAS calls a service and compares status and results.
func wantRTAS(t *testing.T, g *spapr.Guest, service string, args []uint32, nret int, status spapr.RTASStatus, want ...uint32) {
	t.Helper()
	got, results, err := g.RTAS(service, nret, args...)
	if err != nil || got != status || !slices.Equal(results, want) {
		t.Errorf("%s%v: %v, %v, %v, want %v, %v", service, args, got, results, err, status, want)
	}
}

func TestTokens(t *testing.T) {
	standard := spapr.StandardServices()
	want := uint32(spapr.RTASTokenBase)
	for name, token := range standard.All() {
		if token != want {
			t.Errorf("%s has token 0x%x, want 0x%x", name, token, want)
		}
		want++
	}
	if want != 0x202d {
		t.Errorf("the last token is 0x%x", want-1)
	}

	b := newBench(ramSize)
	b.m.Services = standard
	must(t, standard.SetToken("get-power-level", 7))
	must(t, standard.Register("my,service", 8, func(c spapr.RTASCall) spapr.RTASStatus {
		var p [4]byte
		c.Load(c.Arg(0), p[:])
		slices.Reverse(p[:])
		c.Store(c.Arg(0), p[:])
		c.SetResult(1, c.NArgs<<8|c.NRet)
		return 5
	}))
	must(t, standard.Register("my,service2", 9, nil))
	copy(b.ram[0x2000:], "abcd")
	g := b.guest()
	wantRTAS(t, g, "get-power-level", []uint32{0xffffffff}, 2, 0, 100)
	wantRTAS(t, g, "my,service", []uint32{0x2000}, 2, 5, 0x102)
	if got := string(b.ram[0x2000:0x2004]); got != "dcba" {
		t.Error(got)
	}
	// Its old token is free now; tokens and names are taken once.
	if _, ok := standard.Token("get-power-level"); !ok {
		t.Error("get-power-level is gone")
	}
	must(t, standard.Register("other", spapr.RTASTokenBase+0x1c, nil))
	if standard.Register("third", 7, nil) == nil || standard.SetToken("third", 99) == nil || standard.SetToken("other", 8) == nil {
		t.Error("a token was taken twice, or an unknown service has one")
	}
	must(t, standard.SetToken("other", spapr.RTASTokenBase+0x1c))
	if _, _, err := g.RTAS("my,service2", 1); err == nil {
		t.Error("a service without a function is among the properties")
	}
	g.Token = standard.Token
	wantRTAS(t, g, "my,service2", nil, 1, spapr.RTASParameterError, []uint32{}...)
	g.Token = func(string) (uint32, bool) { return 99, true }
	if _, _, err := g.RTAS("anything", 1); err == nil {
		t.Error("token 99 is known")
	}
	var none spapr.Services
	if _, ok := none.Token("x"); ok {
		t.Error("an empty registry has a service")
	}
	if none.SetToken("x", 1) == nil {
		t.Error("an empty registry has a service")
	}
	b.m.Services = &none
	if _, _, err := g.RTAS("anything", 1); err == nil {
		t.Error("an empty registry has token 99")
	}
}

func TestClock(t *testing.T) {
	b := newBench(ramSize)
	now := time.Date(2024, 2, 29, 23, 59, 58, 123456789, time.FixedZone("", 7200))
	b.m.Clock = func() time.Time { return now }
	g := b.guest()
	ns := uint32(now.UnixNano())
	wantRTAS(t, g, "get-time-of-day", nil, 8, 0, 2024, 2, 29, 21, 59, 58, ns)
	b.m.Strict = spapr.StrictClock
	wantRTAS(t, g, "get-time-of-day", nil, 8, 0, 2024, 2, 29, 21, 59, 58, 123456789)
	for _, c := range []struct{ set, get [6]uint32 }{
		{[6]uint32{2001, 2, 3, 4, 5, 6}, [6]uint32{2001, 2, 3, 4, 5, 6}},
		{[6]uint32{2001, 13, 3, 4, 5, 6}, [6]uint32{2002, 1, 3, 4, 5, 6}},
		{[6]uint32{1970, 1, 1, 0, 0, 0}, [6]uint32{1970, 1, 1, 0, 0, 0}},
		{[6]uint32{1969, 12, 31, 23, 59, 59}, [6]uint32{1969, 12, 31, 23, 59, 59}},
		{[6]uint32{2000, 2, 29, 0, 0, 0}, [6]uint32{2000, 2, 29, 0, 0, 0}},
		{[6]uint32{1900, 2, 29, 0, 0, 0}, [6]uint32{1900, 3, 1, 0, 0, 0}},
		{[6]uint32{2200, 12, 31, 24, 0, 0}, [6]uint32{2201, 1, 1, 0, 0, 0}},
		{[6]uint32{2262, 1, 1, 0, 0, 0}, [6]uint32{2262, 1, 1, 0, 0, 0}},
		{[6]uint32{2338, 5, 37, 22, 52, 28}, [6]uint32{1753, 11, 15, 23, 17, 54}}, // seen in QEMU
		{[6]uint32{2024, 0, 0, 0, 0, 0}, [6]uint32{2023, 11, 30, 0, 0, 0}},
	} {
		wantRTAS(t, g, "set-time-of-day", append(c.set[:], 9), 1, 0)
		status, got, err := g.RTAS("get-time-of-day", 8)
		if err != nil || status != 0 || !slices.Equal(got[:6], c.get[:]) || got[6] != 0 && c.set[0] != 2338 {
			t.Errorf("%v is %v, %v, %v", c.set, got, status, err)
		}
	}
	now = now.Add(3600 * time.Second)
	wantRTAS(t, g, "get-time-of-day", nil, 8, 0, 2023, 11, 30, 1, 0, 0, 0)
	b.m.Clock = nil
	b.m.ClockOffset = 0
	if status, got, err := g.RTAS("get-time-of-day", 8); err != nil || status != 0 || int(got[0]) < 2024 {
		t.Errorf("the host's clock: %v, %v, %v", status, got, err)
	}
	all := ^uint32(0)
	wantRTAS(t, g, "set-time-of-day", []uint32{all, all, all, all, all, all, all}, 1, 0)
	wantRTAS(t, g, "set-time-of-day", []uint32{1 << 31, 1 << 31, 1 << 31, 1 << 31, 1 << 31, 1 << 31, 0}, 1, 0)
	if _, _, err := g.RTAS("get-time-of-day", 8); err != nil {
		t.Error(err)
	}
}

// hooks is a machine that has everything, and notes what happens to it.
type hooks struct{ log []string }

func (h *hooks) note(s string) { h.log = append(h.log, s) }

func (h *hooks) ReadConfig(buid uint64, addr uint32, size int) (uint32, bool) {
	return uint32(buid>>32) ^ uint32(buid) ^ addr ^ uint32(size), buid != 13
}

func (h *hooks) WriteConfig(buid uint64, addr uint32, size int, value uint32) bool {
	h.note("config")
	return buid != 13
}

func TestServices(t *testing.T) {
	b, h := newBench(ramSize), &hooks{}
	b.m.PowerOff = func() { h.note("off") }
	b.m.Reboot = func() { h.note("reboot") }
	b.m.OSTerm = func(s string) { h.note(s) }
	b.m.CPUState = func(cpu uint32) (spapr.CPUState, bool) { return spapr.CPUState(cpu), cpu <= 2 }
	b.m.StartCPU = func(cpu, entry, arg uint32) spapr.RTASStatus {
		h.note("start")
		return spapr.RTASStatus(cpu + entry + arg)
	}
	b.m.PCI = h
	b.m.SetIndicator = func(kind, index, value uint32) spapr.RTASStatus { return spapr.RTASStatus(kind + index + value) }
	events := [][]byte{[]byte("a log")}
	b.m.Event = func(mask uint32) []byte {
		if mask != 0xffff0000 || len(events) == 0 {
			return nil
		}
		e := events[0]
		events = events[1:]
		return e
	}
	g := b.guest()
	copy(b.ram[0x2000:], "kernel panic\x00never")
	wantRTAS(t, g, "ibm,os-term", []uint32{0x2000}, 1, 0)
	b.ram[0x2000+12] = '!'
	wantRTAS(t, g, "ibm,os-term", []uint32{ramSize - 1}, 1, 0)
	for i := range b.ram[0x4000:0x5000] {
		b.ram[0x4000+i] = 'x'
	}
	wantRTAS(t, g, "ibm,os-term", []uint32{0x4000}, 1, 0)
	wantRTAS(t, g, "system-reboot", nil, 1, 0)
	if b.m.Power != spapr.PowerReboot {
		t.Errorf("power %d", b.m.Power)
	}
	wantRTAS(t, g, "system-reboot", []uint32{0}, 1, -3)
	wantRTAS(t, g, "power-off", []uint32{0, 0}, 1, 0)
	if b.m.Power != spapr.PowerOff {
		t.Errorf("power %d", b.m.Power)
	}
	for cpu := range uint32(3) {
		wantRTAS(t, g, "query-cpu-stopped-state", []uint32{cpu}, 2, 0, cpu)
	}
	wantRTAS(t, g, "start-cpu", []uint32{0, 3, 4}, 1, 7)
	wantRTAS(t, g, "start-cpu", []uint32{1, 3, 4}, 1, -1)
	wantRTAS(t, g, "start-cpu", []uint32{3, 3, 4}, 1, -3)
	wantRTAS(t, g, "set-indicator", []uint32{1, 2, 3}, 1, 6)
	wantRTAS(t, g, "read-pci-config", []uint32{0x100, 4}, 2, 0, 0x104)
	wantRTAS(t, g, "ibm,read-pci-config", []uint32{0x100, 0x8000, 0x20, 2}, 2, 0, 0x8122)
	wantRTAS(t, g, "ibm,read-pci-config", []uint32{0x100, 0, 13, 2}, 2, -1, 0)
	wantRTAS(t, g, "ibm,read-pci-config", []uint32{0x100, 0, 1, 3}, 2, -1, 0)
	wantRTAS(t, g, "write-pci-config", []uint32{0x100, 1, 0}, 1, 0)
	wantRTAS(t, g, "ibm,write-pci-config", []uint32{0x100, 0, 1, 4, 9}, 1, 0)
	wantRTAS(t, g, "ibm,write-pci-config", []uint32{0x100, 0, 13, 4, 9}, 1, -1)
	wantRTAS(t, g, "ibm,write-pci-config", []uint32{0x100, 0, 1, 5, 9}, 1, -1)
	wantRTAS(t, g, "write-pci-config", []uint32{0x100}, 1, -1)
	wantRTAS(t, g, "event-scan", []uint32{1, 0, 0x2000, 64}, 1, 1)
	wantRTAS(t, g, "event-scan", []uint32{0xffff0000, 0, 0x2000, 3}, 1, 0)
	if got := string(b.ram[0x2000:0x2005]); got != "a lne" {
		t.Errorf("log %q", got)
	}
	events = [][]byte{[]byte("another")}
	wantRTAS(t, g, "check-exception", []uint32{0x500, 0, 0xffff0000, 0, 0x2000, 64, 0}, 1, 0)
	if got := string(b.ram[0x2000:0x2008]); got != "anotherp" {
		t.Errorf("log %q", got)
	}
	wantRTAS(t, g, "check-exception", []uint32{0x500, 0, 0xffff0000, 0, 0x2000, 64, 0, 0}, 1, -3)
	want := []string{"kernel panic", "", strings.Repeat("x", spapr.MaxOSTermMessage), "reboot", "off", "start", "config", "config", "config"}
	if diff := cmp.Diff(want, h.log); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNVRAM(t *testing.T) {
	b := newBench(ramSize)
	g := b.guest()
	const size = 64 << 10
	copy(b.ram[0x2000:], "0123456789")
	wantRTAS(t, g, "nvram-store", []uint32{size - 4, 0x2000, 4}, 2, 0, 4)
	wantRTAS(t, g, "nvram-fetch", []uint32{size - 5, 0x3000, 5}, 2, 0, 5)
	if got := string(b.ram[0x3000:0x3005]); got != "\x000123" || string(b.m.NVRAM[size-4:]) != "0123" {
		t.Errorf("fetched %q", got)
	}
	wantRTAS(t, g, "nvram-fetch", []uint32{0, ramSize - 2, size}, 2, 0, size) // most of it nowhere
	wantRTAS(t, g, "nvram-store", []uint32{0, ramSize, size}, 2, 0, size)     // zeros from nowhere
	if !bytes.Equal(b.m.NVRAM, make([]byte, size)) {
		t.Error("stored something else than zeros")
	}
	for _, args := range [][]uint32{{size - 4, 0, 5}, {size, 0, 1}, {size + 1, 0, 0}, {^uint32(0), 0, 1}, {1, 0, ^uint32(0)}} {
		wantRTAS(t, g, "nvram-fetch", args, 2, -3, 0)
		wantRTAS(t, g, "nvram-store", args, 2, -3, 0)
	}
	wantRTAS(t, g, "nvram-fetch", []uint32{size, 0, 0}, 2, 0, 0)
	g.Token = spapr.StandardServices().Token
	b.m.NVRAM = nil
	wantRTAS(t, g, "nvram-fetch", []uint32{0, 0, 0}, 2, -1, 0)
}

// TestZeroMachine calls every service with every number of arguments on a
// machine that has nothing.
func TestZeroMachine(t *testing.T) {
	ram := make([]byte, 0x1000)
	m := spapr.Machine{Memory: spapr.RAM{Data: ram}}
	g := spapr.Guest{Call: m.Call, Memory: m.Memory, Token: spapr.StandardServices().Token}
	for name := range spapr.StandardServices().All() {
		for nargs := range 9 {
			for nret := 1; nret < 10; nret++ {
				if _, _, err := g.RTAS(name, nret, make([]uint32, nargs)...); err != nil {
					t.Errorf("%s %d/%d: %v", name, nargs, nret, err)
				}
			}
		}
	}
}

// TestRTASAddresses places the block across the ends of memory.
func TestRTASAddresses(t *testing.T) {
	const size = 0x1000
	call := func(ram []byte, strict spapr.Strict, addr uint64) spapr.Status {
		m := spapr.Machine{Memory: spapr.RAM{Data: ram}, Strict: strict}
		g := spapr.Guest{Call: m.Call}
		status, _ := g.Hypercall(spapr.HRTAS, addr)
		return status
	}
	block, err := (&spapr.Block{Token: spapr.RTASTokenBase + 0x1c, Args: []uint32{0xffffffff}, Results: []uint32{7, 7}}).MarshalBinary()
	must(t, err)
	for _, off := range []int{0, 1, 2, 3, size - len(block), size - len(block) + 4, size - 12} {
		ram := make([]byte, size)
		copy(ram[off:], block)
		inside := off+len(block) <= size
		if got := call(ram, 0, uint64(off)); got != spapr.HSuccess {
			t.Errorf("at 0x%x: %v", off, got)
		}
		if inside && (binary.BigEndian.Uint32(ram[off+16:]) != 0 || binary.BigEndian.Uint32(ram[off+20:]) != 100) {
			t.Errorf("at 0x%x: results %x", off, ram[off+16:])
		}
		want := spapr.HSuccess
		if !inside {
			want = spapr.HParameter
		}
		copy(ram[off:], block)
		if got := call(ram, spapr.StrictMemory, uint64(off)); got != want {
			t.Errorf("at 0x%x, strictly: %v, want %v", off, got, want)
		}
	}
	// Counts that go past everything, and those that wrap around.
	for _, counts := range [][2]uint32{{1 << 30, 1}, {^uint32(0), 1}, {0, ^uint32(0)}, {^uint32(0), ^uint32(0)}} {
		ram := make([]byte, size)
		copy(ram, block)
		binary.BigEndian.PutUint32(ram[4:], counts[0])
		binary.BigEndian.PutUint32(ram[8:], counts[1])
		if got := call(ram, 0, 0); got != spapr.HSuccess {
			t.Errorf("counts %v: %v", counts, got)
		}
		if got := call(ram, spapr.StrictMemory, 0); got != spapr.HParameter {
			t.Errorf("counts %v, strictly: %v", counts, got)
		}
	}
}

func TestBlock(t *testing.T) {
	b := spapr.Block{Token: 0x2005, Args: []uint32{3}, Results: []uint32{0xfffffffd, 2}}
	p, err := b.MarshalBinary()
	must(t, err)
	if want := "\x00\x00\x20\x05\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03\xff\xff\xff\xfd\x00\x00\x00\x02"; string(p) != want {
		t.Errorf("%x", p)
	}
	var got spapr.Block
	must(t, got.UnmarshalBinary(append(p, 1, 2, 3)))
	if diff := cmp.Diff(b, got); diff != "" || got.Status() != spapr.RTASParameterError {
		t.Errorf("%v (-want +got):\n%s", got.Status(), diff)
	}
	if (&spapr.Block{}).Status() != spapr.RTASHardwareError {
		t.Error("a block without results has a status")
	}
	for _, c := range []struct {
		change func(p []byte) []byte
		want   string
	}{
		{func(p []byte) []byte { return p[:11] }, "spapr: header at 0x0: 11 of 12 bytes: unexpected EOF"},
		{func(p []byte) []byte { p[4] = 0x40; return p }, "spapr: nargs at 0x4: 1073741825 arguments, 3 words follow: unexpected EOF"},
		{func(p []byte) []byte { return p[:23] }, "spapr: nret at 0x8: 2 results, 1 words follow the arguments: unexpected EOF"},
		{func(p []byte) []byte { p[8] = 0xff; return p }, "spapr: nret at 0x8: 4278190082 results, 2 words follow the arguments: unexpected EOF"},
	} {
		err := got.UnmarshalBinary(c.change(bytes.Clone(p)))
		var fe *spapr.FormatError
		if err == nil || err.Error() != c.want || !errors.Is(err, io.ErrUnexpectedEOF) || !errors.As(err, &fe) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

func TestProperties(t *testing.T) {
	m := spapr.Machine{}
	var names []string
	for _, p := range m.Properties(0x7ff0000) {
		names = append(names, p.Name)
	}
	want := []string{
		"ibm,hypertas-functions", "qemu,hypertas-functions", "rtas-event-scan-rate", "rtas-error-log-max", "rtas-size", "linux,rtas-base", "linux,rtas-entry",
		"display-character", "get-time-of-day", "set-time-of-day", "power-off", "system-reboot", "query-cpu-stopped-state",
		"ibm,get-system-parameter", "ibm,set-system-parameter", "check-exception", "event-scan", "quiesce", "set-power-level", "get-power-level", "ibm,os-term",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("a machine that has nothing (-want +got):\n%s", diff)
	}
	full := newBench(ramSize).m.Properties(0x7ff0000)
	for name, want := range map[string]string{
		"qemu,hypertas-functions": "hcall-memop1\x00",
		"rtas-size":               "\x00\x00\x00\x14",
		"linux,rtas-entry":        "\x07\xff\x00\x00",
		"nvram-store":             "\x00\x00\x20\x13",
		"ibm,get-xive":            "\x00\x00\x20\x0b",
	} {
		i := slices.IndexFunc(full, func(p spapr.Property) bool { return p.Name == name })
		if i < 0 || string(full[i].Value) != want {
			t.Errorf("%s is not %q", name, want)
		}
	}
	stub := spapr.RTASStub()
	if want := "\x7c\x64\x1b\x78\x3c\x60\x00\x00\x60\x63\xf0\x00\x44\x00\x00\x22\x4e\x80\x00\x20"; string(stub) != want {
		t.Errorf("stub %x", stub)
	}
}

func TestTrace(t *testing.T) {
	b := newBench(ramSize)
	var got []string
	b.m.Trace = func(e spapr.Event) { got = append(got, e.String()) }
	g := b.guest()
	g.Memop(spapr.MemopCopy, 0x1000, 0x2000, 3, 4)
	g.Memop(spapr.MemopNot, 0x1000, 0x2000, 3, 4)
	g.Memop(9, 0x1000, 0x2000, 99, 4)
	g.Hypercall(spapr.HLogicalCIStore, 2, 0x2000, 0x1234)
	g.Hypercall(spapr.HLogicalCacheLoad, 4, 0x2000)
	g.Hypercall(spapr.HPutTermChar, 0, 2, 'h'<<56|'i'<<48)
	g.Hypercall(spapr.HGetTermChar, 0)
	g.Hypercall(spapr.HPageInit, 0x8000, 0x2000, 0)
	g.Hypercall(0x1234)
	g.RTAS("get-power-level", 2, 0xffffffff)
	g.RTAS("system-reboot", 1)
	g.Memory.Store(g.Block, []byte{1, 2, 3, 4})
	g.Hypercall(spapr.HRTAS, g.Block)
	b.m.Call(&spapr.Regs{User: true, R: [13]uint64{3: spapr.HRTAS}})
	want := `H_LOGICAL_MEMOP: copy 4 elements of size 8 from 0x2000 to 0x1000: H_SUCCESS
H_LOGICAL_MEMOP: invert 4 elements of size 8 from 0x2000 to 0x1000: H_SUCCESS
H_LOGICAL_MEMOP: operation 9 on 4 elements of size 1<<99 from 0x2000 to 0x1000: H_PARAMETER
H_LOGICAL_CI_STORE: 2 bytes at 0x2000, 0x1234: H_SUCCESS
H_LOGICAL_CACHE_LOAD: 4 bytes at 0x2000 are 0x12340000: H_SUCCESS
H_PUT_TERM_CHAR: 2 characters to unit 0x0: H_SUCCESS
H_GET_TERM_CHAR: 0 characters from unit 0x0: H_SUCCESS
H_PAGE_INIT: r4 0x8000, r5 0x2000, r6 0x0: H_SUCCESS
hypercall 0x1234: H_FUNCTION
rtas get-power-level(0xffffffff): success, 0x64
rtas system-reboot(): success
H_RTAS: r4 0x1000, r5 0x0, r6 0x0: H_PARAMETER
H_RTAS: in user mode: H_PRIVILEGE`
	if diff := cmp.Diff(want, strings.Join(got, "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
