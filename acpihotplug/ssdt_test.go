package acpihotplug_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/acpihotplug"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/golden"
)

// tables are the descriptions that the tests of the table share.
var tables = map[string]acpihotplug.SSDT{
	"default": {},
	"level":   {Mode: acpihotplug.Level, Fixed: 1 << 2, Removable: true},
	"modern":  {Mode: acpihotplug.ClearOnRead, Slots: 1<<3 | 1<<5 | 1<<31, Status: true, Reserve: true},
	"q35":     {Mode: acpihotplug.ClearOnRead, Base: acpihotplug.BaseQ35, Slots: 1 << 1, OEMID: "A", OEMTableID: "B", OEMRevision: 7},
	"path":    {Path: `\_SB.PCI0.BR0`, Slots: 1 << 4, Removable: true},
	"declared": {
		Mode: acpihotplug.ClearOnRead, Slots: 1<<3 | 1<<4, Declared: 1 << 4, Removable: true,
		Bridges: []acpihotplug.Bridge{{Slot: 4, Select: 1, Slots: 1 << 1, Declared: 1 << 1}},
	},
	"root":  {Path: `\PCI1`, Slots: 1 << 4},
	"index": {AcpiIndex: true, Slots: 1<<4 | 1<<31, Reserve: true},
	"bridges": {
		Mode: acpihotplug.ClearOnRead, Slots: 1<<1 | 1<<5, Fixed: 1<<3 | 1<<4,
		Removable: true, Status: true, AcpiIndex: true, Reserve: true,
		Bridges: []acpihotplug.Bridge{
			{Slot: 4, Select: 1},
			{Slot: 3, Select: 2, Slots: 1<<5 | 1<<6, Bridges: []acpihotplug.Bridge{{Slot: 5, Select: 255, Slots: 1 << 7}}},
		},
	},
}

func table(t *testing.T, s acpihotplug.SSDT) []byte {
	t.Helper()
	b, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSSDTHeader(t *testing.T) {
	for name, s := range tables {
		b := table(t, s)
		var sum byte
		for _, c := range b {
			sum += c
		}
		if sum != 0 || string(b[:4]) != "SSDT" || int(binary.LittleEndian.Uint32(b[4:])) != len(b) {
			t.Errorf("%s: sum %d, header %x", name, sum, b[:36])
		}
		if got, err := s.AppendBinary([]byte("before")); err != nil || string(got) != "before"+string(b) {
			t.Errorf("%s: appended differs, %v", name, err)
		}
	}
	for _, name := range []string{"q35", "index", "bridges"} {
		golden.Hex(t, name+".ssdt.txt", table(t, tables[name]))
	}
}

func TestSSDTErrors(t *testing.T) {
	modern := acpihotplug.ClearOnRead
	deep := []acpihotplug.Bridge(nil)
	for i := range 40 {
		deep = []acpihotplug.Bridge{{Slot: 1, Select: uint32(i + 1), Bridges: deep}}
	}
	for want, s := range map[string]acpihotplug.SSDT{
		"not a mode":                {Mode: 3},
		"do not fit":                {Base: 0xfff8},
		"base 0xffec":               {Mode: modern, AcpiIndex: true, Base: 0xffec},
		"no acpi-index":             {Mode: acpihotplug.Level, AcpiIndex: true},
		`path "PCI0"`:               {Path: "PCI0"},
		`path "\\"`:                 {Path: `\`},
		`path "\\_SB.PCI00"`:        {Path: `\_SB.PCI00`},
		`path "\\_SB..A"`:           {Path: `\_SB..A`},
		`path "\\_SB.0PCI"`:         {Path: `\_SB.0PCI`},
		`path "\\_SB.pci"`:          {Path: `\_SB.pci`},
		`OEM ids`:                   {OEMID: "1234567"},
		"bridges need mode":         {Bridges: []acpihotplug.Bridge{{Slot: 1, Select: 1}}},
		"slots are 0 to 31":         {Mode: modern, Bridges: []acpihotplug.Bridge{{Slot: 32, Select: 1}}},
		"two bridges in slot 1":     {Mode: modern, Bridges: []acpihotplug.Bridge{{Slot: 1, Select: 1}, {Slot: 1, Select: 2}}},
		"selector 256":              {Mode: modern, Bridges: []acpihotplug.Bridge{{Slot: 1, Select: 256}}},
		"selector 0":                {Mode: modern, Bridges: []acpihotplug.Bridge{{Slot: 1}}},
		"selector 2":                {Mode: modern, Bridges: []acpihotplug.Bridge{{Slot: 1, Select: 2, Bridges: []acpihotplug.Bridge{{Slot: 1, Select: 2}}}}},
		"more than 32 bridges":      {Mode: modern, Bridges: deep},
		`path "` + `\\` + `A.A.A.A`: {Path: `\A` + strings.Repeat(".A", 254)},
	} {
		if b, err := s.MarshalBinary(); err == nil || !strings.Contains(err.Error(), want) || b != nil {
			t.Errorf("%s: %d bytes, %v", want, len(b), err)
		}
	}
}

// most is a table of 255 buses: it needs the longer forms of every length.
func most() acpihotplug.SSDT {
	s := acpihotplug.SSDT{Mode: acpihotplug.ClearOnRead, Removable: true, Status: true}
	for i := range 7 {
		root := acpihotplug.Bridge{Slot: i + 1, Select: uint32(i*33 + 1)}
		for j := range 32 {
			root.Bridges = append(root.Bridges, acpihotplug.Bridge{Slot: j, Select: root.Select + 1 + uint32(j)})
		}
		s.Bridges = append(s.Bridges, root)
	}
	return s
}

// workDir returns a folder with a table and the DSDT that it extends.
func workDir(t *testing.T, iasl string, aml []byte) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "t.aml"), aml, 0o644))
	dsdt, err := os.ReadFile("testdata/stub_dsdt.asl")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "dsdt.asl"), dsdt, 0o644))
	difftest.Run(t, iasl, "-vw", "3073", "-p", filepath.Join(dir, "dsdt"), filepath.Join(dir, "dsdt.asl"))
	return dir
}

