package vma_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/virtfmt/virtfmt/vma"
)

// TestNoGoroutineLeft ends what works in parallel in every way, and waits for
// the goroutines of it.
func TestNoGoroutineLeft(t *testing.T) {
	disk := content(1, 130<<16, 0.2)
	b := build(t, false, disk)
	a, err := vma.Open(bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	stream := func(ctx context.Context, r io.Reader, o *vma.ExtractOptions) error {
		rd, err := vma.NewReader(r, nil)
		if err == nil {
			_, err = rd.Extract(ctx, o)
		}
		return err
	}
	failing := func() *buffer {
		w := newBuffer(disk.Size(), 0)
		w.fail = disk.Size() / 2
		return w
	}
	newWriter := func(w io.Writer) *vma.Writer {
		wr, err := vma.NewWriter(w, testHeader(vma.DeviceInfo{Name: "a", Size: disk.Size()}), nil)
		if err != nil {
			t.Fatal(err)
		}
		return wr
	}
	var zst, gz bytes.Buffer
	z, _ := zstd.NewWriter(&zst)
	g := gzip.NewWriter(&gz)
	z.Write(b[:1<<20])
	g.Write(b[:1<<20])
	if err := errors.Join(z.Close(), g.Close()); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		f  func() error
		ok bool
	}{
		"extract":                 {func() error { _, err := a.Extract(t.Context(), into(newBuffer(disk.Size(), 0))); return err }, true},
		"extract, a target fails": {func() error { _, err := a.Extract(t.Context(), into(failing())); return err }, false},
		"extract, ended":          {func() error { _, err := a.Extract(ended, into(newBuffer(disk.Size(), 0))); return err }, false},
		"stream":                  {func() error { return stream(t.Context(), bytes.NewReader(b), into(newBuffer(disk.Size(), 0))) }, true},
		"stream, a target fails":  {func() error { return stream(t.Context(), bytes.NewReader(b), into(failing())) }, false},
		"stream, ended":           {func() error { return stream(ended, bytes.NewReader(b), into(newBuffer(disk.Size(), 0))) }, false},
		"stream, cut": {func() error {
			return stream(t.Context(), bytes.NewReader(b[:len(b)/2]), into(newBuffer(disk.Size(), 0)))
		}, false},
		"stream, the reader fails": {func() error {
			return stream(t.Context(), io.MultiReader(bytes.NewReader(b[:len(b)/2]), iotest.ErrReader(errFull)), into(newBuffer(disk.Size(), 0)))
		}, false},
		"copy from a disk":              {func() error { return newWriter(io.Discard).CopyFrom(t.Context(), 1, disk, nil) }, true},
		"copy, ended":                   {func() error { return newWriter(io.Discard).CopyFrom(ended, 1, disk, nil) }, false},
		"copy, the writer fails":        {func() error { return newWriter(&limited{n: 300000}).CopyFrom(t.Context(), 1, disk, nil) }, false},
		"read from a stream that fails": {func() error { return newWriter(io.Discard).ReadFrom(t.Context(), 1, iotest.ErrReader(errFull), nil) }, false},
		"repack, the writer fails":      {func() error { return vma.Repack(t.Context(), &limited{n: 300000}, a, nil) }, false},
		"zstd, not read to its end":     {func() error { return closed(zst.Bytes()) }, true},
		"gzip, not read to its end":     {func() error { return closed(gz.Bytes()) }, true},
	} {
		before := runtime.NumGoroutine()
		for range 2 {
			if err := c.f(); (err == nil) != c.ok {
				t.Errorf("%s: %v", name, err)
			}
		}
		for start := time.Now(); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Since(start) > 30*time.Second {
				t.Fatalf("%s: %d goroutines are left", name, runtime.NumGoroutine()-before)
			}
		}
	}
}

// closed reads the header of a compressed archive and closes the decompressor.
func closed(b []byte) error {
	d, _, err := vma.Decompress(bytes.NewReader(b), nil)
	if err != nil {
		return err
	}
	_, err = vma.NewReader(d, nil)
	return errors.Join(err, d.Close())
}
