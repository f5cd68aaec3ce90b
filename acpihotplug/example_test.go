package acpihotplug_test

import (
	"fmt"

	"github.com/virtfmt/virtfmt/acpihotplug"
)

// A VMM places a Device in its port space, plugs something in, and has it
// ejected by the guest.
func Example() {
	d := acpihotplug.Device{
		Mode:   acpihotplug.ClearOnRead,
		SetIRQ: func(level bool) { fmt.Println("SCI", level) },
		Eject:  func(bus, slot int) { fmt.Println("ejected slot", slot) },
	}
	guest := acpihotplug.Guest{IO: acpihotplug.Ports{Device: &d}, Mode: d.Mode}
	guest.Boot()

	if err := d.Plug(0, 5); err != nil {
		fmt.Println(err)
	}
	fmt.Println(guest.Interrupt())
	if err := d.RequestUnplug(0, 5); err != nil {
		fmt.Println(err)
	}
	for _, n := range guest.Interrupt() {
		fmt.Println(n)
		guest.Eject(n.Bus, n.Slot)
	}
	// Output:
	// SCI true
	// SCI false
	// [{0 5 Device Check}]
	// SCI true
	// SCI false
	// {0 5 Eject Request}
	// ejected slot 5
}

// The guest's accesses, as a VM exit hands them over.
func ExampleDevice_Read() {
	d := acpihotplug.Device{Trace: func(e acpihotplug.Event) { fmt.Println(e) }}
	d.Plug(0, 5)
	d.Read(acpihotplug.RegUp, make([]byte, 4))
	d.Read(acpihotplug.RegUp, make([]byte, 1))
	d.Write(acpihotplug.RegEject, []byte{1 << 5, 0, 0, 0})
	// Output:
	// device plugged into bus 0 slot 5
	// read 4 bytes at 0x00 (up): 0x00000020, slot 5
	// read 1 byte at 0x00: 0x00, reaches no register
	// write 4 bytes at 0x08 (eject): 0x00000020, slot 5
	// device in bus 0 slot 5 ejected
}

// The table for a machine whose VGA, in slot 2, cannot be removed.
func ExampleSSDT() {
	d := acpihotplug.Device{Mode: acpihotplug.ClearOnRead}
	d.ColdPlug(0, 2, true)
	ports := acpihotplug.Ports{Device: &d}

	ssdt := ports.SSDT()
	table, err := ssdt.MarshalBinary()
	fmt.Println(string(table[:4]), len(table), "bytes", err)
	fmt.Printf("FADT: %+v\n", ports.GPE0())
	// Output:
	// SSDT 1884 bytes <nil>
	// FADT: {Block:45024 Length:4 SCI:9}
}

// A snapshot is a copy.
func ExampleState() {
	var d acpihotplug.Device
	d.Plug(0, 3)
	snapshot := d.State
	d.Reset()
	d.State = snapshot
	if d.SetIRQ != nil {
		d.SetIRQ(d.SCI()) // the interrupt controller follows
	}
	fmt.Println(d.Bus[0].Up == 1<<3, d.State == snapshot)
	// Output:
	// true true
}
