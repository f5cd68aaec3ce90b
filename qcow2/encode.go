package qcow2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/ordered"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// EncodeOptions says what kind of image [Encode] writes. The zero
// EncodeOptions and nil are the defaults.
type EncodeOptions struct {
	// Create is the kind of image. Preallocation, DataFile, Data, DataFileRaw,
	// Encrypt and Open are not for streams and must be zero.
	Create *CreateOptions
	// Compress stores clusters compressed that shrink by it.
	Compress bool
	// Layers is how many layers of the source the image takes: what the source
	// has from its backing files at that depth or deeper is left to the backing
	// file that Create names. Default: all, and no backing file.
	Layers int
	// KeepZeros stores data of the source that is all zeros, of which whole
	// clusters are left out otherwise. Without Compress a source is then read
	// only once also where w cannot seek.
	KeepZeros bool
	// Workers is how many clusters or groups of them are read and compressed at
	// a time, at most 64. Default: as for [CopyOptions].
	Workers int
	// Progress is called now and then with how many bytes of the disk are done,
	// of how many; where the source is read twice, of twice its size. The calls
	// do not overlap.
	Progress func(done, total int64)
}

// Encode writes an image of the disk src to w, front to back: a whole image,
// with no cluster unused and none leaked. The same source and options give the
// same bytes.
//
// If w is an [io.WriteSeeker] that can seek, such as a file, the source is read
// once, and the header is written last, where w was when Encode was called; if
// w has Truncate it ends with the image. To any other writer, such as a pipe or
// a network connection, the metadata goes first. Then the source is read twice,
// and must not change in between: a change that would show in the metadata is
// an error. What was written before an error is no image where w can seek, but
// may look like one that was cut where it cannot.
//
// Reading and compressing are parallel. Besides a few clusters for each worker,
// Encode needs memory for the L2 tables of the image: 8 bytes for each cluster
// of it. Failures to read are a [*CopyError].
func Encode(ctx context.Context, w io.Writer, src Disk, o *EncodeOptions) error {
	e, err := newEncoder(src, o)
	if err != nil {
		return err
	}
	if s, ok := w.(io.WriteSeeker); ok {
		if base, err := s.Seek(0, io.SeekCurrent); err == nil {
			return e.dataFirst(ctx, s, base)
		}
	}
	return e.metadataFirst(ctx, w)
}

// group is how many bytes of the source are handed to a worker at a time, or
// one cluster if that is more.
const group = 256 << 10

// maxZeros is how many clusters of zeros are handed on at a time.
const maxZeros = 1 << 16

// An encoder writes an image of a disk.
type encoder struct {
	EncodeOptions
	layout
	src     Disk
	hdr     *Header
	passes  int64 // over the source
	done    int64 // bytes of the source in all passes
	pool    sync.Pool
	tables  map[int64][]l2Entry // by index in the L1 table; offsets are relative to the data
	packer  packer
	dataOff hostOff
}

// newEncoder checks what is asked for.
func newEncoder(src Disk, o *EncodeOptions) (*encoder, error) {
	e := &encoder{src: src, passes: 1}
	if o != nil {
		e.EncodeOptions = *o
	}
	var create CreateOptions
	if e.Create != nil {
		create = *e.Create
	}
	if create.Preallocation != PreallocateOff || create.DataFile != "" || create.Data != nil || create.DataFileRaw || create.Encrypt != nil || create.Open != nil {
		return nil, errors.New("qcow2: encode: preallocation, data files, encryption and Open are not for streams")
	}
	var err error
	if e.Workers, err = block.Workers("EncodeOptions", e.Workers); err != nil {
		return nil, fmt.Errorf("qcow2: encode: %w", err)
	}
	if e.Layers < 0 || (e.Layers > 0) != (create.BackingFile != "") {
		return nil, errors.New("qcow2: encode: Layers and a backing file go together")
	}
	h, err := create.header(src.Size())
	if err != nil {
		return nil, err
	}
	e.hdr, e.layout = h, h.layout()
	return e, nil
}

// A stretch is guest clusters that are stored in one way.
type stretch struct {
	first, n int64
	zero     bool // they read as zeros, and are not to be left out
}

// worked is what a worker made of a stretch that is stored: the
// clusters, and what each of them takes.
type worked struct {
	in, out []byte
	parts   []encoded
}

// An encoded cluster is zeros, or its bytes, which are compressed if they are
// fewer than a cluster.
type encoded struct {
	zero bool
	data []byte
}

// pass reads the source once and hands its clusters to the packer.
func (e *encoder) pass(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	jobs := func(yield func(stretch) bool) {
		for r, err := range e.stretches() {
			if err != nil {
				cancel(err)
				return
			}
			if !yield(r) {
				return
			}
		}
	}
	done, last := e.done, int64(0)
	err := ordered.Run(ctx, e.Workers, 2*e.Workers, jobs, e.work, func(r stretch, w *worked) error {
		last = min((r.first+r.n)<<e.clusterBits, e.src.Size())
		e.progress(done + last)
		return e.pack(r, w)
	})
	if err != nil {
		return err
	}
	e.progress(done + e.src.Size())
	return e.packer.end()
}

func (e *encoder) progress(done int64) {
	if e.done = done; e.Progress != nil {
		e.Progress(done, e.passes*e.src.Size())
	}
}

