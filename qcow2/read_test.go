package qcow2_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// A sample is an image of testdata/images, made by qemu-img and qemu-io.
type sample struct {
	image   []byte
	data    []byte // the external data file, or nil
	backing []byte // raw, or nil
	content []byte // what the disk holds
}

// samples returns the images of testdata by name.
func samples(tb testing.TB) map[string]sample {
	tb.Helper()
	paths, err := filepath.Glob("testdata/images/*.ops")
	if err != nil || len(paths) == 0 {
		tb.Fatalf("no images in testdata: %v", err)
	}
	all := map[string]sample{}
	for _, p := range paths {
		base := strings.TrimSuffix(p, ".ops")
		s := sample{image: unzstd(tb, base+".qcow2.zst")}
		if _, err := os.Stat(base + ".data.zst"); err == nil {
			s.data = unzstd(tb, base+".data.zst")
		}
		s.replay(tb, p)
		all[filepath.Base(base)] = s
	}
	return all
}

func unzstd(tb testing.TB, path string) []byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	d, err := zstd.NewReader(nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer d.Close()
	if b, err = d.DecodeAll(b, nil); err != nil {
		tb.Fatal(err)
	}
	return b
}

// replay does on an array what testdata/images/make.sh did on the image.
func (s *sample) replay(tb testing.TB, path string) {
	tb.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	s.content = make([]byte, (size(tb, lines[0][strings.LastIndexByte(lines[0], ' ')+1:])+511)&^511)
	if _, n, _ := strings.Cut(lines[1], " "); n != "none" {
		s.backing = bytes.Repeat([]byte{0xba}, size(tb, n))
		copy(s.content, s.backing)
	}
	for _, line := range lines[2:] {
		f := strings.Fields(line)
		n := len(f)
		off, length := size(tb, f[n-2]), size(tb, f[n-1])
		fill := byte(0)
		for i, w := range f {
			if w == "-P" {
				v, err := strconv.ParseUint(f[i+1], 0, 8)
				if err != nil {
					tb.Fatal(err)
				}
				fill = byte(v)
			}
		}
		copy(s.content[off:], bytes.Repeat([]byte{fill}, length))
	}
}

func size(tb testing.TB, s string) int {
	tb.Helper()
	shift := 0
	switch strings.ToLower(s[len(s)-1:]) {
	case "k":
		shift = 10
	case "m":
		shift = 20
	}
	n, err := strconv.Atoi(strings.TrimRight(s, "kKmM"))
	if err != nil {
		tb.Fatal(err)
	}
	return n << shift
}

// options lets the image open its other files.
func (s *sample) options() *qcow2.Options {
	return &qcow2.Options{
		OpenBacking: func(name, format string) (qcow2.Disk, error) {
			if name != "base.raw" || format != "raw" {
				return nil, fmt.Errorf("backing file %q %q", name, format)
			}
			return rawDisk(s.backing), nil
		},
		OpenData: func(name string, write bool) (qcow2.File, error) {
			if name != "data.raw" {
				return nil, fmt.Errorf("data file %q", name)
			}
			return memfile.FromBytes(s.data), nil
		},
	}
}

// rawDisk is bytes as a disk.
func rawDisk(b []byte) qcow2.Disk { return memDisk{bytes.NewReader(b)} }

type memDisk struct{ *bytes.Reader }

func (d memDisk) Extents(off, n int64) iter.Seq2[qcow2.Extent, error] {
	return func(yield func(qcow2.Extent, error) bool) {
		if n = min(n, d.Size()-off); n > 0 {
			yield(qcow2.Extent{Start: off, Length: n, Kind: qcow2.Data, HostOffset: off}, nil)
		}
	}
}

func open(tb testing.TB, image []byte, o *qcow2.Options) *qcow2.Image {
	tb.Helper()
	im, err := qcow2.Open(bytes.NewReader(image), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { im.Close() })
	return im
}

func TestReadSamples(t *testing.T) {
	for name, s := range samples(t) {
		t.Run(name, func(t *testing.T) {
			im := open(t, s.image, s.options())
			if im.Size() != int64(len(s.content)) {
				t.Fatalf("size %d, want %d", im.Size(), len(s.content))
			}
			const part = 5000 // TestReader reads byte by byte
			if err := iotest.TestReader(io.NewSectionReader(im, 98_000, part), s.content[98_000:98_000+part]); err != nil {
				t.Error(err)
			}
			readRandomly(t, im, s.content, difftest.Scale(t, 500))
			checkExtents(t, im, s.content)
		})
	}
}

