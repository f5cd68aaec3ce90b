package qcow2_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// A flavour is a set of options under which images are compared with QEMU.
type flavour struct {
	name    string
	create  string // options of qemu-img create
	cluster int
	size    int
	base    int // size of a backing file, 0 for none
	data    bool
	zstd    bool
}

func flavours() []flavour {
	return []flavour{
		{name: "v2", create: "compat=0.10", cluster: 65536, size: 3 << 20},
		{name: "v2-backing", create: "compat=0.10,cluster_size=4k", cluster: 4096, size: 300 << 10, base: 200 << 10},
		{name: "512", create: "cluster_size=512,refcount_bits=1", cluster: 512, size: 200 << 10},
		{name: "512-backing", create: "cluster_size=512,refcount_bits=8,compression_type=zstd", cluster: 512, size: 200 << 10, base: 100<<10 + 512},
		{name: "4k", create: "cluster_size=4k,refcount_bits=64,lazy_refcounts=on", cluster: 4096, size: 1 << 20},
		{name: "64k-backing", create: "cluster_size=64k", cluster: 65536, size: 2<<20 + 512, base: 4 << 20},
		{name: "64k-zstd", create: "cluster_size=64k,compression_type=zstd", cluster: 65536, size: 4 << 20, zstd: true},
		{name: "2m", create: "cluster_size=2M,refcount_bits=32,compression_type=zstd", cluster: 2 << 20, size: 9<<20 + 1024},
		{name: "extl2", create: "extended_l2=on,cluster_size=16k,refcount_bits=4", cluster: 16384, size: 1 << 20},
		{name: "extl2-backing", create: "extended_l2=on,cluster_size=64k,refcount_bits=2,compression_type=zstd", cluster: 65536, size: 2 << 20, base: 1 << 20},
		{name: "data", create: "data_file=data.raw", cluster: 65536, size: 2 << 20, data: true},
		{name: "data-raw", create: "data_file=data.raw,data_file_raw=on,cluster_size=4k", cluster: 4096, size: 1 << 20, data: true},
		{name: "data-extl2", create: "data_file=data.raw,extended_l2=on", cluster: 65536, size: 2 << 20, data: true},
	}
}

// make creates the image, and its backing file filled with a pattern.
func (fl *flavour) make(t *testing.T, dir, name string) {
	t.Helper()
	img := difftest.Tool(t, "qemu-img", "7.2")
	args := []string{"create", "-q", "-f", "qcow2"}
	if fl.base > 0 {
		base := make([]byte, fl.base)
		for i := range base {
			base[i] = byte(i>>9)*7 + 1
		}
		writeFile(t, filepath.Join(dir, "base.raw"), base)
		args = append(args, "-b", "base.raw", "-F", "raw")
	}
	if fl.create != "" {
		args = append(args, "-o", fl.create)
	}
	runIn(t, dir, img, append(args, name, fmt.Sprint(fl.size))...)
}

// runIn runs a program in a directory, for the relative names in images.
func runIn(t *testing.T, dir, path string, args ...string) []byte {
	t.Helper()
	t.Chdir(dir)
	return difftest.Run(t, path, args...)
}

// randomCommands returns qemu-io commands.
func (fl *flavour) randomCommands(rng *rand.Rand, n int) []string {
	var cmds []string
	for range n {
		off := rng.IntN(fl.size)
		length := 1 + rng.IntN(1<<rng.IntN(18))
		if rng.IntN(2) == 0 { // whole clusters
			off = off / fl.cluster * fl.cluster
			length = (1 + rng.IntN(4)) * fl.cluster
		}
		length = min(length, fl.size-off)
		switch k := rng.IntN(10); {
		case k < 5:
			cmds = append(cmds, fmt.Sprintf("write -P %d %d %d", 1+rng.IntN(255), off, length))
		case k < 6:
			cmds = append(cmds, fmt.Sprintf("write -z %d %d", off, length))
		case k < 7:
			cmds = append(cmds, fmt.Sprintf("write -z -u %d %d", off, length))
		case k < 8:
			cmds = append(cmds, fmt.Sprintf("discard %d %d", off, length))
		case !fl.data: // fails where it overwrites something
			off = off / fl.cluster * fl.cluster
			cmds = append(cmds, fmt.Sprintf("write -c -P %d %d %d", 1+rng.IntN(255), off, min(fl.cluster, fl.size-off)))
		}
	}
	return cmds
}

