package qcow2_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// corruptions are what a writer finds, and an operation that finds it. Guest
// cluster 100 of the sample has no place, 70 has one of its own.
var corruptions = []struct {
	name  string
	image string
	do    func(*editor)
	write func(im *qcow2.Image, cluster int64) error
}{
	{"the header counts as free", "v3", func(e *editor) { e.setRefcount(0, 0) }, writeCluster(100)},
	{"the header counts as free, version 2", "v2", func(e *editor) { e.setRefcount(0, 0) }, writeCluster(200)},
	{"the refcount table counts as free", "v3", func(e *editor) { e.setRefcount(uint64(e.refTable), 0) }, writeCluster(100)},
	{"a refcount block counts as free", "v3", func(e *editor) { e.setRefcount(uint64(e.table(e.refTable)), 0) }, writeCluster(100)},
	{"the L1 table counts as free", "v3", func(e *editor) { e.setRefcount(uint64(e.l1), 0) }, writeCluster(100)},
	{"an L2 table counts as free", "v3", func(e *editor) { e.setRefcount(uint64(e.table(e.l1)), 0) }, writeCluster(100)},
	{"an L2 table counts as free, a compressed write", "v3", func(e *editor) { e.setRefcount(uint64(e.table(e.l1)), 0) }, compressCluster(100)},
	{"the snapshot table counts as free", "v3", func(e *editor) { e.setRefcount(uint64(e.snapshots), 0) }, writeCluster(100)},
	{"the L1 table of a snapshot counts as free", "v3", func(e *editor) { e.setRefcount(uint64(e.snapshotL1(1)), 0) }, writeCluster(100)},
	{"a bitmap's table counts as free", "bitmap", func(e *editor) { e.setRefcount(uint64(e.bitmapTable()), 0) },
		func(im *qcow2.Image, cluster int64) error { // there are free clusters before it
			return errors.Join(writeCluster(100)(im, cluster), writeCluster(110)(im, cluster), writeCluster(120)(im, cluster))
		}},
	{"guest data in the L1 table", "v3", func(e *editor) { e.put64(e.l2(70), 1<<63|uint64(e.l1)) }, writeCluster(70)},
	{"an L2 entry between clusters", "v3", func(e *editor) { e.put64(e.l2(70), e.u64(e.l2(70))+512) }, writeCluster(70)},
	{"an L2 entry between clusters, a discard", "v3", func(e *editor) { e.put64(e.l2(70), e.u64(e.l2(70))+512) }, discardCluster(70)},
	{"guest data in the L1 table, a discard", "v3", func(e *editor) { e.put64(e.l2(70), uint64(e.l1)) }, discardCluster(70)},
	{"guest data in the L1 table, a new place", "v3", func(e *editor) { e.put64(e.l2(70), uint64(e.l1)) }, writeCluster(70)},
	{"compressed data in an L2 table, zeros", "v3", func(e *editor) { e.put64(e.l2(48), 1<<62|uint64(e.table(e.l1))) },
		func(im *qcow2.Image, cluster int64) error { return im.WriteZeroesAt(48*cluster, cluster) }},
	{"an L1 entry between clusters", "v3", func(e *editor) { e.put64(e.l1, e.u64(e.l1)+512) }, writeCluster(70)},
	{"a refcount block between clusters", "v3", func(e *editor) { e.put64(e.refTable, e.u64(e.refTable)+512) }, writeCluster(100)},
	{"a cluster in use has no refcount", "v3", func(e *editor) { e.setRefcount(e.host(70), 0) },
		func(im *qcow2.Image, cluster int64) error {
			return errors.Join(im.UnmapAt(70*cluster, cluster), im.Sync())
		}},
}

func writeCluster(i int64) func(*qcow2.Image, int64) error {
	return func(im *qcow2.Image, cluster int64) error {
		_, err := im.WriteAt(bytes.Repeat([]byte{0xee}, int(cluster)), i*cluster)
		return err
	}
}

