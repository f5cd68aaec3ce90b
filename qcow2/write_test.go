package qcow2_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// A disk is an image that is open for writing beside an array that holds what
// it must hold.
type disk struct {
	t     *testing.T
	im    *qcow2.Image
	f     *memfile.File
	opts  qcow2.Options
	base  []byte // backing file, or nil
	want  []byte
	v2    bool
	rng   *rand.Rand
	sizes int // of clusters
}

// newDisk makes an image of the kind that o says, with a backing file of base
// bytes if that is not 0.
func newDisk(t *testing.T, size int64, base int, o qcow2.CreateOptions, seed uint64) *disk {
	t.Helper()
	d := &disk{t: t, f: memfile.New(), want: make([]byte, size), rng: rand.New(rand.NewPCG(seed, 7)), sizes: int(max(o.ClusterSize, 512)), v2: o.Version == 2}
	if o.ClusterSize == 0 {
		d.sizes = 65536
	}
	if base > 0 {
		d.base = make([]byte, base)
		for i := range d.base {
			d.base[i] = byte(i>>9)*7 + 1
		}
		copy(d.want, d.base)
		o.BackingFile, o.BackingFormat = "base.raw", "raw"
		d.opts.OpenBacking = func(string, string) (qcow2.Disk, error) { return rawDisk(d.base), nil }
	}
	if o.DataFile != "" {
		data := memfile.New()
		o.Data = data
		d.opts.OpenData = func(string, bool) (qcow2.File, error) { return data, nil }
	}
	o.Open = &d.opts
	im, err := qcow2.Create(d.f, size, &o)
	if err != nil {
		t.Fatal(err)
	}
	d.im = im
	return d
}

// reopen closes the image, checks it, and opens it again.
func (d *disk) reopen() {
	d.t.Helper()
	if err := d.im.Close(); err != nil {
		d.t.Fatal(err)
	}
	checkClean(d.t, d.f)
	im, err := qcow2.OpenRW(d.f, &d.opts)
	if err != nil {
		d.t.Fatal(err)
	}
	d.im = im
}

// checkClean fails if Check finds anything in the file.
func checkClean(t *testing.T, f io.ReaderAt) {
	t.Helper()
	res, err := qcow2.Check(t.Context(), f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !res.Clean() {
		t.Fatalf("%d corruptions, %d leaks: %v", res.Corruptions, res.Leaks, res.Findings)
	}
}

// step does one random operation on both.
func (d *disk) step() string {
	d.t.Helper()
	off := d.rng.IntN(len(d.want))
	n := 1 + d.rng.IntN(1<<d.rng.IntN(18))
	if d.rng.IntN(3) == 0 {
		off = off / d.sizes * d.sizes
		n = (1 + d.rng.IntN(4)) * d.sizes
	}
	n = min(n, len(d.want)-off)
	part := d.want[off : off+n]
	var err error
	var name string
	switch k := d.rng.IntN(22); {
	case k >= 20:
		name = "compress"
		off = off / d.sizes * d.sizes
		n = min(len(d.want)-off, (1+d.rng.IntN(max(1, min(4, (4<<20)/d.sizes))))*d.sizes)
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(i>>3) | 1
			if i>>9&k&1 == 1 {
				p[i] = byte(d.rng.Uint32())
			}
		}
		_, err = d.im.WriteCompressedAt(p, int64(off))
		switch {
		case err == nil:
			copy(d.want[off:], p)
		case errors.Is(err, qcow2.ErrAllocated), errors.Is(err, errors.ErrUnsupported) && (d.opts.OpenData != nil || d.opts.Passphrase != nil):
			err = nil
		}
	case k < 9:
		name = "write"
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(d.rng.Uint32()>>8) | 1
		}
		var m int
		m, err = d.im.WriteAt(p, int64(off))
		if err == nil && m != n {
			err = fmt.Errorf("%d bytes written", m)
		}
		copy(part, p)
	case k < 11:
		name = "zero"
		err = d.im.WriteZeroesAt(int64(off), int64(n))
		clear(part)
	case k < 13:
		name = "unmap"
		err = d.im.UnmapAt(int64(off), int64(n))
		clear(part)
	case k < 15:
		name = "discard"
		err = d.im.DiscardAt(int64(off), int64(n))
		if d.v2 && d.base != nil && errors.Is(err, errors.ErrUnsupported) {
			err = nil
			break
		}
		first, last := (off+d.sizes-1)/d.sizes*d.sizes, (off+n)/d.sizes*d.sizes
		if off+n == len(d.want) {
			last = off + n
		}
		if first < last {
			clear(d.want[first:last])
		}
	case k < 18:
		name = "read"
		p := make([]byte, n)
		if _, err = d.im.ReadAt(p, int64(off)); err == nil {
			if i := differ(p, part); i >= 0 {
				err = fmt.Errorf("byte %d is %#x, want %#x", off+i, p[i], part[i])
			}
		}
	case k < 19:
		name = "sync"
		err = d.im.Sync()
	default:
		name = "reopen"
		d.reopen()
	}
	name = fmt.Sprintf("%s %d %d", name, off, n)
	if err != nil {
		d.t.Fatalf("%s: %v", name, err)
	}
	return name
}