// readRandomly reads ranges of all lengths.
func readRandomly(t *testing.T, im io.ReaderAt, want []byte, n int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, uint64(len(want))))
	for range n {
		off := rng.IntN(len(want))
		p := bytes.Repeat([]byte{0x5a}, rng.IntN(1<<rng.IntN(18))+1)
		got, err := im.ReadAt(p, int64(off))
		if got != min(len(p), len(want)-off) || got < len(p) && err != io.EOF || got == len(p) && err != nil {
			t.Fatalf("ReadAt of %d bytes at %d: %d, %v", len(p), off, got, err)
		}
		if i := differ(p[:got], want[off:off+got]); i >= 0 {
			t.Fatalf("ReadAt of %d bytes at %d: byte %d is %#x, want %#x", len(p), off, off+i, p[i], want[off+i])
		}
	}
}

// differ returns the index of the first difference, or -1.
func differ(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

// checkExtents holds what Extents tells against the content, for the whole
// disk and for parts of it.
func checkExtents(t *testing.T, im qcow2.Disk, want []byte) {
	t.Helper()
	kinds := make([]qcow2.Extent, len(want)/512) // of the first byte of each sector
	for _, r := range [][2]int64{{0, im.Size()}, {0, 1 << 62}, {513, 70_000}, {im.Size() - 1, 5}, {im.Size(), 5}, {3, 0}} {
		off, n := r[0], max(0, min(r[1], im.Size()-r[0]))
		at := off
		var prev qcow2.Extent
		for e, err := range im.Extents(off, r[1]) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Start != at || e.Length <= 0 || e.End() > off+n {
				t.Fatalf("extents of %d+%d: %+v after %d", off, n, e, at)
			}
			if prev.Length > 0 && e.Follows(prev) {
				t.Fatalf("%+v and %+v are one", prev, e)
			}
			at, prev = e.End(), e
			if e.IsZero() && len(bytes.Trim(want[e.Start:e.End()], "\x00")) > 0 {
				t.Fatalf("%+v is not zeros", e)
			}
			for i := (e.Start + 511) &^ 511; i < e.End(); i += 512 {
				k := qcow2.Extent{Kind: e.Kind, Depth: e.Depth, HostOffset: e.HostOffset}
				if e.HostOffset >= 0 {
					k.HostOffset += i - e.Start
				}
				if r[0] == 0 && r[1] == im.Size() {
					kinds[i/512] = k
				} else if kinds[i/512] != k {
					t.Fatalf("byte %d is %+v in part and %+v as a whole", i, k, kinds[i/512])
				}
			}
		}
		if at != off+n {
			t.Fatalf("extents of %d+%d end at %d", off, n, at)
		}
	}
}

