package qcow2_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// TestBitmapHeaderFull: where the header has no room for the extension, nothing
// changes, also if the refcount table had to grow meanwhile.
func TestBitmapHeaderFull(t *testing.T) {
	f := memfile.New()
	backing := rawDisk(make([]byte, 512))
	o := &qcow2.Options{OpenBacking: func(string, string) (qcow2.Disk, error) { return backing, nil }}
	im, err := qcow2.Create(f, 1<<30, &qcow2.CreateOptions{
		ClusterSize: 512, RefcountBits: 64, BackingFile: strings.Repeat("b", 370), BackingFormat: "raw", Open: o,
	})
	if err != nil {
		t.Fatal(err)
	}
	// A refcount table of one cluster describes 2 MiB.
	b := bytes.Repeat([]byte{1}, 1650<<10)
	if _, err := im.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	for off := len(b); off < 1850<<10; off += 512 {
		if _, err := im.WriteAt(b[:512], int64(off)); err != nil {
			t.Fatal(err)
		}
		if err := im.AddBitmap("a", &qcow2.BitmapOptions{Granularity: 512}); !errors.Is(err, qcow2.ErrLimit) {
			t.Fatalf("no room: %v", err)
		}
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	if im, err = qcow2.OpenRW(f, o); err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	if res, err := im.Check(t.Context(), nil); err != nil || !res.Clean() {
		t.Errorf("%+v, %v", res, err)
	}
}

// TestBitmapEmptyDisk: a bitmap has at least one bit, as in QEMU, which could
// not open what has none.
func TestBitmapEmptyDisk(t *testing.T) {
	im, err := qcow2.Create(memfile.New(), 0, &qcow2.CreateOptions{ClusterSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	if err := im.AddBitmap("a", nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("add: %v", err)
	}
	if err := errors.Join(im.Resize(t.Context(), 1<<20, nil), im.AddBitmap("a", nil)); err != nil {
		t.Error(err)
	}
	shrink := &qcow2.ResizeOptions{Shrink: true}
	if err := im.Resize(t.Context(), 0, shrink); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("resize: %v", err)
	}
	if err := errors.Join(im.RemoveBitmap("a"), im.Resize(t.Context(), 0, shrink)); err != nil {
		t.Error(err)
	}
	if res, err := im.Check(t.Context(), nil); err != nil || !res.Clean() {
		t.Errorf("%+v, %v", res, err)
	}
}

// TestBitmapCrowd reads, changes and writes at once; -race judges.
func TestBitmapCrowd(t *testing.T) {
	f := bitmapDisk(t, 1<<20, 4096)
	im := reopen(t, f)
	n := difftest.Scale(t, 40)
	var wg sync.WaitGroup
	for _, step := range []func(i int) error{
		func(i int) error { _, err := im.WriteAt([]byte("x"), int64(i)*4099%(1<<20)); return err },
		func(i int) error { return im.DiscardAt(int64(i)*8192%(1<<20), 4096) },
		func(int) error { return im.Sync() },
		func(int) error { return im.ClearBitmap("on") },
		func(int) error { return im.MergeBitmap(context.Background(), "off", im, "on") },
		func(int) error { return errors.Join(im.AddBitmap("x", nil), im.RemoveBitmap("x")) },
		func(int) error { return im.Resize(context.Background(), 2<<20, nil) },
		func(int) error { _, err := im.Bitmaps(); return err },
		func(i int) error {
			for _, err := range im.DirtyRanges([]string{"on", "off"}[i%2]) {
				if err != nil {
					return err
				}
			}
			return nil
		},
	} {
		wg.Go(func() {
			for i := range n {
				if err := step(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	im = reopen(t, f)
	defer im.Close()
	if res, err := im.Check(t.Context(), nil); err != nil || !res.Clean() {
		t.Errorf("%+v, %v", res, err)
	}
}

// TestBitmapsAtFirstWrite: who lists bitmaps or reads their bits in the moment
// in which the first write marks them in the file finds them as they are.
func TestBitmapsAtFirstWrite(t *testing.T) {
	f := bitmapDisk(t, 1<<20, 4096)
	for range difftest.Scale(t, 300) {
		im := reopen(t, f.Clone())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := im.WriteAt([]byte("x"), 0); err != nil {
				t.Error(err)
			}
		})
		for range 3 {
			for _, err := range im.DirtyRanges("on") {
				if err != nil {
					t.Fatal(err)
				}
			}
			list, err := im.Bitmaps()
			if err != nil || list[0].InUse || list[1].InUse {
				t.Fatalf("%+v, %v", list, err)
			}
		}
		wg.Wait()
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBitmapRangesOfThen: what is reused while ranges are read is not taken for
// bits.
func TestBitmapRangesOfThen(t *testing.T) {
	im := reopen(t, bitmapDisk(t, 8<<20, 512))
	for off := int64(0); off < 8<<20; off += 1 << 20 {
		if _, err := im.WriteAt([]byte("x"), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := im.DisableBitmap("on"); err != nil { // stores its bits
		t.Fatal(err)
	}
	first := true
	for r, err := range im.DirtyRanges("on") {
		if err != nil || r.Length != 512 {
			t.Fatalf("%+v, %v", r, err)
		}
		if !first {
			continue
		}
		first = false
		err := errors.Join(im.ClearBitmap("on"), im.Sync())
		_, err2 := im.WriteAt(bytes.Repeat([]byte{0xf0}, 1<<20), 3<<20)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestBitmapWhoWrites: opening and reading change nothing, VM state is not the
// disk, and zeros and a commit from above are writes.
func TestBitmapWhoWrites(t *testing.T) {
	f := bitmapDisk(t, 1<<20, 4096)
	before := bytes.Clone(f.Bytes())
	im := reopen(t, f)
	dirtyRanges(t, im, "on")
	if err := errors.Join(im.Sync(), im.Close()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.Bytes(), before) {
		t.Error("the file was changed")
	}
	im = reopen(t, f)
	defer im.Close()
	if _, err := im.WriteVMStateAt(bytes.Repeat([]byte{1}, 8192), 0); err != nil {
		t.Fatal(err)
	}
	if got := dirtyRanges(t, im, "on"); len(got) > 0 {
		t.Errorf("VM state: %v", got)
	}
	top, err := qcow2.Create(memfile.New(), 1<<20, &qcow2.CreateOptions{
		BackingFile: "b", BackingFormat: "qcow2",
		Open: &qcow2.Options{OpenBacking: func(string, string) (qcow2.Disk, error) { return im, nil }},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := top.WriteAt([]byte("x"), 65536); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(top.Commit(t.Context(), im, nil), im.WriteZeroesAt(0, 512)); err != nil {
		t.Fatal(err)
	}
	got := dirtyRanges(t, im, "on")
	if len(got) < 2 || got[0] != (qcow2.Range{Start: 0, Length: 512}) || got[1].Start > 65536 || got[1].Start+got[1].Length <= 65536 {
		t.Errorf("commit: %v", got)
	}
}
