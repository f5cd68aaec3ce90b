package libxlfmt

import (
	"encoding/binary"
	"fmt"
)

const (
	imageHeaderSize  = 24
	domainHeaderSize = 16
	libxcHeaderSize  = imageHeaderSize + domainHeaderSize
	libxcMarker      = 1<<64 - 1
	libxcIdent       = "XENF"

	pageShift = 12
	pageSize  = 1 << pageShift

	// maxLibxcRecord is the longest body that libxc takes (since Xen 4.9).
	maxLibxcRecord = 128 << 20
)

// A DomainType is the kind of a domain in the stream of libxc.
type DomainType uint32

const (
	// PV domains know that they run on Xen.
	PV DomainType = 1
	// HVM domains run on virtual hardware; PVH domains count among them.
	HVM DomainType = 2
)

// String returns pv or hvm.
func (t DomainType) String() string {
	switch t {
	case PV:
		return "pv"
	case HVM:
		return "hvm"
	}
	return fmt.Sprintf("domain type %d", uint32(t))
}

// A LibxcHeader begins the stream of libxc: its image header, big-endian, and
// its domain header, in the byte order of the records.
//
//	image header              domain header
//	0  8  marker, all ones    0  4  type: 1 PV, 2 HVM
//	8  4  ident "XENF"        4  2  page shift, 12
//	12 4  version, 2 or 3     6  2  zero
//	16 2  options, bit 0 BE   8  4  major version of Xen, 0 if converted
//	18 6  zero                12 4  minor version
type LibxcHeader struct {
	Version  uint32 // 2, or 3 since Xen 4.14; 0 in a [Writer] stands for 3
	Options  uint16
	Type     DomainType
	XenMajor uint32 // 0 if the stream was converted
	XenMinor uint32
}

// BigEndian reports whether the records of libxc are big-endian. They need not
// have the byte order of the libxl layer.
func (h LibxcHeader) BigEndian() bool { return h.Options&optionBigEndian != 0 }

// AppendBinary appends both headers as they stand in a stream.
func (h LibxcHeader) AppendBinary(b []byte) ([]byte, error) {
	be := binary.BigEndian
	b = be.AppendUint64(b, libxcMarker)
	b = append(b, libxcIdent...)
	b = be.AppendUint32(b, h.Version)
	b = be.AppendUint16(b, h.Options)
	b = append(b, make([]byte, 6)...)
	o := appendOrder(h.BigEndian())
	b = o.AppendUint32(b, uint32(h.Type))
	b = o.AppendUint16(b, pageShift)
	b = o.AppendUint16(b, 0)
	b = o.AppendUint32(b, h.XenMajor)
	return o.AppendUint32(b, h.XenMinor), nil
}

// UnmarshalBinary takes both headers from their 40 bytes, by [Strict].
func (h *LibxcHeader) UnmarshalBinary(b []byte) error {
	j := judge{}
	if len(b) != libxcHeaderSize {
		return j.found(CodeTruncated, 0, "libxc headers", "%d bytes", len(b))
	}
	return h.decode(&j, 0, b)
}

// decode takes both headers from b, which lies at off of the stream.
//
// Preconditions: len(b) == libxcHeaderSize.
func (h *LibxcHeader) decode(j *judge, off int64, b []byte) error {
	if err := h.decodeImage(j, off, b[:imageHeaderSize]); err != nil {
		return err
	}
	return h.decodeDomain(j, off+imageHeaderSize, b[imageHeaderSize:])
}

func (h *LibxcHeader) decodeImage(j *judge, off int64, b []byte) error {
	const field = "libxc image header"
	be := binary.BigEndian
	if m := be.Uint64(b); m != libxcMarker {
		return j.found(CodeMarker, off, field, "marker %#x", m)
	}
	if id := b[8:12]; string(id) != libxcIdent {
		return j.found(CodeLibxcIdent, off+8, field, "ident %q", id)
	}
	h.Version, h.Options = be.Uint32(b[12:]), be.Uint16(b[16:])
	if h.Version != 2 && h.Version != 3 {
		return j.found(CodeLibxcVer, off+12, field, "version %d", h.Version)
	}
	if h.BigEndian() {
		if err := j.found(CodeBigEndian, off+16, field, "big-endian stream"); err != nil {
			return err
		}
	}
	if r := h.Options &^ optionBigEndian; r != 0 {
		if err := j.found(CodeLibxcFields, off+16, field, "reserved option bits %#x", r); err != nil {
			return err
		}
	}
	if be.Uint16(b[18:]) != 0 || be.Uint32(b[20:]) != 0 {
		return j.found(CodeLibxcFields, off+18, field, "reserved bytes % x", b[18:24])
	}
	return nil
}

func (h *LibxcHeader) decodeDomain(j *judge, off int64, b []byte) error {
	const field = "libxc domain header"
	o := byteOrder(h.BigEndian())
	h.Type = DomainType(o.Uint32(b))
	h.XenMajor, h.XenMinor = o.Uint32(b[8:]), o.Uint32(b[12:])
	if h.Type != PV && h.Type != HVM {
		return j.found(CodeDomainType, off, field, "domain type %d", uint32(h.Type))
	}
	if s := o.Uint16(b[4:]); s != pageShift {
		return j.found(CodePageShift, off+4, field, "pages of 2^%d bytes", s)
	}
	if r := o.Uint16(b[6:]); r != 0 {
		return j.found(CodeLibxcFields, off+6, field, "reserved field %#x", r)
	}
	return nil
}