// disassemble returns iasl's rendering of a table without its comments.
func disassemble(t *testing.T, iasl, aml string) string {
	t.Helper()
	difftest.Run(t, iasl, "-d", aml)
	b, err := os.ReadFile(strings.TrimSuffix(aml, ".aml") + ".dsl")
	must(t, err)
	text := regexp.MustCompile(`(?s)/\*.*?\*/`).ReplaceAllString(string(b), "")
	if strings.Contains(text, "Unknown") || strings.Contains(text, "/**") {
		t.Errorf("iasl -d does not understand all:\n%s", text)
	}
	return text
}

// TestIASL disassembles tables with ACPICA's compiler, compiles what comes
// out without a remark, and expects the same text again.
func TestIASL(t *testing.T) {
	iasl := difftest.Tool(t, "iasl", "")
	all := map[string]acpihotplug.SSDT{"most": most()}
	maps.Copy(all, tables)
	for name, s := range all {
		t.Run(name, func(t *testing.T) {
			dir := workDir(t, iasl, table(t, s))
			first := disassemble(t, iasl, filepath.Join(dir, "t.aml"))
			out := string(difftest.Run(t, iasl, "-p", filepath.Join(dir, "again"), filepath.Join(dir, "t.dsl")))
			if !strings.Contains(out, "0 Errors, 0 Warnings, 0 Remarks, 0 Optimizations") {
				t.Errorf("iasl on its own disassembly:\n%s", out)
			}
			if diff := cmp.Diff(first, disassemble(t, iasl, filepath.Join(dir, "again.aml"))); diff != "" {
				t.Errorf("after a round trip (-first +second):\n%s", diff)
			}
		})
	}
}

// acpi runs commands in ACPICA's interpreter, with the registers set first.
type acpi struct {
	t        *testing.T
	dir, bin string
	tables   []string // in dir
}

func newACPI(t *testing.T, s acpihotplug.SSDT) acpi {
	t.Helper()
	bin := difftest.Tool(t, "acpiexec", "")
	return acpi{t, workDir(t, difftest.Tool(t, "iasl", ""), table(t, s)), bin, []string{"dsdt.aml", "t.aml"}}
}

