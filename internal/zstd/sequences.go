package zstd

import "math/bits"

// The three alphabets of sequences. RFC 8878 3.1.1.3.2.1.
const (
	literalLengths = iota
	offsets
	matchLengths
)

// An alphabet is how values are split into a symbol and extra bits.
type alphabet struct {
	maxLog     uint
	bases      []uint32 // of each symbol
	extra      []uint8  // how many bits are added to it
	log        uint     // of the predefined code
	predefined []int16  // its probabilities
}

var alphabets = [3]alphabet{
	literalLengths: newAlphabet(9, 0, 16, []uint8{1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, 6, []int16{
		4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1}),
	offsets: {maxLog: 8, log: 5, predefined: []int16{
		1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1}},
	matchLengths: newAlphabet(9, 3, 32, []uint8{1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, 6, []int16{
		1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1}),
}

// newAlphabet returns an alphabet of n values from first on, and of ranges
// behind them with so many extra bits each.
func newAlphabet(maxLog uint, first, n uint32, extra []uint8, log uint, predefined []int16) alphabet {
	a := alphabet{maxLog: maxLog, extra: append(make([]uint8, n), extra...), log: log, predefined: predefined}
	for _, e := range a.extra {
		a.bases = append(a.bases, first)
		first += 1 << e
	}
	return a
}

// shortCodes is the symbols of lengths up to shortLength, less the base.
const shortLength = 64 + 64

var shortCodes = func() (t [3][shortLength]uint8) {
	for _, k := range []int{literalLengths, matchLengths} {
		a := &alphabets[k]
		for s, base := range a.bases {
			for v := base - a.bases[0]; v < shortLength && v < base-a.bases[0]+1<<a.extra[s]; v++ {
				t[k][v] = uint8(s)
			}
		}
	}
	return t
}()

// symbol returns the symbol of a length, from which the least is subtracted.
// Longer ones have a symbol for each power of two.
func symbol(kind int, v uint32) uint8 {
	if v < shortLength {
		return shortCodes[kind][v]
	}
	if kind == literalLengths {
		return uint8(bits.Len32(v)) + 18
	}
	return uint8(bits.Len32(v)) + 35
}

// predefined holds the predefined codes, ready to write with.
var predefined = func() *[3]fseWriter {
	t := new([3]fseWriter)
	for i := range t {
		a, w := &alphabets[i], &t[i]
		w.log, w.used = a.log, copy(w.parts[:], a.predefined)
		w.setCodes()
	}
	return t
}()

// A sequenceWriter encodes the sequences of a block.
type sequenceWriter struct {
	symbols [3][]uint8 // of each sequence
	counts  [3][maxSymbols]uint32
	codes   [3]fseWriter
}

// append appends the sequences section. RFC 8878 3.1.1.3.2.
func (w *sequenceWriter) append(dst []byte, seqs []sequence) []byte {
	switch n := len(seqs); {
	case n == 0:
		return append(dst, 0)
	case n < 128:
		dst = append(dst, byte(n))
	case n < 0x7f00:
		dst = append(dst, byte(n>>8|0x80), byte(n))
	default:
		dst = append(dst, 255, byte(n-0x7f00), byte((n-0x7f00)>>8))
	}
	w.split(seqs)
	modes := len(dst)
	dst = append(dst, 0)
	var codes [3]*fseWriter // nil for an alphabet of which one symbol occurs
	for i := range codes {
		var mode byte
		dst, codes[i], mode = w.choose(dst, i, len(seqs))
		dst[modes] |= mode << (6 - 2*i)
	}
	return w.write(dst, seqs, codes)
}

// split sets the symbols and counts them.
func (w *sequenceWriter) split(seqs []sequence) {
	clear(w.counts[:])
	for i := range w.symbols {
		if cap(w.symbols[i]) < len(seqs) {
			w.symbols[i] = make([]uint8, len(seqs)+len(seqs)/4)
		}
		w.symbols[i] = w.symbols[i][:len(seqs)]
	}
	ll, of, ml := w.symbols[literalLengths], w.symbols[offsets], w.symbols[matchLengths]
	for i, q := range seqs {
		l, o, m := symbol(literalLengths, q.literals), uint8(bits.Len32(q.offset)-1), symbol(matchLengths, q.match-3)
		ll[i], of[i], ml[i] = l, o, m
		w.counts[literalLengths][l&(maxSymbols-1)]++
		w.counts[offsets][o&(maxSymbols-1)]++
		w.counts[matchLengths][m&(maxSymbols-1)]++
	}
}

// Ways to describe the code of an alphabet. RFC 8878 3.1.1.3.2.1.
const (
	modePredefined = 0
	modeOne        = 1
	modeFSE        = 2
)

// choose appends the description of the code of an alphabet for n sequences,
// and returns the code, nil if there is but one symbol, and the mode.
func (w *sequenceWriter) choose(dst []byte, kind, n int) ([]byte, *fseWriter, byte) {
	counts := &w.counts[kind]
	distinct, last := 0, 0
	for s, c := range counts {
		if c > 0 {
			distinct++
			last = s
		}
	}
	if distinct == 1 && n > 2 {
		return append(dst, byte(last)), nil, modeOne
	}
	simple := &predefined[kind]
	if distinct == 1 || n < 8 {
		if last < simple.used {
			return dst, simple, modePredefined
		}
		if distinct == 1 {
			return append(dst, byte(last)), nil, modeOne
		}
	}
	at := len(dst)
	own := &w.codes[kind]
	dst = own.build(dst, counts[:], n, alphabets[kind].maxLog)
	if last < simple.used && simple.cost(counts) <= own.cost(counts)+8*(len(dst)-at) {
		return dst[:at], simple, modePredefined
	}
	return dst, own, modeFSE
}

// cost returns how many bits the code takes for symbols that occur so often,
// about.
func (w *fseWriter) cost(counts *[maxSymbols]uint32) int {
	n := uint32(0) // in 256ths of a bit
	for s, c := range counts[:w.used] {
		if c > 0 {
			n += c * (uint32(w.log)<<8 - log256(uint32(max(w.parts[s], 1))))
		}
	}
	return int(n >> 8)
}

// log256 returns about 256 times the binary logarithm of v.
func log256(v uint32) uint32 {
	k := uint32(bits.Len32(v)) - 1
	return k<<8 + v<<8>>k - 256
}

// write appends the bitstream, the last sequence first. RFC 8878
// 3.1.1.3.2.1.2.
func (w *sequenceWriter) write(dst []byte, seqs []sequence, codes [3]*fseWriter) []byte {
	for i, c := range codes {
		if c == nil {
			codes[i] = &oneSymbol
		}
	}
	ll, of, ml := codes[literalLengths], codes[offsets], codes[matchLengths]
	lls, ofs, mls := w.symbols[literalLengths], w.symbols[offsets], w.symbols[matchLengths]
	// A sequence takes at most 9+8+9 bits for states and 16+16+31 for values.
	const most = 12
	out := newBackwardWriter(dst, most*len(seqs)+8)
	var llState, ofState, mlState uint32
	for n := len(seqs) - 1; n >= 0; n-- {
		l, o, m := lls[n]&(maxSymbols-1), ofs[n]&(maxSymbols-1), mls[n]&(maxSymbols-1)
		if n == len(seqs)-1 {
			llState, ofState, mlState = ll.first(l), of.first(o), ml.first(m)
		} else {
			c := of.codes[o]
			k := (ofState + c.bits) >> 16
			out.add(ofState, uint(k))
			ofState = uint32(of.next[(int32(ofState>>(k&31))+c.first)&(1<<maxLog-1)])
			c = ml.codes[m]
			k = (mlState + c.bits) >> 16
			out.add(mlState, uint(k))
			mlState = uint32(ml.next[(int32(mlState>>(k&31))+c.first)&(1<<maxLog-1)])
			c = ll.codes[l]
			k = (llState + c.bits) >> 16
			out.add(llState, uint(k))
			llState = uint32(ll.next[(int32(llState>>(k&31))+c.first)&(1<<maxLog-1)])
		}
		q := &seqs[n]
		if x := lengthExtra[l] | lengthExtra[maxSymbols+int(m)]; x != 0 {
			out.flush()
			out.add(q.literals-alphabets[literalLengths].bases[l], uint(lengthExtra[l]))
			out.add(q.match-alphabets[matchLengths].bases[m], uint(lengthExtra[maxSymbols+int(m)]))
			out.flush()
		}
		if o > 22 { // 26 bits of states and 7 that were there leave 23
			out.flush()
		}
		out.add(q.offset, uint(o)) // less its highest bit
		out.flush()
	}
	ml.finish(&out, mlState)
	of.finish(&out, ofState)
	ll.finish(&out, llState)
	return out.close()
}

// oneSymbol is a code of no bits, for an alphabet of which one symbol occurs.
var oneSymbol fseWriter

// lengthExtra is how many extra bits symbols have: literal lengths, and from
// maxSymbols on match lengths.
var lengthExtra = func() (t [2 * maxSymbols]uint8) {
	copy(t[:], alphabets[literalLengths].extra)
	copy(t[maxSymbols:], alphabets[matchLengths].extra)
	return t
}()
