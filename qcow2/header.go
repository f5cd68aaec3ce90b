package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
)

// Sizes of the header, in bytes.
const (
	headerSizeV2  = 72
	headerSizeMin = 104 // of version 3: up to header_length
	headerSizeV3  = 112 // of new images: compression_type and its padding
)

var magic = [4]byte{'Q', 'F', 'I', 0xfb}

// Incompatible features: an image that uses one which this package does not
// know is refused.
const (
	IncompatDirty           = 1 << 0 // refcounts may be wrong, see CompatLazyRefcounts
	IncompatCorrupt         = 1 << 1 // must not be written to, except to repair it
	IncompatExternalData    = 1 << 2 // guest clusters lie in another file
	IncompatCompressionType = 1 << 3 // CompressionType is not zero
	IncompatExtendedL2      = 1 << 4 // extended L2 entries, with subclusters

	incompatKnown = 1<<5 - 1
)

// Compatible features: unknown ones are left alone.
const (
	CompatLazyRefcounts = 1 << 0 // refcounts may be postponed while IncompatDirty is set
)

// Autoclear features: unknown ones are cleared when an image is opened for
// writing.
const (
	AutoclearBitmaps     = 1 << 0 // the bitmaps extension is consistent
	AutoclearRawExternal = 1 << 1 // the external data file is a raw image of the disk

	autoclearKnown = 1<<2 - 1
)

// A CryptMethod says how guest data is encrypted.
type CryptMethod uint32

// The encryption methods of the specification.
const (
	CryptNone CryptMethod = 0
	CryptAES  CryptMethod = 1 // AES-CBC, obsolete and weak
	CryptLUKS CryptMethod = 2
)

// String returns the name of m: none, aes or luks.
func (m CryptMethod) String() string {
	switch m {
	case CryptNone:
		return "none"
	case CryptAES:
		return "aes"
	case CryptLUKS:
		return "luks"
	}
	return fmt.Sprintf("crypt method %d", uint32(m))
}

// A CompressionType says how compressed clusters are compressed, all of an
// image in the same way.
type CompressionType uint8

// The compression types of the specification.
const (
	CompressionDeflate CompressionType = 0 // called zlib by the tools
	CompressionZstd    CompressionType = 1
)

// String returns the name of c: zlib or zstd.
func (c CompressionType) String() string {
	switch c {
	case CompressionDeflate:
		return "zlib"
	case CompressionZstd:
		return "zstd"
	}
	return fmt.Sprintf("compression type %d", uint8(c))
}

// Header is the header of an image, with the header extensions and the name
// of the backing file that follow it. Offsets are bytes in the image file.
//
//	byte   0- 3  magic
//	       4- 7  Version
//	       8-15  BackingFileOffset
//	      16-19  length of BackingFile
//	      20-23  ClusterBits
//	      24-31  Size
//	      32-35  CryptMethod
//	      36-39  L1Size
//	      40-47  L1TableOffset
//	      48-55  RefcountTableOffset
//	      56-59  RefcountTableClusters
//	      60-63  SnapshotCount
//	      64-71  SnapshotsOffset
//	      72-79  IncompatibleFeatures  (from here on version 3)
//	      80-87  CompatibleFeatures
//	      88-95  AutoclearFeatures
//	      96-99  RefcountOrder
//	     100-103 HeaderLength
//	     104     CompressionType       (where HeaderLength is larger)
//	     105-    Extra
type Header struct {
	Version               uint32
	BackingFileOffset     int64  // 0 without a backing file
	ClusterBits           uint32 // 9 to 21: the cluster size is 1<<ClusterBits
	Size                  int64  // of the disk, in bytes
	CryptMethod           CryptMethod
	L1Size                uint32 // entries
	L1TableOffset         int64
	RefcountTableOffset   int64
	RefcountTableClusters uint32
	SnapshotCount         uint32
	SnapshotsOffset       int64

	// In a version 2 image these are 0, 0, 0, 4, 72 and 0.
	IncompatibleFeatures uint64
	CompatibleFeatures   uint64
	AutoclearFeatures    uint64
	RefcountOrder        uint32 // a refcount has 1<<RefcountOrder bits
	HeaderLength         uint32 // bytes
	CompressionType      CompressionType

	// Extra is what the header holds after CompressionType: padding, and fields
	// that this package does not know. It is kept.
	Extra []byte

	// Extensions are the header extensions in the order of the file, without
	// the one that ends them.
	Extensions []Extension

	// BackingFile is the name of the backing file as it is stored.
	BackingFile string
}

