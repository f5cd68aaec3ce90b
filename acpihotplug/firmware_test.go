package acpihotplug_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/acpihotplug"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/qtest"
)

// qemuDSDT returns the DSDT that a QEMU gives its firmware, with its checksum.
func qemuDSDT(t *testing.T, bin string, args ...string) []byte {
	t.Helper()
	vm := qtest.Start(t, bin, args...)
	more := func(b []byte, n int) []byte {
		for range n {
			b = append(b, byte(vm.In(0x511, 1)))
		}
		return b
	}
	read := func(selector uint16, n int) []byte {
		vm.Out(0x510, 2, uint32(selector)) // fw_cfg
		return more(nil, n)
	}
	const directory = 0x19
	files := int(binary.BigEndian.Uint32(read(directory, 4)))
	entries := read(directory, 4+64*files)[4:]
	for ; len(entries) > 0; entries = entries[64:] {
		if !bytes.HasPrefix(entries[8:], []byte("etc/acpi/tables\x00")) {
			continue
		}
		const facs = 64 // before it
		b := read(binary.BigEndian.Uint16(entries[4:]), facs+8)[facs:]
		if string(b[:4]) != "DSDT" {
			t.Fatalf("QEMU's second table is %q", b[:4])
		}
		b = more(b, int(binary.LittleEndian.Uint32(b[4:]))-len(b))
		b[9] = 0
		for i, c := range b {
			if i != 9 {
				b[9] -= c
			}
		}
		return b
	}
	t.Fatal("QEMU has no ACPI tables")
	return nil
}

// loadACPI returns an interpreter that has loaded tables of others.
func loadACPI(t *testing.T, tables ...[]byte) acpi {
	t.Helper()
	a := acpi{t: t, dir: t.TempDir(), bin: difftest.Tool(t, "acpiexec", "")}
	for i, b := range tables {
		name := fmt.Sprintf("%d.aml", i)
		must(t, os.WriteFile(filepath.Join(a.dir, name), b, 0o644))
		a.tables = append(a.tables, name)
	}
	return a
}

var (
	bufferLine  = regexp.MustCompile(`\[Buffer\] Length 01 = +0000: ([0-9A-F]{2}) `)
	packageLine = regexp.MustCompile(`(?s)\[Package\] Contains 2 Elements:\s+\[Integer\] = ([0-9A-F]{16})\s+\[String\] Length 00 = ""`)
)

// judged is how two tables of one machine answer the same questions.
type judged struct {
	Notices  []acpihotplug.Notice
	Integers []uint64
	Buffers  []string
	Packages []string
}

func (a acpi) judge(registers map[string]uint32, commands ...string) judged {
	a.t.Helper()
	out := a.run(registers, commands...)
	j := judged{Notices: notices(a.t, out), Integers: integers(a.t, packageLine.ReplaceAllString(out, ""))}
	for _, m := range bufferLine.FindAllStringSubmatch(out, -1) {
		j.Buffers = append(j.Buffers, strings.TrimSpace(m[1]))
	}
	for _, m := range packageLine.FindAllStringSubmatch(out, -1) {
		j.Packages = append(j.Packages, m[1])
	}
	return j
}

// TestQEMUTables runs QEMU's own table and this package's in ACPICA's
// interpreter, on the same registers, and expects of both the same
// notifications, eject writes and labels.
func TestQEMUTables(t *testing.T) {
	bin := difftest.Tool(t, "qemu-system-x86_64", "7.2")
	difftest.Tool(t, "acpiexec", "")
	theirs := loadACPI(t, qemuDSDT(t, bin, "-M", "pc-i440fx-7.2", "-m", "16", "-device", "pci-bridge,id=br1,addr=3.0,chassis_nr=1"))
	d := acpihotplug.Device{Mode: acpihotplug.ClearOnRead, AcpiIndex: func(int, int) uint32 { return 0 }}
	for _, slot := range []int{0, 1, 3} {
		must(t, d.ColdPlug(0, slot, true))
	}
	s := acpihotplug.Ports{Device: &d}.SSDT()
	s.Bridges = []acpihotplug.Bridge{{Slot: 3, Select: 1}}
	ours := newACPI(t, s)
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 1), 5))
	for range difftest.Scale(t, 3) {
		slot, behind := 4+rng.IntN(28), rng.IntN(32)
		const label = "D0 37 C9 E5 53 35 7A 4D 91 17 EA 4D 19 C3 43 4D"
		var commands []string
		ask := func(format string, args ...any) {
			commands = append(commands, "evaluate "+fmt.Sprintf(format, args...))
		}
		ask(`\_GPE._E01`)
		for _, path := range []string{fmt.Sprintf(`\_SB.PCI0.S%02X`, 8*slot), fmt.Sprintf(`\_SB.PCI0.S18.S%02X`, 8*behind)} {
			ask(`%s._EJ0 1`, path)
			ask(`\_SB.PCI0.B0EJ`)
			ask(`\_SB.PCI0.BNUM`)
			ask(`%s._ADR`, path)
			ask(`%s._SUN`, path)
			ask(`%s._DSM (%s) 2 0 [0]`, path, label)
			ask(`%s._DSM (%s) 2 7 [0]`, path, label) // the index is what was written
			ask(`%s._DSM (%s) 1 0 [0]`, path, label)
			ask(`%s._DSM (%s) 2 0 [0]`, path, strings.Replace(label, "D0", "D1", 1))
		}
		registers := map[string]uint32{"PCIU": rng.Uint32() &^ 0xb, "PCID": rng.Uint32() & rng.Uint32() &^ 0xb}
		want, got := theirs.judge(registers, commands...), ours.judge(registers, commands...)
		if len(want.Notices) == 0 || len(want.Integers) != 8 || len(want.Buffers) != 6 || len(want.Packages) != 2 {
			t.Fatalf("QEMU table does less than it should: %v %v %q %q", len(want.Notices), want.Integers, want.Buffers, want.Packages)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%x, slots %d and %d (-QEMU's table +ours):\n%s", registers, slot, behind, diff)
		}
	}
}

