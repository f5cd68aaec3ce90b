package qcow2_test

import (
	"bytes"
	"testing"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// TestRawWithoutDataFile: the autoclear bit of a raw external data file means
// nothing in an image that has none. Discards once went to the image file
// itself, over its header.
func TestRawWithoutDataFile(t *testing.T) {
	s := samples(t)["v3-512"]
	b := bytes.Clone(s.image)
	b[95] |= qcow2.AutoclearRawExternal
	f := memfile.FromBytes(b)
	im, err := qcow2.OpenRW(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := im.DiscardAt(0, im.Size()); err != nil {
		t.Error(err)
	}
	if err := im.WriteZeroesAt(0, im.Size()); err != nil {
		t.Error(err)
	}
	if err := im.Close(); err != nil {
		t.Error(err)
	}
	checkClean(t, f)
}

// TestSnapshotOfOddSize: applying a snapshot whose disk is said to end within
// a sector leaves an image that opens.
func TestSnapshotOfOddSize(t *testing.T) {
	e := edit(image(t, "v3"))
	at := e.snapshotEntry(0) + 48
	e.put64(at, e.u64(at)+64)
	want := int64(e.u64(at)) &^ 511
	f := memfile.FromBytes(e.b)
	im, err := qcow2.OpenRW(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := im.ApplySnapshot(t.Context(), "1"); err != nil {
		t.Error(err)
	}
	if err := im.Close(); err != nil {
		t.Error(err)
	}
	if im, err = qcow2.OpenRW(f, nil); err != nil {
		t.Fatal(err)
	}
	if im.Size() != want {
		t.Errorf("%d bytes, want %d", im.Size(), want)
	}
	if err := im.Close(); err != nil {
		t.Error(err)
	}
	checkClean(t, f)
}
