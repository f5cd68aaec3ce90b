package qcow2_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/virtfmt/virtfmt/internal/corpus"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// pipe hides that a buffer could seek.
type pipe struct{ bytes.Buffer }

// seeker is a file in memory with a position.
type seeker struct {
	*memfile.File
	pos int64
}

func (s *seeker) Write(p []byte) (int, error) {
	n, err := s.WriteAt(p, s.pos)
	s.pos += int64(n)
	return n, err
}

func (s *seeker) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += s.pos
	case io.SeekEnd:
		off += s.Size()
	}
	s.pos = off
	return off, nil
}

var (
	someText  = sync.OnceValue(func() []byte { return corpus.Bytes(corpus.Text(1), 1<<20) })
	someNoise = sync.OnceValue(func() []byte { return corpus.Bytes(corpus.Noise(1), 1<<20) })
)

// patchwork returns the bytes of a disk with text, noise and zeros, of which
// some clusters compress and some do not.
func patchwork(r *rand.Rand, size int) []byte {
	p := make([]byte, size)
	for off := 0; off < size; {
		n := min(1+r.IntN(200<<10), size-off)
		if r.IntN(4) == 0 {
			n = min(4<<10, n)
		}
		switch r.IntN(4) {
		case 0:
			copy(p[off:off+n], someNoise()[r.IntN(700<<10):])
		case 1, 2:
			copy(p[off:off+n], someText()[r.IntN(700<<10):])
		}
		off += n
	}
	return p
}

// encodings returns options for images of many kinds.
func encodings() map[string]*qcow2.EncodeOptions {
	all := map[string]*qcow2.EncodeOptions{"default": nil}
	add := func(name string, c qcow2.CreateOptions, compress bool) {
		all[name] = &qcow2.EncodeOptions{Create: &c, Compress: compress}
	}
	zstd := qcow2.CompressionZstd
	add("v2", qcow2.CreateOptions{Version: 2}, false)
	add("v2-deflate", qcow2.CreateOptions{Version: 2, ClusterSize: 4096}, true)
	add("512", qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 1}, false)
	add("512-deflate-1", qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 1}, true)
	add("4k-deflate-2", qcow2.CreateOptions{ClusterSize: 4096, RefcountBits: 2}, true)
	add("4k-zstd-64", qcow2.CreateOptions{ClusterSize: 4096, RefcountBits: 64, CompressionType: zstd}, true)
	add("64k-deflate", qcow2.CreateOptions{}, true)
	add("64k-zstd", qcow2.CreateOptions{CompressionType: zstd}, true)
	add("64k-zstd-8", qcow2.CreateOptions{CompressionType: zstd, RefcountBits: 8}, true)
	add("2m-deflate", qcow2.CreateOptions{ClusterSize: 2 << 20}, true)
	add("2m", qcow2.CreateOptions{ClusterSize: 2 << 20, LazyRefcounts: true}, false)
	add("extl2", qcow2.CreateOptions{ClusterSize: 16 << 10, ExtendedL2: true}, false)
	add("extl2-zstd", qcow2.CreateOptions{ExtendedL2: true, CompressionType: zstd}, true)
	return all
}

// encode writes an image to what can seek and to what cannot.
func encode(t *testing.T, src qcow2.Disk, o *qcow2.EncodeOptions) map[string][]byte {
	t.Helper()
	var p pipe
	if err := qcow2.Encode(t.Context(), &p, src, o); err != nil {
		t.Fatal(err)
	}
	s := &seeker{File: memfile.FromBytes(bytes.Repeat([]byte{0xee}, 1<<20))}
	if err := qcow2.Encode(t.Context(), s, src, o); err != nil {
		t.Fatal(err)
	}
	if s.pos != s.Size() {
		t.Errorf("left the file at %#x of %#x", s.pos, s.Size())
	}
	return map[string][]byte{"pipe": p.Bytes(), "file": s.Bytes()}
}

