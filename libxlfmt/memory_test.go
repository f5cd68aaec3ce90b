package libxlfmt_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/libxlfmt"
)

// memoryOf reads memory the slow way: page by page, front to back, as a
// receiver would.
func memoryOf(t *testing.T, data []byte, records int) (mem []byte, types map[uint64]libxlfmt.PageType) {
	t.Helper()
	types = map[uint64]libxlfmt.PageType{}
	r, err := libxlfmt.NewReader(bytes.NewReader(data), nil)
	verify := false
	for i := 0; err == nil && (records == 0 || i < records); i++ {
		var rec libxlfmt.Record
		if rec, err = r.Next(); err != nil {
			break
		}
		verify = verify || rec.Type == libxlfmt.TypeVerify
		if rec.Type != libxlfmt.TypePageData || verify {
			continue
		}
		for p, err := range r.Pages() {
			if err != nil {
				t.Fatal(err)
			}
			if need := int(p.PFN+1) << 12; need > len(mem) {
				mem = append(mem, make([]byte, need-len(mem))...)
			}
			at := mem[p.PFN<<12 : (p.PFN+1)<<12]
			clear(at)
			copy(at, p.Data)
			types[p.PFN] = p.Type
		}
	}
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return mem, types
}

func memory(t *testing.T, data []byte, o *libxlfmt.MemoryOptions) *libxlfmt.Memory {
	t.Helper()
	m, err := open(t, data).Memory(o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// checkMemory compares m with memory that was read page by page.
func checkMemory(t *testing.T, m *libxlfmt.Memory, want []byte, types map[uint64]libxlfmt.PageType) {
	t.Helper()
	if m.Size() != int64(len(want)) {
		t.Fatalf("size %d, want %d", m.Size(), len(want))
	}
	got := make([]byte, len(want))
	if n, err := m.ReadAt(got, 0); n != len(want) || err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", n, len(want), err)
	}
	for pfn := range m.Size()>>12 + 2 {
		p, ok := m.Page(uint64(pfn))
		typ, named := types[uint64(pfn)]
		if ok != named || ok && (p.Type != typ || p.PFN != uint64(pfn) || p.Count != 1 || (p.Offset >= 0) != typ.HasData()) {
			t.Fatalf("page %d: %+v, %v; want %v, %v", pfn, p, ok, typ, named)
		}
	}
	var at int64
	for e, err := range m.Extents(0, m.Size()) {
		if err != nil || e.Start != at || e.Length <= 0 {
			t.Fatalf("extent %+v after %d: %v", e, at, err)
		}
		for pfn := e.Start >> 12; pfn < e.End()>>12; pfn++ {
			typ, named := types[uint64(pfn)]
			kind := libxlfmt.Unallocated
			switch {
			case named && typ.HasData():
				kind = libxlfmt.Data
			case named && typ == libxlfmt.PageXAlloc:
				kind = libxlfmt.Zero
			}
			if e.Kind != kind {
				t.Fatalf("page %d: %v, want %v", pfn, e.Kind, kind)
			}
		}
		at = e.End()
	}
	if at != m.Size() {
		t.Errorf("extents end at %d of %d", at, m.Size())
	}
	pages := 0
	last := uint64(0)
	for r := range m.Runs() {
		if r.PFN < last || r.Count == 0 {
			t.Fatalf("run %+v after %d", r, last)
		}
		last = r.PFN + r.Count
		pages += int(r.Count)
	}
	if pages != len(types) {
		t.Errorf("%d pages in runs, want %d", pages, len(types))
	}
}

// TestMemory: every vector, checkpoints and verified memory included.
func TestMemory(t *testing.T) {
	for _, v := range good(t) {
		t.Run(v.Name, func(t *testing.T) {
			want, types := memoryOf(t, v.data, 0)
			if len(want) > 16<<20 {
				t.Skipf("memory of %d bytes", len(want))
			}
			checkMemory(t, memory(t, v.data, nil), want, types)
		})
	}
}

// TestMemoryIsAReaderAt: reads of any length anywhere.
func TestMemoryIsAReaderAt(t *testing.T) {
	v := vectorNamed(t, "pv64")
	want, _ := memoryOf(t, v.data, 0)
	m := memory(t, v.data, nil)
	if err := iotest.TestReader(io.NewSectionReader(m, 0, m.Size()), want); err != nil {
		t.Error(err)
	}
}

// TestMemoryRandom: batches in any order, again and again, against the same
// done page by page.
func TestMemoryRandom(t *testing.T) {
	rnd := rand.New(rand.NewPCG(difftest.Seed(t, 3), 1))
	types := []libxlfmt.PageType{0, 0, 0, 0, 0xd, 0xe, 0xf}
	for round := range difftest.Scale(t, 60) {
		var b bytes.Buffer
		w, err := libxlfmt.NewWriter(&b, &libxlfmt.WriterOptions{Container: libxlfmt.Container{Kind: libxlfmt.ContainerLibxc}})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.StartLibxc(libxlfmt.LibxcHeader{Version: 2, Type: libxlfmt.HVM, Options: uint16(round & 1)}); err != nil {
			t.Fatal(err)
		}
		for range 1 + rnd.IntN(6) {
			var p libxlfmt.PageBatch
			pfn := rnd.Uint64N(100)
			for range 1 + rnd.IntN(40) {
				typ := types[rnd.IntN(len(types))]
				p.Entries = append(p.Entries, libxlfmt.NewPageEntry(pfn, typ))
				if typ.HasData() {
					p.Data = append(p.Data, bytes.Repeat([]byte{byte(rnd.Uint32())}, 4096)...)
				}
				switch pfn++; rnd.IntN(8) {
				case 0:
					pfn = rnd.Uint64N(120)
				case 1:
					pfn += rnd.Uint64N(5)
				}
			}
			if err := w.Put(p); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		want, named := memoryOf(t, b.Bytes(), 0)
		checkMemory(t, memory(t, b.Bytes(), nil), want, named)
		if t.Failed() {
			return
		}
	}
}

// TestMemoryAtCheckpoint: a stream that breaks off behind a checkpoint, and
// the memory that a receiver goes back to.
func TestMemoryAtCheckpoint(t *testing.T) {
	v := vectorNamed(t, "remus-pv")
	x := open(t, v.data)
	var ends []int
	for i, rec := range x.Records() {
		if rec.Type == libxlfmt.TypeCheckpointEnd {
			ends = append(ends, i+1)
		}
	}
	if x.LastCheckpoint() != ends[1] {
		t.Errorf("last checkpoint %d, want %d", x.LastCheckpoint(), ends[1])
	}
	cut := v.data[:x.Record(ends[1]-1).Offset] // inside the second
	p, err := libxlfmt.Open(bytes.NewReader(cut), &libxlfmt.Options{Partial: true})
	if err != nil || p.Err() == nil || p.LastCheckpoint() != ends[0] {
		t.Fatalf("%v, %v, %d", err, p.Err(), p.LastCheckpoint())
	}
	m, err := p.Memory(&libxlfmt.MemoryOptions{Records: p.LastCheckpoint()})
	if err != nil {
		t.Fatal(err)
	}
	want, types := memoryOf(t, v.data, ends[0])
	checkMemory(t, m, want, types)
	after, _ := memoryOf(t, v.data, 0)
	if bytes.Equal(after, want) {
		t.Error("the second checkpoint changes nothing: the test is void")
	}
	if n := open(t, vectorNamed(t, "pv64").data).LastCheckpoint(); n != 0 {
		t.Errorf("without checkpoints: %d", n)
	}
}

// TestMemoryCopy: to a file, by the system and by reading.
func TestMemoryCopy(t *testing.T) {
	v := vectorNamed(t, "hvm-emu")
	want, _ := memoryOf(t, v.data, 0)
	path := filepath.Join(t.TempDir(), "saved")
	if err := os.WriteFile(path, v.data, 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	x, err := libxlfmt.Open(src, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := x.Memory(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, sparse := range []int{0, -1} {
		dst, err := os.Create(filepath.Join(t.TempDir(), "memory"))
		if err != nil {
			t.Fatal(err)
		}
		defer dst.Close()
		stats, err := m.CopyTo(t.Context(), dst, &libxlfmt.CopyOptions{Sparse: sparse})
		if err != nil || stats.Written+stats.Zeroed+stats.Skipped != m.Size() {
			t.Fatalf("%+v, %v", stats, err)
		}
		got, err := os.ReadFile(dst.Name())
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("sparse %d: %d bytes of %d, %v", sparse, len(got), len(want), err)
		}
	}
}

// TestMemoryLimit: a page number makes no memory of any size.
func TestMemoryLimit(t *testing.T) {
	for _, pfn := range []uint64{1<<32 - 1, 1 << 32, 1<<52 - 1} {
		p := libxlfmt.PageBatch{Entries: []libxlfmt.PageEntry{libxlfmt.NewPageEntry(pfn, libxlfmt.PageXTab)}}
		var b bytes.Buffer
		w, _ := libxlfmt.NewWriter(&b, nil)
		for _, err := range []error{
			w.StartLibxc(libxlfmt.LibxcHeader{Version: 2, Type: libxlfmt.HVM}), w.Put(p), w.Close(),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		x := open(t, b.Bytes())
		m, err := x.Memory(nil)
		if (err == nil) != (pfn < 1<<32) {
			t.Errorf("pfn %#x: %v", pfn, err)
		}
		if err == nil && m.Size() != 16<<40 {
			t.Errorf("size %d", m.Size())
		}
		if _, err := x.Memory(&libxlfmt.MemoryOptions{MaxSize: 1 << 20}); err == nil {
			t.Errorf("pfn %#x: within 1 MiB", pfn)
		}
	}
}

func ExampleIndex_Memory() {
	x, err := libxlfmt.Open(saved("hvm-emu").(io.ReaderAt), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := x.Memory(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for e := range m.Extents(0, m.Size()) {
		fmt.Printf("%#07x %6d bytes %v\n", e.Start, e.Length, e.Kind)
	}
	// Output:
	// 0x0000000  20480 bytes data
	// 0x0005000 241664 bytes unallocated
	// 0x0040000  20480 bytes data
	// 0x0045000   4096 bytes unallocated
	// 0x0046000  36864 bytes data
	// 0x004f000   4096 bytes unallocated
}

func TestMemoryOfNothing(t *testing.T) {
	m := memory(t, vectorNamed(t, "end-only").data, nil)
	var p [1]byte
	if n, err := m.ReadAt(p[:], 0); n != 0 || err != io.EOF || m.Size() != 0 {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := m.ReadAt(p[:], -1); n != 0 || err == nil || err == io.EOF {
		t.Errorf("at -1: %d, %v", n, err)
	}
	if d := cmp.Diff(0, len(collect(m))); d != "" {
		t.Error(d)
	}
}

func collect(m *libxlfmt.Memory) (out []libxlfmt.Extent) {
	for e := range m.Extents(0, 1<<40) {
		out = append(out, e)
	}
	return out
}
