package berbench

import (
	"bytes"
	"testing"

	ber "github.com/go-asn1-ber/asn1-ber"

	"github.com/virtfmt/virtfmt/migschema"
)

// stream returns memory and the stream of it in DER, which all peers read.
func stream(tb testing.TB, pages int) (memory, der []byte) {
	tb.Helper()
	ber.MaxPacketLengthBytes = 1 << 40
	memory = newMemory(pages)
	var b bytes.Buffer
	b.Grow(pages * (pageSize + 20))
	if err := encode(&b, memory, migschema.DER); err != nil {
		tb.Fatal(err)
	}
	return memory, b.Bytes()
}

// TestSame shows that all measure the same work.
func TestSame(t *testing.T) {
	memory, der := stream(t, 600)
	want := sum{pages: 600}
	for i := range 600 {
		want.total += uint64(i*pageSize) + uint64(memory[i*pageSize])
	}
	check := func(name string, got sum, err error) {
		t.Helper()
		if got != want || err != nil {
			t.Errorf("%s: %v, want %v, %v", name, got, want, err)
		}
	}
	got, err := decode(migschema.NewDecoderBytes(der, nil))
	check("migschema", got, err)
	got, err = decodeStd(der)
	check("encoding/asn1", got, err)
	got, err = decodeGoBER(bytes.NewReader(der))
	check("go-asn1-ber", got, err)
	if b, err := encodeStd(memory); err != nil || !bytes.Equal(b, der) {
		t.Errorf("encoding/asn1: encoded otherwise, %v", err)
	}
	if b := encodeGoBER(memory); !bytes.Equal(b, der) {
		t.Error("go-asn1-ber: encoded otherwise")
	}
}

func pages(b *testing.B) int {
	if testing.Short() {
		return 4 << 20 / pageSize
	}
	return 256 << 20 / pageSize
}

func BenchmarkDecode(b *testing.B) {
	memory, der := stream(b, pages(b))
	var streamed bytes.Buffer
	streamed.Grow(len(der) + 1<<10)
	if err := encode(&streamed, memory, migschema.Streamed); err != nil {
		b.Fatal(err)
	}
	run := func(name string, f func() (sum, error)) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(memory)))
			b.ReportAllocs()
			for b.Loop() {
				if s, err := f(); err != nil || s.pages != len(memory)/pageSize {
					b.Fatal(s, err)
				}
			}
		})
	}
	dst := make([]byte, len(memory))
	run("copy", func() (sum, error) { return sum{pages: copy(dst, memory) / pageSize}, nil })
	run("migschema/der/bytes", func() (sum, error) { return decode(migschema.NewDecoderBytes(der, nil)) })
	run("migschema/der/reader", func() (sum, error) { return decode(migschema.NewDecoder(bytes.NewReader(der), nil)) })
	run("migschema/streamed/reader", func() (sum, error) { return decode(migschema.NewDecoder(bytes.NewReader(streamed.Bytes()), nil)) })
	run("encoding/asn1/der/bytes", func() (sum, error) { return decodeStd(der) })
	run("go-asn1-ber/der/reader", func() (sum, error) { return decodeGoBER(bytes.NewReader(der)) })
}

func BenchmarkEncode(b *testing.B) {
	memory, der := stream(b, pages(b))
	out := &sink{b: make([]byte, len(der)+1<<10)}
	run := func(name string, f func() error) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(memory)))
			b.ReportAllocs()
			for b.Loop() {
				out.n = 0
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("copy", func() error { _, err := out.Write(memory); return err })
	run("migschema/streamed", func() error { return encode(out, memory, migschema.Streamed) })
	run("migschema/der", func() error { return encode(out, memory, migschema.DER) })
	run("encoding/asn1/der", func() error { _, err := encodeStd(memory); return err })
	run("go-asn1-ber/der", func() error { encodeGoBER(memory); return nil })
}
