package vma_test

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/corpus"
	"github.com/virtfmt/virtfmt/vma"
)

// Each benchmark runs beside what it cannot be faster than: reading and
// writing the same bytes, the checksums alone, the decoder alone. TMPDIR says
// where the files are.

// benchDisk is 256 MiB, of which 60 % of the blocks hold text.
func benchDisk() ram {
	const size = 256 << 20
	r, text := rand.New(rand.NewPCG(1, 2)), corpus.Text(1)
	d := make(ram, size)
	for off := 0; off < size; off += vma.BlockSize {
		if r.Float64() < 0.6 {
			io.ReadFull(text, d[off:off+vma.BlockSize])
		}
	}
	return d
}

// benchFile writes b to a file.
func benchFile(b *testing.B, name string, data []byte) *os.File {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), name))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	if _, err := f.Write(data); err != nil {
		b.Fatal(err)
	}
	return f
}

// fresh returns an empty file in place of f.
func fresh(b *testing.B, f *os.File) *os.File {
	b.Helper()
	if err := f.Truncate(0); err != nil {
		b.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		b.Fatal(err)
	}
	return f
}

// copySparse copies src to dst but for the blocks that are zero, as cp
// --sparse=always does.
func copySparse(b *testing.B, dst, src *os.File) {
	buf := make([]byte, 256<<10)
	for off := int64(0); ; off += int64(len(buf)) {
		n, err := src.ReadAt(buf, off)
		for p := buf[:n]; len(p) > 0; {
			start := 0
			for start < len(p) && isZero(p[start:min(start+vma.BlockSize, len(p))]) {
				start += vma.BlockSize
			}
			end := start
			for end < len(p) && !isZero(p[end:min(end+vma.BlockSize, len(p))]) {
				end += vma.BlockSize
			}
			if start < end {
				if _, err := dst.WriteAt(p[start:min(end, len(p))], off+int64(n-len(p)+start)); err != nil {
					b.Fatal(err)
				}
			}
			p = p[min(end, len(p)):]
		}
		if err == io.EOF {
			break
		}
	}
}

func BenchmarkExtract(b *testing.B) {
	disk := benchDisk()
	raw, out := benchFile(b, "raw", disk), benchFile(b, "out", nil)
	archive := mustBuild(false, disk)
	in := benchFile(b, "vma", archive)
	opt := &vma.ExtractOptions{Target: func(vma.DeviceInfo) (*vma.Target, error) {
		return &vma.Target{W: fresh(b, out)}, nil
	}}
	run := func(name string, f func() error) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(disk)))
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("copy", func() error { copySparse(b, fresh(b, out), raw); return nil })
	run("file", func() error {
		a, err := vma.Open(in, nil)
		if err == nil {
			_, err = a.Extract(b.Context(), opt)
		}
		return err
	})
	run("stream", func() error {
		_, err := in.Seek(0, io.SeekStart)
		if err != nil {
			return err
		}
		r, err := vma.NewReader(in, nil)
		if err == nil {
			_, err = r.Extract(b.Context(), opt)
		}
		return err
	})
	var zst bytes.Buffer
	e, err := zstd.NewWriter(&zst)
	if err == nil {
		_, err = e.Write(archive)
	}
	if err == nil {
		err = e.Close()
	}
	if err != nil {
		b.Fatal(err)
	}
	decode := func() io.ReadCloser {
		r, _, err := vma.Decompress(bytes.NewReader(zst.Bytes()), nil)
		if err != nil {
			b.Fatal(err)
		}
		return r
	}
	run("zstd to nowhere", func() error {
		r := decode()
		defer r.Close()
		_, err := io.Copy(io.Discard, r)
		return err
	})
	run("zstd", func() error {
		d := decode()
		defer d.Close()
		r, err := vma.NewReader(d, nil)
		if err == nil {
			_, err = r.Extract(b.Context(), opt)
		}
		return err
	})
}

