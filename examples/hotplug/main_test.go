package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const wantDefault = `The machine starts: the host bridge sits in slot 0 and stays there. The guest boots.
    write 1 byte at GPE+0x02: 0x00
    write 1 byte at GPE+0x00: 0xff
    write 1 byte at GPE+0x03: 0x00
    write 1 byte at GPE+0x01: 0xff
    read 1 byte at GPE+0x02: 0x00
    write 1 byte at GPE+0x02: 0x02
The VMM plugs a device in.
    device plugged into bus 0 slot 5
    SCI raised
The guest handles the interrupt.
    read 1 byte at GPE+0x00: 0x02
    read 1 byte at GPE+0x02: 0x02
    read 1 byte at GPE+0x02: 0x02
    write 1 byte at GPE+0x02: 0x00
    SCI lowered
    write 1 byte at GPE+0x00: 0x02
    write 4 bytes at 0x10 (select): 0x00000000, bus 0
    read 4 bytes at 0x00 (up): 0x00000020, slot 5
    read 4 bytes at 0x04 (down): 0x00000000, no slot
    read 1 byte at GPE+0x02: 0x00
    write 1 byte at GPE+0x02: 0x02
    -> Notify (bus 0 slot 5, Device Check)
The VMM asks for the device back.
    removal of the device in bus 0 slot 5 asked for
    SCI raised
The guest handles the interrupt.
    read 1 byte at GPE+0x00: 0x02
    read 1 byte at GPE+0x02: 0x02
    read 1 byte at GPE+0x02: 0x02
    write 1 byte at GPE+0x02: 0x00
    SCI lowered
    write 1 byte at GPE+0x00: 0x02
    write 4 bytes at 0x10 (select): 0x00000000, bus 0
    read 4 bytes at 0x00 (up): 0x00000000, no slot
    read 4 bytes at 0x04 (down): 0x00000020, slot 5
    read 1 byte at GPE+0x02: 0x00
    write 1 byte at GPE+0x02: 0x02
    -> Notify (bus 0 slot 5, Eject Request)
Its driver lets go of the device, and _EJ0 ejects it.
    write 4 bytes at 0x10 (select): 0x00000000, bus 0
    write 4 bytes at 0x08 (eject): 0x00000020, slot 5
    device in bus 0 slot 5 ejected
`

func TestDefault(t *testing.T) {
	var out strings.Builder
	if err := run(nil, &out); err != nil {
		t.Fatal(err)
	}
	if out.String() != wantDefault {
		t.Errorf("got\n%swant\n%s", out.String(), wantDefault)
	}
}

func TestModes(t *testing.T) {
	aml := filepath.Join(t.TempDir(), "hotplug.aml")
	for _, args := range [][]string{
		{"-mode", "latched"},
		{"-mode", "level", "-slot", "31"},
		{"-bus", "2", "-slot", "9", "-ssdt", aml},
	} {
		var out strings.Builder
		if err := run(args, &out); err != nil || !strings.HasSuffix(out.String(), "ejected\n") {
			t.Errorf("%v: %v\n%s", args, err, out.String())
		}
	}
	if b, err := os.ReadFile(aml); err != nil || !strings.HasPrefix(string(b), "SSDT") {
		t.Errorf("the table: %v", err)
	}
}

func TestErrors(t *testing.T) {
	for _, args := range [][]string{
		{"-mode", "edge"}, {"-slot", "32"}, {"-bus", "1", "-mode", "latched"}, {"-bus", "300", "-ssdt", "/dev/null"}, {"-bus", "1", "-mode", "level", "-ssdt", "/dev/null"}, {"-x"}, {"latched"},
	} {
		if err := run(args, new(strings.Builder)); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

func TestHelp(t *testing.T) {
	var out strings.Builder
	if err := run([]string{"--help"}, &out); err != flag.ErrHelp || !strings.HasPrefix(out.String(), "Usage of hotplug:") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
