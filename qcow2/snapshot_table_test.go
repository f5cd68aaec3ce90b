package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// withExtra returns an image whose first snapshot has extra data of n bytes:
// as much of what is known as there is room for, and then a pattern.
func withExtra(t testing.TB, version int, n int, cluster int64) []byte {
	t.Helper()
	f := memfile.New()
	im, err := qcow2.Create(f, 16*cluster, &qcow2.CreateOptions{Version: version, ClusterSize: cluster})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.WriteAt([]byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := im.CreateSnapshot(t.Context(), "first", &qcow2.SnapshotOptions{VMStateSize: 77, ICount: 5}); err != nil {
		t.Fatal(err)
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	b := f.Bytes()
	at := edit(b).snapshotEntry(0)
	known, rest := slices.Clone(b[at+40:at+64]), slices.Clone(b[at+64:at+72])
	binary.BigEndian.PutUint32(b[at+36:], uint32(n))
	extra := append(known, bytes.Repeat([]byte{0xee}, 1024)...)[:n]
	copy(b[at+40:], append(append(extra, rest...), make([]byte, 64)...))
	return b
}

// TestSnapshotExtraData: what this package does not know of a snapshot survives
// every operation, and what is missing is added.
func TestSnapshotExtraData(t *testing.T) {
	for _, tc := range []struct{ version, extra int }{
		{2, 0}, {2, 8}, {2, 12}, {3, 16}, {3, 20}, {3, 24}, {3, 25}, {3, 100}, {3, 1024},
	} {
		f := memfile.FromBytes(withExtra(t, tc.version, tc.extra, 65536))
		im, err := qcow2.OpenRW(f, nil)
		if err != nil {
			t.Fatal(err)
		}
		list, err := im.Snapshots()
		if err != nil {
			t.Fatal(err)
		}
		want := qcow2.Snapshot{ID: "1", Name: "first", Time: list[0].Time, VMStateSize: 77, DiskSize: 1 << 20, ICount: -1}
		if tc.extra >= 24 {
			want.ICount = 5
			if tc.extra > 24 {
				want.Extra = bytes.Repeat([]byte{0xee}, tc.extra-24)
			}
		}
		same := func(when string) {
			t.Helper()
			list, err := im.Snapshots()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, list[0]); diff != "" {
				t.Errorf("%+v, %s: %s", tc, when, diff)
			}
		}
		same("opened")
		ctx := t.Context()
		_, err = im.CreateSnapshot(ctx, "second", nil)
		if err == nil {
			err = im.ApplySnapshot(ctx, "first")
		}
		if err == nil {
			err = im.DeleteSnapshot(ctx, "second")
		}
		if err == nil && tc.version == 3 {
			err = im.Resize(ctx, 2<<20, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		same("after all")
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		if im, err = qcow2.OpenRW(f, nil); err != nil {
			t.Fatal(err)
		}
		same("opened again")
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		checkClean(t, f)
	}
}

// TestSnapshotTableHostile: a table that lies is an error.
func TestSnapshotTableHostile(t *testing.T) {
	good := withExtra(t, 3, 24, 65536)
	at := edit(good).snapshotEntry(0)
	ops := map[string]func(im *qcow2.Image) error{
		"list":   func(im *qcow2.Image) error { _, err := im.Snapshots(); return err },
		"open":   func(im *qcow2.Image) error { _, err := im.OpenSnapshot("1"); return err },
		"apply":  func(im *qcow2.Image) error { return im.ApplySnapshot(t.Context(), "1") },
		"delete": func(im *qcow2.Image) error { return im.DeleteSnapshot(t.Context(), "1") },
		"create": func(im *qcow2.Image) error { _, err := im.CreateSnapshot(t.Context(), "x", nil); return err },
	}
	be := binary.BigEndian
	for _, tc := range []struct {
		name  string
		edit  func(b []byte)
		fails string // which operations
		err   error
	}{
		{"extra data of 1025 bytes", func(b []byte) { be.PutUint32(b[at+36:], 1025) }, "list open apply delete create", qcow2.ErrLimit},
		{"L1 table between clusters", func(b []byte) { be.PutUint64(b[at:], 0x50001) }, "open apply delete", qcow2.ErrCorrupt},
		{"L1 table at 2^63", func(b []byte) { be.PutUint64(b[at:], 1<<63) }, "open apply delete", qcow2.ErrCorrupt},
		{"L1 table too large", func(b []byte) { be.PutUint32(b[at+8:], 1<<31) }, "open apply delete", qcow2.ErrCorrupt},
		{"L1 table without refcount", func(b []byte) { be.PutUint64(b[at:], 1<<24) }, "delete", qcow2.ErrCorrupt},
		{"L1 table over the snapshot table", func(b []byte) { be.PutUint32(b[at+8:], 1<<17) }, "apply delete create", qcow2.ErrCorrupt},
		{"disk of 2^64-1", func(b []byte) { be.PutUint64(b[at+48:], 1<<64-1) }, "open apply", qcow2.ErrLimit},
		{"disk of 2^62", func(b []byte) { be.PutUint64(b[at+48:], 1<<62) }, "open apply", qcow2.ErrLimit},
		{"L2 table is the header", func(b []byte) { be.PutUint64(b[be.Uint64(b[at:]):], 1<<63) }, "", nil},
		{"L2 table between clusters", func(b []byte) { be.PutUint64(b[be.Uint64(b[at:]):], 0x40200) }, "apply delete", qcow2.ErrCorrupt},
		{"L2 table past all refcounts", func(b []byte) { be.PutUint64(b[be.Uint64(b[at:]):], 1<<55) }, "apply delete", qcow2.ErrCorrupt},
		{"L2 table free", func(b []byte) { be.PutUint64(b[be.Uint64(b[at:]):], 1<<24) }, "apply delete", qcow2.ErrCorrupt},
	} {
		for name, do := range ops {
			b := slices.Clone(good)
			tc.edit(b)
			im, err := qcow2.OpenRW(memfile.FromBytes(b), nil)
			if err != nil {
				t.Fatal(err)
			}
			err = do(im)
			if fails := strings.Contains(tc.fails, name); fails != (err != nil) || err != nil && !errors.Is(err, tc.err) {
				t.Errorf("%s, %s: %v", tc.name, name, err)
			}
			_ = im.Close()
		}
	}
}

// FuzzSnapshots lists, opens, applies, deletes and creates snapshots of what
// may be no image.
func FuzzSnapshots(f *testing.F) {
	for _, extra := range []int{16, 24, 100} {
		b := withExtra(f, 3, extra, 512)
		f.Add(b)
	}
	small := memfile.New()
	im, err := qcow2.Create(small, 8<<10, &qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 2})
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		if _, err := im.WriteAt([]byte(name), 5000); err != nil {
			f.Fatal(err)
		}
		if _, err := im.CreateSnapshot(f.Context(), name, nil); err != nil {
			f.Fatal(err)
		}
	}
	if err := im.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(small.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		file := memfile.FromBytes(b)
		im, err := qcow2.OpenRW(file, nil)
		if err != nil {
			return
		}
		defer im.Close()
		if h := im.Header(); h.L1Size > 1<<16 || h.RefcountTableClusters > 16 {
			return // allowed, and slow
		}
		list, err := im.Snapshots()
		if err != nil {
			return
		}
		p := make([]byte, 4096)
		for _, s := range list[:min(len(list), 3)] {
			if v, err := im.OpenSnapshot(s.ID); err == nil {
				_, _ = v.ReadAt(p, 0)
				_, _ = v.VMState().ReadAt(p, 0)
			}
			_ = im.ApplySnapshot(t.Context(), s.ID)
			_ = im.DeleteSnapshot(t.Context(), s.ID)
		}
		_, _ = im.CreateSnapshot(t.Context(), "x", nil)
		if im.Size() < 1<<30 {
			_ = im.Resize(t.Context(), im.Size()+4096, nil)
			_ = im.Resize(t.Context(), im.Size()/2&^511, &qcow2.ResizeOptions{Shrink: true})
		}
		_, _ = im.WriteAt(p, 0)
	})
}

// TestSnapshotExtraDataQEMU: QEMU accepts entries with unknown extra data that
// this package has written, and keeps them.
func TestSnapshotExtraDataQEMU(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	t.Chdir(t.TempDir())
	f := memfile.FromBytes(withExtra(t, 3, 100, 65536))
	im, err := qcow2.OpenRW(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.CreateSnapshot(t.Context(), "second", nil); err != nil {
		t.Fatal(err)
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	writeFile(t, "x.qcow2", f.Bytes())
	difftest.Run(t, img, "snapshot", "-c", "third", "x.qcow2")
	difftest.Run(t, img, "snapshot", "-d", "second", "x.qcow2")
	difftest.Run(t, img, "check", "x.qcow2")
	im, err = qcow2.OpenFile("x.qcow2", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	list, err := im.Snapshots()
	if err != nil || len(list) != 2 || !bytes.Equal(list[0].Extra, bytes.Repeat([]byte{0xee}, 76)) {
		t.Errorf("%+v, %v", list, err)
	}
}
