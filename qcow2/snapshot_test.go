package qcow2_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// A snapDisk is a disk with what its snapshots must hold.
type snapDisk struct {
	*disk
	kept  map[string][]byte // by ID
	views map[string]*qcow2.SnapshotDisk
	next  int
}

func newSnapDisk(d *disk) *snapDisk {
	return &snapDisk{disk: d, kept: map[string][]byte{}, views: map[string]*qcow2.SnapshotDisk{}}
}

// snapStep does one random operation, of which some concern snapshots.
func (d *snapDisk) snapStep() string {
	d.t.Helper()
	ids := slices.Sorted(func(yield func(string) bool) {
		for id := range d.kept {
			if !yield(id) {
				return
			}
		}
	})
	switch k := d.rng.IntN(24); {
	case k < 2 && len(ids) < 6:
		return d.create()
	case k < 4 && len(ids) > 0:
		return d.remove(ids[d.rng.IntN(len(ids))])
	case k < 5 && len(ids) > 0:
		id := ids[d.rng.IntN(len(ids))]
		if err := d.im.ApplySnapshot(d.t.Context(), id); err != nil && !d.tooNarrow(err) {
			d.t.Fatalf("apply %s: %v", id, err)
		} else if err == nil {
			d.want = bytes.Clone(d.kept[id])
		}
		return "apply " + id
	case k < 6:
		return d.resize(len(ids) > 0)
	case k < 8 && len(ids) > 0:
		id := ids[d.rng.IntN(len(ids))]
		d.look(id)
		return "look at " + id
	}
	name := d.step()
	if strings.HasPrefix(name, "reopen") {
		d.views = map[string]*qcow2.SnapshotDisk{}
	}
	return name
}

// tooNarrow reports whether err says that refcounts are too narrow, and the
// image is as it was.
func (d *snapDisk) tooNarrow(err error) bool {
	return errors.Is(err, qcow2.ErrLimit) && d.im.Header().RefcountOrder < 3
}

func (d *snapDisk) create() string {
	d.t.Helper()
	d.next++
	name := fmt.Sprint("n", d.next)
	s, err := d.im.CreateSnapshot(d.t.Context(), name, nil)
	if err != nil {
		if !d.tooNarrow(err) {
			d.t.Fatalf("create: %v", err)
		}
		return "create in vain"
	}
	d.kept[s.ID] = bytes.Clone(d.want)
	return "create " + s.ID
}

func (d *snapDisk) remove(id string) string {
	d.t.Helper()
	if err := d.im.DeleteSnapshot(d.t.Context(), id); err != nil {
		d.t.Fatalf("delete %s: %v", id, err)
	}
	if v := d.views[id]; v != nil {
		if _, err := v.ReadAt(make([]byte, 1), 0); !errors.Is(err, qcow2.ErrNoSnapshot) {
			d.t.Fatalf("the disk of a snapshot that was deleted: %v", err)
		}
		delete(d.views, id)
	}
	delete(d.kept, id)
	return "delete " + id
}

// look reads a snapshot.
func (d *snapDisk) look(id string) {
	d.t.Helper()
	v := d.views[id]
	if v == nil {
		var err error
		if v, err = d.im.OpenSnapshot(id); err != nil {
			d.t.Fatal(err)
		}
		d.views[id] = v
	}
	want := d.kept[id]
	got := make([]byte, v.Size())
	if n, err := v.ReadAt(got, 0); n != len(got) || err != nil {
		d.t.Fatalf("snapshot %s: %d, %v", id, n, err)
	}
	if len(got) != len(want) {
		d.t.Fatalf("snapshot %s has %d bytes, want %d", id, len(got), len(want))
	}
	if i := differ(got, want); i >= 0 {
		d.t.Fatalf("snapshot %s: byte %d is %#x, want %#x", id, i, got[i], want[i])
	}
}

func (d *snapDisk) lookAll() {
	d.t.Helper()
	for id := range d.kept {
		d.look(id)
	}
	res, err := d.im.Check(d.t.Context(), nil)
	if err != nil {
		d.t.Fatal(err)
	}
	if !res.Clean() {
		d.t.Fatalf("%d corruptions, %d leaks: %v", res.Corruptions, res.Leaks, res.Findings)
	}
	d.verify()
}

