package main

import (
	"encoding/binary"
	"io"
	"os"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/qcow2"
)

// looksPreallocated reports whether an image owns many clusters that its file
// has no space for, as one with preallocated metadata does. qemu-img looks for
// holes in the file only then.
func looksPreallocated(layer *imgopen.Image) bool {
	f, ok := layer.File.(*os.File)
	if layer.Qcow2 == nil || !ok {
		return false
	}
	fi, err := f.Stat()
	if err != nil {
		return false
	}
	h := layer.Qcow2.Header()
	taken := allocated(fi) / h.ClusterSize()
	threshold := max(taken*10/9, taken+2)
	return ownedClusters(f, h, fi.Size()/h.ClusterSize(), threshold) >= threshold
}

// ownedClusters counts clusters whose refcount is not 0, of the first n, until
// there are enough.
func ownedClusters(r io.ReaderAt, h *qcow2.Header, n, enough int64) (count int64) {
	perBlock := h.ClusterSize() * 8 / int64(h.RefcountBits())
	entry := make([]byte, 8)
	block := make([]byte, h.ClusterSize())
	for first := int64(0); first < n && count < enough; first += perBlock {
		i := first / perBlock
		if i >= int64(h.RefcountTableClusters)*h.ClusterSize()/8 {
			return count
		}
		if _, err := r.ReadAt(entry, h.RefcountTableOffset+8*i); err != nil {
			return count
		}
		off := int64(binary.BigEndian.Uint64(entry) &^ 511)
		if off == 0 {
			continue
		}
		clear(block)
		if _, err := r.ReadAt(block, off); err != nil && err != io.EOF {
			return count
		}
		for c := int64(0); c < min(perBlock, n-first) && count < enough; c++ {
			if refcount(block, h.RefcountBits(), c) {
				count++
			}
		}
	}
	return count
}

// refcount reports whether a refcount of a block is not 0.
func refcount(block []byte, width int, i int64) bool {
	if width < 8 {
		bit := i * int64(width)
		return block[bit/8]>>(bit%8)&(1<<width-1) != 0
	}
	for _, b := range block[i*int64(width/8) : (i+1)*int64(width/8)] {
		if b != 0 {
			return true
		}
	}
	return false
}
