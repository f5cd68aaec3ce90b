package qcow2_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	holes "github.com/virtfmt/virtfmt/internal/sparse"
	"github.com/virtfmt/virtfmt/qcow2"
)

// createArgs returns the options of qemu-img create that ask for the same.
func createArgs(o *qcow2.CreateOptions) []string {
	var opts []string
	add := func(format string, args ...any) { opts = append(opts, fmt.Sprintf(format, args...)) }
	if o.Version == 2 {
		add("compat=0.10")
	}
	if o.ClusterSize != 0 {
		add("cluster_size=%d", o.ClusterSize)
	}
	if o.RefcountBits != 0 {
		add("refcount_bits=%d", o.RefcountBits)
	}
	if o.LazyRefcounts {
		add("lazy_refcounts=on")
	}
	if o.ExtendedL2 {
		add("extended_l2=on")
	}
	if o.CompressionType != 0 {
		add("compression_type=%v", o.CompressionType)
	}
	if o.Preallocation != 0 {
		add("preallocation=%v", o.Preallocation)
	}
	if o.DataFile != "" {
		add("data_file=%s", o.DataFile)
	}
	if o.DataFileRaw {
		add("data_file_raw=on")
	}
	var args []string
	if o.BackingFile != "" {
		args = append(args, "-u", "-b", o.BackingFile, "-F", o.BackingFormat)
	}
	if len(opts) > 0 {
		args = append(args, "-o", strings.Join(opts, ","))
	}
	return args
}

// compareCreate makes an image with qemu-img and with Create, and compares the
// bytes.
func compareCreate(t *testing.T, img string, size int64, o qcow2.CreateOptions) {
	t.Helper()
	args := append(createArgs(&o), "x.qcow2", fmt.Sprint(size))
	name := strings.Join(args, " ")
	cmd := exec.CommandContext(t.Context(), img, append([]string{"create", "-q", "-f", "qcow2"}, args...)...)
	cmd.Dir = t.TempDir()
	out, qemuErr := cmd.CombinedOutput()
	mine := t.TempDir()
	f := newFile(t, mine+"/x.qcow2")
	if o.DataFile != "" {
		o.Data = newFile(t, mine+"/"+o.DataFile)
	}
	im, err := qcow2.Create(f, size, &o)
	if (err != nil) != (qemuErr != nil) {
		t.Errorf("%s: %v, qemu-img says %v %s", name, err, qemuErr, out)
	}
	if err != nil || qemuErr != nil {
		return
	}
	if im.Size() != (size+511)&^511 {
		t.Errorf("%s: size %d", name, im.Size())
	}
	if err := im.Close(); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	compareFile(t, name, cmd.Dir+"/x.qcow2", mine+"/x.qcow2")
	if o.DataFile != "" {
		compareFile(t, name+" (data)", cmd.Dir+"/"+o.DataFile, mine+"/"+o.DataFile)
	}
	os.RemoveAll(cmd.Dir)
	os.RemoveAll(mine)
}

func newFile(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// compareFile compares files, which may be large and sparse.
func compareFile(t *testing.T, name, wantPath, gotPath string) {
	t.Helper()
	var files [2]*os.File
	var sizes [2]int64
	for i, path := range []string{wantPath, gotPath} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fi, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		files[i], sizes[i] = f, fi.Size()
	}
	if sizes[0] != sizes[1] {
		t.Errorf("%s: %d bytes instead of %d", name, sizes[1], sizes[0])
		return
	}
	p, q := make([]byte, 256<<10), make([]byte, 256<<10)
	for off := int64(0); off < sizes[0]; {
		start := min(nextData(t, files[0], off), nextData(t, files[1], off))
		n := min(int64(len(p)), sizes[0]-start)
		if n <= 0 {
			return
		}
		if _, err := files[0].ReadAt(p[:n], start); err != nil {
			t.Fatal(err)
		}
		if _, err := files[1].ReadAt(q[:n], start); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p[:n], q[:n]) {
			t.Errorf("%s: differs at %#x", name, start+int64(differ(p[:n], q[:n])))
			return
		}
		off = start + n
	}
}

