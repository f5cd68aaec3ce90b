package qcow2_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// freedTails free what lies last in the file.
var freedTails = []struct {
	name string
	do   func(t *testing.T, im *qcow2.Image) error
}{
	{"a snapshot table", func(t *testing.T, im *qcow2.Image) error {
		_, err := im.CreateSnapshot(t.Context(), "a", nil)
		return errors.Join(err, im.DeleteSnapshot(t.Context(), "a"))
	}},
	{"compressed data", func(t *testing.T, im *qcow2.Image) error {
		_, err := im.WriteCompressedAt(bytes.Repeat([]byte("packed  "), 8<<10), 64<<10)
		return errors.Join(err, im.Sync(), im.WriteZeroesAt(64<<10, 64<<10))
	}},
	{"data", func(t *testing.T, im *qcow2.Image) error {
		_, err := im.WriteAt(bytes.Repeat([]byte("data"), 16<<10), 64<<10)
		return errors.Join(err, im.Sync(), im.UnmapAt(64<<10, 64<<10))
	}},
}

// TestFreedTail: what is freed at the end of the file reads as zeros once the
// image is closed: QEMU, when it preallocates what a disk grows by, gives
// guests what is there.
func TestFreedTail(t *testing.T) {
	for _, c := range freedTails {
		t.Run(c.name, func(t *testing.T) { freeTail(t, filepath.Join(difftest.FastDir(t), "x.qcow2"), c.do) })
	}
}

// freeTail makes an image with do. What lies past its last cluster in use must
// be zeros.
func freeTail(t *testing.T, name string, do func(*testing.T, *qcow2.Image) error) {
	t.Helper()
	f := newFile(t, name)
	im, err := qcow2.Create(f, 2<<30, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.WriteAt([]byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(do(t, im), im.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	e := edit(b)
	end := int64(len(b)+65535) / 65536
	for end > 0 && bytes.Equal(b[e.refcountAt(uint64((end-1)<<16)):][:2], []byte{0, 0}) {
		end--
	}
	if end<<16 < int64(len(b)) && !isZeros(b[end<<16:]) {
		t.Error("the tail is not zeros")
	}
}

// TestFreedTailInQemu: the guest sees zeros in what QEMU adds.
func TestFreedTailInQemu(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	for _, c := range freedTails {
		name := filepath.Join(difftest.FastDir(t), "x.qcow2")
		freeTail(t, name, c.do)
		im, err := qcow2.OpenFile(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		size := im.Size()
		im.Close()
		const added = 4 << 20
		difftest.Run(t, img, "resize", "-q", "-f", "qcow2", "--preallocation=full", name, "+4M")
		if im, err = qcow2.OpenFile(name, nil); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, added)
		if _, err := im.ReadAt(b, size); err != nil || !isZeros(b) {
			t.Errorf("%s: the guest sees what was freed (%v)", c.name, err)
		}
		im.Close()
	}
}
