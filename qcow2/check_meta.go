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

// Fixed part of a bitmap directory entry, section "Bitmap directory":
//
//	byte  0- 7  bitmap table offset
//	      8-11  bitmap table size, entries
//	     12-15  flags
//	     16     type
//	     17     granularity, as a power of two
//	     18-19  length of the name
//	     20-23  length of extra data
const bitmapEntrySize = 24

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
		for i := 0; i+8 <= len(b); i += 8 {
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
	var fixed [bitmapEntrySize]byte
	for range x.Count {
		if end-at < bitmapEntrySize || at >= c.size {
			c.report(FindingBitmap, StructureBitmap, at, uint64(end-at), 1)
			return tables, nil
		}
		if err := c.readTable(fixed[:], at, "bitmap directory"); err != nil {
			return nil, err
		}
		be := binary.BigEndian
		off, size := be.Uint64(fixed[:]), int64(be.Uint32(fixed[8:]))*8
		switch {
		case off == 0 || off&uint64(c.clusterSize()-1) != 0:
			c.report(FindingUnaligned, StructureBitmap, at, off, 1)
		default:
			if c.inFile(off, size, 1, StructureBitmap, at) {
				tables = append(tables, span{int64(off), int64(off) + size, tally{total: 1}})
			}
		}
		at += align.Up(bitmapEntrySize+int64(be.Uint16(fixed[18:]))+int64(be.Uint32(fixed[20:])), 8)
	}
	if at != end {
		c.report(FindingBitmap, StructureBitmap, at, uint64(end), 1)
	}
	return tables, context.Cause(c.ctx)
}

// A bitmap table entry, section "Bitmap table":
//
//	bit 0      without an offset: all bits are ones
//	    1-8    reserved
//	    9-55   offset of a cluster of the bitmap
//	    56-63  reserved
const bitmapEntryReserved = 0xff000000000001fe

// checkBitmapEntry counts a cluster of n bitmaps.
func (c *checker) checkBitmapEntry(e uint64, at int64, n uint64) {
	off := e & entryOffsetMask
	switch {
	case e&bitmapEntryReserved != 0, off != 0 && e&1 != 0:
		c.report(FindingReserved, StructureBitmap, at, e, n)
	case off&uint64(c.clusterSize()-1) != 0:
		c.report(FindingUnaligned, StructureBitmap, at, e, n)
	case off != 0:
		c.reference(off, c.clusterSize(), n, StructureBitmap, at)
	}
}
