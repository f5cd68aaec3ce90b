//go:build linuxguest

package acpihotplug_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/acpihotplug"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/qtest"
)

var (
	kernel = flag.String("kernel", "", "a Linux kernel with ACPI_TABLE_UPGRADE, HOTPLUG_PCI_ACPI and a serial console built in")
	record = flag.Bool("record", false, "write the traces to testdata")
)

// TestLinuxGuest boots a real Linux on a real QEMU, gives it this package's
// table in place of QEMU's own, and plugs devices in and out: Linux has to
// find and eject each. What Linux did to the ports is then replayed on a
// Device. See testdata/README.md.
func TestLinuxGuest(t *testing.T) {
	bin := difftest.Tool(t, "qemu-system-x86_64", "7.2")
	for _, c := range []struct {
		name  string
		args  []string
		table acpihotplug.SSDT
		buses []string
	}{
		{
			"linux-latched",
			[]string{"-M", "pc-i440fx-7.2", "-global", noBridges},
			acpihotplug.SSDT{Slots: 0xfffffffc},
			[]string{"pci.0"},
		},
		{
			"linux-bridge",
			[]string{"-M", "pc-i440fx-7.2", "-device", "pci-bridge,id=br1,addr=4.0,chassis_nr=1,shpc=off"},
			acpihotplug.SSDT{
				Mode: acpihotplug.ClearOnRead, Slots: 0xfffffffc, Fixed: 1 << 4, Declared: 1 << 4,
				Removable: true, Status: true, Reserve: true,
				Bridges: []acpihotplug.Bridge{{Slot: 4, Select: 1}},
			},
			[]string{"pci.0", "br1"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := trace{Name: c.name, QEMU: "7.2", Machine: "pc-i440fx-7.2", Args: c.args, Base: acpihotplug.Base, GPE: acpihotplug.GPEBase}
			log := runLinux(t, bin, c.args, table(t, c.table), c.buses)
			steps := linuxSteps(t, &tr, log, c.buses)
			if *record {
				writeTrace(t, &tr, steps)
			}
		})
	}
}

const noBridges = "PIIX4_PM.acpi-pci-hotplug-with-bridge-support=off"

// runLinux takes the guest through a plug and an unplug in slot 5 of each bus,
// and returns QEMU's log of accesses to ports.
func runLinux(t *testing.T, bin string, args []string, ssdt []byte, buses []string) string {
	t.Helper()
	dir := t.TempDir()
	initrd, serial, log := filepath.Join(dir, "initrd"), filepath.Join(dir, "serial"), filepath.Join(dir, "log")
	must(t, os.WriteFile(initrd, initramfs(t, dsdt(t, bin, args), ssdt), 0o644))
	vm := qtest.Start(t, bin, append([]string{
		"-m", "256", "-kernel", *kernel, "-initrd", initrd, "-append", "console=ttyS0", "-serial", "file:" + serial,
		"-trace", "memory_region_ops_read", "-trace", "memory_region_ops_write", "-D", log,
	}, args...)...)
	qmp := func(command string, arguments any) {
		t.Helper()
		if _, err := vm.QMP(command, arguments); err != nil {
			t.Fatal(err)
		}
	}
	qmp("cont", nil)
	await(t, serial, `devices: `)
	for i, bus := range buses {
		qmp("device_add", map[string]any{"driver": "pci-testdev", "id": "d", "bus": bus, "addr": "5"})
		await(t, serial, fmt.Sprintf(`devices: .*0000:0%d:05.0`, i))
		time.Sleep(2 * time.Second) // Linux goes on with what it found
		qmp("device_del", map[string]any{"id": "d"})
		vm.Await("DEVICE_DELETED")
		time.Sleep(time.Second)
	}
	qmp("quit", nil)
	time.Sleep(time.Second) // the log is written at the end
	b, err := os.ReadFile(log)
	must(t, err)
	return string(b)
}

// await waits for what Linux prints.
func await(t *testing.T, serial, pattern string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		b, err := os.ReadFile(serial)
		if err == nil && regexp.MustCompile(pattern).Match(b) {
			if i := bytes.Index(b, []byte("ACPI BIOS Error")); i >= 0 {
				t.Fatalf("Linux says: %.300s", b[i:])
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("Linux does not print %q:\n%s", pattern, b)
		}
	}
}

