package qcow2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// mendEntries is step 1 of [Repair].
func (r *repairer) mendEntries(c *checker) error {
	if c.kinds[FindingReserved]+c.kinds[FindingUnaligned]+c.kinds[FindingCompressedCopied]+c.kinds[FindingCopied] > 0 {
		fix := tableFix{checker: c, mend: true, copied: func(was bool, i clusterIdx) bool { return was && c.counted.at(i) == 1 }}
		if err := r.fixTables(&fix); err != nil {
			return err
		}
	}
	if c.version >= 3 && c.kinds[FindingSnapshot] > 0 {
		return r.rewriteSnapshotTable(c)
	}
	return nil
}

// fixCopied is step 3 of [Repair].
func (r *repairer) fixCopied(c *checker) error {
	return r.fixTables(&tableFix{checker: c, copied: func(_ bool, i clusterIdx) bool { return r.final(c, i) == 1 }})
}

// A tableFix says what becomes of the entries of L1 and L2 tables.
type tableFix struct {
	*checker
	mend   bool                                    // what is wrong whatever the refcounts are
	copied func(was bool, cluster clusterIdx) bool // the COPIED flag of active entries
}

func (x *tableFix) l1Entry(e l1Entry, p *part) l1Entry {
	if x.mend {
		e &^= l1ReservedMask
	}
	if off := e.offset(); off != 0 && p.copied > 0 {
		e = makeL1Entry(off, x.copied(e.copied(), x.cluster(off))) | e&l1ReservedMask
	}
	return e
}

func (x *tableFix) l2Entry(e entry, p *part) entry {
	if e.compressed() {
		if x.mend {
			e.l2Entry &^= flagCopied
		}
		return e
	}
	if x.mend {
		e.l2Entry &^= l2ReservedMask
		if x.offsetInCluster(int64(e.offset())) != 0 && x.holdsNothing(e) {
			e.l2Entry &^= entryOffsetMask | flagCopied
		}
	}
	if off := e.offset(); off != 0 && p.copied > 0 {
		copied := x.external || x.copied(e.copied(), x.cluster(off))
		if e.l2Entry &^= flagCopied; copied {
			e.l2Entry |= flagCopied
		}
	}
	return e
}

// holdsNothing reports whether a standard cluster is preallocated only: it
// has a place, but no data there.
func (x *tableFix) holdsNothing(e entry) bool {
	if x.extended {
		return e.subs.allocated() == 0
	}
	return e.zero()
}

// fixTables replaces entries of L1 and L2 tables. Tables that something else
// uses as well are left alone: what mends the one could destroy the other. So
// are all where the counts do not tell that, because some overflowed.
func (r *repairer) fixTables(x *tableFix) error {
	if x.kinds[FindingOverflow] > 0 {
		return nil
	}
	var l2 []span
	err := x.readSegments(x.l1, "L1 table", func(p part, b []byte) error {
		fixed := slices.Clone(b)
		for t, i := l1Table(fixed), 0; i < t.len(); i++ {
			if e := t.at(i); e != 0 {
				l2 = append(l2, x.l2Span(e, p))
				t.set(i, x.l1Entry(e, &p))
			}
		}
		return r.replace(x.checker, &p, b, fixed)
	})
	if err != nil {
		return err
	}
	return x.readSegments(sweep(l2, x.size), "L2 table", func(p part, b []byte) error {
		fixed := slices.Clone(b)
		if x.extended {
			for t, i := extL2Table(fixed), 0; i < t.len(); i++ {
				t.set(i, x.l2Entry(t.at(i), &p))
			}
		} else {
			for t, i := l2Table(fixed), 0; i < t.len(); i++ {
				t.set(i, x.l2Entry(entry{l2Entry: t.at(i)}, &p).l2Entry)
			}
		}
		return r.replace(x.checker, &p, b, fixed)
	})
}

// replace writes the sectors of a part of tables that changed, unless the
// clusters are used by anything but those tables.
func (r *repairer) replace(c *checker, p *part, was, now []byte) error {
	if bytes.Equal(was, now) {
		return nil
	}
	off := p.off + p.at
	for i := c.cluster(hostOff(off)); i <= c.cluster(hostOff(off+int64(len(now))-1)); i++ {
		if i == 0 || c.counted.at(i) != p.total {
			return nil
		}
	}
	r.changed = true
	return r.write(was, now, off)
}

// write writes the sectors of now that differ from was.
func (r *repairer) write(was, now []byte, off int64) error {
	same := func(i int) bool {
		end := min(i+sectorSize, len(now))
		return bytes.Equal(was[i:end], now[i:end])
	}
	for i := 0; i < len(now); {
		if same(i) {
			i += sectorSize
			continue
		}
		first := i
		for i < len(now) && !same(i) {
			i += sectorSize
		}
		i = min(i, len(now))
		if _, err := r.f.WriteAt(now[first:i], off+int64(first)); err != nil {
			return fmt.Errorf("qcow2: write at %#x: %w", off+int64(first), err)
		}
	}
	return nil
}

// rewriteSnapshotTable writes a snapshot table whose entries have all the
// extra data that version 3 asks for. A snapshot that does not tell the size
// of its disk has that of the image.
func (r *repairer) rewriteSnapshotTable(c *checker) error {
	var table []byte
	for i, s := range c.snapshots {
		b := make([]byte, s.size)
		if err := safeio.ReadZeroFill(r.f, b, s.at); err != nil {
			return fmt.Errorf("qcow2: snapshot table at %#x: %w", s.at, err)
		}
		table = append(table, completeSnapshot(b, c.h.Size)...)
		table = append(table, make([]byte, align.Up(len(table), 8)-len(table))...)
		if len(table) > maxSnapshotTableBytes {
			return badf(s.at, "snapshot table", "%d of %d entries: %w of %d bytes", i, len(c.snapshots), ErrLimit, maxSnapshotTableBytes)
		}
	}
	off := r.fresh(c)
	table = append(table, make([]byte, align.Up(int64(len(table)), c.clusterSize())-int64(len(table)))...)
	if _, err := r.f.WriteAt(table, off); err != nil {
		return fmt.Errorf("qcow2: snapshot table at %#x: %w", off, err)
	}
	if err := r.sync(); err != nil {
		return err
	}
	r.changed = true
	return r.putHeader(binary.BigEndian.AppendUint64(nil, uint64(off)), snapshotsField)
}

// completeSnapshot returns a snapshot table entry with all the extra data that
// is defined today: the size of the VM state, the size of the disk, and an
// icount that says that there is none.
func completeSnapshot(b []byte, diskSize int64) []byte {
	be := binary.BigEndian
	n := be.Uint32(b[36:])
	if n >= minSnapshotExtra {
		return b
	}
	vmState := uint64(be.Uint32(b[32:]))
	if n >= 8 {
		vmState = be.Uint64(b[snapshotEntrySize:])
	}
	fixed := slices.Clone(b[:snapshotEntrySize])
	be.PutUint32(fixed[36:], 24)
	fixed = be.AppendUint64(fixed, vmState)
	fixed = be.AppendUint64(fixed, uint64(diskSize))
	fixed = be.AppendUint64(fixed, math.MaxUint64)
	return append(fixed, b[snapshotEntrySize+n:]...)
}
