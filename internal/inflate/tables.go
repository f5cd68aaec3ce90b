package inflate

// preOrder is the order in which a dynamic block gives the lengths of the
// code that its code lengths are written in. RFC 1951 3.2.7.
var preOrder = [numPre]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// fixedTables sets the tables to the code of fixed blocks.
func (d *Decoder) fixedTables() {
	if d.fixed {
		return
	}
	d.litTables(fixedLens[:288])
	d.distTable(fixedLens[288:])
	d.fixed = true
}

// litTables sets the tables of literals and lengths.
func (d *Decoder) litTables(lens []uint8) bool {
	if !d.code.set(lens) {
		return false
	}
	d.code.fill(d.lit[:], litBits, litSymbols[:])
	d.pack(&d.packed, &d.code)
	return true
}

// distTable sets the table of distances.
func (d *Decoder) distTable(lens []uint8) bool {
	if !d.code.set(lens) {
		return false
	}
	d.code.fill(d.dist[:], distBits, distSymbols[:])
	return true
}

// dynamicTables sets the tables to the code that a dynamic block starts with.
func (d *Decoder) dynamicTables() error {
	d.fixed = false
	head, ok := d.take(14)
	if !ok {
		return d.eof("dynamic block header")
	}
	numLit, numDist, pre := int(head&31)+257, int(head>>5&31)+1, int(head>>10)+4
	if numLit > maxLitLen {
		return d.corrupt("number of literal codes")
	}
	if numDist > maxDist {
		return d.corrupt("number of distance codes")
	}
	if err := d.preLengths(pre); err != nil {
		return err
	}
	lens := d.lengths[:numLit+numDist]
	if err := d.codeLengths(lens); err != nil {
		return err
	}
	if !d.litTables(lens[:numLit]) {
		return d.corrupt("literal code")
	}
	if !d.distTable(lens[numLit:]) {
		return d.corrupt("distance code")
	}
	return nil
}

// preLengths reads the lengths of the code that the code lengths are written
// in, and makes its table.
func (d *Decoder) preLengths(n int) error {
	var lens [numPre]uint8
	for _, i := range preOrder[:n] {
		v, ok := d.take(3)
		if !ok {
			return d.eof("code length code")
		}
		lens[i] = uint8(v)
	}
	if !d.code.set(lens[:]) {
		return d.corrupt("code length code")
	}
	d.code.fill(d.pre[:], maxPre, preSymbols[:])
	return nil
}

// codeLengths fills lens. Symbols 0 to 15 are a length, 16 repeats the one
// before, 17 and 18 are runs of zeros. RFC 1951 3.2.7.
func (d *Decoder) codeLengths(lens []uint8) error {
	for i := 0; i < len(lens); {
		d.refill()
		e := d.pre[d.acc&(1<<maxPre-1)]
		n := e.bits()
		if n > d.count {
			return d.eof("code lengths")
		}
		if e&isInvalid != 0 {
			return d.corrupt("code length")
		}
		var fill uint8
		var extra uint
		run := 1
		switch sym := e >> valueShift; sym {
		case 16:
			if i == 0 {
				return d.corrupt("code length repeat")
			}
			fill, extra, run = lens[i-1], 2, 3
		case 17:
			extra, run = 3, 3
		case 18:
			extra, run = 7, 11
		default:
			fill = uint8(sym)
		}
		if n+extra > d.count {
			return d.eof("code lengths")
		}
		run += int(d.acc >> n & (1<<extra - 1))
		d.acc >>= n + extra
		d.count -= n + extra
		if run > len(lens)-i {
			return d.corrupt("code length repeat")
		}
		for range run {
			lens[i] = fill
			i++
		}
	}
	return nil
}
