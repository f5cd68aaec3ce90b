package libxlfmt

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sort"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

// MemoryOptions say which memory [Index.Memory] returns. The zero value, and
// nil, are the defaults.
type MemoryOptions struct {
	// Records is how many records count, from the first on. The default is
	// all; [Index.LastCheckpoint] is a value for streams that broke off.
	Records int

	// MaxSize is how many bytes the memory may span, from address 0 on: a
	// page behind that is an error. The default is 16 TiB.
	MaxSize int64
}

const defaultMaxMemory = 16 << 40

// A Memory is the memory of a domain as a stream leaves it: byte n is that at
// address n of the guest. Of a page that was sent several times, the last one
// counts; pages behind VERIFY do not, because they only repeat what the
// receiver has. Holes read as zeros.
//
// Methods of Memory are safe for concurrent use.
type Memory struct {
	r    io.ReaderAt
	runs []PageRun // ascending, without overlap
	size int64
}

// A PageRun is a range of pages of one type that lie one behind the other in
// the stream.
type PageRun struct {
	PFN    uint64 // the first page
	Count  uint64 // of pages, at least 1
	Type   PageType
	Offset int64 // of the first page in the stream, [NoOffset] if the type has no contents
}

func (r PageRun) end() uint64 { return r.PFN + r.Count }

// from returns what of r lies at pfn and behind it.
func (r PageRun) from(pfn uint64) PageRun {
	if r.Offset != NoOffset {
		r.Offset += int64(pfn-r.PFN) * pageSize
	}
	r.Count -= pfn - r.PFN
	r.PFN = pfn
	return r
}

// follows reports whether r continues prev.
func (r PageRun) follows(prev PageRun) bool {
	if r.PFN != prev.end() || r.Type != prev.Type {
		return false
	}
	return r.Offset == NoOffset || r.Offset == prev.Offset+int64(prev.Count)*pageSize
}

// Memory reads the entries of all PAGE_DATA and returns the memory they make
// up. It takes 32 bytes for each run of pages; a guest's memory, sent in
// order, has one for every record.
func (x *Index) Memory(o *MemoryOptions) (*Memory, error) {
	limit, records := int64(defaultMaxMemory), x.records
	if o != nil && o.MaxSize > 0 {
		limit = o.MaxSize
	}
	if o != nil && o.Records > 0 {
		records = records[:min(o.Records, len(records))]
	}
	c := collector{w: newWindow(x.r, 0, x.size), maxPFN: uint64(limit / pageSize)}
	for _, rec := range records {
		switch rec.Type {
		case TypeLibxcContext, TypeSectionLibxc:
			c.runs, c.repeats = nil, false
		case TypeVerify:
			c.repeats = true
		case TypePageData:
			if c.repeats {
				continue
			}
			if err := c.batch(rec); err != nil {
				return nil, x.bodyError(rec, err)
			}
		}
	}
	m := &Memory{r: x.r, runs: resolve(c.runs)}
	if n := len(m.runs); n > 0 {
		m.size = int64(m.runs[n-1].end()) * pageSize
	}
	return m, nil
}

// A collector gathers runs in the order of the stream.
type collector struct {
	w       *window
	maxPFN  uint64
	runs    []PageRun
	repeats bool // VERIFY was passed
	buf     []byte
}

func (c *collector) batch(rec Record) error {
	c.w.pos = rec.BodyOffset()
	entries, err := readEntries(c.w, rec.Order(), rec.Length, c.buf)
	if err != nil {
		return err
	}
	c.buf = entries
	o := rec.Order()
	off := rec.BodyOffset() + pageDataHead + int64(len(entries))
	for ; len(entries) > 0; entries = entries[pageEntrySize:] {
		e := PageEntry(o.Uint64(entries))
		run := PageRun{PFN: e.PFN(), Count: 1, Type: e.Type(), Offset: NoOffset}
		if run.PFN >= c.maxPFN {
			return &FormatError{Offset: rec.BodyOffset(), Field: rec.Type.field(), Code: CodePagePFN,
				Err: fmt.Errorf("pfn %#x: memory of more than %d pages: %w", run.PFN, c.maxPFN, errors.ErrUnsupported)}
		}
		if run.Type.HasData() {
			run.Offset, off = off, off+pageSize
		}
		c.add(run)
	}
	if off != rec.BodyOffset()+rec.Length {
		return errPageSize
	}
	return nil
}

func (c *collector) add(run PageRun) {
	if n := len(c.runs); n > 0 && run.follows(c.runs[n-1]) {
		c.runs[n-1].Count++
		return
	}
	c.runs = append(c.runs, run)
}

