package inflate_test

import (
	"bytes"
	stdflate "compress/flate"
	"io"
	"testing"

	"github.com/klauspost/compress/flate"

	"github.com/virtfmt/virtfmt/internal/corpus"
	"github.com/virtfmt/virtfmt/internal/inflate"
)

// BenchmarkDecode decodes clusters of 64 KiB of text that were compressed with
// a window of 4 KiB, and noise that could not be.
func BenchmarkDecode(b *testing.B) {
	const size, count = 65536, 32
	kinds := []struct {
		name  string
		in    io.Reader
		level int
	}{{"text/window=4K", corpus.Text(1), 11}, {"text/window=32K", corpus.Text(1), 6}, {"text/fast", corpus.Text(1), 1}, {"noise", corpus.Noise(1), 6}}
	for _, kind := range kinds {
		var srcs [count][]byte
		for i := range srcs {
			srcs[i] = deflate(b, corpus.Bytes(kind.in, size), kind.level)
		}
		run := func(name string, decode func(dst, src []byte) error) {
			b.Run(kind.name+"/"+name, func(b *testing.B) {
				b.SetBytes(size)
				b.ReportAllocs()
				dst := make([]byte, size)
				for i := 0; b.Loop(); i++ {
					if err := decode(dst, srcs[i%count]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		var d inflate.Decoder
		run("oneshot", func(dst, src []byte) error {
			_, err := d.Decode(dst, src)
			return err
		})
		run("klauspost", streaming(flate.NewReader))
		run("std", streaming(stdflate.NewReader))
	}
}

// streaming returns a function that decodes with a reader that is used again.
func streaming(newReader newReader) func(dst, src []byte) error {
	var in bytes.Reader
	r := newReader(&in)
	return func(dst, src []byte) error {
		in.Reset(src)
		if err := r.(stdflate.Resetter).Reset(&in, nil); err != nil {
			return err
		}
		_, err := io.ReadFull(r, dst)
		return err
	}
}
