package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/virtfmt/virtfmt/internal/corpus"
	"github.com/virtfmt/virtfmt/internal/difftest"
)

// clusterSamples returns clusters that compress, with matches as far apart as
// the cluster is long.
func clusterSamples(seed uint64, size int) [][]byte {
	r := rand.New(rand.NewPCG(seed, 1))
	text := corpus.Bytes(corpus.Text(seed), size)
	far := bytes.Clone(text)
	for off := 0; off < size; {
		dist := 1 + r.IntN(max(1, min(off, 40000)))
		n := min(3+r.IntN(400), size-off)
		for i := range n {
			if off+i >= dist {
				far[off+i] = far[off+i-dist]
			}
		}
		off += n + r.IntN(40)
	}
	skewed := make([]byte, size)
	for i := range skewed {
		skewed[i] = byte(r.ExpFloat64() * 4)
	}
	return [][]byte{text, far, skewed, make([]byte, size), bytes.Repeat([]byte("abc"), size/3+1)[:size]}
}

// TestDeflateWindow holds that no cluster that we write as deflate refers back
// further than QEMU's own do, for decoders with a window of 4 KiB.
func TestDeflateWindow(t *testing.T) {
	for _, size := range []int{512, 4096, 65536, 65536 + difftest.Scale(t, 2<<20-65536)} {
		c, err := newCompressor(CompressionDeflate, int64(size))
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range clusterSamples(uint64(size), size) {
			z, ok := c.compress(p)
			if !ok {
				t.Fatalf("sample %d of %d bytes does not shrink", i, size)
			}
			far, got, err := strictInflate(z)
			if err != nil || !bytes.Equal(got, p) {
				t.Fatalf("sample %d of %d bytes: %v, equal: %v", i, size, err, bytes.Equal(got, p))
			}
			if far > 4096 {
				t.Errorf("sample %d of %d bytes refers back %d bytes", i, size, far)
			}
			if size > 4096 && i < 2 && far < 2048 {
				t.Errorf("sample %d of %d bytes refers back only %d bytes", i, size, far)
			}
		}
	}
}

// zlibScript decodes streams, each behind its length, with a window of 4 KiB
// and a byte at a time, and writes what they hold.
const zlibScript = `
import sys, struct, zlib
data = sys.stdin.buffer.read()
while data:
    n, = struct.unpack('<I', data[:4])
    z = zlib.decompressobj(-12)
    for i in range(n):
        sys.stdout.buffer.write(z.decompress(data[4+i:5+i]))
    assert z.eof and not z.unused_data
    data = data[4+n:]
`

// TestDeflateByZlib has zlib stream what we write through its smallest window
// that QEMU's clusters pass.
func TestDeflateByZlib(t *testing.T) {
	python := difftest.Tool(t, "python3", "3.9")
	var in, want []byte
	for _, size := range []int{512, 4096, 65536} {
		c, err := newCompressor(CompressionDeflate, int64(size))
		if err != nil {
			t.Fatal(err)
		}
		for seed := range uint64(4) {
			for _, p := range clusterSamples(seed, size) {
				if z, ok := c.compress(p); ok {
					in = binary.LittleEndian.AppendUint32(in, uint32(len(z)))
					in = append(in, z...)
					want = append(want, p...)
				}
			}
		}
	}
	r := difftest.TryIn(t, in, python, "-c", zlibScript)
	if r.Code != 0 || !bytes.Equal(r.Stdout, want) {
		t.Errorf("exit %d, %d bytes, want %d\n%s", r.Code, len(r.Stdout), len(want), r.Stderr)
	}
}

// TestZstdFrame holds that a cluster is one frame with a single segment, its
// size and no checksum, as QEMU writes it.
func TestZstdFrame(t *testing.T) {
	for _, size := range []int{512, 4096, 65536, 65536 + difftest.Scale(t, 2<<20-65536)} {
		c, err := newCompressor(CompressionZstd, int64(size))
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range clusterSamples(uint64(size), size) {
			z, ok := c.compress(p)
			if size == 512 && i == 2 {
				continue // hardly shrinks
			}
			var h zstd.Header
			if err := h.Decode(z); !ok || err != nil || !h.SingleSegment || !h.HasFCS || h.HasCheckSum || h.FrameContentSize != uint64(size) || h.DictionaryID != 0 {
				t.Errorf("sample %d of %d bytes: %v, %v, %+v", i, size, ok, err, h)
			}
		}
	}
}

