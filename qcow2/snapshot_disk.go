package qcow2

import (
	"context"
	"fmt"
	"io"
	"iter"
	"math"
	"sync/atomic"

	"github.com/virtfmt/virtfmt/internal/block"
)

// A SnapshotDisk is the disk as it was when a snapshot was taken, beside the
// active one: it can be read, copied, or be a backing file. Its methods are
// safe for concurrent use, also with those of its image.
//
// It can be used until its image is closed or the snapshot deleted; then the
// error is [ErrClosed] or [ErrNoSnapshot].
type SnapshotDisk struct {
	im   *Image
	s    *snapshot
	root *root
	size atomic.Int64
}

// OpenSnapshot opens the disk of the snapshot with an ID or, if there is none,
// the first with that name. If there is no such snapshot the error is
// [ErrNoSnapshot].
func (im *Image) OpenSnapshot(idOrName string) (*SnapshotDisk, error) {
	im.gate.RLock() // it is not deleted meanwhile
	defer im.gate.RUnlock()
	if im.closed.Load() {
		return nil, ErrClosed
	}
	if im.external {
		return nil, unsupportedf("snapshots with an external data file")
	}
	t, err := im.snapshotList()
	if err != nil {
		return nil, err
	}
	s, err := t.find(idOrName)
	if err != nil {
		return nil, err
	}
	size, _, err := im.diskSize(s)
	if err != nil {
		return nil, err
	}
	if err := im.checkL1(s); err != nil {
		return nil, err
	}
	d := &SnapshotDisk{im: im, s: s}
	d.size.Store(size)
	if d.root, err = im.loadRoot(hostOff(s.l1Offset), int(s.l1Size), &d.size); err != nil {
		return nil, fmt.Errorf("qcow2: snapshot %q: %w", s.id, err)
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.views == nil {
		im.views = map[*SnapshotDisk]struct{}{}
	}
	im.views[d] = struct{}{}
	return d, nil
}

// Close ends the use of the disk, and gives back its memory. It does not close
// the image.
func (d *SnapshotDisk) Close() error {
	im := d.im
	im.mu.Lock()
	defer im.mu.Unlock()
	if _, ok := im.views[d]; !ok {
		return ErrClosed
	}
	delete(im.views, d)
	d.root.gone.Store(true)
	im.tables.Reserve(-int64(len(d.root.l1.Bytes())))
	return nil
}

// Snapshot describes the snapshot.
func (d *SnapshotDisk) Snapshot() Snapshot { return d.s.describe() }

// Size returns the size of the disk in bytes.
func (d *SnapshotDisk) Size() int64 { return d.size.Load() }

// ReadAt reads from the disk at off. It implements [io.ReaderAt].
func (d *SnapshotDisk) ReadAt(p []byte, off int64) (int, error) {
	return d.im.readDisk(d.root, p, off)
}

// Extents yields what stands behind the n bytes at off, as [Image.Extents]
// does for the active disk.
func (d *SnapshotDisk) Extents(off, n int64) iter.Seq2[Extent, error] {
	return d.im.extentsOf(d.root, off, n)
}

// CopyTo copies what the disk holds to dst, as [Image.CopyTo] does for the
// active disk.
func (d *SnapshotDisk) CopyTo(ctx context.Context, dst io.WriterAt, o *CopyOptions) (CopyStats, error) {
	return block.Copy(ctx, dst, d, o)
}

// ClusterSize returns the unit in which the disk is stored, in bytes.
func (d *SnapshotDisk) ClusterSize() int64 { return d.im.ClusterSize() }

// HostFile returns the file that the HostOffset of extents of kind [Data] at
// that depth refers to, as [Image.HostFile] does.
func (d *SnapshotDisk) HostFile(depth int) io.ReaderAt { return d.im.HostFile(depth) }

// VMState returns the state of the virtual machine that the snapshot keeps. It
// is empty if there is none.
func (d *SnapshotDisk) VMState() *io.SectionReader {
	return io.NewSectionReader(vmState{d.im, d.root}, 0, int64(min(d.s.vmState, math.MaxInt64)))
}

var (
	_ block.Disk      = (*SnapshotDisk)(nil)
	_ block.HostFiler = (*SnapshotDisk)(nil)
	_ block.Clusterer = (*SnapshotDisk)(nil)
)
