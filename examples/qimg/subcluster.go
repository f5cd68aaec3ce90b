package main

import (
	"iter"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/qcow2"
)

// placed yields extents, and gives unallocated subclusters of an allocated
// cluster the place that they would have, as qemu-img tells it.
func placed(img *imgopen.Image, seq iter.Seq2[block.Extent, error]) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		var prev, x block.Extent // x waits for the one after it
		send := func(next block.Extent) bool {
			ok := true
			for _, p := range places(img, prev, x, next) {
				ok = ok && (p.Length == 0 || yield(p, nil))
			}
			prev, x = x, next
			return ok
		}
		for next, err := range seq {
			if err != nil {
				yield(next, err)
				return
			}
			if !send(next) {
				return
			}
		}
		send(block.Extent{})
	}
}

// places splits x into what shares a cluster with prev, the middle, and what
// shares one with next.
func places(img *imgopen.Image, prev, x, next block.Extent) []block.Extent {
	layer := img.Layer(x.Depth)
	if x.Kind != block.Unallocated || x.HostOffset >= 0 || layer == nil || layer.Qcow2 == nil ||
		layer.Qcow2.Header().IncompatibleFeatures&qcow2.IncompatExtendedL2 == 0 {
		return []block.Extent{x}
	}
	owns := func(n block.Extent) bool {
		return n.Length > 0 && n.Depth == x.Depth && n.HostOffset >= 0 && n.Kind != block.Compressed
	}
	cluster := layer.Qcow2.ClusterSize()
	first, last := x.Start, x.End()
	if owns(prev) {
		first = min(align.Up(x.Start, cluster), x.End())
	}
	if owns(next) {
		last = max(align.Down(x.End(), cluster), first)
	}
	head, middle, tail := x, x, x
	head.Length, head.HostOffset = first-x.Start, prev.HostOffset+prev.Length
	middle.Start, middle.Length = first, last-first
	tail.Start, tail.Length, tail.HostOffset = last, x.End()-last, next.HostOffset-(x.End()-last)
	return []block.Extent{head, middle, tail}
}
