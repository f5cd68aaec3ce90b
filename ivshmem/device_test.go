package ivshmem_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/ivshmem"
)

func read32(d *ivshmem.Device, off uint64) uint32 { return uint32(access(d.Read, off, 4)) }

func write32(d *ivshmem.Device, off uint64, v uint32) { d.Write(off, bytesOf(uint64(v), 4)) }

// TestPin walks the pin of revision 0. (2012 text: Status Register, Mask
// Register.)
func TestPin(t *testing.T) {
	var levels []bool
	d := &ivshmem.Device{Config: ivshmem.Config{Revision: ivshmem.Revision0, Vectors: 1, Pins: true}}
	d.SetIRQ = func(level bool) { levels = append(levels, level) }
	want := func(what string, w ...bool) {
		t.Helper()
		if diff := cmp.Diff(w, levels); diff != "" {
			t.Errorf("%s: levels (-want +got)\n%s", what, diff)
		}
		levels = nil
	}
	status := func() uint64 { return access(d.ReadConfig, 6, 2) }

	d.Interrupt(0)
	want("interrupt while masked")
	write32(d, ivshmem.RegIntrMask, 1)
	want("unmask", true)
	if s := status(); s != 1<<3 {
		t.Errorf("PCI status %#x with the pin up, want 0x8", s)
	}
	d.Interrupt(7)
	want("second interrupt")
	if v := read32(d, ivshmem.RegIntrStatus); v != 1 {
		t.Errorf("status %#x, want 1", v)
	}
	want("reading status", false)
	d.Interrupt(0)
	want("interrupt", true)
	d.WriteConfig(5, []byte{4})
	want("INTx disable", false)
	if s := status(); s != 1<<3 {
		t.Errorf("PCI status %#x with the pin disabled, want 0x8", s)
	}
	d.WriteConfig(5, []byte{0})
	want("INTx enable", true)
	write32(d, ivshmem.RegIntrMask, 2)
	want("another mask bit", false)
	write32(d, ivshmem.RegIntrStatus, 6)
	want("the guest sets status", true)
	d.Reset()
	want("reset", false)
	if d.IntrMask != 2 || d.IntrStatus != 0 {
		t.Errorf("after reset mask %#x status %#x, want 0x2 and 0", d.IntrMask, d.IntrStatus)
	}
}

func TestRevision0(t *testing.T) {
	var rung [][2]uint16
	d := &ivshmem.Device{Config: ivshmem.Config{Revision: ivshmem.Revision0, Vectors: 4}}
	d.Ring = func(peer, vector uint16) { rung = append(rung, [2]uint16{peer, vector}) }
	if v := read32(d, ivshmem.RegIVPosition); v != 0xffffffff {
		t.Errorf("IVPosition %#x before the device is ready, want -1", v)
	}
	write32(d, ivshmem.RegDoorbell, ivshmem.DoorbellValue(1, 2))
	d.ID, d.Ready = 3, true
	if v := read32(d, ivshmem.RegIVPosition); v != 3 {
		t.Errorf("IVPosition %#x, want 3", v)
	}
	write32(d, ivshmem.RegDoorbell, ivshmem.DoorbellValue(1, 0x102))
	if diff := cmp.Diff([][2]uint16{{1, 0x102}}, rung); diff != "" {
		t.Errorf("rung (-want +got)\n%s", diff)
	}
	d.Reset()
	if v := read32(d, ivshmem.RegIVPosition); v != 3 {
		t.Errorf("IVPosition %#x after reset, want 3", v)
	}
	for _, c := range []struct {
		name   string
		config ivshmem.Config
		off    uint64
		want   uint64
	}{
		{"revision", ivshmem.Config{Revision: ivshmem.Revision0}, 8, 0x05000000},
		{"pin with MSI-X", ivshmem.Config{Revision: ivshmem.Revision0, Vectors: 1}, 0x3c, 0x100},
		{"pin without", ivshmem.Config{Revision: ivshmem.Revision0, Vectors: 1, Pins: true}, 0x3c, 0x100},
		{"no capability with pins", ivshmem.Config{Revision: ivshmem.Revision0, Vectors: 1, Pins: true}, 0x34, 0},
		{"capability", ivshmem.Config{Revision: ivshmem.Revision0, Vectors: 1}, 0x34, 0x40},
		{"32-bit BAR2", ivshmem.Config{Revision: ivshmem.Revision0, Shared32: true}, 0x18, 8},
	} {
		d := &ivshmem.Device{Config: c.config}
		if got := access(d.ReadConfig, c.off, 4); got != c.want {
			t.Errorf("%s: config+%#x = %#x, want %#x", c.name, c.off, got, c.want)
		}
	}
	if got := (&ivshmem.Device{Config: d.Config}).BAR(0).Size; got != 1024 {
		t.Errorf("BAR0 has %d bytes, want 1024", got)
	}
}

