package vma_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/vma"
)

// decompressed reads an archive that may be compressed.
func decompressed(t *testing.T, b []byte, o *vma.DecompressOptions, disks []ram) vma.Compression {
	t.Helper()
	r, c, err := vma.Decompress(struct{ io.Reader }{bytes.NewReader(b)}, o)
	if err != nil {
		t.Fatal(err)
	}
	_, got := readStream(t, r, nil)
	for i, d := range disks {
		if !bytes.Equal(got[uint8(i+1)], d) {
			t.Errorf("%v: device %d differs", c, i+1)
		}
	}
	if err := r.Close(); err != nil {
		t.Errorf("%v: Close: %v", c, err)
	}
	return c
}

func TestDecompress(t *testing.T) {
	disks := []ram{content(1, 2<<20, 0.3), content(2, 300<<10, 0.5)}
	plain := build(t, false, disks...)
	var zst, gz bytes.Buffer
	ze, err := zstd.NewWriter(&zst, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	ge := gzip.NewWriter(&gz)
	for _, w := range []io.WriteCloser{ze, ge} {
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	skippable := append([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"), zst.Bytes()...)
	lzo := append([]byte("\x89LZO\x00\r\n\x1a\n"), plain...)
	hook := &vma.DecompressOptions{LZO: func(r io.Reader) (io.Reader, error) {
		_, err := io.CopyN(io.Discard, r, 9)
		return r, err
	}}
	for _, c := range []struct {
		b    []byte
		want vma.Compression
	}{{plain, vma.Uncompressed}, {zst.Bytes(), vma.Zstd}, {skippable, vma.Zstd}, {gz.Bytes(), vma.Gzip}, {lzo, vma.LZO}} {
		if got := decompressed(t, c.b, hook, disks); got != c.want {
			t.Errorf("recognised as %v, want %v", got, c.want)
		}
	}
	var unsupported *vma.CompressionError
	if _, c, err := vma.Decompress(bytes.NewReader(lzo), nil); c != vma.LZO || !errors.As(err, &unsupported) || unsupported.Compression != vma.LZO || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("lzo without a hook: %v, %v", c, err)
	}
	if _, _, err := vma.Decompress(bytes.NewReader(lzo), &vma.DecompressOptions{LZO: func(io.Reader) (io.Reader, error) { return nil, errFull }}); !errors.Is(err, errFull) {
		t.Errorf("the hook fails: %v", err)
	}
	if _, _, err := vma.Decompress(bytes.NewReader([]byte("\x1f\x8b")), nil); err == nil {
		t.Error("gzip of two bytes: no error")
	}
	for _, cut := range [][]byte{zst.Bytes()[:zst.Len()/2], gz.Bytes()[:gz.Len()/2]} {
		r, c, err := vma.Decompress(bytes.NewReader(cut), nil)
		if err != nil {
			t.Fatal(err)
		}
		rd, err := vma.NewReader(r, nil)
		for err == nil {
			_, err = rd.Next()
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v cut in half: %v", c, err)
		}
	}
	if _, err := vma.NewReader(bytes.NewReader(zst.Bytes()), nil); !errors.Is(err, vma.ErrFormat) || err.Error() != "vma: header at 0x0: wrong header magic: compressed with zstd" {
		t.Errorf("an archive that is not decompressed: %v", err)
	}
}

// TestDecompressTools reads what the programs write that Proxmox calls.
func TestDecompressTools(t *testing.T) {
	zstdTool := difftest.Tool(t, "zstd", "1.4")
	disks := []ram{content(1, 20<<20, 0.3)}
	plain := build(t, false, disks...)
	dir := t.TempDir()
	name := filepath.Join(dir, "a.vma")
	if err := os.WriteFile(name, plain, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tool, version string
		args          []string
		want          vma.Compression
	}{
		{"zstd", "1.4", []string{"--rsyncable", "--threads=2", "-q", "-c", name}, vma.Zstd},
		{"zstd", "1.4", []string{"-19", "-q", "-c", name}, vma.Zstd},
		{"gzip", "1.9", []string{"-c", name}, vma.Gzip},
		{"lzop", "1.04", []string{"-c", name}, vma.LZO},
	} {
		b := difftest.Run(t, difftest.Tool(t, c.tool, c.version), c.args...)
		lzop := &vma.DecompressOptions{LZO: func(r io.Reader) (io.Reader, error) {
			cmd := exec.Command("lzop", "-dc")
			cmd.Stdin = r
			out, err := cmd.Output()
			return bytes.NewReader(out), err
		}}
		if got := decompressed(t, b, lzop, disks); got != c.want {
			t.Errorf("%s: recognised as %v", c.tool, got)
		}
	}
	// A window of 128 MiB takes as much memory, and is refused unless asked for.
	long := difftest.TryIn(t, plain, zstdTool, "-1", "--long=27", "-q", "-c").Stdout
	r, _, err := vma.Decompress(bytes.NewReader(long), nil)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Errorf("a large window: %v", err)
	}
	decompressed(t, long, &vma.DecompressOptions{MaxWindow: 128 << 20}, disks)
}
