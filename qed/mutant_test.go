package qed_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/internal/mutant"
	"github.com/virtfmt/virtfmt/qed"
)

// mutableImage is an image with clusters of all kinds.
func mutableImage(tb testing.TB, o qed.CreateOptions) []byte {
	tb.Helper()
	m := memfile.New()
	o.Open = mutantOptions
	img, err := qed.Create(m, 16<<20, &o)
	if err != nil {
		tb.Fatal(err)
	}
	for _, off := range []int64{0, 5000, 40000, 4 << 20, 12 << 20} {
		if _, err := img.WriteAt(bytes.Repeat([]byte{byte(off>>10) + 1}, 9000), off); err != nil {
			tb.Fatal(err)
		}
	}
	if err := img.WriteZeroesAt(20480, 8192); err != nil {
		tb.Fatal(err)
	}
	if err := img.Close(); err != nil {
		tb.Fatal(err)
	}
	return m.Bytes()
}

func mutableImages(tb testing.TB) [][]byte {
	tb.Helper()
	dirty := mutableImage(tb, qed.CreateOptions{ClusterSize: 4096, TableSize: 1, AnyGeometry: true})
	dirty[16] |= byte(qed.FeatureNeedCheck)
	return [][]byte{
		mutableImage(tb, qed.CreateOptions{ClusterSize: 4096, TableSize: 2}),
		mutableImage(tb, qed.CreateOptions{ClusterSize: 4096, TableSize: 2, BackingFile: "base", BackingFormat: "raw"}),
		mutableImage(tb, qed.CreateOptions{ClusterSize: 16384, TableSize: 4}),
		dirty,
	}
}

// imageFields lists the header and the table entries of a good image, those in
// use more often than the others.
func imageFields(b []byte) []mutant.Field {
	le := binary.LittleEndian
	header := append(mutant.Fields("header", 0, 4, 4), mutant.Fields("header", 16, 5, 8)...)
	header = append(header, mutant.Fields("backing name", 56, 2, 4)...)
	fields := append(header, header...)
	table := func(name string, off int64) {
		fields = append(fields, mutant.Fields(name, off, 16, 8)...)
		for i := range int64(le.Uint32(b[4:])) * int64(le.Uint32(b[8:])) / 8 {
			if le.Uint64(b[off+8*i:]) != 0 {
				fields = append(fields, mutant.Fields(name, off+8*i, 1, 8)...)
			}
		}
	}
	l1 := int64(le.Uint64(b[40:]))
	table("L1 entry", l1)
	for i := range int64(16) {
		if l2 := int64(le.Uint64(b[l1+8*i:])); l2 != 0 {
			table("L2 entry", l2)
		}
	}
	return fields
}

var mutantOptions = &qed.Options{
	OpenBacking: func(name, _ string) (qed.Disk, error) {
		if name == "other" {
			return bytesDisk(strings.Repeat("behind", 5000)), nil
		}
		return bytesDisk(strings.Repeat("backing", 5000)), nil
	},
	BackingFormat: "raw",
}

// TestMutants: whatever the metadata of an image says, nothing that is done
// with it panics or costs more than it may.
func TestMutants(t *testing.T) {
	random := rand.New(rand.NewPCG(difftest.Seed(t, 1), 9))
	all := mutableImages(t)
	var stats mutant.Stats
	for i := range difftest.Scale(t, 1000) {
		tryMutant(t, all[i%len(all)], &stats, random)
	}
	t.Log(&stats)
}

func FuzzMutants(f *testing.F) {
	all := mutableImages(f)
	for i := range all {
		f.Add(uint8(i), uint64(i))
	}
	f.Fuzz(func(t *testing.T, which uint8, seed uint64) {
		tryMutant(t, all[int(which)%len(all)], new(mutant.Stats), rand.New(rand.NewPCG(seed, 9)))
	})
}

// tryMutant makes a mutant and does with it all that can be done with an
// image.
func tryMutant(t *testing.T, good []byte, stats *mutant.Stats, random *rand.Rand) {
	t.Helper()
	unit := int64(binary.LittleEndian.Uint32(good[4:]))
	b, what := mutant.Mutate(random, binary.LittleEndian, bytes.Clone(good), unit, imageFields(good))
	tr := &mutant.Trial{TB: t, What: what, Mutant: b, Stats: stats}
	stats.Mutants++
	buf := make([]byte, 64<<10)
	var img *qed.Image
	tr.Step("Open", func() { img, _ = qed.Open(bytes.NewReader(b), mutantOptions) })
	if img != nil {
		stats.Opened++
		tr.Step("Check", func() { img.Check(t.Context(), nil) })
		readMutant(tr, img, buf, random)
	}
	for _, repair := range []qed.RepairMode{0, qed.RepairErrors, qed.RepairAll} {
		f := memfile.FromBytes(b)
		tr.Step("OpenRW", func() { img, _ = qed.OpenRW(f, mutantOptions) })
		if img == nil {
			continue
		}
		clean := false
		tr.Step("repairing", func() {
			if repair == 0 {
				return
			}
			img.Check(t.Context(), &qed.CheckOptions{Repair: repair})
			res, err := img.Check(t.Context(), nil)
			clean = err == nil && res.Corruptions == 0
		})
		writeMutant(tr, img, buf, random)
		layersOfMutant(tr, img, clean, random)
		var err error
		tr.Step("Close", func() { err = img.Close() })
		if clean {
			stillClean(tr, f, err)
		}
	}
}

