package qed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/crashtest"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qed"
)

type step = crashtest.Step[*qed.Image]

func writeStep(off, n int64, fill byte) step {
	return step{Name: fmt.Sprintf("write %d bytes at %#x", n, off), Do: func(img *qed.Image) error {
		_, err := img.WriteAt(bytes.Repeat([]byte{fill}, int(n)), off)
		return err
	}}
}

func zeroStep(off, n int64) step {
	return step{Name: fmt.Sprintf("zero %d bytes at %#x", n, off), Do: func(img *qed.Image) error {
		return img.WriteZeroesAt(off, n)
	}}
}

var (
	syncStep   = step{Name: "sync", Do: (*qed.Image).Sync, Durable: true}
	reopenStep = step{Name: "close", Do: (*qed.Image).Close, Durable: true, Reopen: true}
)

// A crashCase is an image and a way to open it.
type crashCase struct {
	name  string
	file  *memfile.File
	opts  *qed.Options
	raw   bool // qemu-img can judge its states on their own
	steps []step
}

func crashCases(t *testing.T) []crashCase {
	t.Helper()
	const size = 256 << 10
	create := func(o *qed.CreateOptions) *memfile.File {
		f := memfile.New()
		if _, err := qed.Create(f, size, o); err != nil {
			t.Fatal(err)
		}
		return f
	}
	base := make(bytesDisk, 100<<10)
	rand.NewChaCha8([32]byte{9}).Read(base)
	overlay := &qed.Options{OpenBacking: func(string, string) (qed.Disk, error) { return base, nil }, BackingFormat: "raw"}
	used := create(&qed.CreateOptions{ClusterSize: 4096, TableSize: 2})
	img, err := qed.OpenRW(used, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.WriteAt(bytes.Repeat([]byte{0xee}, 30000), 0); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	used.WriteAt([]byte("what lies after the last cluster"), used.Size())
	allocating := []step{
		writeStep(0, 512, 1), writeStep(4096, 4096, 2), syncStep, writeStep(512, 1024, 3), zeroStep(8192, 8192), syncStep,
		writeStep(8192+512, 512, 4), writeStep(60<<10, 9000-9000%512, 5), reopenStep, zeroStep(0, 4096), writeStep(128<<10, 512, 6),
		zeroStep(512, 20480), syncStep, writeStep(200<<10, 4096, 7),
	}
	resizing := append([]step{
		{Name: "resize", Do: func(img *qed.Image) error { return img.Resize(size + 8192) }, Durable: true},
		writeStep(size, 4096, 8),
	}, allocating...)
	rename := func(name string) step {
		return step{Name: "change backing", Do: func(img *qed.Image) error { return img.ChangeBacking(name, "raw") }, Durable: true}
	}
	long := func(c string) string { return string(bytes.Repeat([]byte(c), 600)) }
	renaming := []step{
		writeStep(0, 512, 1), rename(long("a")), writeStep(4096, 512, 2), rename(long("b")), rename("short"), rename(long("c")),
		writeStep(8192, 512, 3), rename("short again"), reopenStep,
	}
	return []crashCase{
		{"new image", create(&qed.CreateOptions{ClusterSize: 4096, TableSize: 2}), nil, true, allocating},
		{"used image", used, nil, true, allocating},
		{"resize", used, nil, true, resizing},
		{"overlay", create(&qed.CreateOptions{ClusterSize: 4096, TableSize: 2, BackingFile: "b", BackingFormat: "raw"}), overlay, false, allocating},
		{"change backing", create(&qed.CreateOptions{ClusterSize: 4096, TableSize: 2, BackingFile: "b", BackingFormat: "raw"}), overlay, false, renaming},
	}
}

func crashFormat(c *crashCase) crashtest.Format[*qed.Image] {
	return crashtest.Format[*qed.Image]{
		Open: func(f *memfile.File) (*qed.Image, error) { return qed.OpenRW(f, c.opts) },
		// Read-only first: what is there must be right without a repair.
		Before: func(f *memfile.File) error {
			img, err := qed.Open(f, c.opts)
			if err != nil {
				return err
			}
			return noCorruption(img)
		},
		After: noCorruption,
	}
}

func noCorruption(img *qed.Image) error {
	res, err := img.Check(context.Background(), nil)
	if err == nil && res.Corruptions != 0 {
		err = fmt.Errorf("check: %v", res.Findings)
	}
	return err
}

func TestPowerCuts(t *testing.T) {
	var total crashtest.Stats
	for _, c := range crashCases(t) {
		t.Run(c.name, func(t *testing.T) {
			o := crashtest.Options{Seed: difftest.Seed(t, 5), Exhaustive: 6, Random: difftest.Scale(t, 40)}
			if testing.Short() {
				o.Exhaustive = 3
			}
			s := crashtest.PowerCuts(t, crashFormat(&c), c.file, c.steps, o)
			t.Log(s)
			total.Add(s)
		})
	}
	t.Logf("in all: %v", total)
}

// TestPowerCutsByQemu has qemu-img judge some of the states, repairing where
// the image asks for it.
func TestPowerCutsByQemu(t *testing.T) {
	tool := difftest.Tool(t, "qemu-img", "7.2")
	name := filepath.Join(t.TempDir(), "state.qed")
	judged := 0
	for _, c := range crashCases(t) {
		if !c.raw {
			continue
		}
		o := crashtest.Options{Seed: difftest.Seed(t, 6), Random: 10, SampleShare: 0.05}
		o.Sample = func(what string, f *memfile.File) {
			if err := os.WriteFile(name, f.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			judged++
			if v := qemuCheck(t, tool, name); v.Errors != 0 || v.Corruptions != 0 {
				t.Errorf("%s, %s: qemu-img check: %+v", c.name, what, v)
			}
		}
		crashtest.PowerCuts(t, crashFormat(&c), c.file, c.steps, o)
	}
	if judged < 10 {
		t.Errorf("only %d states were judged", judged)
	}
}

func TestFaults(t *testing.T) {
	var total crashtest.Stats
	for _, c := range crashCases(t) {
		t.Run(c.name, func(t *testing.T) {
			stride := max(1, 100/difftest.Scale(t, 200))
			o := crashtest.Options{Seed: difftest.Seed(t, 7), Random: 3}
			s := crashtest.Faults(t, crashFormat(&c), c.file, c.steps, stride, o)
			t.Log(s)
			total.Add(s)
		})
	}
	t.Logf("in all: %v", total)
}

// TestFailedSyncIsNeverForgotten: after an error of a write-back every later
// Sync, write and Close fails, and tells the first error.
func TestFailedSyncIsNeverForgotten(t *testing.T) {
	f := memfile.New()
	img, err := qed.Create(f, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("data"), 0); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	f.Fault = memfile.FailNth(0, boom, func(op memfile.Op) bool { return op.Kind == memfile.Sync })
	if err := img.Sync(); !errors.Is(err, boom) {
		t.Fatalf("Sync: %v", err)
	}
	if err := img.Sync(); !errors.Is(err, boom) || !errors.Is(err, qed.ErrReadOnly) {
		t.Errorf("second Sync: %v", err)
	}
	if _, err := img.WriteAt([]byte("more"), 0); !errors.Is(err, boom) {
		t.Errorf("WriteAt: %v", err)
	}
	got := make([]byte, 4)
	if _, err := img.ReadAt(got, 0); err != nil || string(got) != "data" {
		t.Errorf("ReadAt: %q, %v", got, err)
	}
	if err := img.Close(); !errors.Is(err, boom) {
		t.Errorf("Close: %v", err)
	}
}
