package luks

import (
	"crypto/subtle"
	"encoding/binary"
	"hash"
	"io"
)

// The anti-forensic splitter (LUKS specification section 2.4) spreads a key
// over many stripes, so that losing any one of them loses the key:
//
//	d[0] = 0,  d[k] = H(d[k-1] xor s[k]),  key = d[n-1] xor s[n]
//
// where all stripes but the last are random and H is diffuse.

// afSplit spreads key over the given number of stripes.
//
// Preconditions: stripes >= 1.
func afSplit(h hash.Hash, random io.Reader, key []byte, stripes int) ([]byte, error) {
	n := len(key)
	out := make([]byte, n*stripes)
	body, last := out[:n*(stripes-1)], out[n*(stripes-1):]
	if _, err := io.ReadFull(random, body); err != nil {
		return nil, err
	}
	d := make([]byte, n)
	defer clear(d)
	for ; len(body) > 0; body = body[n:] {
		subtle.XORBytes(d, d, body[:n])
		diffuse(h, d)
	}
	subtle.XORBytes(last, d, key)
	return out, nil
}

// afMerge returns the key of n bytes that split holds.
//
// Preconditions: len(split) is a positive multiple of n.
func afMerge(h hash.Hash, split []byte, n int) []byte {
	d := make([]byte, n)
	for ; len(split) > n; split = split[n:] {
		subtle.XORBytes(d, d, split[:n])
		diffuse(h, d)
	}
	subtle.XORBytes(d, d, split)
	return d
}

// diffuse replaces each digest-sized piece of d by the hash of its index, as
// 32 bits big-endian, and the piece. A shorter last piece takes the front of
// its hash.
func diffuse(h hash.Hash, d []byte) {
	var index [4]byte
	sum := make([]byte, 0, h.Size())
	for i := uint32(0); len(d) > 0; i++ {
		n := min(len(d), h.Size())
		binary.BigEndian.PutUint32(index[:], i)
		h.Reset()
		h.Write(index[:])
		h.Write(d[:n])
		sum = h.Sum(sum[:0])
		copy(d, sum[:n])
		d = d[n:]
	}
	clear(sum[:cap(sum)])
}
