package inflate_test

import (
	"bytes"
	stdflate "compress/flate"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/flate"

	"github.com/virtfmt/virtfmt/internal/corpus"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/inflate"
)

type newReader func(io.Reader) io.ReadCloser

// stream returns up to size bytes of what a streaming decoder makes of src.
func stream(newReader newReader, src []byte, size int) ([]byte, error) {
	dst := make([]byte, size)
	n, err := io.ReadFull(newReader(bytes.NewReader(src)), dst)
	return dst[:n], err
}

// compare decodes src and fails unless a streaming decoder sees it alike: both
// give the same size bytes, or both an error.
//
// The two differ in how far ahead they look: a streaming decoder wants as
// many bits as the shortest code or the end of the block has before it hands
// out a symbol, so that it may fail at the end of a cut stream where all the
// symbols asked for are there.
func compare(t *testing.T, d *inflate.Decoder, src []byte, size int) {
	t.Helper()
	const canary = 0xa5
	dst := bytes.Repeat([]byte{canary}, size+40)
	n, err := d.Decode(dst[:size:size], src[:len(src):len(src)])
	if (err == nil) != (n == size) {
		t.Fatalf("%d of %d bytes, %v", n, size, err)
	}
	if len(bytes.Trim(dst[size:], "\xa5")) != 0 {
		t.Fatal("wrote past the end of the output")
	}
	var e *inflate.Error
	if err != nil && (!errors.As(err, &e) || e.Offset < 0 || e.Offset > len(src)) {
		t.Fatalf("not a good error: %#v", err)
	}
	decoders := map[string]newReader{"compress/flate": stdflate.NewReader, "klauspost": flate.NewReader}
	if err != nil {
		delete(decoders, "klauspost") // takes an empty code for the one it had before
	}
	for name, newReader := range decoders {
		want, wantErr := stream(newReader, src, size)
		if err == nil && wantErr != nil {
			want, wantErr = stream(newReader, append(src[:len(src):len(src)], make([]byte, 16)...), size)
		}
		if (err == nil) != (wantErr == nil) || !bytes.HasPrefix(dst[:n], want) {
			t.Fatalf("%d bytes, %v; %s: %d bytes, %v", n, err, name, len(want), wantErr)
		}
	}
}

// samples returns data of many kinds, short and long.
func samples() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 1))
	runs := make([]byte, 0, 70000)
	for len(runs) < 65536 {
		period := runs[len(runs)-min(len(runs), 1+r.IntN(12)):]
		runs = append(runs, byte(r.IntN(256)))
		for range r.IntN(40) {
			runs = append(runs, period...)
		}
	}
	skewed := make([]byte, 65536) // codes of all lengths
	for i := range skewed {
		for skewed[i] < 255 && r.IntN(5) < 3 {
			skewed[i]++
		}
	}
	mixed := append(corpus.Bytes(corpus.Text(3), 20000), make([]byte, 20000)...)
	mixed = append(mixed, corpus.Bytes(corpus.Noise(3), 70000)...)
	return map[string][]byte{
		"text":   corpus.Bytes(corpus.Text(2), 65536),
		"noise":  corpus.Bytes(corpus.Noise(2), 65536),
		"zeros":  make([]byte, 65536),
		"runs":   runs[:65536],
		"skewed": skewed,
		"mixed":  mixed,
		"short":  []byte("a short text, a short text"),
		"byte":   {7},
		"empty":  {},
	}
}

