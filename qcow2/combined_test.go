package qcow2_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// combinedKinds are images on which every feature meets every other that it
// can be with.
func combinedKinds() map[string]struct {
	base int
	o    qcow2.CreateOptions
} {
	luks, aes := luksOptions(4096), aesOptions(512)
	luks.LazyRefcounts = true
	extended := luksOptions(16 << 10)
	extended.ExtendedL2 = true
	return map[string]struct {
		base int
		o    qcow2.CreateOptions
	}{
		"luks-lazy":       {100 << 10, *luks},
		"luks-extl2":      {0, *extended},
		"aes":             {70 << 10, *aes},
		"512-1bit":        {150 << 10, qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 1}},
		"512-64bit":       {0, qcow2.CreateOptions{ClusterSize: 512, RefcountBits: 64}},
		"4k-lazy-zstd":    {300 << 10, qcow2.CreateOptions{ClusterSize: 4096, LazyRefcounts: true, CompressionType: qcow2.CompressionZstd}},
		"extl2-lazy":      {200 << 10, qcow2.CreateOptions{ClusterSize: 16 << 10, ExtendedL2: true, LazyRefcounts: true}},
		"data":            {100 << 10, qcow2.CreateOptions{ClusterSize: 4096, DataFile: "d"}},
		"data-extl2-lazy": {0, qcow2.CreateOptions{ClusterSize: 16 << 10, ExtendedL2: true, DataFile: "d", LazyRefcounts: true}},
		"data-raw":        {0, qcow2.CreateOptions{ClusterSize: 4096, DataFile: "d", DataFileRaw: true}},
	}
}

// A combined image is a disk with bitmaps, snapshots, backing files that
// change, and passphrases.
type combined struct {
	*disk
	next    int
	bases   map[string]*memfile.File
	since   map[string][]byte // what the disk held when a bitmap had no bits
	on      map[string]bool   // bitmaps that have always been enabled
	kept    map[string][]byte // what snapshots hold
	private bool              // encrypted
	log     []string
}

func newCombined(t *testing.T, name string, seed uint64) *combined {
	t.Helper()
	k := combinedKinds()[name]
	d := newDisk(t, 256<<10, k.base, k.o, seed)
	c := &combined{
		disk: d, bases: map[string]*memfile.File{"base.raw": memfile.FromBytes(d.base)},
		since: map[string][]byte{}, on: map[string]bool{}, kept: map[string][]byte{}, private: k.o.Encrypt != nil,
	}
	d.opts.OpenBacking = func(name, _ string) (qcow2.Disk, error) { return qcow2.Raw(c.bases[name], c.bases[name].Size()), nil }
	if c.private {
		d.opts.Passphrase = func() ([]byte, error) { return []byte("secret"), nil }
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("last steps: %q", c.log[max(0, len(c.log)-25):])
		}
	})
	c.disk.reopen()
	return c
}

// may passes over what cannot be done with an image of this kind.
func (c *combined) may(err error) bool {
	c.t.Helper()
	if err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, qcow2.ErrLimit) {
		c.t.Fatal(err)
	}
	return err == nil
}

// one returns one of the names of a map, or none.
func one[V any](c *combined, m map[string]V) string {
	names := slices.Sorted(maps.Keys(m))
	if len(names) == 0 {
		return ""
	}
	return names[c.rng.IntN(len(names))]
}