// ClusterSize returns the cluster size in bytes.
func (h *Header) ClusterSize() int64 { return 1 << h.ClusterBits }

// RefcountBits returns the width of a refcount.
func (h *Header) RefcountBits() int { return 1 << h.RefcountOrder }

// clone returns a deep copy.
func (h *Header) clone() *Header {
	c := *h
	c.Extra = append([]byte(nil), h.Extra...)
	c.Extensions = make([]Extension, len(h.Extensions))
	for i, x := range h.Extensions {
		c.Extensions[i] = Extension{x.Type, append([]byte(nil), x.Data...)}
	}
	return &c
}

// UnmarshalBinary decodes the header from the first cluster of an image, or
// as much of it as holds the header, its extensions and the name of the
// backing file. It is an error that is [ErrFormat] if b is no image, a
// [*FormatError] if a field is out of its range, an [*UnsupportedError] if
// the image uses unknown incompatible features. Nothing is kept of b.
func (h *Header) UnmarshalBinary(b []byte) error {
	var d Header
	if err := d.decodeFixed(b); err != nil {
		return err
	}
	if err := d.checkFixed(); err != nil {
		return err
	}
	extErr := d.decodeExtensions(b)
	if unknown := d.IncompatibleFeatures &^ incompatKnown; unknown != 0 {
		return &UnsupportedError{d.featureNames(FeatureIncompatible, unknown)}
	}
	if extErr != nil {
		return extErr
	}
	if err := d.check(); err != nil {
		return err
	}
	if err := d.decodeBackingFile(b); err != nil {
		return err
	}
	*h = d
	return nil
}

// decodeFixed decodes the fields at fixed places.
func (h *Header) decodeFixed(b []byte) error {
	if len(b) < 4 || [4]byte(b) != magic {
		return ErrFormat
	}
	if len(b) < 8 {
		return truncated("version", 4)
	}
	h.Version = binary.BigEndian.Uint32(b[4:])
	switch {
	case h.Version < 2:
		return badf(4, "version", "version %d is not qcow2", h.Version)
	case h.Version > 3:
		return unsupportedf("version %d", h.Version)
	case len(b) < headerSizeV2:
		return truncated("header", int64(len(b)))
	}
	be := binary.BigEndian
	h.ClusterBits = be.Uint32(b[20:])
	h.CryptMethod = CryptMethod(be.Uint32(b[32:]))
	h.L1Size = be.Uint32(b[36:])
	h.RefcountTableClusters = be.Uint32(b[56:])
	h.SnapshotCount = be.Uint32(b[60:])
	for _, f := range []struct {
		at   int
		name string
		v    *int64
	}{
		{8, "backing_file_offset", &h.BackingFileOffset},
		{24, "size", &h.Size},
		{40, "l1_table_offset", &h.L1TableOffset},
		{48, "refcount_table_offset", &h.RefcountTableOffset},
		{64, "snapshots_offset", &h.SnapshotsOffset},
	} {
		v := be.Uint64(b[f.at:])
		if v > math.MaxInt64 {
			return badf(int64(f.at), f.name, "%#x: %w of 2^63-1", v, ErrLimit)
		}
		*f.v = int64(v)
	}
	if h.Version == 2 {
		h.RefcountOrder = 4
		h.HeaderLength = headerSizeV2
		return nil
	}
	return h.decodeFixedV3(b)
}

func (h *Header) decodeFixedV3(b []byte) error {
	if len(b) < headerSizeMin {
		return truncated("header", int64(len(b)))
	}
	be := binary.BigEndian
	h.IncompatibleFeatures = be.Uint64(b[72:])
	h.CompatibleFeatures = be.Uint64(b[80:])
	h.AutoclearFeatures = be.Uint64(b[88:])
	h.RefcountOrder = be.Uint32(b[96:])
	h.HeaderLength = be.Uint32(b[100:])
	if h.HeaderLength < headerSizeMin {
		return badf(100, "header_length", "%d is less than %d", h.HeaderLength, headerSizeMin)
	}
	if h.HeaderLength > 1<<maxClusterBits {
		return badf(100, "header_length", "%d: %w of a cluster", h.HeaderLength, ErrLimit)
	}
	if int64(len(b)) < int64(h.HeaderLength) {
		return truncated("header", int64(len(b)))
	}
	if h.HeaderLength > headerSizeMin {
		h.CompressionType = CompressionType(b[headerSizeMin])
		h.Extra = append([]byte(nil), b[headerSizeMin+1:h.HeaderLength]...)
	}
	return nil
}