func (a acpi) run(registers map[string]uint32, commands ...string) string {
	a.t.Helper()
	var init strings.Builder
	for name, v := range registers {
		fmt.Fprintf(&init, "\\_SB.PCI0.%s 0x%x\n", name, v)
	}
	path := filepath.Join(a.dir, "init.txt")
	must(a.t, os.WriteFile(path, []byte(init.String()), 0o644))
	stdin := strings.Join(append(commands, "quit", ""), "\n")
	var r difftest.Result
	var out string
	// acpiexec tells devices by threads of its own, and complains if one is
	// not done when it quits.
	for try := range 100 {
		if try > 0 && !strings.Contains(out, "Outstanding cache") {
			break
		}
		args := []string{"-fi", path}
		for _, name := range a.tables {
			args = append(args, filepath.Join(a.dir, name))
		}
		r = difftest.TryIn(a.t, []byte(stdin), a.bin, args...)
		out = string(r.Stdout) + string(r.Stderr)
	}
	if r.Code != 0 || strings.Contains(out, "AE_") || strings.Contains(out, "Error") {
		a.t.Fatalf("acpiexec:\n%s", out)
	}
	return out
}

var (
	notifyLine  = regexp.MustCompile(`Notify on \[S([0-9A-F]{2})_\] \S+ Value 0x(\d\d)`)
	integerLine = regexp.MustCompile(`\[Integer\] = ([0-9A-F]{16})`)
)

// notices returns what the interpreter's devices were told, in order of slot.
func notices(t *testing.T, out string) []acpihotplug.Notice {
	t.Helper()
	var got []acpihotplug.Notice
	for _, m := range notifyLine.FindAllStringSubmatch(out, -1) {
		addr, err := strconv.ParseUint(m[1], 16, 8)
		must(t, err)
		event, err := strconv.Atoi(m[2])
		must(t, err)
		got = append(got, acpihotplug.Notice{Slot: int(addr / 8), Event: acpihotplug.Notification(event)})
	}
	return sortNotices(got)
}

func sortNotices(n []acpihotplug.Notice) []acpihotplug.Notice {
	slices.SortFunc(n, func(a, b acpihotplug.Notice) int {
		return 10*(a.Slot-b.Slot) + int(a.Event) - int(b.Event)
	})
	return n
}

func integers(t *testing.T, out string) []uint64 {
	t.Helper()
	var got []uint64
	for _, m := range integerLine.FindAllStringSubmatch(out, -1) {
		v, err := strconv.ParseUint(m[1], 16, 64)
		must(t, err)
		got = append(got, v)
	}
	return got
}

// fixedPorts answers every read of the register block with what it holds.
type fixedPorts map[uint16]uint32

func (f fixedPorts) In(port uint16, p []byte) bool {
	b := binary.LittleEndian.AppendUint32(nil, f[port])
	copy(p, b)
	return true
}

func (f fixedPorts) Out(uint16, []byte) bool { return true }

// TestACPIExecEvents runs the event handler in ACPICA's interpreter on random
// registers, and expects the notifications that the Guest comes to.
func TestACPIExecEvents(t *testing.T) {
	for _, mode := range []acpihotplug.Mode{acpihotplug.Latched, acpihotplug.ClearOnRead} {
		t.Run(mode.String(), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(difftest.Seed(t, 1), 4))
			a := newACPI(t, acpihotplug.SSDT{Mode: mode, Slots: ^uint32(0)})
			for i := range difftest.Scale(t, 40) {
				up, down := rng.Uint32()&rng.Uint32(), rng.Uint32()&rng.Uint32()
				if i == 0 {
					up, down = 1<<5, 0
				}
				g := acpihotplug.Guest{Mode: mode, IO: fixedPorts{
					acpihotplug.Base: up, acpihotplug.Base + 4: down,
					acpihotplug.GPEBase: 2, acpihotplug.GPEBase + 2: 2,
				}}
				want := sortNotices(g.Interrupt())
				got := notices(t, a.run(map[string]uint32{"PCIU": up, "PCID": down}, `evaluate \_GPE._E01`))
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("up 0x%x, down 0x%x (-Guest +acpiexec):\n%s", up, down, diff)
				}
			}
		})
	}
}