func (c *combined) step() {
	c.t.Helper()
	c.next++
	ctx, im := c.t.Context(), c.im
	name := fmt.Sprint("n", c.next)
	b, s := one(c, c.since), one(c, c.kept)
	note := func(format string, args ...any) { c.log = append(c.log, fmt.Sprintf(format, args...)) }
	switch k := c.rng.IntN(34); {
	case k == 0 && len(c.since) < 4:
		g := int64(512) << c.rng.IntN(8)
		note("add %s %d", name, g)
		if c.may(im.AddBitmap(name, &qcow2.BitmapOptions{Granularity: g, Disabled: c.rng.IntN(4) == 0})) {
			list, err := im.Bitmaps()
			c.may(err)
			c.on[name] = list[len(list)-1].Enabled
			c.since[name] = bytes.Clone(c.want)
		}
	case k == 1 && b != "":
		note("remove %s", b)
		c.may(im.RemoveBitmap(b))
		delete(c.since, b)
	case k == 2 && b != "":
		note("clear %s", b)
		c.may(im.ClearBitmap(b))
		c.since[b] = bytes.Clone(c.want)
	case k == 3 && b != "":
		other := one(c, c.since)
		note("merge %s %s", b, other)
		c.may(im.MergeBitmap(ctx, b, im, other))
	case k == 4 && b != "":
		note("disable and enable %s", b)
		c.may(im.DisableBitmap(b))
		c.may(im.EnableBitmap(b))
	case k < 7 && len(c.kept) < 4:
		note("snapshot %s", name)
		if _, err := im.CreateSnapshot(ctx, name, nil); c.may(err) {
			c.kept[name] = bytes.Clone(c.want)
		}
	case k == 7 && s != "":
		note("delete %s", s)
		c.may(im.DeleteSnapshot(ctx, s))
		delete(c.kept, s)
	case k == 8 && s != "" && len(c.since) == 0:
		note("apply %s", s)
		if c.may(im.ApplySnapshot(ctx, s)) {
			c.want = bytes.Clone(c.kept[s])
		}
	case k < 11:
		c.resize(128 + c.rng.IntN(512))
	case k == 11:
		c.rebase(name)
	case k == 12 && im.Backing() != nil && len(c.kept) == 0:
		note("commit")
		c.may(im.Commit(ctx, c.bases[im.Header().BackingFile], nil))
		c.disk.reopen()
	case k == 13:
		o := &qcow2.AmendOptions{RefcountBits: 1 << c.rng.IntN(7)}
		if c.rng.IntN(2) == 0 {
			lazy := c.rng.IntN(2) == 0
			o = &qcow2.AmendOptions{LazyRefcounts: &lazy}
		}
		note("amend %+v", o)
		c.may(im.Amend(ctx, o))
	case k == 14 && c.private:
		note("passphrases")
		key := cheap()
		if _, err := im.AddPassphrase(ctx, []byte("secret"), []byte("other"), qcow2.AnySlot, &key); c.may(err) {
			_, err := im.RemovePassphrase(ctx, []byte("other"))
			c.may(err)
		}
	case k == 15:
		note("repair")
		c.may(im.Close())
		res, err := qcow2.Repair(ctx, c.f, qcow2.RepairAll, nil)
		if err != nil || !res.Clean() {
			c.t.Fatalf("%+v, %v", res, err)
		}
		c.im, err = qcow2.OpenRW(c.f, &c.opts)
		c.may(err)
	default:
		note("%s", c.disk.step())
	}
}

// resize gives the disk so many sectors.
func (c *combined) resize(sectors int) {
	c.t.Helper()
	size := sectors * 512
	o := &qcow2.ResizeOptions{Shrink: true}
	if size > len(c.want) {
		o.Preallocation = qcow2.Preallocation(c.rng.IntN(4))
	}
	c.log = append(c.log, fmt.Sprintf("resize %d %v", size, o.Preallocation))
	if !c.may(c.im.Resize(c.t.Context(), int64(size), o)) {
		return
	}
	fit := func(b []byte) []byte {
		if size < len(b) {
			return bytes.Clone(b[:size])
		}
		return append(bytes.Clone(b), make([]byte, size-len(b))...)
	}
	c.want = fit(c.want)
	for name := range c.since {
		c.since[name] = fit(c.since[name])
	}
}

// rebase puts the image on another backing file, or on none.
func (c *combined) rebase(name string) {
	c.t.Helper()
	format := "raw"
	if c.rng.IntN(3) == 0 {
		name, format = "", ""
	} else {
		b := make([]byte, (1+c.rng.IntN(400))*512)
		for i := range b {
			b[i] = byte(i>>10) * byte(c.next)
		}
		c.bases[name] = memfile.FromBytes(b)
	}
	if len(c.kept) > 0 {
		return // what snapshots show of the backing file would change
	}
	c.log = append(c.log, "rebase to "+name)
	if c.may(c.im.Rebase(c.t.Context(), name, format, nil)) {
		c.disk.reopen() // it has the new one
	}
}

