package libxlfmt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/libxlfmt"
)

func open(tb testing.TB, data []byte) *libxlfmt.Index {
	tb.Helper()
	x, err := libxlfmt.Open(bytes.NewReader(data), nil)
	if err != nil {
		tb.Fatal(err)
	}
	return x
}

// TestIndexIsTheReader: the same records, headers, bodies and errors.
func TestIndexIsTheReader(t *testing.T) {
	for _, v := range vectors(t) {
		x, openErr := libxlfmt.Open(bytes.NewReader(v.data), nil)
		r, err := libxlfmt.NewReader(onlyReader{bytes.NewReader(v.data)}, nil)
		i := 0
		for err == nil {
			var rec libxlfmt.Record
			if rec, err = r.Next(); err != nil || x == nil {
				continue
			}
			if x.Record(i) != rec {
				t.Fatalf("%s: record %d: %+v, %+v", v.Name, i, x.Record(i), rec)
			}
			a, errA := io.ReadAll(r)
			b, errB := io.ReadAll(x.Body(i))
			if !bytes.Equal(a, b) || errA != nil || errB != nil {
				t.Fatalf("%s: record %d: %v, %v", v.Name, i, errA, errB)
			}
			body, err := x.Decode(i)
			if err != nil || !bytes.Equal(body.AppendBody(nil, rec.Order().(binary.AppendByteOrder)), a) {
				t.Fatalf("%s: record %d: %v", v.Name, i, err)
			}
			i++
		}
		if err == io.EOF {
			h, okH := r.Header()
			l, okL := r.Libxc()
			h2, okH2 := x.Header()
			l2, okL2 := x.Libxc()
			if openErr != nil || x.Len() != i || x.End() != r.End() || x.Size() != r.Offset() || h != h2 || l != l2 || okH != okH2 || okL != okL2 {
				t.Errorf("%s: %v, %d records, %v", v.Name, openErr, x.Len(), x.End())
			}
			if d := cmp.Diff(r.Container(), x.Container()); d != "" {
				t.Errorf("%s: %s", v.Name, d)
			}
			if x.Trailing() != int64(len(v.data))-r.Offset() {
				t.Errorf("%s: %d trailing", v.Name, x.Trailing())
			}
		} else if openErr == nil || openErr.Error() != err.Error() {
			t.Errorf("%s: %v, reader says %v", v.Name, openErr, err)
		}
	}
}

// TestIndexPages: the same pages as the decoded body.
func TestIndexPages(t *testing.T) {
	x := open(t, vectorNamed(t, "pv64").data)
	for i, rec := range x.Records() {
		n := 0
		if rec.Type != libxlfmt.TypePageData {
			for _, err := range x.Pages(i) {
				if !errors.Is(err, libxlfmt.ErrState) {
					t.Fatal(err)
				}
			}
			if _, err := x.Entries(i); !errors.Is(err, libxlfmt.ErrState) {
				t.Fatal(err)
			}
			continue
		}
		body, err := x.Decode(i)
		if err != nil {
			t.Fatal(err)
		}
		want := slices.Collect(body.(libxlfmt.PageBatch).Pages())
		for p, err := range x.Pages(i) {
			if err != nil || p.PFN != want[n].PFN || p.Type != want[n].Type || !bytes.Equal(p.Data, want[n].Data) {
				t.Fatalf("page %d: %v", n, err)
			}
			n++
		}
		if n != len(want) {
			t.Errorf("%d of %d pages", n, len(want))
		}
		entries, err := x.Entries(i)
		if d := cmp.Diff(body.(libxlfmt.PageBatch).Entries, entries); d != "" || err != nil {
			t.Errorf("entries: %v\n%s", err, d)
		}
	}
}

// TestIndexMemory: constant memory for a record, whatever its length.
func TestIndexMemory(t *testing.T) {
	const n = 20_000
	var b strings.Builder
	b.WriteString(libxlHeader)
	for range n {
		b.WriteString(record(3, 16, strings.Repeat("\x00", 16)))
	}
	b.WriteString(record(0, 0, ""))
	src := strings.NewReader(b.String())
	used := allocated(func() {
		x, err := libxlfmt.Open(src, nil)
		if err != nil || x.Len() != n+1 {
			t.Error(err)
		}
	})
	if used > 64<<10+n*32*6 { // the slice grows by a quarter: its history is five times its length
		t.Errorf("%d bytes for %d records", used, n)
	}
}

