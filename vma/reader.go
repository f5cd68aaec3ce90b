package vma

import (
	"cmp"
	"context"
	"io"
	"iter"
	"math/bits"
)

// A Reader reads an archive from front to back, from a pipe or a
// decompressor. It holds one extent at a time, less than 4 MiB, besides the
// header and a bit for each cluster. It reads nothing past the extent that it
// is in; an archive ends where the stream does. To salvage it looks ahead by
// an extent where there is damage. A Reader is not safe for concurrent use.
type Reader struct {
	w      *walker
	stream *streamSource
	extent *extent // nil before the first and at the end
	index  int     // of the next cluster in it
}

// NewReader reads the header of the archive r. The findings that a profile
// counts as an error end the reading, as a [*FormatError]; under [Salvage] the
// Reader goes on after damage, and [Reader.Report] says what was lost. Where r
// fails, as a decompressor does at damage, the archive ends for a salvage, but
// not at a checksum of zstd that is wrong: the first error of r comes after all
// that was read, in place of [io.EOF].
func NewReader(r io.Reader, o *Options) (*Reader, error) {
	opt := o.withDefaults()
	salvage := opt.Profile == Salvage
	src := &streamSource{r: r, lenient: salvage}
	w, err := newWalker(context.Background(), src, -1, opt, salvage)
	if err != nil {
		return nil, cmp.Or(src.failed, err)
	}
	src.release()
	w.list = true
	return &Reader{w: w, stream: src}, nil
}

// Header returns a copy of the header.
func (r *Reader) Header() Header { return r.w.header.clone() }

// Offset returns how many bytes of the archive were consumed.
func (r *Reader) Offset() int64 { return r.stream.offset() }

// Report returns what is known of the archive so far; all there is to know
// once [Reader.Next] returned an error or [io.EOF].
func (r *Reader) Report() *Report { return r.w.result() }

// Next returns the next cluster of any device, in the order of the archive.
// Its Data is a view that is valid until the next call. At the end of an
// archive that holds all clusters of all devices Next returns [io.EOF]; where
// some are missing, a [*FormatError], except under [Salvage]. After an error
// Next returns the same error again.
func (r *Reader) Next() (Cluster, error) {
	for r.extent == nil || r.index == len(r.extent.clusters) {
		e, err := r.w.next()
		if err != nil {
			r.extent = nil
			if err == io.EOF && r.stream.failed != nil {
				err = r.stream.failed
			}
			return Cluster{}, err
		}
		r.extent, r.index = e, 0
	}
	e, c := r.extent, &r.extent.clusters[r.index]
	r.index++
	return Cluster{
		Device: c.dev(),
		Number: c.cluster(),
		Mask:   c.mask(),
		Data:   e.data[c.data : c.data+c.blocks()*BlockSize],
		Offset: e.offset + int64(c.data),
		Extent: e.number,
		Slot:   c.index,
		size:   c.size,
	}, nil
}

// A Cluster is 64 KiB of a device, as an archive stores it: the blocks of 4096
// bytes that are not all zero.
type Cluster struct {
	Device uint8  // device ID
	Number uint32 // which cluster of the device, from 0
	// Mask has bit i set where block i is stored. In archives made before 2020
	// bits past the end of the device may be set.
	Mask   uint16
	Data   []byte // the stored blocks, one after the other
	Offset int64  // of Data in the archive
	Extent int64  // number of the extent, from 0
	Slot   int    // slot of the extent, 0 to 58

	size int
}

// Start returns the offset of the cluster in its device.
func (c *Cluster) Start() int64 { return int64(c.Number) * ClusterSize }

// Len returns how many bytes of the device the cluster covers: 65536, less
// for the last one of most devices.
func (c *Cluster) Len() int { return c.size }

// IsZero reports whether nothing of the cluster is stored: it reads as zeros.
func (c *Cluster) IsZero() bool { return c.Mask == 0 }

// Runs yields the ranges of the device that are stored, as an offset in the
// device and a view of the bytes, in ascending order and cut to the end of
// the device. All else of the cluster is zero.
func (c *Cluster) Runs() iter.Seq2[int64, []byte] {
	return func(yield func(int64, []byte) bool) {
		data := c.Data
		for first, n := range maskRuns(c.Mask) {
			start := first * BlockSize
			if start >= c.size {
				return
			}
			b := data[:min(n*BlockSize, c.size-start)]
			data = data[min(n*BlockSize, len(data)):]
			if !yield(c.Start()+int64(start), b) {
				return
			}
		}
	}
}

// CopyTo fills the first [Cluster.Len] bytes of p with what the cluster reads
// as.
//
// Preconditions: p has as many bytes.
func (c *Cluster) CopyTo(p []byte) {
	p = p[:c.size]
	clear(p)
	for off, b := range c.Runs() {
		copy(p[off-c.Start():], b)
	}
}

// maskRuns yields the runs of set bits of a mask, as first bit and count.
func maskRuns(mask uint16) iter.Seq2[int, int] {
	return func(yield func(int, int) bool) {
		for m := uint32(mask); m != 0; {
			first := bits.TrailingZeros32(m)
			n := bits.TrailingZeros32(^(m >> first))
			if !yield(first, n) {
				return
			}
			m &^= (1<<n - 1) << first
		}
	}
}
