package zstd

import (
	"encoding/binary"
	"slices"
)

const (
	huffBits    = 11 // of the longest code
	huffSymbols = 256
	minHuffman  = 32  // literals for which a code is tried
	minStreams  = 256 // literals for which four streams are written
)

// Kinds of literals. RFC 8878 3.1.1.3.1.1.
const (
	rawLiterals        = 0
	runLiterals        = 1
	compressedLiterals = 2
)

// A literalWriter encodes the literals of a block.
type literalWriter struct {
	counts  [4][huffSymbols]uint32 // of each fourth literal
	huff    huffman
	weights fseWriter
}

// append appends the literals section for p. RFC 8878 3.1.1.3.1.
func (w *literalWriter) append(dst, p []byte) []byte {
	if len(p) < minHuffman {
		return appendPlain(dst, rawLiterals, len(p), p)
	}
	counts, used, most := w.count(p)
	if int(most) == len(p) {
		return appendPlain(dst, runLiterals, len(p), p[:1])
	}
	w.huff.build(counts, used)
	// The header has as many bits for both sizes, and depends on what comes.
	at := len(dst)
	n := 3
	if len(p) >= 1<<10 {
		n = 4
	}
	if len(p) >= 1<<14 {
		n = 5
	}
	dst = append(dst, make([]byte, n)...)
	dst, ok := w.appendTree(dst, used)
	if !ok || w.huff.size(counts, used)+len(dst)-at >= len(p) {
		return appendPlain(dst[:at], rawLiterals, len(p), p)
	}
	format := uint64(n - 2) // four streams
	if len(p) < minStreams {
		format = 0
		dst = w.huff.appendStream(dst, p)
	} else {
		dst = w.appendStreams(dst, p)
	}
	size := len(dst) - at - n
	if size+n >= len(p) {
		return appendPlain(dst[:at], rawLiterals, len(p), p)
	}
	width := [6]uint{3: 10, 4: 14, 5: 18}[n]
	var header [8]byte
	binary.LittleEndian.PutUint64(header[:], compressedLiterals|format<<2|uint64(len(p))<<4|uint64(size)<<(4+width))
	copy(dst[at:at+n], header[:])
	return dst
}

// appendPlain appends literals that are stored as they are, or one of them for
// n that are the same.
func appendPlain(dst []byte, kind, n int, p []byte) []byte {
	switch {
	case n < 32:
		dst = append(dst, byte(kind|n<<3))
	case n < 4096:
		dst = binary.LittleEndian.AppendUint16(dst, uint16(kind|1<<2|n<<4))
	default:
		h := kind | 3<<2 | n<<4
		dst = append(dst, byte(h), byte(h>>8), byte(h>>16))
	}
	return append(dst, p...)
}

// count counts the literals. It returns how often each occurs, the symbols up
// to the last that does, and how often the most frequent one does.
func (w *literalWriter) count(p []byte) (counts *[huffSymbols]uint32, used int, most uint32) {
	clear(w.counts[:])
	a, b, c, d := &w.counts[0], &w.counts[1], &w.counts[2], &w.counts[3]
	for ; len(p) >= 8; p = p[8:] { // counters of their own do not wait for each other
		v := binary.LittleEndian.Uint64(p)
		a[byte(v)]++
		b[byte(v>>8)]++
		c[byte(v>>16)]++
		d[byte(v>>24)]++
		a[byte(v>>32)]++
		b[byte(v>>40)]++
		c[byte(v>>48)]++
		d[byte(v>>56)]++
	}
	for _, v := range p {
		a[v]++
	}
	for i := range a {
		a[i] += b[i] + c[i] + d[i]
		if a[i] > 0 {
			used = i + 1
			most = max(most, a[i])
		}
	}
	return a, used, most
}

// appendStreams appends four streams, each with a quarter of the literals, and
// before them the sizes of the first three. RFC 8878 3.1.1.3.1.6.
func (w *literalWriter) appendStreams(dst, p []byte) []byte {
	sizes := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, 0)
	part := (len(p) + 3) / 4
	for i := range 4 {
		at := len(dst)
		dst = w.huff.appendStream(dst, p[i*part:min((i+1)*part, len(p))])
		if i < 3 {
			binary.LittleEndian.PutUint16(dst[sizes+2*i:], uint16(len(dst)-at))
		}
	}
	return dst
}

// appendTree appends the weights of all symbols but the last. RFC 8878 4.2.1.
// It reports whether there is a way to.
func (w *literalWriter) appendTree(dst []byte, used int) ([]byte, bool) {
	at := len(dst)
	weights := w.huff.weights[:used-1]
	dst = append(dst, 0)
	if dst, ok := w.appendWeights(dst, weights); ok && len(dst)-at-1 < 128 && len(dst)-at-1 < (len(weights)+1)/2 {
		dst[at] = byte(len(dst) - at - 1)
		return dst, true
	}
	if len(weights) > 128 {
		return dst, false
	}
	dst = append(dst[:at], byte(127+len(weights)))
	for i := 0; i < len(weights); i += 2 {
		v := weights[i] << 4
		if i+1 < len(weights) {
			v |= weights[i+1]
		}
		dst = append(dst, v)
	}
	return dst, true
}

// appendWeights appends weights coded by FSE, by two states in turn. RFC 8878
// 4.2.1.2.
func (w *literalWriter) appendWeights(dst []byte, weights []uint8) ([]byte, bool) {
	var counts [huffBits + 1]uint32
	for _, v := range weights {
		counts[v]++
	}
	if len(weights) < 3 || int(slices.Max(counts[:])) == len(weights) {
		return dst, false
	}
	dst = w.weights.build(dst, counts[:], len(weights), 6)
	out := newBackwardWriter(dst, len(weights)+8)
	// From the last weight to the first. Whose turn it is follows from the
	// place of the weight; each state begins with the last weight it codes.
	var states [2]uint32
	n := len(weights)
	states[(n-1)&1] = w.weights.first(weights[n-1])
	states[(n-2)&1] = w.weights.first(weights[n-2])
	for i := n - 3; i >= 0; i-- {
		states[i&1] = w.weights.encode(&out, states[i&1], weights[i])
		out.flush()
	}
	w.weights.finish(&out, states[1])
	w.weights.finish(&out, states[0])
	return out.close(), true
}

