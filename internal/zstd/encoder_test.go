package zstd_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	kzstd "github.com/klauspost/compress/zstd"

	"github.com/virtfmt/virtfmt/internal/corpus"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/zstd"
)

var text = sync.OnceValue(func() []byte { return corpus.Bytes(corpus.Text(3), 600000) })

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
	skewed := make([]byte, 65536) // codes of all lengths, more than allowed
	for i := range skewed {
		for skewed[i] < 255 && r.IntN(5) < 3 {
			skewed[i]++
		}
	}
	letters := make([]byte, 70000) // few symbols, and no matches
	for i := range letters {
		letters[i] = "etaoin"[min(r.IntN(6), r.IntN(6))]
	}
	var fibonacci []byte // the code of each symbol would be a bit longer than that of the last
	for i, a, b := 0, 1, 1; i < 23; i, a, b = i+1, b, a+b {
		fibonacci = append(fibonacci, bytes.Repeat([]byte{byte(i)}, a)...)
	}
	r.Shuffle(len(fibonacci), func(i, j int) { fibonacci[i], fibonacci[j] = fibonacci[j], fibonacci[i] })
	noise := corpus.Bytes(corpus.Noise(2), 200000)
	mixed := bytes.Join([][]byte{text()[:20000], make([]byte, 300000), noise, text()[:150000], bytes.Repeat([]byte{9}, 270000), {1, 2, 3}}, nil)
	far := bytes.Join([][]byte{noise[:100000], text()[:300000], noise[:100000]}, nil)
	return map[string][]byte{
		"text":        text()[:65536],
		"long text":   text(),
		"short text":  text()[:4096],
		"noise":       noise[:65536],
		"zeros":       make([]byte, 65536),
		"long zeros":  make([]byte, 400001),
		"runs":        runs[:65536],
		"skewed":      skewed,
		"letters":     letters,
		"fibonacci":   fibonacci,
		"mixed":       mixed,
		"far":         far,
		"one repeat":  append(bytes.Clone(noise[:5000]), noise[:5000]...),
		"two symbols": bytes.Repeat([]byte("aaaaaaaaaab"), 500),
		"high bytes":  bytes.ReplaceAll(text()[:30000], []byte("a"), []byte{250}),
		"few":         []byte("a short text, a short text, a short text"),
		"byte":        {7},
		"empty":       {},
	}
}

var decoder = sync.OnceValue(func() *kzstd.Decoder {
	d, err := kzstd.NewReader(nil, kzstd.WithDecoderConcurrency(1), kzstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		panic(err)
	}
	return d
})

// roundTrip encodes p and fails unless that decodes to p again, and is no
// longer than a frame that stores p as it is.
func roundTrip(t *testing.T, e *zstd.Encoder, p []byte) []byte {
	t.Helper()
	z := e.Encode([]byte("before"), p)
	if !bytes.HasPrefix(z, []byte("before")) {
		t.Fatal("does not append")
	}
	z = z[len("before"):]
	got, err := decoder().DecodeAll(z, nil)
	if err != nil || !bytes.Equal(got, p) {
		t.Fatalf("%d bytes to %d: %v, equal: %v", len(p), len(z), err, bytes.Equal(got, p))
	}
	if most := len(p) + 9 + 3*(1+len(p)/(128<<10)); len(z) > most {
		t.Fatalf("%d bytes to %d, more than %d", len(p), len(z), most)
	}
	return z
}

func TestEncode(t *testing.T) {
	var used zstd.Encoder
	for name, p := range samples() {
		t.Run(name, func(t *testing.T) {
			z := roundTrip(t, &used, p)
			if fresh := new(zstd.Encoder).Encode(nil, p); !bytes.Equal(z, fresh) {
				t.Error("a used Encoder gives other bytes than a new one")
			}
			var h kzstd.Header
			if err := h.Decode(z); err != nil || !h.SingleSegment || !h.HasFCS || h.FrameContentSize != uint64(len(p)) || h.HasCheckSum || h.DictionaryID != 0 {
				t.Errorf("header %+v, %v", h, err)
			}
		})
	}
}