// checkFixed holds the fields that the place of everything else depends on
// against their limits.
func (h *Header) checkFixed() error {
	if h.ClusterBits < minClusterBits || h.ClusterBits > maxClusterBits {
		return badf(20, "cluster_bits", "%d is not in %d to %d", h.ClusterBits, minClusterBits, maxClusterBits)
	}
	if int64(h.HeaderLength) > h.ClusterSize() {
		return badf(100, "header_length", "%d: %w of a cluster", h.HeaderLength, ErrLimit)
	}
	if h.BackingFileOffset > h.ClusterSize() {
		return badf(8, "backing_file_offset", "%#x lies outside of the first cluster", h.BackingFileOffset)
	}
	return nil
}

// check holds the other fields against their limits.
func (h *Header) check() error {
	if h.IncompatibleFeatures&IncompatExtendedL2 != 0 && h.ClusterBits < minExtendedClusterBits {
		return badf(20, "cluster_bits", "%d: extended L2 entries need at least %d", h.ClusterBits, minExtendedClusterBits)
	}
	if h.RefcountOrder > maxRefcountOrder {
		return badf(96, "refcount_order", "%d: %w of %d", h.RefcountOrder, ErrLimit, maxRefcountOrder)
	}
	if h.CryptMethod > CryptLUKS {
		return unsupportedf("%v", h.CryptMethod)
	}
	if h.SnapshotCount > maxSnapshots {
		return badf(60, "nb_snapshots", "%d: %w of %d", h.SnapshotCount, ErrLimit, maxSnapshots)
	}
	if n := int64(h.RefcountTableClusters) << h.ClusterBits; n > maxRefcountTableBytes {
		return badf(56, "refcount_table_clusters", "%d bytes: %w of %d", n, ErrLimit, maxRefcountTableBytes)
	}
	if n := int64(h.L1Size) * l1EntrySize; n > maxL1Bytes {
		return badf(36, "l1_size", "%d bytes: %w of %d", n, ErrLimit, maxL1Bytes)
	}
	tables := []struct {
		at     int64
		name   string
		off, n int64
	}{
		{48, "refcount_table_offset", h.RefcountTableOffset, int64(h.RefcountTableClusters) << h.ClusterBits},
		{64, "snapshots_offset", h.SnapshotsOffset, int64(h.SnapshotCount) * snapshotEntrySize},
		{40, "l1_table_offset", h.L1TableOffset, int64(h.L1Size) * l1EntrySize},
	}
	for _, t := range tables {
		if err := checkTableOffset(t.at, t.name, t.off, t.n, h.ClusterSize()); err != nil {
			return err
		}
	}
	l := h.layout()
	if need := l.l1EntriesFor(h.Size); need > int64(h.L1Size) {
		return badf(36, "l1_size", "%d entries are too few for a disk of %d bytes, which needs %d", h.L1Size, h.Size, need)
	}
	return h.checkFeatures()
}

// checkTableOffset holds the place of a table of n bytes that the header points
// to against its limit and alignment.
func checkTableOffset(at int64, name string, off, n, cluster int64) error {
	if off > math.MaxInt64-n {
		return badf(at, name, "%#x: %w of 2^63-1", off, ErrLimit)
	}
	if !align.IsAligned(off, cluster) {
		return badf(at, name, "%#x is not aligned to the cluster size %d", off, cluster)
	}
	return nil
}

// checkFeatures holds features against the fields that go with them.
func (h *Header) checkFeatures() error {
	if has := h.IncompatibleFeatures&IncompatCompressionType != 0; has != (h.CompressionType != CompressionDeflate) {
		return badf(headerSizeMin, "compression_type", "%d with the compression type feature bit %t", h.CompressionType, has)
	}
	if h.CompressionType > CompressionZstd {
		return unsupportedf("%v", h.CompressionType)
	}
	return nil
}

// decodeBackingFile decodes the name of the backing file.
func (h *Header) decodeBackingFile(b []byte) error {
	if h.BackingFileOffset == 0 {
		return nil
	}
	n := int64(binary.BigEndian.Uint32(b[16:]))
	if limit := min(maxBackingName, h.ClusterSize()-h.BackingFileOffset); n > limit {
		return badf(16, "backing_file_size", "%d: %w of %d", n, ErrLimit, limit)
	}
	if h.BackingFileOffset+n > int64(len(b)) {
		return truncated("backing file name", h.BackingFileOffset)
	}
	h.BackingFile = string(b[h.BackingFileOffset : h.BackingFileOffset+n])
	return nil
}

