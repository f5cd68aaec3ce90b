package luks

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/virtfmt/virtfmt/internal/safeio"
)

// ErrPassphrase means that no key slot opens with the passphrase given.
var ErrPassphrase = errors.New("wrong passphrase")

// DefaultIterTime is how long, on the machine that makes it, the derivation
// of a key slot takes: what qemu and cryptsetup choose.
const DefaultIterTime = 2 * time.Second

// minIterations is the least that any derivation is made with, as in qemu.
const minIterations = 1000

// An Area is where a LUKS header and its key material live, offset 0 being
// the start of the header.
type Area interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Options says how [New] and [Header.AddKey] make keys. The zero value is
// ready to use.
type Options struct {
	// IterTime is how long the derivation of a key slot shall take on this
	// machine; 0 is [DefaultIterTime]. That of the volume key's digest takes
	// an eighth of it.
	IterTime time.Duration

	// Iterations, if not 0, is used as it is instead of measuring.
	Iterations uint32

	// Rand is where keys, salts and the UUID come from; nil is crypto/rand.
	Rand io.Reader
}

func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	if d.IterTime <= 0 {
		d.IterTime = DefaultIterTime
	}
	if d.Rand == nil {
		d.Rand = rand.Reader
	}
	return d
}

// iterations returns how many iterations derive n bytes.
func (o *Options) iterations(ctx context.Context, s Spec, n int, want time.Duration) (uint32, error) {
	if o.Iterations != 0 {
		return o.Iterations, nil
	}
	newHash, err := newHash(s.Hash)
	if err != nil {
		return 0, err
	}
	count, err := timedIterations(ctx, newHash, n, want)
	return max(count, minIterations), err
}

// New returns the header of a new volume and its random key, which the caller
// wipes. No slot is in use yet: [Header.AddKey] stores the key under a
// passphrase. The zero Spec is [DefaultSpec].
func New(ctx context.Context, s Spec, o *Options) (*Header, []byte, error) {
	if s == (Spec{}) {
		s = DefaultSpec
	}
	opts := o.withDefaults()
	if s.KeyBytes < 1 || s.KeyBytes > maxKeyBytes || max(len(s.Cipher), len(s.Mode), len(s.Hash)) >= nameSize {
		return nil, nil, unsupported("volume", fmt.Sprintf("%+v", s))
	}
	if _, err := NewCipher(s, make([]byte, s.KeyBytes)); err != nil {
		return nil, nil, err
	}
	var err error
	h := &Header{Spec: s}
	h.DigestIterations, err = opts.iterations(ctx, s, digestSize, opts.IterTime/8)
	if err != nil {
		return nil, nil, err
	}
	h.layOut()
	key, uuid := make([]byte, s.KeyBytes), make([]byte, 16)
	for _, p := range [][]byte{key, h.DigestSalt[:], uuid} {
		if _, err := io.ReadFull(opts.Rand, p); err != nil {
			return nil, nil, err
		}
	}
	h.UUID = uuidText(uuid)
	h.Digest, err = h.digest(ctx, key)
	if err != nil {
		clear(key)
		return nil, nil, err
	}
	return h, key, nil
}

