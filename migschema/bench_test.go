package migschema_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/virtfmt/virtfmt/migschema"
)

// berPages returns a BER stream by hand: n pages, each as page says.
func berPages(n int, page func(i int) []byte) []byte {
	b := []byte{0x7f, 0xcd, 0xc5, 0x51, 0x80, 2, 1, 3, 0x30, 0x80}
	b = append(b, 0x7f, 0x81, 0x53, 0x80, 2, 1, 2, 0x7f, 0xcc, 0x52, 0x80, 0x30, 0x80, 0x0c, 6)
	b = append(b, "pc.ram"...)
	b = append(b, 0x30, 0x80)
	for i := range n {
		b = append(b, page(i)...)
	}
	b = append(b, make([]byte, 6)...)
	b = append(b, 0x5f, 0xd3, 0x45, 0)
	return append(b, make([]byte, 6)...)
}

func fullPage(i int) []byte {
	addr := i << 12
	b := []byte{0x7f, 0xc6, 0x50, 0x82, 0x10, 0x09, 2, 4, byte(addr >> 24), byte(addr >> 16), byte(addr >> 8), byte(addr), 4, 0x82, 0x10, 0}
	b[5] += 1
	return append(b, bytes.Repeat([]byte{byte(i)}, 4096)...)
}

func BenchmarkDecode(b *testing.B) {
	full := berPages(65536, func(i int) []byte { return fullPage(i | 0x1000000>>12) })
	zero := berPages(1<<20, func(i int) []byte {
		i |= 1 << 20
		return []byte{0x40, 4, byte(i >> 20), byte(i >> 12), byte(i >> 4), byte(i << 4)}
	})
	b.Run("copy", func(b *testing.B) {
		b.SetBytes(256 << 20)
		dst := make([]byte, 256<<20)
		for b.Loop() {
			copy(dst, full)
		}
	})
	for _, s := range []struct {
		name string
		b    []byte
	}{{"full", full}, {"zero", zero}} {
		run := func(name string, d func() *migschema.Decoder) {
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				if s.name == "full" {
					b.SetBytes(256 << 20)
				}
				n := 0
				for b.Loop() {
					d := d()
					n = 0
					for {
						e, err := d.Next()
						if err == io.EOF {
							break
						}
						if err != nil {
							b.Fatal(err)
						}
						if e.Kind == migschema.EventPage {
							n++
						}
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/page")
			})
		}
		run(s.name+"/reader", func() *migschema.Decoder { return migschema.NewDecoder(bytes.NewReader(s.b), nil) })
		run(s.name+"/bytes", func() *migschema.Decoder { return migschema.NewDecoderBytes(s.b, nil) })
	}
}
