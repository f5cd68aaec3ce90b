package qcow2

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/virtfmt/virtfmt/internal/align"
)

// minSnapshotExtra is how much extra data a snapshot of a version 3 image
// must have: up to its disk size.
const minSnapshotExtra = 16

// A checkedSnapshot is what checking needs to know of a snapshot.
type checkedSnapshot struct {
	at, size int64 // of its entry, without padding
	l1Offset uint64
	l1Size   uint32 // entries
}

// readSnapshots reads and counts the snapshot table.
func (c *checker) readSnapshots() error {
	at := c.h.SnapshotsOffset
	var fixed [snapshotEntrySize]byte
	for range c.h.SnapshotCount {
		if err := c.readTable(fixed[:], at, "snapshot table"); err != nil {
			return err
		}
		be := binary.BigEndian
		extra := be.Uint32(fixed[36:])
		if extra > maxSnapshotExtra {
			return badf(at+36, "snapshot extra data", "%d bytes: %w of %d", extra, ErrLimit, maxSnapshotExtra)
		}
		if c.version >= 3 && extra < minSnapshotExtra {
			c.report(FindingSnapshot, StructureSnapshotTable, at, uint64(extra), 1)
		}
		n := snapshotEntrySize + int64(extra) + int64(be.Uint16(fixed[12:])) + int64(be.Uint16(fixed[14:]))
		c.snapshots = append(c.snapshots, checkedSnapshot{at, n, be.Uint64(fixed[:]), be.Uint32(fixed[8:])})
		at += align.Up(n, 8)
		if n := at - c.h.SnapshotsOffset; n > maxSnapshotTableBytes {
			return badf(64, "snapshot table", "%d bytes: %w of %d", n, ErrLimit, maxSnapshotTableBytes)
		}
	}
	c.reference(uint64(c.h.SnapshotsOffset), at-c.h.SnapshotsOffset, 1, StructureHeader, 64)
	return context.Cause(c.ctx)
}

// walkBitmaps counts what the bitmaps extension refers to, if it is in force.
func (c *checker) walkBitmaps() error {
	x, ok := c.h.Bitmaps()
	if !ok {
		return nil
	}
	c.reference(uint64(x.DirectoryOffset), x.DirectorySize, 1, StructureHeader, 0)
	tables, err := c.readBitmapDirectory(x)
	if err != nil {
		return err
	}
	c.referenceSpans(slices.Clone(tables))
	return c.readSegments(sweep(tables, c.size), "bitmap table", func(p part, b []byte) error {
		for i := 0; i+bitmapTableEntrySize <= len(b); i += bitmapTableEntrySize {
			c.checkBitmapEntry(binary.BigEndian.Uint64(b[i:]), p.off+p.at+int64(i), p.total)
		}
		return nil
	})
}

// readBitmapDirectory counts the bitmap tables and returns where they lie.
func (c *checker) readBitmapDirectory(x BitmapsExtension) ([]span, error) {
	var tables []span
	end := x.DirectoryOffset + x.DirectorySize
	at := x.DirectoryOffset
	var fixed [bitmapDirEntrySize]byte
	for range x.Count {
		if end-at < bitmapDirEntrySize || at >= c.size {
			c.report(FindingBitmap, StructureBitmap, at, uint64(end-at), 1)
			return tables, nil
		}
		if err := c.readTable(fixed[:], at, "bitmap directory"); err != nil {
			return nil, err
		}
		be := binary.BigEndian
		off, size := be.Uint64(fixed[:]), int64(be.Uint32(fixed[8:]))*bitmapTableEntrySize
		switch {
		case off == 0 || off&uint64(c.clusterSize()-1) != 0:
			c.report(FindingUnaligned, StructureBitmap, at, off, 1)
		default:
			if c.inFile(off, size, 1, StructureBitmap, at) {
				tables = append(tables, span{int64(off), int64(off) + size, tally{total: 1}})
			}
		}
		at += align.Up(bitmapDirEntrySize+int64(be.Uint16(fixed[18:]))+int64(be.Uint32(fixed[20:])), 8)
	}
	if at != end {
		c.report(FindingBitmap, StructureBitmap, at, uint64(end), 1)
	}
	return tables, context.Cause(c.ctx)
}

// checkBitmapEntry counts a cluster of n bitmaps.
func (c *checker) checkBitmapEntry(e uint64, at int64, n uint64) {
	off := e & entryOffsetMask
	switch {
	case e&bitmapTableEntryReserved != 0, off != 0 && e&1 != 0:
		c.report(FindingReserved, StructureBitmap, at, e, n)
	case off&uint64(c.clusterSize()-1) != 0:
		c.report(FindingUnaligned, StructureBitmap, at, e, n)
	case off != 0:
		c.reference(off, c.clusterSize(), n, StructureBitmap, at)
	}
}