// TestSnapshotModel does random operations on a disk and its snapshots beside
// arrays.
func TestSnapshotModel(t *testing.T) {
	seed := difftest.Seed(t, 1)
	for name, make := range writeFlavours() {
		if strings.HasPrefix(name, "data") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			d := newSnapDisk(make(t, seed))
			var log []string
			defer func() {
				if t.Failed() {
					t.Logf("last steps: %q", log[max(0, len(log)-20):])
				}
			}()
			for i := range difftest.Scale(t, 400) {
				log = append(log, d.snapStep())
				if i%20 == 19 {
					d.lookAll()
				}
			}
			for id := range d.kept {
				log = append(log, d.remove(id))
			}
			d.lookAll()
			d.reopen()
			d.lookAll()
			if err := d.im.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSnapshotDescription: what is told of a snapshot is what was asked for,
// also after opening anew.
func TestSnapshotDescription(t *testing.T) {
	d := newDisk(t, 1<<20, 0, qcow2.CreateOptions{}, 1)
	when := time.Unix(1<<32-1, 123456789)
	first, err := d.im.CreateSnapshot(t.Context(), "7", &qcow2.SnapshotOptions{Time: when, VMClock: 5 * time.Hour, ICount: -1})
	if err != nil {
		t.Fatal(err)
	}
	want := qcow2.Snapshot{ID: "1", Name: "7", Time: when, VMClock: 5 * time.Hour, DiskSize: 1 << 20, ICount: -1}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Error(diff)
	}
	before := time.Now()
	second, err := d.im.CreateSnapshot(t.Context(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if second.ID != "2" || second.ICount != 0 || second.Time.Before(before.Add(-time.Second)) {
		t.Errorf("%+v", second)
	}
	d.reopen()
	list, err := d.im.Snapshots()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]qcow2.Snapshot{first, second}, list); diff != "" {
		t.Error(diff)
	}
	for _, o := range []*qcow2.SnapshotOptions{
		{Time: time.Unix(-1, 0)}, {Time: time.Unix(1<<32, 0)}, {VMClock: -1}, {VMStateSize: -1},
	} {
		if _, err := d.im.CreateSnapshot(t.Context(), "x", o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	if _, err := d.im.CreateSnapshot(t.Context(), strings.Repeat("x", 256), nil); !errors.Is(err, qcow2.ErrLimit) {
		t.Error(err)
	}
}

// TestSnapshotLookup: IDs come before names.
func TestSnapshotLookup(t *testing.T) {
	d := newDisk(t, 1<<20, 0, qcow2.CreateOptions{}, 1)
	for _, name := range []string{"2", "a", "a"} { // IDs 1, 2, 3
		if _, err := d.im.CreateSnapshot(t.Context(), name, nil); err != nil {
			t.Fatal(err)
		}
	}
	ids := func() (ids []string) {
		list, err := d.im.Snapshots()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			ids = append(ids, s.ID)
		}
		return ids
	}
	for _, c := range []struct {
		name string
		left []string
	}{{"2", []string{"1", "3"}}, {"2", []string{"3"}}, {"a", nil}} {
		if err := d.im.DeleteSnapshot(t.Context(), c.name); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.left, ids()); diff != "" {
			t.Error(diff)
		}
	}
	for _, err := range []error{
		d.im.DeleteSnapshot(t.Context(), "a"),
		d.im.ApplySnapshot(t.Context(), "a"),
		func() error { _, err := d.im.OpenSnapshot("a"); return err }(),
	} {
		if !errors.Is(err, qcow2.ErrNoSnapshot) || !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
}

// TestSnapshotRefused: what cannot be done changes nothing in the file.
func TestSnapshotRefused(t *testing.T) {
	for _, tc := range []struct {
		name string
		o    qcow2.CreateOptions
		ok   int // snapshots that can be made
		err  error
	}{
		{"1 bit", qcow2.CreateOptions{RefcountBits: 1}, 0, qcow2.ErrLimit},
		{"2 bits", qcow2.CreateOptions{RefcountBits: 2, ClusterSize: 512}, 2, qcow2.ErrLimit},
		{"4 bits", qcow2.CreateOptions{RefcountBits: 4, ExtendedL2: true}, 14, qcow2.ErrLimit},
		{"data file", qcow2.CreateOptions{DataFile: "d"}, 0, errors.ErrUnsupported},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDisk(t, 1<<20, 0, tc.o, 1)
			if _, err := d.im.WriteAt(bytes.Repeat([]byte("x"), 1<<20), 0); err != nil {
				t.Fatal(err)
			}
			for range tc.ok {
				if _, err := d.im.CreateSnapshot(t.Context(), "s", nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := d.im.Sync(); err != nil {
				t.Fatal(err)
			}
			before := d.f.Bytes()
			if _, err := d.im.CreateSnapshot(t.Context(), "s", nil); !errors.Is(err, tc.err) {
				t.Fatal(err)
			}
			if tc.ok > 0 { // the active disk shares what the snapshot holds
				if err := d.im.ApplySnapshot(t.Context(), "1"); !errors.Is(err, tc.err) {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(before, d.f.Bytes()) {
				t.Error("the file changed")
			}
			d.reopen()
		})
	}
	d := newDisk(t, 1<<20, 0, qcow2.CreateOptions{}, 1)
	d.reopen()
	ro := open(t, d.f.Bytes(), nil)
	if _, err := ro.CreateSnapshot(t.Context(), "s", nil); !errors.Is(err, qcow2.ErrReadOnly) {
		t.Error(err)
	}
}

// TestSnapshotDisk: the disk of a snapshot is a disk like any other.
func TestSnapshotDisk(t *testing.T) {
	d := newDisk(t, 200<<10, 100<<10, qcow2.CreateOptions{ClusterSize: 4096}, 1)
	for range 50 {
		d.step()
	}
	if _, err := d.im.CreateSnapshot(t.Context(), "s", nil); err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(d.want)
	for range 50 {
		d.step()
	}
	for _, im := range []*qcow2.Image{d.im, open(t, d.f.Bytes(), &d.opts)} {
		if im != d.im { // what is in the file
			if err := d.im.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		v, err := im.OpenSnapshot("s")
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(v.VMState(), nil); err != nil {
			t.Error(err)
		}
		checkExtents(t, v, want)
		out := memfile.New()
		if _, err := v.CopyTo(t.Context(), out, nil); err != nil || !bytes.Equal(out.Bytes(), want) {
			t.Errorf("CopyTo: %v", err)
		}
		if v.Snapshot().Name != "s" || v.ClusterSize() != 4096 {
			t.Errorf("%+v", v.Snapshot())
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
		if _, err := v.ReadAt(make([]byte, 1), 0); !errors.Is(err, qcow2.ErrNoSnapshot) {
			t.Error(err)
		}
		if err := v.Close(); !errors.Is(err, fs.ErrClosed) {
			t.Error(err)
		}
	}
}

// TestSnapshotEncrypted: the same in encrypted images.
func TestSnapshotEncrypted(t *testing.T) {
	seed := difftest.Seed(t, 1)
	aes := aesOptions(4096)
	aes.Version = 2
	extended := luksOptions(65536)
	extended.ExtendedL2 = true
	for name, o := range map[string]*qcow2.CreateOptions{"luks": luksOptions(4096), "aes": aesOptions(512), "aes-v2": aes, "luks-extl2": extended} {
		t.Run(name, func(t *testing.T) {
			d := newSnapDisk(newDisk(t, 300<<10, 0, *o, seed))
			d.opts.Passphrase = func() ([]byte, error) { return []byte("secret"), nil }
			// Compressed writes are refused, as they are with a data file.
			d.opts.OpenData = func(string, bool) (qcow2.File, error) { panic("there is none") }
			for i := range difftest.Scale(t, 200) {
				d.snapStep()
				if i%20 == 19 {
					d.lookAll()
				}
			}
			d.reopen()
			clear(d.views)
			d.lookAll()
			if err := d.im.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