// TestACPIExecSlots evaluates the methods of every slot, those behind bridges
// too, and looks at the registers after.
func TestACPIExecSlots(t *testing.T) {
	s := tables["bridges"]
	a := newACPI(t, s)
	const removable = 1<<5 | 1<<7
	var commands []string
	var want []uint64
	add := func(value uint64, format string, args ...any) {
		commands = append(commands, fmt.Sprintf("evaluate "+format, args...))
		want = append(want, value)
	}
	for _, c := range []struct {
		path      string
		bus, slot uint64
	}{
		{"S08", 0, 1}, {"S28", 0, 5}, {"S18.S28", 2, 5}, {"S18.S30", 2, 6},
		{"S18.S28.S38", 255, 7}, {"S20.SF8", 1, 31}, {"S20.S00", 1, 0},
	} {
		path := `\_SB.PCI0.` + c.path
		add(removable>>c.slot&1, "%s._RMV", path)
		add(c.bus, `\_SB.PCI0.BNUM`)
		add(0xf, "%s._STA", path)
		add(c.slot<<16, "%s._ADR", path)
		add(c.slot, "%s._SUN", path)
		commands = append(commands, `evaluate `+path+`._EJ0 1`)
		add(1<<c.slot, `\_SB.PCI0.B0EJ`)
		add(c.bus, `\_SB.PCI0.BNUM`)
	}
	out := a.run(map[string]uint32{"PCRM": removable}, append(commands, "methods")...)
	if diff := cmp.Diff(want, integers(t, out)); diff != "" {
		t.Errorf("(-want +acpiexec):\n%s", diff)
	}
	for path, want := range map[string]bool{"S28": true, "S18": false, "S20": false} {
		if got := strings.Contains(out, `\_SB.PCI0.`+path+`._EJ0`); got != want {
			t.Errorf("%s can be ejected: %v", path, got)
		}
	}
	// Both buses' registers are one place in this interpreter.
	got := notices(t, a.run(map[string]uint32{"PCIU": 1 << 5, "PCID": 1 << 6}, `evaluate \_GPE._E01`))
	wantNotices := []acpihotplug.Notice{
		{Slot: 5, Event: 1}, {Slot: 5, Event: 1}, {Slot: 5, Event: 1}, // buses 0, 1 and 2
		{Slot: 6, Event: 3}, {Slot: 6, Event: 3}, // buses 1 and 2
	}
	if diff := cmp.Diff(wantNotices, got); diff != "" {
		t.Errorf("(-want +acpiexec):\n%s", diff)
	}
}

// TestACPIExecIndex asks slots for their acpi-index: one bus or many, with an
// index, without, and where the register is missing.
func TestACPIExecIndex(t *testing.T) {
	const uuid = "D0 37 C9 E5 53 35 7A 4D 91 17 EA 4D 19 C3 43 4D"
	dsm := func(uuid string, revision, function int) string {
		return fmt.Sprintf(`evaluate \_SB.PCI0.S20._DSM (%s) %d %d [0]`, uuid, revision, function)
	}
	for _, mode := range []acpihotplug.Mode{acpihotplug.Latched, acpihotplug.ClearOnRead} {
		a := newACPI(t, acpihotplug.SSDT{Mode: mode, AcpiIndex: true, Slots: 1 << 4})
		// The interpreter's register holds what was written: 1 << 4.
		got := a.judge(nil, dsm(uuid, 2, 0), dsm(uuid, 2, 7), dsm(uuid, 2, 1), dsm(uuid, 1, 0), dsm(uuid[:45]+"4C", 2, 0))
		want := judged{Buffers: []string{"81", "00", "00", "00"}, Packages: []string{"0000000000000010"}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-want +acpiexec):\n%s", mode, diff)
		}
		// What the register reads instead, by a constant (and Noops) in its place.
		for value, answer := range map[string]string{"Zero": "00", "Ones": "00", "0x7": "81"} {
			b := bytes.Replace(table(t, acpihotplug.SSDT{Mode: mode, AcpiIndex: true, Slots: 1 << 4}),
				[]byte("\x70PIDX\x60"), map[string][]byte{
					"Zero": []byte("\x70\x00\x60\xa3\xa3\xa3"), "Ones": []byte("\x70\xff\x60\xa3\xa3\xa3"), "0x7": []byte("\x70\x0a\x07\x60\xa3\xa3"),
				}[value], 1)
			var sum byte
			for _, c := range b {
				sum += c
			}
			b[9] -= sum
			must(t, os.WriteFile(filepath.Join(a.dir, "t.aml"), b, 0o644))
			if got := a.judge(nil, dsm(uuid, 2, 0)); !slices.Equal(got.Buffers, []string{answer}) {
				t.Errorf("%v: register reads %s: %q, want %s", mode, value, got.Buffers, answer)
			}
		}
	}
}