// A huffman is a code of literals. RFC 8878 4.2.
type huffman struct {
	weights [huffSymbols]uint8  // of each symbol, 0 for none
	codes   [huffSymbols]uint32 // bits 0 to 7 how many bits, bits 8 and up the code
	order   [huffSymbols]uint32
	nodes   [2 * huffSymbols]node
}

// A node of the tree that the lengths of codes are taken from.
type node struct {
	count  uint32
	parent uint16
	depth  uint8
}

// build makes the code for symbols that occur so often, at least two of them.
func (h *huffman) build(counts *[huffSymbols]uint32, used int) {
	order := h.order[:0] // counts of up to maxBlock, and their symbols
	for s, c := range counts[:used] {
		if c > 0 {
			order = append(order, c<<8|uint32(s))
		}
	}
	slices.Sort(order)
	longest := h.lengths(order)

	// A weight is how much shorter a code is than one that is too long.
	clear(h.weights[:])
	var next [huffBits + 2]uint32 // entry of the decoding table, by weight
	for i, s := range order {
		w := longest + 1 - h.nodes[i].depth
		h.weights[byte(s)] = w
		next[w+1] += 1 << (w - 1)
	}
	for w := 1; w < len(next); w++ {
		next[w] += next[w-1]
	}
	for s, w := range h.weights[:used] {
		h.codes[s] = 0
		if w > 0 {
			h.codes[s] = uint32(longest+1-w) | next[w]>>(w-1)<<8
			next[w] += 1 << (w - 1)
		}
	}
}

// lengths sets the depth of the first nodes to the length of the code of each
// symbol in order, the rarest of which comes first, and returns the longest.
func (h *huffman) lengths(order []uint32) uint8 {
	n := len(order)
	for i, s := range order {
		h.nodes[i].count = s >> 8
	}
	// Join the two rarest nodes, which are the next of the symbols or the next
	// of those joined before.
	leaf, inner := 0, n
	for next := n; next < 2*n-1; next++ {
		sum := uint32(0)
		for range 2 {
			i := leaf
			if leaf == n || inner < next && h.nodes[inner].count < h.nodes[leaf].count {
				i = inner
				inner++
			} else {
				leaf++
			}
			h.nodes[i].parent = uint16(next)
			sum += h.nodes[i].count
		}
		h.nodes[next].count = sum
	}
	h.nodes[2*n-2].depth = 0
	for i := 2*n - 3; i >= 0; i-- {
		h.nodes[i].depth = h.nodes[h.nodes[i].parent].depth + 1
	}
	return h.limit(n)
}

// limit shortens the codes of n symbols that are too long and lengthens others
// for it, the rarest first, until the code is complete again.
func (h *huffman) limit(n int) uint8 {
	nodes := h.nodes[:n]
	used := 0 // of the code space, in codes of huffBits
	for i := range nodes {
		nodes[i].depth = min(nodes[i].depth, huffBits)
		used += 1 << (huffBits - nodes[i].depth)
	}
	for i := 0; used > 1<<huffBits; i++ {
		for d := nodes[i].depth; d < huffBits && used > 1<<huffBits; d++ {
			used -= 1 << (huffBits - d - 1)
			nodes[i].depth++
		}
	}
	for i := n - 1; used < 1<<huffBits; i-- { // what is left over goes to the most frequent
		for nodes[i].depth > 1 && used+1<<(huffBits-nodes[i].depth) <= 1<<huffBits {
			used += 1 << (huffBits - nodes[i].depth)
			nodes[i].depth--
		}
	}
	longest := uint8(0)
	for i := range nodes {
		longest = max(longest, nodes[i].depth)
	}
	return longest
}

// size returns how many bytes the code takes for all symbols, about.
func (h *huffman) size(counts *[huffSymbols]uint32, used int) int {
	n := 0
	for s, c := range counts[:used] {
		n += int(c) * int(h.codes[s]&0xff)
	}
	return n / 8
}

// appendStream appends a bitstream with the codes of p, the last one first.
// RFC 8878 4.2.2.
func (h *huffman) appendStream(dst, p []byte) []byte {
	out := newBackwardWriter(dst, len(p)*huffBits/8+16)
	n := len(p)
	for ; n%4 != 0; n-- {
		c := h.codes[p[n-1]]
		out.add(c>>8, uint(c&0xff))
	}
	out.flush()
	acc, have, pos := out.acc, out.have, out.pos
	for ; n > 0; n -= 4 {
		q := p[n-4 : n : n]
		a, b, c, d := h.codes[q[3]], h.codes[q[2]], h.codes[q[1]], h.codes[q[0]]
		acc |= uint64(a>>8) << (have & 63)
		have += uint(a & 0xff)
		acc |= uint64(b>>8) << (have & 63)
		have += uint(b & 0xff)
		acc |= uint64(c>>8) << (have & 63)
		have += uint(c & 0xff)
		acc |= uint64(d>>8) << (have & 63)
		have += uint(d & 0xff)
		binary.LittleEndian.PutUint64(out.dst[pos:pos+8:pos+8], acc)
		pos += int(have >> 3)
		acc >>= have &^ 7 & 63
		have &= 7
	}
	out.acc, out.have, out.pos = acc, have, pos
	return out.close()
}
