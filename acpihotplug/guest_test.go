package acpihotplug_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/acpihotplug"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/qtest"
)

// recorder notes the accesses that pass through it.
type recorder struct {
	to  acpihotplug.PortIO
	log []string
}

func (r *recorder) In(port uint16, p []byte) bool {
	ok := r.to.In(port, p)
	if len(p) == 4 { // of the GPE block a real guest reads more than it needs
		r.log = append(r.log, fmt.Sprintf("in 0x%x 0x%x", port, binary.LittleEndian.Uint32(p)))
	}
	return ok
}

func (r *recorder) Out(port uint16, p []byte) bool {
	v := make([]byte, 4)
	copy(v, p)
	r.log = append(r.log, fmt.Sprintf("out 0x%x 0x%x", port, binary.LittleEndian.Uint32(v)))
	return r.to.Out(port, p)
}

// linuxAccesses returns what Linux did in a trace: writes, and reads of the
// register block, from the first plug on or before it. Of the GPE's enable
// register only hot-plug's bit counts: Linux uses others.
func linuxAccesses(tr *trace) (before, after []string) {
	to := &before
	for _, s := range tr.Steps {
		v := s.Val
		if s.Addr == tr.GPE+2 {
			v &= 1 << acpihotplug.GPEBit
		}
		switch {
		case s.Op == "plug":
			to = &after
		case s.Op == "out", s.Op == "in" && s.Size == 4:
			*to = append(*to, fmt.Sprintf("%s 0x%x 0x%x", s.Op, s.Addr, v))
		}
	}
	return before, after
}

// TestGuestIsLikeLinux compares the guest's accesses with those that Linux
// made on a real QEMU for the same plugs and unplugs.
func TestGuestIsLikeLinux(t *testing.T) {
	for _, c := range []struct {
		trace  string
		device acpihotplug.Mode
		guest  acpihotplug.Mode // of the table that Linux was given
		buses  []int
	}{
		{"linux-our-ssdt", acpihotplug.ClearOnRead, acpihotplug.Latched, nil},
		{"linux-latched", acpihotplug.Latched, acpihotplug.Latched, nil},
		{"linux-bridge", acpihotplug.ClearOnRead, acpihotplug.ClearOnRead, []int{0, 1}},
	} {
		t.Run(c.trace, func(t *testing.T) {
			tr := readTrace(t, "testdata/"+c.trace+".json")
			before, after := linuxAccesses(&tr)
			d := acpihotplug.Device{Mode: c.device}
			r := &recorder{to: acpihotplug.Ports{Device: &d}}
			g := acpihotplug.Guest{IO: r, Mode: c.guest, Buses: c.buses}
			g.Boot()
			// Linux writes the enable register some more times before it
			// enables the event, and may evaluate a _RMV.
			if got := r.log; !slices.Equal(got[:4], before[:4]) || !slices.Contains(before[4:], got[4]) {
				t.Errorf("boot: %q, Linux %q", got, before)
			}
			r.log = nil
			for bus := range max(len(c.buses), 1) {
				must(t, d.Plug(bus, 5))
				wantNotices(t, g.Interrupt(), acpihotplug.Notice{Bus: bus, Slot: 5, Event: acpihotplug.DeviceCheck})
				wantNotices(t, g.Interrupt())
				must(t, d.RequestUnplug(bus, 5))
				want := []acpihotplug.Notice{{Bus: bus, Slot: 5, Event: acpihotplug.EjectRequest}}
				if c.device == acpihotplug.Latched { // told of the plug again
					want = slices.Insert(want, 0, acpihotplug.Notice{Bus: bus, Slot: 5, Event: acpihotplug.DeviceCheck})
				}
				wantNotices(t, g.Interrupt(), want...)
				g.Eject(bus, 5)
			}
			if diff := cmp.Diff(after, r.log); diff != "" {
				t.Errorf("(-Linux +Guest):\n%s", diff)
			}
		})
	}
}

func wantNotices(t *testing.T, got []acpihotplug.Notice, want ...acpihotplug.Notice) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
}

