package qcow2_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/crashtest"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// bitmapDisk makes an image with an enabled bitmap "on" and a disabled one
// "off", closed.
func bitmapDisk(t *testing.T, size, cluster int64) *memfile.File {
	t.Helper()
	f := memfile.New()
	im, err := qcow2.Create(f, size, &qcow2.CreateOptions{ClusterSize: cluster})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		im.AddBitmap("on", &qcow2.BitmapOptions{Granularity: 512}),
		im.AddBitmap("off", &qcow2.BitmapOptions{Disabled: true}),
		im.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func reopen(t *testing.T, f *memfile.File) *qcow2.Image {
	t.Helper()
	im, err := qcow2.OpenRW(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// TestBitmapInUse: a bitmap that was not stored is known as such, and can only
// be removed; others are as they were.
func TestBitmapInUse(t *testing.T) {
	f := bitmapDisk(t, 1<<20, 4096)
	im := reopen(t, f)
	if _, err := im.WriteAt([]byte("x"), 5000); err != nil {
		t.Fatal(err)
	}
	if err := im.Sync(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]qcow2.Range{{Start: 4608, Length: 512}}, dirtyRanges(t, im, "on")); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	// The process ends here.
	im = reopen(t, memfile.FromBytes(f.Bytes()))
	list, err := im.Bitmaps()
	want := []qcow2.Bitmap{{Name: "on", Granularity: 512, Enabled: true, InUse: true}, {Name: "off", Granularity: 4096}}
	if diff := cmp.Diff(want, list); diff != "" || err != nil {
		t.Errorf("-want +got\n%s, %v", diff, err)
	}
	for what, err := range map[string]error{
		"clear":   im.ClearBitmap("on"),
		"enable":  im.EnableBitmap("on"),
		"disable": im.DisableBitmap("on"),
		"merge":   im.MergeBitmap(t.Context(), "off", im, "on"),
		"resize":  im.Resize(t.Context(), 2<<20, nil),
	} {
		if !errors.Is(err, qcow2.ErrBitmapInUse) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, err := range im.DirtyRanges("on") {
		if !errors.Is(err, qcow2.ErrBitmapInUse) {
			t.Errorf("ranges: %v", err)
		}
	}
	if _, err := im.WriteAt([]byte("y"), 0); err != nil {
		t.Error(err)
	}
	if err := im.RemoveBitmap("on"); err != nil {
		t.Error(err)
	}
	if err := im.RemoveBitmap("off"); err != nil {
		t.Error(err)
	}
	if _, ok := im.Header().Bitmaps(); ok {
		t.Error("the extension stays without a bitmap")
	}
	if res, err := im.Check(t.Context(), nil); err != nil || !res.Clean() {
		t.Errorf("%+v, %v", res, err)
	}
	if err := im.Close(); err != nil {
		t.Error(err)
	}
}

func TestBitmapErrors(t *testing.T) {
	im := reopen(t, bitmapDisk(t, 1<<20, 4096))
	defer im.Close()
	add := func(name string, granularity int64) error {
		return im.AddBitmap(name, &qcow2.BitmapOptions{Granularity: granularity})
	}
	for _, c := range []struct {
		what      string
		err, want error
	}{
		{"add again", add("on", 0), qcow2.ErrBitmapExists},
		{"no name", add("", 0), qcow2.ErrLimit},
		{"long name", add(string(make([]byte, 1024)), 0), qcow2.ErrLimit},
		{"granularity 256", add("a", 256), qcow2.ErrLimit},
		{"granularity 513", add("a", 513), qcow2.ErrLimit},
		{"granularity -1", add("a", -1), qcow2.ErrLimit},
		{"granularity 2^32", add("a", 1<<32), qcow2.ErrLimit},
		{"remove", im.RemoveBitmap("none"), qcow2.ErrNoBitmap},
		{"clear", im.ClearBitmap("none"), qcow2.ErrNoBitmap},
		{"merge from", im.MergeBitmap(t.Context(), "on", im, "none"), qcow2.ErrNoBitmap},
		{"merge to", im.MergeBitmap(t.Context(), "none", im, "on"), qcow2.ErrNoBitmap},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, c.err, c.want)
		}
	}
	old, err := qcow2.Create(memfile.New(), 1<<20, &qcow2.CreateOptions{Version: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := old.AddBitmap("a", nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("version 2: %v", err)
	}
	huge, err := qcow2.Create(memfile.New(), 1<<50, &qcow2.CreateOptions{ClusterSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer huge.Close()
	if err := huge.AddBitmap("a", nil); !errors.Is(err, qcow2.ErrLimit) {
		t.Errorf("a huge bitmap: %v", err)
	}
}

// TestBitmapExtra keeps what a directory entry holds that nobody knows, and
// bitmaps of an extension that does not count are not looked at.
func TestBitmapExtra(t *testing.T) {
	f := bitmapDisk(t, 1<<20, 4096)
	im := reopen(t, f)
	x, _ := im.Header().Bitmaps()
	im.Close()
	b := f.Bytes()
	dir := b[x.DirectoryOffset:]
	entry := bytes.Clone(dir[:32]) // that of "on"
	rest := bytes.Clone(dir[32:x.DirectorySize])
	binary.BigEndian.PutUint32(entry[12:], 2|4)
	binary.BigEndian.PutUint32(entry[20:], 8)
	grown := append(append(append(entry[:24:24], "whatever"...), entry[24:]...), rest...)
	copy(dir, grown)
	at := bytes.Index(b[:4096], []byte{0x23, 0x85, 0x28, 0x75})
	binary.BigEndian.PutUint64(b[at+16:], uint64(len(grown)))
	im = reopen(t, memfile.FromBytes(b))
	if _, err := im.WriteAt([]byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	if err := im.DisableBitmap("on"); err != nil {
		t.Fatal(err)
	}
	if x, ok := im.Header().Bitmaps(); !ok || x.DirectorySize != int64(len(grown)) {
		t.Errorf("%+v, %v", x, ok)
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint64(b[88:], 0)
	im = reopen(t, memfile.FromBytes(b))
	if list, err := im.Bitmaps(); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	im.Close()
}

// TestHostileBitmaps: what a directory or a table claims costs nothing, and is
// told.
func TestHostileBitmaps(t *testing.T) {
	base := bitmapDisk(t, 1<<20, 4096).Bytes()
	im, err := qcow2.Open(bytes.NewReader(base), nil)
	if err != nil {
		t.Fatal(err)
	}
	x, _ := im.Header().Bitmaps()
	dir := x.DirectoryOffset
	table := int64(binary.BigEndian.Uint64(base[dir:]))
	for _, c := range []struct {
		name string
		edit func(b []byte)
		err  error // nil: any
	}{
		{"a table at 0", func(b []byte) { clear(b[dir : dir+8]) }, nil},
		{"a table between clusters", func(b []byte) { b[dir+7] = 1 }, nil},
		{"a table past the end", func(b []byte) { b[dir+2] = 1 }, io.ErrUnexpectedEOF},
		{"a table of 2^32-1 entries", func(b []byte) { copy(b[dir+8:], "\xff\xff\xff\xff") }, io.ErrUnexpectedEOF},
		{"a table that is too short", func(b []byte) { clear(b[dir+8 : dir+12]) }, nil},
		{"a reserved flag", func(b []byte) { b[dir+15] |= 8 }, nil},
		{"another type", func(b []byte) { b[dir+16] = 2 }, errors.ErrUnsupported},
		{"granularity 2^0", func(b []byte) { b[dir+17] = 0 }, nil},
		{"granularity 2^63", func(b []byte) { b[dir+17] = 63 }, nil},
		{"no name", func(b []byte) { b[dir+19] = 0 }, nil},
		{"a name of 65535 bytes", func(b []byte) { b[dir+18], b[dir+19] = 255, 255 }, io.ErrUnexpectedEOF},
		{"extra data of 4 GiB", func(b []byte) { copy(b[dir+20:], "\xff\xff\xff\xff") }, io.ErrUnexpectedEOF},
		{"bits at an odd place", func(b []byte) { b[table+6] = 2 }, nil},
		{"bits past the end", func(b []byte) { b[table+2] = 1 }, nil},
		{"reserved bits of an entry", func(b []byte) { b[table] = 1 }, nil},
		{"a table that is the L1 table", func(b []byte) { copy(b[dir:dir+8], b[40:48]) }, nil},
		{"a table of two", func(b []byte) { copy(b[dir+32:dir+40], b[dir:]) }, nil},
		{"bits that are the refcount table", func(b []byte) { copy(b[table:table+8], b[48:56]) }, nil},
		{"bits that are the directory", func(b []byte) { binary.BigEndian.PutUint64(b[table:], uint64(dir)) }, nil},
		{"equal names", func(b []byte) {
			copy(b[dir+24:], "twice")
			b[dir+19], b[dir+32+19] = 3, 3
			copy(b[dir+32+24:], "twi")
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(base)
			c.edit(b)
			f := memfile.FromBytes(bytes.Clone(b))
			im, err := qcow2.OpenRW(f, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer im.Close()
			_, err = im.WriteAt([]byte("x"), 0)
			var format *qcow2.FormatError
			if !errors.As(err, &format) || c.err != nil && !errors.Is(err, c.err) {
				t.Errorf("%v, want %v", err, c.err)
			}
			if _, err := im.ReadAt(make([]byte, 4096), 0); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(f.Bytes(), b) {
				t.Error("the file was changed")
			}
		})
	}
}

// bitmapSteps returns n random steps on a disk and its bitmap "b".
func bitmapSteps(rng *rand.Rand, size int64, n int) []crashtest.Step[*qcow2.Image] {
	var steps []crashtest.Step[*qcow2.Image]
	durable := func(name string, f func(im *qcow2.Image) error) {
		steps = append(steps, crashtest.Step[*qcow2.Image]{Name: name, Durable: true, Do: f})
	}
	for len(steps) < n {
		switch rng.IntN(8) {
		case 0:
			name := fmt.Sprint("x", rng.IntN(3))
			durable("add "+name, func(im *qcow2.Image) error {
				err := im.AddBitmap(name, nil)
				if errors.Is(err, qcow2.ErrBitmapExists) {
					err = im.RemoveBitmap(name)
				}
				return err
			})
		case 1:
			durable("merge", func(im *qcow2.Image) error {
				err := im.MergeBitmap(context.Background(), "b", im, "other")
				if errors.Is(err, qcow2.ErrBitmapInUse) { // after a power cut
					return im.Sync()
				}
				return err
			})
		case 2:
			steps = append(steps, crashtest.Step[*qcow2.Image]{Name: "reopen", Durable: true, Reopen: true, Do: (*qcow2.Image).Close})
		default:
			steps = append(steps, randomSteps(rng, size, 1)...)
		}
	}
	return steps
}

// TestBitmapPowerCuts: whatever a power cut leaves, a bitmap that is not marked
// as in use tells of every change of the disk.
func TestBitmapPowerCuts(t *testing.T) {
	seed := difftest.Seed(t, 1)
	var stats crashtest.Stats
	for name := range crashKinds() {
		if name == "v2" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			start, o, size := crashStart(t, name)
			im, err := qcow2.OpenRW(start, o)
			if err != nil {
				t.Fatal(err)
			}
			base, err := readAll(im)
			for _, err := range []error{err, im.AddBitmap("b", &qcow2.BitmapOptions{Granularity: 512}),
				im.AddBitmap("other", &qcow2.BitmapOptions{Granularity: 4096}), im.Close()} {
				if err != nil {
					t.Fatal(err)
				}
			}
			format := crashFormat(o)
			after := format.After
			format.After = func(im *qcow2.Image) error { return errors.Join(after(im), tellsAll(im, base)) }
			rng := rand.New(rand.NewPCG(seed, 9))
			for range difftest.Scale(t, 10) {
				stats.Add(crashtest.PowerCuts(t, format, start, bitmapSteps(rng, size, 10), crashtest.Options{
					Seed: seed, Exhaustive: 3, Random: 3, Moments: 0.4,
				}))
			}
		})
	}
	t.Log(stats)
}

// tellsAll makes sure that the bitmap "b", if its content is known, tells of
// all in which the disk differs from base.
func tellsAll(im *qcow2.Image, base []byte) error {
	list, err := im.Bitmaps()
	if err != nil {
		return err
	}
	if len(list) < 2 || list[0].Name != "b" {
		return fmt.Errorf("bitmaps %v", list)
	}
	if list[0].InUse {
		return nil
	}
	now, err := readAll(im)
	if err != nil {
		return err
	}
	for r, err := range im.DirtyRanges("b") {
		if err != nil {
			return err
		}
		copy(now[r.Start:r.Start+r.Length], base[r.Start:])
	}
	if !bytes.Equal(now, base) {
		return fmt.Errorf("the bitmap does not tell of a change at %#x", differ(now, base))
	}
	return nil
}

// TestBitmapFaults: each operation on the file fails once.
func TestBitmapFaults(t *testing.T) {
	seed := difftest.Seed(t, 1)
	var stats crashtest.Stats
	for _, name := range []string{"512", "lazy", "extl2"} {
		t.Run(name, func(t *testing.T) {
			start, o, size := crashStart(t, name)
			im, err := qcow2.OpenRW(start, o)
			if err != nil {
				t.Fatal(err)
			}
			for _, err := range []error{im.AddBitmap("b", nil), im.AddBitmap("other", nil), im.Close()} {
				if err != nil {
					t.Fatal(err)
				}
			}
			rng := rand.New(rand.NewPCG(seed, 10))
			for range difftest.Scale(t, 5) {
				stats.Add(crashtest.Faults(t, crashFormat(o), start, alone(bitmapSteps(rng, size, 8)), 3, crashtest.Options{Seed: seed, Random: 2}))
			}
		})
	}
	t.Log(stats)
}
