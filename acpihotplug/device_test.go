package acpihotplug_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/acpihotplug"
	"github.com/virtfmt/virtfmt/internal/difftest"
)

func read(d *acpihotplug.Device, off uint64) uint32 {
	var b [4]byte
	d.Read(off, b[:])
	return binary.LittleEndian.Uint32(b[:])
}

func write(d *acpihotplug.Device, off uint64, v uint32) {
	d.Write(off, binary.LittleEndian.AppendUint32(nil, v))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantReg(t *testing.T, d *acpihotplug.Device, off uint64, want uint32) {
	t.Helper()
	if got := read(d, off); got != want {
		t.Errorf("register 0x%02x = 0x%08x, want 0x%08x", off, got, want)
	}
}

// TestLevel holds what QEMU 1.1 to 1.7 showed: there is no trace of one.
func TestLevel(t *testing.T) {
	d := acpihotplug.Device{Mode: acpihotplug.Level}
	must(t, d.ColdPlug(0, 0, true))
	must(t, d.ColdPlug(0, 3, false))
	wantReg(t, &d, acpihotplug.RegUp, 1<<3)
	must(t, d.Plug(0, 5))
	wantReg(t, &d, acpihotplug.RegUp, 1<<3|1<<5)
	wantReg(t, &d, acpihotplug.RegUp, 1<<3|1<<5)
	must(t, d.RequestUnplug(0, 3))
	wantReg(t, &d, acpihotplug.RegDown, 1<<3)
	write(&d, acpihotplug.RegEject, 1<<3)
	wantReg(t, &d, acpihotplug.RegUp, 1<<5)
	wantReg(t, &d, acpihotplug.RegDown, 0)
	wantReg(t, &d, acpihotplug.RegRemovable, ^uint32(1))
	wantReg(t, &d, acpihotplug.RegSelect, 0xffffffff) // past the block
}

func TestEjectAll(t *testing.T) {
	for _, all := range []bool{false, true} {
		var ejected []int
		d := acpihotplug.Device{EjectAll: all, Eject: func(_, slot int) { ejected = append(ejected, slot) }}
		for _, slot := range []int{31, 7, 9} {
			must(t, d.Plug(0, slot))
		}
		write(&d, acpihotplug.RegEject, 1<<31|1<<7|1<<9|1<<4)
		want := []int{} // slot 4, the lowest, is empty
		if all {
			want = []int{7, 9, 31}
		}
		if !slices.Equal(ejected, want) {
			t.Errorf("EjectAll %v: ejected %v, want %v", all, ejected, want)
		}
	}
}

func TestFixed(t *testing.T) {
	d := acpihotplug.Device{Eject: func(bus, slot int) { t.Errorf("slot %d ejected", slot) }}
	must(t, d.ColdPlug(0, 2, true))
	if err := d.RequestUnplug(0, 2); !errors.Is(err, acpihotplug.ErrFixed) {
		t.Errorf("unplug of a fixed device: %v", err)
	}
	must(t, d.Plug(0, 2)) // one more function of it
	write(&d, acpihotplug.RegEject, 1<<2)
	wantReg(t, &d, acpihotplug.RegUp, 0) // no longer pending all the same
	d.Bus[0].Fixed |= 1 << 9
	wantReg(t, &d, acpihotplug.RegRemovable, ^uint32(1<<2))
	d.Reset()
	wantReg(t, &d, acpihotplug.RegRemovable, ^uint32(1<<2|1<<9))
}

func TestVMMErrors(t *testing.T) {
	var d acpihotplug.Device
	for _, at := range [][2]int{{-1, 0}, {0, -1}, {0, 32}, {256, 0}, {1, 0}} {
		for name, err := range map[string]error{
			"ColdPlug": d.ColdPlug(at[0], at[1], true), "Plug": d.Plug(at[0], at[1]), "RequestUnplug": d.RequestUnplug(at[0], at[1]),
		} {
			if !errors.Is(err, acpihotplug.ErrNoSlot) {
				t.Errorf("%s%v: %v", name, at, err)
			}
		}
		if d.Pending(at[0], at[1]) {
			t.Errorf("%v pending", at)
		}
		d.CancelUnplug(at[0], at[1])
	}
	if err := d.RequestUnplug(0, 4); !errors.Is(err, acpihotplug.ErrEmpty) {
		t.Errorf("unplug of nothing: %v", err)
	}
	if d.State != (acpihotplug.State{}) {
		t.Error("refused calls changed the state")
	}
	must(t, d.Plug(0, 4))
	must(t, d.RequestUnplug(0, 4))
	if !d.Pending(0, 4) {
		t.Error("not pending")
	}
	d.CancelUnplug(0, 4)
	if d.Pending(0, 4) || read(&d, acpihotplug.RegDown) != 0 {
		t.Error("pending after it was cancelled")
	}
}

// TestReset tells what survives one.
func TestReset(t *testing.T) {
	for _, keep := range []bool{false, true} {
		d := acpihotplug.Device{Mode: acpihotplug.ClearOnRead, GPESurvivesReset: keep}
		var irq []bool
		d.SetIRQ = func(level bool) { irq = append(irq, level) }
		must(t, d.Plug(0, 3))
		must(t, d.Plug(7, 4))
		must(t, d.RequestUnplug(7, 4))
		write(&d, acpihotplug.RegSelect, 7)
		d.WriteGPE(2, []byte{2})
		d.Reset()
		want := acpihotplug.State{Select: 7}
		want.Bus[0] = acpihotplug.Bus{Up: 8, Present: 8}
		wantIRQ := []bool{true, false}
		if keep {
			want.GPE = acpihotplug.GPE{Status: 2, Enable: 2}
			wantIRQ = wantIRQ[:1]
		}
		if diff := cmp.Diff(want, d.State); diff != "" {
			t.Errorf("GPESurvivesReset %v (-want +got):\n%s", keep, diff)
		}
		if !slices.Equal(irq, wantIRQ) {
			t.Errorf("SetIRQ got %v, want %v", irq, wantIRQ)
		}
	}
}

func TestGPE(t *testing.T) {
	d := acpihotplug.Device{GPELen: 16} // q35
	d.RaiseGPE(63)
	d.RaiseGPE(64)
	d.RaiseGPE(-1)
	if d.GPE.Status != 1<<63 {
		t.Errorf("status 0x%x", d.GPE.Status)
	}
	d.WriteGPE(15, []byte{0x80, 0xff}) // the second byte is past the block
	if !d.SCI() || d.GPE.Enable != 1<<63 {
		t.Errorf("SCI %v, enable 0x%x", d.SCI(), d.GPE.Enable)
	}
	b := []byte{1, 2, 3}
	d.ReadGPE(14, b)
	if want := []byte{0, 0x80, 0xff}; !slices.Equal(b, want) {
		t.Errorf("read %x, want %x", b, want)
	}
	d.WriteGPE(^uint64(0), []byte{0xff, 0xff}) // wraps around
	if !d.SCI() {
		t.Error("a write past the end of the address space reached a register")
	}
	d.WriteGPE(7, []byte{0x80})
	if d.SCI() {
		t.Error("SCI after its event was cleared")
	}
}

func TestPorts(t *testing.T) {
	var d acpihotplug.Device
	must(t, d.Plug(0, 1))
	p := acpihotplug.Ports{Device: &d, Base: 0xfff0, GPEBase: 0x10}
	b := make([]byte, 4)
	for port, want := range map[uint16]bool{0xffef: false, 0xfff0: true, 0xffff: true, 0: false, 0xf: false, 0x10: true, 0x13: true, 0x14: false} {
		if got := p.In(port, b); got != want {
			t.Errorf("In(0x%x) = %v", port, got)
		}
		if got := p.Out(port, []byte{0}); got != want {
			t.Errorf("Out(0x%x) = %v", port, got)
		}
	}
}

func TestStateJSON(t *testing.T) {
	d := acpihotplug.Device{Mode: acpihotplug.ClearOnRead}
	must(t, d.ColdPlug(0, 0, true))
	must(t, d.Plug(255, 31))
	must(t, d.Plug(9, 1))
	write(&d, acpihotplug.RegSelect, 9)
	b, err := json.Marshal(d.State)
	must(t, err)
	const want = `{"GPE":{"Status":2,"Enable":0},"Select":9,"Index":0,"Bus":{"0":{"Present":1,"Fixed":1,"Locked":1},"255":{"Up":2147483648,"Present":2147483648},"9":{"Up":2,"Present":2}}}`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	var s acpihotplug.State
	must(t, json.Unmarshal(b, &s))
	if s != d.State {
		t.Errorf("came back as %+v", s)
	}
	for _, bad := range []string{`{"Bus":{"256":{}}}`, `{"Bus":{"-1":{}}}`, `{"Bus":{"0":{"Up":4294967296}}}`, `{"Bus":[]}`} {
		if err := json.Unmarshal([]byte(bad), &s); err == nil {
			t.Errorf("%s accepted", bad)
		}
	}
}

func TestModeNames(t *testing.T) {
	for _, m := range []acpihotplug.Mode{acpihotplug.Latched, acpihotplug.ClearOnRead, acpihotplug.Level} {
		if got, err := acpihotplug.ParseMode(m.String()); err != nil || got != m {
			t.Errorf("%v parses as %v, %v", m, got, err)
		}
	}
	if _, err := acpihotplug.ParseMode("edge"); err == nil {
		t.Error("no error")
	}
	if got := acpihotplug.Mode(9).String(); got != "Mode(9)" {
		t.Error(got)
	}
}

// TestRandom makes a million accesses of any place, width and value, with the
// VMM plugging, unplugging and resetting in between.
func TestRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 1), 2))
	for mode := range acpihotplug.Mode(4) { // and one that is none
		d := acpihotplug.Device{Mode: mode, EjectAll: rng.IntN(2) == 0, GPELen: uint8(rng.IntN(20)), BlockSize: []uint64{0, 0x10, 0x14, 3}[rng.IntN(4)]}
		level := false
		d.SetIRQ = func(l bool) { level = l }
		words := 0
		d.Trace = func(e acpihotplug.Event) {
			if rng.IntN(64) == 0 {
				words += len(e.String())
			}
		}
		var b [9]byte
		for range difftest.Scale(t, 1_000_000) / 4 {
			off := uint64(rng.IntN(0x30))
			if rng.IntN(8) == 0 {
				off = rng.Uint64()
			}
			p := b[:rng.IntN(len(b)+1)]
			if rng.IntN(2) == 0 {
				p = b[:4]
			}
			binary.LittleEndian.PutUint64(b[:], rng.Uint64()&rng.Uint64())
			bus, slot := rng.IntN(260)-2, rng.IntN(36)-2
			switch rng.IntN(20) {
			case 0:
				d.Plug(bus, slot)
			case 1:
				d.RequestUnplug(bus, slot)
			case 2:
				d.RaiseGPE(slot * 3)
			case 3:
				if rng.IntN(100) == 0 {
					d.Reset()
				}
			case 4, 5, 6, 7:
				d.Read(off, p)
			case 8, 9, 10, 11:
				d.Write(off, p)
			case 12, 13, 14, 15:
				d.ReadGPE(off, p)
			default:
				d.WriteGPE(off, p)
			}
			if d.SCI() != level {
				t.Fatalf("SCI is %v, SetIRQ was told %v", d.SCI(), level)
			}
		}
		if words == 0 {
			t.Error("no event told")
		}
	}
}