// qemuIO runs commands, some of which may fail.
func qemuIO(t *testing.T, dir, name string, cmds []string) {
	t.Helper()
	io := difftest.Tool(t, "qemu-io", "7.2")
	t.Chdir(dir)
	r := difftest.TryIn(t, []byte(strings.Join(cmds, "\n")+"\n"), io, "-f", "qcow2", "-d", "unmap", name)
	if r.Code < 0 {
		t.Fatalf("qemu-io: %s", r.Stderr)
	}
}

// mapping is a line of qemu-img map.
type mapping struct {
	Start, Length int64
	Depth         int
	Zero, Data    bool
	Offset        *int64
}

// TestReadRandomImages compares what this package reads, and where it says it
// lies, with what qemu-img reads.
func TestReadRandomImages(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 2), 0))
	for _, fl := range flavours() {
		for round := range difftest.Scale(t, 2) {
			t.Run(fmt.Sprint(fl.name, "/", round), func(t *testing.T) {
				dir := difftest.FastDir(t)
				fl.make(t, dir, "x.qcow2")
				qemuIO(t, dir, "x.qcow2", fl.randomCommands(rng, 60))
				if r := difftest.Try(t, img, "convert", "-f", "qcow2", "-O", "raw", "x.qcow2", "x.raw"); r.Code != 0 {
					// QEMU 7.2 reuses the rest of a cluster of compressed
					// data that it has discarded, and cannot read that.
					t.Logf("qemu-img cannot read what qemu-io wrote: %s", r.Stderr)
					return
				}
				want, err := os.ReadFile("x.raw")
				if err != nil {
					t.Fatal(err)
				}
				im, err := qcow2.OpenFile("x.qcow2", &qcow2.Options{Root: openRoot(t, dir)})
				if err != nil {
					t.Fatal(err)
				}
				defer im.Close()
				if im.Size() != int64(len(want)) {
					t.Fatalf("size %d, want %d", im.Size(), len(want))
				}
				readRandomly(t, im, want, 200)
				readRandomly(t, im, want, 1)
				checkExtents(t, im, want)
				var m []mapping
				if err := json.Unmarshal(runIn(t, dir, img, "map", "-f", "qcow2", "--output=json", "x.qcow2"), &m); err != nil {
					t.Fatal(err)
				}
				compareMap(t, im, m)
			})
		}
	}
}

// compareMap holds Extents against what qemu-img map says of every sector.
func compareMap(t *testing.T, im *qcow2.Image, m []mapping) {
	t.Helper()
	i := 0
	for e, err := range im.Extents(0, im.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		for at := e.Start; at < e.End(); at += 512 {
			for at >= m[i].Start+m[i].Length {
				i++
			}
			q := m[i]
			if q.Zero && q.Data {
				q.Zero = false // a hole of the image file
			}
			bad := q.Zero != e.IsZero() || q.Data == e.IsZero()
			if e.Kind == qcow2.Data && (q.Offset == nil || *q.Offset-q.Start != e.HostOffset-e.Start || q.Depth != e.Depth) {
				bad = true
			}
			if e.Kind == qcow2.Compressed && (q.Offset != nil || q.Depth != e.Depth) {
				bad = true
			}
			if bad {
				t.Fatalf("sector at %d: %+v, qemu-img says %+v", at, e, q)
			}
		}
	}
}
