package luks

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"strings"

	//lint:ignore SA1019 volumes made with it must stay readable
	"golang.org/x/crypto/cast5"
	//lint:ignore SA1019 volumes made with it must stay readable
	"golang.org/x/crypto/ripemd160"
	//lint:ignore SA1019 volumes made with it must stay readable
	"golang.org/x/crypto/twofish"
)

// A Spec names the algorithms of a volume in the words of a LUKS header.
type Spec struct {
	Cipher   string // aes, serpent, twofish or cast5
	Mode     string // chaining mode and IV generator: "xts-plain64", "cbc-essiv:sha256"
	Hash     string // of key derivation and key splitting: "sha256"
	KeyBytes int    // length of the volume key, both halves of it for xts
}

// DefaultSpec is what qemu and cryptsetup make today: AES-256 in XTS mode
// with SHA-256.
var DefaultSpec = Spec{Cipher: "aes", Mode: "xts-plain64", Hash: "sha256", KeyBytes: 64}

// unsupported returns an error about an algorithm that this package lacks.
func unsupported(what, name string) error {
	return fmt.Errorf("%s %q: %w", what, name, errors.ErrUnsupported)
}

// newHash returns the constructor of a hash by the name that headers use.
func newHash(name string) (func() hash.Hash, error) {
	switch name {
	case "md5":
		return md5.New, nil
	case "sha1":
		return sha1.New, nil
	case "sha224":
		return sha256.New224, nil
	case "sha256":
		return sha256.New, nil
	case "sha384":
		return sha512.New384, nil
	case "sha512":
		return sha512.New, nil
	case "ripemd160":
		return ripemd160.New, nil
	}
	return nil, unsupported("hash", name)
}

// newBlock returns a keyed block cipher.
func newBlock(name string, key []byte) (cipher.Block, error) {
	var b cipher.Block
	var err error
	switch name {
	case "aes":
		b, err = aes.NewCipher(key)
	case "serpent":
		b, err = newSerpent(key)
	case "twofish":
		b, err = twofish.NewCipher(key)
	case "cast5":
		b, err = cast5.NewCipher(key)
	default:
		return nil, unsupported("cipher", name)
	}
	if err != nil {
		return nil, fmt.Errorf("cipher %q with a key of %d bytes: %w", name, len(key), errors.ErrUnsupported)
	}
	return b, nil
}

// NewCipher returns the sector cipher of a volume. The key is not kept, but
// the ciphers' own key schedules are: Go offers no way to wipe those.
func NewCipher(s Spec, key []byte) (*Cipher, error) {
	chain, iv, _ := strings.Cut(s.Mode, "-")
	c := &Cipher{}
	dataKey := key
	switch chain {
	case "ecb":
		c.mode = modeECB
	case "cbc":
		c.mode = modeCBC
	case "ctr":
		c.mode = modeCTR
	case "xts":
		c.mode = modeXTS
		if len(key)%2 != 0 {
			return nil, unsupported("cipher mode", s.Mode)
		}
		dataKey = key[:len(key)/2]
	default:
		return nil, unsupported("cipher mode", s.Mode)
	}
	var err error
	if c.block, err = newBlock(s.Cipher, dataKey); err != nil {
		return nil, err
	}
	if c.mode == modeXTS {
		if c.block.BlockSize() != xtsBlock {
			return nil, unsupported("cipher mode", s.Cipher+"-"+s.Mode)
		}
		if c.tweak, err = newBlock(s.Cipher, key[len(key)/2:]); err != nil {
			return nil, err
		}
	}
	return c, c.setIV(s, iv, key)
}

// setIV parses the part of a mode after its first hyphen. The salt of essiv is
// the hash of the whole key, with xts that of both halves.
func (c *Cipher) setIV(s Spec, iv string, key []byte) error {
	kind, arg, _ := strings.Cut(iv, ":")
	switch kind {
	case "plain":
		c.iv = ivPlain
	case "plain64":
		c.iv = ivPlain64
	case "essiv":
		h, err := newHash(arg)
		if err != nil {
			return err
		}
		salt := h()
		salt.Write(key)
		sum := salt.Sum(nil)
		defer clear(sum)
		c.iv = ivESSIV
		c.essiv, err = newBlock(s.Cipher, sum)
		return err
	case "":
		if c.mode == modeECB {
			return nil
		}
		fallthrough
	default:
		return unsupported("cipher mode", s.Mode)
	}
	return nil
}

// NewLegacyAES returns the sector cipher of a qcow2 image with encryption
// method 1: AES-128-CBC, although the format's text says 256-bit keys, with
// the first 16 bytes of the password, zeros after a shorter one, as its key.
func NewLegacyAES(password []byte) *Cipher {
	var key [16]byte
	defer clear(key[:])
	copy(key[:], password)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("luks: a 16-byte AES key was refused: " + err.Error())
	}
	return &Cipher{block: block, mode: modeCBC, iv: ivPlain64}
}