// judge compares everything with what it must be.
func (c *combined) judge() {
	c.t.Helper()
	c.verify()
	for name, want := range c.kept {
		d, err := c.im.OpenSnapshot(name)
		if err != nil {
			c.t.Fatal(err)
		}
		if got, err := readAll(d); err != nil || !bytes.Equal(got, want) {
			c.t.Fatalf("snapshot %s differs at %d, %v", name, differ(got, want), err)
		}
		d.Close()
	}
	for name, was := range c.since {
		if !c.on[name] {
			continue
		}
		now := bytes.Clone(c.want)
		for _, r := range dirtyRanges(c.t, c.im, name) {
			copy(now[r.Start:r.Start+r.Length], was[r.Start:])
		}
		if i := differ(now, was); i >= 0 {
			c.t.Fatalf("bitmap %s does not tell of byte %d", name, i)
		}
	}
}

// TestCombined: whatever follows whatever, no feature spoils another.
func TestCombined(t *testing.T) {
	seed := difftest.Seed(t, 1)
	for name := range combinedKinds() {
		t.Run(name, func(t *testing.T) {
			c := newCombined(t, name, seed)
			for i := range difftest.Scale(t, 150) {
				if c.step(); i%7 == 0 {
					c.judge()
				}
			}
			c.judge()
			c.disk.reopen()
			c.judge()
			c.may(c.im.Close())
		})
	}
}

// TestCombinedInQemu: qemu-img finds no error in the same images, reads the
// same, and qemu-nbd tells the same of their bitmaps.
func TestCombinedInQemu(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	seed := difftest.Seed(t, 2)
	for name := range combinedKinds() {
		t.Run(name, func(t *testing.T) {
			t.Chdir(difftest.FastDir(t))
			c := newCombined(t, name, seed)
			for range difftest.Scale(t, 2) {
				for range 40 {
					c.step()
				}
				c.disk.reopen()
				c.inQemu(img)
			}
			c.may(c.im.Close())
		})
	}
}

// inQemu judges a copy of the image, which has just been opened.
func (c *combined) inQemu(img string) {
	t := c.t
	t.Helper()
	f := c.f.Clone()
	im, err := qcow2.OpenRW(f, &c.opts)
	if err != nil {
		t.Fatal(err)
	}
	bits := map[string][]qcow2.Range{}
	for name := range c.since { // QEMU exports what no longer changes
		c.may(im.DisableBitmap(name))
		bits[name] = dirtyRanges(t, im, name)
	}
	h := im.Header()
	c.may(im.Close())
	writeFile(t, "x.qcow2", f.Bytes())
	if h.BackingFile != "" {
		writeFile(t, h.BackingFile, c.bases[h.BackingFile].Bytes())
	}
	if c.opts.OpenData != nil {
		data, err := c.opts.OpenData("d", false)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, "d", data.(*memfile.File).Bytes())
	}
	args := []string{"-f", "qcow2", "x.qcow2"}
	if c.private {
		args = encrypted("x.qcow2", "secret")
	}
	if r := difftest.Try(t, img, append([]string{"check"}, args...)...); r.Code != 0 {
		t.Fatalf("qemu-img check: %s%s", r.Stdout, r.Stderr)
	}
	convert := append(append([]string{"convert", "-O", "raw"}, args...), "x.raw")
	difftest.Run(t, img, convert...)
	got, err := os.ReadFile("x.raw")
	if err != nil {
		t.Fatal(err)
	}
	if i := differ(got, c.want); i >= 0 {
		t.Fatalf("qemu-img reads something else at %d", i)
	}
	for name, want := range bits {
		theirs := exportedBitmap(t, name, int64(len(c.want)), args...)
		if diff := cmp.Diff(want, theirs); diff != "" {
			t.Fatalf("bitmap %s (-here +QEMU)\n%s", name, diff)
		}
	}
	var info struct {
		Size     int64 `json:"virtual-size"`
		Specific struct {
			Data struct {
				Bitmaps []struct {
					Name        string
					Granularity int64
				}
			}
		} `json:"format-specific"`
		Snapshots []struct{ Name string }
	}
	unmarshal(t, difftest.Run(t, img, append([]string{"info", "--output=json"}, args...)...), &info)
	if info.Size != int64(len(c.want)) || len(info.Specific.Data.Bitmaps) != len(c.since) || len(info.Snapshots) != len(c.kept) {
		t.Fatalf("qemu-img info: %+v", info)
	}
}
