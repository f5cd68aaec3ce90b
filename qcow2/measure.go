package qcow2

import (
	"context"
	"fmt"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/luks"
)

// A Measurement says how large the file of a new image becomes, in bytes: what
// "qemu-img measure" tells. Clusters that would be compressed count in full.
type Measurement struct {
	// Required is its length with all that the disk is to hold.
	Required int64
	// FullyAllocated is its length once each cluster has been written to.
	FullyAllocated int64
	// Bitmaps is what the persistent bitmaps of the source would add.
	Bitmaps int64
}

// Measure tells how large an image of an empty disk of size bytes becomes, if
// [Create] makes it with these options. Nothing is opened and no key is made.
// A size that no such image can have is [ErrLimit].
func Measure(size int64, o *CreateOptions) (Measurement, error) {
	h, crypto, err := o.geometry(size)
	if err != nil {
		return Measurement{}, err
	}
	l := h.layout()
	disk := align.Up(h.Size, l.clusterSize())
	m := Measurement{FullyAllocated: l.fullyAllocated(h.Size) + crypto}
	m.Required = m.FullyAllocated - disk
	if o != nil && o.Preallocation >= PreallocateFalloc {
		m.Required = m.FullyAllocated
	}
	return m, nil
}

// MeasureDisk tells how large an image becomes, if Create makes it with these
// options and src is copied to it. With a backing file all of the disk counts,
// because what lies in that is not known. If src is an [*Image], its persistent
// bitmaps are measured as well. It ends with the cause of ctx if that does.
func MeasureDisk(ctx context.Context, src Disk, o *CreateOptions) (Measurement, error) {
	m, err := Measure(src.Size(), o)
	if err != nil {
		return m, err
	}
	cluster := o.clusterSize()
	if im, ok := src.(*Image); ok && (o == nil || o.Version != 2) { // version 2 has none
		if m.Bitmaps, err = im.measureBitmaps(cluster); err != nil {
			return m, err
		}
	}
	if o != nil && (o.BackingFile != "" || o.Preallocation >= PreallocateFalloc) {
		m.Required = m.FullyAllocated
		return m, nil
	}
	counted := int64(0) // up to here, whole clusters
	for e, err := range block.WholeDisk(src) {
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return m, fmt.Errorf("qcow2: map of the source at %#x: %w", e.Start, err)
		}
		if e.IsZero() || e.End() <= counted {
			continue
		}
		first := max(counted, align.Down(e.Start, cluster))
		counted = align.Up(e.End(), cluster)
		m.Required += counted - first
	}
	return m, nil
}

// geometry returns the header of a new image, and the length of the LUKS
// header that it has.
func (o *CreateOptions) geometry(size int64) (*Header, int64, error) {
	var c CreateOptions
	if o != nil {
		c = *o
	}
	// What does not change how much space is needed need not be there.
	c.BackingFile, c.BackingFormat, c.DataFile, c.Data, c.DataFileRaw = "", "", "", nil, false
	h, err := c.header(size)
	if err != nil || c.Encrypt == nil || c.Encrypt.Method == CryptAES {
		return h, 0, err
	}
	spec, err := c.Encrypt.spec()
	if err != nil {
		return nil, 0, err
	}
	return h, align.Up(luks.PayloadOffset(spec), h.ClusterSize()), nil
}

// fullyAllocated returns how much a disk with all of its clusters and their
// metadata needs: whole clusters of L1 and L2 tables.
func (l *layout) fullyAllocated(size int64) int64 {
	data := align.CeilDiv(size, l.clusterSize())
	tables := align.CeilDiv(data, int64(1)<<l.l2Bits())
	n := 1 + data + tables + align.CeilDiv(tables*l1EntrySize, l.clusterSize())
	return (n + l.refcountClusters(n)) << l.clusterBits
}

// refcountClusters returns how many clusters of refcount table and blocks n
// clusters need, and those themselves.
func (l *layout) refcountClusters(n int64) int64 {
	for table, blocks := int64(0), int64(0); ; {
		moreBlocks := align.CeilDiv(n+table+blocks, int64(1)<<l.refBlockBits())
		moreTable := align.CeilDiv(moreBlocks*refTableEntrySize, l.clusterSize())
		if moreBlocks == blocks && moreTable == table {
			return table + blocks
		}
		table, blocks = moreTable, moreBlocks
	}
}

// measureBitmaps returns how much the persistent bitmaps take in an image with
// clusters of that size, if they are full.
func (im *Image) measureBitmaps(cluster int64) (int64, error) {
	list, err := im.Bitmaps()
	if err != nil {
		return 0, err
	}
	total, directory := int64(0), int64(0)
	for _, b := range list {
		clusters := align.CeilDiv(align.CeilDiv(align.CeilDiv(im.Size(), b.Granularity), 8), cluster)
		total += clusters*cluster + align.Up(clusters*bitmapTableEntrySize, cluster)
		directory += align.Up(int64(bitmapDirEntrySize+len(b.Name)), 8)
	}
	return total + align.Up(directory, cluster), nil
}