func TestEncode(t *testing.T) {
	r := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	for name, o := range encodings() {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{0, 512, 70000&^511 + difftest.Scale(t, 1<<20)&^511} {
				want := patchwork(r, size)
				for where, image := range encode(t, rawDisk(want), o) {
					im := open(t, image, nil)
					got := make([]byte, size)
					if _, err := im.ReadAt(got, 0); size > 0 && err != nil || !bytes.Equal(got, want) || im.Size() != int64(size) {
						t.Errorf("%d bytes to a %s: reads back %v, equal: %v", size, where, err, bytes.Equal(got, want))
					}
					res, err := im.Check(t.Context(), nil)
					if err != nil || len(res.Findings) > 0 {
						t.Errorf("%d bytes to a %s: check: %v, %v", size, where, err, res)
					}
					im.Close()
				}
			}
		})
	}
}

// TestEncodeAsQEMU has qemu-img check and compare images of all kinds.
func TestEncodeAsQEMU(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	r := rand.New(rand.NewPCG(difftest.Seed(t, 2), 0))
	for name, o := range encodings() {
		for _, size := range []int{512, 3<<20 + r.IntN(9<<20)&^511} {
			want := patchwork(r, size)
			writeFile(t, raw, want)
			for where, image := range encode(t, rawDisk(want), o) {
				path := filepath.Join(dir, name+"-"+where+".qcow2")
				writeFile(t, path, image)
				difftest.Run(t, img, "check", "-f", "qcow2", path)
				difftest.Run(t, img, "compare", "-f", "raw", "-F", "qcow2", raw, path)
			}
		}
	}
}

// TestEncodeSparse encodes a disk whose extents are known, and holds that what
// reads as zeros takes no space and is not read.
func TestEncodeSparse(t *testing.T) {
	d := &hollow{size: 1 << 40, data: map[int64][]byte{
		0:                      corpus.Bytes(corpus.Text(1), 65536),
		1<<39 + 4096:           corpus.Bytes(corpus.Noise(1), 512),
		1<<40 - 100:            {1, 2, 3},
		1<<39 + 65536*8192 + 7: make([]byte, 300), // zeros that are stored
	}}
	for where, image := range encode(t, d, &qcow2.EncodeOptions{Compress: true}) {
		if len(image) > 20*65536 {
			t.Errorf("the image in a %s has %d bytes", where, len(image))
		}
		im := open(t, image, nil)
		for off, p := range d.data {
			got := make([]byte, len(p))
			if _, err := im.ReadAt(got, off); err != nil || !bytes.Equal(got, p) {
				t.Errorf("%s: %d bytes at %#x: %v", where, len(p), off, err)
			}
		}
		if res, err := im.Check(t.Context(), nil); err != nil || len(res.Findings) > 0 {
			t.Errorf("%s: check: %v, %v", where, err, res)
		}
		im.Close()
	}
	kept := encode(t, d, &qcow2.EncodeOptions{Compress: true, KeepZeros: true})
	if less := encode(t, d, &qcow2.EncodeOptions{Compress: true}); len(kept["pipe"]) <= len(less["pipe"]) {
		t.Error("KeepZeros kept no zeros")
	}
}

// hollow is a disk of zeros but for some ranges.
type hollow struct {
	size int64
	data map[int64][]byte
}

func (h *hollow) Size() int64 { return h.size }

func (h *hollow) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for at, d := range h.data {
		if lo, hi := max(at, off), min(at+int64(len(d)), off+int64(len(p))); lo < hi {
			copy(p[lo-off:hi-off], d[lo-at:])
		}
	}
	return len(p), nil
}

