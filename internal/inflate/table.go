package inflate

import "math/bits"

// Limits of RFC 1951 3.2.6 and 3.2.7.
const (
	maxCode   = 15  // bits of the longest code of a symbol
	endBlock  = 256 // the symbol that ends a block
	maxLitLen = 286 // literal and length symbols that a dynamic block may have
	maxDist   = 30  // distance symbols that a dynamic block may have
	numPre    = 19  // symbols of the code that code lengths are written in
	maxPre    = 7   // bits of the longest code of such a symbol
)

// A table of symbols is looked up with the next litBits, distBits or maxPre
// bits of the input. Codes longer than that continue in a second table, which
// stands behind the first one. The sizes are what the worst code takes.
const (
	litBits  = 11
	distBits = 8
	litSize  = 2342
	distSize = 402
)

// A symbol is an entry of such a table:
//
//	bits  0 to 5    how many bits of input it takes in all
//	bits  6 and 7   its kind, and bits 14 and 15
//	bits  8 to 13   how many of those bits are the code; or how many index a
//	                second table
//	bits 16 to 31   the value: a literal, the base of a length or distance, a
//	                code length, or where a second table starts
//	bits 32 to 45   the mask of the bits after the code, which are added to the
//	                base
type symbol uint64

const (
	bitsMask   = 63
	codeShift  = 8
	valueShift = 16
	extraShift = 32
	addCode    = 1 + 1<<codeShift // adds one bit of code

	isLiteral  = 1 << 6
	isSubtable = 1 << 7
	isEnd      = 1 << 14
	isInvalid  = 1 << 15
)

// bits returns how many bits of input s takes.
func (s symbol) bits() uint { return uint(s & bitsMask) }

// value returns the value of s, whose code and extra bits are the next ones
// of acc.
func (s symbol) value(acc uint64) int {
	return int(s>>valueShift&0xffff) + int(acc>>(s>>codeShift&bitsMask)&uint64(s>>extraShift))
}

// second returns the index of the entry in the second table that s leads to.
func (s symbol) second(acc uint64) uint {
	return uint(s>>valueShift&0xffff) + uint(acc&(1<<(s>>codeShift&bitsMask)-1))
}

// litSymbols, distSymbols and preSymbols hold the entry of each symbol, less
// its code. RFC 1951 3.2.5.
var (
	litSymbols  = makeLitSymbols()
	distSymbols = makeDistSymbols()
	preSymbols  = makePreSymbols()
	fixedLens   = makeFixedLens()
)

// based returns the symbol of a base and a number of extra bits.
func based(base, extra int) symbol {
	return symbol(base<<valueShift|extra) | symbol(1<<extra-1)<<extraShift
}

func makeLitSymbols() (s [288]symbol) {
	for i := range endBlock {
		s[i] = isLiteral | based(i, 0)
	}
	s[endBlock] = isEnd
	base := 3
	for i := range 28 {
		extra := max(0, i/4-1)
		s[endBlock+1+i] = based(base, extra)
		base += 1 << extra
	}
	s[285] = based(258, 0)
	s[286], s[287] = isInvalid, isInvalid
	return s
}

func makeDistSymbols() (s [32]symbol) {
	base := 1
	for i := range maxDist {
		extra := max(0, i/2-1)
		s[i] = based(base, extra)
		base += 1 << extra
	}
	s[30], s[31] = isInvalid, isInvalid
	return s
}

func makePreSymbols() (s [numPre]symbol) {
	for i := range s {
		s[i] = based(i, 0)
	}
	return s
}

// makeFixedLens returns the code lengths of fixed blocks. RFC 1951 3.2.6.
func makeFixedLens() (s [288 + 32]uint8) {
	for i := range s {
		switch {
		case i < 144:
			s[i] = 8
		case i < 256:
			s[i] = 9
		case i < 280:
			s[i] = 7
		case i < 288:
			s[i] = 8
		default:
			s[i] = 5
		}
	}
	return s
}

