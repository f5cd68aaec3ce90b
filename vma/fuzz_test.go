package vma_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/virtfmt/virtfmt/vma"
)

// small is an archive with one cluster stored, so that fuzzing is quick.
func small(tb testing.TB) []byte {
	d := make(ram, 3<<16)
	d[1<<16] = 1
	return build(tb, true, d, content(1, 4096, 1))
}

// pack encodes an archive without its zeros, so that fuzzing works on what
// matters: a uint16 count of zeros, a byte count, as many bytes, and so on.
func pack(b []byte) (out []byte) {
	for len(b) > 0 {
		zeros := min(len(b)-len(bytes.TrimLeft(b, "\x00")), 1<<16-1)
		b = b[zeros:]
		n := 0
		for n < len(b) && n < 255 && (b[n] != 0 || n+3 < len(b) && !isZero(b[n:n+4])) {
			n++
		}
		out = binary.BigEndian.AppendUint16(out, uint16(zeros))
		out = append(append(out, byte(n)), b[:n]...)
		b = b[n:]
	}
	return out
}

// unpack decodes what pack encodes, at most 1 MiB of it.
func unpack(b []byte) (out []byte) {
	for len(b) >= 3 && len(out) < 1<<20 {
		out = append(out, make([]byte, binary.BigEndian.Uint16(b))...)
		n := min(int(b[2]), len(b)-3)
		out = append(out, b[3:3+n]...)
		b = b[3+n:]
	}
	return out
}

// FuzzHeader decodes headers; what it accepts and a Writer takes is the same
// after encoding and decoding it.
func FuzzHeader(f *testing.F) {
	f.Add(pack(takeApart(small(f)).header))
	for _, name := range []string{"blob dummy", "config twice", "device 255 unused", "config name utf8"} {
		f.Add(pack(takeApart(mutant(f, name)).header))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if b = unpack(b); len(b) > 12288 {
			binary.BigEndian.PutUint32(b[56:], uint32(len(b)))
			sign(b, 32)
		}
		var h, again vma.Header
		if h.UnmarshalBinary(b) != nil {
			return
		}
		enc, err := h.AppendBinary(nil)
		if err != nil {
			return // names or sizes that a Writer does not take
		}
		if err := again.UnmarshalBinary(enc); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(h, again, cmpopts.IgnoreFields(vma.Header{}, "Size", "BlobOffset", "BlobSize"), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("-decoded +again\n%s", diff)
		}
		if twice, err := again.AppendBinary(nil); err != nil || !bytes.Equal(enc, twice) {
			t.Fatalf("encoded differently again, or %v", err)
		}
	})
}

// FuzzArchive reads archives in every way, with their checksums as they are
// and made right. All ways must agree.
func FuzzArchive(f *testing.F) {
	b := small(f)
	f.Add(pack(b), false)
	f.Add(pack(b), true)
	f.Add(pack(b[:len(b)-5000]), true)
	for _, m := range mutations {
		p := takeApart(b)
		if func() (ok bool) {
			defer func() { ok = recover() == nil }() // mutations of larger archives
			m.do(p)
			return
		}() {
			f.Add(pack(p.join()), true)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, signed bool) {
		b = unpack(b)
		if signed {
			signAll(b)
		}
		for _, p := range []vma.Profile{vma.Proxmox, vma.Strict, vma.Salvage} {
			fuzzArchive(t, b, p)
		}
	})
}

// signAll makes the checksums right, as far as there are structures.
func signAll(b []byte) {
	if len(b) < 12288 {
		return
	}
	n := int64(binary.BigEndian.Uint32(b[56:]))
	if n < 12288 || n > int64(len(b)) {
		return
	}
	sign(b[:n], 32)
	for n+512 <= int64(len(b)) {
		sign(b[n:n+512], 24)
		n += 512 + 4096*int64(binary.BigEndian.Uint16(b[n+6:]))
	}
}

func fuzzArchive(t *testing.T, b []byte, p vma.Profile) {
	o := &vma.Options{Profile: p}
	r := verify(t, b, o)
	if (r.Err() == nil) != r.OK() {
		t.Fatal("Err and OK differ")
	}
	if p != vma.Salvage {
		readingAgrees(t, b, p)
	}
	a, err := vma.Open(bytes.NewReader(b), o)
	if err != nil {
		return
	}
	_, stream := readStreamAny(t, b, o)
	buf := make([]byte, 1<<20)
	for _, d := range a.Devices() {
		n, err := d.ReadAt(buf, 0)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		for off, data := range stream[d.Info().ID] {
			if off < int64(n) && !bytes.Equal(data[:min(len(data), n-int(off))], buf[off:min(int(off)+len(data), n)]) {
				t.Fatalf("device %d at %d: a stream gives other bytes", d.Info().ID, off)
			}
		}
		if _, err := d.ReadAt(buf[:1], d.Size()-1); err != nil {
			t.Fatal(err)
		}
		next, extents := int64(0), 0
		for e, err := range d.Extents(0, d.Size()) {
			if err != nil || e.Start != next || e.Length <= 0 {
				t.Fatalf("extent %+v at %d: %v", e, next, err)
			}
			next = e.End()
			if extents++; extents > 1<<20 {
				t.Fatal("extents without end")
			}
		}
		if next != d.Size() {
			t.Fatalf("extents end at %d of %d", next, d.Size())
		}
	}
}

// readStreamAny reads the runs that a stream gives, by device and offset.
func readStreamAny(t *testing.T, b []byte, o *vma.Options) (*vma.Reader, map[uint8]map[int64][]byte) {
	rd, err := vma.NewReader(struct{ io.Reader }{bytes.NewReader(b)}, o)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[uint8]map[int64][]byte)
	for {
		c, err := rd.Next()
		if err == io.EOF {
			return rd, got
		}
		if err != nil {
			t.Fatal(err)
		}
		if got[c.Device] == nil {
			got[c.Device] = make(map[int64][]byte)
		}
		for off, data := range c.Runs() {
			got[c.Device][off] = bytes.Clone(data)
		}
	}
}
