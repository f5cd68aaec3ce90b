package qcow2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/cursor"
)

// Types of header extensions, section "Header extensions".
const (
	ExtensionBackingFormat = 0xe2792aca // a string of at most 15 bytes
	ExtensionFeatureNames  = 0x6803f857 // entries of 48 bytes, see FeatureName
	ExtensionBitmaps       = 0x23852875 // see BitmapsExtension
	ExtensionCryptoHeader  = 0x0537be77 // see CryptoHeader
	ExtensionDataFile      = 0x44415441 // a string

	extensionEnd        = 0
	extensionHeaderSize = 8
	featureNameSize     = 48
	bitmapsExtSize      = 24
	cryptoHeaderSize    = 16
)

// An Extension is a header extension as it stands in the file.
type Extension struct {
	Type uint32
	Data []byte // without padding
}

func (x Extension) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, x.Type)
	b = binary.BigEndian.AppendUint32(b, uint32(len(x.Data)))
	b = append(b, x.Data...)
	return append(b, make([]byte, align.Up(len(x.Data), 8)-len(x.Data))...)
}

// decodeExtensions decodes the header extensions, which end with one of type
// 0, at the name of the backing file or at the end of the cluster.
func (h *Header) decodeExtensions(b []byte) error {
	end := h.ClusterSize()
	if h.BackingFileOffset != 0 {
		end = h.BackingFileOffset
	}
	off := int64(h.HeaderLength)
	for off < end {
		if int64(len(b)) < min(end, off+extensionHeaderSize) {
			return truncated("header extension", off)
		}
		c := cursor.New(binary.BigEndian, "header extension", off, b[off:min(end, int64(len(b)))])
		x := Extension{Type: c.Uint32()}
		n := int64(c.Uint32())
		switch {
		case c.Err() != nil || n > end-c.Offset():
			return badf(off, "header extension", "type %#x with %d bytes of data: %w of the header", x.Type, n, ErrLimit)
		case x.Type == extensionEnd:
			return nil
		case n > int64(c.Len()):
			return truncated("header extension", off)
		}
		x.Data = bytes.Clone(c.Bytes(int(n)))
		if err := h.checkExtension(x, off); err != nil {
			return err
		}
		h.Extensions = append(h.Extensions, x)
		off = c.Offset() + align.Up(n, 8) - n
	}
	return nil
}

// checkExtension holds an extension that starts at off against the rules for
// its type.
func (h *Header) checkExtension(x Extension, off int64) error {
	n := len(x.Data)
	switch x.Type {
	case ExtensionBackingFormat:
		if n > maxFormatName {
			return badf(off, "backing file format", "%d bytes: %w of %d", n, ErrLimit, maxFormatName)
		}
	case ExtensionCryptoHeader:
		return h.checkCryptoHeader(x, off)
	case ExtensionBitmaps:
		if h.AutoclearFeatures&AutoclearBitmaps == 0 {
			return nil // not consistent, and not looked at
		}
		return h.checkBitmaps(x, off)
	}
	return nil
}

func (h *Header) checkCryptoHeader(x Extension, off int64) error {
	const field = "encryption header pointer"
	if h.CryptMethod != CryptLUKS {
		return badf(off, field, "the encryption method is %v", h.CryptMethod)
	}
	if len(x.Data) != cryptoHeaderSize {
		return badf(off, field, "%d bytes instead of %d", len(x.Data), cryptoHeaderSize)
	}
	p := decodeCryptoHeader(x.Data)
	if p.Offset < 0 || p.Length < 0 || p.Offset+p.Length < 0 {
		return badf(off, field, "offset %#x and length %#x: %w of 2^63-1", uint64(p.Offset), uint64(p.Length), ErrLimit)
	}
	if !align.IsAligned(p.Offset, h.ClusterSize()) {
		return badf(off, field, "offset %#x is not aligned to the cluster size %d", p.Offset, h.ClusterSize())
	}
	return nil
}

func (h *Header) checkBitmaps(x Extension, off int64) error {
	const field = "bitmaps extension"
	if len(x.Data) != bitmapsExtSize {
		return badf(off, field, "%d bytes instead of %d", len(x.Data), bitmapsExtSize)
	}
	d := decodeBitmaps(x.Data)
	switch {
	case binary.BigEndian.Uint32(x.Data[4:]) != 0:
		return badf(off, field, "reserved field is not zero")
	case d.Count == 0:
		return badf(off, field, "no bitmaps")
	case d.Count > maxBitmaps:
		return badf(off, field, "%d bitmaps: %w of %d", d.Count, ErrLimit, maxBitmaps)
	case d.DirectorySize < 0 || d.DirectorySize > maxBitmapDirectory:
		return badf(off, field, "directory of %d bytes: %w of %d", uint64(d.DirectorySize), ErrLimit, maxBitmapDirectory)
	}
	if d.DirectoryOffset < 0 || d.DirectoryOffset+d.DirectorySize < 0 || !align.IsAligned(d.DirectoryOffset, h.ClusterSize()) {
		return badf(off, field, "directory offset %#x is not aligned to the cluster size %d", uint64(d.DirectoryOffset), h.ClusterSize())
	}
	return nil
}

// Extension returns the data of the extension of type t, and whether there is
// one. Where a file holds several, the last counts, as in QEMU.
func (h *Header) Extension(t uint32) (data []byte, ok bool) {
	for _, x := range slices.Backward(h.Extensions) {
		if x.Type == t {
			return x.Data, true
		}
	}
	return nil, false
}