// stillClean holds an image that was clean before it was written to being so
// afterwards.
func stillClean(tr *mutant.Trial, f *memfile.File, closed error) {
	if closed != nil && !errors.Is(closed, qed.ErrLimit) {
		tr.Fail("after a repair that left nothing: %v", closed)
		return
	}
	img, err := qed.Open(f, mutantOptions)
	if err != nil {
		tr.Fail("after a repair that left nothing, and writes: %v", err)
		return
	}
	if err := noCorruption(img); err != nil {
		tr.Fail("after a repair that left nothing, and writes: %v", err)
	}
}

// readMutant reads up to 16 MiB in pieces spread over the disk.
func readMutant(tr *mutant.Trial, img *qed.Image, buf []byte, random *rand.Rand) {
	pieces := min(256, img.Size()/int64(len(buf))+1)
	if testing.Short() {
		pieces = min(pieces, 16)
	}
	tr.Step("reading", func() {
		for i := range pieces {
			img.ReadAt(buf, img.Size()/pieces*i+random.Int64N(4096))
		}
	})
	tr.Step("Extents", func() {
		n := 0
		for _, err := range img.Extents(0, img.Size()) {
			if n++; err != nil || n > 1000 {
				break
			}
		}
	})
}

// writeMutant does a few of all operations that change an image.
func writeMutant(tr *mutant.Trial, img *qed.Image, buf []byte, random *rand.Rand) {
	at := func() int64 { return random.Int64N(max(1, min(img.Size()-int64(len(buf)), 1<<uint(random.IntN(40))))) }
	tr.Step("writing", func() {
		for range 4 {
			img.WriteAt(buf[:1+random.IntN(len(buf))], at())
		}
		img.WriteZeroesAt(at(), 5000)
		img.Sync()
		img.Resize(img.Size() + 1<<20)
		img.WriteAt(buf, img.Size()-int64(len(buf)))
		img.Sync()
	})
}

// layersOfMutant commits the image to nowhere and puts it on other backing
// files. If it is clean its disk stays what it was.
func layersOfMutant(tr *mutant.Trial, img *qed.Image, clean bool, random *rand.Rand) {
	// Disks may be of any size.
	ctx, cancel := context.WithTimeout(tr.TB.Context(), 2*time.Second)
	defer cancel()
	start := func() []byte {
		b := make([]byte, 32<<10)
		n, err := img.ReadAt(b, 0)
		if err != nil && err != io.EOF {
			return nil
		}
		return b[:n]
	}
	tr.Step("Commit", func() { img.Commit(ctx, nowhere{img.Size()}, &qed.CommitOptions{Workers: 1}) })
	for _, name := range [][]string{{"other", ""}, {"", "other"}}[random.IntN(2)] {
		var was []byte
		var err error
		tr.Step("Rebase", func() {
			was = start()
			err = img.Rebase(ctx, name, "raw", &qed.RebaseOptions{Workers: 1})
		})
		if clean && was != nil && !bytes.Equal(start(), was) {
			tr.Fail("the disk after Rebase, which says %v, differs", err)
		}
		tr.Step("writing", func() { img.WriteAt([]byte("more"), random.Int64N(1<<20)) })
	}
	tr.Step("ChangeBacking", func() { img.ChangeBacking([]string{"", "third"}[random.IntN(2)], "raw") })
}

// nowhere takes what is written to it and reads as zeros.
type nowhere struct{ size int64 }

func (d nowhere) Size() int64 { return d.size }

func (d nowhere) WriteAt(p []byte, off int64) (int, error) { return len(p), nil }

func (d nowhere) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	return len(p), nil
}

// TestMutantsInQemu: what QEMU reads of a mutant is what is read here.
func TestMutantsInQemu(t *testing.T) {
	tool := difftest.Tool(t, "qemu-io", "7.2")
	random := rand.New(rand.NewPCG(difftest.Seed(t, 1), 10))
	good := mutableImage(t, qed.CreateOptions{ClusterSize: 4096, TableSize: 2})
	name := filepath.Join(t.TempDir(), "mutant.qed")
	same := 0
	for range difftest.Scale(t, 100) {
		b, what := mutant.Mutate(random, binary.LittleEndian, bytes.Clone(good), 4096, imageFields(good))
		img, err := qed.Open(bytes.NewReader(b), nil)
		if err != nil {
			continue
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"-r", "-f", "qed", name}
		for off := int64(0); off < min(img.Size(), 13<<20); off += 800 << 10 {
			args = append(args, "-c", fmt.Sprintf("read -v %d 512", off))
		}
		got := make([]byte, 512)
		for off, want := range difftest.HexDumps(difftest.Try(t, tool, args...).Stdout) {
			if _, err := img.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: at %d: %x…, %v; %x… in QEMU", what, off, got[:16], err, want[:16])
			}
			same++
		}
	}
	t.Logf("%d sectors compared", same)
}
