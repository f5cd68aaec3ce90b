package luks

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/cursor"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

const (
	// HeaderSize is the length in bytes of the fixed header, before the key
	// material.
	HeaderSize = 592

	// Slots is the number of key slots: passphrases that open a volume.
	Slots = 8

	magic       = "LUKS\xba\xbe"
	version     = 1
	nameSize    = 32
	digestSize  = 20
	saltSize    = 32
	uuidSize    = 40
	slotsOffset = 208
	slotSize    = 48
	slotActive  = 0x00ac71f3
	slotFree    = 0x0000dead

	// Stripes is how many pieces a key is split into: what every program
	// writes, and the only number that qemu and cryptsetup accept.
	Stripes = 4000

	// areaAlign is what key material is aligned to, in bytes from the start
	// of the header.
	areaAlign = 4096

	// maxKeyBytes bounds the volume key: two keys of 256 bits.
	maxKeyBytes = 64
)

// An Error is a header field that holds what it must not.
type Error struct {
	Offset int64 // from the start of the LUKS header
	Field  string
	Err    error
}

// Error describes the field.
func (e *Error) Error() string {
	return fmt.Sprintf("luks %s at %#x: %v", e.Field, e.Offset, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// A Header is a LUKS version 1 header: the algorithms, the digest that proves
// the volume key, and the key slots. LUKS specification section 2.1:
//
//	0    6   magic           104  4   payload offset, sectors
//	6    2   version         108  4   key bytes
//	8    32  cipher name     112  20  volume key digest
//	40   32  cipher mode     132  32  its salt
//	72   32  hash            164  4   its iterations
//	                         168  40  uuid
//	                         208  8 × 48  key slots
type Header struct {
	Spec
	PayloadOffset    int64 // bytes from the start of the header
	Digest           [digestSize]byte
	DigestSalt       [saltSize]byte
	DigestIterations uint32
	UUID             string
	Slot             [Slots]Slot
}

// A Slot holds the volume key encrypted under one passphrase:
//
//	0   4   0x00ac71f3 in use, 0x0000dead free
//	4   4   iterations
//	8   32  salt
//	40  4   key material offset, sectors
//	44  4   stripes
type Slot struct {
	Active     bool
	Iterations uint32
	Salt       [saltSize]byte
	Offset     int64 // of the key material, bytes from the start of the header
}

// Read decodes and validates the header at the start of r, of which size
// bytes belong to LUKS.
func Read(r io.ReaderAt, size int64) (*Header, error) {
	if size < HeaderSize {
		return nil, &Error{0, "header", io.ErrUnexpectedEOF}
	}
	b, err := safeio.ReadAt(r, 0, HeaderSize, HeaderSize)
	if err != nil {
		return nil, fmt.Errorf("luks header: %w", err)
	}
	h, err := decode(b)
	if err != nil {
		return nil, err
	}
	return h, h.validate(size)
}

// decode takes the fields of b apart. It does not judge how they fit
// together.
//
// Preconditions: len(b) == HeaderSize.
func decode(b []byte) (*Header, error) {
	c := cursor.New(binary.BigEndian, "luks header", 0, b)
	if string(c.Bytes(len(magic))) != magic {
		return nil, &Error{0, "magic", errors.New("not a LUKS header")}
	}
	if v := c.Uint16(); v != version {
		return nil, &Error{6, "version", fmt.Errorf("%d: %w", v, errors.ErrUnsupported)}
	}
	h := &Header{}
	h.Cipher = text(c.Bytes(nameSize))
	h.Mode = text(c.Bytes(nameSize))
	h.Hash = text(c.Bytes(nameSize))
	h.PayloadOffset = int64(c.Uint32()) * SectorSize
	keyBytes := c.Uint32()
	if keyBytes == 0 || keyBytes > maxKeyBytes {
		return nil, &Error{108, "key bytes", fmt.Errorf("%d is not within 1 to %d", keyBytes, maxKeyBytes)}
	}
	h.KeyBytes = int(keyBytes)
	copy(h.Digest[:], c.Bytes(digestSize))
	copy(h.DigestSalt[:], c.Bytes(saltSize))
	h.DigestIterations = c.Uint32()
	h.UUID = text(c.Bytes(uuidSize))
	for i := range h.Slot {
		if err := h.Slot[i].decode(c); err != nil {
			return nil, err
		}
	}
	return h, c.Err()
}

func (s *Slot) decode(c *cursor.Cursor) error {
	at := c.Offset()
	switch state := c.Uint32(); state {
	case slotActive:
		s.Active = true
	case slotFree:
		s.Active = false
	default:
		return &Error{at, "key slot state", fmt.Errorf("%#x means neither in use nor free", state)}
	}
	s.Iterations = c.Uint32()
	copy(s.Salt[:], c.Bytes(saltSize))
	s.Offset = int64(c.Uint32()) * SectorSize
	if n := c.Uint32(); n != Stripes {
		return &Error{at + 44, "key slot stripes", fmt.Errorf("%d instead of %d", n, Stripes)}
	}
	return nil
}

// text returns b up to its first zero byte.
func text(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// validate judges what decode took apart: the algorithms are known, the parts
// of the header lie behind one another, and nothing lies past size.
func (h *Header) validate(size int64) error {
	if _, err := newHash(h.Hash); err != nil {
		return &Error{72, "hash", err}
	}
	if _, err := NewCipher(h.Spec, make([]byte, h.KeyBytes)); err != nil {
		return &Error{8, "cipher", err}
	}
	if h.DigestIterations == 0 {
		return &Error{164, "digest iterations", errors.New("zero")}
	}
	if h.PayloadOffset < HeaderSize {
		return &Error{104, "payload offset", fmt.Errorf("%#x lies in the header", h.PayloadOffset)}
	}
	length := h.areaSize()
	for i, s := range h.Slot {
		at := int64(slotsOffset + i*slotSize)
		switch {
		case s.Active && s.Iterations == 0:
			return &Error{at + 4, "key slot iterations", errors.New("zero")}
		case s.Offset < HeaderSize:
			return &Error{at + 40, "key material offset", fmt.Errorf("%#x lies in the header", s.Offset)}
		case s.Offset+length > min(h.PayloadOffset, size):
			return &Error{at + 40, "key material offset", fmt.Errorf("%#x: does not end before %#x", s.Offset, min(h.PayloadOffset, size))}
		}
		for j, o := range h.Slot[:i] {
			if s.Offset < o.Offset+length && o.Offset < s.Offset+length {
				return &Error{at + 40, "key material offset", fmt.Errorf("%#x overlaps slot %d", s.Offset, j)}
			}
		}
	}
	return nil
}

// ActiveSlots returns how many slots are in use.
func (h *Header) ActiveSlots() (n int) {
	for i := range h.Slot {
		if h.Slot[i].Active {
			n++
		}
	}
	return n
}

// areaSize returns the length in bytes of one slot's key material on disk:
// the split key, padded to whole sectors.
func (h *Header) areaSize() int64 {
	return align.Up(int64(h.KeyBytes)*Stripes, SectorSize)
}

// layOut places the key material of all slots and the payload behind the
// header, as qemu does.
func (h *Header) layOut() {
	next := int64(areaAlign)
	for i := range h.Slot {
		h.Slot[i].Offset = next
		next += align.Up(h.areaSize(), areaAlign)
	}
	h.PayloadOffset = next
}

// Append appends the [HeaderSize] bytes of h to b.
func (h *Header) Append(b []byte) []byte {
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint16(b, version)
	b = appendText(b, h.Cipher, nameSize)
	b = appendText(b, h.Mode, nameSize)
	b = appendText(b, h.Hash, nameSize)
	b = binary.BigEndian.AppendUint32(b, uint32(h.PayloadOffset/SectorSize))
	b = binary.BigEndian.AppendUint32(b, uint32(h.KeyBytes))
	b = append(b, h.Digest[:]...)
	b = append(b, h.DigestSalt[:]...)
	b = binary.BigEndian.AppendUint32(b, h.DigestIterations)
	b = appendText(b, h.UUID, uuidSize)
	for i := range h.Slot {
		b = h.Slot[i].append(b)
	}
	return b
}

func (s *Slot) append(b []byte) []byte {
	state := uint32(slotFree)
	if s.Active {
		state = slotActive
	}
	b = binary.BigEndian.AppendUint32(b, state)
	b = binary.BigEndian.AppendUint32(b, s.Iterations)
	b = append(b, s.Salt[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(s.Offset/SectorSize))
	return binary.BigEndian.AppendUint32(b, Stripes)
}

// appendText appends s and zeros up to n bytes in all.
//
// Preconditions: len(s) <= n.
func appendText(b []byte, s string, n int) []byte {
	b = append(b, s...)
	return append(b, make([]byte, n-len(s))...)
}

// PayloadOffset returns how long the header of a new volume is, key material
// included.
func PayloadOffset(s Spec) int64 {
	h := Header{Spec: s}
	h.layOut()
	return h.PayloadOffset
}