// TestGuestCycles plugs and unplugs at random on every generation, and
// compares what the guest believes with what is there.
func TestGuestCycles(t *testing.T) {
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 1), 3))
	for _, mode := range []acpihotplug.Mode{acpihotplug.Latched, acpihotplug.ClearOnRead, acpihotplug.Level} {
		t.Run(mode.String(), func(t *testing.T) {
			d := acpihotplug.Device{Mode: mode, GPELen: 16}
			must(t, d.ColdPlug(0, 0, true))
			g := acpihotplug.Guest{IO: acpihotplug.Ports{Device: &d}, Mode: mode, GPELen: 16}
			buses := 1
			if mode == acpihotplug.ClearOnRead {
				buses, g.Buses = 4, []int{0, 1, 2, 3}
			}
			g.Boot()
			believed := make([]uint32, buses)
			believed[0] = 1
			for range difftest.Scale(t, 20000) {
				bus, slot := rng.IntN(buses), rng.IntN(acpihotplug.NumSlots)
				if d.Bus[bus].Present>>slot&1 == 0 {
					must(t, d.Plug(bus, slot))
				} else {
					d.RequestUnplug(bus, slot)
				}
				if rng.IntN(3) != 0 || !d.SCI() {
					continue
				}
				for _, n := range g.Interrupt() {
					switch n.Event {
					case acpihotplug.DeviceCheck:
						believed[n.Bus] |= 1 << n.Slot
					case acpihotplug.EjectRequest:
						if !g.Removable(n.Bus, n.Slot) {
							t.Fatalf("asked to eject %v, which is fixed", n)
						}
						believed[n.Bus] &^= 1 << n.Slot
						g.Eject(n.Bus, n.Slot)
					}
				}
				for i, want := range believed {
					if got := d.Bus[i].Present; got != want {
						t.Fatalf("bus %d has 0x%x, the guest believes 0x%x", i, got, want)
					}
				}
			}
		})
	}
}

// TestGuestAcpiIndex: a guest finds the index, or nothing where the block ends
// before the register; the table asks for it where the Device has it.
func TestGuestAcpiIndex(t *testing.T) {
	for _, c := range []struct {
		mode acpihotplug.Mode
		size uint64
		want uint32
	}{
		{acpihotplug.Latched, 0, 9}, {acpihotplug.ClearOnRead, 0, 9}, {acpihotplug.ClearOnRead, acpihotplug.SizeQEMU6, 9},
		{acpihotplug.ClearOnRead, acpihotplug.SizeQEMU2, 0}, {acpihotplug.Latched, acpihotplug.Size2012, 0},
		{acpihotplug.Level, 0, 0},
	} {
		d := acpihotplug.Device{Mode: c.mode, BlockSize: c.size, AcpiIndex: func(bus, slot int) uint32 { return uint32(slot) + 4 }}
		p := acpihotplug.Ports{Device: &d}
		g := acpihotplug.Guest{IO: p, Mode: c.mode}
		if got := g.AcpiIndex(0, 5); got != c.want {
			t.Errorf("%v, block of %d bytes: index %d, want %d", c.mode, c.size, got, c.want)
		}
		if got := p.SSDT().AcpiIndex; got != (c.want != 0) {
			t.Errorf("%v, block of %d bytes: the table asks for the index: %v", c.mode, c.size, got)
		}
		d.AcpiIndex = nil
		if p.SSDT().AcpiIndex {
			t.Error("the table asks for an index that no device has")
		}
	}
}

// qemuPorts lets a Guest run on a real QEMU.
type qemuPorts struct{ *qtest.VM }

func (q qemuPorts) In(port uint16, p []byte) bool {
	v := binary.LittleEndian.AppendUint32(nil, q.VM.In(port, len(p)))
	copy(p, v)
	return true
}

func (q qemuPorts) Out(port uint16, p []byte) bool {
	v := make([]byte, 4)
	copy(v, p)
	q.VM.Out(port, len(p), binary.LittleEndian.Uint32(v))
	return true
}

// TestGuestOnQEMU takes a real machine through a cycle.
func TestGuestOnQEMU(t *testing.T) {
	vm := qtest.Start(t, difftest.Tool(t, "qemu-system-x86_64", "7.2"), "-M", "pc-i440fx-7.2", "-m", "16",
		"-device", "pci-bridge,id=br,addr=3,chassis_nr=1")
	g := acpihotplug.Guest{IO: qemuPorts{vm}, Mode: acpihotplug.ClearOnRead, Buses: []int{0, 1}}
	g.Boot()
	if g.Removable(0, 1) || !g.Removable(0, 2) || g.Removable(0, 3) {
		t.Error("slots 1 and 3 are fixed, 2 is not")
	}
	for bus, name := range []string{"pci.0", "br"} {
		if _, err := vm.QMP("device_add", map[string]any{"driver": "pci-testdev", "id": "d", "bus": name, "addr": "7", "acpi-index": 40 + bus}); err != nil {
			t.Fatal(err)
		}
		if got, want := g.Interrupt(), []acpihotplug.Notice{{bus, 7, acpihotplug.DeviceCheck}}; !slices.Equal(got, want) {
			t.Errorf("told %v, want %v", got, want)
		}
		if got, none := g.AcpiIndex(bus, 7), g.AcpiIndex(bus, 8); got != uint32(40+bus) || none != 0 {
			t.Errorf("acpi-index %d, of an empty slot %d", got, none)
		}
		if _, err := vm.QMP("device_del", map[string]any{"id": "d"}); err != nil {
			t.Fatal(err)
		}
		if got, want := g.Interrupt(), []acpihotplug.Notice{{bus, 7, acpihotplug.EjectRequest}}; !slices.Equal(got, want) {
			t.Errorf("told %v, want %v", got, want)
		}
		g.Eject(bus, 7)
		vm.Await("DEVICE_DELETED")
	}
}
