// Package xxh64 computes XXH64 checksums with seed 0, which frames of zstd
// end with (RFC 8878, section 3.1.1; the algorithm is described at
// https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md).
package xxh64

import (
	"encoding/binary"
	"math/bits"
)

const (
	prime1 uint64 = 0x9e3779b185ebca87
	prime2 uint64 = 0xc2b2ae3d27d4eb4f
	prime3 uint64 = 0x165667b19e3779f9
	prime4 uint64 = 0x85ebca77c2b2ae63
	prime5 uint64 = 0x27d4eb2f165667c5
)

// stripe is how many bytes the four lanes take at once.
const stripe = 32

// A Digest is the checksum of what was written to it. The zero value is not
// valid: use [New].
type Digest struct {
	lanes [4]uint64
	rest  [stripe]byte // the first size%stripe bytes, not yet in the lanes
	size  uint64
}

// New returns a digest of nothing.
func New() *Digest {
	d := new(Digest)
	d.Reset()
	return d
}

// Reset makes d the digest of nothing.
func (d *Digest) Reset() {
	p := prime1 // wraps around below, which a constant may not
	*d = Digest{lanes: [4]uint64{p + prime2, prime2, 0, -p}}
}

// Write adds b to what d is the digest of.
func (d *Digest) Write(b []byte) {
	have := int(d.size % stripe)
	d.size += uint64(len(b))
	if have > 0 {
		n := copy(d.rest[have:], b)
		if have+n < stripe {
			return
		}
		b = b[n:]
		d.mix(d.rest[:])
	}
	n := len(b) &^ (stripe - 1)
	d.mix(b[:n])
	copy(d.rest[:], b[n:])
}

// mix adds whole stripes.
func (d *Digest) mix(b []byte) {
	v1, v2, v3, v4 := d.lanes[0], d.lanes[1], d.lanes[2], d.lanes[3]
	for ; len(b) >= stripe; b = b[stripe:] {
		v1 = round(v1, binary.LittleEndian.Uint64(b[0:8]))
		v2 = round(v2, binary.LittleEndian.Uint64(b[8:16]))
		v3 = round(v3, binary.LittleEndian.Uint64(b[16:24]))
		v4 = round(v4, binary.LittleEndian.Uint64(b[24:32]))
	}
	d.lanes = [4]uint64{v1, v2, v3, v4}
}

func round(lane, input uint64) uint64 {
	return bits.RotateLeft64(lane+input*prime2, 31) * prime1
}

// Sum64 returns the checksum of what was written so far.
func (d *Digest) Sum64() uint64 {
	sum := prime5
	if d.size >= stripe {
		v := d.lanes
		sum = bits.RotateLeft64(v[0], 1) + bits.RotateLeft64(v[1], 7) + bits.RotateLeft64(v[2], 12) + bits.RotateLeft64(v[3], 18)
		for _, lane := range v {
			sum = (sum^round(0, lane))*prime1 + prime4
		}
	}
	sum += d.size
	b := d.rest[:d.size%stripe]
	for ; len(b) >= 8; b = b[8:] {
		sum = bits.RotateLeft64(sum^round(0, binary.LittleEndian.Uint64(b)), 27)*prime1 + prime4
	}
	if len(b) >= 4 {
		sum = bits.RotateLeft64(sum^uint64(binary.LittleEndian.Uint32(b))*prime1, 23)*prime2 + prime3
		b = b[4:]
	}
	for _, c := range b {
		sum = bits.RotateLeft64(sum^uint64(c)*prime5, 11) * prime1
	}
	sum = (sum ^ sum>>33) * prime2
	sum = (sum ^ sum>>29) * prime3
	return sum ^ sum>>32
}
