package qed_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/internal/sparse"
	"github.com/virtfmt/virtfmt/qed"
)

const (
	testCluster = 65536
	testTable   = 4 * testCluster
	testL1      = testCluster
)

// written returns an image of 64 KiB clusters with some data, and the offset
// of its L2 table.
func written(t *testing.T) (b []byte, l2 int64) {
	t.Helper()
	f := memfile.New()
	img, err := qed.Create(f, 20<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{0, 65536, 10 << 20} {
		if _, err := img.WriteAt(bytes.Repeat([]byte{0xaa}, testCluster), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := img.WriteZeroesAt(1<<20, testCluster); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	b = f.Bytes()
	return b, int64(binary.LittleEndian.Uint64(b[testL1:]))
}

// TestDamage breaks each invariant of the section "Consistency checking" once:
// the finding is told, qemu-img counts the same, and so does it after a repair.
func TestDamage(t *testing.T) {
	le := binary.LittleEndian
	for _, c := range []struct {
		name   string
		damage func(b []byte, l2 int64) []byte
		want   qed.FindingKind
		entry  func(l2 int64) int64
		left   int64 // corruptions after a repair as QEMU does it
	}{
		{"data past the end", func(b []byte, l2 int64) []byte { le.PutUint64(b[l2+16:], 1<<40); return b },
			qed.FindingOutOfRange, func(l2 int64) int64 { return l2 + 16 }, 0},
		{"data in the header", func(b []byte, l2 int64) []byte { le.PutUint64(b[l2+16:], 2); return b },
			qed.FindingMisaligned, func(l2 int64) int64 { return l2 + 16 }, 0},
		{"data not aligned", func(b []byte, l2 int64) []byte { le.PutUint64(b[l2:], le.Uint64(b[l2:])+512); return b },
			qed.FindingMisaligned, func(l2 int64) int64 { return l2 }, 0},
		{"data shared", func(b []byte, l2 int64) []byte { copy(b[l2+8:l2+16], b[l2:]); return b },
			qed.FindingShared, func(l2 int64) int64 { return l2 + 8 }, 1},
		{"data is a table", func(b []byte, l2 int64) []byte { le.PutUint64(b[l2+24:], uint64(l2)); return b },
			qed.FindingShared, func(l2 int64) int64 { return l2 + 24 }, 1},
		{"table not aligned", func(b []byte, _ int64) []byte { le.PutUint64(b[testL1+8:], 65536*5+4096); return b },
			qed.FindingMisaligned, func(int64) int64 { return testL1 + 8 }, 0},
		{"table past the end", func(b []byte, _ int64) []byte { le.PutUint64(b[testL1+8:], 1<<40); return b },
			qed.FindingNoRoom, func(int64) int64 { return testL1 + 8 }, 0},
		{"table without room", func(b []byte, _ int64) []byte { le.PutUint64(b[testL1+8:], uint64(len(b)-testCluster)); return b },
			qed.FindingNoRoom, func(int64) int64 { return testL1 + 8 }, 0},
		{"leak", func(b []byte, _ int64) []byte { return append(b, make([]byte, 3*testCluster)...) },
			qed.FindingLeak, func(int64) int64 { return -1 }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, l2 := written(t)
			f := memfile.FromBytes(c.damage(b, l2))
			before := qemuVerdict(t, f)
			img, err := qed.OpenRW(f, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := img.Check(context.Background(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(res.Findings) == 0 || res.Findings[0].Kind != c.want || res.Findings[0].Entry != c.entry(l2) {
				t.Fatalf("findings %v, want %v at %#x", res.Findings, c.want, c.entry(l2))
			}
			if before != nil && (before.Corruptions != res.Corruptions || before.Leaks != res.Leaks) {
				t.Errorf("found %+v, qemu-img %+v", res, before)
			}
			res, err = img.Check(context.Background(), &qed.CheckOptions{Repair: qed.RepairErrors})
			if err != nil || res.Corruptions != c.left {
				t.Errorf("repair: %+v, %v", res, err)
			}
			if after := qemuVerdict(t, f); after != nil && after.Corruptions != c.left {
				t.Errorf("after the repair qemu-img says %+v", after)
			}
			want := readAll(t, img)
			res, err = img.Check(context.Background(), &qed.CheckOptions{Repair: qed.RepairAll})
			if err != nil || res.Corruptions != 0 {
				t.Errorf("repair of all: %+v, %v", res, err)
			}
			if !bytes.Equal(readAll(t, img), want) {
				t.Error("the repair changed what the disk reads as")
			}
			if err := img.Close(); err != nil {
				t.Fatal(err)
			}
			if after := qemuVerdict(t, f); after != nil && after.Corruptions != 0 {
				t.Errorf("after the repair of all qemu-img says %+v", after)
			}
		})
	}
}

func readAll(t *testing.T, img *qed.Image) []byte {
	t.Helper()
	b := make([]byte, img.Size())
	if _, err := img.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// qemuVerdict returns what qemu-img check says, nil in -short mode.
func qemuVerdict(t *testing.T, f *memfile.File) *verdict {
	t.Helper()
	if testing.Short() {
		return nil
	}
	name := filepath.Join(t.TempDir(), "judged.qed")
	if err := os.WriteFile(name, f.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	v := qemuCheck(t, difftest.Tool(t, "qemu-img", "7.2"), name)
	return &v
}

func TestRepairFreesWhatLeaked(t *testing.T) {
	b, _ := written(t)
	length := int64(len(b))
	f := memfile.FromBytes(append(b, make([]byte, 5*testCluster+100)...))
	img, err := qed.OpenRW(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := img.Check(context.Background(), &qed.CheckOptions{Repair: qed.RepairAll})
	if err != nil || res.LeaksFixed != 5 || res.Leaks != 0 {
		t.Errorf("%+v, %v", res, err)
	}
	if f.Size() != length {
		t.Errorf("the file has %d bytes, want %d", f.Size(), length)
	}
	if _, err := img.WriteAt([]byte("new"), 5<<20); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	img, err = qed.Open(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := img.Check(context.Background(), nil); err != nil || !res.Clean() {
		t.Errorf("%+v, %v", res, err)
	}
}

// TestRepairPunchesHoles: what leaked in the middle of a file takes no space
// any more, where the system has holes.
func TestRepairPunchesHoles(t *testing.T) {
	const size = 1 << 20
	f, err := os.Create(filepath.Join(t.TempDir(), "a.qed"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := qed.Create(f, 4*size, &qed.CreateOptions{ClusterSize: size})
	if err != nil {
		t.Fatal(err)
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	leaked := bytes.Repeat([]byte{7}, size)
	if _, err := f.WriteAt(leaked, end); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	if img, err = qed.OpenRW(f, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := img.Check(t.Context(), &qed.CheckOptions{Repair: qed.RepairAll}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	if _, err := f.ReadAt(got, end); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, leaked) && !errors.Is(sparse.PunchHole(f, end, size), errors.ErrUnsupported) {
		t.Error("what leaked is still there")
	}
}

// TestNeedCheck: the bit is set before the first allocating write, stays
// through a crash, and the next OpenRW checks, repairs and clears it.
func TestNeedCheck(t *testing.T) {
	f := memfile.New()
	img, err := qed.Create(f, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	bit := func() bool { return f.Bytes()[16]&2 != 0 }
	if bit() {
		t.Error("set in a new image")
	}
	f.Record()
	if _, err := img.WriteAt([]byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	r := memfile.NewReplay(f)
	for r.Next() {
		for s := range r.All() {
			if b := s.Bytes(); len(b) > 5*testCluster && b[16]&2 == 0 {
				t.Error("guest data may reach the file before the bit")
			}
		}
	}
	if !bit() {
		t.Error("not set after an allocating write")
	}
	crashed := f.Clone()
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	if bit() {
		t.Error("set after Close")
	}
	ro, err := qed.Open(crashed, nil)
	if err != nil || ro.Header().Features&qed.FeatureNeedCheck == 0 {
		t.Errorf("reading: %v", err)
	}
	img, err = qed.OpenRW(crashed, nil)
	if err != nil {
		t.Fatal(err)
	}
	if crashed.Bytes()[16]&2 != 0 || img.Header().Features != 0 {
		t.Error("OpenRW did not clear the bit")
	}
	// In-place writes need no bit.
	b, _ := written(t)
	f = memfile.FromBytes(b)
	if img, err = qed.OpenRW(f, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("y"), 100); err != nil {
		t.Fatal(err)
	}
	if bit() {
		t.Error("set by a write in place")
	}
}

func TestNeedCheckThatCannotBeMended(t *testing.T) {
	b, l2 := written(t)
	copy(b[l2+8:l2+16], b[l2:]) // shared data
	b[16] |= 2
	if _, err := qed.OpenRW(memfile.FromBytes(b), nil); !errors.Is(err, qed.ErrCorrupt) {
		t.Errorf("OpenRW: %v", err)
	}
	if _, err := qed.Open(memfile.FromBytes(b), nil); err != nil {
		t.Errorf("Open: %v", err)
	}
}

func TestCheckCanBeCancelled(t *testing.T) {
	b, _ := written(t)
	img, err := qed.Open(bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := img.Check(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
