package qcow2

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/virtfmt/virtfmt/internal/align"
)

// SnapshotOptions describes a snapshot that is created. The zero value, like
// nil, is what qemu-img snapshot -c makes.
type SnapshotOptions struct {
	// Time is when the snapshot is taken, from 1970 to 2106; zero is now.
	Time time.Time

	// VMClock is how long the guest has run.
	VMClock time.Duration

	// VMStateSize is how many bytes of what was written by
	// [Image.WriteVMStateAt] belong to the snapshot. If it is not 0, all of
	// the state goes to the snapshot, and the active disk has none afterwards.
	VMStateSize int64

	// ICount is the number of instructions that the guest has executed, -1 if
	// they are not counted.
	ICount int64
}

// newSnapshot returns the snapshot that the options describe, without its L1
// table.
func (o *SnapshotOptions) newSnapshot(name string) (*snapshot, error) {
	var d SnapshotOptions
	if o != nil {
		d = *o
	}
	if d.Time.IsZero() {
		d.Time = time.Now()
	}
	sec := d.Time.Unix()
	switch {
	case len(name) > maxSnapshotName:
		return nil, fmt.Errorf("qcow2: name of the snapshot: %d bytes: %w of %d", len(name), ErrLimit, maxSnapshotName)
	case sec < 0 || sec > math.MaxUint32:
		return nil, fmt.Errorf("qcow2: time of the snapshot %v: %w of 2^32 seconds after 1970", d.Time, ErrLimit)
	case d.VMClock < 0 || d.VMStateSize < 0:
		return nil, fmt.Errorf("qcow2: clock %v or VM state of %d bytes: %w", d.VMClock, d.VMStateSize, ErrOutOfRange)
	}
	return &snapshot{
		sec: uint32(sec), nsec: uint32(d.Time.Nanosecond()),
		clock:   uint64(d.VMClock),
		vmState: uint64(d.VMStateSize),
		icount:  uint64(d.ICount),
		name:    name,
		sized:   true,
	}, nil
}

// snapshotChange runs f as a change of snapshots: with everything in the file
// that was changed before, and nothing waiting to be freed.
func (im *Image) snapshotChange(f func(c *change, t *snapshotTable) error) error {
	if im.external {
		return unsupportedf("snapshots with an external data file")
	}
	return im.change(false, func(c *change) error {
		t, err := im.snapshotList()
		if err != nil {
			return err
		}
		if err := c.settle(); err != nil {
			return err
		}
		if err := im.mendCopied(); err != nil {
			return err
		}
		if err := f(c, t); err != nil {
			// What cannot be mended now will be before the image is marked as
			// clean.
			err = c.undo(err)
			_ = im.mendCopied()
			return err
		}
		return nil
	})
}

// mendCopied makes the COPIED flags right after a change of snapshots that
// failed half way. The gate is held exclusively.
func (im *Image) mendCopied() error {
	if !im.copiedDue {
		return nil
	}
	c := &change{im: im}
	if err := c.settle(); err != nil { // refcounts are to be lowered yet
		return err
	}
	if err := im.setCopied(context.Background(), all, im.once); err != nil {
		return err
	}
	im.copiedDue = false
	return nil
}

// begin marks the image as dirty, where it has a mark that says so only
// meanwhile.
func (c *change) begin() error {
	c.im.copiedDue = true
	if c.im.version < 3 || c.im.lazy {
		return nil
	}
	return c.mark(true)
}

// end waits until all that was dropped is free, and clears the mark of begin.
// COPIED flags are as they must be.
func (c *change) end() error {
	if err := c.settle(); err != nil {
		return err
	}
	c.im.copiedDue = false
	if c.im.version < 3 || c.im.lazy {
		return nil
	}
	return c.mark(false)
}