func BenchmarkWrite(b *testing.B) {
	disk := benchDisk()
	raw, out := benchFile(b, "raw", nil), benchFile(b, "out", nil)
	if err := raw.Truncate(int64(len(disk))); err != nil {
		b.Fatal(err)
	}
	copySparse(b, raw, benchFile(b, "full", disk))
	b.Run("copy", func(b *testing.B) {
		b.SetBytes(int64(len(disk)))
		for b.Loop() {
			copySparse(b, fresh(b, out), raw)
		}
	})
	for name, o := range map[string]*vma.CopyOptions{"archive": nil, "archive, 1 worker": {Workers: 1}} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(disk)))
			for b.Loop() {
				w, err := vma.NewWriter(fresh(b, out), testHeader(vma.DeviceInfo{Name: "a", Size: int64(len(disk))}), nil)
				if err == nil {
					err = w.CopyFrom(b.Context(), 1, block.Raw(raw, int64(len(disk))), o)
				}
				if err == nil {
					err = w.Close()
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkVerify runs over an archive of 64 GiB, sequential or as a backup of
// a running machine leaves it, nearly all of whose blocks are zero.
func BenchmarkVerify(b *testing.B) {
	const clusters = 1 << 20
	for _, order := range []string{"sequential", "live"} {
		var archive bytes.Buffer
		w, err := vma.NewWriter(&archive, testHeader(vma.DeviceInfo{Name: "a", Size: clusters << 16}), &vma.WriterOptions{FillMissing: true})
		if err != nil {
			b.Fatal(err)
		}
		r, early := rand.New(rand.NewPCG(3, 4)), make(map[uint32]bool)
		for n := uint32(0); n < clusters && order == "live"; n++ {
			// Before cluster n, one in eight times, one of the next 400.
			for next := n + r.Uint32N(min(400, clusters-n)); r.IntN(8) == 0 && !early[next]; {
				early[next] = true
				if err := w.WriteZeroes(1, int64(next)<<16, 1<<16); err != nil {
					b.Fatal(err)
				}
			}
			if !early[n] {
				early[n] = true
				if err := w.WriteZeroes(1, int64(n)<<16, 1<<16); err != nil {
					b.Fatal(err)
				}
			}
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
		f := benchFile(b, order, archive.Bytes())
		size := int64(archive.Len())
		b.Run(order+"/walk", func(b *testing.B) {
			h := make([]byte, 512)
			for b.Loop() {
				for off := int64(12800); off < size; {
					if _, err := f.ReadAt(h, off); err != nil {
						b.Fatal(err)
					}
					md5.Sum(h)
					off += 512 + 4096*int64(binary.BigEndian.Uint16(h[6:]))
				}
			}
		})
		b.Run(order+"/verify", func(b *testing.B) {
			for b.Loop() {
				if r, err := vma.Verify(b.Context(), f, nil); err != nil || !r.OK() {
					b.Fatal(err, r.Err())
				}
			}
		})
	}
}

// BenchmarkReadAt reads 4 KiB at random from an archive in live order, beside
// the same reads of the file.
func BenchmarkReadAt(b *testing.B) {
	rnd := rand.New(rand.NewPCG(5, 6))
	disk := content(1, 64<<20, 1)
	f := benchFile(b, "vma", writeShuffled(b, rnd, []ram{disk, content(2, 512, 1)}))
	a, err := vma.Open(f, nil)
	if err != nil {
		b.Fatal(err)
	}
	d := a.Devices()[0]
	p := make([]byte, 4096)
	b.Run("file", func(b *testing.B) {
		for b.Loop() {
			if _, err := f.ReadAt(p, int64(rnd.IntN(len(disk)-4096))); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("device", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.ReadAt(p, int64(rnd.IntN(len(disk)/4096))*4096); err != nil {
				b.Fatal(err)
			}
		}
	})
}
