package acpihotplug_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/acpihotplug"
)

// trace is a recorded conversation with a real QEMU: see testdata/README.md.
type trace struct {
	Name, QEMU, Machine string
	Args                []string
	Base, GPE           uint16
	Steps               []step
}

type step struct {
	Op    string
	Size  int
	Addr  uint16
	Val   uint32
	Slot  *int
	Bus   any // the name of a bus, or 0
	ID    string
	Err   string
	Slots any // a list, or a mask
	Level int
	Text  string
	Props struct {
		Index uint32 `json:"acpi-index"`
	}
}

func readTrace(t *testing.T, path string) trace {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var tr trace
	if err := json.Unmarshal(b, &tr); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return tr
}

// mode returns the generation that the trace's machine is of.
func (tr *trace) mode() acpihotplug.Mode {
	if tr.Machine == "pc-i440fx-1.7" || strings.Contains(strings.Join(tr.Args, " "), "bridge-support=off") {
		return acpihotplug.Latched
	}
	return acpihotplug.ClearOnRead
}

// player runs the steps of a trace on a Device.
type player struct {
	t       *testing.T
	d       acpihotplug.Device
	ports   acpihotplug.Ports
	busOf   map[string]int    // selectors of the buses that have one
	place   map[string][2]int // bus and slot of a device, by id
	index   map[[2]int]uint32
	ejected []int // slots that no "deleted" told of: it may come some steps late
	level   bool
}

func newPlayer(t *testing.T, tr *trace, mode acpihotplug.Mode) *player {
	p := &player{
		t:     t,
		d:     acpihotplug.Device{Mode: mode},
		busOf: map[string]int{"pci.0": 0, "": 0},
		place: map[string][2]int{},
		index: map[[2]int]uint32{},
	}
	p.d.Eject = func(bus, slot int) { p.ejected = append(p.ejected, slot) }
	p.d.SetIRQ = func(level bool) { p.level = level }
	p.d.AcpiIndex = func(bus, slot int) uint32 { return p.index[[2]int{bus, slot}] }
	p.ports = acpihotplug.Ports{Device: &p.d, Base: tr.Base, GPEBase: tr.GPE}
	p.coldPlug(tr.Args)
	return p
}

// coldPlug places what the machine has: the host bridge in slot 0, the south
// bridge in 1, and the devices of QEMU's command line.
func (p *player) coldPlug(args []string) {
	p.check(p.d.ColdPlug(0, 0, true))
	p.check(p.d.ColdPlug(0, 1, true))
	bridges := []string{}
	for _, arg := range args {
		if !strings.Contains(arg, "addr=") {
			continue
		}
		var id string
		var slot, fn int
		for f := range strings.SplitSeq(arg, ",") {
			fmt.Sscanf(f, "addr=%x.%d", &slot, &fn)
			if v, ok := strings.CutPrefix(f, "id="); ok {
				id = v
			}
		}
		bridge := strings.HasPrefix(arg, "pci-bridge,")
		p.check(p.d.ColdPlug(0, slot, bridge || strings.HasPrefix(arg, "VGA,")))
		p.place[id] = [2]int{0, slot}
		if bridge {
			bridges = append(bridges, id)
		}
	}
	for i, id := range bridges { // the last has the lowest selector
		p.busOf[id] = len(bridges) - i
	}
}

func (p *player) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *player) step(s step) {
	t := p.t
	t.Helper()
	switch s.Op {
	case "in":
		if got := p.in(s.Addr, s.Size); got != s.Val {
			t.Errorf("in%d 0x%x = 0x%x, want 0x%x", s.Size, s.Addr, got, s.Val)
		}
	case "out":
		b := binary.LittleEndian.AppendUint32(nil, s.Val)
		p.ports.Out(s.Addr, b[:s.Size])
	case "plug":
		p.plug(s)
	case "unplug_request":
		p.unplug(s)
	case "deleted":
		p.deleted(s)
	case "present":
		if got, want := p.d.Bus[0].Present, uint32(s.Slots.(float64)); got != want {
			t.Errorf("present 0x%x, want 0x%x", got, want)
		}
	case "sci":
		if want := s.Level == 1; p.d.SCI() != want || p.level != want {
			t.Errorf("SCI %v, SetIRQ last told %v, want %v", p.d.SCI(), p.level, want)
		}
	case "reset":
		p.d.Reset()
	case "note":
	default:
		t.Fatalf("unknown step %q", s.Op)
	}
}

// in reads a port; one that no device answers reads as ones.
func (p *player) in(port uint16, size int) uint32 {
	b := []byte{0xff, 0xff, 0xff, 0xff}
	p.ports.In(port, b[:size])
	clear(b[size:])
	return binary.LittleEndian.Uint32(b)
}

func (p *player) plug(s step) {
	name, _ := s.Bus.(string)
	bus, ok := p.busOf[name]
	if !ok { // behind a bridge that was plugged in itself
		return
	}
	at := [2]int{bus, *s.Slot}
	p.index[at] = s.Props.Index
	p.place[s.ID] = at
	p.check(p.d.Plug(bus, *s.Slot))
}

func (p *player) unplug(s step) {
	at := p.place[s.ID]
	switch {
	case s.ID == "": // the guest's own trace names no devices
		p.check(p.d.RequestUnplug(0, *s.Slot))
	case strings.Contains(s.Err, "in the process of unplug"):
		if !p.d.Pending(at[0], at[1]) {
			p.t.Errorf("removal of %v is not pending", at)
		}
	case s.Err != "":
		if err := p.d.RequestUnplug(at[0], at[1]); err == nil {
			p.t.Errorf("removal of %v accepted, want %q", at, s.Err)
		}
	default:
		p.check(p.d.RequestUnplug(at[0], at[1]))
	}
}

// deleted compares the order of ejects; QEMU tells of each function of a slot.
func (p *player) deleted(s step) {
	last := -1
	for _, v := range s.Slots.([]any) {
		slot := int(v.(float64))
		if slot == last {
			continue
		}
		if last = slot; len(p.ejected) == 0 || p.ejected[0] != slot {
			p.t.Fatalf("slots %v were ejected, want %d first", p.ejected, slot)
		}
		p.ejected = p.ejected[1:]
	}
}

// TestReplay runs what real QEMUs, and a real Linux guest on one, did.
func TestReplay(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.json")
	if err != nil || len(paths) < 12 {
		t.Fatalf("%d traces, %v", len(paths), err)
	}
	for _, path := range paths {
		tr := readTrace(t, path)
		t.Run(tr.Name, func(t *testing.T) {
			p := newPlayer(t, &tr, tr.mode())
			note := ""
			for i, s := range tr.Steps {
				if s.Op == "note" {
					note = s.Text
				}
				if p.step(s); t.Failed() {
					t.Fatalf("at step %d, %q, after %q", i, s.Op, note)
				}
			}
			if len(p.ejected) > 0 {
				t.Errorf("slots %v were ejected, in QEMU none", p.ejected)
			}
		})
	}
}