// uuidText returns 16 random bytes in the form of a version 4 UUID.
func uuidText(b []byte) string {
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// digest returns what proves that key is the volume's.
func (h *Header) digest(ctx context.Context, key []byte) (d [digestSize]byte, err error) {
	newHash, err := newHash(h.Hash)
	if err != nil {
		return d, err
	}
	return d, pbkdf2(ctx, newHash, key, h.DigestSalt[:], h.DigestIterations, d[:])
}

// Unlock tries the passphrase on every slot in use and returns the volume
// key, which the caller wipes, and its slot. [ErrPassphrase] means that none
// opens. A header that asks for more than limit iterations in one derivation
// is refused; 0 is [DefaultMaxIterations].
//
// It takes as long as the maker of each slot chose, seconds usually, and
// stops when ctx ends.
func (h *Header) Unlock(ctx context.Context, r io.ReaderAt, passphrase []byte, limit uint32) ([]byte, int, error) {
	if limit == 0 {
		limit = DefaultMaxIterations
	}
	if h.DigestIterations > limit {
		return nil, 0, &Error{164, "digest iterations", fmt.Errorf("%d: %w of %d", h.DigestIterations, safeio.ErrLimit, limit)}
	}
	for i := range h.Slot {
		if !h.Slot[i].Active {
			continue
		}
		if n := h.Slot[i].Iterations; n > limit {
			return nil, 0, &Error{int64(slotsOffset + i*slotSize + 4), "key slot iterations", fmt.Errorf("%d: %w of %d", n, safeio.ErrLimit, limit)}
		}
		key, err := h.try(ctx, r, i, passphrase)
		if err != nil {
			return nil, 0, err
		}
		if key != nil {
			return key, i, nil
		}
	}
	return nil, 0, ErrPassphrase
}

// try returns the volume key if the passphrase is that of the slot, nil
// otherwise.
func (h *Header) try(ctx context.Context, r io.ReaderAt, slot int, passphrase []byte) ([]byte, error) {
	c, err := h.slotCipher(ctx, slot, passphrase)
	if err != nil {
		return nil, err
	}
	material := make([]byte, h.areaSize())
	defer clear(material)
	if err := safeio.ReadFull(r, material, h.Slot[slot].Offset); err != nil {
		return nil, fmt.Errorf("luks key slot %d: %w", slot, err)
	}
	c.Decrypt(material, material, 0)
	newHash, err := newHash(h.Hash)
	if err != nil {
		return nil, err
	}
	key := afMerge(newHash(), material[:h.KeyBytes*Stripes], h.KeyBytes)
	got, err := h.digest(ctx, key)
	if err != nil || subtle.ConstantTimeCompare(got[:], h.Digest[:]) == 0 {
		clear(key)
		return nil, err
	}
	return key, nil
}

// slotCipher returns the cipher of a slot's key material.
func (h *Header) slotCipher(ctx context.Context, slot int, passphrase []byte) (*Cipher, error) {
	newHash, err := newHash(h.Hash)
	if err != nil {
		return nil, err
	}
	key := make([]byte, h.KeyBytes)
	defer clear(key)
	s := &h.Slot[slot]
	if err := pbkdf2(ctx, newHash, passphrase, s.Salt[:], s.Iterations, key); err != nil {
		return nil, err
	}
	return NewCipher(h.Spec, key)
}

// AddKey stores the volume key in a free slot under a passphrase. The key
// material is durable before the header names it. On an error h is as before.
func (h *Header) AddKey(ctx context.Context, a Area, slot int, key, passphrase []byte, o *Options) error {
	if slot < 0 || slot >= Slots || h.Slot[slot].Active || len(key) != h.KeyBytes {
		return fmt.Errorf("luks key slot %d: not a free slot for this key", slot)
	}
	opts := o.withDefaults()
	was := h.Slot[slot]
	err := h.addKey(ctx, a, slot, key, passphrase, &opts)
	if err != nil {
		h.Slot[slot] = was
	}
	return err
}

func (h *Header) addKey(ctx context.Context, a Area, slot int, key, passphrase []byte, o *Options) error {
	var err error
	s := &h.Slot[slot]
	if s.Iterations, err = o.iterations(ctx, h.Spec, h.KeyBytes, o.IterTime); err != nil {
		return err
	}
	if _, err := io.ReadFull(o.Rand, s.Salt[:]); err != nil {
		return err
	}
	c, err := h.slotCipher(ctx, slot, passphrase)
	if err != nil {
		return err
	}
	newHash, err := newHash(h.Hash)
	if err != nil {
		return err
	}
	split, err := afSplit(newHash(), o.Rand, key, Stripes)
	if err != nil {
		return err
	}
	defer clear(split)
	material := make([]byte, h.areaSize())
	copy(material, split)
	c.Encrypt(material, material, 0)
	if _, err := a.WriteAt(material, s.Offset); err != nil {
		return err
	}
	if err := a.Sync(); err != nil {
		return err
	}
	s.Active = true
	return h.store(a)
}

// EraseKey overwrites the key material of a slot with random bytes and frees
// the slot. Whether a medium forgets what is overwritten is up to it; the
// splitting makes that likely. The caller decides whether the last slot may
// go: without one, nothing ever opens the volume again.
func (h *Header) EraseKey(a Area, slot int, o *Options) error {
	if slot < 0 || slot >= Slots || !h.Slot[slot].Active {
		return fmt.Errorf("luks key slot %d: not in use", slot)
	}
	opts := o.withDefaults()
	noise := make([]byte, h.areaSize())
	if _, err := io.ReadFull(opts.Rand, noise); err != nil {
		return err
	}
	s := &h.Slot[slot]
	if _, err := a.WriteAt(noise, s.Offset); err != nil {
		return err
	}
	if err := a.Sync(); err != nil {
		return err
	}
	*s = Slot{Offset: s.Offset}
	return h.store(a)
}

// store writes the fixed header.
func (h *Header) store(a Area) error {
	if _, err := a.WriteAt(h.Append(make([]byte, 0, HeaderSize)), 0); err != nil {
		return err
	}
	return a.Sync()
}
