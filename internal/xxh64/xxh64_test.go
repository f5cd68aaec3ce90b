package xxh64

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/virtfmt/virtfmt/internal/difftest"
)

// TestPublished holds the digest against values published for XXH64.
func TestPublished(t *testing.T) {
	for s, want := range map[string]uint64{
		"":     0xef46db3751d8e999,
		"a":    0xd24ec4f1a98c6e5b,
		"as":   0x1c330fb2d66be179,
		"asd":  0x631c37ce72a97393,
		"asdf": 0x415872f599cea71e,
		"Call me Ishmael. Some years ago--never mind how long precisely-": 0x02a2e85470d6fd96,
	} {
		d := New()
		d.Write([]byte(s))
		if got := d.Sum64(); got != want {
			t.Errorf("%q: %#x, want %#x", s, got, want)
		}
	}
}

// TestZstd writes bytes in pieces of any size, and compares with the checksums
// that two programs put at the end of a frame.
func TestZstd(t *testing.T) {
	tool := difftest.Tool(t, "zstd", "1.4")
	e, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(true))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	d := New()
	for size := range 300 {
		if size >= 100 {
			size *= 1 + rng.IntN(50)
		}
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		d.Reset()
		for rest := b; len(rest) > 0; {
			n := 1 + rng.IntN(min(len(rest), 100))
			d.Write(rest[:n])
			d.Sum64() // changes nothing
			rest = rest[n:]
		}
		sum := binary.LittleEndian.AppendUint32(nil, uint32(d.Sum64()))
		if frame := e.EncodeAll(b, nil); size > 0 && !bytes.HasSuffix(frame, sum) {
			t.Fatalf("%d bytes: %x, the library says %x", size, sum, frame[len(frame)-4:])
		}
		if size%10 != 0 {
			continue
		}
		if frame := difftest.TryIn(t, b, tool, "-q", "-c", "--check").Stdout; !bytes.HasSuffix(frame, sum) {
			t.Fatalf("%d bytes: %x, zstd says %x", size, sum, frame[len(frame)-4:])
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	p := make([]byte, 1<<20)
	d := New()
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		d.Write(p)
	}
}
