package libxlfmt_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/libxlfmt"
)

// bigFile writes a saved HVM domain of 512 MiB to a file.
func bigFile(b *testing.B) string {
	b.Helper()
	name := filepath.Join(b.TempDir(), "saved")
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	w, err := libxlfmt.NewWriter(f, nil)
	if err != nil {
		b.Fatal(err)
	}
	put := func(body libxlfmt.Body) {
		if err := w.Put(body); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.StartLibxc(libxlfmt.LibxcHeader{Type: libxlfmt.HVM}); err != nil {
		b.Fatal(err)
	}
	put(libxlfmt.Mark(libxlfmt.TypeStaticDataEnd))
	batch := libxlfmt.PageBatch{Entries: make([]libxlfmt.PageEntry, 1024), Data: bytes.Repeat([]byte("virtfmt!"), 4<<20/8)}
	for i := range uint64(128) {
		for j := range batch.Entries {
			batch.Entries[j] = libxlfmt.NewPageEntry(i*1024+uint64(j), libxlfmt.PageNormal)
		}
		put(batch)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return name
}

// BenchmarkVerify: the structure of 512 MiB, beside Xen's own checker.
func BenchmarkVerify(b *testing.B) {
	name := bigFile(b)
	b.Run("libxlfmt", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			f, err := os.Open(name)
			if err != nil {
				b.Fatal(err)
			}
			res, err := libxlfmt.Verify(b.Context(), f, nil)
			if err != nil || !res.OK() {
				b.Fatal(res, err)
			}
			f.Close()
		}
	})
	b.Run("verify-stream-v2", func(b *testing.B) {
		tool := difftest.Tool(b, xenVerify, "")
		b.Setenv("PYTHONPATH", xenPython)
		for b.Loop() {
			if r := difftest.Try(b, tool, "-f", "libxl", "-i", name); r.Code != 0 {
				b.Fatalf("%s%s", r.Stdout, r.Stderr)
			}
		}
	})
}

// BenchmarkMemory: guest memory to a file, beside a copy of the stream by cp.
func BenchmarkMemory(b *testing.B) {
	name := bigFile(b)
	out := filepath.Join(b.TempDir(), "out")
	b.Run("libxlfmt", func(b *testing.B) {
		b.SetBytes(512 << 20)
		for b.Loop() {
			extract(b, name, out)
		}
	})
	b.Run("cp", func(b *testing.B) {
		b.SetBytes(512 << 20)
		for b.Loop() {
			if err := exec.Command("cp", "--reflink=never", name, out).Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func extract(b *testing.B, name, out string) {
	b.Helper()
	src, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer src.Close()
	x, err := libxlfmt.Open(src, nil)
	if err != nil {
		b.Fatal(err)
	}
	m, err := x.Memory(nil)
	if err != nil {
		b.Fatal(err)
	}
	dst, err := os.Create(out)
	if err != nil {
		b.Fatal(err)
	}
	defer dst.Close()
	if _, err := m.CopyTo(b.Context(), dst, &libxlfmt.CopyOptions{Sparse: -1}); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkPages: every page handed to a function.
func BenchmarkPages(b *testing.B) {
	name := bigFile(b)
	b.SetBytes(512 << 20)
	b.ReportAllocs()
	for b.Loop() {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		r, err := libxlfmt.NewReader(f, nil)
		for err == nil {
			var rec libxlfmt.Record
			if rec, err = r.Next(); err == nil && rec.Type == libxlfmt.TypePageData {
				for _, err := range r.Pages() {
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		}
		if err != io.EOF {
			b.Fatal(err)
		}
		f.Close()
	}
}
