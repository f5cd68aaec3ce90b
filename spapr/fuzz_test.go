package spapr_test

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/spapr"
)

// FuzzCall makes hypercalls with the registers and the memory that bytes say.
// Whatever they do, what is not the guest's memory stays as it was.
func FuzzCall(f *testing.F) {
	f.Add(uint8(0), uint64(spapr.HLogicalMemop), uint64(8), uint64(0), uint64(3), uint64(2), uint64(1), []byte("0123456789abcdef"))
	f.Add(uint8(0), uint64(spapr.HRTAS), uint64(0), uint64(0), uint64(0), uint64(0), uint64(0), []byte("\x00\x00\x20\x01\x00\x00\x00\x00\x00\x00\x00\x08"))
	f.Add(uint8(15), uint64(spapr.HRTAS), uint64(4), uint64(0), uint64(0), uint64(0), uint64(0), []byte("\x00\x00\x20\x12\x00\x00\x00\x03\x00\x00\x00\x02\x00\x00\xff\xff\x00\x00\x00\x08\x00\x00\x00\x01"))
	f.Add(uint8(1), uint64(spapr.HPageInit), uint64(0x8000), uint64(0), uint64(0), uint64(0), uint64(0), []byte{})
	f.Fuzz(func(t *testing.T, strict uint8, r3, r4, r5, r6, r7, r8 uint64, memory []byte) {
		const size, guard = 0x2000, 64
		host := make([]byte, guard+size+guard)
		copy(host[guard:guard+size], memory)
		b := newBench(0)
		b.m.Memory = spapr.RAM{Data: host[guard : guard+size : guard+size]}
		b.m.Strict = spapr.Strict(strict)
		b.m.MemopLimit = 1 << 20
		b.m.OSTerm = func(s string) {
			if len(s) > spapr.MaxOSTermMessage {
				t.Errorf("a message of %d bytes", len(s))
			}
		}
		b.m.Trace = func(e spapr.Event) { _ = e.String() }
		r := spapr.Regs{R: [13]uint64{3: r3, r4, r5, r6, r7, r8}}
		if status := b.m.Call(&r); r.R[3] != uint64(status) {
			t.Errorf("status %v, r3 0x%x", status, r.R[3])
		}
		for _, c := range append(host[:guard:guard], host[guard+size:]...) {
			if c != 0 {
				t.Fatal("a byte outside the guest's memory was written")
			}
		}
	})
}

// FuzzBlock decodes bytes, and what comes out again.
func FuzzBlock(f *testing.F) {
	f.Add([]byte("\x00\x00\x20\x05\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03\xff\xff\xff\xfd\x00\x00\x00\x02"))
	f.Add([]byte("\x00\x00\x20\x05\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, p []byte) {
		var b, again spapr.Block
		if b.UnmarshalBinary(p) != nil {
			return
		}
		q, err := b.MarshalBinary()
		if err != nil || len(q) > len(p) || string(q) != string(p[:len(q)]) {
			t.Fatalf("%x became %x, %v", p, q, err)
		}
		if err := again.UnmarshalBinary(q); err != nil || cmp.Diff(b, again) != "" {
			t.Errorf("%x: %v", q, err)
		}
	})
}

// FuzzMemop compares with the model, element by element.
func FuzzMemop(f *testing.F) {
	f.Add(uint16(1), uint16(0), uint16(8), uint8(0))
	f.Add(uint16(0xfff8), uint16(16), uint16(40), uint8(7))
	f.Fuzz(func(t *testing.T, dst, src, count uint16, how uint8) {
		got, want := make([]byte, 0x9000), make([]byte, 0x9000)
		for i := range got {
			got[i] = byte(uint32(i) * 2654435761 >> 13)
		}
		copy(want, got)
		log2size, op, xor := uint64(how&3), uint64(how>>2&1), how&8 != 0
		// The end of the address space follows the beginning.
		d, s := uint64(int64(int16(dst)))&^(1<<log2size-1), uint64(int64(int16(src)))&^(1<<log2size-1)
		m := spapr.Machine{Memory: regions(got)}
		if xor {
			m.Strict = spapr.StrictXOR
		}
		if how&16 != 0 {
			m.Memory = plain{m.Memory}
		}
		g := spapr.Guest{Call: m.Call}
		if status := g.Memop(op, d, s, log2size, uint64(count)); status != spapr.HSuccess {
			t.Fatal(status)
		}
		memopModel(regions(want), op, d, s, log2size, uint64(count), xor)
		if string(got) != string(want) {
			t.Errorf("dst 0x%x src 0x%x count %d size %d op %d differs from the model", d, s, count, 1<<log2size, op)
		}
	})
}

// FuzzProperties finds tokens among properties that others made.
func FuzzProperties(f *testing.F) {
	f.Add("rtas-size", []byte{0, 0, 0, 20}, "rtas-size")
	f.Fuzz(func(t *testing.T, name string, value []byte, ask string) {
		token, ok := spapr.TokenOf([]spapr.Property{{Name: name, Value: value}})(ask)
		if ok != (name == ask && len(value) == 4) || ok && token != binary.BigEndian.Uint32(value) {
			t.Errorf("0x%x, %v", token, ok)
		}
	})
}