// AppendBinary appends the header, its extensions and the name of the backing
// file, as they stand at the start of an image. The place of the name is
// chosen anew: BackingFileOffset is not looked at. An error that is
// [ErrLimit] means that they do not fit into the first cluster.
func (h *Header) AppendBinary(b []byte) ([]byte, error) {
	base := len(b)
	b = h.appendFixed(b)
	for _, x := range h.Extensions {
		b = x.append(b)
	}
	b = append(b, make([]byte, extensionHeaderSize)...) // the end
	if h.BackingFile != "" {
		if len(h.BackingFile) > maxBackingName {
			return nil, badf(16, "backing_file_size", "%d: %w of %d", len(h.BackingFile), ErrLimit, maxBackingName)
		}
		binary.BigEndian.PutUint64(b[base+8:], uint64(len(b)-base))
		binary.BigEndian.PutUint32(b[base+16:], uint32(len(h.BackingFile)))
		b = append(b, h.BackingFile...)
	}
	if n := int64(len(b) - base); n > h.ClusterSize() {
		return nil, badf(0, "header", "%d bytes: %w of a cluster", n, ErrLimit)
	}
	return b, nil
}

func (h *Header) appendFixed(b []byte) []byte {
	be := binary.BigEndian
	b = append(b, magic[:]...)
	b = be.AppendUint32(b, h.Version)
	b = append(b, make([]byte, 12)...) // the backing file, told later
	b = be.AppendUint32(b, h.ClusterBits)
	b = be.AppendUint64(b, uint64(h.Size))
	b = be.AppendUint32(b, uint32(h.CryptMethod))
	b = be.AppendUint32(b, h.L1Size)
	b = be.AppendUint64(b, uint64(h.L1TableOffset))
	b = be.AppendUint64(b, uint64(h.RefcountTableOffset))
	b = be.AppendUint32(b, h.RefcountTableClusters)
	b = be.AppendUint32(b, h.SnapshotCount)
	b = be.AppendUint64(b, uint64(h.SnapshotsOffset))
	if h.Version == 2 {
		return b
	}
	b = be.AppendUint64(b, h.IncompatibleFeatures)
	b = be.AppendUint64(b, h.CompatibleFeatures)
	b = be.AppendUint64(b, h.AutoclearFeatures)
	b = be.AppendUint32(b, h.RefcountOrder)
	n := h.encodedLength()
	b = be.AppendUint32(b, uint32(n))
	if n == headerSizeMin {
		return b
	}
	b = append(b, byte(h.CompressionType))
	b = append(b, h.Extra...)
	return append(b, make([]byte, n-headerSizeMin-1-len(h.Extra))...)
}

// encodedLength returns the length that AppendBinary gives the header: a
// multiple of 8, which some files get wrong.
func (h *Header) encodedLength() int {
	switch {
	case h.Version == 2:
		return headerSizeV2
	case h.CompressionType == CompressionDeflate && len(h.Extra) == 0:
		return headerSizeMin
	}
	return align.Up(headerSizeMin+1+len(h.Extra), 8)
}

// readHeader reads and decodes the header of r. What a cluster lacks because
// the file ends is zeros, but the fixed fields must be there.
func readHeader(r io.ReaderAt) (*Header, error) {
	if r == nil {
		return nil, fmt.Errorf("qcow2: %w", block.ErrNil)
	}
	const most = 4096 // what nearly every header fits into
	h := new(Header)
	for size := most; ; {
		b := make([]byte, size)
		n, err := r.ReadAt(b, 0)
		if n < len(b) && err != nil && err != io.EOF {
			return nil, fmt.Errorf("qcow2: header: %w", err)
		}
		full := b
		if n < headerSizeMin {
			full = b[:n]
		}
		err = h.UnmarshalBinary(full)
		cluster := clusterSizeOf(b[:n])
		if errors.Is(err, io.ErrUnexpectedEOF) && n == len(b) && cluster > len(b) {
			size = cluster
			continue
		}
		if err != nil {
			return nil, err
		}
		return h, nil
	}
}

// clusterSizeOf returns the cluster size that the header in b tells, 0 if it
// tells none that is allowed.
func clusterSizeOf(b []byte) int {
	if len(b) < headerSizeV2 {
		return 0
	}
	n := binary.BigEndian.Uint32(b[20:])
	if n < minClusterBits || n > maxClusterBits {
		return 0
	}
	return 1 << n
}

func truncated(field string, off int64) error {
	return &FormatError{Offset: off, Field: field, Err: io.ErrUnexpectedEOF}
}

// bitNumbers calls f for every bit that is set in v, lowest first.
func bitNumbers(v uint64, f func(bit uint8)) {
	for ; v != 0; v &= v - 1 {
		f(uint8(bits.TrailingZeros64(v)))
	}
}
