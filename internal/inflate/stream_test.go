package inflate_test

import (
	"bytes"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/inflate"
)

// A bitWriter packs bits as deflate does, the lowest first.
type bitWriter struct {
	out  []byte
	acc  uint64
	have uint
}

func (w *bitWriter) bits(v, n uint) {
	w.acc |= uint64(v) << w.have
	for w.have += n; w.have >= 8; w.have -= 8 {
		w.out = append(w.out, byte(w.acc))
		w.acc >>= 8
	}
}

func (w *bitWriter) flush() []byte {
	if w.have > 0 {
		w.out = append(w.out, byte(w.acc))
	}
	return w.out
}

// A huffman is a code for symbols, 0 bits for those without one.
type huffman struct{ lens, codes []uint }

// randomCode returns a code of n symbols with codes of up to longest bits. It
// splits the longest code often enough to have all lengths.
func randomCode(r *rand.Rand, n int, longest uint) huffman {
	lens := []uint{1, 1}
	for len(lens) < n && r.IntN(4*n) > 0 {
		i := r.IntN(len(lens))
		if r.IntN(3) == 0 { // as deep as it goes
			for j := range lens {
				if lens[j] < longest && lens[j] > lens[i] {
					i = j
				}
			}
		}
		if lens[i] < longest {
			lens[i]++
			lens = append(lens, lens[i])
		}
	}
	lens = append(lens, make([]uint, n-len(lens))...)
	r.Shuffle(n, func(i, j int) { lens[i], lens[j] = lens[j], lens[i] })
	return newHuffman(lens)
}

// newHuffman gives each symbol its canonical code. RFC 1951 3.2.2.
func newHuffman(lens []uint) huffman {
	h := huffman{lens, make([]uint, len(lens))}
	code := uint(0)
	for n := uint(1); n <= 15; n++ {
		for i, l := range lens {
			if l == n {
				h.codes[i] = uint(bits.Reverse16(uint16(code)) >> (16 - n))
				code++
			}
		}
		code <<= 1
	}
	return h
}

// put writes symbol i.
func (w *bitWriter) put(h huffman, i int) { w.bits(h.codes[i], h.lens[i]) }

// any returns a symbol of h that has a code.
func (h huffman) any(r *rand.Rand) int {
	for {
		if i := r.IntN(len(h.lens)); h.lens[i] > 0 {
			return i
		}
	}
}

// dynamicHead writes the head of a dynamic block with the codes of both.
func (w *bitWriter) dynamicHead(lit, dist huffman) {
	order := []int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
	w.bits(uint(len(lit.lens)-257), 5)
	w.bits(uint(len(dist.lens)-1), 5)
	w.bits(19-4, 4)
	pre := newHuffman([]uint{4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 0, 0, 0})
	for _, i := range order {
		w.bits(pre.lens[i], 3)
	}
	for _, lens := range [][]uint{lit.lens, dist.lens} {
		for _, n := range lens {
			w.put(pre, int(n))
		}
	}
}

// extraBits returns how many bits follow a length or a distance symbol, each
// counted from the first of its kind. RFC 1951 3.2.5.
func extraBits(symbol, group int) uint {
	if group == 4 && symbol == 28 {
		return 0
	}
	return uint(max(0, symbol/group-1))
}

// randomBlock writes a block of random symbols under random codes: nothing
// that an encoder would write, but a stream still.
func (w *bitWriter) randomBlock(r *rand.Rand, final uint) {
	lit, dist := randomCode(r, 257+r.IntN(30), 15), randomCode(r, 2+r.IntN(29), 15)
	if lit.lens[256] == 0 {
		i := lit.any(r)
		lit.lens[i], lit.lens[256] = 0, lit.lens[i]
		lit = newHuffman(lit.lens)
	}
	w.bits(final, 1)
	w.bits(2, 2)
	w.dynamicHead(lit, dist)
	for range r.IntN(3000) {
		switch i := lit.any(r); {
		case i == 256:
		case i < 256:
			w.put(lit, i)
		default:
			w.put(lit, i)
			n := extraBits(i-257, 4)
			w.bits(r.UintN(1<<n), n)
			// Nearly all within the output so far, most of the time.
			i = dist.any(r)
			for range r.IntN(12) {
				i = min(i, dist.any(r))
			}
			w.put(dist, i)
			n = extraBits(i, 2)
			w.bits(r.UintN(1<<n), n)
		}
	}
	w.put(lit, 256)
}

func TestRandomCodes(t *testing.T) {
	r := rand.New(rand.NewPCG(difftest.Seed(t, 2), 0))
	var d inflate.Decoder
	good := 0
	for range difftest.Scale(t, 1000) {
		var w bitWriter
		for w.bits(0, 1); len(w.out) < 4000; { // some literals to refer to
			w.bits(1, 2)
			fixed := fixedCode()
			for range r.IntN(300) * r.IntN(100) {
				w.put(fixed, r.IntN(256))
			}
			w.put(fixed, 256)
			w.randomBlock(r, 0)
			w.bits(0, 1)
		}
		w.bits(1, 2)
		w.put(fixedCode(), 256)
		w.randomBlock(r, 1)
		src := w.flush()
		dst := make([]byte, 1<<20)
		n, _ := d.Decode(dst, src)
		if n > 10000 {
			good++
		}
		compare(t, &d, src, n)
		compare(t, &d, src, n+1)
	}
	t.Logf("%d streams went on for more than 10000 bytes", good)
}

func fixedCode() huffman {
	lens := bytes.Repeat([]byte{8}, 288)
	for i := 144; i < 256; i++ {
		lens[i] = 9
	}
	for i := 256; i < 280; i++ {
		lens[i] = 7
	}
	h := make([]uint, 288)
	for i, n := range lens {
		h[i] = uint(n)
	}
	return newHuffman(h)
}

// TestOddCodes decodes codes that are not complete: one distance of one bit,
// no distance at all, and those that no decoder takes.
func TestOddCodes(t *testing.T) {
	lens := func(n int, set map[int]uint) []uint {
		l := make([]uint, n)
		for i, v := range set {
			l[i] = v
		}
		return l
	}
	lit := map[int]uint{'a': 1, 256: 2, 257: 2}
	for _, c := range []struct {
		name      string
		lit, dist map[int]uint
		bits      uint // after the literal a and the length 3
		want      string
	}{
		{"one distance", lit, map[int]uint{0: 1}, 0, "aaaa"},
		{"one distance, the other bit", lit, map[int]uint{0: 1}, 1, ""},
		{"one distance of two bits", lit, map[int]uint{0: 2}, 0, ""},
		{"no distance", lit, nil, 0, ""},
		{"two of two bits", lit, map[int]uint{0: 2, 1: 2}, 0, ""},
		{"three of one bit", lit, map[int]uint{0: 1, 1: 1, 2: 1}, 0, ""},
		{"no literal", nil, map[int]uint{0: 1}, 0, ""},
		{"one literal and no end", map[int]uint{'a': 1}, nil, 0, "aaaa"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var w bitWriter
			w.bits(1|2<<1, 3)
			l := newHuffman(lens(258, c.lit))
			w.dynamicHead(l, newHuffman(lens(4, c.dist)))
			w.put(l, 'a')
			w.put(l, 257)
			w.bits(c.bits, 1)
			w.bits(0, 64)
			var d inflate.Decoder
			dst := make([]byte, 4)
			n, err := d.Decode(dst, w.flush())
			if (err == nil) != (c.want != "") || err == nil && string(dst) != c.want {
				t.Errorf("%q, %v", dst[:n], err)
			}
			compare(t, &d, w.flush(), 4)
		})
	}
}
