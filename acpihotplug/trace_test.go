package acpihotplug_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/acpihotplug"
)

// TestTrace holds the words of a whole cycle, and of what guests get wrong.
func TestTrace(t *testing.T) {
	var got []string
	d := acpihotplug.Device{Mode: acpihotplug.ClearOnRead}
	d.Trace = func(e acpihotplug.Event) { got = append(got, e.String()) }
	d.AcpiIndex = func(bus, slot int) uint32 { return 77 }
	d.WriteGPE(2, []byte{2})
	must(t, d.Plug(0, 5))
	d.ReadGPE(0, make([]byte, 1))
	read(&d, acpihotplug.RegUp)
	read(&d, acpihotplug.RegUp)
	d.WriteGPE(0, []byte{2})
	must(t, d.RequestUnplug(0, 5))
	read(&d, acpihotplug.RegDown)
	read(&d, acpihotplug.RegRemovable)
	read(&d, acpihotplug.RegEject)
	write(&d, acpihotplug.RegIndex, 1<<5)
	read(&d, acpihotplug.RegIndex)
	write(&d, acpihotplug.RegEject, 1<<5|1<<7)
	write(&d, acpihotplug.RegUp, 1)
	d.Write(acpihotplug.RegEject, []byte{0x20})
	d.Read(1, make([]byte, 4))
	d.ReadGPE(4, make([]byte, 2))
	read(&d, 0x1000)
	write(&d, acpihotplug.RegSelect, 3)
	read(&d, acpihotplug.RegUp)
	write(&d, acpihotplug.RegSelect, 256)
	d.Reset()
	want := `write 1 byte at GPE+0x02: 0x02
device plugged into bus 0 slot 5
SCI raised
read 1 byte at GPE+0x00: 0x02
read 4 bytes at 0x00 (up): 0x00000020, slot 5
read 4 bytes at 0x00 (up): 0x00000000, no slot
write 1 byte at GPE+0x00: 0x02
SCI lowered
removal of the device in bus 0 slot 5 asked for
SCI raised
read 4 bytes at 0x04 (down): 0x00000020, slot 5
read 4 bytes at 0x0c (removable): 0xffffffff, all slots
read 4 bytes at 0x08 (eject): 0x00000000, base feature set
write 4 bytes at 0x14 (index): 0x00000020, slot 5
read 4 bytes at 0x14 (index): 0x0000004d, acpi-index 77
write 4 bytes at 0x08 (eject): 0x000000a0, slots 5 7
device in bus 0 slot 5 ejected
write 4 bytes at 0x00 (up): 0x00000001, no effect
write 1 byte at 0x08: 0x20, reaches no register
read 4 bytes at 0x01: 0x00000000, reaches no register
read 2 bytes at GPE+0x04: 0xffff, past the block
read 4 bytes at 0x1000: 0xffffffff, reaches no register
write 4 bytes at 0x10 (select): 0x00000003, bus 3
read 4 bytes at 0x00 (up, bus 3): 0x00000000, no slot
write 4 bytes at 0x10 (select, bus 3): 0x00000100, no bus
SCI lowered
machine reset`
	if diff := cmp.Diff(want, strings.Join(got, "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestTraceNamesTheBus: of the first bus nothing is said, of others which.
func TestTraceNamesTheBus(t *testing.T) {
	for bus, want := range []string{
		"read 4 bytes at 0x04 (down): 0x00000000",
		"read 4 bytes at 0x04 (down, bus 1): 0x00000000",
		"read 4 bytes at 0x04 (down, bus 2): 0x00000000",
	} {
		d := acpihotplug.Device{Mode: acpihotplug.ClearOnRead}
		d.Select = uint32(bus)
		var got string
		d.Trace = func(e acpihotplug.Event) { got = e.String() }
		d.Read(acpihotplug.RegDown, make([]byte, 4))
		if !strings.HasPrefix(got, want) {
			t.Errorf("bus %d: %q, want %q", bus, got, want)
		}
	}
}
