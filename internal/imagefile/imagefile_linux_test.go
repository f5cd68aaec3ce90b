package imagefile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/virtfmt/virtfmt/internal/imagefile"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// TestSpecialFiles: a FIFO would block whoever opens it, a device may do
// anything.
func TestSpecialFiles(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	o := imagefile.Options{Root: root}
	if _, err := imagefile.Open("fifo", o); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a FIFO: %v", err)
	}
	f, err := imagefile.Open("x", o)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.OpenBacking("fifo"); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a FIFO behind an image: %v", err)
	}
	if _, err := f.OpenData("fifo", true); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a FIFO as data file: %v", err)
	}
	dev, err := os.OpenRoot("/dev")
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if _, err := imagefile.Open("zero", imagefile.Options{Root: dev}); err == nil {
		t.Error("a device was opened")
	}
}

// TestDepth: a chain has an end even if no file comes twice.
func TestDepth(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var f *imagefile.File
	for n := 0; ; n++ {
		name := strings.Repeat("x", 1+n%200) + strings.Repeat("y", n/200)
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		next := f
		if f == nil {
			next, err = imagefile.Open(name, imagefile.Options{Root: root})
		} else {
			next, err = f.OpenBacking(name)
		}
		if errors.Is(err, safeio.ErrLimit) && n == 256 {
			return
		}
		if err != nil || n > 256 {
			t.Fatalf("layer %d: %v", n, err)
		}
		defer next.Close()
		f = next
	}
}
