// Package layertest makes chains of images with QEMU's programs, twice, so
// that one is changed by qemu-img and the other by this module, and compares
// what the two leave.
package layertest

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/difftest"
)

// A Layer is an image of a chain.
type Layer struct {
	Format   string // raw, qcow2 or qed
	Options  string // of qemu-img create -o
	Size     int64
	Cluster  int64 // the unit of some of the random operations
	Snapshot bool  // takes a snapshot between its random operations
	Empty    bool  // no random operations
}

// File returns the name of the image of layer i, the base being 0.
func (l Layer) File(i int) string { return fmt.Sprintf("%d.%s", i, l.Format) }

// A Chain is a chain of images, the base first.
type Chain []Layer

// Top returns the name of the uppermost image.
func (c Chain) Top() string { return c[len(c)-1].File(len(c) - 1) }

// Make makes the chain with random content in a directory, and returns that
// and a copy of it.
func (c Chain) Make(t *testing.T, rng *rand.Rand) (one, other string) {
	t.Helper()
	img := difftest.Tool(t, "qemu-img", "7.2")
	one, other = t.TempDir(), t.TempDir()
	t.Chdir(one)
	for i, l := range c {
		args := []string{"create", "-q", "-f", l.Format}
		if i > 0 {
			args = append(args, "-b", c[i-1].File(i-1), "-F", c[i-1].Format)
		}
		if l.Options != "" {
			args = append(args, "-o", l.Options)
		}
		difftest.Run(t, img, append(args, l.File(i), fmt.Sprint(l.Size))...)
		if l.Empty {
			continue
		}
		// QEMU makes of subclusters in compressed clusters what it cannot read.
		c.fill(t, rng, i, l.Format == "qcow2" && !strings.Contains(l.Options, "extended_l2"))
		if l.Snapshot {
			difftest.Run(t, img, "snapshot", "-c", "s", l.File(i))
			c.fill(t, rng, i, false)
		}
		Check(t, one, l.File(i), l.Format)
	}
	for i, l := range c {
		b, err := os.ReadFile(l.File(i))
		if err == nil {
			err = os.WriteFile(filepath.Join(other, l.File(i)), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return one, other
}

// fill does random operations on layer i, some of which may fail. Compressed
// writes come first: QEMU puts those that come after a discard where other data
// lies.
func (c Chain) fill(t *testing.T, rng *rand.Rand, i int, compressed bool) {
	t.Helper()
	l := c[i]
	var cmds []string
	// Few fills, so that layers are alike in places.
	fill := func() int { return 1 + rng.IntN(3) }
	if whole := l.Size / l.Cluster; compressed && whole > 0 {
		for range 4 {
			cmds = append(cmds, fmt.Sprintf("write -c -P %d %d %d", fill(), rng.Int64N(whole)*l.Cluster, l.Cluster))
		}
	}
	for range 22 {
		off := rng.Int64N(l.Size/512) * 512
		n := (1 + rng.Int64N(1<<rng.IntN(8))) * 512
		if rng.IntN(2) == 0 {
			off = off / l.Cluster * l.Cluster
			n = (1 + rng.Int64N(3)) * l.Cluster
		}
		n = min(n, l.Size-off)
		switch k := rng.IntN(11); {
		case k < 6:
			cmds = append(cmds, fmt.Sprintf("write -P %d %d %d", fill(), off, n))
		case k < 7:
			cmds = append(cmds, fmt.Sprintf("write -P 0 %d %d", off, n))
		case k < 9:
			cmds = append(cmds, fmt.Sprintf("write -z %d %d", off, n))
		case k < 10:
			cmds = append(cmds, fmt.Sprintf("write -z -u %d %d", off, n))
		default:
			cmds = append(cmds, fmt.Sprintf("discard %d %d", off, n))
		}
	}
	io := difftest.Tool(t, "qemu-io", "7.2")
	r := difftest.TryIn(t, []byte(strings.Join(cmds, "\n")+"\n"), io, "-f", l.Format, "-d", "unmap", l.File(i))
	if r.Code < 0 {
		t.Fatalf("qemu-io: %s", r.Stderr)
	}
}

// Content returns what an image in a directory reads as.
func Content(t *testing.T, dir, name, format string) []byte {
	t.Helper()
	img := difftest.Tool(t, "qemu-img", "7.2")
	t.Chdir(dir)
	raw := filepath.Join(t.TempDir(), "raw")
	difftest.Run(t, img, "convert", "-f", format, "-O", "raw", name, raw)
	b, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// SameContent compares what an image reads as in two directories.
func SameContent(t *testing.T, one, other, name, format string) {
	t.Helper()
	SameBytes(t, name, Content(t, other, name, format), Content(t, one, name, format))
}

// SameBytes tells where what was got is not what was wanted.
func SameBytes(t *testing.T, name string, got, want []byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d bytes, want %d", name, len(got), len(want))
		return
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("%s: byte %#x is %#x, want %#x", name, i, got[i], want[i])
			return
		}
	}
}

// Check fails unless qemu-img check finds nothing in an image.
func Check(t *testing.T, dir, name, format string) {
	t.Helper()
	if format == "raw" {
		return
	}
	t.Chdir(dir)
	img := difftest.Tool(t, "qemu-img", "7.2")
	if r := difftest.Try(t, img, "check", "-f", format, name); r.Code != 0 {
		t.Errorf("qemu-img check %s: exit %d\n%s%s", name, r.Code, r.Stdout, r.Stderr)
	}
}

// Info returns some of what qemu-img info tells.
func Info(t *testing.T, dir, name, format string) (info struct {
	VirtualSize   int64  `json:"virtual-size"`
	Backing       string `json:"backing-filename"`
	BackingFormat string `json:"backing-filename-format"`
}) {
	t.Helper()
	t.Chdir(dir)
	out := difftest.Run(t, difftest.Tool(t, "qemu-img", "7.2"), "info", "--output=json", "-f", format, name)
	if err := json.Unmarshal(out, &info); err != nil {
		t.Fatal(err)
	}
	return info
}

// A Mapping is a part of what qemu-img map tells.
type Mapping struct {
	Start, Length int64
	Depth         int
	Zero, Data    bool
}

// Map returns what qemu-img map tells of an image, less the places in files.
func Map(t *testing.T, dir, name, format string) []Mapping {
	t.Helper()
	t.Chdir(dir)
	out := difftest.Run(t, difftest.Tool(t, "qemu-img", "7.2"), "map", "--output=json", "-f", format, name)
	var list []Mapping
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatal(err)
	}
	return merge(list, func(a, b Mapping) bool { return a.Depth == b.Depth && a.Zero == b.Zero && a.Data == b.Data })
}

// Held returns the ranges of m that the uppermost layer holds.
func Held(m []Mapping) []Mapping {
	var list []Mapping
	for _, x := range m {
		if x.Depth == 0 {
			list = append(list, Mapping{Start: x.Start, Length: x.Length})
		}
	}
	return merge(list, func(a, b Mapping) bool { return a.Start+a.Length == b.Start })
}

func merge(list []Mapping, same func(a, b Mapping) bool) []Mapping {
	var out []Mapping
	for _, x := range list {
		if n := len(out); n > 0 && same(out[n-1], x) {
			out[n-1].Length += x.Length
		} else {
			out = append(out, x)
		}
	}
	return slices.Clip(out)
}

// RawFile opens a raw image as a disk that can be written to.
func RawFile(t *testing.T, path string) *Raw {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	return &Raw{f}
}

// A Raw is a file as a disk that can be written to.
type Raw struct{ *os.File }

// Size returns the length of the file.
func (r *Raw) Size() int64 {
	n, err := block.Length(r.File)
	if err != nil {
		return 0
	}
	return n
}

// ReadAt reads from the file.
func (r *Raw) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.File.ReadAt(p, off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Extents tells the holes of the file.
func (r *Raw) Extents(off, n int64) iter.Seq2[block.Extent, error] {
	return block.Raw(r.File, r.Size()).Extents(off, n)
}
