package qcow2_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// selfReferences make two pieces of metadata lie in the same place. Guest
// clusters 100 and 500 of the sample have no place yet, 70 has one.
var selfReferences = []struct {
	name    string
	do      func(e *editor)
	cluster int64 // that is written
	asQEMU  bool  // QEMU refuses it too, rather than destroy the image
}{
	{"the L1 table of a snapshot is the active one", func(e *editor) { e.put64(e.snapshotEntry(0), uint64(e.l1)) }, 100, false},
	{"the L1 table of a snapshot is the refcount table", func(e *editor) { e.put64(e.snapshotEntry(0), uint64(e.refTable)) }, 100, false},
	{"the L1 table of a snapshot is the header", func(e *editor) { e.put64(e.snapshotEntry(0), 0) }, 100, false},
	{"the L1 table of a snapshot is an L2 table", func(e *editor) { e.put64(e.snapshotEntry(0), uint64(e.table(e.l1))) }, 500, true},
	{"the L1 table of a snapshot is the snapshot table", func(e *editor) { e.put64(e.snapshotEntry(0), uint64(e.snapshots)) }, 100, false},
	{"the snapshot table is the L1 table", func(e *editor) { e.put64(64, uint64(e.l1)) }, 100, false},
	{"an L2 table is the refcount table", func(e *editor) { e.put64(e.l1, 1<<63|uint64(e.refTable)) }, 100, true},
	{"an L2 table is a refcount block", func(e *editor) { e.put64(e.l1, 1<<63|uint64(e.table(e.refTable))) }, 500, true},
	{"an L2 table is the L1 table", func(e *editor) { e.put64(e.l1, 1<<63|uint64(e.l1)) }, 70, true},
	{"an L2 table is the snapshot table", func(e *editor) { e.put64(e.l1, 1<<63|uint64(e.snapshots)) }, 100, true},
	{"an L2 table is the L1 table of a snapshot", func(e *editor) { e.put64(e.l1, 1<<63|uint64(e.snapshotL1(0))) }, 70, true},
	{"an L2 table is that of two L1 entries", func(e *editor) { e.put64(e.l1+8, e.u64(e.l1)) }, 100, false},
	{"a refcount block is the L1 table", func(e *editor) { e.put64(e.refTable, uint64(e.l1)) }, 100, true},
	{"a refcount block is an L2 table", func(e *editor) { e.put64(e.refTable, uint64(e.table(e.l1))) }, 100, true},
	{"a refcount block is the refcount table", func(e *editor) { e.put64(e.refTable, uint64(e.refTable)) }, 500, true},
	{"the refcount table is the L1 table", func(e *editor) { e.put64(48, uint64(e.l1)) }, 100, true},
	{"the refcount table is the header", func(e *editor) { e.put64(48, 0) }, 100, true},
	{"the L1 table is the refcount table", func(e *editor) { e.put64(40, uint64(e.refTable)) }, 70, true},
	{"the L1 table is the header", func(e *editor) { e.put64(40, 0) }, 100, true},
}

// TestSelfReferenceCopiedOut: what a repair does not make writable can still be
// copied to a new image.
func TestSelfReferenceCopiedOut(t *testing.T) {
	copied := 0
	for _, m := range selfReferences {
		e := edit(image(t, "v3"))
		m.do(e)
		f := memfile.FromBytes(bytes.Clone(e.b))
		if _, err := qcow2.Repair(t.Context(), f, qcow2.RepairAll, nil); err != nil {
			t.Fatal(err)
		}
		if im, err := qcow2.OpenRW(f, nil); err == nil {
			err = writeCluster(m.cluster)(im, e.cluster)
			im.Close()
			if err == nil {
				continue
			}
			if !errors.Is(err, qcow2.ErrCorrupt) || !strings.Contains(err.Error(), "copied to a new one") {
				t.Errorf("%s: %v", m.name, err)
			}
		}
		copied++
		im, err := qcow2.Open(f, nil)
		if err != nil {
			t.Fatal(err)
		}
		fresh := memfile.New()
		dst, err := qcow2.Create(fresh, im.Size(), nil)
		if err != nil {
			t.Fatal(err)
		}
		lost := false
		o := &qcow2.CopyOptions{ReadError: func(int64, int64, error) error { lost = true; return nil }}
		if _, err := im.CopyTo(t.Context(), dst, o); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		if err := errors.Join(writeCluster(1000)(dst, e.cluster), dst.Close(), im.Close()); err != nil {
			t.Error(err)
		}
		if r, err := qcow2.Check(t.Context(), fresh, nil); err != nil || !r.Clean() {
			t.Errorf("%s: the copy: %+v, %v", m.name, r, err)
		}
		want := content(t, bytes.NewReader(e.b))
		copy(want[1000*e.cluster:], bytes.Repeat([]byte{0xee}, int(e.cluster)))
		if got := content(t, fresh); !lost && !bytes.Equal(got, want) {
			t.Errorf("%s: the copy holds something else", m.name)
		}
		t.Logf("%s: copied, with parts that could not be read: %v", m.name, lost)
	}
	if copied < 5 {
		t.Errorf("only %d images were copied", copied)
	}
}