// CreateSnapshot keeps what the disk holds now as a new snapshot, under a name
// of at most 255 bytes that need not be unique. Its ID is a number larger than
// all there are.
//
// If a refcount is too narrow for one more reference, the error is [ErrLimit]
// and nothing is written. Readers go on meanwhile, writers wait. The snapshot
// is durable when CreateSnapshot returns. Images with an external data file
// cannot have snapshots: the error is [errors.ErrUnsupported].
func (im *Image) CreateSnapshot(ctx context.Context, name string, o *SnapshotOptions) (Snapshot, error) {
	s, err := o.newSnapshot(name)
	if err != nil {
		return Snapshot{}, err
	}
	err = im.snapshotChange(func(c *change, t *snapshotTable) error {
		if len(t.list) >= maxSnapshots {
			return fmt.Errorf("qcow2: snapshots: %w of %d", ErrLimit, maxSnapshots)
		}
		s.id, s.disk = t.newID(), uint64(im.hdr.Size)
		return c.createSnapshot(ctx, t, s)
	})
	if err != nil {
		return Snapshot{}, err
	}
	return s.describe(), nil
}

func (c *change) createSnapshot(ctx context.Context, t *snapshotTable, s *snapshot) error {
	im := c.im
	refs, err := im.references(ctx, l1Table(im.active.l1.Bytes()))
	if err != nil {
		return err
	}
	if err := refs.canRaise(); err != nil {
		return err
	}
	if err := c.begin(); err != nil {
		return err
	}
	if err := c.share(ctx, t, s, refs); err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	if s.vmState > 0 {
		entries := im.l1EntriesFor(im.Size())
		err := c.cut(context.WithoutCancel(ctx), entries<<im.l1CoverageBits(), int(entries), func(*Header) {})
		if err != nil {
			return err
		}
	}
	return c.end()
}

// share makes all that the active L1 table refers to belong to the snapshot s
// as well.
func (c *change) share(ctx context.Context, t *snapshotTable, s *snapshot, refs *references) error {
	im := c.im
	if err := im.setCopied(ctx, all, never); err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	if s.l1Size = uint32(im.active.entries); s.l1Size > 0 {
		l1 := im.active.l1.Bytes()
		off, err := c.alloc(align.CeilDiv(int64(len(l1)), im.clusterSize()))
		if err != nil {
			return err
		}
		if err := c.write(l1, off); err != nil {
			return err
		}
		s.l1Offset = uint64(off)
	}
	table := &snapshotTable{list: append(t.list[:len(t.list):len(t.list)], s)}
	publish, err := c.prepareTable(t, table)
	if err != nil {
		return err
	}
	if err := refs.raise(c); err != nil {
		return err
	}
	c.publish(publish)
	return nil
}

// prepareTable writes a new snapshot table, and returns what publishes it in
// place of the old one.
func (c *change) prepareTable(old, t *snapshotTable) (publish func(h *Header), err error) {
	im := c.im
	b, err := t.encode()
	if err != nil {
		return nil, err
	}
	off := hostOff(0)
	if len(b) > 0 {
		if off, err = c.alloc(align.CeilDiv(int64(len(b)), im.clusterSize())); err != nil {
			return nil, err
		}
		if err := c.write(b, off); err != nil {
			return nil, err
		}
	}
	t.size = int64(len(b))
	return func(h *Header) {
		if old.size > 0 {
			im.unlink(im.cluster(hostOff(h.SnapshotsOffset)), align.CeilDiv(old.size, im.clusterSize()), freedTable)
		}
		h.SnapshotsOffset, h.SnapshotCount = int64(off), uint32(len(t.list))
		im.snaps.Store(t)
	}, nil
}

// DeleteSnapshot deletes the snapshot with an ID or, if there is none, the
// first with that name, and gives back the space of what only it held. A
// [SnapshotDisk] of it cannot be read any more. If there is no such snapshot
// the error is [ErrNoSnapshot]. Once ctx has not ended the deletion before
// anything was changed, it is not looked at any more.
func (im *Image) DeleteSnapshot(ctx context.Context, idOrName string) error {
	return im.snapshotChange(func(c *change, t *snapshotTable) error {
		s, err := t.find(idOrName)
		if err != nil {
			return err
		}
		return c.deleteSnapshot(ctx, t, s)
	})
}

