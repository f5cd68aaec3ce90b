package qcow2_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// Subclusters that nothing was written to are told with the place that their
// cluster has for them.
func TestExtentsOfPlacedSubclusters(t *testing.T) {
	o := &qcow2.CreateOptions{ExtendedL2: true, Preallocation: qcow2.PreallocateMetadata}
	im, err := qcow2.Create(memfile.New(), 256<<10, o)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	const k = 1 << 10
	if _, err := im.WriteAt(make([]byte, 2*k), 66*k); err != nil {
		t.Fatal(err)
	}
	if err := im.WriteZeroesAt(70*k, 2*k); err != nil {
		t.Fatal(err)
	}
	var got []qcow2.Extent
	for e, err := range im.Extents(0, im.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	place := got[0].HostOffset
	if place <= 0 {
		t.Fatalf("%+v has no place", got[0])
	}
	want := []qcow2.Extent{
		{Start: 0, Length: 66 * k, HostOffset: place},
		{Start: 66 * k, Length: 2 * k, Kind: qcow2.Data, HostOffset: place + 66*k},
		{Start: 68 * k, Length: 2 * k, HostOffset: place + 68*k},
		{Start: 70 * k, Length: 2 * k, Kind: qcow2.Zero, HostOffset: place + 70*k},
		{Start: 72 * k, Length: 184 * k, HostOffset: place + 72*k},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