// TestExtentsKinds names some extents of samples that qemu-img map names so.
func TestExtentsKinds(t *testing.T) {
	all := samples(t)
	s := all["extl2-backing"]
	var got []string
	for e, err := range open(t, s.image, s.options()).Extents(0, 70<<10) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%d+%d %v depth %d host %t", e.Start, e.Length, e.Kind, e.Depth, e.HostOffset != qcow2.NoOffset))
	}
	want := []string{
		"0+2048 data depth 0 host true",
		"2048+4096 data depth 1 host true",
		"6144+2048 data depth 0 host true",
		"8192+55296 data depth 1 host true",
		"63488+4096 data depth 0 host true",
		"67584+4096 data depth 1 host true",
	}
	// The two parts of one write lie in two clusters, not always neighbours.
	if i := len(got) - 2; len(got) == len(want)+1 && strings.HasPrefix(got[i-1], "63488+2048 data") {
		got = append(append(got[:i-1:i-1], want[4]), got[i+1])
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

func TestReadAtArguments(t *testing.T) {
	s := samples(t)["v3-64k"]
	im := open(t, s.image, nil)
	p := make([]byte, 10)
	for _, tc := range []struct {
		off  int64
		n    int
		want int
		err  error
	}{
		{-1, 10, 0, qcow2.ErrOutOfRange},
		{-1 << 63, 10, 0, qcow2.ErrOutOfRange},
		{im.Size(), 10, 0, io.EOF},
		{1 << 62, 10, 0, io.EOF},
		{im.Size() - 4, 10, 4, io.EOF},
		{im.Size() - 10, 10, 10, nil},
		{0, 0, 0, nil},
	} {
		if n, err := im.ReadAt(p[:tc.n], tc.off); n != tc.want || !errors.Is(err, tc.err) {
			t.Errorf("ReadAt(%d, %d): %d, %v", tc.n, tc.off, n, err)
		}
	}
	if err := im.Close(); err != nil {
		t.Error(err)
	}
	if _, err := im.ReadAt(p, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := im.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
}

// TestShortFile: what lies past the end of a file reads as zeros, as in QEMU;
// a reader that ends before the length it told is an error.
func TestShortFile(t *testing.T) {
	s := samples(t)["v3-64k"]
	whole := open(t, s.image, nil)
	var host int64
	for e, err := range whole.Extents(65536*3, 65536) {
		if err != nil {
			t.Fatal(err)
		}
		host = e.HostOffset
	}
	want := bytes.Clone(s.content[65536*3 : 65536*4])
	cut := host + 200000 - 65536*3 + 10
	clear(want[200000-65536*3+10:])
	got := make([]byte, 65536)
	im := open(t, s.image[:cut], nil)
	if _, err := im.ReadAt(got, 65536*3); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v, byte %d differs", err, differ(got, want))
	}
	im, err := qcow2.Open(lies{bytes.NewReader(s.image[:cut]), int64(len(s.image))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.ReadAt(got, 65536*3); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a reader that ends early: %v", err)
	}
	// Cut inside of the L1 table: nothing is allocated.
	im = open(t, s.image[:0x30004], nil)
	for e := range im.Extents(0, im.Size()) {
		if e.Kind != qcow2.Unallocated || e.Length != im.Size() {
			t.Errorf("%+v", e)
		}
	}
}

// lies is a reader with another size than it tells.
type lies struct {
	io.ReaderAt
	size int64
}

func (l lies) Size() int64 { return l.size }

func TestOpenLength(t *testing.T) {
	s := samples(t)["v3-64k"]
	r := struct{ io.ReaderAt }{bytes.NewReader(s.image)}
	if _, err := qcow2.Open(r, nil); !errors.Is(err, block.ErrNoLength) {
		t.Errorf("got %v", err)
	}
	im, err := qcow2.Open(r, &qcow2.Options{Size: int64(len(s.image))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.ReadAt(make([]byte, 100), 0); err != nil {
		t.Error(err)
	}
}

// TestNothingIsOpenedUnasked: without a grant, names in an image are refused.
func TestNothingIsOpenedUnasked(t *testing.T) {
	for name, s := range samples(t) {
		_, err := qcow2.Open(bytes.NewReader(s.image), nil)
		if needs := s.backing != nil || s.data != nil; needs != (err != nil) {
			t.Errorf("%s: %v", name, err)
		}
		im, err := qcow2.Open(bytes.NewReader(s.image), &qcow2.Options{MetadataOnly: true})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		p := make([]byte, len(s.content))
		n, err := im.ReadAt(p, 0)
		switch {
		case s.backing == nil && s.data == nil:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case !errors.Is(err, qcow2.ErrMetadataOnly):
			t.Errorf("%s: %v", name, err)
		}
		if differ(p[:n], s.content[:n]) >= 0 {
			t.Errorf("%s: wrong content", name)
		}
		for _, err := range im.Extents(0, im.Size()) {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestBackingFormat(t *testing.T) {
	s := samples(t)["zstd"]
	h := decodeHeader(t, s.image)
	h.Extensions = nil
	b, err := h.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	image := append(append(b, make([]byte, 65536-len(b))...), s.image[65536:]...)
	o := s.options()
	if _, err := qcow2.Open(bytes.NewReader(image), o); err == nil || !strings.Contains(err.Error(), "neither the image nor Options.BackingFormat tells its format") {
		t.Errorf("got %v", err)
	}
	o.BackingFormat = "raw"
	readRandomly(t, open(t, image, o), s.content, 10)
}

// TestBackingShrinks: a backing file that ends before its size is an error,
// not stale bytes.
func TestBackingShrinks(t *testing.T) {
	s := samples(t)["zstd"]
	o := s.options()
	o.OpenBacking = func(string, string) (qcow2.Disk, error) {
		return short{rawDisk(s.backing[:200<<10]), int64(len(s.backing))}, nil
	}
	im := open(t, s.image, o)
	if n, err := im.ReadAt(make([]byte, 128<<10), 128<<10); n != 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d, %v", n, err)
	}
}

type short struct {
	qcow2.Disk
	size int64
}

func (s short) Size() int64 { return s.size }
