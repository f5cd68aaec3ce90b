package migschema_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/migschema"
)

func TestXBZRLE(t *testing.T) {
	for _, c := range []struct{ name, old, new, delta string }{
		{"equal", "0011223344556677889900", "0011223344556677889900", ""},
		{"all", "00112233445566", "ffeeddccbbaa99", "-"}, // longer than the page
		{"first", "00000000000000000000", "01000000000000000000", "000101"},
		{"last", "00000000000000000000", "00000000000000000001", "090101"},
		{"two", "000000000000000000000000", "0001020000000000000003ff", "0102010207" + "0203ff"},
		{"word ends within", "00000000000000000000000000000000", "01010101010101000000000000000000", "000701010101010101"},
		{"gap of one", "00000000000000000000", "01000200000000000000", "000101010102"},
	} {
		t.Run(c.name, func(t *testing.T) {
			old, _ := hex.DecodeString(c.old)
			new, _ := hex.DecodeString(c.new)
			got, ok := migschema.AppendXBZRLE([]byte("head"), old, new)
			if string(got[:4]) != "head" {
				t.Fatalf("%q", got)
			}
			if c.delta == "-" {
				if ok || len(got) > 4 {
					t.Errorf("got %x", got[4:])
				}
				return
			}
			if !ok || hex.EncodeToString(got[4:]) != c.delta {
				t.Errorf("got %x, want %s", got[4:], c.delta)
			}
			if err := migschema.DecodeXBZRLE(old, got[4:]); err != nil || !bytes.Equal(old, new) {
				t.Errorf("decodes to %x, %v", old, err)
			}
		})
	}
}

// TestXBZRLERandom takes changes of all kinds there and back.
func TestXBZRLERandom(t *testing.T) {
	r := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	for range difftest.Scale(t, 20000) {
		size := []int{1, 7, 8, 64, 4096, 4097}[r.IntN(6)]
		old := make([]byte, size)
		for i := range old {
			old[i] = byte(r.IntN(4))
		}
		new := bytes.Clone(old)
		for range r.IntN(20) {
			at := r.IntN(size)
			for i := at; i < min(size, at+r.IntN(1+size/8)); i++ {
				new[i] = byte(r.IntN(256))
			}
		}
		delta, ok := migschema.AppendXBZRLE(nil, old, new)
		if !ok {
			continue
		}
		if len(delta) > size {
			t.Fatalf("a delta of %d for %d", len(delta), size)
		}
		if err := migschema.DecodeXBZRLE(old, delta); err != nil || !bytes.Equal(old, new) {
			t.Fatalf("size %d, delta %x: %v", size, delta, err)
		}
	}
	if _, ok := migschema.AppendXBZRLE(nil, make([]byte, 65536), append(make([]byte, 65535), 1)); ok {
		t.Error("a run of 65535 was told in two octets")
	}
	if _, ok := migschema.AppendXBZRLE(nil, make([]byte, 8), make([]byte, 9)); ok {
		t.Error("pages of different sizes")
	}
}

func TestXBZRLEMalformed(t *testing.T) {
	for name, delta := range map[string]string{
		"no count":             "01",
		"cut count":            "0180",
		"zero count":           "0100",
		"no data":              "0103",
		"short data":           "01030102",
		"past the page":        "0f0201ff",
		"equal past the page":  "7f01ff",
		"three octets":         "808001",
		"second run of none":   "0001ff0001ff",
		"count of three":       "00808001ff",
		"second past the page": "0e01ff0201ff",
	} {
		b, err := hex.DecodeString(delta)
		if err != nil {
			t.Fatal(err)
		}
		if err := migschema.DecodeXBZRLE(make([]byte, 16), b); !errors.Is(err, migschema.CodeXBZRLE) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzXBZRLE decodes any delta; what is accepted can be written anew.
func FuzzXBZRLE(f *testing.F) {
	for _, s := range []string{"", "000101", "0102010207", "0001ff0001ff", "808001"} {
		b, _ := hex.DecodeString(s)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, delta []byte) {
		old := make([]byte, 256)
		for i := range old {
			old[i] = byte(i / 9)
		}
		new := bytes.Clone(old)
		if migschema.DecodeXBZRLE(new, delta) != nil {
			return
		}
		if again, ok := migschema.AppendXBZRLE(nil, old, new); ok {
			if err := migschema.DecodeXBZRLE(old, again); err != nil || !bytes.Equal(old, new) {
				t.Fatalf("%x: %v", again, err)
			}
		}
	})
}

func BenchmarkXBZRLE(b *testing.B) {
	old := make([]byte, 4096)
	for i := range old {
		old[i] = byte(i * 3)
	}
	new := bytes.Clone(old)
	for i := 0; i < len(new); i += 512 {
		copy(new[i:], "some changed bytes")
	}
	delta, _ := migschema.AppendXBZRLE(nil, old, new)
	buf := make([]byte, 0, 4096)
	b.Run("encode", func(b *testing.B) {
		b.SetBytes(4096)
		for b.Loop() {
			migschema.AppendXBZRLE(buf, old, new)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(4096)
		for b.Loop() {
			migschema.DecodeXBZRLE(old, delta)
		}
	})
}
