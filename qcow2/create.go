package qcow2

import (
	"errors"
	"fmt"
	"math"
	"math/bits"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
)

// Preallocation says how much of a new image is laid out when it is made.
type Preallocation uint8

// The preallocation modes, as those of qemu-img.
const (
	PreallocateOff      Preallocation = iota // only the tables that every image has
	PreallocateMetadata                      // L2 tables, so that each guest cluster has a place
	PreallocateFalloc                        // the same, with space taken in the file system where it can be
	PreallocateFull                          // the same, with zeros written
)

// String returns the name that qemu-img gives p: off, metadata, falloc, full.
func (p Preallocation) String() string {
	switch p {
	case PreallocateOff:
		return "off"
	case PreallocateMetadata:
		return "metadata"
	case PreallocateFalloc:
		return "falloc"
	case PreallocateFull:
		return "full"
	}
	return fmt.Sprintf("preallocation %d", uint8(p))
}

// CreateOptions says what kind of image [Create] makes. The zero CreateOptions,
// like nil, stands for what qemu-img create makes without options.
type CreateOptions struct {
	Version         int             // 2 or 3; 0 is 3
	ClusterSize     int64           // a power of two, 512 to 2 MiB; 0 is 64 KiB
	RefcountBits    int             // a power of two up to 64; 0 is 16, the only one in version 2
	LazyRefcounts   bool            // version 3
	ExtendedL2      bool            // version 3, with clusters of at least 16 KiB
	CompressionType CompressionType // other than deflate in version 3
	Preallocation   Preallocation   // with a backing file only if ExtendedL2 is set

	// BackingFile is the name of the backing file that is written into the
	// image, of at most 1023 bytes. BackingFormat is its format, such as "raw"
	// or "qcow2", which must be given.
	BackingFile, BackingFormat string

	// DataFile is the name of the external data file that is written into the
	// image, and Data is that file, empty. Both must be given or neither.
	// DataFileRaw keeps it a raw image of the disk at all times; it implies
	// PreallocateMetadata and excludes a backing file.
	DataFile    string
	Data        File
	DataFileRaw bool

	// Encrypt, if not nil, makes an encrypted image.
	Encrypt *EncryptOptions

	// Open says how the image that Create returns is open. Its OpenData and
	// Write are not looked at. A new image whose backing file it does not open
	// is open for its metadata only.
	Open *Options
}

const defaultClusterSize = 64 << 10

// clusterSize returns the size of a cluster.
func (o *CreateOptions) clusterSize() int64 {
	if o == nil || o.ClusterSize == 0 {
		return defaultClusterSize
	}
	return o.ClusterSize
}

// Create makes an image of a disk of size bytes in f, whose content is lost, and
// returns it open for reading and writing. A size that is no multiple of 512
// is rounded up. The file gets the same bytes that qemu-img create writes.
//
// The image is complete when Create returns, but not durable before
// [Image.Sync] or [Image.Close]. Nothing is opened by name but the backing
// file through [Options.OpenBacking].
func Create(f File, size int64, o *CreateOptions) (*Image, error) {
	var opts CreateOptions
	if o != nil {
		opts = *o
	}
	h, err := opts.header(size)
	if err != nil {
		return nil, err
	}
	if opts.Encrypt != nil && opts.Encrypt.Passphrase == nil {
		return nil, errNoPassphrase
	}
	open := opts.Open.withDefaults()
	if open.cryptor, err = opts.create(f, h); err != nil {
		return nil, fmt.Errorf("qcow2: create: %w", err)
	}
	open.OpenData = func(string, bool) (File, error) { return opts.Data, nil }
	open.keepData = true
	if open.OpenBacking == nil && opts.BackingFile != "" {
		open.MetadataOnly = true
	}
	return openRW(f, open)
}

// create writes the image with the header h, and returns its cryptor.
func (o *CreateOptions) create(f File, h *Header) (*cryptor, error) {
	if f == nil {
		return nil, block.ErrNil
	}
	c := newCreator(h.layout(), f, o.Data)
	if o.Encrypt == nil {
		return nil, c.create(h, o.Preallocation)
	}
	n, err := o.Encrypt.prepare(h)
	if err != nil {
		return nil, err
	}
	defer clear(n.key)
	if err := c.create(h, o.Preallocation); err != nil {
		return nil, err
	}
	return n.cryptor, n.store(f, h, o.Encrypt)
}

