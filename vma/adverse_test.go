package vma_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/vma"
)

// TestExtractOnce: what a Reader has read is gone, so that a second
// extraction, or one after Next, would lack it and succeed.
func TestExtractOnce(t *testing.T) {
	whole := build(t, false, content(1, 5<<20, 0.5))
	o := &vma.ExtractOptions{Target: func(d vma.DeviceInfo) (*vma.Target, error) {
		return &vma.Target{W: newBuffer(d.Size, 0)}, nil
	}}
	for name, before := range map[string]func(r *vma.Reader) error{
		"Extract": func(r *vma.Reader) error { _, err := r.Extract(t.Context(), o); return err },
		"Next":    func(r *vma.Reader) error { _, err := r.Next(); return err },
	} {
		r, err := vma.NewReader(bytes.NewReader(whole), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := before(r); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Extract(t.Context(), o); err == nil {
			t.Errorf("extracts after %s", name)
		}
	}
}

// A fixed target has a size that must stay.
type fixed struct {
	*buffer
	truncated bool
}

func (f *fixed) Truncate(int64) error {
	f.truncated = true
	return nil
}

// TestExtractKeepSize: the size of a device that only the salvage comes to
// know is not given to a target that keeps its own.
func TestExtractKeepSize(t *testing.T) {
	b := build(t, false, content(1, 5<<20, 0.5))
	clear(b[:12288])
	for name, x := range extractors(t, b, &vma.Options{Profile: vma.Salvage}) {
		for _, keep := range []bool{true, false} {
			f := &fixed{buffer: newBuffer(6<<20, 0)}
			if _, err := x.Extract(t.Context(), &vma.ExtractOptions{Target: func(vma.DeviceInfo) (*vma.Target, error) {
				return &vma.Target{W: f, KeepSize: keep, Zeroed: true}, nil
			}}); err != nil {
				t.Fatal(err)
			}
			if f.truncated == keep {
				t.Errorf("%s: KeepSize %v, truncated %v", name, keep, f.truncated)
			}
			x = extractors(t, b, &vma.Options{Profile: vma.Salvage})[name]
		}
	}
}

// TestExtractOverSymlinks extracts into a directory where the names of the
// files are taken, by symbolic links that lead out of it.
func TestExtractOverSymlinks(t *testing.T) {
	whole := build(t, true, content(1, 1<<20, 0.5), content(2, 1<<20, 0.5))
	for _, name := range []string{"qemu-server.conf", "disk-disk0.raw", "tmp-disk-disk0.raw", "vmstate.bin", "tmp-vmstate.bin"} {
		for _, to := range []string{"victim", "nothing"} {
			top := t.TempDir()
			dir := filepath.Join(top, "dir")
			victim := filepath.Join(top, "victim")
			if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(victim, []byte("precious"), 0o644)); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join("..", to), filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			_, err = vma.ExtractDir(t.Context(), extractors(t, whole, nil)["reader"], root, nil)
			if !errors.Is(err, fs.ErrExist) {
				t.Errorf("%s is a link to %s: %v", name, to, err)
			}
			if err := root.Close(); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(victim); err != nil || string(got) != "precious" || len(list(t, top)) != 2 {
				t.Errorf("%s: a file outside of the directory was written: %q, %v", name, got, err)
			}
			if fi, err := os.Lstat(filepath.Join(dir, name)); err != nil || fi.Mode().Type() != fs.ModeSymlink {
				t.Errorf("%s: the link is gone: %v, %v", name, fi, err)
			}
		}
	}
}

// An oddReaderAt breaks the rules of io.ReaderAt in one way.
type oddReaderAt struct {
	*bytes.Reader
	read func(r io.ReaderAt, p []byte, off int64) (int, error)
}

func (o oddReaderAt) ReadAt(p []byte, off int64) (int, error) { return o.read(o.Reader, p, off) }

