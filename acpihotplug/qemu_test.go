package acpihotplug_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/virtfmt/virtfmt/acpihotplug"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/qtest"
)

// lockstep drives a real QEMU and a Device by the same steps.
type lockstep struct {
	t     *testing.T
	vm    *qtest.VM
	d     acpihotplug.Device
	ports acpihotplug.Ports
	rng   *rand.Rand
	buses []string // names by selector
	ids   map[[2]int]string
	index map[[2]int]uint32
	next  int
	base  uint16 // of the register block
	gpe   uint16 // of the GPE block
	q35   bool
	log   []string
}

// TestQEMU runs random accesses, plugs, unplug requests and resets on real
// machines and on the model, and compares all that a guest can see.
func TestQEMU(t *testing.T) {
	bin := difftest.Tool(t, "qemu-system-x86_64", "7.2")
	seed := difftest.Seed(t, 1)
	bridges := []string{"-device", "pci-bridge,id=br1,addr=3.0,chassis_nr=1", "-device", "pci-bridge,id=br2,addr=4.0,chassis_nr=2"}
	for _, m := range []struct {
		name  string
		args  []string
		mode  acpihotplug.Mode
		buses []string
		fixed []int
	}{
		{"modern", []string{"-M", "pc-i440fx-7.2"}, acpihotplug.ClearOnRead, []string{"pci.0"}, []int{0, 1}},
		{"bridges", append([]string{"-M", "pc-i440fx-7.2"}, bridges...), acpihotplug.ClearOnRead, []string{"pci.0", "br2", "br1"}, []int{0, 1, 3, 4}},
		{"legacy", []string{"-M", "pc-i440fx-7.2", "-global", "PIIX4_PM.acpi-pci-hotplug-with-bridge-support=off"}, acpihotplug.Latched, []string{"pci.0"}, []int{0, 1}},
		{"oldest", []string{"-M", "pc-i440fx-1.7", "-device", "VGA,addr=2"}, acpihotplug.Latched, []string{"pci.0"}, []int{0, 1, 2}},
		{"q35", []string{"-M", "pc-q35-7.2", "-device", "pcie-root-port,id=rp,addr=3", "-device", "pcie-pci-bridge,id=br,bus=rp"}, acpihotplug.ClearOnRead, []string{"", "br"}, []int{0}},
	} {
		t.Run(m.name, func(t *testing.T) {
			l := &lockstep{
				t: t, vm: qtest.Start(t, bin, append(m.args, "-m", "16")...),
				rng: rand.New(rand.NewPCG(seed, 1)), buses: m.buses,
				ids: map[[2]int]string{}, index: map[[2]int]uint32{},
				base: acpihotplug.Base, gpe: acpihotplug.GPEBase, q35: m.name == "q35",
			}
			l.d = acpihotplug.Device{Mode: m.mode, AcpiIndex: func(bus, slot int) uint32 { return l.index[[2]int{bus, slot}] }}
			l.d.Eject = func(bus, slot int) { delete(l.ids, [2]int{bus, slot}); delete(l.index, [2]int{bus, slot}) }
			if l.q35 {
				l.base, l.gpe, l.d.GPELen = acpihotplug.BaseQ35, pmBase+0x20, 16
				l.enablePM()
			}
			l.ports = acpihotplug.Ports{Device: &l.d, Base: l.base, GPEBase: l.gpe}
			l.vm.Intercept("ioapic")
			for _, slot := range m.fixed {
				if err := l.d.ColdPlug(0, slot, true); err != nil {
					t.Fatal(err)
				}
			}
			for range difftest.Scale(t, 4000) {
				if l.step(); t.Failed() {
					t.Fatalf("after:\n%s", l.log[max(0, len(l.log)-20):])
				}
			}
			l.compareAll()
		})
	}
}

// pmBase is where firmware puts q35's power management ports.
const pmBase = 0x600

// enablePM does to q35's LPC bridge what firmware does after each reset.
func (l *lockstep) enablePM() {
	const lpc = 1<<31 | 0x1f<<11
	l.vm.Out(0xcf8, 4, lpc|0x40)
	l.vm.Out(0xcfc, 4, pmBase|1)
	l.vm.Out(0xcf8, 4, lpc|0x44)
	l.vm.Out(0xcfc, 1, 0x80)
}

func (l *lockstep) logf(format string, args ...any) {
	l.log = append(l.log, fmt.Sprintf(format+"\n", args...))
}

func (l *lockstep) step() {
	l.t.Helper()
	bus, slot := l.rng.IntN(len(l.buses)), l.rng.IntN(acpihotplug.NumSlots)
	switch n := l.rng.IntN(100); {
	case n < 10:
		l.plug(bus, slot)
	case n < 20:
		l.unplug(bus, slot)
	case n < 21:
		l.reset()
	case n < 55:
		l.out()
	default:
		l.in(l.port())
	}
	l.in(l.gpe, 4) // QEMU tells of interrupts before it answers
	if got, want := l.d.SCI(), l.vm.IRQ(acpihotplug.SCI); got != want {
		l.t.Errorf("SCI %v, in QEMU %v", got, want)
	}
}

