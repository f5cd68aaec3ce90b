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

// crashed holds what a power cut during a repair may leave against what was
// before: it is no worse, and a repair after it does what the first would
// have done.
func crashed(t *testing.T, before, b []byte, clean bool) {
	t.Helper()
	want := content(t, bytes.NewReader(before))
	if !bytes.Equal(content(t, bytes.NewReader(b)), want) {
		t.Error("the content changed")
	}
	if n, m := sharedCopied(b), sharedCopied(before); n > m {
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

func TestRepairPowerCuts(t *testing.T) {
	random := rand.New(rand.NewPCG(difftest.Seed(t, 1), 4))
	states := 0
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			before := d.make(t)
			f := memfile.FromBytes(before)
			f.Record()
			if _, err := qcow2.Repair(t.Context(), f, qcow2.RepairAll, nil); err != nil {
				t.Fatal(err)
			}
			for r := memfile.NewReplay(f); r.Next() && !t.Failed(); {
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
	boom := errors.New("boom")
	for _, name := range []string{"refcount too low", "no refcount table", "snapshots past the table", "leak", "COPIED missing"} {
		before := damageNamed(t, name)
		for n := 0; ; n++ {
			f := memfile.FromBytes(before)
			f.Fault = memfile.FailNth(n, boom, func(op memfile.Op) bool { return true })
			_, err := qcow2.Repair(t.Context(), f, qcow2.RepairAll, nil)
			if err == nil {
				break
			}
			if !errors.Is(err, boom) {
				t.Errorf("%s, operation %d fails: %v", name, n, err)
			}
			crashed(t, before, f.Bytes(), true)
		}
	}
}

func TestRepairStops(t *testing.T) {
	before := damageNamed(t, "no refcount table")
	why := errors.New("enough")
	for n := range 40 {
		ctx, cancel := context.WithCancelCause(t.Context())
		f := memfile.FromBytes(before)
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