// resolve returns the runs that are left where the later ones hide the
// earlier ones, in ascending order. It takes time n log n.
func resolve(runs []PageRun) []PageRun {
	if ascending(runs) {
		return runs
	}
	order := make([]int, len(runs)) // by first page
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(runs[a].PFN, runs[b].PFN) })
	var out []PageRun
	open := latest{runs: runs} // those that begin at pfn or before it
	for pfn := uint64(0); len(order) > 0 || len(open.at) > 0; {
		for len(order) > 0 && runs[order[0]].PFN <= pfn {
			heap.Push(&open, order[0])
			order = order[1:]
		}
		for len(open.at) > 0 && open.top().end() <= pfn {
			heap.Pop(&open)
		}
		switch {
		case len(open.at) > 0:
			r := open.top().from(pfn)
			if len(order) > 0 {
				r.Count = min(r.Count, runs[order[0]].PFN-pfn)
			}
			if n := len(out); n > 0 && r.follows(out[n-1]) {
				out[n-1].Count += r.Count
			} else {
				out = append(out, r)
			}
			pfn = r.end()
		case len(order) > 0:
			pfn = runs[order[0]].PFN
		}
	}
	return out
}

// ascending reports whether no run begins before the end of another.
func ascending(runs []PageRun) bool {
	for i := 1; i < len(runs); i++ {
		if runs[i].PFN < runs[i-1].end() {
			return false
		}
	}
	return true
}

// latest is a heap of runs, the one sent last on top.
type latest struct {
	runs []PageRun
	at   []int // in runs
}

func (l *latest) top() PageRun       { return l.runs[l.at[0]] }
func (l *latest) Len() int           { return len(l.at) }
func (l *latest) Less(i, j int) bool { return l.at[i] > l.at[j] }
func (l *latest) Swap(i, j int)      { l.at[i], l.at[j] = l.at[j], l.at[i] }
func (l *latest) Push(x any)         { l.at = append(l.at, x.(int)) }

func (l *latest) Pop() any {
	n := len(l.at) - 1
	x := l.at[n]
	l.at = l.at[:n]
	return x
}

// Size returns the length of the memory in bytes: up to the last page that the
// stream names.
func (m *Memory) Size() int64 { return m.size }

// Runs yields what the stream says of the pages, in ascending order. Pages
// that it does not name are not yielded.
func (m *Memory) Runs() iter.Seq[PageRun] { return slices.Values(m.runs) }

// Page returns what the stream says of a page, as a run of one, and false if
// it says nothing.
func (m *Memory) Page(pfn uint64) (PageRun, bool) {
	i := m.find(pfn)
	if i == len(m.runs) || m.runs[i].PFN > pfn {
		return PageRun{}, false
	}
	r := m.runs[i].from(pfn)
	r.Count = 1
	return r, true
}

// find returns the first run that ends behind pfn.
func (m *Memory) find(pfn uint64) int {
	return sort.Search(len(m.runs), func(i int) bool { return m.runs[i].end() > pfn })
}

var errNegative = errors.New("libxlfmt: negative offset or length")

// Extents yields what stands behind the n bytes at off, in order and without
// gaps, cut to the range and to the size of the memory.
func (m *Memory) Extents(off, n int64) iter.Seq2[Extent, error] {
	return block.Merge(m.extents(off, n))
}

func (m *Memory) extents(off, n int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		if off < 0 || n < 0 {
			yield(Extent{}, errNegative)
			return
		}
		at := min(off, m.size)
		end := at + min(n, m.size-at)
		for i := m.find(uint64(at / pageSize)); at < end; i++ {
			r := m.runs[i]
			start := int64(r.PFN) * pageSize
			if at < start {
				hole := Extent{Start: at, Length: min(start, end) - at, Kind: Unallocated, HostOffset: NoOffset}
				if !yield(hole, nil) {
					return
				}
				at = hole.End()
			}
			if at == end {
				return
			}
			e := Extent{Start: at, Length: min(int64(r.end())*pageSize, end) - at, HostOffset: NoOffset}
			switch {
			case r.Offset != NoOffset:
				e.Kind, e.HostOffset = Data, r.Offset+at-start
			case r.Type == PageXAlloc:
				e.Kind = Zero
			}
			if !yield(e, nil) {
				return
			}
			at = e.End()
		}
	}
}

// ReadAt reads memory; holes are zeros. At the end of the memory it returns
// [io.EOF].
func (m *Memory) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errNegative
	}
	done := 0
	for e := range m.Extents(off, int64(len(p))) {
		part := p[done : done+int(e.Length)]
		if e.Kind != Data {
			clear(part)
		} else if err := safeio.ReadFull(m.r, part, e.HostOffset); err != nil {
			return done, fmt.Errorf("libxlfmt: memory at %#x: %w", e.Start, err)
		}
		done += len(part)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// HostFile returns the saved domain, which the HostOffset of extents refers to.
func (m *Memory) HostFile(depth int) io.ReaderAt {
	if depth != 0 {
		return nil
	}
	return m.r
}

// CopyTo copies the memory to dst, in parallel and without its holes where dst
// is known to read as zeros. A failure is a [*CopyError] that wraps what
// failed, or the cause of ctx.
func (m *Memory) CopyTo(ctx context.Context, dst io.WriterAt, o *CopyOptions) (CopyStats, error) {
	return block.Copy(ctx, dst, m, o)
}

var (
	_ block.Disk      = (*Memory)(nil)
	_ block.HostFiler = (*Memory)(nil)
)