func (c *change) deleteSnapshot(ctx context.Context, t *snapshotTable, s *snapshot) error {
	im := c.im
	l1, err := im.readL1(s)
	if err != nil {
		return err
	}
	refs, err := im.references(ctx, l1)
	if err != nil {
		return err
	}
	if err := refs.addRange(hostOff(s.l1Offset), int64(len(l1))); err != nil {
		return err
	}
	if err := refs.canDrop(); err != nil {
		return err
	}
	if err := c.begin(); err != nil {
		return err
	}
	publish, err := c.prepareTable(t, t.without(s))
	if err != nil {
		return err
	}
	c.publish(func(h *Header) {
		publish(h)
		for d := range im.views {
			if d.s == s {
				d.root.gone.Store(true)
			}
		}
	})
	im.renewMetadata()
	refs.drop(c)
	if err := c.settle(); err != nil {
		return err
	}
	// What was shared with the snapshot alone.
	held := func(i int) bool { return i < l1.len() && l1.at(i).offset() != 0 }
	if err := im.setCopied(context.WithoutCancel(ctx), held, im.once); err != nil {
		return err
	}
	return c.end()
}

// ApplySnapshot makes the disk hold what it held when a snapshot was taken,
// and gives it the size that it had. The snapshot is found as by
// [Image.DeleteSnapshot]; it stays as it is. What the disk holds that no
// snapshot does is lost.
//
// As QEMU it refuses with [errors.ErrUnsupported] an image with bitmaps,
// and a version 2 image whose size would change while it has snapshots.
func (im *Image) ApplySnapshot(ctx context.Context, idOrName string) error {
	return im.snapshotChange(func(c *change, t *snapshotTable) error {
		s, err := t.find(idOrName)
		if err != nil {
			return err
		}
		if _, ok := im.hdr.Bitmaps(); ok {
			return unsupportedf("applying a snapshot to an image with bitmaps")
		}
		return c.applySnapshot(ctx, t, s)
	})
}

func (c *change) applySnapshot(ctx context.Context, t *snapshotTable, s *snapshot) error {
	im := c.im
	size, entries, err := im.diskSize(s)
	if err != nil {
		return err
	}
	if im.version < 3 && size != im.Size() {
		return unsupportedf("version 2 image that has snapshots and changes its size")
	}
	l1, err := im.readL1(s)
	if err != nil {
		return err
	}
	// The flags mean nothing in a snapshot, and may be wrong there.
	for i := range l1.len() {
		l1.set(i, makeL1Entry(l1.at(i).offset(), false))
	}
	if err := im.checkActive(t, l1); err != nil {
		return err
	}
	gained, err := im.references(ctx, l1)
	if err != nil {
		return err
	}
	lost, err := im.references(ctx, l1Table(im.active.l1.Bytes()))
	if err != nil {
		return err
	}
	if err := gained.canRaise(); err != nil {
		return err
	}
	if err := lost.canDrop(); err != nil {
		return err
	}
	if err := c.begin(); err != nil {
		return err
	}
	buf := make([]byte, im.clusterSize())
	for i := range l1.len() {
		if e := l1.at(i); e.offset() != 0 && gained.copied {
			if err := im.setTableCopied(e.offset(), buf, never); err != nil {
				return err
			}
		}
	}
	if err := c.flush(); err != nil {
		return err
	}
	if err := gained.raise(c); err != nil {
		return err
	}
	err = c.setActive(l1, max(1, l1.len(), int(entries)), func(h *Header) {
		h.Size = size
		im.setSize()
	})
	if err != nil {
		return err
	}
	im.renewMetadata()
	lost.drop(c)
	return c.end()
}
