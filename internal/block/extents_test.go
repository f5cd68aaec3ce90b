package block_test

import (
	"errors"
	"io"
	"iter"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/block"
)

// extents is a disk that holds nothing but a list of extents.
type extents struct {
	io.ReaderAt
	list []block.Extent
	err  error // after them
}

func (d extents) Size() int64 { return d.list[len(d.list)-1].End() }

func (d extents) Extents(off, n int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		for _, e := range d.list {
			start, end := max(off, e.Start), min(off+n, e.End())
			if start >= end {
				continue
			}
			if e.HostOffset != block.NoOffset {
				e.HostOffset += start - e.Start
			}
			e.Start, e.Length = start, end-start
			if !yield(e, nil) {
				return
			}
		}
		if d.err != nil {
			yield(block.Extent{}, d.err)
		}
	}
}

func collect(t *testing.T, seq iter.Seq2[block.Extent, error]) ([]block.Extent, error) {
	t.Helper()
	var out []block.Extent
	for e, err := range seq {
		if err != nil {
			return out, err
		}
		out = append(out, e)
	}
	return out, nil
}

func TestMerge(t *testing.T) {
	none := int64(block.NoOffset)
	in := extents{list: []block.Extent{
		{Start: 0, Length: 10, Kind: block.Data, HostOffset: 100},
		{Start: 10, Length: 10, Kind: block.Data, HostOffset: 110},
		{Start: 20, Length: 10, Kind: block.Data, HostOffset: 300},
		{Start: 30, Length: 10, Kind: block.Zero, HostOffset: none},
		{Start: 40, Length: 10, Kind: block.Zero, HostOffset: none},
	}}
	want := []block.Extent{
		{Start: 0, Length: 20, Kind: block.Data, HostOffset: 100},
		{Start: 20, Length: 10, Kind: block.Data, HostOffset: 300},
		{Start: 30, Length: 20, Kind: block.Zero, HostOffset: none},
	}
	got, err := collect(t, block.Merge(in.Extents(0, 50)))
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	in.err = errors.New("boom")
	got, err = collect(t, block.Merge(in.Extents(0, 50)))
	if diff := cmp.Diff(want, got); err != in.err || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for range block.Merge(in.Extents(0, 50)) {
		break // must not go on after yield said no
	}
}

func TestBackingExtents(t *testing.T) {
	backing := extents{list: []block.Extent{
		{Start: 0, Length: 10, Kind: block.Data, HostOffset: 100},
		{Start: 10, Length: 10, Kind: block.Unallocated, HostOffset: block.NoOffset, Depth: 1},
	}}
	ask := func(d block.Disk, off, n int64) []block.Extent {
		got, err := collect(t, func(yield func(block.Extent, error) bool) { block.BackingExtents(d, off, n, yield) })
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	want := []block.Extent{
		{Start: 5, Length: 5, Kind: block.Data, HostOffset: 105, Depth: 1},
		{Start: 10, Length: 10, Kind: block.Unallocated, HostOffset: block.NoOffset, Depth: 2},
		{Start: 20, Length: 10, Kind: block.Unallocated, HostOffset: block.NoOffset},
	}
	if diff := cmp.Diff(want, ask(backing, 5, 25)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want = []block.Extent{{Start: 5, Length: 25, HostOffset: block.NoOffset}}
	if diff := cmp.Diff(want, ask(nil, 5, 25)); diff != "" {
		t.Errorf("without a backing file (-want +got):\n%s", diff)
	}
}