// port returns a random port and width, mostly a register's, sometimes across
// the ends of a block.
func (l *lockstep) port() (port uint16, width int) {
	width = 1 << l.rng.IntN(3)
	switch l.rng.IntN(4) {
	case 0:
		if l.q35 { // whose blocks other registers follow
			return l.base + uint16(l.rng.IntN(acpihotplug.SizeQEMU6+1-width)), width
		}
		return l.base + uint16(l.rng.IntN(acpihotplug.SizeQEMU6+4)), width
	case 1:
		if l.q35 {
			return l.gpe + uint16(l.rng.IntN(17-width)), width
		}
		return l.gpe + uint16(l.rng.IntN(5)), width
	default:
		return l.base + 4*uint16(l.rng.IntN(6)), 4
	}
}

func (l *lockstep) in(port uint16, width int) {
	l.t.Helper()
	want := l.vm.In(port, width)
	l.logf("in%d 0x%x: 0x%x", width, port, want)
	b := []byte{0xff, 0xff, 0xff, 0xff}
	l.ports.In(port, b[:width])
	clear(b[width:])
	if got := binary.LittleEndian.Uint32(b); got != want {
		l.t.Errorf("in%d 0x%x = 0x%x, in QEMU 0x%x", width, port, got, want)
	}
}

func (l *lockstep) out() {
	port, width := l.port()
	var v uint32
	switch l.rng.IntN(4) {
	case 0:
		v = l.rng.Uint32() & l.rng.Uint32() & l.rng.Uint32()
	case 1:
		v = uint32(l.rng.IntN(len(l.buses) + 1))
	case 2:
		v = []uint32{0, 255, 256, 0xffffffff}[l.rng.IntN(4)]
	default:
		v = 1 << l.rng.IntN(32)
	}
	v &= 1<<(8*width) - 1
	if l.q35 && port == l.base+acpihotplug.RegEject && l.d.Select == 0 {
		return // what sits on q35's root bus is not for the guest to eject
	}
	l.logf("out%d 0x%x 0x%x", width, port, v)
	l.vm.Out(port, width, v)
	b := binary.LittleEndian.AppendUint32(nil, v)
	l.ports.Out(port, b[:width])
}

func (l *lockstep) plug(bus, slot int) {
	at := [2]int{bus, slot}
	switch {
	case l.d.Bus[bus].Present>>slot&1 != 0, l.buses[bus] == "":
		return
	case bus > 0 && slot == 0: // of the bridge's own hot-plug controller
		return
	}
	l.next++
	args := map[string]any{"driver": "pci-testdev", "id": fmt.Sprint("d", l.next), "bus": l.buses[bus], "addr": fmt.Sprintf("%x", slot)}
	index := uint32(0)
	if l.rng.IntN(2) == 0 {
		index = uint32(l.next)
		args["acpi-index"] = index
	}
	l.logf("plug %v", args)
	if _, err := l.vm.QMP("device_add", args); err != nil {
		l.t.Error(err)
		return
	}
	l.ids[at], l.index[at] = args["id"].(string), index
	if err := l.d.Plug(bus, slot); err != nil {
		l.t.Error(err)
	}
}

func (l *lockstep) unplug(bus, slot int) {
	id, ok := l.ids[[2]int{bus, slot}]
	if !ok || l.d.Pending(bus, slot) {
		return
	}
	l.logf("unplug %d %d", bus, slot)
	if _, err := l.vm.QMP("device_del", map[string]any{"id": id}); err != nil {
		l.t.Error(err)
	}
	if err := l.d.RequestUnplug(bus, slot); err != nil {
		l.t.Error(err)
	}
}

func (l *lockstep) reset() {
	l.logf("reset")
	if _, err := l.vm.QMP("system_reset", nil); err != nil {
		l.t.Error(err)
	}
	l.vm.Await("RESET")
	l.d.Reset()
	if l.q35 {
		l.enablePM()
	}
}

// compareAll compares every register of every bus, and which slots of bus 0
// hold a device.
func (l *lockstep) compareAll() {
	for bus := range uint32(acpihotplug.NumBuses + 1) {
		b := binary.LittleEndian.AppendUint32(nil, bus)
		l.vm.Out(l.base+acpihotplug.RegSelect, 4, bus)
		l.ports.Out(l.base+acpihotplug.RegSelect, b)
		for off := uint16(0); off < acpihotplug.SizeQEMU6; off += 4 {
			l.in(l.base+off, 4)
		}
	}
	if l.q35 {
		return // its root bus has devices that nobody named
	}
	for slot := range acpihotplug.NumSlots {
		l.vm.Out(0xcf8, 4, 1<<31|uint32(slot)<<11)
		if got, want := l.d.Bus[0].Present>>slot&1 == 1, l.vm.In(0xcfc, 2) != 0xffff; got != want {
			l.t.Errorf("slot %d holds a device: %v, in QEMU %v", slot, got, want)
		}
	}
}
