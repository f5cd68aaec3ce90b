package acpihotplug_test

import (
	"encoding/binary"
	"encoding/json"
	"testing"

	"github.com/virtfmt/virtfmt/acpihotplug"
)

// FuzzDevice runs bytes as a program of accesses and calls: first the
// configuration, then steps of an opcode, an offset, a width and a value.
func FuzzDevice(f *testing.F) {
	f.Add([]byte{1, 0, 16, 0, 5, 0, 4, 0, 1, 0, 0, 0, 2, 0, 4, 0, 0, 0, 0})
	f.Add([]byte{0x82, 4, 0, 3, 8, 0, 4, 0xff, 0xff, 0xff, 0xff, 5, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, prog []byte) {
		if len(prog) < 3 {
			return
		}
		d := acpihotplug.Device{
			Mode: acpihotplug.Mode(prog[0] & 3), EjectAll: prog[0]&4 != 0, GPESurvivesReset: prog[0]&8 != 0,
			BlockSize: uint64(prog[1]), GPELen: prog[2],
		}
		level, ejects, plugs := false, 0, 0
		d.SetIRQ = func(l bool) { level = l }
		d.Eject = func(bus, slot int) {
			ejects++
			if d.Bus[bus].Present>>slot&1 != 0 || d.Bus[bus].Fixed>>slot&1 != 0 {
				t.Errorf("bus %d slot %d ejected, but is there", bus, slot)
			}
		}
		d.Trace = func(e acpihotplug.Event) { _ = e.String() }
		d.AcpiIndex = func(bus, slot int) uint32 { return uint32(bus<<8 | slot) }
		for p := prog[3:]; len(p) >= 8; p = p[8:] {
			off, width, v := uint64(p[1])|uint64(p[2]&0x80)<<56, int(p[2]&0xf), p[4:8]
			data := make([]byte, width)
			copy(data, v)
			bus, slot := int(int16(binary.LittleEndian.Uint16(v))), int(int8(v[2]))
			switch p[0] % 9 {
			case 0:
				d.Read(off, data)
			case 1:
				d.Write(off, data)
			case 2:
				d.ReadGPE(off, data)
			case 3:
				d.WriteGPE(off, data)
			case 4:
				if d.Plug(bus, slot) == nil {
					plugs++
				}
			case 5:
				d.RequestUnplug(bus, slot)
			case 6:
				if d.ColdPlug(bus, slot, v[3]&1 == 1) == nil {
					plugs++
				}
			case 7:
				d.RaiseGPE(slot)
			case 8:
				d.Reset()
			}
			if d.SCI() != level {
				t.Fatalf("SCI is %v, SetIRQ was told %v", d.SCI(), level)
			}
		}
		if ejects > plugs {
			t.Errorf("%d slots ejected of %d plugged", ejects, plugs)
		}
		b, err := json.Marshal(d.State)
		if err != nil {
			t.Fatal(err)
		}
		var back acpihotplug.State
		if err := json.Unmarshal(b, &back); err != nil || back != d.State {
			t.Errorf("snapshot %s: %v", b, err)
		}
	})
}

// FuzzState reads snapshots that others wrote and runs a Device on them.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"GPE":{"Status":2,"Enable":2},"Select":255,"Bus":{"255":{"Up":32,"Present":32},"0":{"Fixed":3}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := acpihotplug.Device{Mode: acpihotplug.ClearOnRead}
		if json.Unmarshal(b, &d.State) != nil {
			return
		}
		read(&d, acpihotplug.RegUp)
		write(&d, acpihotplug.RegEject, 1<<31)
		d.Reset()
		again, err := json.Marshal(d.State)
		if err != nil {
			t.Fatal(err)
		}
		var back acpihotplug.State
		if err := json.Unmarshal(again, &back); err != nil || back != d.State {
			t.Errorf("%s: %v", again, err)
		}
	})
}

// FuzzSSDT makes tables of any description: a table whose length and checksum
// are right, or an error.
func FuzzSSDT(f *testing.F) {
	f.Add(uint8(1), uint16(0), `\_SB.PCI0`, uint32(0), uint32(0), uint8(7), []byte{3, 1, 0, 4, 2, 1})
	f.Add(uint8(0), uint16(0xfff0), `\A.B.C`, uint32(1), uint32(1), uint8(0), []byte{})
	f.Fuzz(func(t *testing.T, mode uint8, base uint16, path string, slots, fixed uint32, flags uint8, bridges []byte) {
		s := acpihotplug.SSDT{
			Mode: acpihotplug.Mode(mode), Base: base, Path: path, Slots: slots, Fixed: fixed,
			Removable: flags&1 != 0, Status: flags&2 != 0, Reserve: flags&4 != 0,
		}
		if flags&8 != 0 {
			s.OEMID, s.OEMTableID = path, path
		}
		if flags&16 != 0 {
			s.Declared = ^slots
		}
		s.Bridges = bridgesOf(&bridges, 40)
		b, err := s.MarshalBinary()
		if err != nil {
			return
		}
		var sum byte
		for _, c := range b {
			sum += c
		}
		if sum != 0 || int(binary.LittleEndian.Uint32(b[4:])) != len(b) {
			t.Errorf("%d bytes, sum %d, length field %d", len(b), sum, binary.LittleEndian.Uint32(b[4:]))
		}
	})
}

// bridgesOf builds a tree of bridges from bytes: slot, selector, and whether
// the next one is behind it.
func bridgesOf(b *[]byte, depth int) []acpihotplug.Bridge {
	var out []acpihotplug.Bridge
	for len(*b) >= 3 && depth > 0 {
		br := acpihotplug.Bridge{Slot: int(int8((*b)[0])), Select: uint32((*b)[1]), Slots: 1 << ((*b)[2] & 31)}
		behind := (*b)[2]&0x80 != 0
		*b = (*b)[3:]
		if behind {
			br.Bridges = bridgesOf(b, depth-1)
		}
		out = append(out, br)
	}
	return out
}
