package qed

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"strings"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/cursor"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// Bounds of the geometry, section "Header".
const (
	MinClusterSize = 1 << 12 // bytes
	MaxClusterSize = 1 << 26 // bytes
	MinTableSize   = 1       // clusters
	MaxTableSize   = 16      // clusters
)

// SectorSize is the unit of [Header.ImageSize] in bytes.
const SectorSize = 512

// maxBackingName is the longest backing file name in bytes. The specification
// has no bound but the header clusters; QEMU opens names of up to 1023 bytes.
const maxBackingName = 1023

const (
	magic = "QED\x00"
	// headerSize is the length of the fixed fields in bytes. They take the
	// space of all of them whatever features are set.
	headerSize = 64
)

// Features is the bitmap of format features, section "Header": an image with
// an unknown one must not be opened.
type Features uint64

// The features that the specification defines.
const (
	// FeatureBackingFile means that the image has a backing file.
	FeatureBackingFile Features = 1 << 0
	// FeatureNeedCheck means that the tables need a check before use.
	FeatureNeedCheck Features = 1 << 1
	// FeatureBackingNoProbe means that the backing file is a raw disk.
	FeatureBackingNoProbe Features = 1 << 2

	knownFeatures = FeatureBackingFile | FeatureNeedCheck | FeatureBackingNoProbe
)

// String lists the features by name, unknown ones by number.
func (f Features) String() string {
	var names []string
	for _, k := range []struct {
		bit  Features
		name string
	}{
		{FeatureBackingFile, "backing file"},
		{FeatureNeedCheck, "need check"},
		{FeatureBackingNoProbe, "raw backing file"},
	} {
		if f&k.bit != 0 {
			names = append(names, k.name)
		}
	}
	for rest := f &^ knownFeatures; rest != 0; rest &= rest - 1 {
		names = append(names, fmt.Sprintf("unknown bit %d", bits.TrailingZeros64(uint64(rest))))
	}
	return strings.Join(names, ", ")
}

// A Header is the decoded header of an image, section "Header":
//
//	byte 0  magic "QED\0"
//	     4  cluster_size             u32, bytes
//	     8  table_size               u32, clusters
//	    12  header_size              u32, clusters
//	    16  features                 u64
//	    24  compat_features          u64
//	    32  autoclear_features       u64
//	    40  l1_table_offset          u64, bytes
//	    48  image_size               u64, bytes
//	    56  backing_filename_offset  u32, bytes
//	    60  backing_filename_size    u32, bytes
//
// All fields are little-endian.
type Header struct {
	ClusterSize uint32   // bytes: a power of two from MinClusterSize to MaxClusterSize
	TableSize   uint32   // clusters: a power of two from MinTableSize to MaxTableSize
	HeaderSize  uint32   // clusters before the first regular one, at least 1
	Features    Features // unknown ones are refused
	// CompatFeatures may hold anything. No bits are defined.
	CompatFeatures uint64
	// AutoclearFeatures are cleared when the image is opened for writing. No
	// bits are defined.
	AutoclearFeatures uint64
	L1TableOffset     int64 // bytes, a multiple of ClusterSize
	ImageSize         int64 // bytes, a multiple of SectorSize
	// BackingFile is the name of the backing file, empty if there is none.
	// Its bytes lie within the first HeaderSize clusters.
	BackingFile       string
	BackingNameOffset uint32 // bytes, where the name begins
}

// entriesPerTable returns how many offsets a table holds: TABLE_NOFFSETS.
func (h *Header) entriesPerTable() int64 { return h.tableBytes() / entrySize }

// tableBytes returns the length of a table in bytes, at most 1 GiB.
func (h *Header) tableBytes() int64 { return int64(h.TableSize) * int64(h.ClusterSize) }

// headerBytes returns the length of the clusters before the first regular one.
func (h *Header) headerBytes() int64 { return int64(h.HeaderSize) * int64(h.ClusterSize) }

// MaxImageSize returns the largest disk in bytes that the geometry of h can
// hold: TABLE_NOFFSETS² clusters, or what an offset of 63 bits can address.
func (h *Header) MaxImageSize() int64 { return maxImageSize(h.ClusterSize, h.TableSize) }

func maxImageSize(clusterSize, tableSize uint32) int64 {
	n := uint64(clusterSize) * uint64(tableSize) / entrySize
	hi, lo := bits.Mul64(n*n, uint64(clusterSize))
	if hi != 0 || lo > math.MaxInt64 {
		return align.Down(int64(math.MaxInt64), SectorSize)
	}
	return int64(lo)
}

// BackingFormat returns "raw" where the no-probe bit says that the backing
// file is a raw disk. Otherwise the format is not stored, and it returns "".
func (h *Header) BackingFormat() string {
	if h.Features&FeatureBackingFile != 0 && h.Features&FeatureBackingNoProbe != 0 {
		return "raw"
	}
	return ""
}

// readHeader reads and decodes the header of an image of the given length.
func readHeader(r io.ReaderAt, length int64) (*Header, error) {
	b, err := safeio.ReadAt(r, 0, min(length, headerSize), headerSize)
	if err != nil {
		return nil, fmt.Errorf("qed: header: %w", err)
	}
	h := new(Header)
	if err := h.decode(b); err != nil {
		return nil, err
	}
	if h.Features&FeatureBackingFile != 0 {
		return h, h.readBackingName(r, b)
	}
	return h, nil
}