// seabiosDSDT is the table that SeaBIOS brings for machines whose QEMU has
// none, which is those of QEMU 1.7 and older. It drives the registers of the
// 2012 text.
const seabiosDSDT = "/usr/share/seabios/acpi-dsdt.aml"

// seabiosSlots returns what SeaBIOS adds to its table at run time: a device for
// each slot, and the method that notifies it.
func seabiosSlots(t *testing.T) []byte {
	t.Helper()
	var devices, cases strings.Builder
	for slot := 1; slot < 32; slot++ {
		fmt.Fprintf(&devices, `
			Device (S%02X) {
				Name (_ADR, 0x%02x0000)
				Name (_SUN, %d)
				Method (_EJ0, 1) { PCEJ (_SUN) }
			}`, 8*slot, slot, slot)
		fmt.Fprintf(&cases, "If (LEqual (Arg0, %d)) { Notify (S%02X, Arg1) }\n", slot, 8*slot)
	}
	name := filepath.Join(t.TempDir(), "slots")
	must(t, os.WriteFile(name+".asl", []byte(`DefinitionBlock ("", "SSDT", 1, "VIRTFM", "SLOTS", 1) {
		External (\_SB.PCI0, DeviceObj)
		External (\_SB.PCI0.PCEJ, MethodObj)
		Scope (\_SB.PCI0) {`+devices.String()+`
			Method (PCNT, 2) {`+cases.String()+`}
		}
	}`), 0o644))
	difftest.Run(t, difftest.Tool(t, "iasl", ""), "-p", name, name+".asl")
	b, err := os.ReadFile(name + ".aml")
	must(t, err)
	return b
}

// TestSeaBIOSTables has the firmware that was written for modes Level and
// Latched work a Device: what it notifies of must be what the Guest and this
// package's table come to, and what it writes to eject must eject.
func TestSeaBIOSTables(t *testing.T) {
	difftest.Tool(t, "acpiexec", "")
	dsdt, err := os.ReadFile(seabiosDSDT)
	if err != nil {
		difftest.Missing(t, "%v", err)
	}
	theirs := loadACPI(t, dsdt, seabiosSlots(t))
	for _, mode := range []acpihotplug.Mode{acpihotplug.Latched, acpihotplug.Level} {
		t.Run(mode.String(), func(t *testing.T) {
			ours := newACPI(t, acpihotplug.SSDT{Mode: mode})
			rng := rand.New(rand.NewPCG(difftest.Seed(t, 1), 6))
			var got []int
			d := acpihotplug.Device{Mode: mode, Eject: func(_, slot int) { got = append(got, slot) }}
			must(t, d.ColdPlug(0, 0, true))
			must(t, d.ColdPlug(0, 7, false))
			g := acpihotplug.Guest{IO: acpihotplug.Ports{Device: &d}, Mode: mode}
			g.Boot()
			for range difftest.Scale(t, 5) {
				plugged := 1 + rng.IntN(31)
				must(t, d.Plug(0, plugged))
				if leaving := 1 + rng.IntN(31); d.Bus[0].Present>>leaving&1 == 1 {
					must(t, d.RequestUnplug(0, leaving))
				}
				registers := map[string]uint32{}
				for name, off := range map[string]uint64{"PCIU": acpihotplug.RegUp, "PCID": acpihotplug.RegDown} {
					var b [4]byte
					d.Read(off, b[:])
					registers[name] = binary.LittleEndian.Uint32(b[:])
				}
				commands := []string{`evaluate \_GPE._E01`, fmt.Sprintf(`evaluate \_SB.PCI0.S%02X._EJ0 1`, 8*plugged), `evaluate \_SB.PCI0.B0EJ`}
				want := theirs.judge(registers, commands...)
				if diff := cmp.Diff(want, ours.judge(registers, commands...)); diff != "" {
					t.Errorf("%x, slot %d (-SeaBIOS +ours):\n%s", registers, plugged, diff)
				}
				if diff := cmp.Diff(want.Notices, sortNotices(g.Interrupt())); diff != "" {
					t.Errorf("%x (-SeaBIOS +Guest):\n%s", registers, diff)
				}
				if len(want.Notices) == 0 || len(want.Integers) != 1 {
					t.Fatalf("SeaBIOS does less than it should: %+v", want)
				}
				d.Write(acpihotplug.RegEject, binary.LittleEndian.AppendUint32(nil, uint32(want.Integers[0])))
				if len(got) != 1 || got[0] != plugged {
					t.Errorf("SeaBIOS ejects slot %d with 0x%x: %v", plugged, want.Integers[0], got)
				}
				got = nil
			}
		})
	}
}