// header returns the header of the new image, without the places of tables.
func (o *CreateOptions) header(size int64) (*Header, error) {
	if size < 0 || size > math.MaxInt64-sectorSize {
		return nil, fmt.Errorf("qcow2: disk size %d: %w", size, ErrLimit)
	}
	cluster, width := o.clusterSize(), o.RefcountBits
	if width == 0 {
		width = 16
	}
	if !align.IsPow2(cluster) || cluster < 1<<minClusterBits || cluster > 1<<maxClusterBits {
		return nil, fmt.Errorf("qcow2: cluster size %d is not a power of two from 512 to 2 MiB", cluster)
	}
	if !align.IsPow2(width) || width > 64 {
		return nil, fmt.Errorf("qcow2: refcount width %d is not a power of two up to 64", width)
	}
	h := &Header{
		Version:       3,
		ClusterBits:   uint32(bits.TrailingZeros64(uint64(cluster))),
		Size:          align.Up(size, sectorSize),
		RefcountOrder: uint32(bits.TrailingZeros(uint(width))),
		HeaderLength:  headerSizeV3,
		Extra:         make([]byte, headerSizeV3-headerSizeMin-1),
		BackingFile:   o.BackingFile,
	}
	if o.Version != 0 {
		h.Version = uint32(o.Version)
	}
	o.setFeatures(h)
	if err := o.check(h); err != nil {
		return nil, fmt.Errorf("qcow2: %w", err)
	}
	l := h.layout()
	n := l.l1EntriesFor(h.Size)
	if n > maxL1Bytes/l1EntrySize {
		return nil, fmt.Errorf("qcow2: disk size %d: %w of %d bytes with clusters of %d", size, ErrLimit, maxL1Bytes/l1EntrySize<<l.l1CoverageBits(), cluster)
	}
	h.L1Size = uint32(n)
	return h, nil
}

// setFeatures sets the feature bits and the extensions that o asks for.
func (o *CreateOptions) setFeatures(h *Header) {
	if o.LazyRefcounts {
		h.CompatibleFeatures |= CompatLazyRefcounts
	}
	if o.ExtendedL2 {
		h.IncompatibleFeatures |= IncompatExtendedL2
	}
	if o.CompressionType != CompressionDeflate {
		h.IncompatibleFeatures |= IncompatCompressionType
		h.CompressionType = o.CompressionType
	}
	if o.DataFile != "" {
		h.IncompatibleFeatures |= IncompatExternalData
		h.setExtension(ExtensionDataFile, []byte(o.DataFile))
	}
	if o.DataFileRaw {
		h.AutoclearFeatures |= AutoclearRawExternal
	}
	if o.BackingFormat != "" {
		h.setExtension(ExtensionBackingFormat, []byte(o.BackingFormat))
	}
	if h.Version >= 3 && h.ClusterBits > 12 {
		h.setExtension(ExtensionFeatureNames, appendFeatureNames(nil, defaultFeatureNames()))
	}
	if h.Version == 2 {
		h.HeaderLength, h.Extra = headerSizeV2, nil
	}
}

// check refuses options that do not go together.
func (o *CreateOptions) check(h *Header) error {
	switch {
	case h.Version != 2 && h.Version != 3:
		return fmt.Errorf("version %d: %w", h.Version, errors.ErrUnsupported)
	case h.Version == 2 && (h.RefcountOrder != 4 || h.IncompatibleFeatures|h.CompatibleFeatures|h.AutoclearFeatures != 0):
		return errors.New("version 2 has refcounts of 16 bits, no lazy refcounts, extended L2 entries, compression type or data file")
	case o.ExtendedL2 && h.ClusterBits < minExtendedClusterBits:
		return fmt.Errorf("extended L2 entries need clusters of at least %d bytes", 1<<minExtendedClusterBits)
	case o.CompressionType > CompressionZstd:
		return fmt.Errorf("%v: %w", o.CompressionType, errors.ErrUnsupported)
	case o.Preallocation > PreallocateFull:
		return fmt.Errorf("%v: %w", o.Preallocation, errors.ErrUnsupported)
	case len(o.BackingFile) > maxBackingName || len(o.BackingFormat) > maxFormatName:
		return fmt.Errorf("name or format of the backing file: %w of %d and %d bytes", ErrLimit, maxBackingName, maxFormatName)
	case (o.BackingFile == "") != (o.BackingFormat == ""):
		return errors.New("a backing file needs a name and a format")
	case (o.DataFile == "") != (o.Data == nil):
		return errors.New("an external data file needs a name and the file")
	case o.DataFileRaw && o.DataFile == "":
		return errors.New("a raw external data file needs a name")
	case o.DataFileRaw && o.BackingFile != "":
		return errors.New("a raw external data file conflicts with a backing file")
	case o.Preallocation != PreallocateOff && o.BackingFile != "" && !o.ExtendedL2:
		return errors.New("preallocation with a backing file needs extended L2 entries")
	case o.Encrypt != nil:
		return o.Encrypt.check()
	}
	return nil
}