// TestFADT patches an empty FADT and has ACPICA's disassembler read it.
func TestFADT(t *testing.T) {
	iasl := difftest.Tool(t, "iasl", "")
	d := acpihotplug.Device{GPELen: 16}
	g := acpihotplug.Ports{Device: &d, GPEBase: 0x620}.GPE0()
	b := make([]byte, 244)
	copy(b, "FACP\xf4\x00\x00\x00\x03")
	copy(b[10:], "VIRTFMVIRTFM  ")
	path := filepath.Join(t.TempDir(), "out.aml")
	must(t, g.Patch(b))
	must(t, os.WriteFile(path, b, 0o644))
	r := difftest.Try(t, iasl, "-d", path)
	dsl, err := os.ReadFile(strings.TrimSuffix(path, "aml") + "dsl")
	must(t, err)
	text := strings.Join(strings.Fields(string(dsl)), " ")
	for _, want := range []string{
		"SCI Interrupt : 0009", "GPE0 Block Address : 00000620", "GPE0 Block Length : 10",
		"GPE0 Block : [Generic Address Structure]",
		"Space ID : 01 [SystemIO] [0DDh 0221 1] Bit Width : 80 [0DEh 0222 1] Bit Offset : 00 [0DFh 0223 1] Encoded Access Width : 01 [Byte Access:8] [0E0h 0224 8] Address : 0000000000000620",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("iasl does not say %q:\n%s", want, dsl)
		}
	}
	if strings.Contains(string(r.Stdout)+string(r.Stderr)+text, "ncorrect checksum") {
		t.Error("iasl finds the checksum wrong")
	}
}

// TestFADTBytes: the fields lie where ACPI 6.4, table 5.9, has them.
func TestFADTBytes(t *testing.T) {
	b := make([]byte, 244)
	copy(b, "FACP\xf4")
	must(t, acpihotplug.GPE0{Block: 0x12345678, Length: 16, SCI: 0x1234}.Patch(b))
	want := make([]byte, 244)
	copy(want, "FACP\xf4")
	copy(want[46:], "\x34\x12")
	copy(want[80:], "\x78\x56\x34\x12")
	want[92] = 16
	copy(want[220:], "\x01\x80\x00\x01\x78\x56\x34\x12\x00\x00\x00\x00")
	var sum byte
	for _, c := range want {
		sum += c
	}
	want[9] = -sum
	if diff := cmp.Diff(golden.Dump(want), golden.Dump(b)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFADTErrors(t *testing.T) {
	good := make([]byte, 244)
	copy(good, "FACP")
	good[4] = 244
	g := acpihotplug.Ports{Device: &acpihotplug.Device{}}.GPE0()
	if g != (acpihotplug.GPE0{Block: 0xafe0, Length: 4, SCI: 9}) {
		t.Errorf("i440fx: %+v", g)
	}
	must(t, g.Patch(good))
	old := append([]byte(nil), good[:116]...)
	old[4] = 116
	must(t, g.Patch(old))
	for name, b := range map[string][]byte{"empty": nil, "short": good[:115], "other": []byte("SSDT" + string(good[4:])), "length": good[:200]} {
		if err := g.Patch(b); err == nil {
			t.Errorf("%s: patched", name)
		}
	}
	before := string(good)
	if err := (acpihotplug.GPE0{Length: 32}).Patch(good); err == nil || string(good) != before {
		t.Errorf("a length that X_GPE0_BLK cannot tell: %v", err)
	}
	must(t, acpihotplug.GPE0{Length: 31}.Patch(good))
}