// TestHostileMegabyte: a file of 1 MiB costs at most 64 MiB and a second,
// whatever is in it.
func TestHostileMegabyte(t *testing.T) {
	const size = 1 << 20
	fill := func(head, unit string) string {
		return head + strings.Repeat(unit, (size-len(head))/len(unit))
	}
	xtab := make([]byte, 0, size)
	for i := range uint64(size/8 - 16) { // pages in no order, without contents
		xtab = binary.LittleEndian.AppendUint64(xtab, i*2654435761%(1<<24)|uint64(libxlfmt.PageXTab)<<60)
	}
	for name, data := range map[string]string{
		"records": fill(libxlHeader, record(1<<31, 0, "")),
		"entries": hvmHeader + record(1, uint32(8+len(xtab)), "") + string(binary.LittleEndian.AppendUint64(nil, uint64(len(xtab)/8))) + string(xtab) + record(0, 0, ""),
		"zeros":   fill(libxlHeader, "\x00"),
		"ones":    fill(hvmHeader, "\xff"),
		"NULs":    fill(libxlHeader+record(2, size-32, ""), "\x00"),
		"keys":    fill(libxlHeader+record(2, size-32, "")+"\x00\x00\x00\x00\x00\x00\x00\x00", "/!\x00\x00"),
		"config":  fill(xlHeader(size-48, size-52), "x"),
	} {
		src := strings.NewReader(data)
		for step, run := range map[string]func(){
			"verify": func() {
				if _, err := libxlfmt.Verify(t.Context(), src, nil); err != nil {
					t.Error(err)
				}
			},
			"open": func() {
				o := &libxlfmt.Options{Profile: libxlfmt.Lenient, Partial: true}
				x, err := libxlfmt.Open(src, o)
				if err != nil {
					t.Error(err)
					return
				}
				m, err := x.Memory(nil)
				if err != nil {
					return
				}
				for range m.Extents(0, m.Size()) {
					continue
				}
			},
		} {
			start := time.Now()
			used := allocated(run)
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("%s, %s: %v", name, step, took)
			}
			if used > 64<<20 {
				t.Errorf("%s, %s: %d MiB", name, step, used>>20)
			}
		}
	}
}

// TestPartial: what is whole of a stream that is not.
func TestPartial(t *testing.T) {
	v := vectorNamed(t, "hvm-emu")
	whole := open(t, v.data)
	for n := 0; n <= len(v.data); n += 97 {
		x, err := libxlfmt.Open(bytes.NewReader(v.data[:n]), &libxlfmt.Options{Partial: true})
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		for _, rec := range whole.Records() {
			if rec.End() <= int64(n) {
				want++
			}
		}
		if x.Len() != want || (x.Err() == nil) != (n == len(v.data)) {
			t.Fatalf("%d bytes: %d records, want %d; %v", n, x.Len(), want, x.Err())
		}
		if x.Err() != nil && (!errors.Is(x.Err(), io.ErrUnexpectedEOF) || x.End() != libxlfmt.Unfinished) {
			t.Fatalf("%d bytes: %v", n, x.Err())
		}
	}
}

// TestPartialContainer: what could be read of a container whose stream cannot
// be is there.
func TestPartialContainer(t *testing.T) {
	for name, c := range map[string]struct {
		data   string
		kind   libxlfmt.ContainerKind
		config string
	}{
		"legacy":  {string(vectorNamed(t, "xl-legacy-stream").data), libxlfmt.ContainerXL, `{"c_info": {"type": "hvm", "name": "oracle"}}`},
		"cut":     {string(vectorNamed(t, "xl-saved-json").data[:100]), libxlfmt.ContainerXL, `{"c_info": {"type": "hvm", "name": "oracle"}}`},
		"libvirt": {"libvirt-xml\n \x00 \r" + words(1, 0) + string(make([]byte, 40)), libxlfmt.ContainerLibvirt, ""},
		"nothing": {"hello, world", libxlfmt.ContainerNone, ""},
	} {
		x, err := libxlfmt.Open(strings.NewReader(c.data), &libxlfmt.Options{Partial: true})
		if err != nil || x.Err() == nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := x.Container(); got.Kind != c.kind || string(got.XL.Config()) != c.config || x.Len() != 0 {
			t.Errorf("%s: %v, %q", name, got.Kind, got.XL.Config())
		}
	}
}

