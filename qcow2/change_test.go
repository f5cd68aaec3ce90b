package qcow2

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/memfile"
)

func newImage(t *testing.T, size int64, o *CreateOptions) (*Image, *memfile.File) {
	t.Helper()
	f := memfile.New()
	im, err := Create(f, size, o)
	if err != nil {
		t.Fatal(err)
	}
	return im, f
}

func mustBeClean(t *testing.T, im *Image) {
	t.Helper()
	res, err := im.Check(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !res.Clean() {
		t.Fatalf("%d corruptions, %d leaks: %v", res.Corruptions, res.Leaks, res.Findings)
	}
}

// TestGrowL1: the L1 table grows, what lies past the disk can be written and
// read, and all of it is there after opening anew.
func TestGrowL1(t *testing.T) {
	im, f := newImage(t, 1<<20, &CreateOptions{ClusterSize: 512, RefcountBits: 64})
	data := bytes.Repeat([]byte("data"), 1<<18)
	if _, err := im.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	const vmState = 2 << 20
	if err := im.growL1(int(im.l1Index(vmState)) + 1000); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, im)
	im.gate.RLock()
	_, err := im.write([]byte("vm state"), vmState+100)
	im.gate.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, im)
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	if im, err = OpenRW(f, nil); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 8)
	if _, err := im.readVia(im.active, got, vmState+100); err != nil || string(got) != "vm state" {
		t.Errorf("%q, %v", got, err)
	}
	all := make([]byte, 1<<20)
	if _, err := im.ReadAt(all, 0); err != nil || !bytes.Equal(all, data) {
		t.Errorf("the disk changed: %v", err)
	}
	if err := im.growL1(maxL1Bytes/l1EntrySize + 1); !errors.Is(err, ErrLimit) {
		t.Errorf("got %v", err)
	}
	mustBeClean(t, im)
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestChangeUndone: a change that fails leaves nothing behind.
func TestChangeUndone(t *testing.T) {
	im, f := newImage(t, 1<<20, &CreateOptions{ClusterSize: 512, RefcountBits: 2})
	if _, err := im.WriteAt(make([]byte, 100_000), 0); err != nil {
		t.Fatal(err)
	}
	if err := im.Sync(); err != nil {
		t.Fatal(err)
	}
	before := im.Header()
	sentinel := errors.New("no")
	for _, dirty := range []bool{false, true} {
		err := im.change(dirty, func(c *change) error {
			off, err := c.alloc(300)
			if err != nil {
				return err
			}
			if err := c.write([]byte("x"), off); err != nil {
				return err
			}
			if err := c.raise(0, 10); err != nil {
				return err
			}
			if err := c.raise(0, 10); err != nil {
				return err
			}
			if err := c.raise(0, 10); !errors.Is(err, ErrLimit) {
				t.Errorf("raise to 4 with 2 bits: %v", err)
			}
			c.header(func(h *Header) { h.SnapshotCount = 7 })
			return sentinel
		})
		if !errors.Is(err, sentinel) {
			t.Fatal(err)
		}
		mustBeClean(t, im)
	}
	if dirty := im.Header().IncompatibleFeatures; dirty != IncompatDirty {
		t.Errorf("features %#x: a change that failed half way is repaired later", dirty)
	}
	if after := im.Header(); after.SnapshotCount != before.SnapshotCount {
		t.Error("the header changed")
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	if h, err := readHeader(f); err != nil || h.IncompatibleFeatures != 0 {
		t.Errorf("%v, %v", h, err)
	}
}

// TestChangeDrops: clusters that a change drops are free afterwards.
func TestChangeDrops(t *testing.T) {
	im, _ := newImage(t, 1<<20, &CreateOptions{ClusterSize: 512})
	var at hostOff
	err := im.change(true, func(c *change) error {
		off, err := c.alloc(1)
		if err != nil {
			return err
		}
		at = off
		return c.raise(im.cluster(off), 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	err = im.change(true, func(c *change) error {
		c.drop(im.cluster(at), 1, freedTable)
		c.drop(im.cluster(at), 1, freedDiscard)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, im)
	if im.Header().IncompatibleFeatures != 0 {
		t.Error("the image is still dirty")
	}
}

// TestHeaderRewritePowerCuts changes what follows the header, in sectors of
// which a power cut leaves any: the header always decodes, and what it says of
// the backing file is old or new.
func TestHeaderRewritePowerCuts(t *testing.T) {
	long := func(c string, n int) string { return strings.Repeat(c, n) }
	for _, tc := range []struct {
		cluster  int64
		old, new string
	}{
		{512, "a", long("b", 200)},
		{4096, "a", "b"},
		{4096, long("a", 900), long("b", 1000)},
		{4096, long("a", 1000), long("b", 10)},
		{65536, long("a", 100), long("b", 600)},
		{65536, long("a", 1023), long("b", 1023)},
	} {
		im, f := newImage(t, 1<<20, &CreateOptions{ClusterSize: tc.cluster, BackingFile: tc.old, BackingFormat: "raw"})
		if err := im.Sync(); err != nil {
			t.Fatal(err)
		}
		f.Record()
		for _, name := range []string{tc.new, tc.old, tc.new} {
			err := im.change(false, func(c *change) error {
				c.header(func(h *Header) {
					h.BackingFile = name
					h.setExtension(0x12345678, []byte(name[:min(len(name), 150)]))
				})
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		r := memfile.NewReplay(f)
		rng := rand.New(rand.NewPCG(1, 2))
		states := 0
		judge := func(s *memfile.File) {
			states++
			h, err := readHeader(s)
			if err != nil {
				t.Fatalf("clusters of %d: %v", tc.cluster, err)
			}
			if h.BackingFile != tc.old && h.BackingFile != tc.new || h.BackingFormat() != "raw" {
				t.Fatalf("clusters of %d: backing file %q %q", tc.cluster, h.BackingFile, h.BackingFormat())
			}
		}
		for {
			if r.Unsynced() <= 6 {
				for s := range r.All() {
					judge(s)
				}
			} else {
				for range 100 {
					judge(r.Random(rng))
				}
			}
			if !r.Next() {
				break
			}
		}
		if h, err := readHeader(f); err != nil || h.BackingFile != tc.new || states < 5 {
			t.Errorf("%q, %v, %d states", h.BackingFile, err, states)
		}
		mustBeClean(t, im)
	}
}
