package luks_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/crypto/xts"

	"github.com/virtfmt/virtfmt/internal/luks"
)

func noise(seed uint64, n int) []byte {
	var s [32]byte
	binary.LittleEndian.PutUint64(s[:], seed)
	b := make([]byte, n)
	rand.NewChaCha8(s).Read(b)
	return b
}

func TestXTSAgainstXCrypto(t *testing.T) {
	for _, keyBytes := range []int{32, 48, 64} {
		key := noise(1, keyBytes)
		c, err := luks.NewCipher(luks.Spec{Cipher: "aes", Mode: "xts-plain64"}, key)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := xts.NewCipher(aes.NewCipher, key)
		if err != nil {
			t.Fatal(err)
		}
		plain := noise(2, 64*luks.SectorSize)
		for _, first := range []uint64{0, 1, 1<<32 - 3, 1<<63 + 5} {
			want := make([]byte, len(plain))
			for i := 0; i < len(plain); i += luks.SectorSize {
				ref.Encrypt(want[i:], plain[i:i+luks.SectorSize], first+uint64(i/luks.SectorSize))
			}
			got := make([]byte, len(plain))
			c.Encrypt(got, plain, first)
			if !bytes.Equal(got, want) {
				t.Errorf("key of %d bytes, sector %d: encryption differs", keyBytes, first)
			}
			c.Decrypt(got, got, first)
			if !bytes.Equal(got, plain) {
				t.Errorf("key of %d bytes, sector %d: decryption differs", keyBytes, first)
			}
		}
	}
}

func TestLegacyAES(t *testing.T) {
	block, err := aes.NewCipher([]byte("secret\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	if err != nil {
		t.Fatal(err)
	}
	plain := noise(3, 3*luks.SectorSize)
	want := make([]byte, len(plain))
	for i := range 3 {
		var iv [16]byte
		binary.LittleEndian.PutUint64(iv[:], uint64(77+i))
		s := plain[i*luks.SectorSize:][:luks.SectorSize]
		cipher.NewCBCEncrypter(block, iv[:]).CryptBlocks(want[i*luks.SectorSize:], s)
	}
	c := luks.NewLegacyAES([]byte("secret"))
	got := make([]byte, len(plain))
	c.Encrypt(got, plain, 77)
	if !bytes.Equal(got, want) {
		t.Error("encryption differs from CBC with a plain64 vector")
	}
	c.Decrypt(got, got, 77)
	if !bytes.Equal(got, plain) {
		t.Error("decryption differs")
	}
	long := luks.NewLegacyAES([]byte("secret\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00beyond"))
	long.Encrypt(got, plain, 77)
	if !bytes.Equal(got, want) {
		t.Error("bytes past the sixteenth of a password matter")
	}
}

// modes are all pairs of algorithm and mode that qemu 7.2 makes.
func modes() []luks.Spec {
	var all []luks.Spec
	for _, name := range []string{"aes", "serpent", "twofish", "cast5"} {
		for _, chain := range []string{"ecb", "cbc", "ctr", "xts"} {
			for _, iv := range []string{"plain", "plain64", "essiv:sha256", "essiv:md5"} {
				for _, bits := range []int{128, 192, 256} {
					s := luks.Spec{Cipher: name, Mode: chain + "-" + iv, Hash: "sha256", KeyBytes: bits / 8}
					if name == "cast5" && (bits != 128 || chain == "xts" || iv == "essiv:sha256") {
						continue
					}
					if chain == "xts" {
						s.KeyBytes *= 2
					}
					all = append(all, s)
				}
			}
		}
	}
	return all
}

func TestEveryModeInverts(t *testing.T) {
	plain := noise(4, 5*luks.SectorSize)
	for _, s := range modes() {
		c, err := luks.NewCipher(s, noise(5, s.KeyBytes))
		if err != nil {
			t.Errorf("%+v: %v", s, err)
			continue
		}
		apart, inPlace := make([]byte, len(plain)), bytes.Clone(plain)
		c.Encrypt(apart, plain, 9)
		c.Encrypt(inPlace, inPlace, 9)
		if !bytes.Equal(apart, inPlace) || bytes.Equal(apart, plain) {
			t.Errorf("%+v: encrypting in place gives something else", s)
		}
		back := make([]byte, len(plain))
		c.Decrypt(back, apart, 9)
		c.Decrypt(inPlace, inPlace, 9)
		if !bytes.Equal(back, plain) || !bytes.Equal(inPlace, plain) {
			t.Errorf("%+v: does not decrypt to what was encrypted", s)
		}
		// A run of sectors is the sectors one by one.
		c.Encrypt(back[:luks.SectorSize], plain[2*luks.SectorSize:3*luks.SectorSize], 11)
		if !bytes.Equal(back[:luks.SectorSize], apart[2*luks.SectorSize:3*luks.SectorSize]) {
			t.Errorf("%+v: the third sector of a run differs from that sector alone", s)
		}
	}
}

func TestUnknownAlgorithms(t *testing.T) {
	for _, s := range []luks.Spec{
		{Cipher: "rot13", Mode: "xts-plain64", KeyBytes: 64},
		{Cipher: "aes", Mode: "xts-plain64", KeyBytes: 65},
		{Cipher: "aes", Mode: "xts-plain64", KeyBytes: 20},
		{Cipher: "aes", Mode: "gcm-plain64", KeyBytes: 32},
		{Cipher: "aes", Mode: "cbc", KeyBytes: 32},
		{Cipher: "aes", Mode: "", KeyBytes: 32},
		{Cipher: "aes", Mode: "cbc-random", KeyBytes: 32},
		{Cipher: "aes", Mode: "cbc-essiv", KeyBytes: 32},
		{Cipher: "aes", Mode: "cbc-essiv:sha1", KeyBytes: 32},
		{Cipher: "cast5", Mode: "xts-plain64", KeyBytes: 32},
		{Cipher: "aes", Mode: "cbc-plain64", KeyBytes: 0},
	} {
		if _, err := luks.NewCipher(s, make([]byte, s.KeyBytes)); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

func TestCipherAllocates(t *testing.T) {
	c, err := luks.NewCipher(luks.DefaultSpec, make([]byte, 64))
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4096)
	if n := testing.AllocsPerRun(100, func() { c.Decrypt(p, p, 1) }); n >= 1 {
		t.Errorf("Decrypt allocates %v times", n)
	}
}

func BenchmarkDecrypt(b *testing.B) {
	for _, s := range []luks.Spec{
		luks.DefaultSpec,
		{Cipher: "aes", Mode: "xts-plain64", KeyBytes: 32},
		{Cipher: "aes", Mode: "cbc-essiv:sha256", KeyBytes: 32},
		{Cipher: "serpent", Mode: "xts-plain64", KeyBytes: 64},
		{Cipher: "twofish", Mode: "xts-plain64", KeyBytes: 64},
	} {
		b.Run(fmt.Sprintf("%s-%s-%d", s.Cipher, s.Mode, s.KeyBytes*8), func(b *testing.B) {
			c, err := luks.NewCipher(s, make([]byte, s.KeyBytes))
			if err != nil {
				b.Fatal(err)
			}
			p := make([]byte, 65536)
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				c.Decrypt(p, p, 0)
			}
		})
	}
}
