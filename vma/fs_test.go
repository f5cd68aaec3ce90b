package vma_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/virtfmt/virtfmt/vma"
)

func TestFS(t *testing.T) {
	disks := []ram{content(1, 300<<10, 0.3), content(2, 70<<10, 0.5)}
	a, err := vma.Open(bytes.NewReader(build(t, true, disks...)), nil)
	if err != nil {
		t.Fatal(err)
	}
	files := a.FS()
	if err := fstest.TestFS(files, "qemu-server.conf", "disk-disk0.raw", "vmstate.bin"); err != nil {
		t.Fatal(err)
	}
	conf, err := fs.ReadFile(files, "qemu-server.conf")
	if err != nil || string(conf) != "memory: 512\n" {
		t.Errorf("config %q, %v", conf, err)
	}
	f, err := files.Open("disk-disk0.raw")
	if err != nil {
		t.Fatal(err)
	}
	fi, err := f.Stat()
	if err != nil || fi.Size() != disks[0].Size() || !fi.ModTime().Equal(a.Header().Time()) || fi.Sys() != a.Devices()[0] {
		t.Errorf("Stat: %+v, %v", fi, err)
	}
	p := make([]byte, 5000)
	if _, err := f.(io.ReaderAt).ReadAt(p, 70001); err != nil || !bytes.Equal(p, disks[0][70001:75001]) {
		t.Errorf("ReadAt: %v, or other bytes", err)
	}
	if _, err := f.(io.Seeker).Seek(-100, io.SeekEnd); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(f); err != nil || len(rest) != 100 {
		t.Errorf("after Seek: %d bytes, %v", len(rest), err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	for name, use := range map[string]func() error{
		"Read":   func() error { _, err := f.Read(p); return err },
		"ReadAt": func() error { _, err := f.(io.ReaderAt).ReadAt(p, 0); return err },
		"Seek":   func() error { _, err := f.(io.Seeker).Seek(0, io.SeekStart); return err },
		"Stat":   func() error { _, err := f.Stat(); return err },
		"Close":  f.Close,
	} {
		if err := use(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	if _, err := files.Open("../qemu-server.conf"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a path that leads out: %v", err)
	}
	if fi, err := fs.Stat(files, "qemu-server.conf"); err != nil || fi.Sys() != nil {
		t.Errorf("a config is a device: %v", err)
	}
	if _, err := files.Open("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestFSHostileNames tests that names that are paths, repeated or not UTF-8
// become names of a directory.
func TestFSHostileNames(t *testing.T) {
	for _, m := range mutations {
		a, err := vma.Open(bytes.NewReader(mutant(t, m.name)), nil)
		if err != nil {
			continue
		}
		h := a.Header()
		entries, err := fs.ReadDir(a.FS(), ".")
		if err != nil || len(entries) != len(h.Configs)+len(h.Devices) {
			t.Errorf("%s: %v, %v", m.name, entries, err)
		}
		for _, e := range entries {
			if !fs.ValidPath(e.Name()) {
				t.Errorf("%s: name %q", m.name, e.Name())
			}
		}
	}
}
