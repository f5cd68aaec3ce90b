package qcow2

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/luks"
)

// ErrPassphrase means that the passphrase of an encrypted image is wrong, or
// that none was given. With the legacy AES method a wrong one cannot be told
// from the right one.
var ErrPassphrase = errors.New("qcow2: wrong passphrase")

var errNoPassphrase = fmt.Errorf("%w: the image is encrypted, and none was given", ErrPassphrase)

// A cryptor encrypts and decrypts guest data in place. LUKS derives the
// initialization vector of a sector from its place in the file, the legacy
// AES method from its place on the disk.
type cryptor struct {
	*luks.Cipher
	byGuest bool
}

func (c *cryptor) sector(host hostOff, guest guestOff) uint64 {
	if c.byGuest {
		return uint64(guest) / luks.SectorSize
	}
	return uint64(host) / luks.SectorSize
}

func (c *cryptor) decrypt(p []byte, host hostOff, guest guestOff) {
	c.Decrypt(p, p, c.sector(host, guest))
}

func (c *cryptor) encrypt(dst, src []byte, host hostOff, guest guestOff) {
	c.Encrypt(dst, src, c.sector(host, guest))
}

// unlock makes guest data readable and writable.
func (im *Image) unlock() error {
	if !im.encrypted {
		return nil
	}
	c := im.opts.cryptor
	if c == nil {
		var err error
		if c, err = im.newCryptor(); err != nil {
			return err
		}
	}
	im.transform = c
	return nil
}

// newCryptor returns the cryptor that opens with the caller's passphrase.
func (im *Image) newCryptor() (*cryptor, error) {
	if im.opts.Passphrase == nil {
		return nil, errNoPassphrase
	}
	passphrase, err := im.opts.Passphrase()
	if err != nil {
		return nil, fmt.Errorf("qcow2: passphrase: %w", err)
	}
	defer clear(passphrase)
	if im.hdr.CryptMethod == CryptAES {
		return &cryptor{luks.NewLegacyAES(passphrase), true}, nil
	}
	area, h, err := im.luks()
	if err != nil {
		return nil, err
	}
	key, _, err := h.Unlock(im.opts.context(), area, passphrase, im.opts.MaxKeyIterations)
	if err != nil {
		return nil, area.wrap(err)
	}
	defer clear(key)
	c, err := luks.NewCipher(h.Spec, key)
	if err != nil {
		return nil, area.wrap(err)
	}
	return &cryptor{c, false}, nil
}

// context returns what ends key derivation.
func (o *Options) context() context.Context {
	if o.Context == nil {
		return context.Background()
	}
	return o.Context
}

// A luksArea is the part of an image file that holds the LUKS header and its
// key material: offsets are from its start.
type luksArea struct {
	r    io.ReaderAt
	w    File // nil for reading only
	off  int64
	size int64
}

func (a *luksArea) ReadAt(p []byte, off int64) (int, error) { return a.r.ReadAt(p, a.off+off) }

func (a *luksArea) WriteAt(p []byte, off int64) (int, error) {
	if a.w == nil {
		return 0, ErrReadOnly
	}
	return a.w.WriteAt(p, a.off+off)
}

// Sync makes what was written durable.
func (a *luksArea) Sync() error { return block.Sync(a.w) }

// wrap returns an error of package luks in the words of this one.
func (a *luksArea) wrap(err error) error {
	var field *luks.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, luks.ErrPassphrase):
		return ErrPassphrase
	case errors.As(err, &field):
		return &FormatError{Offset: a.off + field.Offset, Field: "luks " + field.Field, Err: field.Err}
	}
	return fmt.Errorf("qcow2: %w", err)
}

// luks returns the LUKS header of the image.
func (im *Image) luks() (*luksArea, *luks.Header, error) {
	p, ok := im.Header().CryptoHeader()
	if !ok {
		return nil, nil, badf(32, "crypt_method", "luks without a pointer to the encryption header")
	}
	a := &luksArea{im.r, im.w, p.Offset, p.Length}
	h, err := luks.Read(a, p.Length)
	return a, h, a.wrap(err)
}
