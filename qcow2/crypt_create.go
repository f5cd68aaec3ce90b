package qcow2

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/luks"
)

// EncryptOptions says how a new image is encrypted. The zero value, with a
// passphrase, is what qemu-img makes with encrypt.format=luks: AES-256 in XTS
// mode.
type EncryptOptions struct {
	// Passphrase opens the image. nil is an error that is ErrPassphrase; an empty
	// one is taken. It is not kept, and not wiped either.
	Passphrase []byte

	// Method is CryptLUKS, or CryptAES, which is weak and obsolete: it is for
	// making images that old programs read. CryptNone stands for CryptLUKS. The
	// fields below are for LUKS only.
	Method CryptMethod

	Cipher     string // aes-128, aes-192, aes-256, serpent-…, twofish-…, cast5-128; "" is aes-256
	CipherMode string // xts, cbc, ctr, ecb; "" is xts
	IVGen      string // plain64, plain, essiv; "" is plain64
	IVGenHash  string // with essiv only; "" is sha256
	Hash       string // md5, sha1, sha224, sha256, sha384, sha512, ripemd160; "" is sha256

	// Key says how the key slot of the passphrase is made.
	Key KeyOptions

	// Context ends key derivation, which takes about two seconds unless Key
	// says otherwise; nil never does.
	Context context.Context
}

// check refuses what the legacy AES method does not have.
func (o *EncryptOptions) check() error {
	if o.Method == CryptAES && o.Cipher+o.CipherMode+o.IVGen+o.IVGenHash+o.Hash != "" {
		return fmt.Errorf("encryption method %v: ciphers and hashes to choose from: %w", o.Method, errors.ErrUnsupported)
	}
	return nil
}

// spec returns the algorithms that o asks for.
func (o *EncryptOptions) spec() (luks.Spec, error) {
	or := func(s, def string) string {
		if s == "" {
			return def
		}
		return s
	}
	cipher, mode, iv := or(o.Cipher, "aes-256"), or(o.CipherMode, "xts"), or(o.IVGen, "plain64")
	name, width, _ := strings.Cut(cipher, "-")
	bits, err := strconv.Atoi(width)
	if err != nil || bits <= 0 || bits > 256 {
		return luks.Spec{}, fmt.Errorf("cipher %q: %w", cipher, errors.ErrUnsupported)
	}
	s := luks.Spec{Cipher: name, Mode: mode + "-" + iv, Hash: or(o.Hash, "sha256"), KeyBytes: bits / 8}
	if mode == "xts" {
		s.KeyBytes *= 2
	}
	switch {
	case iv == "essiv":
		s.Mode += ":" + or(o.IVGenHash, "sha256")
	case o.IVGenHash != "":
		return s, fmt.Errorf("IV generator %q takes no hash", iv)
	}
	// QEMU ends itself where key material is not whole sectors.
	if s.KeyBytes*luks.Stripes%luks.SectorSize != 0 {
		return s, fmt.Errorf("cipher %q in %s mode: %w", cipher, mode, errors.ErrUnsupported)
	}
	return s, nil
}

// A newEncryption is the encryption of an image that is being made.
type newEncryption struct {
	cryptor *cryptor
	header  *luks.Header // nil for the legacy AES method
	key     []byte
}

// prepare makes the keys, and puts into the header of the image what belongs
// there, but for the place of the LUKS header.
func (o *EncryptOptions) prepare(h *Header) (*newEncryption, error) {
	switch o.Method {
	case CryptAES:
		h.CryptMethod = CryptAES
		return &newEncryption{cryptor: &cryptor{luks.NewLegacyAES(o.Passphrase), true}}, nil
	case CryptNone, CryptLUKS:
	default:
		return nil, fmt.Errorf("encryption method %v: %w", o.Method, errors.ErrUnsupported)
	}
	spec, err := o.spec()
	if err != nil {
		return nil, err
	}
	n := &newEncryption{}
	if n.header, n.key, err = luks.New(o.context(), spec, o.Key.luks()); err != nil {
		return nil, err
	}
	c, err := luks.NewCipher(spec, n.key)
	if err != nil {
		return nil, err
	}
	n.cryptor = &cryptor{c, false}
	h.CryptMethod = CryptLUKS
	h.setExtension(ExtensionCryptoHeader, CryptoHeader{Length: n.header.PayloadOffset}.append(nil))
	return n, nil
}

func (o *EncryptOptions) context() context.Context {
	if o.Context == nil {
		return context.Background()
	}
	return o.Context
}

// store writes the LUKS header and the key slot of the passphrase to their
// place in f, which h tells.
func (n *newEncryption) store(f File, h *Header, o *EncryptOptions) error {
	p, ok := h.CryptoHeader()
	if !ok {
		return nil
	}
	area := &luksArea{r: f, w: f, off: p.Offset, size: p.Length}
	return n.header.AddKey(o.context(), area, 0, n.key, o.Passphrase, o.Key.luks())
}

// placeCryptoHeader gives the LUKS header a place, if there is one.
func (c *creator) placeCryptoHeader(h *Header) error {
	p, ok := h.CryptoHeader()
	if !ok {
		return nil
	}
	n := align.CeilDiv(p.Length, c.clusterSize())
	off, err := c.alloc(n)
	if err != nil {
		return err
	}
	p.Offset = int64(off)
	h.setExtension(ExtensionCryptoHeader, p.append(nil))
	c.end = max(c.end, off+c.clusterOff(clusterIdx(n)))
	return nil
}
