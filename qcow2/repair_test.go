package qcow2_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// unrepairable are the damages of which something is left after a repair,
// because mending it would lose data.
var unrepairable = map[string]bool{
	"guest cluster between clusters":          true,
	"extended entry between clusters":         true,
	"guest cluster past the end":              true,
	"compressed cluster past the end":         true,
	"L2 table between clusters":               true,
	"L2 table past the end":                   true,
	"L1 table of a snapshot between clusters": true,
	"L1 table of a snapshot past the end":     true,
	"L1 table of a snapshot too large":        true,
	"subclusters allocated and zero":          true,
	"subclusters of an unallocated cluster":   true,
	"subclusters of a compressed cluster":     true,
	"file cut":                                true,
}

// content returns what a reader gets of an image, nil if it gets nothing.
func content(tb testing.TB, r io.ReaderAt) []byte {
	tb.Helper()
	im, err := qcow2.Open(r, &qcow2.Options{
		OpenData: func(name string, _ bool) (qcow2.File, error) { return os.Open(name) },
	})
	if err != nil {
		tb.Fatal(err)
	}
	defer im.Close()
	p := make([]byte, im.Size())
	const piece = 64 << 10
	for off := 0; off < len(p); off += piece {
		part := p[off:min(off+piece, len(p))]
		if _, err := im.ReadAt(part, int64(off)); err == nil {
			continue
		}
		for at := 0; at < len(part); at += 512 { // what cannot be read becomes zeros
			if sector := part[at : at+512]; !reads(im, sector, int64(off+at)) {
				clear(sector)
			}
		}
	}
	return p
}

func reads(r io.ReaderAt, p []byte, off int64) bool {
	_, err := r.ReadAt(p, off)
	return err == nil
}

func TestRepair(t *testing.T) {
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			damaged := d.make(t)
			f := memfile.FromBytes(damaged)
			r, err := qcow2.Repair(t.Context(), f, qcow2.RepairAll, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Clean() == unrepairable[d.name] {
				t.Errorf("%d corruptions, %d leaks, %d errors are left: %v", r.Corruptions, r.Leaks, r.CheckErrors, r.Findings)
			}
			b := f.Bytes()
			again, err := qcow2.Check(t.Context(), bytes.NewReader(b), nil)
			if err != nil || counts(again) != counts(r) {
				t.Errorf("Repair says %+v, Check %+v, %v", counts(r), counts(again), err)
			}
			if !bytes.Equal(content(t, bytes.NewReader(b)), content(t, bytes.NewReader(damaged))) {
				t.Error("the content of the disk changed")
			}
			if b[7] == 3 && b[79]&3 != 0 && r.Clean() {
				t.Errorf("marks %#x are left", b[79])
			}
			f2 := memfile.FromBytes(b)
			f2.Fault = func(op memfile.Op) error {
				if op.Kind == memfile.Write {
					t.Error("repairing again writes")
				}
				return nil
			}
			if r.Clean() {
				if _, err := qcow2.Repair(t.Context(), f2, qcow2.RepairAll, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestRepairLeaksOnly(t *testing.T) {
	for _, d := range damages {
		damaged := d.make(t)
		f := memfile.FromBytes(damaged)
		before, err := qcow2.Check(t.Context(), f, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := qcow2.Repair(t.Context(), f, qcow2.RepairLeaks, nil)
		if err != nil {
			t.Fatalf("%s: %v", d.name, err)
		}
		b := f.Bytes()
		if !bytes.Equal(content(t, bytes.NewReader(b)), content(t, bytes.NewReader(damaged))) {
			t.Errorf("%s: the content of the disk changed", d.name)
		}
		if r.Corruptions > before.Corruptions || r.Leaks > before.Leaks {
			t.Errorf("%s: before %+v, after %+v", d.name, counts(before), counts(r))
		}
		if before.Corruptions == 0 && !r.Clean() {
			t.Errorf("%s: left is %v", d.name, r.Findings)
		}
		if r.LeaksFixed != before.Leaks-r.Leaks || r.CorruptionsFixed != before.Corruptions-r.Corruptions {
			t.Errorf("%s: fixed %d and %d; before %+v, after %+v", d.name, r.LeaksFixed, r.CorruptionsFixed, counts(before), counts(r))
		}
	}
}

func TestOpenRWRepairsDirty(t *testing.T) {
	for _, d := range damages {
		e := edit(d.make(t))
		if e.b[7] != 3 || e.b[79]&2 != 0 { // no such mark, or the other one
			continue
		}
		e.b[79] |= qcow2.IncompatDirty
		f := memfile.FromBytes(e.b)
		im, err := qcow2.OpenRW(f, nil)
		if err != nil {
			if !unrepairable[d.name] || !errors.Is(err, qcow2.ErrCorrupt) {
				t.Errorf("%s: %v", d.name, err)
			}
			continue
		}
		if r, err := im.Check(t.Context(), nil); err != nil || r.Clean() == unrepairable[d.name] || im.Header().IncompatibleFeatures&qcow2.IncompatDirty != 0 {
			t.Errorf("%s: opened with %+v, %v", d.name, counts(r), err)
		}
		if err := im.Close(); err != nil {
			t.Errorf("%s: %v", d.name, err)
		}
	}
}

func FuzzRepair(f *testing.F) {
	for _, d := range damages {
		if b := d.make(f); len(b) < 64<<10 {
			f.Add(b, true)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, all bool) {
		mode := qcow2.RepairLeaks
		if all {
			mode = qcow2.RepairAll
		}
		file := memfile.FromBytes(b)
		r, err := qcow2.Repair(t.Context(), file, mode, nil)
		if err != nil || r.Corruptions > 0 {
			return
		}
		if again, err := qcow2.Check(t.Context(), file, nil); err != nil || counts(again) != counts(r) {
			t.Errorf("Repair says %+v, Check %+v, %v", counts(r), counts(again), err)
		}
	})
}