// decode decodes the fixed fields and validates their shape.
func (h *Header) decode(b []byte) error {
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return ErrFormat
	}
	c := cursor.New(binary.LittleEndian, "header", 0, b)
	c.Skip(len(magic))
	clusterSize, tableSize, clusters := c.Uint32(), c.Uint32(), c.Uint32()
	features, compat, autoclear := Features(c.Uint64()), c.Uint64(), c.Uint64()
	l1, size := c.Uint64(), c.Uint64()
	nameOffset := c.Uint32()
	c.Skip(4)
	if err := c.Err(); err != nil {
		return badf(0, "header", "%w", err)
	}
	if unknown := features &^ knownFeatures; unknown != 0 {
		return &FormatError{Offset: 16, Field: "features", Err: &UnsupportedError{Feature: unknown.String()}}
	}
	if err := checkGeometry(clusterSize, tableSize); err != nil {
		return err
	}
	*h = Header{
		ClusterSize: clusterSize, TableSize: tableSize, HeaderSize: clusters,
		Features: features, CompatFeatures: compat, AutoclearFeatures: autoclear,
		L1TableOffset: int64(l1), ImageSize: int64(size), BackingNameOffset: nameOffset,
	}
	switch {
	case clusters == 0:
		return badf(12, "header_size", "0 clusters")
	case l1 > math.MaxInt64-uint64(h.tableBytes()) || !align.IsAligned(l1, uint64(clusterSize)) || int64(l1) < h.headerBytes():
		return badf(40, "l1_table_offset", "%#x is not a cluster after the header's %d", l1, clusters)
	case !align.IsAligned(size, SectorSize):
		return badf(48, "image_size", "%d is not a multiple of %d", size, SectorSize)
	case size > uint64(h.MaxImageSize()):
		return badf(48, "image_size", "%d: %w of %d for this geometry", size, ErrLimit, h.MaxImageSize())
	}
	return nil
}

func checkGeometry(clusterSize, tableSize uint32) error {
	if !align.IsPow2(clusterSize) || clusterSize < MinClusterSize || clusterSize > MaxClusterSize {
		return badf(4, "cluster_size", "%d is not a power of two from %d to %d", clusterSize, MinClusterSize, MaxClusterSize)
	}
	if !align.IsPow2(tableSize) || tableSize < MinTableSize || tableSize > MaxTableSize {
		return badf(8, "table_size", "%d is not a power of two from %d to %d", tableSize, MinTableSize, MaxTableSize)
	}
	return nil
}

// readBackingName reads the name that the last two fields of b point to.
func (h *Header) readBackingName(r io.ReaderAt, b []byte) error {
	off, n := int64(h.BackingNameOffset), int64(binary.LittleEndian.Uint32(b[60:]))
	switch {
	case n > maxBackingName:
		return badf(60, "backing_filename_size", "%d: %w of %d", n, ErrLimit, maxBackingName)
	case n == 0:
		return badf(60, "backing_filename_size", "0 though the image has a backing file")
	case off > h.headerBytes()-n:
		return badf(56, "backing_filename_offset", "%#x: the name is not within the header's %d clusters", off, h.HeaderSize)
	}
	name := make([]byte, n)
	if err := safeio.ReadFull(r, name, off); err != nil {
		return badf(off, "backing file name", "%w", err)
	}
	if i := bytes.IndexByte(name, 0); i >= 0 {
		return badf(off+int64(i), "backing file name", "NUL within the name")
	}
	h.BackingFile = string(name)
	return nil
}

// AppendBinary appends the fixed fields, 64 bytes, to b. It implements
// [encoding.BinaryAppender].
func (h *Header) AppendBinary(b []byte) ([]byte, error) {
	le := binary.LittleEndian
	b = append(b, magic...)
	b = le.AppendUint32(b, h.ClusterSize)
	b = le.AppendUint32(b, h.TableSize)
	b = le.AppendUint32(b, h.HeaderSize)
	b = le.AppendUint64(b, uint64(h.Features))
	b = le.AppendUint64(b, h.CompatFeatures)
	b = le.AppendUint64(b, h.AutoclearFeatures)
	b = le.AppendUint64(b, uint64(h.L1TableOffset))
	b = le.AppendUint64(b, uint64(h.ImageSize))
	b = le.AppendUint32(b, h.BackingNameOffset)
	return le.AppendUint32(b, uint32(len(h.BackingFile))), nil
}

// UnmarshalBinary decodes a header from the first bytes of an image, at least
// as many as hold the backing file's name. It implements
// [encoding.BinaryUnmarshaler].
func (h *Header) UnmarshalBinary(b []byte) error {
	got, err := readHeader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	*h = *got
	return nil
}

// errNoRoom means that a name does not fit into the header's clusters.
var errNoRoom = errors.New("the name does not fit into the header's clusters")

// setBacking names another backing file, or none. The name goes directly after
// the fixed fields.
func (h *Header) setBacking(name, format string) error {
	h.Features &^= FeatureBackingFile | FeatureBackingNoProbe
	h.BackingFile, h.BackingNameOffset = name, 0
	if name == "" {
		return nil
	}
	switch {
	case strings.IndexByte(name, 0) >= 0:
		return badf(headerSize, "backing file name", "NUL within the name")
	case len(name) > maxBackingName:
		return badf(headerSize, "backing file name", "%d bytes: %w of %d", len(name), ErrLimit, maxBackingName)
	case int64(len(name)) > h.headerBytes()-headerSize:
		return badf(headerSize, "backing file name", "%w", errNoRoom)
	}
	h.Features |= FeatureBackingFile
	if format == "raw" {
		h.Features |= FeatureBackingNoProbe
	}
	h.BackingNameOffset = headerSize
	return nil
}

// shortName reports whether the name of the backing file lies directly after
// the fixed fields, in one sector with them.
func (h *Header) shortName() bool {
	return h.BackingNameOffset <= headerSize && headerSize+len(h.BackingFile) <= SectorSize
}