// sameButMarked reports whether two files differ in nothing but the mark of
// corruption.
func sameButMarked(a, b []byte) bool {
	a, b = bytes.Clone(a), bytes.Clone(b)
	a[79] |= qcow2.IncompatCorrupt
	b[79] |= qcow2.IncompatCorrupt
	return bytes.Equal(a, b)
}

// TestSelfReference: where a change of one piece of metadata would change
// another, nothing is written, and the image is marked as corrupt.
func TestSelfReference(t *testing.T) {
	for _, m := range selfReferences {
		t.Run(m.name, func(t *testing.T) {
			e := edit(image(t, "v3"))
			m.do(e)
			for name, do := range map[string]func(*qcow2.Image) error{
				"write":    func(im *qcow2.Image) error { return writeCluster(m.cluster)(im, e.cluster) },
				"zeros":    func(im *qcow2.Image) error { return im.WriteZeroesAt(m.cluster*e.cluster, e.cluster) },
				"snapshot": func(im *qcow2.Image) error { _, err := im.CreateSnapshot(t.Context(), "x", nil); return err },
				"apply":    func(im *qcow2.Image) error { return im.ApplySnapshot(t.Context(), "1") },
				"resize":   func(im *qcow2.Image) error { return im.Resize(t.Context(), 64<<20, nil) },
				"bitmap":   func(im *qcow2.Image) error { return im.AddBitmap("x", nil) },
			} {
				f := memfile.FromBytes(e.b)
				im, err := qcow2.OpenRW(f, nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := do(im); !errors.Is(err, qcow2.ErrCorrupt) {
					t.Errorf("%s: %v", name, err)
				}
				if err := im.Close(); !errors.Is(err, qcow2.ErrReadOnly) {
					t.Errorf("%s: Close: %v", name, err)
				}
				if !sameButMarked(f.Bytes(), e.b) {
					t.Errorf("%s: the file changed", name)
				}
				if _, err := qcow2.OpenRW(f, nil); !errors.Is(err, qcow2.ErrCorrupt) {
					t.Errorf("%s: opened again: %v", name, err)
				}
			}
		})
	}
}

// TestSelfReferenceInSnapshot: a snapshot whose L2 table is other metadata is
// not made the active disk.
func TestSelfReferenceInSnapshot(t *testing.T) {
	for _, place := range []string{"refcount block", "L1 table", "refcount table", "snapshot table"} {
		e := edit(image(t, "v3"))
		off := map[string]int64{"refcount block": e.table(e.refTable), "L1 table": e.l1, "refcount table": e.refTable, "snapshot table": e.snapshots}[place]
		e.put64(e.snapshotL1(0), uint64(off))
		e.setRefcount(uint64(off), 2) // as a repair leaves it
		f := memfile.FromBytes(e.b)
		im, err := qcow2.OpenRW(f, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := im.ApplySnapshot(t.Context(), "1"); !errors.Is(err, qcow2.ErrCorrupt) {
			t.Errorf("%s: %v", place, err)
		}
		im.Close()
		if !sameButMarked(f.Bytes(), e.b) {
			t.Errorf("%s: the file changed", place)
		}
	}
}

// TestSelfReferenceInQemu: QEMU, too, refuses to write where it would change a
// piece of metadata with another.
func TestSelfReferenceInQemu(t *testing.T) {
	io := difftest.Tool(t, "qemu-io", "7.2")
	name := filepath.Join(difftest.FastDir(t), "x.qcow2")
	for _, m := range selfReferences {
		e := edit(image(t, "v3"))
		m.do(e)
		writeFile(t, name, e.b)
		r := difftest.Try(t, io, "-f", "qcow2", "-c", fmt.Sprintf("write %d %d", m.cluster*e.cluster, e.cluster), name)
		if refused := r.Code != 0; refused != m.asQEMU {
			t.Errorf("%s: exit %d: %s%s", m.name, r.Code, r.Stdout, r.Stderr)
		}
	}
}