// TestDoorbellVector shows the quirk of QEMU beside the text.
func TestDoorbellVector(t *testing.T) {
	for _, c := range []struct {
		quirk bool
		want  uint16
	}{{false, 0x101}, {true, 1}} {
		var got uint16
		d := &ivshmem.Device{Config: ivshmem.Config{Vectors: 2, Vector8: c.quirk}, Ring: func(_, v uint16) { got = v }}
		write32(d, ivshmem.RegDoorbell, 0x00010101)
		if got != c.want {
			t.Errorf("Vector8 %v: vector %#x, want %#x", c.quirk, got, c.want)
		}
	}
}

// TestMSIXLayout has the sizes that QEMU 7.2 gives BAR1.
func TestMSIXLayout(t *testing.T) {
	for _, c := range []struct {
		vectors      int
		size         uint64
		pending, ctl uint64
	}{
		{1, 0x1000, 0x800, 0},
		{128, 0x1000, 0x800, 127},
		{129, 0x1000, 0x810, 128},
		{256, 0x2000, 0x1000, 255},
		{512, 0x4000, 0x2000, 511},
		{2048, 0x10000, 0x8000, 2047},
	} {
		d := &ivshmem.Device{Config: ivshmem.Config{Vectors: c.vectors}}
		if got := d.BAR(1).Size; got != c.size {
			t.Errorf("%d vectors: BAR1 has %#x bytes, want %#x", c.vectors, got, c.size)
		}
		if got := access(d.ReadConfig, 0x48, 4); got != c.pending|1 {
			t.Errorf("%d vectors: pending bits at %#x, want %#x", c.vectors, got, c.pending|1)
		}
		if got := access(d.ReadConfig, 0x42, 2); got != c.ctl {
			t.Errorf("%d vectors: control %#x, want %#x", c.vectors, got, c.ctl)
		}
		last := uint16(c.vectors - 1)
		d.WriteConfig(0x42, bytesOf(ivshmem.MSIXEnable, 2))
		d.Interrupt(last)
		d.Interrupt(last + 1)
		if got := access(d.ReadMSIX, c.pending+uint64(last)/64*8, 8); got != 1<<(last%64) {
			t.Errorf("%d vectors: pending %#x, want bit %d", c.vectors, got, last%64)
		}
	}
}

// TestMSIXDelivery has the cases that were measured on QEMU 7.2.
func TestMSIXDelivery(t *testing.T) {
	var sent []uint32
	d := &ivshmem.Device{Config: ivshmem.Config{Vectors: 2}}
	d.SendMSI = func(_ uint64, data uint32) { sent = append(sent, data) }
	aim(d, 2)
	control := func(v uint64) func() { return func() { d.WriteConfig(0x42, bytesOf(v, 2)) } }
	command := func(v uint64) func() { return func() { d.WriteConfig(4, bytesOf(v, 2)) } }
	mask := func(v uint64) func() { return func() { d.WriteMSIX(12, bytesOf(v, 4)) } }
	ring := func(v uint16) func() { return func() { d.Interrupt(v) } }
	for _, c := range []struct {
		what    string
		do      func()
		sent    []uint32
		pending uint64
	}{
		{"bus master", command(6), nil, 0},
		{"enable and mask all", control(0xc000), nil, 0},
		{"first", ring(0), nil, 1},
		{"second", ring(1), nil, 3},
		{"unmask all", control(0x8000), []uint32{0xa0, 0xa1}, 0},
		{"direct", ring(1), []uint32{0xa1}, 0},
		{"mask vector 0", mask(1), nil, 0},
		{"masked", ring(0), nil, 1},
		{"disable", control(0), nil, 1},
		{"lost while disabled", ring(1), nil, 1},
		{"unmask while disabled", mask(0), nil, 1},
		{"enable", control(0x8000), []uint32{0xa0}, 0},
		{"mask by one byte", func() { d.WriteConfig(0x43, []byte{0xc0}) }, nil, 0},
		{"masked again", ring(1), nil, 2},
		{"unmask by one byte", func() { d.WriteConfig(0x43, []byte{0x80}) }, []uint32{0xa1}, 0},
		{"not bus master", command(2), nil, 0},
		{"lost", ring(0), nil, 0},
		{"bus master again", command(6), nil, 0},
		{"memory decoding off", command(4), nil, 0},
		{"still sent", ring(0), []uint32{0xa0}, 0},
		{"no such vector", ring(2), nil, 0},
		{"reserved bits of control", mask(0xfffffffe), nil, 0},
		{"mask 1", func() { d.WriteMSIX(28, []byte{1, 0, 0, 0}) }, nil, 0},
		{"pending 1", ring(1), nil, 2},
		{"reset", d.Reset, nil, 0},
	} {
		c.do()
		if diff := cmp.Diff(c.sent, sent); diff != "" {
			t.Errorf("%s: sent (-want +got)\n%s", c.what, diff)
		}
		if got := access(d.ReadMSIX, 0x800, 4); got != c.pending {
			t.Errorf("%s: pending %#x, want %#x", c.what, got, c.pending)
		}
		sent = nil
	}
}