// stretches yields the clusters of the source that the image has something for.
func (e *encoder) stretches() iter.Seq2[stretch, error] {
	return func(yield func(stretch, error) bool) {
		var r stretch
		most := max(1, int64(group)>>e.clusterBits)
		for c, err := range e.clusters() {
			if err != nil {
				yield(stretch{}, err)
				return
			}
			if r.n > 0 && (c.zero != r.zero || c.first != r.first+r.n) {
				if !yield(r, nil) {
					return
				}
				r = stretch{}
			}
			if r.n == 0 {
				r = stretch{first: c.first, zero: c.zero}
			}
			r.n += c.n
			limit := most
			if r.zero {
				limit = maxZeros
			}
			for ; r.n > limit; r.n -= limit {
				if !yield(stretch{r.first, limit, r.zero}, nil) {
					return
				}
				r.first += limit
			}
		}
		if r.n > 0 {
			yield(r, nil)
		}
	}
}

// The ways in which a range of the source can be stored, in the order in which
// one wins over the others in a cluster.
type storage uint8

const (
	leftOut storage = iota // reads as it should without an entry
	zeros
	stored
)

func (e *encoder) storage(x Extent) storage {
	switch {
	case e.Layers > 0 && (x.Depth >= e.Layers || x.Kind == Unallocated):
		return leftOut
	case !x.IsZero():
		return stored
	case e.hdr.BackingFile == "":
		return leftOut
	}
	return zeros
}

// clusters yields stretches of clusters of the source, less those that are left
// out. A cluster that is stored in several ways is read as a whole.
func (e *encoder) clusters() iter.Seq2[stretch, error] {
	return func(yield func(stretch, error) bool) {
		var open storage // of the cluster that the last extent ended in
		send := func(first, end int64, s storage) bool {
			return first >= end || s == leftOut || yield(stretch{first, end - first, s == zeros}, nil)
		}
		for x, err := range block.WholeDisk(e.src) {
			if err != nil {
				yield(stretch{}, &CopyError{Op: "map", Offset: x.Start, Err: err})
				return
			}
			s := e.storage(x)
			first, end := x.Start>>e.clusterBits, x.End()>>e.clusterBits
			if e.offsetInCluster(x.Start) != 0 {
				if open != s {
					open = stored
				}
				if first == end {
					continue
				}
				if !send(first, first+1, open) {
					return
				}
				first++
			}
			if !send(first, end, s) {
				return
			}
			open = s
		}
		size := e.src.Size()
		last := size >> e.clusterBits
		if e.offsetInCluster(size) != 0 {
			send(last, last+1, open)
		}
	}
}

// work reads and compresses the clusters of r.
func (e *encoder) work(r stretch, w *worked) error {
	w.parts = w.parts[:0]
	cluster := int(e.clusterSize())
	if r.zero {
		return nil
	}
	if w.in == nil {
		w.in = make([]byte, max(cluster, group))
	}
	off := r.first << e.clusterBits
	in := w.in[:r.n<<e.clusterBits]
	n := min(int64(len(in)), e.src.Size()-off)
	if err := safeio.ReadFull(e.src, in[:n], off); err != nil {
		return &CopyError{Op: "read", Offset: off, Err: err}
	}
	clear(in[n:])
	c, _ := e.pool.Get().(*compressor)
	if c == nil && e.Compress {
		var err error
		if c, err = newCompressor(e.hdr.CompressionType, e.clusterSize()); err != nil {
			return fmt.Errorf("qcow2: encode: %w", err)
		}
	}
	if w.out == nil && e.Compress {
		w.out = make([]byte, 0, len(w.in))
	}
	w.out = w.out[:0]
	for ; len(in) > 0; in = in[cluster:] {
		p := encoded{data: in[:cluster:cluster]}
		if !e.KeepZeros && block.IsZero(p.data) {
			p = encoded{zero: true}
		} else if e.Compress {
			if z, ok := c.compress(p.data); ok {
				start := len(w.out)
				w.out = append(w.out, z...)
				p.data = w.out[start:len(w.out):len(w.out)]
			}
		}
		w.parts = append(w.parts, p)
	}
	if c != nil {
		e.pool.Put(c)
	}
	return nil
}

// pack gives the clusters of r their places.
func (e *encoder) pack(r stretch, w *worked) error {
	for i := range r.n {
		p := encoded{zero: true}
		if !r.zero {
			p = w.parts[i]
		}
		var err error
		switch {
		case p.zero && e.hdr.BackingFile == "":
		case p.zero && e.version >= 3:
			err = e.set(r.first+i, flagZero)
		case p.zero:
			err = e.packer.plain(r.first+i, make([]byte, e.clusterSize()))
		case int64(len(p.data)) < e.clusterSize():
			err = e.packer.compressed(r.first+i, p.data)
		default:
			err = e.packer.plain(r.first+i, p.data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// errChanged means that the source was not the same when it was read again.
var errChanged = errors.New("qcow2: encode: the source changed while it was read")

// set sets the entry of a guest cluster, or in the second pass holds that it
// is the same.
func (e *encoder) set(guest int64, entry l2Entry) error {
	index, i := guest>>e.l2Bits(), guest&(1<<e.l2Bits()-1)
	table := e.tables[index]
	if e.packer.checking {
		if table == nil || table[i] != entry {
			return errChanged
		}
		return nil
	}
	if table == nil {
		table = make([]l2Entry, 1<<e.l2Bits())
		e.tables[index] = table
	}
	table[i] = entry
	return nil
}
