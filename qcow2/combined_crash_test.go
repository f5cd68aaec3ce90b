package qcow2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/crashtest"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// combinedStart makes an image with content, a snapshot "s0" and the bitmaps
// "b" and "other", closed.
func combinedStart(t *testing.T, name string) (start *memfile.File, o *qcow2.Options, size int64, s0 []byte) {
	t.Helper()
	if strings.HasPrefix(name, "luks") {
		size = 128 << 10
		c := luksOptions(4096)
		if name == "luks-extl2" {
			c = luksOptions(16 << 10)
			c.ExtendedL2 = true
		}
		f, im := createEncrypted(t, size, c)
		content := bytes.Repeat([]byte("before it"), 5000)
		if _, err := im.WriteAt(content, 3000); err != nil {
			t.Fatal(err)
		}
		if _, err := im.CreateSnapshot(t.Context(), "s0", nil); err != nil {
			t.Fatal(err)
		}
		b, err := readAll(im)
		if err := errors.Join(err, im.Close()); err != nil {
			t.Fatal(err)
		}
		start, o, s0 = f, passphrase("secret"), b
	} else {
		start, o, size, s0 = snapshotStart(t, name)
	}
	im, err := qcow2.OpenRW(start, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(im.AddBitmap("b", &qcow2.BitmapOptions{Granularity: 512}),
		im.AddBitmap("other", &qcow2.BitmapOptions{Granularity: 4096}), im.Close()); err != nil {
		t.Fatal(err)
	}
	return start, o, size, s0
}

// combinedSteps returns steps that concern snapshots, bitmaps and the size,
// among writes to the first half of the disk.
func combinedSteps(l *snapLog, rng *rand.Rand, size int64, n int) []crashtest.Step[*qcow2.Image] {
	steps := append(l.snapshotSteps(rng, size, n, false), bitmapSteps(rng, size/2, n/2)...)
	// No snapshot can be applied to a disk with bitmaps.
	// And none of its clusters, if they are encrypted, be compressed.
	steps = slices.DeleteFunc(steps, func(s crashtest.Step[*qcow2.Image]) bool {
		return strings.HasPrefix(s.Name, "apply") || strings.HasPrefix(s.Name, "compress")
	})
	rng.Shuffle(len(steps), func(i, j int) {
		// What comes of a snapshot that was not taken is nothing.
		if !strings.HasPrefix(steps[i].Name, "delete") && !strings.HasPrefix(steps[j].Name, "delete") &&
			!strings.HasPrefix(steps[i].Name, "create") && !strings.HasPrefix(steps[j].Name, "create") {
			steps[i], steps[j] = steps[j], steps[i]
		}
	})
	return steps
}

// TestCombinedPowerCuts: snapshots, bitmaps, the size and what is written
// change in one sequence, also with encryption and with subclusters. Whatever a
// power cut leaves, all of them are sound.
func TestCombinedPowerCuts(t *testing.T) {
	seed := difftest.Seed(t, 1)
	var stats crashtest.Stats
	names := append(slices.Sorted(maps.Keys(crashKinds())), "luks", "luks-extl2")
	for _, name := range names {
		if name == "v2" { // it has no bitmaps
			continue
		}
		t.Run(name, func(t *testing.T) {
			start, o, size, s0 := combinedStart(t, name)
			im, err := qcow2.Open(start, o)
			if err != nil {
				t.Fatal(err)
			}
			base, err := readAll(im)
			if err := errors.Join(err, im.Close()); err != nil {
				t.Fatal(err)
			}
			rng := rand.New(rand.NewPCG(seed, 11))
			for range difftest.Scale(t, 3) {
				l := &snapLog{kept: map[string][]byte{"s0": s0}}
				fm := l.format(o)
				fm.After = func(im *qcow2.Image) error {
					return errors.Join(l.judge(im), tellsOf(im, base[:size/2]))
				}
				stats.Add(crashtest.PowerCuts(t, fm, start, combinedSteps(l, rng, size, 9), crashtest.Options{
					Seed: seed, Exhaustive: 2, Random: 2, Moments: 0.3,
				}))
			}
		})
	}
	t.Log(stats)
}

// tellsOf makes sure that the bitmap "b", if its content is known, tells of all
// in which the start of the disk differs from base.
func tellsOf(im *qcow2.Image, base []byte) error {
	list, err := im.Bitmaps()
	if err != nil || len(list) == 0 || list[0].Name != "b" {
		return fmt.Errorf("bitmaps %v, %w", list, err)
	}
	if list[0].InUse {
		return nil
	}
	now := make([]byte, len(base))
	if _, err := im.ReadAt(now, 0); err != nil {
		return err
	}
	for r, err := range im.DirtyRanges("b") {
		if err != nil {
			return err
		}
		if r.Start < int64(len(base)) {
			copy(now[r.Start:min(r.Start+r.Length, int64(len(base)))], base[r.Start:])
		}
	}
	if !bytes.Equal(now, base) {
		return fmt.Errorf("the bitmap does not tell of a change at %#x", differ(now, base))
	}
	return nil
}

// TestPowerCutsOverFirstTable: an L2 table that is all that is added to the
// file is there, if only as a place, before an L1 entry points to it.
func TestPowerCutsOverFirstTable(t *testing.T) {
	for name, o := range map[string]qcow2.CreateOptions{
		"512": {ClusterSize: 512}, "4k": {ClusterSize: 4096}, "64k": {}, "lazy": {LazyRefcounts: true}, "extl2": {ExtendedL2: true},
	} {
		t.Run(name, func(t *testing.T) {
			start := memfile.New()
			im, err := qcow2.Create(start, 128<<10, &o)
			if err := errors.Join(err, im.Close()); err != nil {
				t.Fatal(err)
			}
			zero := crashtest.Step[*qcow2.Image]{Name: "zero", Do: func(im *qcow2.Image) error { return im.WriteZeroesAt(0, 128<<10) }}
			crashtest.PowerCuts(t, crashFormat(nil), start, []crashtest.Step[*qcow2.Image]{zero, stepSync}, crashtest.Options{Seed: 1, Exhaustive: 10, Random: 10})
		})
	}
}

// imagesWithDataFile returns options of images whose guest data is in another file.
func imagesWithDataFile() map[string]qcow2.CreateOptions {
	return map[string]qcow2.CreateOptions{
		"data":       {ClusterSize: 512},
		"data-lazy":  {ClusterSize: 4096, LazyRefcounts: true},
		"data-extl2": {ClusterSize: 16 << 10, ExtendedL2: true},
		"data-raw":   {ClusterSize: 4096, DataFileRaw: true},
	}
}

// TestPowerCutsOverDataFile cuts the power of an image and its data file at
// once, each of which is synced on its own. A sector holds what it held at the
// last Sync, or something that was written to it since.
func TestPowerCutsOverDataFile(t *testing.T) {
	seed := difftest.Seed(t, 1)
	var stats crashtest.Stats
	for name, o := range imagesWithDataFile() {
		t.Run(name, func(t *testing.T) {
			const size = 128 << 10
			f, data := memfile.New(), memfile.New()
			o.Data, o.DataFile = data, "d"
			im, err := qcow2.Create(f, size, &o)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(im.AddBitmap("b", nil), im.Close()); err != nil {
				t.Fatal(err)
			}
			rng := rand.New(rand.NewPCG(seed, 12))
			held := make([]byte, size/512) // what each sector is full of
			for range difftest.Scale(t, 6) {
				allowed := make([][]byte, len(held))
				for i, b := range held {
					allowed[i] = []byte{b}
				}
				files := crashtest.NewTogether(f.Clone(), data.Clone())
				dataFileRound(t, files, rng, held, allowed)
				stats.Add(files.PowerCuts(t, crashtest.Options{Seed: seed, Random: 3, Moments: 0.5}, func(s []*memfile.File) error {
					return judgeDataFile(s, allowed)
				}))
				f, data = files.File(0).Clone(), files.File(1).Clone()
			}
		})
	}
	t.Log(stats)
}

// dataFileOptions opens an image whose data file is d.
func dataFileOptions(d qcow2.File) *qcow2.Options {
	return &qcow2.Options{OpenData: func(string, bool) (qcow2.File, error) { return d, nil }}
}

// dataFileRound changes sectors and takes down what each held.
func dataFileRound(t *testing.T, files *crashtest.Together, rng *rand.Rand, held []byte, allowed [][]byte) {
	t.Helper()
	im, err := qcow2.OpenRW(files.File(0), dataFileOptions(files.File(1)))
	if err != nil {
		t.Fatal(err)
	}
	for range 12 {
		first := rng.IntN(len(held))
		n := min(1+rng.IntN(40), len(held)-first)
		off, length := int64(first)*512, int64(n)*512
		fill := byte(0)
		var err error
		switch rng.IntN(6) {
		case 0:
			err = im.WriteZeroesAt(off, length)
		case 1:
			err = im.UnmapAt(off, length)
		case 2:
			err = im.Sync()
			n = 0
		default:
			fill = byte(1 + rng.IntN(255))
			_, err = im.WriteAt(bytes.Repeat([]byte{fill}, int(length)), off)
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := first; i < first+n; i++ {
			held[i] = fill
			allowed[i] = append(allowed[i], fill)
		}
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
}

// judgeDataFile opens what a power cut left.
func judgeDataFile(files []*memfile.File, allowed [][]byte) error {
	im, err := qcow2.OpenRW(files[0], dataFileOptions(files[1]))
	if err != nil {
		return err
	}
	defer im.Close()
	res, err := im.Check(context.Background(), nil)
	if err != nil {
		return err
	}
	if err := onlyLeaks(res); err != nil {
		return err
	}
	b, err := readAll(im)
	if err != nil {
		return err
	}
	for i, may := range allowed {
		s := b[i*512:][:512]
		if !slices.Contains(may, s[0]) || !bytes.Equal(s, bytes.Repeat(s[:1], 512)) {
			return fmt.Errorf("sector %d holds %x…, not one of %x", i, s[:4], may)
		}
	}
	return nil
}
