package qcow2_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// FuzzBitmaps: no bitmap panics, runs for long, or makes guest data be lost
// where the image is sound. The input patches an image with two bitmaps: each
// 10 bytes hold a place in its extension, directory and tables, and what to
// write there.
func FuzzBitmaps(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 104, 0, 0, 0, 0, 0, 0, 0x10, 0})
	f.Add([]byte{2, 0, 0, 0, 0, 0, 0, 0, 2, 0})
	f.Fuzz(func(t *testing.T, patches []byte) {
		file := memfile.New()
		im, err := qcow2.Create(file, 1<<20, &qcow2.CreateOptions{ClusterSize: 512})
		if err != nil {
			t.Fatal(err)
		}
		if err := im.AddBitmap("a", &qcow2.BitmapOptions{Granularity: 512}); err != nil {
			t.Fatal(err)
		}
		if _, err := im.WriteAt([]byte("x"), 4000); err != nil {
			t.Fatal(err)
		}
		if err := im.AddBitmap("b", &qcow2.BitmapOptions{Disabled: true}); err != nil {
			t.Fatal(err)
		}
		x, _ := im.Header().Bitmaps()
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		b := file.Bytes()
		for ; len(patches) >= 10 && len(patches) < 200; patches = patches[10:] {
			at := int64(binary.BigEndian.Uint16(patches))
			switch at >> 14 {
			case 1:
				at = x.DirectoryOffset + at&0x1ff
			case 2:
				at = at & 0x3fff / 8 * 512
			case 3:
				at &= 0x1ff
			}
			if at+8 <= int64(len(b)) {
				copy(b[at:], patches[2:10])
			}
		}
		useBitmaps(t, b)
	})
}

func useBitmaps(t *testing.T, b []byte) {
	t.Helper()
	ctx := context.Background()
	file := memfile.FromBytes(bytes.Clone(b))
	im, err := qcow2.OpenRW(file, nil)
	if err != nil {
		return
	}
	// What cannot be done is an error.
	list, _ := im.Bitmaps()
	for i, l := range list {
		n := 0
		for range im.DirtyRanges(l.Name) {
			if n++; n > 100 {
				break
			}
		}
		if i == 4 {
			break
		}
	}
	sound, err := im.Check(ctx, nil)
	clean := err == nil && sound.Clean()
	_, err = im.WriteAt(bytes.Repeat([]byte{7}, 3000), 100)
	written := err == nil
	_ = im.AddBitmap("c", nil)
	_ = im.MergeBitmap(ctx, "c", im, "a")
	_ = im.MergeBitmap(ctx, "b", im, "c")
	_ = im.ClearBitmap("a")
	_ = im.RemoveBitmap("a")
	_ = im.RemoveBitmap("b")
	if err := im.Close(); clean && written && err != nil {
		t.Fatal(err)
	}
	if !clean || !written {
		return
	}
	if im, err = qcow2.Open(bytes.NewReader(file.Bytes()), nil); err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	if res, err := im.Check(ctx, nil); err != nil || res.Corruptions > 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	got := make([]byte, 3000)
	if _, err := im.ReadAt(got, 100); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{7}, 3000)) {
		t.Fatalf("guest data is lost: %v", err)
	}
}
