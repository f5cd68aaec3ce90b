package qed_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qed"
)

// newFile makes a file of that content and returns its path.
func newFile(tb testing.TB, dir, name string, b []byte) string {
	tb.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		tb.Fatal(err)
	}
	return path
}

// overlay returns an image of 1 MiB that holds nothing and names a backing
// file.
func overlay(tb testing.TB, name, format string) []byte {
	tb.Helper()
	f := memfile.New()
	if _, err := qed.Create(f, 1<<20, &qed.CreateOptions{BackingFile: name, BackingFormat: format}); err != nil {
		tb.Fatal(err)
	}
	return f.Bytes()
}

func openRoot(tb testing.TB, dir string) *os.Root {
	tb.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { root.Close() })
	return root
}

// TestOpenFileChain opens a chain whose names are relative to the file that
// names them.
func TestOpenFileChain(t *testing.T) {
	dir := t.TempDir()
	newFile(t, dir, "base.raw", []byte(strings.Repeat("base", 1000)))
	newFile(t, dir, "a/middle.qed", overlay(t, "../base.raw", "raw"))
	path := newFile(t, dir, "b/top.qed", overlay(t, "../a/middle.qed", "qed"))
	root := openRoot(t, dir)
	for _, name := range []string{"b/top.qed", path} {
		img, err := qed.OpenFile(name, &qed.Options{Root: root, BackingFormat: "qed", Write: true})
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 8)
		if _, err := img.ReadAt(p, 3992); err != nil || string(p) != "basebase" {
			t.Errorf("%q, %v", p, err)
		}
		for e := range img.Extents(0, 1<<20) {
			if want := (qed.Extent{Length: 4000, Kind: qed.Data, Depth: 2}); e != want {
				t.Errorf("%+v", e)
			}
			break
		}
		if _, err := img.WriteAt([]byte("x"), 1<<19); err != nil {
			t.Error(err)
		}
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := qed.OpenFile(path, nil); err == nil {
		t.Error("a backing file without a root")
	}
	if _, err := qed.OpenFile(path, &qed.Options{Root: root}); err == nil {
		t.Error("a backing file without its format")
	}
	img, err := qed.OpenFile(path, &qed.Options{Root: root, BackingFormat: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	img.Close()
}

func TestOpenFileRefusesNames(t *testing.T) {
	outside := newFile(t, t.TempDir(), "secret", []byte("secret"))
	dir := t.TempDir()
	newFile(t, dir, "base.raw", nil)
	newFile(t, dir, "dir/base.raw", nil)
	if runtime.GOOS != "windows" {
		if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
	}
	root := openRoot(t, dir)
	for _, tc := range []struct {
		name, format string
		ok           bool
	}{
		{"base.raw", "raw", true},
		{"./dir/../base.raw", "raw", true},
		{filepath.Join(dir, "base.raw"), "raw", true},
		{outside, "raw", false},
		{"/etc/passwd", "raw", false},
		{"../../../../../../etc/passwd", "raw", false},
		{"link", "raw", false},
		{"dir", "raw", false},
		{"missing", "raw", false},
		{"base.raw", "qcow2", false},
		{`json:{"driver":"file","filename":"/etc/passwd"}`, "raw", false},
		{"nbd://localhost/x", "raw", false},
		{"file:base.raw", "raw", false},
		{"base.raw", "qed", false}, // it is empty
		{"top.qed", "qed", false},
	} {
		newFile(t, dir, "top.qed", overlay(t, tc.name, tc.format))
		img, err := qed.OpenFile("top.qed", &qed.Options{Root: root, BackingFormat: tc.format})
		if (err == nil) != tc.ok {
			t.Errorf("%q as %q: %v", tc.name, tc.format, err)
		}
		if err == nil {
			img.Close()
		}
	}
}

// TestOpenFileLoop: two images that back each other, and one that backs
// itself.
func TestOpenFileLoop(t *testing.T) {
	dir := t.TempDir()
	newFile(t, dir, "a", overlay(t, "b", "qed"))
	newFile(t, dir, "b", overlay(t, "a", "qed"))
	newFile(t, dir, "c", overlay(t, "c", "qed"))
	for _, name := range []string{"a", "c"} {
		_, err := qed.OpenFile(name, &qed.Options{Root: openRoot(t, dir), BackingFormat: "qed"})
		if err == nil || !strings.Contains(err.Error(), "backs itself") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLocksAsQEMU: QEMU's programs and this package keep away from each other.
func TestLocksAsQEMU(t *testing.T) {
	tool := difftest.Tool(t, "qemu-img", "7.2")
	if runtime.GOOS != "linux" {
		return
	}
	dir := t.TempDir()
	newFile(t, dir, "base.raw", make([]byte, 4096))
	path := newFile(t, dir, "x.qed", overlay(t, "base.raw", "raw"))
	o := &qed.Options{Root: openRoot(t, dir), Write: true}
	w, err := qed.OpenFile(path, o)
	if err != nil {
		t.Fatal(err)
	}
	if r := difftest.Try(t, tool, "info", path); r.Code != 1 || !strings.Contains(string(r.Stderr), "lock") {
		t.Errorf("qemu-img info: exit %d: %s", r.Code, r.Stderr)
	}
	if _, err := qed.OpenFile(path, &qed.Options{Root: o.Root}); !errors.Is(err, qed.ErrLocked) {
		t.Errorf("a reader beside a writer: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	a, err := qed.OpenFile(path, &qed.Options{Root: o.Root})
	if err != nil {
		t.Fatal(err)
	}
	difftest.Run(t, tool, "info", path)
	if _, err := qed.OpenFile(path, o); !errors.Is(err, qed.ErrLocked) {
		t.Errorf("a writer beside a reader: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}
