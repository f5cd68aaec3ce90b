package luks

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"math/bits"
)

const serpentRounds = 32

// serpent is the block cipher of that name by Anderson, Biham and Knudsen,
// in its bit-sliced form: bit i of four words makes the i-th input of an
// S-box. Neither the standard library nor x/crypto has it.
type serpent struct {
	keys [serpentRounds + 1][4]uint32
}

// newSerpent returns the cipher for a key of 16, 24 or 32 bytes.
func newSerpent(key []byte) (cipher.Block, error) {
	if len(key) != 16 && len(key) != 24 && len(key) != 32 {
		return nil, errors.New("serpent: bad key length")
	}
	// A short key is extended by a one bit and zeros.
	var padded [33]byte
	copy(padded[:], key)
	padded[len(key)] = 1
	var w [8 + 4*(serpentRounds+1)]uint32
	for i := range 8 {
		w[i] = binary.LittleEndian.Uint32(padded[4*i:])
	}
	for i := 8; i < len(w); i++ {
		const phi = 0x9e3779b9
		w[i] = bits.RotateLeft32(w[i-8]^w[i-5]^w[i-3]^w[i-1]^phi^uint32(i-8), 11)
	}
	s := &serpent{}
	for i := range s.keys {
		k := w[8+4*i:]
		a, b, c, d := k[0], k[1], k[2], k[3]
		switch (serpentRounds + 3 - i) % 8 {
		case 0:
			a, b, c, d = sBox0(a, b, c, d)
		case 1:
			a, b, c, d = sBox1(a, b, c, d)
		case 2:
			a, b, c, d = sBox2(a, b, c, d)
		case 3:
			a, b, c, d = sBox3(a, b, c, d)
		case 4:
			a, b, c, d = sBox4(a, b, c, d)
		case 5:
			a, b, c, d = sBox5(a, b, c, d)
		case 6:
			a, b, c, d = sBox6(a, b, c, d)
		case 7:
			a, b, c, d = sBox7(a, b, c, d)
		}
		s.keys[i] = [4]uint32{a, b, c, d}
	}
	clear(padded[:])
	clear(w[:])
	return s, nil
}

// BlockSize returns 16.
func (s *serpent) BlockSize() int { return 16 }

// Encrypt encrypts one block.
func (s *serpent) Encrypt(dst, src []byte) {
	a, b, c, d := loadBlock(src)
	for r := 0; r < serpentRounds; r += 8 {
		k := s.keys[r : r+8]
		if r > 0 { // the last round mixes nothing, so mixing comes first
			a, b, c, d = mix(a, b, c, d)
		}
		a, b, c, d = mix(sBox0(addKey(&k[0], a, b, c, d)))
		a, b, c, d = mix(sBox1(addKey(&k[1], a, b, c, d)))
		a, b, c, d = mix(sBox2(addKey(&k[2], a, b, c, d)))
		a, b, c, d = mix(sBox3(addKey(&k[3], a, b, c, d)))
		a, b, c, d = mix(sBox4(addKey(&k[4], a, b, c, d)))
		a, b, c, d = mix(sBox5(addKey(&k[5], a, b, c, d)))
		a, b, c, d = mix(sBox6(addKey(&k[6], a, b, c, d)))
		a, b, c, d = sBox7(addKey(&k[7], a, b, c, d))
	}
	storeBlock(dst, s.keys[serpentRounds], a, b, c, d)
}

// Decrypt decrypts one block.
func (s *serpent) Decrypt(dst, src []byte) {
	a, b, c, d := loadBlock(src)
	a, b, c, d = addKey(&s.keys[serpentRounds], a, b, c, d)
	for r := serpentRounds - 8; r >= 0; r -= 8 {
		k := s.keys[r : r+8]
		a, b, c, d = invBox7(a, b, c, d)
		a, b, c, d = addKey(&k[7], a, b, c, d)
		a, b, c, d = invBox6(unmix(a, b, c, d))
		a, b, c, d = addKey(&k[6], a, b, c, d)
		a, b, c, d = invBox5(unmix(a, b, c, d))
		a, b, c, d = addKey(&k[5], a, b, c, d)
		a, b, c, d = invBox4(unmix(a, b, c, d))
		a, b, c, d = addKey(&k[4], a, b, c, d)
		a, b, c, d = invBox3(unmix(a, b, c, d))
		a, b, c, d = addKey(&k[3], a, b, c, d)
		a, b, c, d = invBox2(unmix(a, b, c, d))
		a, b, c, d = addKey(&k[2], a, b, c, d)
		a, b, c, d = invBox1(unmix(a, b, c, d))
		a, b, c, d = addKey(&k[1], a, b, c, d)
		a, b, c, d = invBox0(unmix(a, b, c, d))
		if r > 0 {
			a, b, c, d = addKey(&k[0], a, b, c, d)
			a, b, c, d = unmix(a, b, c, d)
		}
	}
	storeBlock(dst, s.keys[0], a, b, c, d)
}

func loadBlock(p []byte) (a, b, c, d uint32) {
	_ = p[15]
	return binary.LittleEndian.Uint32(p), binary.LittleEndian.Uint32(p[4:]),
		binary.LittleEndian.Uint32(p[8:]), binary.LittleEndian.Uint32(p[12:])
}

// storeBlock adds a last key and stores.
func storeBlock(p []byte, k [4]uint32, a, b, c, d uint32) {
	_ = p[15]
	binary.LittleEndian.PutUint32(p, a^k[0])
	binary.LittleEndian.PutUint32(p[4:], b^k[1])
	binary.LittleEndian.PutUint32(p[8:], c^k[2])
	binary.LittleEndian.PutUint32(p[12:], d^k[3])
}

func addKey(k *[4]uint32, a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	return a ^ k[0], b ^ k[1], c ^ k[2], d ^ k[3]
}

// mix is the linear transformation between rounds.
func mix(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	a = bits.RotateLeft32(a, 13)
	c = bits.RotateLeft32(c, 3)
	b = bits.RotateLeft32(b^a^c, 1)
	d = bits.RotateLeft32(d^c^a<<3, 7)
	a = bits.RotateLeft32(a^b^d, 5)
	c = bits.RotateLeft32(c^d^b<<7, 22)
	return a, b, c, d
}

// unmix is the inverse of mix.
func unmix(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	c = bits.RotateLeft32(c, -22) ^ d ^ b<<7
	a = bits.RotateLeft32(a, -5) ^ b ^ d
	d = bits.RotateLeft32(d, -7) ^ c ^ a<<3
	b = bits.RotateLeft32(b, -1) ^ a ^ c
	c = bits.RotateLeft32(c, -3)
	a = bits.RotateLeft32(a, -13)
	return a, b, c, d
}
