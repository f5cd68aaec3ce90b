package qed_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qed"
)

// bytesDisk is a raw disk in memory.
type bytesDisk []byte

func (d bytesDisk) Size() int64 { return int64(len(d)) }

func (d bytesDisk) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(d).ReadAt(p, off) }

func (d bytesDisk) Extents(off, n int64) iter.Seq2[qed.Extent, error] {
	return func(yield func(qed.Extent, error) bool) {
		yield(qed.Extent{Start: off, Length: n, Kind: qed.Data, HostOffset: off}, nil)
	}
}

// An op is one change of a disk.
type op struct {
	zero   bool
	off, n int64
	fill   byte
}

func (o op) qemuIO() string {
	if o.zero {
		return fmt.Sprintf("write -z %d %d\n", o.off, o.n)
	}
	return fmt.Sprintf("write -P %d %d %d\n", o.fill, o.off, o.n)
}

func (o op) apply(img *qed.Image, model []byte) error {
	if o.zero {
		clear(model[o.off : o.off+o.n])
		return img.WriteZeroesAt(o.off, o.n)
	}
	p := bytes.Repeat([]byte{o.fill}, int(o.n))
	copy(model[o.off:], p)
	_, err := img.WriteAt(p, o.off)
	return err
}

// randomOp changes up to three clusters.
func randomOp(rnd *rand.Rand, size, cluster int64) op {
	o := op{zero: rnd.IntN(4) == 0, fill: byte(1 + rnd.IntN(255))}
	o.off = rnd.Int64N(size)
	o.n = 1 + rnd.Int64N(3*cluster)
	if rnd.IntN(2) == 0 {
		o.off, o.n = o.off&^(cluster-1), (o.n+cluster-1)&^(cluster-1)
	}
	o.n = min(o.n, size-o.off)
	return o
}

// wider returns the operation on whole clusters at those of its ends that lie
// in a cluster of zeros, and notes which clusters it makes such. With part of
// one written, qemu-io 7.2 fills up the rest from the backing file.
func (o op) wider(zeros map[int64]bool, cluster int64) op {
	end := o.off + o.n
	if zeros[o.off/cluster] {
		o.off &^= cluster - 1
	}
	if zeros[(end-1)/cluster] {
		end = (end + cluster - 1) &^ (cluster - 1)
	}
	o.n = end - o.off
	for i := (o.off + cluster - 1) / cluster; i < end/cluster; i++ {
		zeros[i] = o.zero
	}
	return o
}

