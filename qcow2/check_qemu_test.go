package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
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

// qemuCheck is what qemu-img check --output=json prints.
type qemuCheck struct {
	Corruptions int64 `json:"corruptions"`
	Leaks       int64 `json:"leaks"`
	CheckErrors int64 `json:"check-errors"`
	Total       int64 `json:"total-clusters"`
	Allocated   int64 `json:"allocated-clusters"`
	Fragmented  int64 `json:"fragmented-clusters"`
	Compressed  int64 `json:"compressed-clusters"`
	End         int64 `json:"image-end-offset"`
}

func counts(r *qcow2.CheckResult) qemuCheck {
	return qemuCheck{
		r.Corruptions, r.Leaks, r.CheckErrors, r.TotalClusters,
		r.AllocatedClusters, r.FragmentedClusters, r.CompressedClusters, r.ImageEndOffset,
	}
}

// A damageable is a kind of image to check: the options of its creation and what
// is then done to it.
type damageable struct {
	name    string
	options string
	size    string
	steps   []string // commands of qemu-io; "snapshot" and "bitmap" make one
}

// manyWrites fills a disk of units of size u in ways that give every kind of
// L2 entry.
func manyWrites(u int, compressed bool) []string {
	w := func(cmd string, at, n int) string { return fmt.Sprintf("%s %d %d", cmd, at*u, n*u) }
	steps := []string{
		w("write -P 1", 0, 4), w("write -P 2", 16, 1), w("write -z", 32, 3), w("write -P 3", 65, 2), "snapshot",
		w("write -P 4", 1, 1), w("write -z", 66, 1), w("discard", 33, 1), w("write -z -u", 16, 1), "snapshot", w("write -P 5", 70, 3), w("write -P 6", 2, 1),
	}
	if compressed {
		steps = append(steps, w("write -c -P 7", 48, 1), w("write -c -P 8", 49, 1), w("write -c -P 9", 50, 1), "snapshot", w("write -c -P 10", 51, 1))
	}
	return steps
}

func withoutSnapshots(steps []string) []string {
	var kept []string
	for _, s := range steps {
		if s != "snapshot" {
			kept = append(kept, s)
		}
	}
	return kept
}

