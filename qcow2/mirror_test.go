package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// An op is an operation on a disk, done by this package and by qemu-io.
type op struct {
	kind byte // w, z, u (zero and unmap), d
	fill byte
	off  int
	n    int
}

func (o op) String() string {
	switch o.kind {
	case 'w':
		return fmt.Sprintf("write -P %d %d %d", o.fill, o.off, o.n)
	case 'z':
		return fmt.Sprintf("write -z %d %d", o.off, o.n)
	case 'u':
		return fmt.Sprintf("write -z -u %d %d", o.off, o.n)
	}
	return fmt.Sprintf("discard %d %d", o.off, o.n)
}

func (o op) do(im *qcow2.Image) error {
	off, n := int64(o.off), int64(o.n)
	switch o.kind {
	case 'w':
		_, err := im.WriteAt(bytes.Repeat([]byte{o.fill}, o.n), off)
		return err
	case 'z':
		return im.WriteZeroesAt(off, n)
	case 'u':
		return im.UnmapAt(off, n)
	}
	if err := im.DiscardAt(off, n); !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// randomOps returns operations of all sizes, on whole sectors. With whole,
// zeros are made of whole clusters.
func (fl *flavour) randomOps(rng *rand.Rand, n int, whole bool) []op {
	ops := make([]op, n)
	for i := range ops {
		off := rng.IntN(fl.size / 512)
		length := 1 + rng.IntN(1<<rng.IntN(10))
		kind := "wwwwwzzudd"[rng.IntN(10)]
		if rng.IntN(2) == 0 || whole && kind != 'w' {
			unit := fl.cluster / 512
			off = off / unit * unit
			length = (1 + rng.IntN(4)) * unit
		}
		length = min(length, fl.size/512-off)
		ops[i] = op{kind, byte(1 + rng.IntN(255)), off * 512, length * 512}
	}
	return ops
}

// TestMirror does the same random operations with qemu-io and with this
// package, on two copies of an image, and compares what they leave: the
// content, the map, and the L2 entries but for the host offsets: 10 400
// operations by default.
func TestMirror(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 3), 0))
	for _, fl := range flavours() {
		for round := range difftest.Scale(t, 2) {
			t.Run(fmt.Sprint(fl.name, "/", round), func(t *testing.T) {
				dir := difftest.FastDir(t)
				fl.make(t, dir, "start.qcow2")
				// QEMU writes zeros to all of a range that begins or ends
				// in the middle of a compressed cluster with subclusters,
				// here only to that cluster.
				whole := strings.Contains(fl.create, "extended_l2") && round%2 == 0
				if !fl.data && (whole || !strings.Contains(fl.create, "extended_l2")) {
					qemuIO(t, dir, "start.qcow2", fl.compressedWrites(rng))
				}
				if round%2 == 1 && !fl.data && !strings.Contains(fl.create, "refcount_bits=1") {
					qemuIO(t, dir, "start.qcow2", mirrorCommands(fl.randomOps(rng, 30, whole)))
					runIn(t, dir, img, "snapshot", "-c", "before", "start.qcow2")
				}
				other := filepath.Join(dir, "other")
				if err := os.Mkdir(other, 0o755); err != nil {
					t.Fatal(err)
				}
				copyFile(t, "start.qcow2", "other/start.qcow2")
				for _, name := range []string{"base.raw", "data.raw"} {
					if _, err := os.Stat(name); err == nil {
						copyFile(t, name, "other/"+name)
					}
				}
				ops := fl.randomOps(rng, 400, whole)
				qemuIO(t, dir, "start.qcow2", mirrorCommands(ops))
				mirror(t, other, ops)
				judge(t, img, dir, other)
			})
		}
	}
}

func mirrorCommands(ops []op) []string {
	cmds := make([]string, len(ops))
	for i, o := range ops {
		cmds[i] = o.String()
	}
	return cmds
}

