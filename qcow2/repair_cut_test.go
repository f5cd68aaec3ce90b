package qcow2_test

import (
	"bytes"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// cutWithLeak returns an image with one leaked cluster, whose file lacks its
// last two clusters, with what change makes of it.
func cutWithLeak(t *testing.T, change func(e *editor)) []byte {
	t.Helper()
	f := memfile.New()
	im, err := qcow2.Create(f, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(6) {
		if _, err := im.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 64<<10), i<<16); err != nil {
			t.Fatal(err)
		}
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	e := edit(bytes.Clone(f.Bytes()))
	e.put64(e.l2(1), 0)
	end := e.host(4)
	change(e)
	return e.b[:end]
}

// cuts are images cut short, and how many leaks are left when they are
// repaired.
var cuts = []struct {
	name   string
	leaks  int64
	change func(e *editor)
}{
	{"the file was cut", 0, func(*editor) {}},
	{"a reference is to where no refcount says that there was something", 1, func(e *editor) { e.put64(e.l2(5), e.host(5)+1<<20) }},
	{"two references are to what one refcount stands for", 1, func(e *editor) { e.put64(e.l2(5), e.u64(e.l2(4))) }},
	{"a reference is between clusters", 1, func(e *editor) { e.put64(e.l2(5), e.u64(e.l2(5))+512) }},
	{"an L2 table is past the end", 5, func(e *editor) { e.put64(e.l1, e.u64(e.l2(5))) }},
}

// Leaked clusters may be what a reference meant that is wrong, and are only
// freed where that cannot be.
func TestRepairCutFile(t *testing.T) {
	for _, c := range cuts {
		for _, mode := range []qcow2.RepairMode{qcow2.RepairLeaks, qcow2.RepairAll} {
			damaged := cutWithLeak(t, c.change)
			f := memfile.FromBytes(bytes.Clone(damaged))
			r, err := qcow2.Repair(t.Context(), f, mode, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Leaks != c.leaks || r.Corruptions == 0 {
				t.Errorf("%s, repair of %v: %d leaks, not %d, and %d corruptions: %v", c.name, mode, r.Leaks, c.leaks, r.Corruptions, r.Findings)
			}
			if !bytes.Equal(content(t, f), content(t, bytes.NewReader(damaged))) {
				t.Errorf("%s, repair of %v: the content changed", c.name, mode)
			}
		}
	}
}

func TestRepairCutFileAsQemu(t *testing.T) {
	dir := difftest.FastDir(t)
	for _, c := range cuts {
		damaged := cutWithLeak(t, c.change)
		p := repairBoth(t, dir, damaged)
		if p == nil {
			t.Errorf("%s: not repaired", c.name)
			continue
		}
		p.judge(t, c.name, damaged)
		theirs, _ := checkWithQemu(t, p.qemus, false)
		if got := counts(p.result); c.leaks == 0 && got != *theirs {
			t.Errorf("%s: Repair leaves %+v, qemu-img %+v", c.name, got, *theirs)
		}
	}
}