func TestOpenSize(t *testing.T) {
	v := vectorNamed(t, "hvm-emu")
	src := struct{ io.ReaderAt }{bytes.NewReader(v.data)}
	if _, err := libxlfmt.Open(src, nil); err == nil {
		t.Error("a reader without a length was opened")
	}
	x, err := libxlfmt.Open(src, &libxlfmt.Options{Size: int64(len(v.data))})
	if err != nil || x.End() != libxlfmt.Ended {
		t.Errorf("%v", err)
	}
	for _, size := range []int{len(v.data) - 1, len(v.data) + 1} {
		x, err := libxlfmt.Open(src, &libxlfmt.Options{Size: int64(size)})
		if (err == nil) != (size > len(v.data)) {
			t.Errorf("size %d: %v, %v", size, x, err)
		}
	}
}

// file returns data in a file that can be written.
func file(t *testing.T, data []byte) *memfile.File {
	t.Helper()
	f := memfile.New()
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func contents(t *testing.T, f *memfile.File) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPatch: bytes of a body change, nothing else does.
func TestPatch(t *testing.T) {
	data := writeSample(t, sample{domain: libxlfmt.HVM, version: 3, pages: 3, state: 5})
	f := file(t, data)
	x, err := libxlfmt.Open(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	i := find(t, x, libxlfmt.TypeHVMContext)
	body, err := x.Decode(i)
	if err != nil {
		t.Fatal(err)
	}
	for e := range body.(libxlfmt.HVMContext).Entries() {
		if e.Name() == "HPET" {
			if err := x.Patch(f, i, []byte("HP"), int64(e.Offset)); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := bytes.Replace(data, []byte("hpet"), []byte("HPet"), 1)
	if got := contents(t, f); !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d", len(got), len(want))
	}
}

func find(t *testing.T, x *libxlfmt.Index, typ libxlfmt.Type) int {
	t.Helper()
	for i, rec := range x.Records() {
		if rec.Type == typ {
			return i
		}
	}
	t.Fatalf("no %v", typ)
	return 0
}

// TestReplace: a body of another length fits where its padding has room.
func TestReplace(t *testing.T) {
	data := writeSample(t, sample{domain: libxlfmt.HVM, version: 3, pages: 3, state: 3})
	f := file(t, data)
	x, err := libxlfmt.Open(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	i := find(t, x, libxlfmt.TypeEmulator)
	for n := range 24 {
		b := libxlfmt.EmulatorState{Emulator: libxlfmt.Emulator{ID: libxlfmt.EmulatorQemu}, State: bytes.Repeat([]byte("q"), n)}
		err := x.Replace(f, i, b)
		if fits := n >= 1 && n <= 8; (err == nil) != fits {
			t.Errorf("%d bytes: %v", n, err)
		}
		if err != nil {
			continue
		}
		got := contents(t, f)
		if x.Record(i).Length != int64(8+n) || len(got) != len(data) {
			t.Errorf("%d bytes: length %d", n, x.Record(i).Length)
		}
		if back, err := open(t, got).Decode(i); err != nil || !cmp.Equal(back, libxlfmt.Body(b)) {
			t.Errorf("%d bytes: %v, %v", n, back, err)
		}
	}
	// Back to what it was: the same bytes.
	b := libxlfmt.EmulatorState{Emulator: libxlfmt.Emulator{ID: libxlfmt.EmulatorQemu}, State: []byte("QQQ")}
	if err := x.Replace(f, i, b); err != nil || !bytes.Equal(contents(t, f), data) {
		t.Errorf("%v", err)
	}
}

// TestEditsThatBreakTheStreamAreRefused: nothing is written then.
func TestEditsThatBreakTheStreamAreRefused(t *testing.T) {
	data := writeSample(t, sample{domain: libxlfmt.HVM, version: 3, pages: 3, state: 3})
	f := file(t, data)
	x, err := libxlfmt.Open(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	page, params, xs := find(t, x, libxlfmt.TypePageData), find(t, x, libxlfmt.TypeHVMParams), find(t, x, libxlfmt.TypeXenstore)
	end := find(t, x, libxlfmt.TypeEnd)
	for name, edit := range map[string]func() error{
		"page count":    func() error { return x.Patch(f, page, le.AppendUint32(nil, 2), 0) },
		"page type":     func() error { return x.Patch(f, page, le.AppendUint64(nil, 5<<60), 8) },
		"param count":   func() error { return x.Patch(f, params, le.AppendUint32(nil, 0xffffffff), 0) },
		"absolute key":  func() error { return x.Patch(f, xs, []byte("/"), 8) },
		"past the body": func() error { return x.Patch(f, params, make([]byte, 9), x.Record(params).Length-8) },
		"before it":     func() error { return x.Patch(f, params, make([]byte, 1), -1) },
		"other type":    func() error { return x.Replace(f, params, libxlfmt.TSCInfo{}) },
		"other length":  func() error { return x.Replace(f, params, libxlfmt.HVMParams{}) },
		"body of END": func() error {
			return x.Replace(f, end, libxlfmt.Raw{RecordType: libxlfmt.TypeEnd, Data: make([]byte, 8)})
		},
	} {
		if err := edit(); err == nil {
			t.Errorf("%s: no error", name)
		}
		if !bytes.Equal(contents(t, f), data) {
			t.Fatalf("%s: something was written", name)
		}
	}
	if err := x.Patch(f, params, le.AppendUint64(nil, 99), 16); err != nil {
		t.Error(err) // the index still works
	}
}

// TestEditsOfToleratedStreams: what was let pass does not stand in the way of
// an edit that adds nothing to it.
func TestEditsOfToleratedStreams(t *testing.T) {
	for _, c := range []struct {
		name string
		o    libxlfmt.Options
	}{
		{"xc-page-data-reserved", libxlfmt.Options{Profile: libxlfmt.Lenient}},
		{"xc-page-data-reserved", libxlfmt.Options{Report: func(libxlfmt.Finding) error { return nil }}},
		{"draft-b-xenstore", libxlfmt.Options{}},
	} {
		f := file(t, vectorNamed(t, c.name).data)
		x, err := libxlfmt.Open(f, &c.o)
		if err != nil {
			t.Fatal(err)
		}
		i := find(t, x, libxlfmt.TypeHVMParams)
		if err := x.Patch(f, i, []byte{77}, 16); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		err = x.Patch(f, i, []byte{77}, 0)
		var fe *libxlfmt.FormatError
		if !errors.As(err, &fe) || fe.Code != libxlfmt.CodeLength {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestEditSeesWriteErrors: and the index stays as it was.
func TestEditSeesWriteErrors(t *testing.T) {
	data := writeSample(t, sample{domain: libxlfmt.HVM, version: 3, pages: 1, state: 3})
	x := open(t, data)
	i := find(t, x, libxlfmt.TypeEmulator)
	before := x.Record(i)
	b := libxlfmt.EmulatorState{Emulator: libxlfmt.Emulator{ID: libxlfmt.EmulatorQemu}, State: []byte("four")}
	if err := x.Replace(brokenWriter{}, i, b); !errors.Is(err, errFull) {
		t.Error(err)
	}
	if x.Record(i) != before {
		t.Errorf("%+v", x.Record(i))
	}
}

type brokenWriter struct{}

func (brokenWriter) WriteAt([]byte, int64) (int, error) { return 0, errFull }

func ExampleIndex_Patch() {
	f := memfile.New()
	_, _ = io.Copy(io.NewOffsetWriter(f, 0), saved("converted-by-script"))
	x, err := libxlfmt.Open(f, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for i, rec := range x.Records() {
		if rec.Type != libxlfmt.TypeHVMParams {
			continue
		}
		body, err := x.Decode(i)
		if err != nil {
			fmt.Println(err)
			return
		}
		params := body.(libxlfmt.HVMParams)
		params[0].Value = 0xfeff0
		if err := x.Replace(f, i, params); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%v at %#x: %s is %#x now\n", rec.Type, rec.Offset, params[0].Name(), params[0].Value)
	}
	// Output: HVM_PARAMS at 0x1080: STORE_PFN is 0xfeff0 now
}