// TestMSIXAccess has the accesses to BAR1 that were measured on QEMU 7.2.
func TestMSIXAccess(t *testing.T) {
	d := &ivshmem.Device{Config: ivshmem.Config{Vectors: 2}}
	aim(d, 2)
	rd := func(off uint64, size int, want uint64) {
		t.Helper()
		if got := access(d.ReadMSIX, off, size); got != want {
			t.Errorf("read of %d bytes at %#x = %#x, want %#x", size, off, got, want)
		}
	}
	rd(0, 8, 0x200000)
	rd(4, 8, 0xa0_00000000)
	rd(12, 8, 0x200004_00000000)
	for _, off := range []uint64{0, 1, 2, 8} {
		rd(off, 1, 0)
		rd(off, 2, 0)
	}
	for _, off := range []uint64{1, 2, 3, 6} {
		rd(off, 4, 0)
	}
	d.WriteMSIX(8, []byte{0xaa})
	d.WriteMSIX(8, []byte{0xaa, 0xbb})
	d.WriteMSIX(6, []byte{0x66, 0x77, 0x88, 0x99})
	rd(8, 4, 0xa0)
	d.WriteMSIX(4, bytesOf(0x1111111122222222, 8))
	rd(4, 8, 0x1111111122222222)
	d.WriteMSIX(12, bytesOf(0xfffffffe, 4))
	rd(12, 4, 0xfffffffe)
	d.WriteMSIX(0x20, bytesOf(5, 4))
	rd(0x20, 4, 0)
	d.WriteMSIX(0x800, bytesOf(5, 4))
	rd(0x800, 4, 0)
	rd(0xffc, 8, 0)
	rd(0x1000, 4, 0)
}

// TestBARs has the addresses that QEMU 7.2 does and does not map.
func TestBARs(t *testing.T) {
	d := &ivshmem.Device{Config: ivshmem.Config{Vectors: 2, SharedSize: 1 << 20}}
	var moved []string
	d.Map = func(n int, b ivshmem.BAR) { moved = append(moved, fmt.Sprintf("%d %#x %v", n, b.Address, b.Mapped)) }
	set := func(off, v uint64) { d.WriteConfig(off, bytesOf(v, 4)) }
	want := func(w ...string) {
		t.Helper()
		if diff := cmp.Diff(w, moved); diff != "" {
			t.Errorf("moved (-want +got)\n%s", diff)
		}
		moved = nil
	}
	set(0x10, 0xfffffe00)
	set(0x18, 0xfff00000)
	want()
	set(4, 2)
	want("0 0xfffffe00 true", "2 0xfff00000 true")
	set(0x10, 0xffffff00)
	want("0 0xffffff00 false")
	set(0x10, 0)
	want()
	set(0x10, 0xa0000080)
	want("0 0xa0000000 true")
	set(0x1c, 0xffffffff)
	want("2 0xfffffffffff00000 false")
	set(0x1c, 1)
	want("2 0x1fff00000 true")
	if bar, off, ok := d.Find(0x1fff00123); bar != 2 || off != 0x123 || !ok {
		t.Errorf("Find = %d, %#x, %v, want 2, 0x123, true", bar, off, ok)
	}
	if _, _, ok := d.Find(0x200000000); ok {
		t.Error("Find past the end of BAR2")
	}
	d.Reset()
	want("0 0x0 false", "2 0x0 false")
	set(4, 2)
	set(0x18, 0x100000)
	moved = nil
	d.Refresh()
	want("0 0x0 false", "1 0x0 false", "2 0x100000 true")
}

