package luks

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"sync"
)

// SectorSize is the unit of encryption: each sector has an initialization
// vector of its own.
const SectorSize = 512

const (
	maxBlock = 16 // of every cipher here
	xtsBlock = 16 // the only block size that XTS is defined for
)

type mode uint8

const (
	modeECB mode = iota
	modeCBC
	modeCTR
	modeXTS
)

// ivKind is how a sector number becomes an initialization vector.
type ivKind uint8

const (
	ivPlain   ivKind = iota // low 32 bits, little-endian
	ivPlain64               // 64 bits, little-endian
	ivESSIV                 // plain64 encrypted under the hash of the key
)

// A Cipher encrypts and decrypts runs of 512-byte sectors. It is safe for
// concurrent use.
type Cipher struct {
	block cipher.Block
	tweak cipher.Block // modeXTS only
	essiv cipher.Block // ivESSIV only
	mode  mode
	iv    ivKind
}

// scratch is what a call needs besides its arguments. It holds nothing
// secret but decrypted chaining values, which the caller has anyway.
type scratch struct {
	iv   [maxBlock]byte
	work [SectorSize]byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// Encrypt encrypts src, whose first sector has the given number, into dst.
//
// Preconditions: len(dst) == len(src), a multiple of [SectorSize]; dst and
// src are the same memory or do not overlap.
func (c *Cipher) Encrypt(dst, src []byte, sector uint64) {
	s := scratches.Get().(*scratch)
	for ; len(src) > 0; sector++ {
		d, p := dst[:SectorSize], src[:SectorSize]
		switch c.mode {
		case modeECB:
			ecb(c.block.Encrypt, c.block.BlockSize(), d, p)
		case modeCBC:
			c.encryptCBC(s, d, p, sector)
		case modeCTR:
			c.ctr(s, d, p, sector)
		case modeXTS:
			c.xts(c.block.Encrypt, s, d, p, sector)
		}
		dst, src = dst[SectorSize:], src[SectorSize:]
	}
	scratches.Put(s)
}

// Decrypt is the inverse of [Cipher.Encrypt].
func (c *Cipher) Decrypt(dst, src []byte, sector uint64) {
	s := scratches.Get().(*scratch)
	for ; len(src) > 0; sector++ {
		d, p := dst[:SectorSize], src[:SectorSize]
		switch c.mode {
		case modeECB:
			ecb(c.block.Decrypt, c.block.BlockSize(), d, p)
		case modeCBC:
			c.decryptCBC(s, d, p, sector)
		case modeCTR:
			c.ctr(s, d, p, sector)
		case modeXTS:
			c.xts(c.block.Decrypt, s, d, p, sector)
		}
		dst, src = dst[SectorSize:], src[SectorSize:]
	}
	scratches.Put(s)
}

// fillIV sets iv, one block long, for a sector.
func (c *Cipher) fillIV(iv []byte, sector uint64) {
	clear(iv)
	if c.iv == ivPlain {
		sector &= 0xffffffff
	}
	binary.LittleEndian.PutUint64(iv, sector)
	if c.iv == ivESSIV {
		c.essiv.Encrypt(iv, iv)
	}
}

// ecb applies crypt to each block of src.
func ecb(crypt func(dst, src []byte), size int, dst, src []byte) {
	for i := 0; i < len(src); i += size {
		crypt(dst[i:i+size], src[i:i+size])
	}
}

func (c *Cipher) encryptCBC(s *scratch, dst, src []byte, sector uint64) {
	size := c.block.BlockSize()
	prev := s.iv[:size]
	c.fillIV(prev, sector)
	for i := 0; i < len(src); i += size {
		b := dst[i : i+size]
		subtle.XORBytes(b, src[i:i+size], prev)
		c.block.Encrypt(b, b)
		prev = b
	}
}

// decryptCBC decrypts all blocks of a sector and then undoes the chaining in
// one pass over the ciphertext shifted by a block.
func (c *Cipher) decryptCBC(s *scratch, dst, src []byte, sector uint64) {
	size := c.block.BlockSize()
	c.fillIV(s.iv[:size], sector)
	chain := s.work[:SectorSize]
	copy(chain, s.iv[:size])
	copy(chain[size:], src)
	ecb(c.block.Decrypt, size, dst, src)
	subtle.XORBytes(dst, dst, chain)
}

func (c *Cipher) ctr(s *scratch, dst, src []byte, sector uint64) {
	iv := s.iv[:c.block.BlockSize()]
	c.fillIV(iv, sector)
	cipher.NewCTR(c.block, iv).XORKeyStream(dst, src)
}

// xts is IEEE 1619 for a whole number of blocks: the tweaks of all blocks are
// laid out first, so that masking is two passes of wide XOR.
func (c *Cipher) xts(crypt func(dst, src []byte), s *scratch, dst, src []byte, sector uint64) {
	c.fillIV(s.iv[:], sector)
	c.tweak.Encrypt(s.iv[:], s.iv[:])
	lo := binary.LittleEndian.Uint64(s.iv[:8])
	hi := binary.LittleEndian.Uint64(s.iv[8:])
	tweaks := s.work[:SectorSize]
	for i := 0; i < len(tweaks); i += xtsBlock {
		binary.LittleEndian.PutUint64(tweaks[i:], lo)
		binary.LittleEndian.PutUint64(tweaks[i+8:], hi)
		// Multiply by x in GF(2^128) modulo x^128 + x^7 + x^2 + x + 1.
		carry := hi >> 63
		hi = hi<<1 | lo>>63
		lo = lo<<1 ^ carry*0x87
	}
	subtle.XORBytes(dst, src, tweaks)
	ecb(crypt, xtsBlock, dst, dst)
	subtle.XORBytes(dst, dst, tweaks)
}