// TestEncodeSize holds that frames are hardly longer than those of an encoder
// for streams.
func TestEncodeSize(t *testing.T) {
	k, err := kzstd.NewWriter(nil, kzstd.WithEncoderConcurrency(1), kzstd.WithSingleSegment(true), kzstd.WithEncoderCRC(false))
	if err != nil {
		t.Fatal(err)
	}
	var e zstd.Encoder
	for name, p := range samples() {
		own, other := len(e.Encode(nil, p)), len(k.EncodeAll(p, nil))
		t.Logf("%s: %d to %d, %.3f of another encoder's", name, len(p), own, float64(own)/float64(other))
		if own > other+other/50+20 {
			t.Errorf("%s: %d bytes, another encoder makes %d", name, own, other)
		}
	}
}

// TestEncodeRandom encodes data of random structure and length.
func TestEncodeRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	var e zstd.Encoder
	for range difftest.Scale(t, 500) {
		roundTrip(t, &e, randomData(r, r.IntN(1<<(1+r.IntN(19)))))
	}
}

// randomData returns n bytes of literals and copies, under random
// distributions of both.
func randomData(r *rand.Rand, n int) []byte {
	var p []byte
	symbols, runs, copies, back := 1+r.IntN(256), 1+r.IntN(1<<r.IntN(10)), 1+r.IntN(1<<r.IntN(18)), 1+r.IntN(1<<r.IntN(20))
	for len(p) < n {
		bias := 1 + r.IntN(4)
		for range r.IntN(runs + 1) {
			c := r.IntN(symbols)
			for range bias {
				c = min(c, r.IntN(symbols))
			}
			p = append(p, byte(c))
		}
		if len(p) > 0 {
			from := max(0, len(p)-1-r.IntN(back))
			for range min(r.IntN(copies), n) {
				p = append(p, p[from])
				from++
			}
		} else {
			p = append(p, byte(r.IntN(256)))
		}
	}
	return p[:n]
}

func TestNoAllocation(t *testing.T) {
	var e zstd.Encoder
	p := text()[:65536]
	buf := make([]byte, 0, 1<<20)
	e.Encode(buf, p)
	if n := testing.AllocsPerRun(10, func() { e.Encode(buf, p) }); n != 0 {
		t.Errorf("%v allocations a call", n)
	}
}

// TestZstdProgram has the zstd program decode frames.
func TestZstdProgram(t *testing.T) {
	program := difftest.Tool(t, "zstd", "1.4")
	r := rand.New(rand.NewPCG(difftest.Seed(t, 2), 0))
	all := samples()
	for i := range difftest.Scale(t, 200) {
		all[fmt.Sprint("random ", i)] = randomData(r, r.IntN(300000))
	}
	var frames, want []byte // of which a file may have many
	var e zstd.Encoder
	for _, p := range all {
		frames = e.Encode(frames, p)
		want = append(want, p...)
	}
	got := difftest.TryIn(t, frames, program, "-d", "-c", "-q")
	if got.Code != 0 || !bytes.Equal(got.Stdout, want) {
		t.Errorf("exit %d, %d of %d bytes: %s", got.Code, len(got.Stdout), len(want), got.Stderr)
	}
}

func FuzzEncode(f *testing.F) {
	for _, p := range samples() {
		f.Add(p[:min(len(p), 2000)], uint16(1))
	}
	f.Fuzz(func(t *testing.T, p []byte, times uint16) {
		var e zstd.Encoder
		// More than a block, with changes from one to the next.
		var all []byte
		for i := 0; i <= int(times%300) && len(all) < 1<<18; i++ {
			all = append(all, p...)
			all = append(all, byte(i))
		}
		roundTrip(t, &e, all)
		roundTrip(t, &e, p)
	})
}

func BenchmarkEncode(b *testing.B) {
	k, err := kzstd.NewWriter(nil, kzstd.WithEncoderConcurrency(1), kzstd.WithSingleSegment(true), kzstd.WithEncoderCRC(false), kzstd.WithWindowSize(64<<10))
	if err != nil {
		b.Fatal(err)
	}
	var e zstd.Encoder
	for name, encode := range map[string]func(dst, p []byte) []byte{
		"oneshot":   e.Encode,
		"klauspost": func(dst, p []byte) []byte { return k.EncodeAll(p, dst) },
	} {
		b.Run("text/"+name, func(b *testing.B) {
			b.SetBytes(65536)
			b.ReportAllocs()
			buf := make([]byte, 0, 1<<20)
			size, n := 0, 0
			for i := 0; b.Loop(); i++ {
				at := i % 8 << 16
				size += len(encode(buf, text()[at:at+65536]))
				n += 65536
			}
			b.ReportMetric(float64(size)/float64(n), "ratio")
		})
	}
}