// TestAllocs holds that an access costs no allocation.
func TestAllocs(t *testing.T) {
	d := acpihotplug.Device{Mode: acpihotplug.ClearOnRead, SetIRQ: func(bool) {}}
	var b [4]byte
	if n := testing.AllocsPerRun(100, func() {
		d.Plug(0, 3)
		d.Read(acpihotplug.RegUp, b[:])
		d.ReadGPE(0, b[:])
		d.WriteGPE(0, b[:])
		d.Write(acpihotplug.RegEject, b[:])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRead(b *testing.B) {
	d := acpihotplug.Device{Mode: acpihotplug.ClearOnRead}
	p := make([]byte, 4)
	b.ReportAllocs()
	for b.Loop() {
		d.Read(acpihotplug.RegUp, p)
	}
}

func BenchmarkWrite(b *testing.B) {
	d := acpihotplug.Device{Mode: acpihotplug.ClearOnRead}
	p := []byte{0, 1, 0, 0}
	b.ReportAllocs()
	for b.Loop() {
		d.Write(acpihotplug.RegEject, p)
	}
}

func BenchmarkReadGPE(b *testing.B) {
	var d acpihotplug.Device
	p := make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		d.ReadGPE(0, p)
	}
}

func BenchmarkWriteGPE(b *testing.B) {
	var d acpihotplug.Device
	p := []byte{2}
	b.ReportAllocs()
	for b.Loop() {
		d.WriteGPE(0, p)
	}
}

// TestGPEBounds: an event that the block has no bit for does not happen.
func TestGPEBounds(t *testing.T) {
	for length, events := range map[uint8]int{0: 16, 2: 8, 4: 16, 16: 64, 255: 64} {
		for n := -2; n < 70; n++ {
			d := acpihotplug.Device{GPELen: length}
			d.GPE.Enable = ^uint64(0)
			d.RaiseGPE(n)
			want := n >= 0 && n < events
			if got := d.GPE.Status != 0; got != want || want && d.GPE.Status != 1<<n || d.SCI() != want {
				t.Errorf("block of %d bytes: event %d: status 0x%x", length, n, d.GPE.Status)
			}
		}
	}
}
