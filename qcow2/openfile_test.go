package qcow2_test

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/qcow2"
)

// overlay returns an image of 1 MiB that holds nothing and names a backing
// file.
func overlay(tb testing.TB, name, format string) []byte {
	tb.Helper()
	h := decodeHeader(tb, headers(tb)["backing"])
	h.BackingFile = name
	h.Size = 1 << 20
	h.Extensions[0].Data = []byte(format)
	b, err := h.AppendBinary(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return append(b, make([]byte, 0x30010-len(b))...)
}

func writeFile(tb testing.TB, path string, b []byte) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		tb.Fatal(err)
	}
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
	writeFile(t, filepath.Join(dir, "base.raw"), []byte(strings.Repeat("base", 1000)))
	writeFile(t, filepath.Join(dir, "a/middle.qcow2"), overlay(t, "../base.raw", "raw"))
	writeFile(t, filepath.Join(dir, "b/top.qcow2"), overlay(t, "../a/middle.qcow2", "qcow2"))
	root := openRoot(t, dir)
	for _, name := range []string{"b/top.qcow2", filepath.Join(dir, "b", "top.qcow2")} {
		im, err := qcow2.OpenFile(name, &qcow2.Options{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 8)
		if _, err := im.ReadAt(p, 3992); err != nil || string(p) != "basebase" {
			t.Errorf("%q, %v", p, err)
		}
		for e := range im.Extents(0, 1<<20) {
			if want := (qcow2.Extent{Length: 4000, Kind: qcow2.Data, Depth: 2}); e != want {
				t.Errorf("%+v", e)
			}
			break
		}
		if im.Backing() == nil {
			t.Error("no backing disk")
		}
		if err := im.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := qcow2.OpenFile(filepath.Join(dir, "b", "top.qcow2"), nil); !errors.Is(err, qcow2.ErrNotGranted) || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("without a root: %v", err)
	}
	im, err := qcow2.OpenFile(filepath.Join(dir, "b", "top.qcow2"), &qcow2.Options{MetadataOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := im.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenFileRefusesNames(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	writeFile(t, outside, []byte("secret"))
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "base.raw"), nil)
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("base.raw", filepath.Join(dir, "inner")); err != nil {
		t.Fatal(err)
	}
	root := openRoot(t, dir)
	top := filepath.Join(dir, "top.qcow2")
	for _, tc := range []struct {
		name, format string
		ok           bool
	}{
		{"base.raw", "raw", true},
		{"./dir/../base.raw", "raw", true},
		{"inner", "raw", true},
		{filepath.Join(dir, "base.raw"), "raw", true},
		{outside, "raw", false},
		{"/etc/passwd", "raw", false},
		{"../../../../../../etc/passwd", "raw", false},
		{"link", "raw", false},
		{"dir", "raw", false},
		{"missing", "raw", false},
		{"base.raw", "vmdk", false},
		{"base.raw", "", false},
		{`json:{"driver":"file","filename":"/etc/passwd"}`, "raw", false},
		{"nbd://localhost/x", "raw", false},
		{"file:base.raw", "raw", false},
		{"base.raw", "qcow2", false}, // it is empty
		{"top.qcow2", "qcow2", false},
	} {
		writeFile(t, top, overlay(t, tc.name, tc.format))
		im, err := qcow2.OpenFile("top.qcow2", &qcow2.Options{Root: root})
		if (err == nil) != tc.ok {
			t.Errorf("%q as %q: %v", tc.name, tc.format, err)
		}
		if leads := tc.name == outside || strings.HasSuffix(tc.name, "passwd"); leads != errors.Is(err, qcow2.ErrNotGranted) {
			t.Errorf("%q: %v", tc.name, err)
		}
		if err == nil {
			im.Close()
		}
	}
}

// TestOpenFileLoop: two images that back each other, and one that backs
// itself.
func TestOpenFileLoop(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a"), overlay(t, "b", "qcow2"))
	writeFile(t, filepath.Join(dir, "b"), overlay(t, "a", "qcow2"))
	writeFile(t, filepath.Join(dir, "c"), overlay(t, "c", "qcow2"))
	for _, name := range []string{"a", "c"} {
		_, err := qcow2.OpenFile(name, &qcow2.Options{Root: openRoot(t, dir)})
		if err == nil || !strings.Contains(err.Error(), "backs itself") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOpenFileDataFile(t *testing.T) {
	dir := t.TempDir()
	s := samples(t)["data"]
	writeFile(t, filepath.Join(dir, "x.qcow2"), s.image)
	writeFile(t, filepath.Join(dir, "data.raw"), s.data)
	im, err := qcow2.OpenFile("x.qcow2", &qcow2.Options{Root: openRoot(t, dir)})
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	readRandomly(t, im, s.content, 20)
}

// TestHostileTables: entries that point where they must not are errors, or the
// bytes that QEMU reads.
func TestHostileTables(t *testing.T) {
	s := samples(t)["v3-64k"]
	const l1, l2 = 0x30000, 0x40000
	for _, tc := range []struct {
		name    string
		at      int
		v       uint64
		corrupt bool
	}{
		{"L1 entry not aligned", l1, 1<<63 | 0x40200, true},
		{"L2 entry not aligned", l2, 1<<63 | 0x50200, true},
		{"L2 entry past the end", l2, 1<<63 | 0xffff0000, false},
		{"L2 table past the end", l1, 1<<63 | 0xffff0000, false},
		{"reserved bit 58", l2, binary.BigEndian.Uint64(s.image[l2:]) | 1<<58, false},
	} {
		b := append([]byte(nil), s.image...)
		binary.BigEndian.PutUint64(b[tc.at:], tc.v)
		im := open(t, b, nil)
		_, err := im.ReadAt(make([]byte, 4096), 0)
		if errors.Is(err, qcow2.ErrCorrupt) != tc.corrupt || err != nil && !tc.corrupt {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}