// compressedWrites returns commands that fill some clusters.
func (fl *flavour) compressedWrites(rng *rand.Rand) []string {
	var cmds []string
	for c := range fl.size / fl.cluster {
		if rng.IntN(3) == 0 && len(cmds) < 40 {
			cmds = append(cmds, fmt.Sprintf("write -c -P %d %d %d", 1+rng.IntN(255), c*fl.cluster, fl.cluster))
		}
	}
	return cmds
}

// mirror does the operations with this package.
func mirror(t *testing.T, dir string, ops []op) {
	t.Helper()
	var im *qcow2.Image
	for i, o := range ops {
		if i%100 == 0 {
			if im != nil {
				if err := im.Close(); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			if im, err = qcow2.OpenFile("start.qcow2", &qcow2.Options{Root: openRoot(t, dir), Write: true}); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.do(im); err != nil {
			t.Fatalf("%v: %v", o, err)
		}
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
}

// judge compares the images that qemu-io left in a and this package in b.
func judge(t *testing.T, img, a, b string) {
	t.Helper()
	t.Chdir(b)
	if r := difftest.Try(t, img, "check", "-f", "qcow2", "start.qcow2"); r.Code != 0 {
		t.Fatalf("qemu-img check: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if r := difftest.Try(t, img, "compare", "-f", "qcow2", "-F", "qcow2", filepath.Join(a, "start.qcow2"), "start.qcow2"); r.Code != 0 {
		t.Fatalf("qemu-img compare: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if diff := cmp.Diff(entries(t, filepath.Join(a, "start.qcow2")), entries(t, "start.qcow2")); diff != "" {
		t.Fatalf("L2 entries (-qemu +here):\n%s", diff)
	}
	if diff := cmp.Diff(qemuMap(t, img, a), qemuMap(t, img, b)); diff != "" {
		t.Fatalf("qemu-img map (-qemu +here):\n%s", diff)
	}
}

// qemuMap returns the map without offsets, neighbours merged.
func qemuMap(t *testing.T, img, dir string) []string {
	t.Helper()
	var m []mapping
	if err := json.Unmarshal(runIn(t, dir, img, "map", "-f", "qcow2", "--output=json", "start.qcow2"), &m); err != nil {
		t.Fatal(err)
	}
	var lines []string
	var last string
	for _, e := range m {
		// Where a data cluster has a hole in the file is not the image's doing.
		what := fmt.Sprintf("depth %d zero %t data %t", e.Depth, e.Zero && !e.Data, e.Data)
		if what != last {
			lines = append(lines, fmt.Sprintf("%d: %s", e.Start, what))
		}
		last = what
	}
	return lines
}

// entries returns the L2 entries of an image that are not 0, by guest cluster,
// without the host offsets.
func entries(t *testing.T, path string) map[int]string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h := decodeHeader(t, b)
	b = append(b, make([]byte, 2*h.ClusterSize())...)
	extended := h.IncompatibleFeatures&qcow2.IncompatExtendedL2 != 0
	size := 8
	if extended {
		size = 16
	}
	per := int(h.ClusterSize()) / size
	all := map[int]string{}
	for i := range int(h.L1Size) {
		l1 := binary.BigEndian.Uint64(b[int(h.L1TableOffset)+8*i:])
		if l1 == 0 {
			continue
		}
		table := b[l1&0x00fffffffffffe00:]
		for j := range per {
			e := binary.BigEndian.Uint64(table[j*size:])
			var subs uint64
			if extended {
				subs = binary.BigEndian.Uint64(table[j*size+8:])
			}
			if e|subs == 0 {
				continue
			}
			var s strings.Builder
			switch {
			case e>>62&1 != 0:
				s.WriteString("compressed")
			case e&0x00fffffffffffe00 != 0:
				fmt.Fprintf(&s, "offset, %#x", e&^uint64(0x00fffffffffffe00))
			default:
				fmt.Fprintf(&s, "%#x", e)
			}
			if extended {
				fmt.Fprintf(&s, ", subclusters %#016x", subs)
			}
			all[i*per+j] = s.String()
		}
	}
	return all
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, to, b)
}