func TestConfigEdges(t *testing.T) {
	d := &ivshmem.Device{Config: ivshmem.Config{Vectors: 2}}
	if got := access(d.ReadConfig, 254, 4); got != 0xffff0000 {
		t.Errorf("read across the end = %#x, want 0xffff0000", got)
	}
	if got := access(d.ReadConfig, ^uint64(0), 4); got != 0xffffffff {
		t.Errorf("read at 2^64-1 = %#x, want ones", got)
	}
	d.WriteConfig(254, bytesOf(0x11223344, 4))
	d.WriteConfig(^uint64(0), bytesOf(0, 4))
	if got := access(d.ReadConfig, 252, 4); got != 0x33440000 {
		t.Errorf("config+252 = %#x, want 0x33440000", got)
	}
	d.WriteConfig(0x4c, bytesOf(0x12345678, 4))
	d.WriteConfig(0x0c, bytesOf(0xffffffff, 4))
	d.WriteConfig(0x3c, bytesOf(0xffffffff, 4))
	d.Reset()
	for off, want := range map[uint64]uint64{4: 0x100000, 0xc: 0, 0x3c: 0, 0x4c: 0x12345678, 0x18: 0xc} {
		if got := access(d.ReadConfig, off, 4); got != want {
			t.Errorf("config+%#x = %#x after reset, want %#x", off, got, want)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name   string
		config ivshmem.Config
		ok     bool
	}{
		{"zero", ivshmem.Config{}, true},
		{"all", ivshmem.Config{Revision: ivshmem.Revision0, Vectors: 2048, Pins: true, SharedSize: 1 << 31, RegisterSize: 256, Shared32: true, Vector8: true}, true},
		{"revision", ivshmem.Config{Revision: 2}, false},
		{"vectors", ivshmem.Config{Vectors: 2049}, false},
		{"negative vectors", ivshmem.Config{Vectors: -1}, false},
		{"pins", ivshmem.Config{Pins: true}, false},
		{"register size", ivshmem.Config{RegisterSize: 512}, false},
		{"odd size", ivshmem.Config{SharedSize: 3 << 20}, false},
		{"small size", ivshmem.Config{SharedSize: 2048}, false},
		{"wide size", ivshmem.Config{SharedSize: 1 << 32, Shared32: true}, false},
		{"huge", ivshmem.Config{SharedSize: 1 << 63}, true},
	} {
		if err := c.config.Validate(); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestSnapshot restores a State by assignment and from JSON.
func TestSnapshot(t *testing.T) {
	d := &ivshmem.Device{Config: ivshmem.Config{Vectors: 70, SharedSize: 1 << 20}}
	scramble(d, rand.New(rand.NewPCG(1, 2)), 500)
	d.ID, d.Ready = 77, true
	b, err := json.Marshal(d.State)
	if err != nil {
		t.Fatal(err)
	}
	var s ivshmem.State
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	if s != d.State {
		t.Errorf("JSON does not restore the state (-want +got)\n%s", cmp.Diff(d.State, s))
	}
	if err := json.Unmarshal([]byte(`{"Table":`+manyEntries(ivshmem.MaxVectors+1)+`}`), &s); err == nil {
		t.Error("a table of 2049 entries was taken")
	}
	zero, err := json.Marshal(ivshmem.State{})
	if err != nil {
		t.Fatal(err)
	}
	if len(zero) > 1024 {
		t.Errorf("the power-on state takes %d bytes of JSON", len(zero))
	}
	if err := json.Unmarshal(zero, &s); err != nil || s != (ivshmem.State{}) {
		t.Errorf("power-on state: %v, %+v", err, s)
	}
}

func manyEntries(n int) string {
	b, _ := json.Marshal(make([]ivshmem.MSIXEntry, n))
	return string(b)
}

// scramble makes n random accesses and interrupts.
func scramble(d *ivshmem.Device, rnd *rand.Rand, n int) {
	var buf [16]byte
	for range n {
		p := buf[:[]int{1, 2, 4, 8, rnd.IntN(17)}[rnd.IntN(5)]]
		for i := range p {
			p[i] = byte(rnd.Uint32())
		}
		off := rnd.Uint64() >> (40 + rnd.IntN(24))
		if rnd.IntN(64) == 0 {
			off = -off
		}
		switch rnd.IntN(12) {
		case 0, 1, 2:
			d.WriteBAR(rnd.IntN(4), off, p)
		case 3, 4, 5:
			d.ReadBAR(rnd.IntN(4), off, p)
		case 6:
			d.ReadConfig(off, p)
		case 7:
			d.WriteConfig(off&0xff, p)
		case 8:
			d.Write(off&0xf, p)
		case 9:
			d.Interrupt(uint16(off))
		case 10:
			d.Find(off << rnd.IntN(32))
		default:
			if rnd.IntN(100) == 0 {
				d.Reset()
			}
		}
	}
}

// TestRandomAccesses makes 10^6 random accesses to devices of every kind, whose
// hooks call back, and from states that no guest can reach.
func TestRandomAccesses(t *testing.T) {
	rnd := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	n := difftest.Scale(t, 1_000_000)
	const stretch = 1000
	for range max(n/stretch, 1) {
		d := &ivshmem.Device{
			Config: ivshmem.Config{
				Revision: ivshmem.Revision(rnd.IntN(3)), Vectors: rnd.IntN(2300) - 100, Pins: rnd.IntN(2) == 0,
				SharedSize: rnd.Uint64() >> rnd.IntN(64), RegisterSize: rnd.Uint32N(2048), Shared32: rnd.IntN(2) == 0,
				Vector8: rnd.IntN(2) == 0,
			},
			Memory: make([]byte, rnd.IntN(8192)),
		}
		if rnd.IntN(2) == 0 {
			d.Vectors = rnd.IntN(4)
		}
		d.Ring = func(_, v uint16) { d.Interrupt(v) }
		d.SendMSI = func(uint64, uint32) { d.Reset() }
		d.SetIRQ = func(bool) { d.Read(0, make([]byte, 16)) }
		d.Map = func(int, ivshmem.BAR) {}
		if rnd.IntN(4) == 0 {
			d.Trace = func(e ivshmem.TraceEvent) { _ = e.String() }
		}
		if rnd.IntN(2) == 0 {
			damage(&d.State, rnd)
		}
		scramble(d, rnd, stretch)
	}
}

// damage fills a State with what a hostile snapshot may hold.
func damage(s *ivshmem.State, rnd *rand.Rand) {
	s.IntrMask, s.IntrStatus, s.Command, s.MSIXControl = rnd.Uint32(), rnd.Uint32(), uint16(rnd.Uint32()), uint16(rnd.Uint32())
	for i := range s.BARs {
		s.BARs[i] = rnd.Uint32()
	}
	for i := range s.Pending {
		s.Pending[i] = rnd.Uint64()
	}
	for i := range s.Table[:100] {
		s.Table[i].Control = rnd.Uint32()
	}
}

// TestAccessDoesNotAllocate holds for every space and for the doorbell.
func TestAccessDoesNotAllocate(t *testing.T) {
	d := &ivshmem.Device{Config: ivshmem.Config{Vectors: 2}}
	d.Ring = func(_, v uint16) { d.Interrupt(v) }
	aim(d, 2)
	d.WriteConfig(0x42, bytesOf(ivshmem.MSIXEnable, 2))
	ring := bytesOf(1, 4)
	if n := testing.AllocsPerRun(100, func() {
		var p [4]byte
		for off := range uint64(16) {
			d.Read(off, p[:])
			d.ReadMSIX(off, p[:])
			d.ReadConfig(off, p[:])
		}
		d.Write(ivshmem.RegDoorbell, ring)
		d.WriteConfig(4, p[:])
		d.WriteMSIX(12, p[:])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTrace(t *testing.T) {
	d := &ivshmem.Device{Config: ivshmem.Config{Vectors: 2}}
	d.Ring = func(_, v uint16) { d.Interrupt(v) }
	var got []string
	d.Trace = func(e ivshmem.TraceEvent) { got = append(got, e.String()) }
	write32(d, ivshmem.RegDoorbell, 1)
	d.WriteConfig(0x42, bytesOf(ivshmem.MSIXEnable, 2))
	write32(d, ivshmem.RegDoorbell, 1)
	aim(d, 1)
	d.WriteConfig(4, bytesOf(6, 2))
	write32(d, ivshmem.RegDoorbell, 0x20000)
	read32(d, 0x20)
	read32(d, ivshmem.RegIVPosition)
	d.Reset()
	d.Revision, d.Pins = ivshmem.Revision0, true
	write32(d, ivshmem.RegIntrMask, 1)
	d.Interrupt(0)
	if diff := cmp.Diff([]string{
		"write BAR0+0xc, 4 bytes: Doorbell = 0x1",
		"ring peer 0, vector 1",
		"vector 1: lost",
		"write config+0x42, 2 bytes: MSI-X control = 0x8000",
		"write BAR0+0xc, 4 bytes: Doorbell = 0x1",
		"ring peer 0, vector 1",
		"vector 1: pending",
		"write BAR1+0x0, 8 bytes: 0x200000",
		"write BAR1+0x8, 8 bytes: 0xa0",
		"write config+0x4, 2 bytes: command = 0x6",
		"write BAR0+0xc, 4 bytes: Doorbell = 0x20000",
		"ring peer 2, vector 0",
		"vector 0: message 0xa0 to 0x200000",
		"read BAR0+0x20, 4 bytes: 0x0",
		"read BAR0+0x8, 4 bytes: IVPosition = 0x0",
		"reset",
		"write BAR0+0x0, 4 bytes: Interrupt Mask = 0x1",
		"pin: level 1",
	}, got); diff != "" {
		t.Errorf("trace (-want +got)\n%s", diff)
	}
}

// FuzzDevice takes a byte string for a guest: each 4 bytes are an operation.
func FuzzDevice(f *testing.F) {
	f.Add(uint16(2), uint8(0), []byte("\x01\x0c\x04\x00\x07\x42\x02\x80\x01\x0c\x04\x01"))
	f.Add(uint16(0), uint8(3), []byte("\x01\x00\x04\x01\x0a\x00\x00\x00\x00\x04\x04\x00"))
	f.Fuzz(func(t *testing.T, vectors uint16, kind uint8, ops []byte) {
		d := &ivshmem.Device{Config: ivshmem.Config{
			Revision: ivshmem.Revision(kind & 1), Pins: kind&2 != 0, Vectors: int(vectors), Vector8: kind&4 != 0, Shared32: kind&8 != 0,
		}}
		d.Ring = func(_, v uint16) { d.Interrupt(v) }
		d.Memory = make([]byte, 256)
		for ; len(ops) >= 4; ops = ops[4:] {
			off, p := uint64(ops[1])<<(ops[0]>>4), ops[2:2+ops[2]%3]
			switch ops[0] & 0xf {
			case 0, 2, 4:
				d.ReadBAR(int(ops[0]&0xf)/2, off, make([]byte, ops[2]))
			case 1, 3, 5:
				d.WriteBAR(int(ops[0]&0xf)/2, off, p)
			case 6:
				d.ReadConfig(off, make([]byte, ops[2]))
			case 7:
				d.WriteConfig(off, p)
			case 8:
				d.Reset()
			case 9:
				d.Find(off << 24)
			default:
				d.Interrupt(uint16(off))
			}
			if l := d.Level(); l && d.Revision == ivshmem.Revision1 {
				t.Fatal("revision 1 raised a pin")
			}
		}
		b, err := json.Marshal(d.State)
		var s ivshmem.State
		if err == nil {
			err = json.Unmarshal(b, &s)
		}
		if err != nil || s != d.State {
			t.Fatalf("snapshot: %v", err)
		}
	})
}

func BenchmarkDevice(b *testing.B) {
	d := &ivshmem.Device{Config: ivshmem.Config{Vectors: 2}}
	d.Ring = func(peer, vector uint16) {}
	p := bytesOf(1, 4)
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"read=status", func() { d.Read(ivshmem.RegIntrStatus, p) }},
		{"read=position", func() { d.Read(ivshmem.RegIVPosition, p) }},
		{"write=mask", func() { d.Write(ivshmem.RegIntrMask, p) }},
		{"write=doorbell", func() { d.Write(ivshmem.RegDoorbell, p) }},
		{"read=msix", func() { d.ReadMSIX(8, p) }},
		{"write=msix", func() { d.WriteMSIX(8, p) }},
		{"read=config", func() { d.ReadConfig(0, p) }},
		{"interrupt", func() { d.Interrupt(1) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.do()
			}
		})
	}
}
