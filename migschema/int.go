package migschema

import (
	"encoding/binary"
	"fmt"
	"math/big"
)

// An Int is an INTEGER of any size. Values from -2^64 to 2^64-1 are held
// without an allocation. The zero Int is 0. Compare with [Int.Equal], not
// with ==.
type Int struct {
	lo   uint64   // the value modulo 2^64
	neg  bool     // the value is lo - 2^64
	wide *big.Int // the value, where it does not fit the other two
}

// NewInt returns the Int of value v.
func NewInt(v int64) Int { return Int{lo: uint64(v), neg: v < 0} }

// NewUint returns the Int of value v.
func NewUint(v uint64) Int { return Int{lo: v} }

// IntFromBig returns the Int of value v. It keeps no reference to v.
func IntFromBig(v *big.Int) Int {
	switch {
	case v.IsUint64():
		return NewUint(v.Uint64())
	case v.IsInt64():
		return NewInt(v.Int64())
	}
	if not := new(big.Int).Not(v); not.IsUint64() {
		return Int{lo: ^not.Uint64(), neg: true} // -2^64 <= v
	}
	return Int{wide: new(big.Int).Set(v)}
}

// Int64 returns the value and whether it fits an int64.
func (i Int) Int64() (int64, bool) {
	return int64(i.lo), i.wide == nil && i.neg == (int64(i.lo) < 0)
}

// Uint64 returns the value and whether it fits a uint64.
func (i Int) Uint64() (uint64, bool) { return i.lo, i.wide == nil && !i.neg }

// Big returns the value as a new big.Int.
func (i Int) Big() *big.Int {
	if i.wide != nil {
		return new(big.Int).Set(i.wide)
	}
	v := new(big.Int).SetUint64(i.lo)
	if i.neg {
		v.Sub(v, new(big.Int).Lsh(big.NewInt(1), 64))
	}
	return v
}

// Sign returns -1, 0 or 1.
func (i Int) Sign() int {
	switch {
	case i.wide != nil:
		return i.wide.Sign()
	case i.neg:
		return -1
	case i.lo == 0:
		return 0
	}
	return 1
}

// Equal reports whether i and j are the same number.
func (i Int) Equal(j Int) bool {
	if i.wide != nil && j.wide != nil {
		return i.wide.Cmp(j.wide) == 0
	}
	// A number has one representation only.
	return i.wide == j.wide && i.lo == j.lo && i.neg == j.neg
}

// String returns i in decimal.
func (i Int) String() string {
	if v, ok := i.Int64(); ok {
		return fmt.Sprint(v)
	}
	if v, ok := i.Uint64(); ok {
		return fmt.Sprint(v)
	}
	return i.Big().String()
}

// decodeInt returns the value of contents octets: two's complement, most
// significant octet first (X.690 8.3).
//
// Preconditions: len(b) > 0.
func decodeInt(b []byte) Int {
	if len(b) <= 8 {
		v := int64(int8(b[0]))
		for _, c := range b[1:] {
			v = v<<8 | int64(c)
		}
		return NewInt(v)
	}
	head, tail := b[:len(b)-8], b[len(b)-8:]
	sign := byte(int8(b[0]) >> 7)
	for _, c := range head {
		if c != sign {
			return wideInt(b)
		}
	}
	return Int{lo: binary.BigEndian.Uint64(tail), neg: sign != 0}
}

func wideInt(b []byte) Int {
	v := new(big.Int).SetBytes(b)
	if b[0] >= 0x80 {
		v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(len(b))*8))
	}
	return IntFromBig(v)
}

// size returns how many contents octets i has in its shortest form.
func (i Int) size() int {
	if i.wide != nil {
		return bigSize(i.wide)
	}
	v := i.lo
	if i.neg {
		v = ^v
	}
	n := 1
	for ; v >= 0x80; v >>= 8 {
		n++
	}
	return n
}

// bigSize returns how many octets the two's complement form of v has.
func bigSize(v *big.Int) int {
	if v.Sign() < 0 {
		return new(big.Int).Not(v).BitLen()/8 + 1
	}
	return v.BitLen()/8 + 1
}

// appendContents appends the contents octets of i, in the shortest form.
func (i Int) appendContents(b []byte) []byte {
	n := i.size()
	if i.wide == nil {
		if n == 9 {
			sign := byte(0)
			if i.neg {
				sign = 0xff
			}
			return binary.BigEndian.AppendUint64(append(b, sign), i.lo)
		}
		for s := 8 * (n - 1); s >= 0; s -= 8 {
			b = append(b, byte(i.lo>>s))
		}
		return b
	}
	v := i.wide
	if v.Sign() < 0 {
		v = new(big.Int).Add(v, new(big.Int).Lsh(big.NewInt(1), uint(n)*8))
	}
	at := len(b)
	b = append(b, make([]byte, n)...)
	v.FillBytes(b[at:])
	return b
}
