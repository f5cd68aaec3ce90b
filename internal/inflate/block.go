package inflate

import "encoding/binary"

const (
	// fastOut is how much room in the output a round of the fast loop needs:
	// six literals, a match, and what its last copy writes too far.
	fastOut = 6 + 258 + 16
	fastIn  = 24 // and in the input: three loads of eight bytes
)

// block decodes the symbols of a block with the tables as they are set.
func (d *Decoder) block() error {
	if done, err := d.fast(); done || err != nil {
		return err
	}
	return d.careful()
}

// fast decodes symbols while there is so much room on both sides that nobody
// needs to look. It reports whether the block is at its end. It is one long
// function to keep what it works on in registers.
func (d *Decoder) fast() (done bool, err error) {
	in, out := d.in, d.out
	ip, op := d.ip, d.op
	acc, count := d.acc, d.count // only the low six bits of count count
	lastIn, lastOut := len(in)-fastIn, len(out)-fastOut
	bad := ""
	for ip <= lastIn && op <= lastOut {
		acc, count, ip = load(in, acc, count, ip)
		// Up to three entries without a match, of litBits at most.
		e := d.packed[acc&(1<<litBits-1)]
		acc >>= e & bitsMask
		count -= uint(e)
		binary.LittleEndian.PutUint16(out[op:op+2:op+2], uint16(e>>litShift))
		op += int(e >> numShift & 3)
		if e < 1<<lenShift {
			e = d.packed[acc&(1<<litBits-1)]
			acc >>= e & bitsMask
			count -= uint(e)
			binary.LittleEndian.PutUint16(out[op:op+2:op+2], uint16(e>>litShift))
			op += int(e >> numShift & 3)
			if e < 1<<lenShift {
				e = d.packed[acc&(1<<litBits-1)]
				acc >>= e & bitsMask
				count -= uint(e)
				binary.LittleEndian.PutUint16(out[op:op+2:op+2], uint16(e>>litShift))
				op += int(e >> numShift & 3)
				if e < 1<<lenShift {
					continue
				}
				acc, count, ip = load(in, acc, count, ip)
			}
		}
		length := int(e>>lenShift) + lenBias
		if e == notPacked {
			s := d.lit[acc&(1<<litBits-1)]
			if s&isSubtable != 0 {
				acc >>= litBits
				count -= litBits
				s = d.lit[s.second(acc)]
			}
			length = s.value(acc)
			acc >>= s & bitsMask
			count -= uint(s)
			if s&isLiteral != 0 {
				out[op] = byte(length)
				op++
				continue
			}
			if s&isEnd != 0 {
				done = true
				break
			}
			if s&isInvalid != 0 {
				bad = "literal or length"
				break
			}
			acc, count, ip = load(in, acc, count, ip)
		}
		// There are 28 bits or more, which is what a distance takes.
		s := d.dist[acc&(1<<distBits-1)]
		if s&isSubtable != 0 {
			acc >>= distBits
			count -= distBits
			s = d.dist[s.second(acc)]
		}
		dist := s.value(acc)
		acc >>= s & bitsMask
		count -= uint(s)
		if uint(dist-1) >= uint(op) { // 0 if the symbol is invalid
			bad = "distance"
			break
		}
		src, end := op-dist, op+length
		if dist >= 8 {
			for {
				from, to := out[src:src+16:src+16], out[op:op+16:op+16]
				binary.LittleEndian.PutUint64(to, binary.LittleEndian.Uint64(from))
				binary.LittleEndian.PutUint64(to[8:], binary.LittleEndian.Uint64(from[8:]))
				op += 16
				src += 16
				if op >= end {
					break
				}
			}
			op = end
			continue
		}
		v, step := pattern(out[src:src+8:src+8], dist)
		for op < end {
			binary.LittleEndian.PutUint64(out[op:op+8:op+8], v)
			op += step
		}
		op = end
	}
	d.ip, d.op, d.acc, d.count = ip, op, acc, count&bitsMask
	if bad != "" {
		return false, d.corrupt(bad)
	}
	return done, nil
}

// load fills acc up to 56 bits or more from in[ip:]. Of count, only the low
// six bits count.
//
// Preconditions: ip+8 <= len(in).
func load(in []byte, acc uint64, count uint, ip int) (uint64, uint, int) {
	acc |= binary.LittleEndian.Uint64(in[ip:ip+8:ip+8]) << (count & bitsMask)
	full := count | 56
	return acc, full, ip + int((full-count)>>3)
}

// pattern returns the first dist bytes at p as often as they fit into eight,
// and how many bytes of that are whole repeats.
//
// Preconditions: 0 < dist < 8 and len(p) >= 8.
func pattern(p []byte, dist int) (v uint64, n int) {
	w := uint(dist) * 8
	v = binary.LittleEndian.Uint64(p) & (1<<w - 1)
	v |= v << w
	v |= v << (2 * w)
	v |= v << (4 * w)
	return v, 8 / dist * dist
}

// careful decodes symbols up to the end of the block, of the output or of the
// input.
func (d *Decoder) careful() error {
	for d.op < len(d.out) {
		s, v, ok := d.next(d.lit[:], litBits)
		switch {
		case !ok:
			return d.eof("literal or length")
		case s&isLiteral != 0:
			d.out[d.op] = byte(v)
			d.op++
			continue
		case s&isEnd != 0:
			return nil
		case s&isInvalid != 0:
			return d.corrupt("literal or length")
		}
		s, dist, ok := d.next(d.dist[:], distBits)
		if !ok {
			return d.eof("distance")
		}
		if s&isInvalid != 0 || dist > d.op {
			return d.corrupt("distance")
		}
		for end := min(d.op+v, len(d.out)); d.op < end; d.op++ {
			d.out[d.op] = d.out[d.op-dist]
		}
	}
	return nil
}

// next takes a symbol with its value, and reports whether the input has it.
func (d *Decoder) next(table []symbol, tableBits uint) (s symbol, value int, ok bool) {
	d.refill()
	s = table[d.acc&(1<<tableBits-1)]
	if s&isSubtable != 0 && d.count >= tableBits {
		d.acc >>= tableBits
		d.count -= tableBits
		s = table[s.second(d.acc)]
	}
	if d.count < s.bits() {
		return s, 0, false
	}
	value = s.value(d.acc)
	d.acc >>= s.bits()
	d.count -= s.bits()
	return s, value, true
}