// verify compares the whole disk.
func (d *disk) verify() {
	d.t.Helper()
	got := make([]byte, len(d.want))
	if n, err := d.im.ReadAt(got, 0); err != nil {
		d.t.Fatalf("ReadAt: %d, %v", n, err)
	}
	if i := differ(got, d.want); i >= 0 {
		d.t.Fatalf("byte %d is %#x, want %#x", i, got[i], d.want[i])
	}
}

// writeFlavours are the kinds of images that are written in tests.
func writeFlavours() map[string]func(t *testing.T, seed uint64) *disk {
	kinds := map[string]struct {
		size int64
		base int
		o    qcow2.CreateOptions
	}{
		"v2":            {1<<20 + 512, 0, qcow2.CreateOptions{Version: 2}},
		"v2-backing":    {300 << 10, 200 << 10, qcow2.CreateOptions{Version: 2, ClusterSize: 4096}},
		"512":           {400 << 10, 0, qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 1}},
		"512-backing":   {200 << 10, 100<<10 + 100, qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 64}},
		"4k-lazy":       {1 << 20, 0, qcow2.CreateOptions{ClusterSize: 4096, RefcountBits: 2, LazyRefcounts: true}},
		"64k-backing":   {2<<20 + 512, 3 << 20, qcow2.CreateOptions{}},
		"2m":            {5<<20 + 1024, 0, qcow2.CreateOptions{ClusterSize: 2 << 20}},
		"extl2":         {1 << 20, 0, qcow2.CreateOptions{ClusterSize: 16384, ExtendedL2: true}},
		"extl2-backing": {2 << 20, 1<<20 + 700, qcow2.CreateOptions{ExtendedL2: true, CompressionType: qcow2.CompressionZstd}},
		"data":          {1 << 20, 0, qcow2.CreateOptions{DataFile: "d"}},
		"data-raw":      {1 << 20, 0, qcow2.CreateOptions{DataFile: "d", DataFileRaw: true, ClusterSize: 4096}},
		"data-extl2":    {1 << 20, 0, qcow2.CreateOptions{DataFile: "d", ExtendedL2: true}},
		"prealloc":      {1 << 20, 0, qcow2.CreateOptions{Preallocation: qcow2.PreallocateMetadata, ClusterSize: 4096}},
	}
	all := map[string]func(t *testing.T, seed uint64) *disk{}
	for name, k := range kinds {
		all[name] = func(t *testing.T, seed uint64) *disk { return newDisk(t, k.size, k.base, k.o, seed) }
	}
	return all
}

