package qcow2_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/crashtest"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

var on, off = true, false

// amendments are changes of the format, with what qemu-img calls them.
func amendments() map[string]*qcow2.AmendOptions {
	m := map[string]*qcow2.AmendOptions{
		"compat=0.10":       {Version: 2},
		"compat=1.1":        {Version: 3},
		"lazy_refcounts=on": {LazyRefcounts: &on},
		"compat=1.1,lazy_refcounts=on,refcount_bits=8": {Version: 3, LazyRefcounts: &on, RefcountBits: 8},
		"compat=0.10,refcount_bits=16":                 {Version: 2, RefcountBits: 16},
		"lazy_refcounts=off":                           {LazyRefcounts: &off},
	}
	for _, n := range []int{1, 2, 4, 8, 16, 32, 64} {
		m[fmt.Sprintf("refcount_bits=%d", n)] = &qcow2.AmendOptions{RefcountBits: n}
	}
	return m
}

// TestAmend changes the format again and again, with writes in between.
func TestAmend(t *testing.T) {
	seed := difftest.Seed(t, 1)
	for name, k := range crashKinds() {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			d := newDisk(t, k.size, k.base, k.o, seed)
			for range difftest.Scale(t, 12) {
				for range 15 {
					d.step()
				}
				a := &qcow2.AmendOptions{Version: 2 + rng.IntN(2)}
				if k.base > 0 {
					a.Version = 3 // the steps discard, which version 2 refuses
				}
				if a.Version == 3 {
					lazy := rng.IntN(2) == 0
					a.RefcountBits, a.LazyRefcounts = 1<<rng.IntN(7), &lazy
				} else {
					a.RefcountBits = 16
				}
				err := d.im.Amend(t.Context(), a)
				if err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, qcow2.ErrLimit) {
					t.Fatalf("%+v: %v", a, err)
				}
				h := d.im.Header()
				if err == nil && (h.Version != uint32(a.Version) || h.RefcountBits() != a.RefcountBits) {
					t.Fatalf("%+v: version %d, %d bits", a, h.Version, h.RefcountBits())
				}
				d.verify()
				d.reopen()
				checkClean(t, d.f)
			}
		})
	}
}

// TestAmendDataFile gives the external data file another name and then none, and
// makes it no raw image any more.
func TestAmendDataFile(t *testing.T) {
	f, data := memfile.New(), memfile.New()
	im, err := qcow2.Create(f, 1<<20, &qcow2.CreateOptions{DataFile: "d", Data: data, DataFileRaw: true})
	if err != nil {
		t.Fatal(err)
	}
	name, none, long := "another name", "", strings.Repeat("x", 1<<16)
	amend := func(o qcow2.AmendOptions, want string, raw bool) {
		t.Helper()
		if err := im.Amend(t.Context(), &o); err != nil {
			t.Fatal(err)
		}
		if _, err := im.WriteAt([]byte(want+"."), 70000); err != nil {
			t.Fatal(err)
		}
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		if im, err = qcow2.OpenRW(f, dataFileOptions(data)); err != nil {
			t.Fatal(err)
		}
		h, p := im.Header(), make([]byte, len(want)+1)
		if _, err := im.ReadAt(p, 70000); err != nil || string(p) != want+"." {
			t.Errorf("%q, %v", p, err)
		}
		if h.DataFile() != want || h.AutoclearFeatures&qcow2.AutoclearRawExternal != 0 != raw {
			t.Errorf("data file %q, features %#x", h.DataFile(), h.AutoclearFeatures)
		}
		checkClean(t, f)
	}
	amend(qcow2.AmendOptions{DataFileRaw: &on}, "d", true)
	amend(qcow2.AmendOptions{DataFile: &name}, name, true)
	amend(qcow2.AmendOptions{DataFile: &none, DataFileRaw: &off, LazyRefcounts: &on}, "", false)
	amend(qcow2.AmendOptions{DataFile: &name}, name, false)
	if err := im.Amend(t.Context(), &qcow2.AmendOptions{DataFileRaw: &on}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("raw again: %v", err)
	}
	if err := im.Amend(t.Context(), &qcow2.AmendOptions{DataFile: &long}); err == nil || im.Header().DataFile() != name {
		t.Errorf("a name longer than a cluster: %v", err)
	}
}

