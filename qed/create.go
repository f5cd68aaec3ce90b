package qed

import (
	"fmt"
	"math"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
)

// Defaults of a new image.
const (
	DefaultClusterSize = 64 << 10 // bytes
	DefaultTableSize   = 4        // clusters
)

// CreateOptions says what a new image is like. The zero value gives what
// "qemu-img create -f qed" gives.
type CreateOptions struct {
	ClusterSize uint32 // bytes; the default is DefaultClusterSize
	TableSize   uint32 // clusters; the default is DefaultTableSize

	// BackingFile is the name of the backing file as it is to be stored, at
	// most 1023 bytes. Nothing is opened by it but through Open.OpenBacking.
	BackingFile string
	// BackingFormat is the format of the backing file, which must be given.
	// The image stores only whether it is "raw".
	BackingFormat string

	// AnyGeometry allows what QEMU cannot open: a TableSize of 1, and
	// geometries whose largest disk it computes with overflow.
	AnyGeometry bool

	// Open says how the image that Create returns is open. Its Write is not
	// looked at. A new image whose backing file it does not open is open for
	// its metadata only.
	Open *Options
}

func (o *CreateOptions) withDefaults() CreateOptions {
	var c CreateOptions
	if o != nil {
		c = *o
	}
	if c.ClusterSize == 0 {
		c.ClusterSize = DefaultClusterSize
	}
	if c.TableSize == 0 {
		c.TableSize = DefaultTableSize
	}
	return c
}

// Create makes f, which is emptied, a QED image with a disk of size bytes,
// rounded up to a multiple of [SectorSize], and returns it open for reading and
// writing. The file is byte for byte what "qemu-img create" makes with the same
// options, and durable when Create returns.
func Create(f File, size int64, o *CreateOptions) (*Image, error) {
	c := o.withDefaults()
	h, err := c.header(size)
	if err != nil {
		return nil, err
	}
	if err := format(f, h); err != nil {
		return nil, fmt.Errorf("qed: create: %w", err)
	}
	open := c.Open.withDefaults()
	open.BackingFormat = c.BackingFormat
	if open.OpenBacking == nil && c.BackingFile != "" {
		open.MetadataOnly = true
	}
	return OpenRW(f, &open)
}

// format makes f an image that holds nothing.
func format(f File, h *Header) error {
	if f == nil {
		return block.ErrNil
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	if err := f.Truncate(h.headerBytes() + h.tableBytes()); err != nil {
		return err
	}
	b, err := h.AppendBinary(nil)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(append(b, h.BackingFile...), 0); err != nil {
		return err
	}
	return block.Sync(f)
}

// header returns the header of a new image.
func (c *CreateOptions) header(size int64) (*Header, error) {
	if err := checkGeometry(c.ClusterSize, c.TableSize); err != nil {
		return nil, err
	}
	h := &Header{
		ClusterSize: c.ClusterSize, TableSize: c.TableSize, HeaderSize: 1,
		L1TableOffset: int64(c.ClusterSize),
	}
	limit := h.MaxImageSize()
	if !c.AnyGeometry {
		var err error
		if limit, err = c.qemuLimit(); err != nil {
			return nil, err
		}
	}
	if size < 0 || size > limit {
		return nil, badf(48, "image_size", "%d: %w of %d for this geometry", size, ErrLimit, limit)
	}
	h.ImageSize = align.Up(size, SectorSize)
	if c.BackingFile != "" && c.BackingFormat == "" {
		return nil, badf(16, "features", "a backing file without CreateOptions.BackingFormat")
	}
	return h, h.setBacking(c.BackingFile, c.BackingFormat)
}

// qemuLimit returns the largest disk that QEMU opens with the geometry: it
// multiplies TABLE_NOFFSETS² by the cluster size in 64 bits, so that the result
// may be 0.
func (c *CreateOptions) qemuLimit() (int64, error) {
	if c.TableSize == 1 {
		return 0, badf(8, "table_size", "QEMU cannot open an image with tables of 1 cluster: CreateOptions.AnyGeometry allows it")
	}
	n := uint64(c.ClusterSize) * uint64(c.TableSize) / entrySize
	return int64(min(n*n*uint64(c.ClusterSize), math.MaxInt64-SectorSize+1)), nil
}
