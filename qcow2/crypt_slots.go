package qcow2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/virtfmt/virtfmt/internal/luks"
)

// KeySlots is the number of passphrases that a LUKS image can have.
const KeySlots = luks.Slots

// AnySlot lets [Image.AddPassphrase] choose the first free key slot.
const AnySlot = -1

// An Encryption tells how an image is encrypted, as far as its header does.
// With the legacy AES method there is nothing but Method to tell.
type Encryption struct {
	Method CryptMethod

	Cipher     string // as in [EncryptOptions]: "aes-256"
	CipherMode string // "xts"
	IVGen      string // "plain64"
	IVGenHash  string // "sha256" with essiv, otherwise empty
	Hash       string // "sha256"
	UUID       string

	MasterKeyIterations uint32
	PayloadOffset       int64 // bytes; the format does not use it
	Slots               [KeySlots]KeySlot
}

// A KeySlot is a place for a passphrase.
type KeySlot struct {
	Active     bool
	Iterations uint32 // of an active one
	Stripes    uint32
	Offset     int64 // of the key material, bytes from the start of the LUKS header
}

// Encryption tells how the image is encrypted: Method is [CryptNone] if it is
// not. It needs no passphrase, so that it also works with
// [Options.MetadataOnly].
func (im *Image) Encryption() (*Encryption, error) {
	if im.closed.Load() {
		return nil, ErrClosed
	}
	e := &Encryption{Method: im.Header().CryptMethod}
	if e.Method != CryptLUKS {
		return e, nil
	}
	im.keys.Lock()
	defer im.keys.Unlock()
	_, h, err := im.luks()
	if err != nil {
		return nil, err
	}
	e.Cipher, e.CipherMode, e.IVGen, e.IVGenHash = algorithms(h.Spec)
	e.Hash, e.UUID = h.Hash, h.UUID
	e.MasterKeyIterations, e.PayloadOffset = h.DigestIterations, h.PayloadOffset
	for i, s := range h.Slot {
		e.Slots[i] = KeySlot{s.Active, s.Iterations, luks.Stripes, s.Offset}
	}
	return e, nil
}

// algorithms takes a Spec apart into the words of qemu.
func algorithms(s luks.Spec) (cipher, mode, iv, ivHash string) {
	mode, iv, _ = strings.Cut(s.Mode, "-")
	iv, ivHash, _ = strings.Cut(iv, ":")
	bits := s.KeyBytes * 8
	if mode == "xts" {
		bits /= 2
	}
	return fmt.Sprintf("%s-%d", s.Cipher, bits), mode, iv, ivHash
}

// KeyOptions says how a key slot is made. The zero value is ready to use.
type KeyOptions struct {
	// IterTime is how long unlocking with the passphrase shall take on this
	// machine; 0 is two seconds.
	IterTime time.Duration

	// Iterations, if not 0, is how many iterations unlocking takes, instead of
	// measuring. It is for tests: few make guessing a passphrase cheap.
	Iterations uint32

	// Rand is where keys and salts come from; nil is crypto/rand.Reader.
	Rand io.Reader
}

func (o *KeyOptions) luks() *luks.Options {
	if o == nil {
		return nil
	}
	return &luks.Options{IterTime: o.IterTime, Iterations: o.Iterations, Rand: o.Rand}
}

// AddPassphrase makes a LUKS image open with another passphrase, which takes
// the given key slot, or the first that is free with [AnySlot]. An existing
// passphrase is needed to get at the key; a wrong one is [ErrPassphrase]. It
// returns the slot. What it wrote is durable when it returns; if it is
// interrupted, all other passphrases still open the image.
//
// It takes as long as unlocking with both passphrases, and stops when ctx
// ends.
func (im *Image) AddPassphrase(ctx context.Context, existing, added []byte, slot int, o *KeyOptions) (int, error) {
	im.keys.Lock()
	defer im.keys.Unlock()
	area, h, err := im.slots()
	if err != nil {
		return 0, err
	}
	if slot == AnySlot {
		for slot = 0; slot < KeySlots && h.Slot[slot].Active; {
			slot++
		}
		if slot == KeySlots {
			return 0, fmt.Errorf("qcow2: all %d key slots are in use", KeySlots)
		}
	}
	key, _, err := h.Unlock(ctx, area, existing, im.opts.MaxKeyIterations)
	if err != nil {
		return 0, area.wrap(err)
	}
	defer clear(key)
	return slot, area.wrap(h.AddKey(ctx, area, slot, key, added, o.luks()))
}

// ErrLastPassphrase means that erasing a key slot would leave none, so that
// the image could never be opened again.
var ErrLastPassphrase = errors.New("qcow2: the last passphrase of the image")

// RemovePassphrase erases all key slots of a LUKS image that open with the
// passphrase, and returns how many. It refuses with [ErrLastPassphrase] to
// erase all there are.
func (im *Image) RemovePassphrase(ctx context.Context, passphrase []byte) (int, error) {
	im.keys.Lock()
	defer im.keys.Unlock()
	area, h, err := im.slots()
	if err != nil {
		return 0, err
	}
	var found []int
	rest := *h
	for {
		key, slot, err := rest.Unlock(ctx, area, passphrase, im.opts.MaxKeyIterations)
		clear(key)
		if errors.Is(err, luks.ErrPassphrase) {
			break
		}
		if err != nil {
			return 0, area.wrap(err)
		}
		found = append(found, slot)
		rest.Slot[slot].Active = false
	}
	switch {
	case len(found) == 0:
		return 0, ErrPassphrase
	case rest.ActiveSlots() == 0:
		return 0, ErrLastPassphrase
	}
	for i, slot := range found {
		if err := h.EraseKey(area, slot, nil); err != nil {
			return i, area.wrap(err)
		}
	}
	return len(found), nil
}

// EraseSlot erases a key slot of a LUKS image, whatever its passphrase. It
// refuses with [ErrLastPassphrase] to erase the only one in use, unless force
// is set: the image can never be opened again then, except by who has it open
// now.
func (im *Image) EraseSlot(slot int, force bool) error {
	im.keys.Lock()
	defer im.keys.Unlock()
	area, h, err := im.slots()
	if err != nil {
		return err
	}
	if slot < 0 || slot >= KeySlots || !h.Slot[slot].Active {
		return fmt.Errorf("qcow2: key slot %d is not in use", slot)
	}
	if h.ActiveSlots() == 1 && !force {
		return ErrLastPassphrase
	}
	return area.wrap(h.EraseKey(area, slot, nil))
}

// slots returns the LUKS header of the image, to be changed. The lock of the
// keys is held.
func (im *Image) slots() (*luksArea, *luks.Header, error) {
	method := im.Header().CryptMethod
	switch {
	case im.closed.Load():
		return nil, nil, ErrClosed
	case method != CryptLUKS:
		return nil, nil, unsupportedf("key slots with encryption %v", method)
	case im.w == nil:
		return nil, nil, ErrReadOnly
	}
	return im.luks()
}