func (h *hollow) Extents(off, n int64) iter.Seq2[qcow2.Extent, error] {
	return func(yield func(qcow2.Extent, error) bool) {
		for end := off + n; off < end; {
			e := qcow2.Extent{Start: off, Length: end - off, Kind: qcow2.Unallocated, HostOffset: qcow2.NoOffset}
			for at, d := range h.data {
				if stop := at + int64(len(d)); at <= off && off < stop {
					e.Kind, e.Length = qcow2.Data, min(stop, end)-off
					break
				} else if at > off {
					e.Length = min(e.Length, at-off)
				}
			}
			if !yield(e, nil) {
				return
			}
			off = e.End()
		}
	}
}

// TestEncodeLayers writes the upper layers of samples with a backing file over
// that file, and all of their layers into an image of its own.
func TestEncodeLayers(t *testing.T) {
	for name, s := range samples(t) {
		if s.backing == nil {
			continue
		}
		im := open(t, s.image, s.options())
		for _, version := range []int{2, 3} {
			for _, cluster := range []int64{512, 4096, 65536} {
				o := &qcow2.EncodeOptions{
					Create:   &qcow2.CreateOptions{Version: version, ClusterSize: cluster, BackingFile: "base.raw", BackingFormat: "raw"},
					Compress: cluster > 512,
					Layers:   1,
				}
				for where, image := range encode(t, im, o) {
					over := open(t, image, s.options())
					got := make([]byte, over.Size())
					if _, err := over.ReadAt(got, 0); err != nil || !bytes.Equal(got, s.content) {
						t.Errorf("%s, version %d, clusters of %d, to a %s: %v, equal: %v", name, version, cluster, where, err, bytes.Equal(got, s.content))
					}
					if res, err := over.Check(t.Context(), nil); err != nil || len(res.Findings) > 0 {
						t.Errorf("%s: check: %v, %v", name, err, res)
					}
					if cluster == 512 && version == 3 {
						sameStorage(t, name, im, over)
					}
					over.Close()
				}
			}
		}
		im.Close()
	}
}

// sameStorage holds that an image has nothing itself that another has not.
func sameStorage(t *testing.T, name string, a, b qcow2.Disk) {
	t.Helper()
	own := func(d qcow2.Disk) []bool {
		var sectors []bool
		for e, err := range d.Extents(0, d.Size()) {
			if err != nil {
				t.Fatal(err)
			}
			for range e.Length / 512 {
				sectors = append(sectors, e.Depth == 0 && e.Kind != qcow2.Unallocated)
			}
		}
		return sectors
	}
	x, y := own(a), own(b)
	for i := range x {
		if y[i] && !x[i] {
			t.Errorf("%s: sector %d is in the image now", name, i)
			return
		}
	}
}

func TestEncodeDeterministic(t *testing.T) {
	want := patchwork(rand.New(rand.NewPCG(5, 0)), 1<<20+difftest.Scale(t, 4<<20)&^511)
	var first map[string][]byte
	for _, workers := range []int{1, 3, 16} {
		got := encode(t, rawDisk(want), &qcow2.EncodeOptions{Compress: true, Workers: workers})
		if first == nil {
			first = got
		}
		for where := range got {
			if !bytes.Equal(got[where], first[where]) {
				t.Errorf("another image in a %s with %d workers", where, workers)
			}
		}
	}
}

var errFault = errors.New("a fault of the test")