// TestAmendRefuses: what an image cannot become is refused, and nothing
// changes.
func TestAmendRefuses(t *testing.T) {
	make := func(o *qcow2.CreateOptions) *qcow2.Image {
		im, err := qcow2.Create(memfile.New(), 1<<20, o)
		if err != nil {
			t.Fatal(err)
		}
		return im
	}
	shared := make(nil)
	for _, name := range []string{"a", "b"} {
		if _, err := shared.WriteAt([]byte{1}, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := shared.CreateSnapshot(t.Context(), name, nil); err != nil {
			t.Fatal(err)
		}
	}
	marked := make(nil)
	if err := marked.AddBitmap("b", nil); err != nil {
		t.Fatal(err)
	}
	zeros := make(nil)
	if err := zeros.WriteZeroesAt(0, 65536); err != nil {
		t.Fatal(err)
	}
	if _, err := zeros.CreateSnapshot(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		im   *qcow2.Image
		a    qcow2.AmendOptions
		want error
	}{
		"version":         {make(nil), qcow2.AmendOptions{Version: 4}, errors.ErrUnsupported},
		"width":           {make(nil), qcow2.AmendOptions{RefcountBits: 3}, errors.ErrUnsupported},
		"v2 width":        {make(nil), qcow2.AmendOptions{Version: 2, RefcountBits: 8}, errors.ErrUnsupported},
		"v2 keeps width":  {make(&qcow2.CreateOptions{RefcountBits: 1}), qcow2.AmendOptions{Version: 2}, errors.ErrUnsupported},
		"v2 lazy":         {make(nil), qcow2.AmendOptions{Version: 2, LazyRefcounts: &on}, errors.ErrUnsupported},
		"v2 extended":     {make(&qcow2.CreateOptions{ExtendedL2: true}), qcow2.AmendOptions{Version: 2}, errors.ErrUnsupported},
		"v2 zstd":         {make(&qcow2.CreateOptions{CompressionType: qcow2.CompressionZstd}), qcow2.AmendOptions{Version: 2}, errors.ErrUnsupported},
		"v2 bitmaps":      {marked, qcow2.AmendOptions{Version: 2}, errors.ErrUnsupported},
		"v2 zeros":        {zeros, qcow2.AmendOptions{Version: 2}, errors.ErrUnsupported},
		"refcount of 3":   {shared, qcow2.AmendOptions{RefcountBits: 1}, qcow2.ErrLimit},
		"no data file":    {make(nil), qcow2.AmendOptions{DataFile: new(string)}, errors.ErrUnsupported},
		"no raw data":     {make(nil), qcow2.AmendOptions{DataFileRaw: &on}, errors.ErrUnsupported},
		"v2 has no width": {make(&qcow2.CreateOptions{Version: 2}), qcow2.AmendOptions{RefcountBits: 8}, errors.ErrUnsupported},
	} {
		before := c.im.Header()
		if err := c.im.Amend(t.Context(), &c.a); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if diff := cmp.Diff(before, c.im.Header()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestEverythingKeepsUnknown: what version 3 allows and nobody here knows
// survives every operation.
func TestEverythingKeepsUnknown(t *testing.T) {
	f := memfile.New()
	im, err := qcow2.Create(f, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := im.Header()
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	h.CompatibleFeatures |= 1 << 40
	h.AutoclearFeatures |= 1 << 41
	h.Extra = []byte{0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}
	h.Extensions = append(h.Extensions, qcow2.Extension{Type: 0x12345678, Data: []byte("unknown")})
	b, err := h.AppendBinary(nil)
	if err == nil {
		_, err = f.WriteAt(b, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	o := &qcow2.Options{OpenBacking: func(string, string) (qcow2.Disk, error) { return qcow2.Raw(bytes.NewReader([]byte("base")), 512), nil }}
	if im, err = qcow2.OpenRW(f, o); err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error { return im.Amend(t.Context(), &qcow2.AmendOptions{RefcountBits: 64, LazyRefcounts: &on}) },
		func() error { return im.Amend(t.Context(), &qcow2.AmendOptions{LazyRefcounts: &off}) },
		func() error { return im.AddBitmap("b", nil) },
		func() error { _, err := im.WriteAt([]byte{1}, 0); return err },
		func() error { return im.ClearBitmap("b") },
		func() error { return im.RemoveBitmap("b") },
		func() error { _, err := im.CreateSnapshot(t.Context(), "s", nil); return err },
		func() error { return im.Resize(t.Context(), 3<<20, nil) },
		func() error { _, err := im.WriteCompressedAt(make([]byte, 65536), 1<<20); return err },
		func() error { return im.ApplySnapshot(t.Context(), "s") },
		func() error { return im.DeleteSnapshot(t.Context(), "s") },
		func() error { return im.ChangeBacking("base.raw", "raw") },
		func() error { return im.Rebase(t.Context(), "", "", nil) },
		func() error { return im.DiscardAt(0, 1<<20) },
		im.Sync,
		im.Close,
		func() error { _, err := qcow2.Repair(t.Context(), f, qcow2.RepairAll, nil); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		got := &qcow2.Header{}
		raw := make([]byte, 65536)
		if _, err := f.ReadAt(raw, 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if err := got.UnmarshalBinary(raw); err != nil {
			t.Fatal(err)
		}
		data, _ := got.Extension(0x12345678)
		if string(data) != "unknown" || got.CompatibleFeatures>>40&1 != 1 || got.AutoclearFeatures>>41&1 != 0 || !cmp.Equal(got.Extra, h.Extra) {
			t.Fatalf("%+v", got)
		}
	}
	checkClean(t, f)
}

// TestAmendPowerCuts: a power cut leaves the format as it was or as it is to
// be, and the content as it is.
func TestAmendPowerCuts(t *testing.T) {
	seed := difftest.Seed(t, 1)
	var stats crashtest.Stats
	amend := func(name string, a qcow2.AmendOptions) crashtest.Step[*qcow2.Image] {
		return crashtest.Step[*qcow2.Image]{Name: name, Durable: true, Do: func(im *qcow2.Image) error {
			err := im.Amend(context.Background(), &a)
			if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, qcow2.ErrLimit) {
				return nil
			}
			return err
		}}
	}
	for name := range crashKinds() {
		t.Run(name, func(t *testing.T) {
			start, o, size := crashStart(t, name)
			rng := rand.New(rand.NewPCG(seed, 8))
			for range difftest.Scale(t, 6) {
				steps := []crashtest.Step[*qcow2.Image]{
					amend("v3", qcow2.AmendOptions{Version: 3}),
					amend("64", qcow2.AmendOptions{RefcountBits: 64}),
				}
				steps = append(steps, randomSteps(rng, size, 4)...)
				steps = append(steps, amend("lazy 8", qcow2.AmendOptions{RefcountBits: 8, LazyRefcounts: &on}))
				steps = append(steps, randomSteps(rng, size, 4)...)
				steps = append(steps, amend("v2", qcow2.AmendOptions{Version: 2, RefcountBits: 16, LazyRefcounts: &off}))
				steps = append(steps, randomSteps(rng, size, 3)...)
				stats.Add(crashtest.PowerCuts(t, crashFormat(o), start, steps, crashtest.Options{
					Seed: seed, Exhaustive: 3, Random: 2, Moments: 0.3,
				}))
			}
		})
	}
	t.Log(stats)
}

// TestAmendAsQemu amends copies of an image here and by qemu-img, and compares
// what they are and hold.
func TestAmendAsQemu(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	qio := difftest.Tool(t, "qemu-io", "7.2")
	for _, created := range []string{"compat=1.1,cluster_size=4k", "compat=0.10", "lazy_refcounts=on,cluster_size=4k", "refcount_bits=1,cluster_size=512"} {
		for _, backed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,%v", created, backed), func(t *testing.T) {
				dir := t.TempDir()
				name := filepath.Join(dir, "a.qcow2")
				args := []string{"create", "-q", "-f", "qcow2", "-o", created}
				if backed {
					base := filepath.Join(dir, "base")
					if err := os.WriteFile(base, bytes.Repeat([]byte{9}, 1<<20), 0o666); err != nil {
						t.Fatal(err)
					}
					args = append(args, "-b", base, "-F", "raw")
				}
				difftest.Run(t, img, append(args, name, "2M")...)
				difftest.Run(t, qio, "-c", "write -P 5 64k 200k", "-c", "write -z 128k 64k", "-c", "write -z 512k 100k", name)
				for what, a := range amendments() {
					amendBoth(t, img, name, what, a)
				}
			})
		}
	}
}

// amendBoth amends two copies of an image, and compares them.
func amendBoth(t *testing.T, img, name, what string, a *qcow2.AmendOptions) {
	t.Helper()
	ours, theirs := name+".ours", name+".theirs"
	copyFile(t, name, ours)
	copyFile(t, name, theirs)
	theirsRes := difftest.Try(t, img, "amend", "-f", "qcow2", "-o", what, theirs)
	root, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	im, err := qcow2.OpenFile(filepath.Base(ours), &qcow2.Options{Write: true, Root: root})
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(im.Amend(t.Context(), a), im.Close())
	if (err != nil) != (theirsRes.Code != 0) {
		t.Fatalf("%s: %v, but qemu-img %+v", what, err, theirsRes)
	}
	if err != nil {
		return
	}
	difftest.Run(t, img, "check", ours)
	difftest.Run(t, img, "compare", ours, theirs)
	get := func(name string) string {
		return infoOf(t, difftest.Run(t, img, "info", "--output=json", name))
	}
	if diff := cmp.Diff(get(theirs), get(ours)); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

// infoOf returns what qemu-img info says, but for names and the place taken.
func infoOf(t *testing.T, b []byte) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"actual-size", "filename"} {
		delete(m, k)
	}
	out, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
