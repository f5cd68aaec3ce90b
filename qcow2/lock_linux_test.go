package qcow2_test

import (
	"bufio"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// lockable makes an image on a backing file, in files.
func lockable(t *testing.T) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "x.qcow2")
	f := newFile(t, path)
	im, err := qcow2.Create(f, 1<<20, &qcow2.CreateOptions{BackingFile: "base.raw", BackingFormat: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "base.raw"), make([]byte, 1<<20))
	return dir, path
}

func TestLocks(t *testing.T) {
	dir, path := lockable(t)
	root := openRoot(t, dir)
	openIt := func(name string, write, noLock bool) (*qcow2.Image, error) {
		return qcow2.OpenFile(name, &qcow2.Options{Root: root, Write: write, NoLock: noLock})
	}
	mustOpen := func(write, noLock bool) *qcow2.Image {
		t.Helper()
		im, err := openIt(path, write, noLock)
		if err != nil {
			t.Fatal(err)
		}
		return im
	}
	refused := func(write bool) {
		t.Helper()
		if _, err := openIt(path, write, false); !errors.Is(err, qcow2.ErrLocked) {
			t.Errorf("write %t: %v", write, err)
		}
	}
	w := mustOpen(true, false)
	refused(false)
	refused(true)
	mustOpen(false, true).Close()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	a, b := mustOpen(false, false), mustOpen(false, false)
	refused(true)
	a.Close()
	refused(true)
	b.Close()
	mustOpen(true, false).Close()

	// A backing file that is being written to is refused as well.
	writeFile(t, filepath.Join(dir, "top.qcow2"), overlay(t, "x.qcow2", "qcow2"))
	w = mustOpen(true, false)
	if _, err := openIt("top.qcow2", true, false); !errors.Is(err, qcow2.ErrLocked) {
		t.Errorf("backing file: %v", err)
	}
	w.Close()
	top, err := openIt("top.qcow2", true, false)
	if err != nil {
		t.Fatal(err)
	}
	refused(true)
	mustOpen(false, false).Close()
	top.Close()
}

// TestLocksAsQEMU: QEMU's programs and this package keep away from each other.
func TestLocksAsQEMU(t *testing.T) {
	img, io := difftest.Tool(t, "qemu-img", "7.2"), difftest.Tool(t, "qemu-io", "7.2")
	dir, path := lockable(t)
	root := openRoot(t, dir)
	info := func(want int, args ...string) {
		t.Helper()
		r := difftest.Try(t, img, append(append([]string{"info"}, args...), path)...)
		if r.Code != want || want != 0 && !strings.Contains(string(r.Stderr), "lock") {
			t.Errorf("qemu-img info: exit %d: %s", r.Code, r.Stderr)
		}
	}
	w, err := qcow2.OpenFile(path, &qcow2.Options{Root: root, Write: true})
	if err != nil {
		t.Fatal(err)
	}
	info(1)
	info(0, "-U")
	w.Close()
	info(0)
	r, err := qcow2.OpenFile(path, &qcow2.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	info(0)
	if res := difftest.Try(t, io, "-c", "write 0 64k", path); res.Code == 0 {
		t.Error("qemu-io writes to an image that is being read")
	}
	r.Close()

	// qemu-io holds the image while it waits for commands.
	cmd := exec.CommandContext(t.Context(), io, path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("length\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('M'); err != nil { // 1 MiB: it is open
		t.Fatal(err)
	}
	for _, write := range []bool{false, true} {
		if _, err := qcow2.OpenFile(path, &qcow2.Options{Root: root, Write: write}); !errors.Is(err, qcow2.ErrLocked) {
			t.Errorf("write %t: %v", write, err)
		}
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if r, err = qcow2.OpenFile(path, &qcow2.Options{Root: root}); err != nil {
		t.Fatal(err)
	}
	r.Close()
}
