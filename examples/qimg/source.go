package main

import (
	"errors"
	"io"
	"iter"
	"math"

	"github.com/virtfmt/virtfmt/internal/block"
)

// A joined is disks behind each other.
type joined struct {
	disks  []block.Disk
	starts []int64 // of each, and the end of the last
}

// join returns disks behind each other as one.
func join(disks []block.Disk) block.Disk {
	if len(disks) == 1 {
		return disks[0]
	}
	j := &joined{disks, make([]int64, 1, len(disks)+1)}
	for i, d := range disks {
		j.starts = append(j.starts, j.starts[i]+d.Size())
	}
	return j
}

func (j *joined) Size() int64 { return j.starts[len(j.disks)] }

func (j *joined) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	for i, d := range j.disks {
		at := off + int64(n)
		if at >= j.starts[i+1] || n == len(p) && n > 0 {
			continue
		}
		m, err := d.ReadAt(p[n:min(int64(len(p)), int64(n)+j.starts[i+1]-at)], at-j.starts[i])
		n += m
		if err != nil && (err != io.EOF || off+int64(n) < j.starts[i+1]) {
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (j *joined) Extents(off, n int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		end := off + min(n, math.MaxInt64-off)
		for i, d := range j.disks {
			from, to := max(off, j.starts[i]), min(end, j.starts[i+1])
			if from >= to {
				continue
			}
			for x, err := range d.Extents(from-j.starts[i], to-from) {
				x.Start += j.starts[i]
				if !yield(x, err) || err != nil {
					return
				}
			}
		}
	}
}

// ClusterSize returns the largest of the disks' clusters.
func (j *joined) ClusterSize() int64 {
	most := int64(0)
	for _, d := range j.disks {
		if c, ok := d.(block.Clusterer); ok {
			most = max(most, c.ClusterSize())
		}
	}
	return most
}

// A remapped disk tells other extents than it has. Those of a file are not the
// system's to copy then.
type remapped struct {
	block.Disk
	change func(x *block.Extent)
}

func (r remapped) Extents(off, n int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		for x, err := range r.Disk.Extents(off, n) {
			if err == nil {
				r.change(&x)
			}
			if !yield(x, err) {
				return
			}
		}
	}
}

func (r remapped) ClusterSize() int64 {
	if c, ok := r.Disk.(block.Clusterer); ok {
		return c.ClusterSize()
	}
	return 0
}

// solid returns a disk of which all is stored.
func solid(d block.Disk) block.Disk {
	return remapped{d, func(x *block.Extent) {
		if x.IsZero() {
			x.Kind, x.HostOffset, x.Depth = block.Data, block.NoOffset, 0
		}
	}}
}

// overBacking returns a disk in which nothing is left open to a backing file
// but what the backing file of the disk itself is for.
func overBacking(d block.Disk) block.Disk {
	return remapped{d, func(x *block.Extent) {
		if x.Kind == block.Unallocated && x.Depth == 0 {
			x.Kind, x.HostOffset = block.Zero, block.NoOffset
		}
	}}
}

var _ block.Clusterer = (*joined)(nil)
