package vma_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/vma"
)

// TestRawFile writes an archive of a file whose size is no multiple of 512.
func TestRawFile(t *testing.T) {
	disk := content(1, 1<<20+100, 0.5)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, disk, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := vma.RawFile(f)
	if err != nil || raw.Size() != disk.Size() {
		t.Fatalf("%v, or another size", err)
	}
	var b bytes.Buffer
	w, err := vma.NewWriter(&b, testHeader(vma.DeviceInfo{Name: "a", Size: 1<<20 + 512}), nil)
	if err == nil {
		err = errors.Join(w.CopyFrom(t.Context(), 1, raw, nil), w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.(io.Closer).Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.Stat(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("the file is not closed: %v", err)
	}
	a, err := vma.Open(bytes.NewReader(b.Bytes()), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, a.Devices()[0].Size())
	if _, err := a.Devices()[0].ReadAt(got, 0); err != nil || !bytes.Equal(got[:len(disk)], disk) || !isZero(got[len(disk):]) {
		t.Errorf("%v, or other bytes", err)
	}
}