// TestWriteModel does random operations beside an array.
func TestWriteModel(t *testing.T) {
	seed := difftest.Seed(t, 1)
	for name, make := range writeFlavours() {
		t.Run(name, func(t *testing.T) {
			d := make(t, seed)
			var log []string
			defer func() {
				if t.Failed() {
					t.Logf("last steps: %q", log[max(0, len(log)-12):])
				}
			}()
			for i := range difftest.Scale(t, 600) {
				log = append(log, d.step())
				if i%100 == 99 {
					d.verify()
				}
			}
			d.verify()
			checkExtents(t, d.im, d.want)
			d.reopen()
			d.verify()
			if err := d.im.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestWriteSamples writes to images that qemu-io made: compressed clusters and
// all else.
func TestWriteSamples(t *testing.T) {
	seed := difftest.Seed(t, 1)
	for name, s := range samples(t) {
		t.Run(name, func(t *testing.T) {
			d := &disk{t: t, f: memfile.FromBytes(s.image), want: bytes.Clone(s.content), base: s.backing, rng: rand.New(rand.NewPCG(seed, 9))}
			data := memfile.FromBytes(s.data)
			d.opts = qcow2.Options{
				OpenBacking: func(string, string) (qcow2.Disk, error) { return rawDisk(s.backing), nil },
				OpenData:    func(string, bool) (qcow2.File, error) { return data, nil },
			}
			im, err := qcow2.OpenRW(d.f, &d.opts)
			if err != nil {
				t.Fatal(err)
			}
			d.im, d.v2, d.sizes = im, im.Header().Version == 2, int(im.ClusterSize())
			for range difftest.Scale(t, 150) {
				d.step()
			}
			d.verify()
			d.reopen()
			d.verify()
			if err := d.im.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWriteArguments(t *testing.T) {
	d := newDisk(t, 1<<20, 0, qcow2.CreateOptions{}, 1)
	p := []byte("0123456789")
	for _, off := range []int64{-1, 1<<20 - 9, 1 << 20, 1 << 62} {
		if n, err := d.im.WriteAt(p, off); n != 0 || !errors.Is(err, qcow2.ErrOutOfRange) {
			t.Errorf("WriteAt at %d: %d, %v", off, n, err)
		}
		for _, f := range []func(off, n int64) error{d.im.WriteZeroesAt, d.im.UnmapAt, d.im.DiscardAt} {
			if err := f(off, 10); !errors.Is(err, qcow2.ErrOutOfRange) {
				t.Errorf("at %d: %v", off, err)
			}
		}
	}
	if n, err := d.im.WriteAt(p, 1<<20-10); n != 10 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, err := range []error{d.im.WriteZeroesAt(1<<20, 0), d.im.DiscardAt(0, 0), d.im.Sync()} {
		if err != nil {
			t.Error(err)
		}
	}
	if err := d.im.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.im.WriteAt(p, 0); !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
	if err := d.im.Sync(); !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
	ro := open(t, d.f.Bytes(), nil)
	if _, err := ro.WriteAt(p, 0); !errors.Is(err, fs.ErrPermission) || !errors.Is(err, qcow2.ErrReadOnly) {
		t.Error(err)
	}
	if err := ro.Sync(); err != nil {
		t.Error(err)
	}
}

// TestZeroNothing: zeros where there is nothing add nothing to a version 2
// image, least of all a table past the end of its file.
func TestZeroNothing(t *testing.T) {
	d := newDisk(t, 1<<20, 0, qcow2.CreateOptions{Version: 2}, 1)
	before := d.f.Bytes()
	for _, do := range []func(off, n int64) error{d.im.WriteZeroesAt, d.im.UnmapAt, d.im.DiscardAt} {
		if err := do(65536, 131072); err != nil {
			t.Fatal(err)
		}
		if err := do(100, 1000); err != nil {
			t.Fatal(err)
		}
	}
	d.reopen()
	if !bytes.Equal(before, d.f.Bytes()) {
		t.Error("the file changed")
	}
}
