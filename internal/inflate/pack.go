package inflate

// A packed entry says all that the next litBits bits of input hold: a match,
// a literal, two literals, or a literal and a match.
//
//	bits  0 to 5    how many bits of input it takes
//	bits  6 and 7   how many literals
//	bits  8 to 23   the literals
//	bits 24 to 31   0 for no match, or its length less lenBias
//
// What does not fit is left to the table of symbols: then the entry is
// notPacked, which takes no input and writes nothing.
type packed uint32

const (
	numShift   = 6
	oneLiteral = 1 << numShift // as isLiteral
	litShift   = 8
	lenShift   = 24
	lenBias    = 2
	maxPacked  = 254 + lenBias // the longest match of an entry
	notPacked  = 255 << lenShift
)

// A packer makes packed tables.
//
// What can follow a literal whose code leaves k bits of an entry's index are
// the symbols whose codes have at most k bits: tails[1<<k+i] is the one that
// the k bits i start with, or 0 if it takes more than those. A literal there
// is in second place, so that adding the tail to a literal joins the two.
type packer struct {
	tails [1 << litBits]packed
}

// pack fills table with the literal and length code c.
func (p *packer) pack(table *[1 << litBits]packed, c *code) {
	p.setTails(c)
	for i := range table {
		table[i] = notPacked
	}
	at := 0
	for n := uint(1); n <= litBits; n++ {
		for range c.count[n] {
			i, s := uint(c.codes[at]), litSymbols[c.symbols[at]]
			at++
			if s&isLiteral == 0 {
				packLength(table, s, i, n)
				continue
			}
			e := packed(n) | oneLiteral | packed(s>>valueShift)<<litShift
			row := p.tails[1<<(litBits-n) : 2<<(litBits-n)]
			for _, tail := range row {
				table[i%(1<<litBits)] = e + tail
				i += 1 << n
			}
		}
	}
}

// setTails fills tails from the one for no bits upwards.
func (p *packer) setTails(c *code) {
	p.tails[1] = 0
	at := 0
	for n := uint(1); n < litBits; n++ {
		less, row := p.tails[1<<(n-1):1<<n], p.tails[1<<n:2<<n]
		copy(row, less)
		copy(row[len(less):], less)
		for range c.count[n] {
			i, s := c.codes[at], litSymbols[c.symbols[at]]
			at++
			v := packed(s >> valueShift & 0xffff)
			switch {
			case s&isLiteral != 0:
				row[i] = packed(n) | oneLiteral | v<<(litShift+8)
			case s&(isEnd|isInvalid) == 0 && s&bitsMask == 0 && v <= maxPacked:
				row[i] = packed(n) | (v-lenBias)<<lenShift
			}
		}
	}
}

// packLength fills the entries of table that the code i of n bits starts,
// which stands for the length s, one for each value of its extra bits.
func packLength(table *[1 << litBits]packed, s symbol, i, n uint) {
	all := n + s.bits()
	if s&(isEnd|isInvalid) != 0 || all > litBits {
		return
	}
	length := packed(s >> valueShift & 0xffff)
	for ; i < 1<<all && length <= maxPacked; i += 1 << n {
		for j := i; j < 1<<litBits; j += 1 << all {
			table[j] = packed(all) | (length-lenBias)<<lenShift
		}
		length++
	}
}
