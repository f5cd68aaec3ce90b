package qcow2_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/layertest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// A measureCase is a set of options in the words of qemu-img and in ours.
type measureCase struct {
	qemu string
	o    *qcow2.CreateOptions
}

func measureCases() []measureCase {
	luks := func(e qcow2.EncryptOptions) *qcow2.CreateOptions { return &qcow2.CreateOptions{Encrypt: &e} }
	return []measureCase{
		{"", nil},
		{"compat=0.10", &qcow2.CreateOptions{Version: 2}},
		{"cluster_size=512", &qcow2.CreateOptions{ClusterSize: 512}},
		{"cluster_size=512,refcount_bits=64", &qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 64}},
		{"cluster_size=512,refcount_bits=1", &qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 1}},
		{"cluster_size=4k,lazy_refcounts=on", &qcow2.CreateOptions{ClusterSize: 4096, LazyRefcounts: true}},
		{"cluster_size=2M,refcount_bits=8", &qcow2.CreateOptions{ClusterSize: 2 << 20, RefcountBits: 8}},
		{"extended_l2=on", &qcow2.CreateOptions{ExtendedL2: true}},
		{"extended_l2=on,cluster_size=16k", &qcow2.CreateOptions{ExtendedL2: true, ClusterSize: 16384}},
		{"preallocation=metadata", &qcow2.CreateOptions{Preallocation: qcow2.PreallocateMetadata}},
		{"preallocation=falloc", &qcow2.CreateOptions{Preallocation: qcow2.PreallocateFalloc}},
		{"preallocation=full,cluster_size=4k", &qcow2.CreateOptions{Preallocation: qcow2.PreallocateFull, ClusterSize: 4096}},
		{"compression_type=zstd", &qcow2.CreateOptions{CompressionType: qcow2.CompressionZstd}},
		{"data_file=x", &qcow2.CreateOptions{DataFile: "x"}},
		{"data_file=x,data_file_raw=on", &qcow2.CreateOptions{DataFile: "x", DataFileRaw: true}},
		{"encrypt.format=aes,encrypt.key-secret=s", luks(qcow2.EncryptOptions{Method: qcow2.CryptAES})},
		{"encrypt.format=luks,encrypt.key-secret=s", luks(qcow2.EncryptOptions{})},
		{"encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc",
			luks(qcow2.EncryptOptions{Cipher: "aes-128", CipherMode: "cbc"})},
		{"encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=serpent-256", luks(qcow2.EncryptOptions{Cipher: "serpent-256"})},
	}
}

// qemuMeasure returns what qemu-img tells, and whether it tells anything.
func qemuMeasure(t *testing.T, c measureCase, args ...string) (m qcow2.Measurement, ok bool) {
	t.Helper()
	all := []string{"measure", "--object", "secret,id=s,data=abc", "--output=json", "-O", "qcow2"}
	if c.qemu != "" {
		all = append(all, "-o", c.qemu)
	}
	r := difftest.Try(t, difftest.Tool(t, "qemu-img", "7.2"), append(all, args...)...)
	var out struct {
		Required int64 `json:"required"`
		Full     int64 `json:"fully-allocated"`
		Bitmaps  int64 `json:"bitmaps"`
	}
	if r.Code == 0 {
		if err := json.Unmarshal(r.Stdout, &out); err != nil {
			t.Fatal(err)
		}
	}
	return qcow2.Measurement{Required: out.Required, FullyAllocated: out.Full, Bitmaps: out.Bitmaps}, r.Code == 0
}

func TestMeasureAsQEMU(t *testing.T) {
	for _, c := range measureCases() {
		sizes := []int64{0, 1025, 1<<30 - 512, 129 << 30}
		if strings.Contains(c.qemu, "luks") {
			sizes = []int64{1025} // qemu-img is slow to make a header, which it measures
		}
		for _, size := range sizes {
			want, ok := qemuMeasure(t, c, "--size", fmt.Sprint(size))
			got, err := qcow2.Measure(size, c.o)
			if (err == nil) != ok || err == nil && got != want {
				t.Errorf("%q, %d bytes: %+v, %v, want %+v", c.qemu, size, got, err, want)
			}
			if err != nil && !errors.Is(err, qcow2.ErrLimit) {
				t.Errorf("%q, %d bytes: %v", c.qemu, size, err)
			}
		}
	}
}

