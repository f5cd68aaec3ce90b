package qcow2

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/virtfmt/virtfmt/internal/align"
)

// An encoded image has five areas besides its header, which is a cluster: the
// refcount table, the refcount blocks, the L1 table, the L2 tables in the order
// of the disk, and the data. They follow each other in this order, or the data
// comes before the others.
type places struct {
	table, blocks, l1, l2, data clusterIdx // where each area begins
	tableLen, blocksLen         int64      // in clusters
	end                         clusterIdx // behind the last one
}

// places lays out the areas, once the first pass has told how large the data
// and how many L2 tables there are.
func (e *encoder) places(dataFirst bool) places {
	data := align.CeilDiv(e.packer.pos, e.clusterSize())
	l1 := align.CeilDiv(int64(e.hdr.L1Size)*l1EntrySize, e.clusterSize())
	l2 := int64(len(e.tables))
	var p places
	for used := 1 + data + l1 + l2; ; { // all that is counted counts itself
		p.blocksLen = max(1, align.CeilDiv(used+p.tableLen+p.blocksLen, 1<<e.refBlockBits()))
		p.tableLen = align.CeilDiv(p.blocksLen*refTableEntrySize, e.clusterSize())
		if p.end = clusterIdx(used + p.tableLen + p.blocksLen); int64(p.end) <= p.blocksLen<<e.refBlockBits() {
			break
		}
	}
	next := clusterIdx(1)
	take := func(at *clusterIdx, n int64) {
		*at = next
		next += clusterIdx(n)
	}
	if dataFirst {
		take(&p.data, data)
	}
	take(&p.table, p.tableLen)
	take(&p.blocks, p.blocksLen)
	take(&p.l1, l1)
	take(&p.l2, l2)
	if !dataFirst {
		take(&p.data, data)
	}
	return p
}

// setHeader completes the header, and refuses an image that is too large.
func (e *encoder) setHeader(p places) error {
	limit := hostOff(l2OffsetLimit)
	if e.Compress {
		limit = e.compressedLimit()
	}
	if p.end >= e.cluster(limit) {
		return fmt.Errorf("qcow2: encode: image file: %w of %d bytes", ErrLimit, limit)
	}
	if p.tableLen<<e.clusterBits > maxRefcountTableBytes {
		return fmt.Errorf("qcow2: encode: refcount table: %w of %d bytes", ErrLimit, maxRefcountTableBytes)
	}
	e.hdr.RefcountTableOffset = int64(e.clusterOff(p.table))
	e.hdr.RefcountTableClusters = uint32(p.tableLen)
	if e.hdr.L1Size > 0 {
		e.hdr.L1TableOffset = int64(e.clusterOff(p.l1))
	}
	e.dataOff = e.clusterOff(p.data)
	return nil
}

// start begins a pass over the source, whose data goes to out.
func (e *encoder) start(out func([]byte) error) {
	checking := e.tables != nil
	if !checking {
		e.tables = map[int64][]l2Entry{}
	}
	e.packer = packer{layout: e.layout, set: e.set, out: out, checking: checking}
}

// dataFirst writes the data while it is read, then the metadata, and the
// header, at base, last.
func (e *encoder) dataFirst(ctx context.Context, w io.WriteSeeker, base int64) error {
	out := newOutput(w)
	e.start(out.write)
	if err := out.write(make([]byte, e.clusterSize())); err != nil {
		return out.wrap(err)
	}
	if err := e.pass(ctx); err != nil {
		return out.wrap(err)
	}
	if err := e.packer.pad(e.clusterSize()); err != nil {
		return out.wrap(err)
	}
	p := e.places(true)
	if err := e.setHeader(p); err != nil {
		return err
	}
	if err := e.writeMetadata(out, p); err != nil {
		return out.wrap(err)
	}
	if err := out.Flush(); err != nil {
		return out.wrap(err)
	}
	end := base + int64(e.clusterOff(p.end))
	if t, ok := w.(interface{ Truncate(int64) error }); ok {
		if err := t.Truncate(end); err != nil {
			return out.wrap(err)
		}
	}
	if _, err := w.Seek(base, io.SeekStart); err != nil {
		return out.wrap(err)
	}
	if err := e.writeHeader(out); err != nil {
		return out.wrap(err)
	}
	if err := out.Flush(); err != nil {
		return out.wrap(err)
	}
	// A file that was opened to append writes at its end, wherever it stands.
	if at, err := w.Seek(0, io.SeekCurrent); err != nil || at != base+e.clusterSize() {
		return fmt.Errorf("qcow2: encode: the header was written to %#x, not %#x: %w", at-e.clusterSize(), base, io.ErrShortWrite)
	}
	_, err := w.Seek(end, io.SeekStart)
	return out.wrap(err)
}