// TestOddReaders reads archives through readers that stop short, tell more
// than they have, or make no progress: with an error or the right content,
// and at once.
func TestOddReaders(t *testing.T) {
	disk := content(1, 2<<20, 0.5)
	whole := build(t, false, disk)
	for name, read := range map[string]func(r io.ReaderAt, p []byte, off int64) (int, error){
		"nothing":      func(io.ReaderAt, []byte, int64) (int, error) { return 0, nil },
		"data and EOF": func(r io.ReaderAt, p []byte, off int64) (int, error) { n, _ := r.ReadAt(p, off); return n, io.EOF },
		"EOF early": func(r io.ReaderAt, p []byte, off int64) (int, error) {
			n, _ := r.ReadAt(p[:len(p)/2], off)
			return n, io.EOF
		},
		"short":         func(r io.ReaderAt, p []byte, off int64) (int, error) { return r.ReadAt(p[:(len(p)+1)/2], off) },
		"too much":      func(r io.ReaderAt, p []byte, off int64) (int, error) { r.ReadAt(p, off); return len(p) + 1, nil },
		"negative":      func(r io.ReaderAt, p []byte, off int64) (int, error) { return -1, nil },
		"error at last": func(r io.ReaderAt, p []byte, off int64) (int, error) { n, _ := r.ReadAt(p, off); return n, errFull },
	} {
		t.Run(name, func(t *testing.T) {
			r := oddReaderAt{bytes.NewReader(whole), read}
			if rep, err := vma.Verify(t.Context(), r, nil); err == nil && !rep.OK() {
				t.Error("an archive is blamed for its reader:", rep.Err())
			}
			a, err := vma.Open(r, nil)
			if err != nil {
				return
			}
			got := make([]byte, len(disk))
			if n, err := a.Devices()[0].ReadAt(got, 0); err == nil && (n != len(got) || !bytes.Equal(got, disk)) {
				t.Errorf("%d other bytes and no error", n)
			}
			b := newBuffer(disk.Size(), 0)
			if _, err := a.Extract(t.Context(), &vma.ExtractOptions{Target: func(vma.DeviceInfo) (*vma.Target, error) {
				return &vma.Target{W: b}, nil
			}}); err == nil && !bytes.Equal(b.b, disk) {
				t.Error("extracts other bytes without an error")
			}
		})
	}
}

// A liar is a disk whose extents are what extents makes of the true ones.
type liar struct {
	ram
	extents func(yield func(vma.Extent, error) bool, size int64)
}

func (l liar) Extents(off, n int64) iter.Seq2[vma.Extent, error] {
	return func(yield func(vma.Extent, error) bool) { l.extents(yield, l.Size()) }
}

