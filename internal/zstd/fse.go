package zstd

import "math/bits"

const (
	maxLog     = 9  // of a table
	minLog     = 5  // of a table that is described
	maxSymbols = 64 // more than any alphabet that is coded by FSE has
)

// An fseWriter codes symbols by FSE. RFC 8878 4.1.
type fseWriter struct {
	log     uint
	parts   [maxSymbols]int16 // how probable each symbol is, in parts of 1<<log; -1 is less than one
	used    int               // symbols up to the last that occurs
	codes   [maxSymbols]fseCode
	next    [1 << maxLog]uint16 // states, those of one symbol together
	spread  [1 << maxLog]uint8  // symbol of each state
	cumuled [maxSymbols + 1]uint16
}

// An fseCode is how a symbol is written in a state from 1<<log to 2<<log - 1:
// as so many of its low bits as (state+bits)>>16; the next state is
// next[state>>that + first].
type fseCode struct {
	bits  uint32
	first int32
}

// build makes the code for symbols that occur so often, total times in all,
// and appends its description. At least two symbols occur.
func (w *fseWriter) build(dst []byte, counts []uint32, total int, most uint) []byte {
	w.normalize(counts, total, most)
	dst = w.describe(dst)
	w.setCodes()
	return dst
}

// normalize sets parts from how often the symbols occur.
func (w *fseWriter) normalize(counts []uint32, total int, most uint) {
	w.used = 0
	distinct := 0
	for s, c := range counts {
		if c > 0 {
			w.used = s + 1
			distinct++
		}
	}
	// Not more parts than the symbols make use of, and one for each.
	w.log = min(most, max(minLog, uint(bits.Len(uint(total-1)))-2))
	w.log = max(w.log, uint(bits.Len(uint(distinct))))
	size := 1 << w.log
	left, largest := size, 0
	for s, c := range counts[:w.used] {
		p := 0
		if c > 0 {
			// Rounded, but nothing is down to nothing.
			p = max(1, (int(c)*size+total/2)/total)
			if int(c)*size < total {
				p = -1
			}
			left -= max(p, 1)
		}
		w.parts[s] = int16(p)
		if w.parts[s] > w.parts[largest] {
			largest = s
		}
	}
	if left >= 0 || int(w.parts[largest])+left > int(w.parts[largest])/2 {
		w.parts[largest] += int16(left)
		return
	}
	// Rounding up took more than the largest can give: all give, in turn.
	for left < 0 {
		for s, p := range w.parts[:w.used] {
			if p > 1 && left < 0 {
				w.parts[s]--
				left++
			}
		}
	}
}

// describe appends the description of the probabilities. RFC 8878 4.1.1.
func (w *fseWriter) describe(dst []byte) []byte {
	acc, have := uint64(w.log-minLog), uint(4)
	add := func(v, n uint) {
		acc |= uint64(v) << have
		for have += n; have >= 8; have -= 8 {
			dst = append(dst, byte(acc))
			acc >>= 8
		}
	}
	left := 1 << w.log
	for s := 0; left > 0; {
		p := int(w.parts[s])
		s++
		// One of left+2 values; small ones take a bit less where not all
		// values of that width are used.
		values := uint(left) + 2
		width := uint(bits.Len(values - 1))
		short := uint(1)<<width - values
		switch v := uint(p + 1); {
		case v < short:
			add(v, width-1)
		case v < 1<<(width-1):
			add(v, width)
		default:
			add(v+short, width)
		}
		left -= max(p, -p)
		if p != 0 {
			continue
		}
		// How many more of them are zero, two bits at a time.
		zeros := 0
		for w.parts[s+zeros] == 0 {
			zeros++
		}
		s += zeros
		for ; zeros >= 3; zeros -= 3 {
			add(3, 2)
		}
		add(uint(zeros), 2)
	}
	if have > 0 {
		dst = append(dst, byte(acc))
	}
	return dst
}

// setCodes makes the table of states from parts.
func (w *fseWriter) setCodes() {
	size := 1 << w.log
	high := size - 1 // the states behind it have improbable symbols
	total := 0
	for s, p := range w.parts[:w.used] {
		w.cumuled[s] = uint16(total)
		c := &w.codes[s]
		switch {
		case p == 0:
		case p == -1 || p == 1:
			if p == -1 {
				w.spread[high] = uint8(s)
				high--
			}
			c.bits = uint32(w.log<<16) - uint32(size)
			c.first = int32(total - 1)
			total++
		default:
			most := uint32(w.log) + 1 - uint32(bits.Len32(uint32(p-1)))
			c.bits = most<<16 - uint32(p)<<most
			c.first = int32(total - int(p))
			total += int(p)
		}
	}
	step, mask := size>>1+size>>3+3, size-1
	pos := 0
	for s, p := range w.parts[:w.used] {
		for range p {
			w.spread[pos] = uint8(s)
			for pos = (pos + step) & mask; pos > high; {
				pos = (pos + step) & mask
			}
		}
	}
	for i, s := range w.spread[:size] {
		w.next[w.cumuled[s]] = uint16(size + i)
		w.cumuled[s]++
	}
}

// first returns a state in which symbol s is the last one.
func (w *fseWriter) first(s uint8) uint32 {
	c := w.codes[s&(maxSymbols-1)]
	n := (c.bits + 1<<15) >> 16
	return uint32(w.next[(int32((n<<16-c.bits)>>n)+c.first)&(1<<maxLog-1)])
}

// encode writes the bits that lead from state to the one in which s came
// before, and returns that.
func (w *fseWriter) encode(out *backwardWriter, state uint32, s uint8) uint32 {
	c := w.codes[s&(maxSymbols-1)]
	n := (state + c.bits) >> 16
	out.add(state, uint(n))
	return uint32(w.next[(int32(state>>(n&31))+c.first)&(1<<maxLog-1)])
}

// finish writes the state that decoding starts with.
func (w *fseWriter) finish(out *backwardWriter, state uint32) {
	out.add(state, w.log)
	out.flush()
}