// nextData returns where the file next holds data, at off or after it.
func nextData(t *testing.T, f *os.File, off int64) int64 {
	t.Helper()
	start, _, err := holes.NextData(f, off)
	switch {
	case err == io.EOF:
		return math.MaxInt64
	case errors.Is(err, errors.ErrUnsupported):
		return off
	case err != nil:
		t.Fatal(err)
	}
	return start
}

// TestCreateHeaders: headers are those that qemu-img wrote.
func TestCreateHeaders(t *testing.T) {
	all := headers(t)
	for name, tc := range map[string]creation{
		"v3":        {1 << 30, qcow2.CreateOptions{}},
		"v2":        {1 << 30, qcow2.CreateOptions{Version: 2}},
		"backing":   {1 << 30, qcow2.CreateOptions{BackingFile: "base.raw", BackingFormat: "raw"}},
		"v2backing": {1 << 30, qcow2.CreateOptions{Version: 2, BackingFile: "base.raw", BackingFormat: "raw"}},
		"small":     {16 << 20, qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 1, LazyRefcounts: true}},
		"zstdextl2": {1 << 40, qcow2.CreateOptions{ClusterSize: 2 << 20, ExtendedL2: true, CompressionType: qcow2.CompressionZstd}},
		"datafile":  {1 << 20, qcow2.CreateOptions{DataFile: "data.raw", Data: memfile.New(), DataFileRaw: true}},
	} {
		f := memfile.New()
		im, err := qcow2.Create(f, tc.size, &tc.o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := im.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got := make([]byte, len(all[name]))
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, all[name]) {
			t.Errorf("%s: %v, byte %#x differs", name, err, differ(got, all[name]))
		}
	}
}

// TestCreateSums: whole files are those that qemu-img 7.2 made with the
// options in the comments.
func TestCreateSums(t *testing.T) {
	for _, tc := range []struct {
		creation
		sum string
	}{
		// preallocation=metadata,cluster_size=512,refcount_bits=64 3M
		{creation{3 << 20, qcow2.CreateOptions{Preallocation: qcow2.PreallocateMetadata, ClusterSize: 512, RefcountBits: 64}},
			"9b57f1dd6108ef470f68eddf9ec24294e1f6fa1c9d68d153a40060ffec6e5f5e"},
		// preallocation=falloc,cluster_size=4k 5M
		{creation{5 << 20, qcow2.CreateOptions{Preallocation: qcow2.PreallocateFalloc, ClusterSize: 4096}},
			"cf2e6fedd906cbbd778a7ff132779a483fe88578fa07a1459a0fe5ace502fd8d"},
		// cluster_size=1k,refcount_bits=1 128G
		{creation{128 << 30, qcow2.CreateOptions{ClusterSize: 1024, RefcountBits: 1}},
			"d0afa3e95467219c2525e75b817745b24ede1ffa6f203adef2a8e6e6945f88a6"},
		// preallocation=metadata,extended_l2=on,cluster_size=16k 1000000
		{creation{1000000, qcow2.CreateOptions{Preallocation: qcow2.PreallocateMetadata, ExtendedL2: true, ClusterSize: 16384}},
			"9c2f458ef0f7460b9a12c99af64cebd440cdcf17288befc661ed62bc39dd0b70"},
	} {
		f := memfile.New()
		im, err := qcow2.Create(f, tc.size, &tc.o)
		if err != nil {
			t.Fatal(err)
		}
		defer im.Close()
		if sum := fmt.Sprintf("%x", sha256.Sum256(f.Bytes())); sum != tc.sum {
			t.Errorf("%v: sha256 %s, want %s", tc.creation, sum, tc.sum)
		}
	}
}

