package block_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/internal/sparse"
)

// A model is a disk of known bytes and made-up extents.
type model struct {
	bytes.Reader
	data    []byte
	list    []block.Extent
	cluster int64

	failAt  int64 // reads that touch it fail, 0 none
	mapFail int64 // the extent that starts here is an error, 0 none
	reads   atomic.Int64
}

var errFault = errors.New("a fault of the test")

// newModel makes a disk of n bytes with extents of all kinds, the zero ones of
// which read as zeros, as does some of the data.
func newModel(r *rand.Rand, n int) *model {
	m := &model{data: make([]byte, n), cluster: 64 << 10}
	for off := 0; off < n; {
		length := 1 + r.IntN(1<<(1+r.IntN(19)))
		if r.IntN(3) > 0 {
			length = (length + 511) &^ 511
		}
		length = min(length, n-off)
		e := block.Extent{Start: int64(off), Length: int64(length), Kind: block.Kind(r.IntN(4)), HostOffset: block.NoOffset, Depth: r.IntN(3)}
		if !e.IsZero() {
			for at := off; at < off+length; at += 4096 {
				if r.IntN(3) > 0 {
					p := m.data[at:min(at+4096, off+length)]
					for i := 0; i < len(p); i += 1 + r.IntN(300) {
						p[i] = byte(r.Uint32())
					}
				}
			}
		}
		m.list = append(m.list, e)
		off += length
	}
	m.Reader.Reset(m.data)
	return m
}

func (m *model) Size() int64        { return int64(len(m.data)) }
func (m *model) ClusterSize() int64 { return m.cluster }

func (m *model) ReadAt(p []byte, off int64) (int, error) {
	m.reads.Add(int64(len(p)))
	end := off + int64(len(p))
	if m.failAt > 0 && off <= m.failAt && m.failAt < end {
		return 0, errFault
	}
	return m.Reader.ReadAt(p, off)
}

