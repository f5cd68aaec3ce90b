package libxlfmt

import "encoding/binary"

const (
	libxlIdent      = "LibxlFmt"
	libxlVersion    = 2
	libxlHeaderSize = 16

	optionBigEndian = 1 << 0
	optionLegacy    = 1 << 1
	optionsKnown    = optionBigEndian | optionLegacy
)

// A Header begins the libxl layer (Draft B, "Header"). It is big-endian
// whatever the byte order of the records.
//
//	0  8  ident "LibxlFmt"
//	8  4  version, 2
//	12 4  options: bit 0 big-endian records, bit 1 converted from a legacy stream
type Header struct {
	Version uint32
	Options uint32
}

// BigEndian reports whether the records are big-endian.
func (h Header) BigEndian() bool { return h.Options&optionBigEndian != 0 }

// Legacy reports whether the stream was converted from one of Xen 4.5 or
// older.
func (h Header) Legacy() bool { return h.Options&optionLegacy != 0 }

// AppendBinary appends the header as it stands in a stream.
func (h Header) AppendBinary(b []byte) ([]byte, error) {
	b = append(b, libxlIdent...)
	b = binary.BigEndian.AppendUint32(b, h.Version)
	return binary.BigEndian.AppendUint32(b, h.Options), nil
}

// UnmarshalBinary takes the header from its 16 bytes, by [Strict].
func (h *Header) UnmarshalBinary(b []byte) error {
	j := judge{}
	if len(b) != libxlHeaderSize {
		return j.found(CodeTruncated, 0, "libxl header", "%d bytes", len(b))
	}
	return h.decode(&j, 0, b)
}

// decode takes the header in b, which lies at off of the stream.
//
// Preconditions: len(b) == libxlHeaderSize.
func (h *Header) decode(j *judge, off int64, b []byte) error {
	const field = "libxl header"
	if string(b[:8]) != libxlIdent {
		return j.found(CodeIdent, off, field, "ident %q", b[:8])
	}
	h.Version = binary.BigEndian.Uint32(b[8:])
	h.Options = binary.BigEndian.Uint32(b[12:])
	if h.Version != libxlVersion {
		return j.found(CodeVersion, off+8, field, "version %d", h.Version)
	}
	if r := h.Options &^ optionsKnown; r != 0 {
		if err := j.found(CodeOptions, off+12, field, "reserved option bits %#x", r); err != nil {
			return err
		}
	}
	if h.BigEndian() {
		return j.found(CodeBigEndian, off+12, field, "big-endian stream")
	}
	return nil
}