// TestMeasureDiskAsQEMU measures copies of images, with backing files and
// snapshots, compressed clusters and bitmaps.
func TestMeasureDiskAsQEMU(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 4), 0))
	chains := []layertest.Chain{
		{raw(3<<20 + 512)},
		{layer(5<<20, 65536, "")},
		{raw(3 << 20), withSnapshot(layer(4<<20+512, 4096, ""))},
		{layer(1<<20, 512, "compat=0.10"), layer(2<<20, 32768, "extended_l2=on")},
	}
	for i, c := range chains {
		dir, _ := c.Make(t, rng)
		top := c[len(c)-1]
		if top.Format == "qcow2" && i%2 == 1 {
			for n, g := range []string{"512", "65536", "1M"} {
				runIn(t, dir, img, "bitmap", "--add", "-g", g, c.Top(), strings.Repeat("b", 100*n+1))
			}
		}
		withoutHoles(t, dir)
		for n, mc := range append(measureCases(), measureCase{
			"backing_file=x,backing_fmt=raw", &qcow2.CreateOptions{BackingFile: "x", BackingFormat: "raw"},
		}) {
			if strings.Contains(mc.qemu, "luks") && n+i != 17 || i > 0 && n%2 != i%2 {
				continue
			}
			d := openForReading(t, dir, c.Top(), top.Format)
			want, ok := qemuMeasure(t, mc, "-f", top.Format, c.Top())
			got, err := qcow2.MeasureDisk(t.Context(), d, mc.o)
			if err != nil || !ok || got != want {
				t.Errorf("chain %d, %q: %+v, %v, want %+v", i, mc.qemu, got, err, want)
			}
			if !top.Snapshot {
				continue
			}
			s, err := d.(*qcow2.Image).OpenSnapshot("s")
			if err != nil {
				t.Fatal(err)
			}
			want, ok = qemuMeasure(t, mc, "-f", top.Format, "-l", "s", c.Top())
			got, err = qcow2.MeasureDisk(t.Context(), s, mc.o)
			if err != nil || !ok || got != want {
				t.Errorf("snapshot of chain %d, %q: %+v, %v, want %+v", i, mc.qemu, got, err, want)
			}
		}
	}
}

// withoutHoles writes the images of a folder anew. Where a file has many holes
// qemu-img takes those for zeros, and not every file system makes the same.
func withoutHoles(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasPrefix(b, []byte("QFI\xfb")) {
			os.Remove(path)
			writeFile(t, path, b)
		}
	}
}

// openForReading opens an image and all that are below it.
func openForReading(t *testing.T, dir, name, format string) qcow2.Disk {
	t.Helper()
	path := filepath.Join(dir, name)
	if format == "raw" {
		return layertest.RawFile(t, path)
	}
	im, err := qcow2.OpenFile(path, &qcow2.Options{OpenBacking: func(name, format string) (qcow2.Disk, error) {
		return openForReading(t, dir, name, format), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { im.Close() })
	return im
}

// TestMeasureLostBitmaps: a bitmap that was in use when its writer died is
// measured like others, as by qemu-img.
func TestMeasureLostBitmaps(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	dir := t.TempDir()
	runIn(t, dir, img, "create", "-q", "-f", "qcow2", "x", "1G")
	runIn(t, dir, img, "bitmap", "--add", "x", "lost")
	im := openForReading(t, dir, "x", "qcow2").(*qcow2.Image)
	x, _ := im.Header().Bitmaps()
	im.Close()
	b, err := os.ReadFile("x")
	if err != nil {
		t.Fatal(err)
	}
	b[x.DirectoryOffset+15] |= 1
	writeFile(t, "x", b)
	want, _ := qemuMeasure(t, measureCase{}, "-f", "qcow2", "x")
	got, err := qcow2.MeasureDisk(t.Context(), openForReading(t, dir, "x", "qcow2"), nil)
	if err != nil || got != want || got.Bitmaps == 0 {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}

func TestMeasureErrors(t *testing.T) {
	for _, o := range []*qcow2.CreateOptions{{ClusterSize: 1000}, {Version: 2, RefcountBits: 8}, {Encrypt: &qcow2.EncryptOptions{Cipher: "x"}}} {
		if _, err := qcow2.Measure(1<<20, o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
	if _, err := qcow2.Measure(-1, nil); !errors.Is(err, qcow2.ErrLimit) {
		t.Errorf("a negative size: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := qcow2.MeasureDisk(ctx, block.Raw(strings.NewReader("x"), 1<<20), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	m, err := qcow2.MeasureDisk(t.Context(), block.Raw(strings.NewReader("x"), 1<<20), nil)
	if want := (qcow2.Measurement{Required: 6 << 16, FullyAllocated: 21 << 16}); err != nil || m != want {
		t.Errorf("%+v, %v, want %+v", m, err, want)
	}
}
