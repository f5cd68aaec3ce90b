package imagefile_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
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
	for _, write := range []bool{false, true} {
		_, err := imagefile.Open(filepath.Join(dir, "fifo"), imagefile.Options{Write: write})
		if err == nil || !strings.Contains(err.Error(), "regular") {
			t.Errorf("a FIFO without a root: %v", err)
		}
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

// TestSwapped: somebody puts a FIFO, a link that leads out, or a directory in
// place of a file while it is opened.
func TestSwapped(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(
		os.WriteFile(outside, []byte("secret"), 0o600),
		os.WriteFile(in("file"), []byte("inside"), 0o600),
		syscall.Mkfifo(in("fifo"), 0o600),
		os.Symlink(outside, in("out")), os.Symlink("/dev/zero", in("device")), os.Symlink("fifo", in("to-fifo")),
		os.Symlink("file", in("x")),
	); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var swaps sync.WaitGroup
	stop := make(chan struct{})
	swaps.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			other := []string{"fifo", "out", "device", "to-fifo"}[i/2%4]
			if i%2 == 0 {
				other = "file"
			}
			// What a link is to, or the thing itself: os.Link follows no links.
			if err := errors.Join(os.Link(in(other), in("next")), os.Rename(in("next"), in("x"))); err != nil {
				t.Error(err)
				return
			}
			os.Remove(in("next")) // where both names were the same file
		}
	})
	opened, refused := 0, 0
	difftest.Watchdog(t, func() {
		for range difftest.Scale(t, 20000) {
			f, err := imagefile.Open("x", imagefile.Options{Root: root, NoLock: true})
			if err != nil {
				refused++
				continue
			}
			b, err := io.ReadAll(io.LimitReader(f, 100))
			if err != nil || string(b) != "inside" {
				t.Errorf("%q, %v", b, err)
			}
			f.Close()
			opened++
		}
	})
	close(stop)
	swaps.Wait()
	t.Logf("%d opened, %d refused", opened, refused)
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
