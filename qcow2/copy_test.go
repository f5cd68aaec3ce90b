package qcow2_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

func TestCopyTo(t *testing.T) {
	for name, s := range samples(t) {
		t.Run(name, func(t *testing.T) {
			im := open(t, s.image, s.options())
			defer im.Close()
			for _, o := range []*qcow2.CopyOptions{nil, {InOrder: true, BufferSize: 4096}, {Sparse: -1, Workers: 1}} {
				dst := memfile.New()
				stats, err := im.CopyTo(t.Context(), dst, o)
				if err != nil || !bytes.Equal(dst.Bytes(), s.content) {
					t.Errorf("%+v: %v, equal: %v", o, err, bytes.Equal(dst.Bytes(), s.content))
				}
				if stats.Written+stats.Skipped != im.Size() || stats.Zeroed != 0 {
					t.Errorf("%+v: %+v of %d bytes", o, stats, im.Size())
				}
			}
		})
	}
}

// TestCopyShared has the kernel copy the clusters of images in files.
func TestCopyShared(t *testing.T) {
	dir := t.TempDir()
	for name, s := range samples(t) {
		path := filepath.Join(dir, name)
		writeFile(t, path, s.image)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		im, err := qcow2.Open(f, s.options())
		if err != nil {
			t.Fatal(err)
		}
		dst, err := os.Create(path + ".raw")
		if err != nil {
			t.Fatal(err)
		}
		stats, err := im.CopyTo(t.Context(), dst, &qcow2.CopyOptions{Sparse: -1})
		got, readErr := os.ReadFile(dst.Name())
		if err != nil || readErr != nil || !bytes.Equal(got, s.content) {
			t.Errorf("%s: %v, %v, equal: %v", name, err, readErr, bytes.Equal(got, s.content))
		}
		t.Logf("%s: %+v", name, stats)
		im.Close()
		dst.Close()
		f.Close()
	}
}

// TestCopyToAsQEMU holds that an image copies to the bytes that qemu-img
// converts it to.
func TestCopyToAsQEMU(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	all := samples(t)
	t.Chdir(t.TempDir())
	for name, s := range all {
		writeFile(t, "base.raw", s.backing)
		writeFile(t, "data.raw", s.data)
		writeFile(t, name, s.image)
		difftest.Run(t, img, "convert", "-f", "qcow2", "-O", "raw", name, name+".want")
		want, err := os.ReadFile(name + ".want")
		if err != nil {
			t.Fatal(err)
		}
		im := open(t, s.image, s.options())
		dst := memfile.New()
		if _, err := im.CopyTo(t.Context(), dst, nil); err != nil || !bytes.Equal(dst.Bytes(), want) {
			t.Errorf("%s: %v, equal: %v", name, err, bytes.Equal(dst.Bytes(), want))
		}
		im.Close()
	}
}