func discardCluster(i int64) func(*qcow2.Image, int64) error {
	return func(im *qcow2.Image, cluster int64) error { return im.DiscardAt(i*cluster, cluster) }
}

func compressCluster(i int64) func(*qcow2.Image, int64) error {
	return func(im *qcow2.Image, cluster int64) error {
		_, err := im.WriteCompressedAt(bytes.Repeat([]byte{0xee}, int(cluster)), i*cluster)
		return err
	}
}

// TestCorruptWhileWriting: a corruption that a writer finds makes the image
// read-only, is marked in the file if its version can tell it, and leaves what
// the disk held as it was.
func TestCorruptWhileWriting(t *testing.T) {
	for _, c := range corruptions {
		t.Run(c.name, func(t *testing.T) {
			e := edit(image(t, c.image))
			c.do(e)
			want := content(t, bytes.NewReader(e.b))
			f := memfile.FromBytes(e.b)
			im, err := qcow2.OpenRW(f, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.write(im, e.cluster); !errors.Is(err, qcow2.ErrCorrupt) {
				t.Fatalf("the write: %v", err)
			}
			if _, err := im.WriteAt([]byte{1}, 0); !errors.Is(err, qcow2.ErrReadOnly) || !errors.Is(err, qcow2.ErrCorrupt) {
				t.Errorf("the next write: %v", err)
			}
			if err := im.Close(); !errors.Is(err, qcow2.ErrReadOnly) {
				t.Errorf("Close: %v", err)
			}
			im, err = qcow2.OpenRW(f, nil)
			if marked := errors.Is(err, qcow2.ErrCorrupt); marked != (e.b[7] == 3) {
				t.Errorf("opened again: %v", err)
			}
			if err == nil {
				im.Close()
			}
			if c.name != "a cluster in use has no refcount" && !bytes.Equal(content(t, f), want) {
				t.Error("the content changed")
			}
		})
	}
}

// TestCorruptWhileReading: a reader marks nothing, even if it could write.
func TestCorruptWhileReading(t *testing.T) {
	e := edit(image(t, "v3"))
	e.put64(e.l2(70), e.u64(e.l2(70))+512)
	f := memfile.FromBytes(e.b)
	im, err := qcow2.OpenRW(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.ReadAt(make([]byte, 10), 70*e.cluster); !errors.Is(err, qcow2.ErrCorrupt) {
		t.Errorf("read: %v", err)
	}
	if err := im.Close(); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(f.Bytes(), e.b) {
		t.Error("the file changed")
	}
}

// TestCorruptInQemu: QEMU refuses to write to what is marked here, repairs it
// and takes it then.
func TestCorruptInQemu(t *testing.T) {
	img, io := difftest.Tool(t, "qemu-img", "7.2"), difftest.Tool(t, "qemu-io", "7.2")
	e := edit(image(t, "v3"))
	e.setRefcount(uint64(e.l1), 0)
	f := memfile.FromBytes(e.b)
	im, err := qcow2.OpenRW(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeCluster(100)(im, e.cluster); !errors.Is(err, qcow2.ErrCorrupt) {
		t.Fatal(err)
	}
	im.Close()
	name := difftest.FastDir(t) + "/corrupt.qcow2"
	writeFile(t, name, f.Bytes())
	if r := difftest.Try(t, io, "-f", "qcow2", "-c", "write 0 4k", name); r.Code == 0 || !bytes.Contains(r.Stderr, []byte("corrupt")) {
		t.Errorf("qemu-io writes to it: exit %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
	difftest.Try(t, img, "check", "-q", "-f", "qcow2", "-r", "all", name)
	if r := difftest.Try(t, io, "-f", "qcow2", "-c", "write 0 4k", name); r.Code != 0 {
		t.Errorf("qemu-io after the repair: exit %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
}