// dsdt returns QEMU's DSDT for a machine without its own hot-plug tables, one
// revision later so that Linux takes it in place of the other.
func dsdt(t *testing.T, bin string, args []string) []byte {
	t.Helper()
	b := qemuDSDT(t, bin, append([]string{"-m", "256", "-global", noBridges, "-global", "PIIX4_PM.acpi-root-pci-hotplug=off"}, args...)...)
	b[24]++ // OEM revision
	b[9]--  // checksum
	return b
}

// initramfs returns an archive of the tables, which Linux loads before it
// unpacks the next one, with the program init.
func initramfs(t *testing.T, dsdt, ssdt []byte) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "init")
	cmd := exec.Command("go", "build", "-o", path, "testdata/init/main.go")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	init, err := os.ReadFile(path)
	must(t, err)
	const dir, file = 0o40755, 0o100755
	b := cpio(nil, "kernel", dir, nil)
	b = cpio(b, "kernel/firmware", dir, nil)
	b = cpio(b, "kernel/firmware/acpi", dir, nil)
	b = cpio(b, "kernel/firmware/acpi/dsdt.aml", file, dsdt)
	b = cpio(b, "kernel/firmware/acpi/ssdt.aml", file, ssdt)
	b = cpio(b, "TRAILER!!!", 0, nil)
	b = cpio(b, "dev", dir, nil)
	b = cpio(b, "init", file, init)
	return cpio(b, "TRAILER!!!", 0, nil)
}

// cpio appends a file to an archive of the "newc" format.
func cpio(b []byte, name string, mode int, data []byte) []byte {
	b = fmt.Appendf(b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	pad := func() {
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	pad()
	b = append(b, data...)
	pad()
	return b
}

var portAccess = regexp.MustCompile(`memory_region_ops_(read|write) cpu \d+ mr \S+ addr (\S+) value (\S+) size (\d) name 'acpi-(?:gpe0|pci-hotplug)'`)

// linuxSteps makes a trace of the accesses in a log, and replays it. A plug or
// unplug is put where the GPE status is first seen to show it.
func linuxSteps(t *testing.T, tr *trace, log string, buses []string) []step {
	t.Helper()
	slot := 5
	var events []step
	for _, bus := range buses {
		events = append(events, step{Op: "plug", Slot: &slot, Bus: bus, ID: "d"}, step{Op: "unplug_request", Slot: &slot, ID: "d"})
	}
	p := newPlayer(t, tr, tr.mode())
	var steps []step
	add := func(s step) {
		if p.step(s); t.Failed() {
			t.Fatalf("at step %d, %+v", len(steps), s)
		}
		steps = append(steps, s)
	}
	for _, m := range portAccess.FindAllStringSubmatch(log, -1) {
		addr, err := strconv.ParseUint(m[2], 0, 16)
		must(t, err)
		v, err := strconv.ParseUint(m[3], 0, 32)
		must(t, err)
		size, err := strconv.Atoi(m[4])
		must(t, err)
		s := step{Op: map[string]string{"read": "in", "write": "out"}[m[1]], Size: size, Addr: uint16(addr), Val: uint32(v)}
		if s.Op == "in" && s.Addr == tr.GPE && s.Val&2 != 0 && p.d.GPE.Status&2 == 0 && len(events) > 0 {
			add(events[0])
			events = events[1:]
		}
		add(s)
		if len(p.ejected) > 0 {
			add(step{Op: "deleted", Slots: []any{float64(p.ejected[0])}})
		}
	}
	if len(events) > 0 || p.d.Bus[0].Present>>slot&1 != 0 {
		t.Errorf("Linux saw nothing of %+v", events)
	}
	return steps
}

func writeTrace(t *testing.T, tr *trace, steps []step) {
	t.Helper()
	var out []string
	for _, s := range steps {
		m := map[string]any{"op": s.Op}
		switch s.Op {
		case "in", "out":
			m["size"], m["addr"], m["val"] = s.Size, s.Addr, s.Val
		case "deleted":
			m["slots"] = s.Slots
		default:
			m["slot"], m["id"] = s.Slot, s.ID
			if s.Bus != nil {
				m["bus"] = s.Bus
			}
		}
		b, err := json.Marshal(m)
		must(t, err)
		out = append(out, string(b))
	}
	head, err := json.Marshal(map[string]any{"name": tr.Name, "qemu": tr.QEMU, "machine": tr.Machine, "args": tr.Args, "base": tr.Base, "gpe": tr.GPE})
	must(t, err)
	text := strings.TrimSuffix(string(head), "}") + ",\"steps\":[\n" + strings.Join(out, ",\n") + "\n]}\n"
	must(t, os.WriteFile("testdata/"+tr.Name+".json", []byte(text), 0o644))
}