func damageables() []damageable {
	const k = 1024
	return []damageable{
		{"v3-64k", "", "8M", manyWrites(64*k, true)},
		{"v2-64k", "compat=0.10", "8M", manyWrites(64*k, true)},
		{"v3-512", "cluster_size=512", "1M", manyWrites(512, true)},
		{"v2-512", "cluster_size=512,compat=0.10", "1M", manyWrites(512, true)},
		{"v3-512-64", "cluster_size=512,refcount_bits=64", "1M", manyWrites(512, true)},
		{"v3-512-1", "cluster_size=512,refcount_bits=1", "1M", withoutSnapshots(manyWrites(512, true))},
		{"v3-4k-2", "cluster_size=4k,refcount_bits=2", "2M", withoutSnapshots(manyWrites(4*k, true))},
		{"v3-4k-4", "cluster_size=4k,refcount_bits=4", "2M", manyWrites(4*k, true)},
		{"v3-4k-8", "cluster_size=4k,refcount_bits=8", "2M", manyWrites(4*k, true)},
		{"v3-4k-32", "cluster_size=4k,refcount_bits=32", "2M", manyWrites(4*k, true)},
		{"v3-zstd", "compression_type=zstd,cluster_size=16k", "4M", manyWrites(16*k, true)},
		{"v3-extended", "extended_l2=on", "8M", append(manyWrites(64*k, true), "write -P 3 6m 4k", "write -z 6148k 8k", "discard 64k 2k")},
		{"v3-extended-16k", "extended_l2=on,cluster_size=16k", "4M", append(manyWrites(16*k, true), "write -P 3 3m 512", "write -z 3077k 1k")},
		{"v3-2m", "cluster_size=2M", "100M", []string{"write -P 1 0 2M", "snapshot", "write -P 2 1M 64k"}},
		{"v3-bitmaps", "cluster_size=4k", "4M", append(append([]string{"bitmap"}, manyWrites(4*k, false)...), "bitmap", "write -P 4 1M 1M")},
		{"v3-preallocated", "preallocation=metadata,cluster_size=512", "512k", nil},
		{"v3-external", "data_file=DIR/data.raw", "8M", withoutSnapshots(manyWrites(64*k, false))},
		{"v3-external-raw", "data_file=DIR/data.raw,data_file_raw=on,cluster_size=4k", "1M", withoutSnapshots(manyWrites(4*k, false))},
		{"v3-luks", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,cluster_size=4k", "1M", nil},
	}
}

// make returns the bytes of an image of the kind.
func (f damageable) make(tb testing.TB) []byte {
	tb.Helper()
	img, io := difftest.Tool(tb, "qemu-img", "7.2"), difftest.Tool(tb, "qemu-io", "7.2")
	dir := difftest.FastDir(tb)
	name := filepath.Join(dir, f.name+".qcow2")
	args := []string{"create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=pw"}
	if f.options != "" {
		args = append(args, "-o", strings.ReplaceAll(f.options, "DIR", dir))
	}
	difftest.Run(tb, img, append(args, name, f.size)...)
	commands := []string{"-f", "qcow2", "-t", "unsafe", name}
	flush := func() {
		if len(commands) > 5 {
			difftest.Run(tb, io, commands...)
		}
		commands = commands[:5]
	}
	for i, s := range f.steps {
		switch s {
		case "snapshot":
			flush()
			difftest.Run(tb, img, "snapshot", "-c", fmt.Sprint("snap", i), name)
		case "bitmap":
			flush()
			difftest.Run(tb, img, "bitmap", "--add", "-g", "512", name, fmt.Sprint("bitmap", i))
		default:
			commands = append(commands, "-c", s)
		}
	}
	flush()
	b, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// checkWithQemu returns the counts and the exit code of qemu-img check; the
// counts are nil if it could not check.
func checkWithQemu(tb testing.TB, name string, encrypted bool) (*qemuCheck, int) {
	tb.Helper()
	args := []string{"check", "--output=json"}
	if encrypted {
		args = append(args, "--object", "secret,id=s,data=pw", "--image-opts", "driver=qcow2,encrypt.key-secret=s,file.filename="+name)
	} else {
		args = append(args, "-f", "qcow2", name)
	}
	r := difftest.Try(tb, difftest.Tool(tb, "qemu-img", "7.2"), args...)
	if len(r.Stdout) == 0 {
		return nil, r.Code
	}
	c := new(qemuCheck)
	if err := json.Unmarshal(r.Stdout, c); err != nil {
		tb.Fatalf("%s: %v", r.Stdout, err)
	}
	return c, r.Code
}

// exitCode returns what qemu-img check exits with.
func exitCode(r *qcow2.CheckResult) int {
	switch {
	case r.CheckErrors > 0:
		return 1
	case r.Corruptions > 0:
		return 2
	case r.Leaks > 0:
		return 3
	}
	return 0
}

func TestCheckCleanImages(t *testing.T) {
	for _, f := range damageables() {
		b := f.make(t)
		name := filepath.Join(t.TempDir(), "clean.qcow2")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		want, code := checkWithQemu(t, name, b[35] != 0)
		r, err := qcow2.Check(t.Context(), bytes.NewReader(b), nil)
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
			continue
		}
		if got := counts(r); want == nil || got != *want || exitCode(r) != code || !r.Clean() {
			t.Errorf("%s: exit %d\n%s\n%v", f.name, code, cmp.Diff(want, &got), r.Findings)
		}
	}
}

func TestDamagesInQemu(t *testing.T) {
	name := filepath.Join(difftest.FastDir(t), "damaged.qcow2")
	for _, d := range damages {
		if err := os.WriteFile(name, d.make(t), 0o600); err != nil {
			t.Fatal(err)
		}
		want, code := checkWithQemu(t, name, false)
		if want == nil {
			t.Errorf("%s: qemu-img exits with %d", d.name, code)
			continue
		}
		t.Logf("%s: %d, %d, %d", d.name, want.Corruptions, want.Leaks, want.CheckErrors)
		r, err := qcow2.Check(t.Context(), bytes.NewReader(d.make(t)), nil)
		if err != nil {
			t.Errorf("%s: %v", d.name, err)
			continue
		}
		if got := counts(r); got != *want || exitCode(r) != code {
			t.Errorf("%s: exit %d, qemu-img %d\n%s", d.name, exitCode(r), code, cmp.Diff(want, &got))
		}
	}
}

// TestCheckDamaged damages images at random and holds what is found against
// what qemu-img check finds.
func TestCheckDamaged(t *testing.T) {
	random := rand.New(rand.NewPCG(difftest.Seed(t, 1), 2))
	name := filepath.Join(difftest.FastDir(t), "damaged.qcow2")
	compared := 0
	var images [][]byte
	var names []string
	for _, f := range damageables() {
		if b := f.make(t); len(b) < 4<<20 {
			images, names = append(images, b), append(names, f.name)
		}
	}
	for range difftest.Scale(t, 300) {
		i := random.IntN(len(images))
		b := bytes.Clone(images[i])
		what := damageAtRandom(random, b)
		if random.IntN(4) == 0 {
			what += ", " + damageAtRandom(random, b)
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		want, code := checkWithQemu(t, name, b[35] != 0)
		r, err := qcow2.Check(t.Context(), bytes.NewReader(b), nil)
		if want == nil || err != nil {
			if err != nil && want != nil && code == 0 {
				t.Errorf("%s, %s: %v", names[i], what, err)
			}
			continue
		}
		compared++
		if got := counts(r); got != *want || exitCode(r) != code {
			t.Errorf("%s, %s: exit %d, want %d\n%s\n%v", names[i], what, exitCode(r), code, cmp.Diff(want, &got), r.Findings)
			os.WriteFile(filepath.Join(t.ArtifactDir(), fmt.Sprint("damaged", compared, ".qcow2")), b, 0o600)
		}
	}
	t.Logf("%d compared", compared)
}

// damageAtRandom changes a random entry of a random table of an image and
// says how.
func damageAtRandom(random *rand.Rand, b []byte) string {
	be := binary.BigEndian
	cluster := int64(1) << be.Uint32(b[20:])
	l1, rt := int64(be.Uint64(b[40:])), int64(be.Uint64(b[48:]))
	within := func(off int64) bool { return off >= 0 && off+8 <= int64(len(b)) }
	word := func(off int64) uint64 {
		if !within(off) {
			return 0
		}
		return be.Uint64(b[off:])
	}
	place := func(base, n int64) int64 { // a random word, one in use more often
		for range 20 {
			off := base + random.Int64N(max(n, 1))*8
			if word(off) != 0 {
				return off
			}
		}
		return base
	}
	var at int64
	var name string
	switch random.IntN(8) {
	case 0:
		name, at = "header", []int64{40, 48, 56, 60, 64, 36}[random.IntN(6)]
	case 1:
		name, at = "l1", place(l1, int64(be.Uint32(b[36:])))
	case 2, 3:
		l2 := int64(word(place(l1, int64(be.Uint32(b[36:])))) & 0x00fffffffffffe00)
		name, at = "l2", place(l2, cluster/8)
	case 4:
		name, at = "refcount table", place(rt, 4)
	case 5:
		name, at = "refcount block", place(int64(word(rt))&^511, cluster/8/8)
	case 6:
		name, at = "snapshot", int64(be.Uint64(b[64:]))+8*random.Int64N(8)
	default:
		s := int64(be.Uint64(b[64:]))
		name, at = "snapshot l1", place(int64(word(s)), 2)
	}
	if !within(at) {
		return "nothing"
	}
	was := be.Uint64(b[at:])
	file := int64(len(b))
	var now uint64
	switch random.IntN(8) {
	case 0:
		now = 0
	case 1:
		now = was ^ 1<<random.IntN(64)
	case 2:
		now = was ^ 1<<63
	case 3:
		now = was&^0x00ffffffffffffff | uint64(random.Int64N(file)&^511)
	case 4:
		now = was&0xff000000000001ff | uint64(random.Int64N(file+2*cluster)&^(cluster-1))
	case 5:
		now = was + uint64(cluster)
	case 6:
		now = 1<<62 | uint64(random.Int64N(file)) | uint64(random.IntN(3))<<(62-(be.Uint32(b[20:])-8))
	default:
		now = random.Uint64()
	}
	if name == "refcount block" {
		now = was ^ 1<<random.IntN(64)
	}
	be.PutUint64(b[at:], now)
	return fmt.Sprintf("%s at %#x: %#x to %#x", name, at, was, now)
}
