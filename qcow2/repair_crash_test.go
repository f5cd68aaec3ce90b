package qcow2_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// sharedCopied counts the active entries that have the COPIED flag although
// what they point to is referenced more than once: a write through them
// would change what something else holds.
func sharedCopied(b []byte) (n int) {
	e := edit(b)
	refs := map[int64]int{}
	var copied []int64 // clusters of entries with the flag
	const mask = 0x00fffffffffffe00
	word := func(off int64) uint64 {
		if off < 0 || off+8 > int64(len(b)) {
			return 0
		}
		return e.u64(off)
	}
	walk := func(l1 int64, size uint32, active bool) {
		for at := l1; at < min(l1+int64(size)*8, int64(len(b))); at += 8 {
			w := word(at)
			if w&mask == 0 {
				continue
			}
			table := int64(w & mask)
			refs[table]++
			if active && w>>63 == 1 {
				copied = append(copied, table)
			}
			for at := table; at < table+e.cluster; at += e.entrySize {
				w := word(at)
				if off := int64(w & mask); off != 0 && w>>62&1 == 0 {
					refs[off]++
					if active && w>>63 == 1 {
						copied = append(copied, off)
					}
				}
			}
		}
	}
	walk(e.l1, binary.BigEndian.Uint32(b[36:]), true)
	for i := range int64(binary.BigEndian.Uint32(b[60:])) {
		if at := e.snapshotEntry(i); at >= 0 && at+40 <= int64(len(b)) {
			walk(int64(word(at)), binary.BigEndian.Uint32(b[at+8:]), false)
		}
	}
	for _, off := range copied {
		if refs[off] > 1 {
			n++
		}
	}
	return n
}

// A damagedImage is an image, and what crashed wants to know of it.
type damagedImage struct {
	b, content   []byte
	sharedCopied int
}

func newDamagedImage(t *testing.T, b []byte) *damagedImage {
	t.Helper()
	return &damagedImage{b, content(t, bytes.NewReader(b)), sharedCopied(b)}
}

// crashed holds what a power cut during a repair may leave against what was
// before: it is no worse, and a repair after it does what the first would
// have done.
func crashed(t *testing.T, before *damagedImage, b []byte, clean bool) {
	t.Helper()
	want := before.content
	if !bytes.Equal(content(t, bytes.NewReader(b)), want) {
		t.Error("the content changed")
	}
	if n, m := sharedCopied(b), before.sharedCopied; n > m {
		t.Errorf("%d shared clusters have COPIED flags, %d had before", n, m)
	}
	f := memfile.FromBytes(b)
	r, err := qcow2.Repair(t.Context(), f, qcow2.RepairAll, nil)
	if err != nil {
		t.Errorf("the next repair: %v", err)
		return
	}
	if clean && !r.Clean() {
		t.Errorf("the next repair leaves %v", r.Findings)
	}
	if !bytes.Equal(content(t, f), want) {
		t.Error("the next repair changed the content")
	}
}

// chosen picks the cases that are tried: a share of percent by default, and
// few of them in -short mode.
func chosen(t *testing.T, random *rand.Rand, percent int) bool {
	t.Helper()
	return random.IntN(10000) < difftest.Scale(t, 100*percent)
}

func TestRepairPowerCuts(t *testing.T) {
	random := rand.New(rand.NewPCG(difftest.Seed(t, 1), 4))
	states := 0
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			before := newDamagedImage(t, d.make(t))
			f := memfile.FromBytes(before.b)
			f.Record()
			if _, err := qcow2.Repair(t.Context(), f, qcow2.RepairAll, nil); err != nil {
				t.Fatal(err)
			}
			for r := memfile.NewReplay(f); r.Next() && !t.Failed(); {
				if !chosen(t, random, 100) {
					continue
				}
				if limit := difftest.Scale(t, 8); r.States() > limit {
					for range limit {
						states++
						crashed(t, before, r.Random(random).Bytes(), !unrepairable[d.name])
					}
					continue
				}
				for s := range r.All() {
					states++
					crashed(t, before, s.Bytes(), !unrepairable[d.name])
				}
			}
		})
	}
	t.Logf("%d states", states)
}

func TestRepairFaults(t *testing.T) {
	random := rand.New(rand.NewPCG(difftest.Seed(t, 1), 8))
	boom := errors.New("boom")
	faults := 0
	for _, d := range damages {
		before := newDamagedImage(t, d.make(t))
		whole := memfile.FromBytes(before.b)
		if _, err := qcow2.Repair(t.Context(), whole, qcow2.RepairAll, nil); err != nil {
			t.Fatal(err)
		}
		for n := range whole.Ops() {
			if !chosen(t, random, 100) {
				continue
			}
			f, hit := memfile.FromBytes(before.b), false
			f.Fault = func(op memfile.Op) error {
				switch {
				case op.Index != n, op.Kind == memfile.Read && op.N == 0:
					return nil
				case op.Kind == memfile.Write && random.IntN(2) == 0:
					hit = true
					return &memfile.ShortWrite{N: int(op.N/2) &^ 511, Err: boom}
				}
				hit = true
				return boom
			}
			if _, err := qcow2.Repair(t.Context(), f, qcow2.RepairAll, nil); hit != errors.Is(err, boom) || !hit && err != nil {
				t.Errorf("%s, operation %d fails: %v", d.name, n, err)
			}
			if hit {
				faults++
			}
			f.Fault = nil
			crashed(t, before, f.Bytes(), !unrepairable[d.name])
		}
	}
	t.Logf("%d faults", faults)
}

func TestRepairStops(t *testing.T) {
	before := newDamagedImage(t, damageNamed(t, "no refcount table"))
	why := errors.New("enough")
	for n := 0; n < 40; n += max(1, 40/difftest.Scale(t, 40)) {
		ctx, cancel := context.WithCancelCause(t.Context())
		f := memfile.FromBytes(before.b)
		f.Fault = func(op memfile.Op) error {
			if op.Index == n {
				cancel(why)
			}
			return nil
		}
		if _, err := qcow2.Repair(ctx, f, qcow2.RepairAll, nil); err != nil && !errors.Is(err, why) {
			t.Errorf("cancelled at operation %d: %v", n, err)
		}
		crashed(t, before, f.Bytes(), true)
		cancel(nil)
	}
}
