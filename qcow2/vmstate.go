package qcow2

import (
	"fmt"
	"math"
)

// The state of a virtual machine is stored like the content of the disk,
// from the first cluster on whose L1 entry the disk does not need: section
// "Snapshots".

// vmStateOffset returns where the VM state of a disk of size bytes begins.
func (l *layout) vmStateOffset(size int64) guestOff {
	return guestOff(l.l1EntriesFor(size) << l.l1CoverageBits())
}

// A vmState reads the VM state of a mapping. It has no end: what was not
// written is zeros.
type vmState struct {
	im *Image
	r  *root
}

func (v vmState) ReadAt(p []byte, off int64) (int, error) {
	im := v.im
	if err := im.checkRange(off, int64(len(p))); err != nil {
		return 0, err
	}
	start := im.vmStateOffset(v.r.size.Load())
	if off > math.MaxInt64-int64(start)-int64(len(p)) {
		return 0, im.outOfRange(off, int64(len(p)))
	}
	return im.readVia(v.r, p, start+guestOff(off))
}

// ReadVMStateAt reads from the VM state of the active disk: what
// [Image.WriteVMStateAt] wrote since the last snapshot that took it, or what
// the applied snapshot kept. It has no end; what was never written is zeros.
// The VM state of a snapshot is read by [SnapshotDisk.VMState].
func (im *Image) ReadVMStateAt(p []byte, off int64) (int, error) {
	return vmState{im, im.active}.ReadAt(p, off)
}

// WriteVMStateAt writes to the VM state of the active disk, which becomes part
// of a snapshot by [SnapshotOptions]. Concurrent calls must not overlap. It is
// lost when the image is resized. Past what an L1 table of 32 MiB
// can describe the error is [ErrLimit]; images with an external data file
// cannot have VM state: it is [errors.ErrUnsupported].
func (im *Image) WriteVMStateAt(p []byte, off int64) (int, error) {
	if im.external {
		return 0, unsupportedf("VM state with an external data file")
	}
	if err := im.checkRange(off, int64(len(p))); err != nil {
		return 0, err
	}
	if err := im.growForVMState(off, int64(len(p))); err != nil {
		return 0, err
	}
	if err := im.enter(); err != nil {
		return 0, err
	}
	n, err := im.wholeSectors(p, im.vmStateOffset(im.Size())+guestOff(off), im.write)
	im.gate.RUnlock()
	if err == nil {
		err = im.tidy()
	}
	return n, err
}

// growForVMState makes the L1 table describe n bytes of VM state at off.
func (im *Image) growForVMState(off, n int64) error {
	first := im.l1EntriesFor(im.Size())
	need := first + im.l1EntriesFor(off+min(n, math.MaxInt64-off))
	if need > maxL1Bytes/l1EntrySize {
		return fmt.Errorf("qcow2: VM state of %d bytes at %d: %w of an L1 table of %d bytes", n, off, ErrLimit, maxL1Bytes)
	}
	im.mu.RLock()
	have := int64(im.active.entries)
	im.mu.RUnlock()
	if need <= have {
		return nil
	}
	// Half as much again, so that a stream of writes does not copy the table
	// each time.
	return im.growL1(int(min(max(need, have+have/2), maxL1Bytes/l1EntrySize)))
}