// TestMirror does the same random operations with this package and with
// qemu-io, and has qemu-img judge what came out.
func TestMirror(t *testing.T) {
	qemuImg, qemuIO := difftest.Tool(t, "qemu-img", "7.2"), difftest.Tool(t, "qemu-io", "7.2")
	for _, c := range []struct {
		cluster, table uint32
		size           int64
		backing        int64 // length of the backing file
	}{
		{4096, 2, 3<<20 + 512, 0},
		{4096, 16, 20 << 20, 5<<20 + 700},
		{65536, 4, 9<<20 + 1024, 0},
		{65536, 4, 9 << 20, 30 << 20},
		{1 << 20, 2, 40 << 20, 0},
	} {
		t.Run(fmt.Sprintf("cluster=%d,table=%d,backing=%d", c.cluster, c.table, c.backing), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(difftest.Seed(t, uint64(c.cluster)), 0))
			dir := t.TempDir()
			ours, theirs := filepath.Join(dir, "ours.qed"), filepath.Join(dir, "theirs.qed")
			args := []string{"create", "-q", "-f", "qed", "-o", fmt.Sprintf("cluster_size=%d,table_size=%d", c.cluster, c.table)}
			o := &qed.CreateOptions{ClusterSize: c.cluster, TableSize: c.table, Open: &qed.Options{}}
			model := make([]byte, c.size)
			if c.backing > 0 {
				base := make([]byte, c.backing)
				rand.NewChaCha8([32]byte{7}).Read(base)
				copy(model, base)
				if err := os.WriteFile(filepath.Join(dir, "base.raw"), base, 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, "-b", "base.raw", "-F", "raw")
				o.BackingFile, o.BackingFormat = "base.raw", "raw"
				o.Open.OpenBacking = func(name, format string) (qed.Disk, error) { return bytesDisk(base), nil }
			}
			difftest.Run(t, qemuImg, append(args, theirs, fmt.Sprint(c.size))...)
			f, err := os.Create(ours)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			img, err := qed.Create(f, c.size, o)
			if err != nil {
				t.Fatal(err)
			}
			var script strings.Builder
			zeros := map[int64]bool{}
			ops := difftest.Scale(t, 400)
			for i := range ops {
				op := randomOp(rnd, c.size, int64(c.cluster))
				if c.backing > 0 {
					op = op.wider(zeros, int64(c.cluster))
				}
				script.WriteString(op.qemuIO())
				if err := op.apply(img, model); err != nil {
					t.Fatalf("%+v: %v", op, err)
				}
				readBack(t, rnd, img, model)
				if rnd.IntN(40) == 0 || i == ops-1 {
					if err := img.Close(); err != nil {
						t.Fatal(err)
					}
					if img, err = qed.OpenRW(f, o.Open); err != nil {
						t.Fatal(err)
					}
				}
			}
			res, err := img.Check(context.Background(), nil)
			if err != nil || res.Corruptions != 0 {
				t.Errorf("Check: %+v, %v", res, err)
			}
			if err := img.Close(); err != nil {
				t.Fatal(err)
			}
			difftest.TryIn(t, []byte(script.String()+"quit\n"), qemuIO, "-f", "qed", theirs)
			difftest.Run(t, qemuImg, "compare", "-f", "qed", "-F", "qed", "-s", ours, theirs)
			raw := filepath.Join(dir, "model.raw")
			if err := os.WriteFile(raw, model, 0o600); err != nil {
				t.Fatal(err)
			}
			difftest.Run(t, qemuImg, "compare", "-f", "qed", "-F", "raw", ours, raw)
			if diff := cmp.Diff(qemuMap(t, qemuImg, theirs), qemuMap(t, qemuImg, ours)); diff != "" {
				t.Errorf("qemu-img map differs (-theirs +ours):\n%s", diff)
			}
			if c.cluster >= 65536 { // smaller ones: qemu-img counts leaks that are none
				got, want := qemuCheck(t, qemuImg, ours), qemuCheck(t, qemuImg, theirs)
				if got != want {
					t.Errorf("qemu-img check: %+v, of its own image %+v", got, want)
				}
				if got.Errors != 0 || got.Corruptions != 0 {
					t.Errorf("qemu-img check: %+v", got)
				}
				if got.Leaks != res.Leaks || got.Allocated != res.AllocatedClusters || got.Total != res.TotalClusters {
					t.Errorf("Check says %+v, qemu-img check %+v", res, got)
				}
			}
		})
	}
}

// readBack compares a random piece of the disk with the model.
func readBack(t *testing.T, rnd *rand.Rand, img *qed.Image, model []byte) {
	t.Helper()
	off := rnd.IntN(len(model))
	got := make([]byte, min(1+rnd.IntN(300_000), len(model)-off))
	if _, err := img.ReadAt(got, int64(off)); err != nil {
		t.Fatalf("ReadAt(%d bytes at %d): %v", len(got), off, err)
	}
	if !bytes.Equal(got, model[off:off+len(got)]) {
		t.Fatalf("%d bytes at %d differ from the model", len(got), off)
	}
}

// A mapping is a line of qemu-img map without the offset.
type mapping struct {
	Start, Length       int64
	Depth               int
	Present, Zero, Data bool
}

func qemuMap(t *testing.T, tool, name string) []mapping {
	t.Helper()
	var in, out []mapping
	if err := json.Unmarshal(difftest.Run(t, tool, "map", "--output=json", "-f", "qed", name), &in); err != nil {
		t.Fatal(err)
	}
	for _, m := range in {
		if n := len(out); n > 0 {
			last := out[n-1]
			last.Start, last.Length = m.Start, m.Length
			if last == m {
				out[n-1].Length += m.Length
				continue
			}
		}
		out = append(out, m)
	}
	return out
}

// A verdict is what qemu-img check says.
type verdict struct {
	Errors      int64 `json:"check-errors"`
	Corruptions int64 `json:"corruptions"`
	Leaks       int64 `json:"leaks"`
	Total       int64 `json:"total-clusters"`
	Allocated   int64 `json:"allocated-clusters"`
}

func qemuCheck(t *testing.T, tool, name string) verdict {
	t.Helper()
	var v verdict
	r := difftest.Try(t, tool, "check", "--output=json", "-f", "qed", name)
	if err := json.Unmarshal(r.Stdout, &v); err != nil {
		t.Fatalf("%v: %s%s", err, r.Stdout, r.Stderr)
	}
	return v
}