// metadataFirst lays the image out in a first pass, and writes it in a second.
func (e *encoder) metadataFirst(ctx context.Context, w io.Writer) error {
	e.passes = 2
	e.start(nil)
	if err := e.pass(ctx); err != nil {
		return err
	}
	p, size, refs := e.places(false), e.packer.pos, e.packer.refs
	if err := e.setHeader(p); err != nil {
		return err
	}
	out := newOutput(w)
	if err := e.writeHeader(out); err != nil {
		return out.wrap(err)
	}
	if err := e.writeMetadata(out, p); err != nil {
		return out.wrap(err)
	}
	e.start(out.write)
	if err := e.pass(ctx); err != nil {
		return out.wrap(err)
	}
	if e.packer.pos != size || !slices.Equal(e.packer.refs, refs) {
		return errChanged
	}
	return out.wrap(out.Flush())
}

// writeHeader writes the cluster with the header.
func (e *encoder) writeHeader(out *output) error {
	b, err := e.hdr.AppendBinary(make([]byte, 0, e.clusterSize()))
	if err != nil {
		return err
	}
	return out.write(b[:e.clusterSize()])
}

// writeMetadata writes all areas but the data, in their order.
func (e *encoder) writeMetadata(out *output, p places) error {
	table := make(refTable, p.tableLen<<e.clusterBits)
	for i := range p.blocksLen {
		table.set(int(i), refTableEntry(e.clusterOff(p.blocks+clusterIdx(i))))
	}
	if err := out.write(table); err != nil {
		return err
	}
	block := make(refBlock, e.clusterSize())
	for i := range clusterIdx(p.blocksLen) {
		clear(block)
		first := i << e.refBlockBits()
		for j := first; j < min(first+1<<e.refBlockBits(), p.end); j++ {
			n := uint64(1)
			if k := j - p.data; k >= 0 && k < clusterIdx(len(e.packer.refs)) {
				n = uint64(e.packer.refs[k])
			}
			block.set(e.refcountOrder, int(j-first), n)
		}
		if err := out.write(block); err != nil {
			return err
		}
	}
	indexes := slices.Sorted(maps.Keys(e.tables))
	l1 := make(l1Table, align.Up(int64(e.hdr.L1Size)*l1EntrySize, e.clusterSize()))
	for i, index := range indexes {
		l1.set(int(index), makeL1Entry(e.clusterOff(p.l2+clusterIdx(i)), true))
	}
	if err := out.write(l1); err != nil {
		return err
	}
	buf := make([]byte, e.clusterSize())
	for _, index := range indexes {
		if err := out.write(e.l2Table(buf, e.tables[index])); err != nil {
			return err
		}
	}
	return nil
}

// l2Table fills buf with the L2 table that entries become when their offsets
// are counted from the start of the image.
func (e *encoder) l2Table(buf []byte, entries []l2Entry) []byte {
	for i, x := range entries {
		subs := subclusters(0)
		switch {
		case x == 0:
		case x == flagZero && e.extended:
			x, subs = 0, allZeroes
		case x == flagZero:
		case x.compressed():
			x += l2Entry(e.dataOff)
		default:
			x += l2Entry(e.dataOff)
			subs = allAllocated
		}
		if e.extended {
			extL2Table(buf).set(i, entry{x, subs})
		} else {
			l2Table(buf).set(i, x)
		}
	}
	return buf
}

// output writes the image through a buffer, and marks what fails there.
type output struct {
	*bufio.Writer
	err error
}

func newOutput(w io.Writer) *output { return &output{Writer: bufio.NewWriterSize(w, 256<<10)} }

func (o *output) write(p []byte) error {
	_, o.err = o.Write(p)
	return o.err
}

// wrap names what an error is about.
func (o *output) wrap(err error) error {
	if err != nil && err == o.err {
		return fmt.Errorf("qcow2: encode: write: %w", err)
	}
	return err
}