// TestCreateReadsZeros: new images read as zeros, or as the backing file.
func TestCreateReadsZeros(t *testing.T) {
	base := bytes.Repeat([]byte("base"), 50_000)
	open := &qcow2.Options{OpenBacking: func(name, format string) (qcow2.Disk, error) { return rawDisk(base), nil }}
	for _, o := range []qcow2.CreateOptions{
		{},
		{Version: 2},
		{Preallocation: qcow2.PreallocateFull},
		{DataFile: "d", Data: memfile.New(), DataFileRaw: true},
		{BackingFile: "b", BackingFormat: "raw", Open: open},
		{BackingFile: "b", BackingFormat: "raw", ExtendedL2: true, Preallocation: qcow2.PreallocateMetadata, Open: open},
	} {
		want := make([]byte, 1<<20)
		if o.BackingFile != "" {
			copy(want, base)
		}
		im, err := qcow2.Create(memfile.New(), 1<<20, &o)
		if err != nil {
			t.Fatal(err)
		}
		readRandomly(t, im, want, 20)
		checkExtents(t, im, want)
		if err := im.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestCreateErrors(t *testing.T) {
	for _, tc := range []struct {
		size int64
		o    qcow2.CreateOptions
		is   error
	}{
		{-1, qcow2.CreateOptions{}, qcow2.ErrLimit},
		{math.MaxInt64, qcow2.CreateOptions{}, qcow2.ErrLimit},
		{2<<50 + 1, qcow2.CreateOptions{}, qcow2.ErrLimit},
		{128<<30 + 1, qcow2.CreateOptions{ClusterSize: 512}, qcow2.ErrLimit},
		{0, qcow2.CreateOptions{ClusterSize: 256}, nil},
		{0, qcow2.CreateOptions{ClusterSize: 4 << 20}, nil},
		{0, qcow2.CreateOptions{ClusterSize: 65537}, nil},
		{0, qcow2.CreateOptions{RefcountBits: 3}, nil},
		{0, qcow2.CreateOptions{RefcountBits: 128}, nil},
		{0, qcow2.CreateOptions{Version: 1}, errors.ErrUnsupported},
		{0, qcow2.CreateOptions{Version: 4}, errors.ErrUnsupported},
		{0, qcow2.CreateOptions{CompressionType: 2}, errors.ErrUnsupported},
		{0, qcow2.CreateOptions{Preallocation: 4}, errors.ErrUnsupported},
		{0, qcow2.CreateOptions{BackingFile: strings.Repeat("x", 1024), BackingFormat: "raw"}, qcow2.ErrLimit},
		{0, qcow2.CreateOptions{BackingFile: strings.Repeat("x", 500), BackingFormat: "raw", ClusterSize: 512}, qcow2.ErrLimit},
		{0, qcow2.CreateOptions{BackingFile: "x"}, nil},
		{0, qcow2.CreateOptions{DataFile: "x"}, nil},
	} {
		f := memfile.New()
		_, err := qcow2.Create(f, tc.size, &tc.o)
		if err == nil || tc.is != nil && !errors.Is(err, tc.is) || !strings.HasPrefix(err.Error(), "qcow2: ") {
			t.Errorf("%d %+v: %v", tc.size, tc.o, err)
		}
	}
}

// A creation is a call of Create to compare with qemu-img create.
type creation struct {
	size int64
	o    qcow2.CreateOptions
}

// compareSome compares a random choice of n creations.
func compareSome(t *testing.T, all []creation, n int) {
	t.Helper()
	img := difftest.Tool(t, "qemu-img", "7.2")
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	n = min(len(all), difftest.Scale(t, n))
	t.Logf("%d of %d", n, len(all))
	for _, c := range all[:n] {
		compareCreate(t, img, c.size, c.o)
	}
}

// TestCreateAsQEMU: the bytes of a new image are those of qemu-img create.
func TestCreateAsQEMU(t *testing.T) {
	var all []creation
	for _, o := range []qcow2.CreateOptions{
		{},
		{Version: 2},
		{Version: 3, LazyRefcounts: true},
		{BackingFile: "base.raw", BackingFormat: "raw"},
		{Version: 2, BackingFile: strings.Repeat("n", 1023), BackingFormat: "qcow2"},
		{BackingFile: "b", BackingFormat: "qcow2", ExtendedL2: true, Preallocation: qcow2.PreallocateMetadata},
		{BackingFile: "b", BackingFormat: "qcow2", Preallocation: qcow2.PreallocateMetadata},
		{BackingFile: "b", BackingFormat: "qcow2", DataFile: "d", DataFileRaw: true},
		{CompressionType: qcow2.CompressionZstd},
		{Version: 2, CompressionType: qcow2.CompressionZstd},
		{Version: 2, LazyRefcounts: true},
		{Version: 2, RefcountBits: 8},
		{DataFile: "d"},
		{DataFile: "d", Version: 2},
		{DataFile: "d", ExtendedL2: true, ClusterSize: 16384, LazyRefcounts: true, CompressionType: qcow2.CompressionZstd, RefcountBits: 64},
		{ExtendedL2: true, ClusterSize: 8192},
		{DataFileRaw: true},
	} {
		for _, size := range []int64{0, 1, 1000, 1 << 20, 9<<20 + 512, 1 << 30, 1 << 40} {
			if o.Preallocation == 0 || size < 1<<30 {
				all = append(all, creation{size, o})
			}
		}
	}
	compareSome(t, all, 60)
}

// TestCreateMatrixAsQEMU: all cluster sizes and refcount widths, up to sizes
// whose L1 table alone makes the refcount table grow.
func TestCreateMatrixAsQEMU(t *testing.T) {
	var all []creation
	for cluster := int64(512); cluster <= 2<<20; cluster *= 2 {
		for width := 1; width <= 64; width *= 2 {
			for _, size := range []int64{1 << 20, cluster * cluster / 8 * 5 / 2, 128 << 30, 128<<30 + 1, 8 << 40, 2 << 50, 2 << 60, 2<<60 + 1} {
				if l1 := size / (cluster * cluster / 8) * 8; l1 <= 1<<20 || l1 <= 33<<20 && (width == 16 || width == 1 || width == 64) {
					all = append(all, creation{size, qcow2.CreateOptions{ClusterSize: cluster, RefcountBits: width}})
				}
			}
		}
	}
	compareSome(t, all, 60)
}

// TestPreallocateAsQEMU compares the preallocation modes.
func TestPreallocateAsQEMU(t *testing.T) {
	var all []creation
	for _, mode := range []qcow2.Preallocation{qcow2.PreallocateMetadata, qcow2.PreallocateFalloc, qcow2.PreallocateFull} {
		for _, cluster := range []int64{512, 1024, 4096, 16384, 65536, 2 << 20} {
			for _, width := range []int{1, 4, 16, 64} {
				for _, size := range []int64{0, 512, 100_000, cluster*cluster/8 + 1, 3 << 20, 20<<20 + 512} {
					if size <= 4<<20 || size <= 64<<20 && (mode != qcow2.PreallocateFull || cluster == 512) {
						all = append(all, creation{size, qcow2.CreateOptions{ClusterSize: cluster, RefcountBits: width, Preallocation: mode}})
					}
				}
			}
		}
		all = append(all, creation{5 << 20, qcow2.CreateOptions{Version: 2, Preallocation: mode}})
		for _, ext := range []bool{false, true} {
			for _, raw := range []bool{false, true} {
				all = append(all, creation{5 << 20, qcow2.CreateOptions{Preallocation: mode, DataFile: "d", DataFileRaw: raw, ExtendedL2: ext}})
			}
			all = append(all, creation{5 << 20, qcow2.CreateOptions{Preallocation: mode, ExtendedL2: ext, ClusterSize: 32768}})
		}
	}
	all = append(all,
		creation{5 << 20, qcow2.CreateOptions{DataFile: "d", DataFileRaw: true, ClusterSize: 512}},
		creation{5 << 30, qcow2.CreateOptions{Preallocation: qcow2.PreallocateMetadata}},
		creation{5 << 30, qcow2.CreateOptions{Preallocation: qcow2.PreallocateMetadata, ClusterSize: 2 << 20, RefcountBits: 1}})
	compareSome(t, all, 80)
}
