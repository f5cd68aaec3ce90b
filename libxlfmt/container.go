package libxlfmt

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// A ContainerKind is what stands around or before the stream of libxl.
type ContainerKind uint8

const (
	// ContainerNone is the stream of libxl by itself, as libxl writes it.
	ContainerNone ContainerKind = iota
	// ContainerLibxc is a stream of libxc by itself, without a libxl layer.
	ContainerLibxc
	// ContainerXL is a file of xl save, and what xl migrate sends.
	ContainerXL
	// ContainerLibvirt is a file of virsh save.
	ContainerLibvirt
	// ContainerXenopsd is an image of xenopsd (XAPI): sections, one of them a
	// stream of libxc.
	ContainerXenopsd
)

var containerNames = [...]string{"libxl", "libxc", "xl", "libvirt", "xenopsd"}

// String returns libxl, libxc, xl, libvirt or xenopsd.
func (k ContainerKind) String() string {
	if int(k) < len(containerNames) {
		return containerNames[k]
	}
	return fmt.Sprintf("container(%d)", uint8(k))
}

// ParseContainerKind returns the kind of that name, as String gives it.
func ParseContainerKind(name string) (ContainerKind, error) {
	for i, n := range containerNames {
		if n == name {
			return ContainerKind(i), nil
		}
	}
	return 0, fmt.Errorf("libxlfmt: no container %q: libxl, libxc, xl, libvirt or xenopsd", name)
}

// A Container is what stands before the stream.
type Container struct {
	Kind    ContainerKind
	XL      XLHeader      // of ContainerXL
	Libvirt LibvirtHeader // of ContainerLibvirt
}

const (
	xlMagic         = "Xen saved domain, xl format\n \x00 \r"
	xlByteOrder     = 0x01020304
	xlFixedSize     = len(xlMagic) + 16
	libvirtMagic    = "libvirt-xml\n \x00 \r"
	libvirtVersion  = 2
	libvirtSize     = 64
	xenopsdMagic    = "XenSavedDomv2-\n"
	probeSize       = 8 // enough of each magic to tell them apart
	xlFlagJSON      = 1 << 0
	xlFlagStreamV2  = 1 << 1
	xlFlagsKnown    = xlFlagJSON | xlFlagStreamV2
	xlConfigLenSize = 4
	maxConfig       = 1<<32 - 1
)

// An XLHeader begins a file of xl save.
//
//	32 bytes magic | u32 0x01020304 | u32 mandatory flags | u32 optional flags | u32 length | data
//
// The fields have the byte order of the machine that wrote them, and xl reads
// its own only; here that is little-endian, as on every machine that Xen runs
// on. The data, if there are any, begin with u32 length and the configuration
// of the domain.
type XLHeader struct {
	Mandatory uint32 // bit 0: the configuration is JSON, bit 1: the stream is not a legacy one
	Optional  uint32 // none known
	Data      []byte // what follows the fields
}

// NewXLHeader returns a header with a configuration, JSON or
// xl's text. A nil configuration leaves it out: xl restore has to be given one.
func NewXLHeader(config []byte, json bool) XLHeader {
	h := XLHeader{Mandatory: xlFlagStreamV2}
	if json {
		h.Mandatory |= xlFlagJSON
	}
	if config != nil {
		h.Data = binary.LittleEndian.AppendUint32(nil, uint32(len(config)+1))
		h.Data = append(append(h.Data, config...), 0)
	}
	return h
}

// JSON reports whether the configuration is JSON, as xl since 4.5 writes it.
func (h XLHeader) JSON() bool { return h.Mandatory&xlFlagJSON != 0 }

// Config returns the configuration of the domain without the NUL behind it,
// nil if there is none.
func (h XLHeader) Config() []byte {
	if len(h.Data) < xlConfigLenSize {
		return nil
	}
	n := binary.LittleEndian.Uint32(h.Data)
	c := h.Data[xlConfigLenSize:]
	if int64(n) > int64(len(c)) {
		return nil
	}
	return bytes.TrimSuffix(c[:n], []byte{0})
}

func (h XLHeader) append(b []byte) []byte {
	b = append(b, xlMagic...)
	for _, v := range [...]uint32{xlByteOrder, h.Mandatory, h.Optional, uint32(len(h.Data))} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return append(b, h.Data...)
}