func TestCompressNoise(t *testing.T) {
	for _, kind := range []CompressionType{CompressionDeflate, CompressionZstd} {
		c, err := newCompressor(kind, 65536)
		if err != nil {
			t.Fatal(err)
		}
		text := corpus.Bytes(corpus.Text(1), 65536)
		before, _ := c.compress(text)
		before = bytes.Clone(before)
		for range 3 {
			if _, ok := c.compress(corpus.Bytes(corpus.Noise(1), 65536)); ok {
				t.Errorf("%v: noise shrinks", kind)
			}
		}
		if after, ok := c.compress(text); !ok || !bytes.Equal(before, after) {
			t.Errorf("%v: text is compressed otherwise after noise", kind)
		}
	}
}

// strictInflate decodes a deflate stream as RFC 1951 says, one bit at a time,
// and returns the longest distance in it.
func strictInflate(in []byte) (far int, out []byte, err error) {
	d := bitReader{in: in}
	defer func() {
		if e, ok := recover().(error); ok {
			err = e
		}
	}()
	for final := 0; final == 0; {
		final = d.bits(1)
		switch kind := d.bits(2); kind {
		case 0:
			d.pos = (d.pos + 7) &^ 7
			n, inverse := d.bits(16), d.bits(16)
			if n != ^inverse&0xffff {
				return far, out, errors.New("stored length")
			}
			for range n {
				out = append(out, byte(d.bits(8)))
			}
		case 1, 2:
			lens, distLens := fixedLengths()
			if kind == 2 {
				lens, distLens = d.dynamicLengths()
			}
			lit, dist := newCanonical(lens), newCanonical(distLens)
			for {
				s := d.symbol(&lit)
				if s == 256 {
					break
				}
				if s < 256 {
					out = append(out, byte(s))
					continue
				}
				n := d.extra(s-257, 4, 3)
				if s == 285 {
					n = 258
				}
				back := d.extra(d.symbol(&dist), 2, 1)
				far = max(far, back)
				for range n {
					out = append(out, out[len(out)-back])
				}
			}
		default:
			return far, out, fmt.Errorf("block type %d", kind)
		}
	}
	if (d.pos+7)/8 != len(in) {
		err = fmt.Errorf("ends after %d bits of %d bytes", d.pos, len(in))
	}
	return far, out, err
}

// A bitReader reads bits. It panics at the end.
type bitReader struct {
	in  []byte
	pos int
}

func (d *bitReader) bits(n int) (v int) {
	for i := range n {
		if d.pos>>3 >= len(d.in) {
			panic(io.ErrUnexpectedEOF)
		}
		v |= int(d.in[d.pos>>3]>>(d.pos&7)&1) << i
		d.pos++
	}
	return v
}

// A canonical code is the symbols by length of their code, in order.
type canonical [16][]int

func newCanonical(lens []int) (c canonical) {
	for s, n := range lens {
		if n > 0 {
			c[n] = append(c[n], s)
		}
	}
	return c
}

// symbol reads a symbol.
func (d *bitReader) symbol(c *canonical) int {
	code, first := 0, 0
	for n := 1; n <= 15; n++ {
		code, first = code<<1|d.bits(1), first<<1
		if code-first < len(c[n]) {
			return c[n][code-first]
		}
		first += len(c[n])
	}
	panic(errors.New("no such code"))
}

// extra reads the bits behind a length or distance symbol. RFC 1951 3.2.5.
func (d *bitReader) extra(s, group, base int) int {
	for i := range s {
		base += 1 << max(0, i/group-1)
	}
	return base + d.bits(max(0, s/group-1)*boolInt(group == 2 || s < 28))
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func fixedLengths() (lit, dist []int) {
	for i := range 288 {
		lit = append(lit, 8+boolInt(i >= 144 && i < 256)-boolInt(i >= 256 && i < 280))
	}
	return lit, bytesToInts(bytes.Repeat([]byte{5}, 30))
}

func bytesToInts(p []byte) (v []int) {
	for _, b := range p {
		v = append(v, int(b))
	}
	return v
}

func (d *bitReader) dynamicLengths() (lit, dist []int) {
	n, m, p := d.bits(5)+257, d.bits(5)+1, d.bits(4)+4
	pre := make([]int, 19)
	for _, i := range []int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}[:p] {
		pre[i] = d.bits(3)
	}
	code := newCanonical(pre)
	var lens []int
	for len(lens) < n+m {
		s, v, times := d.symbol(&code), 0, 1
		switch s {
		case 16:
			v, times = lens[len(lens)-1], 3+d.bits(2)
		case 17:
			times = 3 + d.bits(3)
		case 18:
			times = 11 + d.bits(7)
		default:
			v = s
		}
		for range times {
			lens = append(lens, v)
		}
	}
	return lens[:n], lens[n:]
}