// A code is a set of codes of symbols. RFC 1951 3.2.2.
type code struct {
	count   [maxCode + 1]uint16 // how many codes have so many bits
	used    int                 // how many codes there are
	symbols [288]uint16         // what they stand for, the shortest code first
	codes   [288]uint16         // the codes, the bits in the order of the input
}

// set makes c the code of symbols with codes of the given lengths. It reports
// whether there is one: it must be complete, or empty, or have one symbol of
// one bit, which is what encoders write for a block with a single distance.
func (c *code) set(lens []uint8) bool {
	c.count = [maxCode + 1]uint16{}
	for _, n := range lens {
		c.count[n&maxCode]++
	}
	c.count[0] = 0
	var next [maxCode + 2]uint16
	left := int32(1) // what is left of the code space, in codes of n bits
	for n := 1; n <= maxCode; n++ {
		next[n+1] = next[n] + c.count[n]
		left = left<<1 - int32(c.count[n])
		if left < 0 {
			return false
		}
	}
	c.used = int(next[maxCode+1])
	if left > 0 && (c.used > 1 || c.used == 1 && c.count[1] != 1) {
		return false
	}
	for i, n := range lens {
		if n != 0 {
			c.symbols[next[n&maxCode]] = uint16(i)
			next[n&maxCode]++
		}
	}
	at, bits := 0, uint(0)
	for n := uint(1); n <= maxCode; n++ {
		for range c.count[n] {
			c.codes[at] = uint16(bits)
			at++
			bits = nextCode(bits, n)
		}
	}
	return true
}

// nextCode returns the code of n bits after code, or the first one that
// continues code with more bits if code is the last; the bits in the order of
// the input.
func nextCode(code, n uint) uint {
	free := ^code & (1<<n - 1)
	if free == 0 {
		return code
	}
	top := uint(1) << (bits.Len(free) - 1)
	return code&(top-1) | top
}

// fill fills table, whose first level is indexed by tableBits, with c. entries
// holds the entry of each symbol.
func (c *code) fill(table []symbol, tableBits uint, entries []symbol) {
	if c.used < 2 {
		for i := range table[:1<<tableBits] {
			table[i] = isInvalid | addCode
			if c.used == 1 && i&1 == 0 {
				table[i] = entries[c.symbols[0]] + addCode
			}
		}
		return
	}
	// Codes up to tableBits: the table is filled for the bits so far and
	// doubled for each bit more.
	at := 0
	for n := uint(1); n <= tableBits; n++ {
		if n > 1 {
			copy(table[1<<(n-1):1<<n], table[:1<<(n-1)])
		}
		for range c.count[n] {
			table[c.codes[at]] = entries[c.symbols[at]] + symbol(n*addCode)
			at++
		}
	}
	// Longer ones: a second table for each value of their first tableBits.
	end := uint(1) << tableBits // of the tables so far
	start, prefix := uint(0), ^uint(0)
	left := c.count
	for n := tableBits + 1; n <= maxCode; n++ {
		for ; left[n] > 0; left[n]-- {
			code := uint(c.codes[at])
			if p := code & (1<<tableBits - 1); p != prefix {
				width := subtableBits(n-tableBits, left[tableBits:])
				prefix, start = p, end
				end += 1 << width
				table[p] = isSubtable | symbol(start<<valueShift|width<<codeShift|tableBits)
			}
			e := entries[c.symbols[at]] + symbol((n-tableBits)*addCode)
			for i := start + code>>tableBits; i < end; i += 1 << (n - tableBits) {
				table[i] = e
			}
			at++
		}
	}
}

// subtableBits returns how many bits index the second table that the next
// codes go to, the first of which has n bits there. left holds how many codes
// of each number of bits are not in a table yet.
func subtableBits(n uint, left []uint16) uint {
	space := uint(left[n])
	for space < 1<<n {
		n++
		space = space<<1 + uint(left[n])
	}
	return n
}