// decodeFixed takes the fixed part of the header and returns the length of
// the data.
//
// Preconditions: len(b) == xlFixedSize, the magic is right.
func (h *XLHeader) decodeFixed(j *judge, b []byte, limit int64) (int64, error) {
	const field = "xl header"
	off := int64(len(xlMagic))
	b = b[len(xlMagic):]
	o := binary.LittleEndian
	if o.Uint32(b) != xlByteOrder {
		return 0, j.found(CodeXLByteOrder, off, field, "byte order field % x", b[:4])
	}
	h.Mandatory, h.Optional = o.Uint32(b[4:]), o.Uint32(b[8:])
	n := int64(o.Uint32(b[12:]))
	if r := h.Mandatory &^ xlFlagsKnown; r != 0 {
		return 0, j.found(CodeXLFlags, off+4, field, "unknown mandatory flags %#x", r)
	}
	if h.Optional != 0 {
		if err := j.found(CodeXLOptionalFlags, off+8, field, "unknown optional flags %#x", h.Optional); err != nil {
			return 0, err
		}
	}
	if n > limit {
		return 0, j.found(CodeXLConfig, off+12, field, "%d bytes of data, at most %d", n, limit)
	}
	return n, nil
}

// check judges the data.
func (h *XLHeader) check(j *judge) error {
	const field = "xl header"
	off := int64(xlFixedSize)
	if n := len(h.Data); n > 0 {
		if n < xlConfigLenSize {
			return j.found(CodeXLConfig, off, field, "%d bytes of data", n)
		}
		config := binary.LittleEndian.Uint32(h.Data)
		if int64(config) > int64(n-xlConfigLenSize) {
			return j.found(CodeXLConfig, off, field, "configuration of %d bytes in %d", config, n-xlConfigLenSize)
		}
	}
	if h.Mandatory&xlFlagStreamV2 == 0 {
		return j.found(CodeLegacy, off+int64(len(h.Data)), field, "stream of Xen 4.5 or older")
	}
	return nil
}

// A LibvirtHeader begins a file of virsh save.
//
//	16 bytes magic | u32 version, 2 | u32 length | 40 zero bytes | XML
//
// The fields have the byte order of the machine that wrote them; here that is
// little-endian.
type LibvirtHeader struct {
	XML []byte // of the domain, with a NUL behind it
}

func (h LibvirtHeader) append(b []byte) []byte {
	o := binary.LittleEndian
	b = append(b, libvirtMagic...)
	b = o.AppendUint32(o.AppendUint32(b, libvirtVersion), uint32(len(h.XML)))
	b = append(b, make([]byte, libvirtSize-len(libvirtMagic)-8)...)
	return append(b, h.XML...)
}

// decodeFixed takes the fixed part of the header and returns the length of
// the XML.
//
// Preconditions: len(b) == libvirtSize, the magic is right.
func (h *LibvirtHeader) decodeFixed(j *judge, b []byte, limit int64) (int64, error) {
	const field = "libvirt header"
	off := int64(len(libvirtMagic))
	b = b[len(libvirtMagic):]
	o := binary.LittleEndian
	switch v := o.Uint32(b); v {
	case libvirtVersion:
	case 1:
		return 0, j.found(CodeLegacy, off, field, "stream of Xen 4.5 or older")
	default:
		return 0, j.found(CodeLibvirtHeader, off, field, "version %d", v)
	}
	n := int64(o.Uint32(b[4:]))
	if n > limit {
		return 0, j.found(CodeLibvirtHeader, off+4, field, "%d bytes of XML, at most %d", n, limit)
	}
	if r := b[8:]; !isZero(r) {
		return n, j.found(CodeLibvirtReserved, off+8, field, "reserved bytes that are not zero")
	}
	return n, nil
}

// append appends the container's header.
func (c Container) append(b []byte) []byte {
	switch c.Kind {
	case ContainerXL:
		return c.XL.append(b)
	case ContainerLibvirt:
		return c.Libvirt.append(b)
	case ContainerXenopsd:
		return append(b, xenopsdMagic...)
	}
	return b
}

// check judges a container that is to be written.
func (c Container) check(j *judge) error {
	switch c.Kind {
	case ContainerXL:
		b := c.XL.append(nil)
		var h XLHeader
		if _, err := h.decodeFixed(j, b[:xlFixedSize], maxConfig); err != nil {
			return err
		}
		return c.XL.check(j)
	case ContainerLibvirt:
		b := c.Libvirt.append(nil)
		var h LibvirtHeader
		_, err := h.decodeFixed(j, b[:libvirtSize], maxConfig)
		return err
	}
	return nil
}

// probe tells the kind of a stream by its first probeSize bytes.
func probe(b []byte) (ContainerKind, bool) {
	for k, magic := range [...]string{
		ContainerNone:    libxlIdent,
		ContainerLibxc:   "\xff\xff\xff\xff\xff\xff\xff\xff",
		ContainerXL:      xlMagic,
		ContainerLibvirt: libvirtMagic,
		ContainerXenopsd: xenopsdMagic,
	} {
		if string(b) == magic[:probeSize] {
			return ContainerKind(k), true
		}
	}
	return 0, false
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