// deflate compresses p at a level: those of compress/flate, 10 for its
// Huffman only, 11 for a window of 4 KiB.
func deflate(t testing.TB, p []byte, level int) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch level {
	case 10:
		w, err = stdflate.NewWriter(&out, stdflate.HuffmanOnly)
	case 11:
		w, err = flate.NewWriterWindow(&out, 4096)
	default:
		w, err = stdflate.NewWriter(&out, level)
	}
	if err == nil {
		_, err = w.Write(p)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestDecode(t *testing.T) {
	var d inflate.Decoder
	for name, p := range samples() {
		for _, level := range []int{0, 1, 4, 9, 10, 11} {
			src := deflate(t, p, level)
			got := make([]byte, len(p))
			if n, err := d.Decode(got, src); n != len(p) || err != nil || !bytes.Equal(got, p) {
				t.Fatalf("%s at level %d: %d bytes, %v", name, level, n, err)
			}
			junk := append(src[:len(src):len(src)], "anything behind the stream"...)
			if n, err := d.Decode(got, junk); n != len(p) || err != nil || !bytes.Equal(got, p) {
				t.Fatalf("%s at level %d with bytes behind it: %d bytes, %v", name, level, n, err)
			}
		}
	}
}

func TestDecodePart(t *testing.T) {
	var d inflate.Decoder
	for name, p := range samples() {
		src := deflate(t, p, 6)
		for size := 0; size <= len(p); size += 1 + size/7 {
			got := make([]byte, size)
			if n, err := d.Decode(got, src); n != size || err != nil || !bytes.Equal(got, p[:size]) {
				t.Fatalf("%s, %d bytes of it: %d bytes, %v", name, size, n, err)
			}
		}
	}
}

func TestShort(t *testing.T) {
	var d inflate.Decoder
	for name, p := range samples() {
		dst := make([]byte, len(p)+1)
		n, err := d.Decode(dst, deflate(t, p, 6))
		if n != len(p) || !errors.Is(err, inflate.ErrShort) || !bytes.Equal(dst[:n], p) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
}

func TestCut(t *testing.T) {
	var d inflate.Decoder
	for name, p := range samples() {
		for _, level := range []int{0, 6, 10} {
			src := deflate(t, p, level)
			dst := make([]byte, len(p)+1)
			for cut := 0; cut < len(src); cut += 1 + cut/2 {
				n, err := d.Decode(dst, src[:cut])
				if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(dst[:n], p[:n]) {
					t.Fatalf("%s cut at %d: %d bytes, %v", name, cut, n, err)
				}
				compare(t, &d, src[:cut], len(p))
			}
		}
	}
}

func TestCorrupt(t *testing.T) {
	var d inflate.Decoder
	far := bitWriter{}
	far.bits(3, 3)
	far.put(fixedCode(), 'a')
	far.put(fixedCode(), 257)
	far.bits(0x10, 5) // distance 2
	for _, c := range []struct {
		name, src string
		field     string
		offset    int
	}{
		{"block type 3", "\x07", "block type", 1},
		{"stored length", "\x00\x01\x00\xff\xff", "stored block length", 1},
		{"287 literal codes", "\xf4\xff\xff", "number of literal codes", 3},
		{"31 distance codes", "\x04\xde\xff", "number of distance codes", 3},
		{"distance before the start", string(far.flush()), "distance", 3},
	} {
		n, err := d.Decode(make([]byte, 1000), []byte(c.src))
		var e *inflate.Error
		if !errors.As(err, &e) || !errors.Is(err, inflate.ErrCorrupt) || e.Field != c.field || e.Offset != c.offset {
			t.Errorf("%s: %d bytes, %v", c.name, n, err)
		}
	}
}

func TestMutated(t *testing.T) {
	r := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	var d inflate.Decoder
	for _, p := range samples() {
		for _, level := range []int{0, 1, 4, 9, 10, 11} {
			src := deflate(t, p, level)
			for range difftest.Scale(t, 20) {
				bad := bytes.Clone(src)
				for range 1 + r.IntN(3) {
					bit := r.IntN(8 * len(bad))
					if r.IntN(2) == 0 { // the head holds the codes
						bit = r.IntN(8 * min(len(bad), 90))
					}
					bad[bit/8] ^= 1 << (bit % 8)
				}
				compare(t, &d, bad, len(p))
			}
		}
	}
}

func TestNoAllocation(t *testing.T) {
	p := corpus.Bytes(corpus.Text(2), 65536)
	src := deflate(t, p, 6)
	var d inflate.Decoder
	if n := testing.AllocsPerRun(10, func() {
		if _, err := d.Decode(p, src); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a call", n)
	}
}

func FuzzDecode(f *testing.F) {
	for _, p := range samples() {
		for _, level := range []int{0, 1, 6, 10} {
			src := deflate(f, p[:min(len(p), 3000)], level)
			f.Add(src, uint32(len(p)))
		}
	}
	f.Fuzz(func(t *testing.T, src []byte, size uint32) {
		var d inflate.Decoder
		compare(t, &d, src, int(size%(1<<17)))
	})
}

// FuzzReuse decodes pairs of streams with one Decoder: what it keeps of the
// first must not show in the second.
func FuzzReuse(f *testing.F) {
	text := deflate(f, samples()["short"], 6)
	f.Add(binary.LittleEndian.AppendUint16(nil, uint16(len(text))), text)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var used, fresh inflate.Decoder
		a, b := make([]byte, 5000), make([]byte, 5000)
		used.Decode(a, first)
		n, err := used.Decode(a, second)
		m, want := fresh.Decode(b, second)
		if n != m || !bytes.Equal(a[:n], b[:m]) || (err == nil) != (want == nil) || err != nil && err.Error() != want.Error() {
			t.Errorf("%d bytes, %v; with a new Decoder %d, %v", n, err, m, want)
		}
	})
}