// setExtension replaces the extension of type t by one with data, adds it at
// the place where QEMU writes it, or removes it if data is nil.
func (h *Header) setExtension(t uint32, data []byte) {
	kept := make([]Extension, 0, len(h.Extensions)+1)
	at := -1
	for _, x := range h.Extensions {
		if x.Type == t {
			if at < 0 {
				at = len(kept)
			}
			continue
		}
		kept = append(kept, x)
	}
	if at < 0 {
		for at = 0; at < len(kept) && extensionRank(kept[at].Type) <= extensionRank(t); {
			at++
		}
	}
	if data != nil {
		kept = slices.Insert(kept, at, Extension{t, data})
	}
	h.Extensions = kept
}

// extensionRank orders the types as QEMU writes them.
func extensionRank(t uint32) int {
	order := []uint32{ExtensionBackingFormat, ExtensionDataFile, ExtensionCryptoHeader, ExtensionFeatureNames, ExtensionBitmaps}
	if i := slices.Index(order, t); i >= 0 {
		return i
	}
	return len(order)
}

// BackingFormat returns the format of the backing file, such as "raw" or
// "qcow2", or "" if the image does not tell.
func (h *Header) BackingFormat() string {
	data, _ := h.Extension(ExtensionBackingFormat)
	return string(data)
}

// DataFile returns the name of the external data file, or "" if the image
// does not tell.
func (h *Header) DataFile() string {
	data, _ := h.Extension(ExtensionDataFile)
	return string(data)
}

// A CryptoHeader tells where the header of the encryption format lies,
// section "Full disk encryption header pointer".
type CryptoHeader struct {
	Offset, Length int64 // bytes
}

// CryptoHeader returns the pointer to the encryption header, and whether there
// is one.
func (h *Header) CryptoHeader() (CryptoHeader, bool) {
	data, ok := h.Extension(ExtensionCryptoHeader)
	if !ok || len(data) != cryptoHeaderSize {
		return CryptoHeader{}, false
	}
	return decodeCryptoHeader(data), true
}

func decodeCryptoHeader(b []byte) CryptoHeader {
	return CryptoHeader{int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))}
}

func (c CryptoHeader) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(c.Offset))
	return binary.BigEndian.AppendUint64(b, uint64(c.Length))
}

// A BitmapsExtension tells where the bitmap directory lies, section "Bitmaps
// extension".
type BitmapsExtension struct {
	Count           uint32
	DirectorySize   int64 // bytes
	DirectoryOffset int64
}

// Bitmaps returns the bitmaps extension, and whether there is one that counts:
// without the autoclear bit [AutoclearBitmaps] it is out of date.
func (h *Header) Bitmaps() (BitmapsExtension, bool) {
	data, ok := h.Extension(ExtensionBitmaps)
	if !ok || len(data) != bitmapsExtSize || h.AutoclearFeatures&AutoclearBitmaps == 0 {
		return BitmapsExtension{}, false
	}
	return decodeBitmaps(data), true
}

func decodeBitmaps(b []byte) BitmapsExtension {
	return BitmapsExtension{
		Count:           binary.BigEndian.Uint32(b),
		DirectorySize:   int64(binary.BigEndian.Uint64(b[8:])),
		DirectoryOffset: int64(binary.BigEndian.Uint64(b[16:])),
	}
}

// A FeatureType says in which bitmap of the header a feature bit lies.
type FeatureType uint8

// The feature bitmaps.
const (
	FeatureIncompatible FeatureType = 0
	FeatureCompatible   FeatureType = 1
	FeatureAutoclear    FeatureType = 2
)

// String returns the name of t: incompatible, compatible or autoclear.
func (t FeatureType) String() string {
	switch t {
	case FeatureIncompatible:
		return "incompatible"
	case FeatureCompatible:
		return "compatible"
	case FeatureAutoclear:
		return "autoclear"
	}
	return fmt.Sprintf("feature type %d", uint8(t))
}

// A FeatureName names a feature bit, for programs that do not know it.
type FeatureName struct {
	Type FeatureType
	Bit  uint8  // 0 to 63
	Name string // at most 46 bytes
}

// FeatureNames returns the feature name table, nil if there is none.
func (h *Header) FeatureNames() []FeatureName {
	data, _ := h.Extension(ExtensionFeatureNames)
	var names []FeatureName
	for ; len(data) >= featureNameSize; data = data[featureNameSize:] {
		name, _, _ := bytes.Cut(data[2:featureNameSize], []byte{0})
		names = append(names, FeatureName{FeatureType(data[0]), data[1], string(name)})
	}
	return names
}

// featureNames names the features of type t that are set in mask.
func (h *Header) featureNames(t FeatureType, mask uint64) []string {
	known := map[uint8]string{}
	for _, f := range h.FeatureNames() {
		if f.Type == t && f.Name != "" {
			known[f.Bit] = f.Name
		}
	}
	var names []string
	bitNumbers(mask, func(bit uint8) {
		name := known[bit]
		if name == "" {
			name = fmt.Sprintf("%v feature bit %d", t, bit)
		}
		names = append(names, name)
	})
	return names
}

// defaultFeatureNames is the table that QEMU 7.2 writes into new images.
func defaultFeatureNames() []FeatureName {
	return []FeatureName{
		{FeatureIncompatible, 0, "dirty bit"},
		{FeatureIncompatible, 1, "corrupt bit"},
		{FeatureIncompatible, 2, "external data file"},
		{FeatureIncompatible, 3, "compression type"},
		{FeatureIncompatible, 4, "extended L2 entries"},
		{FeatureCompatible, 0, "lazy refcounts"},
		{FeatureAutoclear, 0, "bitmaps"},
		{FeatureAutoclear, 1, "raw external data"},
	}
}

func appendFeatureNames(b []byte, names []FeatureName) []byte {
	for _, f := range names {
		var e [featureNameSize]byte
		e[0], e[1] = byte(f.Type), f.Bit
		copy(e[2:], f.Name)
		b = append(b, e[:]...)
	}
	return b
}
