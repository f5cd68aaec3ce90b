// Command hotplug walks one PCI hot-plug cycle at register level and prints
// each step: the VMM plugs a device in, the guest finds it; the VMM asks for
// it back, the guest ejects it.
//
//	go run ./hotplug                      the cycle, as QEMU 2.0 and later
//	go run ./hotplug -mode latched        as the text of 2012 has it
//	go run ./hotplug -bus 2 -slot 9       behind a bridge
//	go run ./hotplug -ssdt hotplug.aml    also writes the ACPI table
//
// The table can be read with "iasl -d hotplug.aml".
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/virtfmt/virtfmt/acpihotplug"
	"github.com/virtfmt/virtfmt/examples/internal/stdflag"
)

func main() {
	out := bufio.NewWriter(os.Stdout)
	err := run(os.Args[1:], out)
	if err == flag.ErrHelp {
		err = nil
	}
	if err = errors.Join(err, out.Flush()); err != nil {
		fmt.Fprintln(os.Stderr, "hotplug:", err)
		os.Exit(1)
	}
}

func run(args []string, w io.Writer) error {
	fs := flag.NewFlagSet("hotplug", flag.ContinueOnError)
	mode := fs.String("mode", acpihotplug.ClearOnRead.String(), "`generation` of the registers: latched, clear-on-read or level")
	bus := fs.Int("bus", 0, "`selector` of the bus; others than 0 are behind a bridge in slot 3")
	slot := fs.Int("slot", 5, "`slot` to plug the device into")
	ssdt := fs.String("ssdt", "", "write the ACPI table to this `file`")
	if err := stdflag.ParseAtMost(0, fs, args, w); err != nil {
		return err
	}
	m, err := acpihotplug.ParseMode(*mode)
	if err != nil {
		return err
	}
	d := &acpihotplug.Device{Mode: m}
	if *ssdt != "" {
		if err := writeTable(*ssdt, d, *bus, w); err != nil {
			return err
		}
	}
	return cycle(d, *bus, *slot, w)
}

// writeTable writes the SSDT for slots 1 to 31, and for a bridge if the device
// goes behind one.
func writeTable(name string, d *acpihotplug.Device, bus int, w io.Writer) error {
	s := acpihotplug.Ports{Device: d}.SSDT()
	if bus > 0 {
		s.Bridges = []acpihotplug.Bridge{{Slot: 3, Select: uint32(bus)}}
		s.Fixed |= 1 << 3
	}
	b, err := s.MarshalBinary()
	if err != nil {
		return err
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "SSDT of %d bytes written to %s\n\n", len(b), name)
	return err
}

func cycle(d *acpihotplug.Device, bus, slot int, w io.Writer) error {
	say := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	guest := acpihotplug.Guest{IO: acpihotplug.Ports{Device: d}, Mode: d.Mode, Buses: []int{bus}}

	say("The machine starts: the host bridge sits in slot 0 and stays there. The guest boots.")
	if err := d.ColdPlug(0, 0, true); err != nil {
		return err
	}
	d.Trace = func(e acpihotplug.Event) { say("    %v", e) }
	guest.Boot()

	say("The VMM plugs a device in.")
	if err := d.Plug(bus, slot); err != nil {
		return err
	}
	say("The guest handles the interrupt.")
	tell(say, guest.Interrupt())

	say("The VMM asks for the device back.")
	if err := d.RequestUnplug(bus, slot); err != nil {
		return err
	}
	say("The guest handles the interrupt.")
	for _, n := range tell(say, guest.Interrupt()) {
		if n.Event != acpihotplug.EjectRequest {
			continue
		}
		say("Its driver lets go of the device, and _EJ0 ejects it.")
		guest.Eject(n.Bus, n.Slot)
	}
	return nil
}

func tell(say func(string, ...any), notices []acpihotplug.Notice) []acpihotplug.Notice {
	for _, n := range notices {
		say("    -> Notify (bus %d slot %d, %v)", n.Bus, n.Slot, n.Event)
	}
	return notices
}