func (m *model) Extents(off, n int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		for e := range (extents{list: m.list}).Extents(off, n) {
			if m.mapFail > 0 && e.Start == m.mapFail {
				yield(block.Extent{}, errFault)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// onlyWriter hides all methods of a file but WriteAt.
type onlyWriter struct{ io.WriterAt }

// zeroWriter is a target that counts how many zeros it was asked for.
type zeroWriter struct {
	*memfile.File
	asked atomic.Int64
	err   error
}

func (z *zeroWriter) WriteZeroesAt(off, n int64) error {
	z.asked.Add(n)
	if z.err != nil {
		return z.err
	}
	_, err := z.File.WriteAt(make([]byte, n), off)
	return err
}

func TestCopy(t *testing.T) {
	r := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	for range difftest.Scale(t, 60) {
		m := newModel(r, 1+r.IntN(3<<20))
		old := make([]byte, r.IntN(4<<20))
		for i := range old {
			old[i] = byte(i) | 1
		}
		if r.IntN(2) == 0 {
			old = nil
		}
		opts := &block.CopyOptions{
			Workers:    r.IntN(6),
			BufferSize: []int{0, 4096, 64 << 10}[r.IntN(3)],
			Sparse:     []int{0, -1, 512, 4096}[r.IntN(4)],
			InOrder:    r.IntN(2) == 0,
		}
		name := fmt.Sprintf("%d bytes over %d, %+v", len(m.data), len(old), *opts)

		mem := memfile.FromBytes(old)
		stats, err := block.Copy(t.Context(), mem, m, opts)
		judge(t, name+" to memory", m, mem.Bytes(), stats, err)
		if len(old) == 0 && stats.Zeroed > 0 {
			t.Errorf("%s: zeros written to an empty target: %+v", name, stats)
		}

		z := &zeroWriter{File: memfile.FromBytes(old)}
		stats, err = block.Copy(t.Context(), z, m, opts)
		judge(t, name+" to a zero writer", m, z.Bytes(), stats, err)
		if len(old) > 0 && stats.Zeroed != z.asked.Load() {
			t.Errorf("%s: asked for %d zeros, said %+v", name, z.asked.Load(), stats)
		}

		z = &zeroWriter{File: memfile.FromBytes(old), err: errors.ErrUnsupported}
		stats, err = block.Copy(t.Context(), z, m, opts)
		judge(t, name+" to one that cannot", m, z.Bytes(), stats, err)

		mem = memfile.FromBytes(append(old, make([]byte, max(0, len(m.data)-len(old)))...))
		stats, err = block.Copy(t.Context(), onlyWriter{mem}, m, opts)
		judge(t, name+" to a writer", m, mem.Bytes()[:len(m.data)], stats, err)
		if stats.Skipped > 0 {
			t.Errorf("%s: skipped bytes of a target that may hold anything: %+v", name, stats)
		}

		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(old); err != nil {
			t.Fatal(err)
		}
		stats, err = block.Copy(t.Context(), f, m, opts)
		got, readErr := os.ReadFile(f.Name())
		if readErr != nil {
			t.Fatal(readErr)
		}
		judge(t, name+" to a file", m, got, stats, err)
		f.Close()
	}
}

func judge(t *testing.T, name string, m *model, got []byte, s block.CopyStats, err error) {
	t.Helper()
	if err != nil || !bytes.Equal(got, m.data) {
		t.Fatalf("%s: %v, %d bytes, equal: %v", name, err, len(got), bytes.Equal(got, m.data))
	}
	if sum := s.Written + s.Zeroed + s.Skipped; sum != m.Size() {
		t.Errorf("%s: %+v is %d of %d bytes", name, s, sum, m.Size())
	}
}

// TestCopyReadsWholeClusters holds that no cluster of the source is read in
// two pieces, where extents end with clusters.
func TestCopyReadsWholeClusters(t *testing.T) {
	m := newModel(rand.New(rand.NewPCG(1, 0)), 4<<20)
	m.list = []block.Extent{
		{Start: 0, Length: 1 << 20, Kind: block.Data, HostOffset: 5},
		{Start: 1 << 20, Length: 3 << 20, Kind: block.Compressed, HostOffset: block.NoOffset},
	}
	m.cluster = 1 << 20
	w := watched{model: m}
	if _, err := block.Copy(t.Context(), memfile.New(), &w, &block.CopyOptions{BufferSize: 4096}); err != nil {
		t.Fatal(err)
	}
	for _, r := range w.seen {
		if r[0]%m.cluster != 0 || r[1]%m.cluster != 0 {
			t.Errorf("read from %#x to %#x", r[0], r[1])
		}
	}
}

// watched is a model that notes which ranges are read.
type watched struct {
	*model
	mu   sync.Mutex
	seen [][2]int64
}

func (w *watched) ReadAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	w.seen = append(w.seen, [2]int64{off, off + int64(len(p))})
	w.mu.Unlock()
	return w.model.ReadAt(p, off)
}

func TestCopySkipsZeros(t *testing.T) {
	m := newModel(rand.New(rand.NewPCG(2, 0)), 1<<20)
	stored := int64(0)
	for _, e := range m.list {
		if !e.IsZero() {
			stored += e.Length
		}
	}
	stats, err := block.Copy(t.Context(), memfile.New(), m, nil)
	if err != nil || m.reads.Load() != stored || stats.Written >= stored || stats.Written == 0 {
		t.Errorf("%v: %d bytes stored, %d read, %+v", err, stored, m.reads.Load(), stats)
	}
	// A target of the same size that nobody vouches for is written in full.
	stats, err = block.Copy(t.Context(), onlyWriter{memfile.New()}, m, nil)
	if err != nil || stats.Written != stored || stats.Zeroed != m.Size()-stored {
		t.Errorf("%v: %d bytes stored, %+v", err, stored, stats)
	}
	stats, err = block.Copy(t.Context(), onlyWriter{memfile.New()}, m, &block.CopyOptions{Zeroed: true})
	if err != nil || stats.Zeroed != 0 || stats.Written >= stored {
		t.Errorf("zeroed: %v, %d bytes stored, %+v", err, stored, stats)
	}
}

func TestCopyInOrder(t *testing.T) {
	m := newModel(rand.New(rand.NewPCG(3, 0)), 8<<20)
	last, running := int64(-1), atomic.Int32{}
	w := writerFunc(func(p []byte, off int64) (int, error) {
		if running.Add(1) > 1 {
			t.Error("two writes at a time")
		}
		defer running.Add(-1)
		if off <= last {
			t.Errorf("a write at %#x after one at %#x", off, last)
		}
		last = off
		return len(p), nil
	})
	if _, err := block.Copy(t.Context(), w, m, &block.CopyOptions{InOrder: true, BufferSize: 4096, Workers: 7}); err != nil {
		t.Fatal(err)
	}
}

type writerFunc func(p []byte, off int64) (int, error)

func (w writerFunc) WriteAt(p []byte, off int64) (int, error) { return w(p, off) }

func TestCopyProgress(t *testing.T) {
	m := newModel(rand.New(rand.NewPCG(4, 0)), 8<<20)
	last := int64(0)
	_, err := block.Copy(t.Context(), memfile.New(), m, &block.CopyOptions{Progress: func(done, total int64) {
		if done <= last || total != m.Size() {
			t.Errorf("%d after %d, of %d", done, last, total)
		}
		last = done
	}})
	if err != nil || last != m.Size() {
		t.Errorf("%v, the last progress was %d of %d", err, last, m.Size())
	}
}

func TestCopyFaults(t *testing.T) {
	for _, inOrder := range []bool{false, true} {
		opts := &block.CopyOptions{InOrder: inOrder, BufferSize: 64 << 10}
		fresh := func() *model {
			m := newModel(rand.New(rand.NewPCG(5, 0)), 4<<20)
			m.cluster = 4096
			return m
		}
		check := func(err error, op string, off, n int64) {
			t.Helper()
			var e *block.CopyError
			if !errors.As(err, &e) || !errors.Is(err, errFault) || e.Op != op || e.Offset > off || off >= e.Offset+n {
				t.Errorf("in order %v: %v, want a fault of %s at %#x", inOrder, err, op, off)
			}
		}
		m := fresh()
		for _, e := range m.list {
			if e.Start > 1<<20 && !e.IsZero() {
				m.failAt = e.Start
				break
			}
		}
		_, err := block.Copy(t.Context(), memfile.New(), m, opts)
		check(err, "read", m.failAt, 64<<10)

		salvaged := m.failAt
		opts.ReadError = func(off, n int64, err error) error {
			if off > salvaged || salvaged >= off+n || !errors.Is(err, errFault) {
				t.Errorf("asked about %d bytes at %#x, %v", n, off, err)
			}
			clear(m.data[off : off+n])
			return nil
		}
		mem := memfile.New()
		stats, err := block.Copy(t.Context(), mem, m, opts)
		judge(t, "salvaged", m, mem.Bytes(), stats, err)
		opts.ReadError = nil

		m = fresh()
		m.mapFail = m.list[len(m.list)/2].Start
		_, err = block.Copy(t.Context(), memfile.New(), m, opts)
		check(err, "map", m.mapFail, 1<<20)

		m = fresh()
		_, err = block.Copy(t.Context(), writerFunc(func(p []byte, off int64) (int, error) {
			if off <= 3<<20 && 3<<20 < off+int64(len(p)) {
				return 0, errFault
			}
			return len(p), nil
		}), m, opts)
		check(err, "write", 3<<20, 1<<20)

		m = fresh()
		_, err = block.Copy(t.Context(), &zeroWriter{File: memfile.FromBytes([]byte{1}), err: errFault}, m, opts)
		if !errors.Is(err, errFault) {
			t.Errorf("zeros that fail: %v", err)
		}
		_, err = block.Copy(t.Context(), writerFunc(func(p []byte, off int64) (int, error) { return len(p) / 2, nil }), fresh(), opts)
		if !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("short writes: %v", err)
		}
		m = fresh()
		m.list = m.list[:len(m.list)-1]
		if _, err = block.Copy(t.Context(), memfile.New(), m, opts); err == nil {
			t.Error("copied a disk whose extents end early")
		}
		m = fresh()
		m.list[3].Start++
		if _, err = block.Copy(t.Context(), memfile.New(), m, opts); err == nil {
			t.Error("copied a disk whose extents have a gap")
		}
	}
}

func TestCopyCancel(t *testing.T) {
	for _, inOrder := range []bool{false, true} {
		m := newModel(rand.New(rand.NewPCG(6, 0)), 8<<20)
		why := errors.New("had enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		written := atomic.Int64{}
		w := writerFunc(func(p []byte, off int64) (int, error) {
			if written.Add(int64(len(p))) > 1<<20 {
				cancel(why)
			}
			return len(p), nil
		})
		start := time.Now()
		_, err := block.Copy(ctx, w, m, &block.CopyOptions{InOrder: inOrder, Workers: 4, BufferSize: 16 << 10})
		if !errors.Is(err, why) || written.Load() > 3<<20 || time.Since(start) > 20*time.Second {
			t.Errorf("in order %v: %v after %d bytes and %v", inOrder, err, written.Load(), time.Since(start))
		}
		if _, err := block.Copy(ctx, w, m, nil); !errors.Is(err, why) {
			t.Errorf("with a context that is over: %v", err)
		}
	}
}

func TestCopyOptions(t *testing.T) {
	m := newModel(rand.New(rand.NewPCG(7, 0)), 1000)
	for _, o := range []block.CopyOptions{
		{Workers: -1}, {Workers: 65}, {BufferSize: 5000}, {BufferSize: 2048}, {BufferSize: 128 << 20},
		{Sparse: 100}, {Sparse: 513}, {Sparse: 1 << 20},
	} {
		if _, err := block.Copy(t.Context(), memfile.New(), m, &o); err == nil || !strings.Contains(err.Error(), "CopyOptions.") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestCopyShared has the system copy between files, over which it has holes,
// an older and longer content, and layers.
func TestCopyShared(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(difftest.Seed(t, 8), 0))
	var files [2]*os.File
	for i := range files {
		data := make([]byte, 4<<20)
		for j := range data {
			data[j] = byte(r.Uint32())
		}
		name := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	d := &hosted{model: newModel(r, 2<<20), files: files[:]}
	for i, e := range d.list {
		if e.Depth = min(e.Depth, 1); e.Kind == block.Data {
			e.HostOffset = r.Int64N(2 << 20)
			if _, err := files[e.Depth].ReadAt(d.data[e.Start:e.End()], e.HostOffset); err != nil {
				t.Fatal(err)
			}
		}
		d.list[i] = e
	}
	whole := &hosted{model: &model{data: make([]byte, 3<<20)}, files: files[:]}
	whole.list = []block.Extent{{Start: 0, Length: 3 << 20, Kind: block.Data, HostOffset: 4096}}
	if _, err := files[0].ReadAt(whole.data, 4096); err != nil {
		t.Fatal(err)
	}
	for _, old := range []int{0, 100, 5 << 20} {
		dst, err := os.Create(filepath.Join(dir, "dst"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = sparse.CopyRange(dst, 0, files[0], 0, 1)
		can := err == nil
		if err := dst.Truncate(0); err != nil {
			t.Fatal(err)
		}
		if _, err := dst.Write(bytes.Repeat([]byte{9}, old)); err != nil {
			t.Fatal(err)
		}
		stats, err := block.Copy(t.Context(), dst, d, &block.CopyOptions{Sparse: -1})
		got, readErr := os.ReadFile(dst.Name())
		if readErr != nil {
			t.Fatal(readErr)
		}
		judge(t, fmt.Sprintf("over %d bytes", old), d.model, got, stats, err)
		t.Logf("over %d bytes: %+v", old, stats)

		stats, err = block.Copy(t.Context(), dst, whole, &block.CopyOptions{Sparse: -1})
		if got, readErr = os.ReadFile(dst.Name()); readErr != nil {
			t.Fatal(readErr)
		}
		judge(t, "one extent", whole.model, got, stats, err)
		if can && stats.Shared != 3<<20 {
			t.Errorf("the system copied %d bytes of one extent", stats.Shared)
		}
		dst.Close()
	}
}

// hosted is a model whose data lies in files.
type hosted struct {
	*model
	files []*os.File
}

func (h *hosted) HostFile(depth int) io.ReaderAt {
	if depth >= len(h.files) {
		return nil
	}
	return h.files[depth]
}