func TestEncodeFaults(t *testing.T) {
	data := patchwork(rand.New(rand.NewPCG(6, 0)), 3<<20)
	clear(data[len(data)-4096:])
	var whole pipe
	if err := qcow2.Encode(t.Context(), &whole, rawDisk(data), nil); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{0, 1, 65536, whole.Len() / 2, whole.Len() - 1} {
		if err := qcow2.Encode(t.Context(), &failing{left: limit}, rawDisk(data), nil); !errors.Is(err, errFault) {
			t.Errorf("a writer that fails after %d bytes: %v", limit, err)
		}
		s := &seeker{File: memfile.New()}
		s.Fault = func(op memfile.Op) error {
			if op.Kind == memfile.Write && op.Off+op.N > int64(limit) {
				return errFault
			}
			return nil
		}
		if err := qcow2.Encode(t.Context(), s, rawDisk(data), nil); !errors.Is(err, errFault) {
			t.Errorf("a file that fails after %d bytes: %v", limit, err)
		}
		s.Fault = nil
		if _, err := qcow2.Open(s, nil); err == nil && limit < 65536 {
			t.Errorf("an image is in a file that failed after %d bytes", limit)
		}
	}
	src := flaky{memDisk: memDisk{bytes.NewReader(data)}}
	src.fail = func(off int64, p []byte) error { return errFault }
	var ce *qcow2.CopyError
	if err := qcow2.Encode(t.Context(), new(pipe), src, nil); !errors.As(err, &ce) || ce.Op != "read" || !errors.Is(err, errFault) {
		t.Errorf("a source that fails: %v", err)
	}
	reads := 0
	src.fail = func(off int64, p []byte) error {
		if reads++; off == 0 && reads > 12 {
			clear(p)
		}
		return nil
	}
	if err := qcow2.Encode(t.Context(), new(pipe), src, &qcow2.EncodeOptions{Compress: true, Workers: 1}); err == nil {
		t.Error("no error for a source that changes")
	}
	ctx, cancel := context.WithCancel(t.Context())
	o := &qcow2.EncodeOptions{Progress: func(done, total int64) { cancel() }}
	if err := qcow2.Encode(ctx, new(pipe), rawDisk(data), o); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// failing is a writer that takes so many bytes and then fails.
type failing struct{ left int }

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFault
	}
	return len(p), nil
}

// flaky is a disk that fails or changes.
type flaky struct {
	memDisk
	fail func(off int64, p []byte) error
}

func (f flaky) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.memDisk.ReadAt(p, off)
	if failed := f.fail(off, p); failed != nil {
		return 0, failed
	}
	return n, err
}

func TestEncodeRefuses(t *testing.T) {
	disk := rawDisk(make([]byte, 512))
	for name, o := range map[string]*qcow2.EncodeOptions{
		"workers":       {Workers: 65},
		"layers":        {Layers: 1},
		"backing":       {Create: &qcow2.CreateOptions{BackingFile: "b", BackingFormat: "raw"}},
		"preallocation": {Create: &qcow2.CreateOptions{Preallocation: qcow2.PreallocateFull}},
		"data file":     {Create: &qcow2.CreateOptions{DataFile: "d", Data: memfile.New()}},
		"cluster size":  {Create: &qcow2.CreateOptions{ClusterSize: 1000}},
		"too large":     {Create: &qcow2.CreateOptions{ClusterSize: 512}},
	} {
		src := disk
		if name == "too large" {
			src = &hollow{size: 1 << 50}
		}
		var p pipe
		if err := qcow2.Encode(t.Context(), &p, src, o); err == nil || p.Len() > 0 {
			t.Errorf("%s: %v after %d bytes", name, err, p.Len())
		}
	}
}

// TestEncodeAppend holds that a file that cannot be written anywhere but at
// its end is not taken for a good one.
func TestEncodeAppend(t *testing.T) {
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "f"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := qcow2.Encode(t.Context(), f, rawDisk(corpus.Bytes(corpus.Text(1), 100000&^511)), nil); err == nil {
		t.Error("no error for a file that is open to append")
	}
}

func TestEncodeProgress(t *testing.T) {
	data := patchwork(rand.New(rand.NewPCG(7, 0)), 3<<20)
	for _, w := range []io.Writer{new(pipe), &seeker{File: memfile.New()}} {
		last, all := int64(0), int64(0)
		err := qcow2.Encode(t.Context(), w, rawDisk(data), &qcow2.EncodeOptions{Progress: func(done, total int64) {
			if done < last {
				t.Errorf("%d after %d", done, last)
			}
			last, all = done, total
		}})
		if err != nil || last != all {
			t.Errorf("%T: %v, %d of %d", w, err, last, all)
		}
	}
}