// TestDisksThatLie copies disks whose extents do not add up: an error, and no
// archive.
func TestDisksThatLie(t *testing.T) {
	disk := content(1, 9<<20, 0.7)
	data := func(start, n int64) vma.Extent { return vma.Extent{Start: start, Length: n, Kind: vma.Data} }
	for name, extents := range map[string]func(yield func(vma.Extent, error) bool, size int64){
		"none":     func(func(vma.Extent, error) bool, int64) {},
		"an error": func(yield func(vma.Extent, error) bool, size int64) { yield(vma.Extent{}, errFull) },
		"an error late": func(yield func(vma.Extent, error) bool, size int64) {
			_ = yield(data(0, 5<<20), nil) && yield(data(5<<20, size-5<<20), errFull)
		},
		"too few":  func(yield func(vma.Extent, error) bool, size int64) { yield(data(0, size-4096), nil) },
		"too long": func(yield func(vma.Extent, error) bool, size int64) { yield(data(0, size+1), nil) },
		"a gap": func(yield func(vma.Extent, error) bool, size int64) {
			_ = yield(data(0, 4096), nil) && yield(data(8192, size-8192), nil)
		},
		"an overlap": func(yield func(vma.Extent, error) bool, size int64) {
			_ = yield(data(0, 8192), nil) && yield(data(4096, size-4096), nil)
		},
		"empty": func(yield func(vma.Extent, error) bool, size int64) {
			for yield(data(0, 0), nil) {
			}
		},
		"negative": func(yield func(vma.Extent, error) bool, size int64) { yield(data(0, -4096), nil) },
	} {
		var b bytes.Buffer
		w, err := vma.NewWriter(&b, testHeader(vma.DeviceInfo{Name: "a", Size: disk.Size()}), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.CopyFrom(t.Context(), 1, liar{disk, extents}, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
		if err := w.Close(); err == nil || verify(t, b.Bytes(), nil).OK() {
			t.Errorf("%s: an archive: %v", name, err)
		}
	}
	// What is known to be zero is not read, and what is not is, whatever it is.
	var b bytes.Buffer
	w, err := vma.NewWriter(&b, testHeader(vma.DeviceInfo{Name: "a", Size: disk.Size()}), nil)
	if err == nil {
		err = w.CopyFrom(t.Context(), 1, liar{disk, func(yield func(vma.Extent, error) bool, size int64) {
			_ = yield(vma.Extent{Length: 5 << 20, Kind: vma.Zero}, nil) && yield(data(5<<20, size-5<<20), nil)
		}}, nil)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	clear(disk[:5<<20])
	readBack(t, b.Bytes(), []ram{disk})
}

// TestCopyAroundWritten copies a device of which some clusters were written
// before, one in each place of an extent.
func TestCopyAroundWritten(t *testing.T) {
	disk := content(1, 150<<16, 0.1)
	for _, num := range []int{0, 56, 57, 58, 59, 70, 114, 115, 149} {
		var b bytes.Buffer
		w, err := vma.NewWriter(&b, testHeader(vma.DeviceInfo{Name: "a", Size: disk.Size()}), nil)
		if err == nil {
			err = errors.Join(w.WriteCluster(1, uint32(num), disk[num<<16:][:1<<16]), w.CopyFrom(t.Context(), 1, disk, nil), w.Close())
		}
		if err != nil {
			t.Fatalf("cluster %d: %v", num, err)
		}
		readBack(t, b.Bytes(), []ram{disk})
	}
}

// TestCanceled gives a context that has ended to all that takes one.
func TestCanceled(t *testing.T) {
	disk := content(1, 5<<20, 0.5)
	whole := build(t, false, disk)
	a, err := vma.Open(bytes.NewReader(whole), nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := vma.NewReader(bytes.NewReader(whole), nil)
	if err != nil {
		t.Fatal(err)
	}
	w, err := vma.NewWriter(io.Discard, testHeader(vma.DeviceInfo{Name: "a", Size: disk.Size()}), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errFull)
	for name, f := range map[string]func() error{
		"Verify":          func() error { _, err := vma.Verify(ctx, bytes.NewReader(whole), nil); return err },
		"VerifyStream":    func() error { _, err := vma.VerifyStream(ctx, bytes.NewReader(whole), nil); return err },
		"OpenContext":     func() error { _, err := vma.OpenContext(ctx, bytes.NewReader(whole), nil); return err },
		"Archive.Extract": func() error { _, err := a.Extract(ctx, nil); return err },
		"Reader.Extract":  func() error { _, err := r.Extract(ctx, nil); return err },
		"CopyTo":          func() error { _, err := a.Devices()[0].CopyTo(ctx, newBuffer(disk.Size(), 0), nil); return err },
		"CopyFrom":        func() error { return w.CopyFrom(ctx, 1, disk, nil) },
		"Repack":          func() error { return vma.Repack(ctx, io.Discard, a, nil) },
	} {
		if err := f(); !errors.Is(err, errFull) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.Close(); !errors.Is(err, errFull) {
		t.Errorf("Close of the writer: %v", err)
	}
}

// TestDecompressionBomb reads what a few kilobytes of zstd make: a header as
// large as is accepted, then extents for ever.
func TestDecompressionBomb(t *testing.T) {
	h, err := testHeader(vma.DeviceInfo{ID: 1, Name: "a", Size: vma.MaxDeviceSize}).AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	size := 64 << 20
	if testing.Short() {
		size = 2 << 20
	}
	large := append(bytes.Clone(h), make([]byte, size-len(h))...)
	binary.BigEndian.PutUint32(large[52:], uint32(len(large)-12288))
	binary.BigEndian.PutUint32(large[56:], uint32(len(large)))
	sign(large, 32)
	extent := make([]byte, 512)
	copy(extent, "VMAE")
	copy(extent[8:], h[8:24])
	for i := range 59 {
		binary.BigEndian.PutUint64(extent[40+8*i:], 1<<32|77) // the same one again
	}
	sign(extent, 24)
	for name, c := range map[string]struct {
		head  []byte
		limit uint64
	}{
		"a large header": {large, 200 << 20}, // twice what there is, the last doubling included
		"extents":        {h, 64 << 20},
	} {
		var b bytes.Buffer
		enc, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		enc.Write(c.head)
		for range difftest.Scale(t, 10000) {
			enc.Write(extent)
		}
		if err := enc.Close(); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		peak := peakMemory(func() {
			r, _, err := vma.Decompress(bytes.NewReader(b.Bytes()), nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			if rep, err := vma.VerifyStream(t.Context(), r, &vma.Options{Profile: vma.Salvage}); err != nil || rep.OK() {
				t.Errorf("%s: %v, or all is well", name, err)
			}
		})
		if took := time.Since(start); peak > c.limit || took > hostileTime || b.Len() > 1<<20 {
			t.Errorf("%s: %d bytes cost %d MiB and %v", name, b.Len(), peak>>20, took)
		}
	}
}
