package libxlfmt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/libxlfmt"
)

// good yields the vectors that strict accepts and that have a header.
func good(tb testing.TB) []vector {
	tb.Helper()
	var out []vector
	for _, v := range vectors(tb) {
		if strings.HasPrefix(v.Spec, "ok") {
			out = append(out, v)
		}
	}
	return out
}

// onlyReader hides every method but Read.
type onlyReader struct{ io.Reader }

// TestStopsBehindEnd: not one byte behind END is consumed, whatever the
// source gives at once and whether bodies are read or passed.
func TestStopsBehindEnd(t *testing.T) {
	const behind = "the next message"
	for _, v := range good(t) {
		if v.Spec != "ok" {
			continue // ends where its source ends
		}
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"plain": func(r io.Reader) io.Reader { return onlyReader{r} },
			"half":  iotest.HalfReader,
			"data with error": func(r io.Reader) io.Reader {
				return iotest.DataErrReader(onlyReader{r})
			},
		} {
			for _, read := range []bool{false, true} {
				src := wrap(strings.NewReader(string(v.data) + behind))
				r, err := libxlfmt.NewReader(src, nil)
				if err != nil {
					t.Fatalf("%s: %v", v.Name, err)
				}
				for err == nil {
					if _, err = r.Next(); err == nil && read {
						_, err = io.Copy(io.Discard, r)
					}
				}
				if err != io.EOF || r.End() != libxlfmt.Ended || r.Offset() != int64(len(v.data)) {
					t.Fatalf("%s, %s: %v, %v at %d", v.Name, name, err, r.End(), r.Offset())
				}
				rest, _ := io.ReadAll(src)
				if name != "data with error" && string(rest) != behind { // that one reads ahead by itself
					t.Errorf("%s, %s: left %q", v.Name, name, rest)
				}
				if _, err := r.Next(); err != io.EOF {
					t.Errorf("%s: second time: %v", v.Name, err)
				}
			}
		}
	}
}

// TestSeekAndReadAgree: a source that can seek gives the same records.
func TestSeekAndReadAgree(t *testing.T) {
	for _, v := range vectors(t) {
		var got [2][]libxlfmt.Record
		var errs [2]string
		for i, src := range []io.Reader{bytes.NewReader(v.data), onlyReader{bytes.NewReader(v.data)}} {
			r, err := libxlfmt.NewReader(src, nil)
			for err == nil {
				var rec libxlfmt.Record
				if rec, err = r.Next(); err == nil {
					got[i] = append(got[i], rec)
				}
			}
			errs[i] = err.Error()
		}
		if d := cmp.Diff(got[0], got[1]); d != "" || errs[0] != errs[1] {
			t.Errorf("%s: %s\n%s\n%s", v.Name, errs[0], errs[1], d)
		}
	}
}

// TestSeekFromTheMiddle: a stream may begin anywhere in a file.
func TestSeekFromTheMiddle(t *testing.T) {
	v := vectorNamed(t, "hvm-emu")
	src := bytes.NewReader(append(make([]byte, 100), v.data...))
	if _, err := src.Seek(100, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	r, err := libxlfmt.NewReader(src, nil)
	n := 0
	for err == nil {
		_, err = r.Next()
		n++
	}
	if err != io.EOF || src.Len() != 0 || r.Offset() != int64(len(v.data)) {
		t.Errorf("%v after %d records, %d bytes left", err, n, src.Len())
	}
}

// TestEveryTruncation: a stream that lacks its last byte, or more, is never
// taken for complete.
func TestEveryTruncation(t *testing.T) {
	v := vectorNamed(t, "xl-saved-no-config")
	step := max(1, len(v.data)/difftest.Scale(t, len(v.data)))
	for n := 0; n < len(v.data); n += step {
		for name, src := range map[string]io.Reader{
			"seek": bytes.NewReader(v.data[:n]), "read": onlyReader{bytes.NewReader(v.data[:n])},
		} {
			r, err := libxlfmt.NewReader(src, nil)
			for err == nil {
				_, err = r.Next()
			}
			if !errors.Is(err, io.ErrUnexpectedEOF) || r != nil && r.End() != libxlfmt.Unfinished {
				t.Fatalf("%d bytes, %s: %v", n, name, err)
			}
			var fe *libxlfmt.FormatError
			if !errors.As(err, &fe) || fe.Offset > int64(n) {
				t.Fatalf("%d bytes, %s: %#v", n, name, err)
			}
		}
		if res := verify(t, v.data[:n], libxlfmt.Lenient); res.OK() || res.End != libxlfmt.Unfinished {
			t.Fatalf("%d bytes: %+v", n, res)
		}
	}
}

// TestTruncationBehindCheckpoint: the end of the source is the end of the
// stream there, and nowhere else.
func TestTruncationBehindCheckpoint(t *testing.T) {
	v := vectorNamed(t, "remus-pv")
	ends := map[int]bool{}
	for _, r := range v.Description.Records {
		if r.Name == "CHECKPOINT_END" {
			ends[int(r.At)+8] = true
		}
	}
	step := max(1, len(v.data)/difftest.Scale(t, len(v.data)))
	for n := 0; n <= len(v.data); n++ {
		if n%step != 0 && !ends[n] {
			continue
		}
		res := verify(t, v.data[:n], libxlfmt.Strict)
		if res.OK() != ends[n] || ends[n] && res.End != libxlfmt.EndedAtCheckpoint {
			t.Fatalf("%d bytes: %+v", n, res)
		}
	}
}

// libxlHeader and libxcHeader begin little-endian streams.
const (
	libxlHeader = "LibxlFmt\x00\x00\x00\x02\x00\x00\x00\x00"
	libxcMark   = "\x01\x00\x00\x00\x00\x00\x00\x00" // LIBXC_CONTEXT
	hvmHeader   = "\xff\xff\xff\xff\xff\xff\xff\xffXENF\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\x02\x00\x00\x00\x0c\x00\x00\x00\x04\x00\x00\x00\x11\x00\x00\x00"
)

func record(code, length uint32, body string) string {
	b := binary.LittleEndian.AppendUint32(nil, code)
	b = binary.LittleEndian.AppendUint32(b, length)
	return string(b) + body
}

// TestHostileSizes: a size that the source does not back costs no memory,
// whether its bytes are asked for or not.
func TestHostileSizes(t *testing.T) {
	const kib = 1 << 10
	fill := strings.Repeat("\x00", 64*kib)
	for name, src := range map[string]string{
		"libxl record of 4 GiB":      libxlHeader + record(3, 0xffffffff, fill),
		"xenstore of 4 GiB":          libxlHeader + record(2, 0xffffffff, fill),
		"libxl record of 1 GiB":      libxlHeader + record(3, 1<<30, fill),
		"xenstore of 1 GiB":          libxlHeader + record(2, 1<<30, fill),
		"optional of 1 GiB":          libxlHeader + record(1<<31, 1<<30, fill),
		"libxc record over 128 MiB":  hvmHeader + record(9, 128<<20+1, fill),
		"libxc record of 128 MiB":    hvmHeader + record(9, 128<<20, fill),
		"page count 2^32-1":          hvmHeader + record(1, 128<<20, "\xff\xff\xff\xff\x00\x00\x00\x00"+fill),
		"page count of 128 MiB":      hvmHeader + record(1, 128<<20, "\x00\x00\xff\x00\x00\x00\x00\x00"+fill),
		"param count 2^32-1":         hvmHeader + record(0xa, 64<<20, "\xff\xff\xff\xff\x00\x00\x00\x00"+fill),
		"policy of 120 MiB":          hvmHeader + record(0x11, 120<<20, fill),
		"xl configuration of 4 GiB":  xlHeader(0xffffffff, 0) + fill,
		"xl configuration of 16 MiB": xlHeader(16<<20, 16<<20-4) + fill,
		"libvirt XML of 4 GiB":       "libvirt-xml\n \x00 \r\x02\x00\x00\x00\xff\xff\xff\xff" + fill,
		"section of 2^63-1":          "XenSavedDomv2-\n\x0f\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\x7f" + fill,
		"section of -1":              "XenSavedDomv2-\n\x0f\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff" + fill,
	} {
		for way, use := range map[string]func(*libxlfmt.Reader) error{
			"skip":   func(*libxlfmt.Reader) error { return nil },
			"read":   func(r *libxlfmt.Reader) error { _, err := io.Copy(io.Discard, r); return err },
			"decode": func(r *libxlfmt.Reader) error { _, err := r.Decode(); return err },
			"pages": func(r *libxlfmt.Reader) error {
				for _, err := range r.Pages() {
					if err != nil && !errors.Is(err, libxlfmt.ErrState) {
						return err
					}
				}
				return nil
			},
		} {
			used := allocated(func() {
				r, err := libxlfmt.NewReader(onlyReader{strings.NewReader(src)}, nil)
				for err == nil {
					if _, err = r.Next(); err == nil {
						err = use(r)
					}
				}
				if err == io.EOF {
					t.Errorf("%s, %s: taken for complete", name, way)
				}
			})
			if used > 4<<20 {
				t.Errorf("%s, %s: %d bytes of memory", name, way, used)
			}
		}
	}
}

func xlHeader(dataLen, configLen uint32) string {
	b := []byte("Xen saved domain, xl format\n \x00 \r")
	for _, v := range []uint32{0x01020304, 3, 0, dataLen, configLen} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return string(b)
}

// allocated returns how many bytes f allocated in all.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestMaxRecord(t *testing.T) {
	src := libxlHeader + record(3, 100, strings.Repeat("\x00", 104)) + record(0, 0, "")
	for limit, ok := range map[int64]bool{0: true, 100: true, 99: false} {
		r, err := libxlfmt.NewReader(strings.NewReader(src), &libxlfmt.Options{MaxRecord: limit})
		for err == nil {
			_, err = r.Next()
		}
		var fe *libxlfmt.FormatError
		if (err == io.EOF) != ok || !ok && (!errors.As(err, &fe) || fe.Code != libxlfmt.CodeTooLong) {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}

// TestErrorClasses: callers tell malformed, truncated, unsupported and
// foreign streams apart by sentinels.
func TestErrorClasses(t *testing.T) {
	for name, want := range map[string]error{
		"bad-ident": libxlfmt.ErrFormat, "version-3": errors.ErrUnsupported, "xc-version-4": errors.ErrUnsupported,
		"xl-legacy-stream": errors.ErrUnsupported, "xc-unknown-mandatory": errors.ErrUnsupported,
		"empty": io.ErrUnexpectedEOF, "no-end": io.ErrUnexpectedEOF, "page-type-5": nil,
	} {
		r, err := libxlfmt.NewReader(bytes.NewReader(vectorNamed(t, name).data), nil)
		for err == nil {
			_, err = r.Next()
		}
		var fe *libxlfmt.FormatError
		if !errors.As(err, &fe) || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
		for _, class := range []error{libxlfmt.ErrFormat, errors.ErrUnsupported, io.ErrUnexpectedEOF} {
			if errors.Is(err, class) && class != want {
				t.Errorf("%s: %v counts as %v", name, err, class)
			}
		}
	}
}

func TestSourceErrorIsNotTheStreamsFault(t *testing.T) {
	v := vectorNamed(t, "hvm-emu")
	for _, n := range []int{0, 5, 20, 1000, 60000} {
		boom := errors.New("boom")
		src := io.MultiReader(bytes.NewReader(v.data[:n]), iotest.ErrReader(boom))
		r, err := libxlfmt.NewReader(src, nil)
		for err == nil {
			_, err = r.Next()
		}
		var fe *libxlfmt.FormatError
		if !errors.Is(err, boom) || errors.As(err, &fe) {
			t.Errorf("after %d bytes: %v", n, err)
		}
		if _, err := libxlfmt.Verify(t.Context(), io.MultiReader(bytes.NewReader(v.data[:n]), iotest.ErrReader(boom)), nil); !errors.Is(err, boom) {
			t.Errorf("verify after %d bytes: %v", n, err)
		}
	}
}

func TestBackChannel(t *testing.T) {
	v := vectorNamed(t, "colo-back-channel")
	r, err := libxlfmt.NewReader(bytes.NewReader(v.data), &libxlfmt.Options{BackChannel: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []libxlfmt.Body
	for err == nil {
		if _, err = r.Next(); err == nil {
			var b libxlfmt.Body
			b, err = r.Decode()
			got = append(got, b)
		}
	}
	want := []libxlfmt.Body{libxlfmt.StateReady, libxlfmt.StateResumed, libxlfmt.StateSuspended, libxlfmt.DirtyPFNs{5, 9}}
	if d := cmp.Diff(want, got); d != "" || err != io.EOF || r.End() != libxlfmt.EndedAtCheckpoint {
		t.Errorf("%v, %v\n%s", err, r.End(), d)
	}
	for n := range v.data {
		r, err := libxlfmt.NewReader(bytes.NewReader(v.data[:n]), &libxlfmt.Options{BackChannel: true})
		for err == nil {
			_, err = r.Next()
		}
		if whole := n%16 == 0 && n <= 48; (err == io.EOF) != whole {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// TestDraftB: bodies of both forms are read by their content, as either by
// option, and Draft B is reported.
func TestDraftB(t *testing.T) {
	v := vectorNamed(t, "draft-b-xenstore")
	for form, want := range map[libxlfmt.XenstoreForm]string{
		libxlfmt.XenstoreAuto: "physmap/1f1000000/start_addr", libxlfmt.XenstoreDraftB: "physmap/1f1000000/start_addr",
		libxlfmt.XenstoreFinal: "1f1000000/start_addr",
	} {
		x := findXenstore(t, v.data, &libxlfmt.Options{Xenstore: form, Profile: libxlfmt.Lenient})
		if x.Pairs[0].Key != want || x.DraftB != (form != libxlfmt.XenstoreFinal) {
			t.Errorf("form %d: %+v", form, x)
		}
	}
	// The default reads it, too, although strict would refuse it.
	findXenstore(t, v.data, nil)
	var codes []libxlfmt.Code
	findXenstore(t, v.data, &libxlfmt.Options{Report: func(f libxlfmt.Finding) error {
		codes = append(codes, f.Code)
		return nil
	}})
	if d := cmp.Diff([]libxlfmt.Code{libxlfmt.CodeDraftB}, codes); d != "" {
		t.Errorf("reported: %s", d)
	}
	final := vectorNamed(t, "hvm-xs-emu")
	x := findXenstore(t, final.data, nil)
	if x.DraftB || x.ID != libxlfmt.EmulatorQemu || x.Pairs[0].Key != "physmap/1f1000000/start_addr" {
		t.Errorf("final form: %+v", x)
	}
}

func findXenstore(t *testing.T, data []byte, o *libxlfmt.Options) libxlfmt.Xenstore {
	t.Helper()
	r, err := libxlfmt.NewReader(onlyReader{bytes.NewReader(data)}, o)
	for err == nil {
		var rec libxlfmt.Record
		if rec, err = r.Next(); err == nil && rec.Type == libxlfmt.TypeXenstore {
			b, err := r.Decode()
			if err != nil {
				t.Fatal(err)
			}
			return b.(libxlfmt.Xenstore)
		}
	}
	t.Fatalf("no xenstore record: %v", err)
	return libxlfmt.Xenstore{}
}

// TestXenstoreForm holds the line between the forms where it is thin.
func TestXenstoreForm(t *testing.T) {
	for _, c := range []struct {
		name, body string
		draftB     bool
	}{
		{"empty", "", false},
		{"final, no keys", "\x02\x00\x00\x00\x00\x00\x00\x00", false},
		{"final, unknown emulator", "\x00\x00\x00\x00\x00\x00\x00\x00a\x00b\x00", false},
		{"final, reserved id", "\x03\x00\x00\x00\x00\x00\x00\x00a\x00b\x00", false},
		{"final, id in capitals", "ABCD\x00\x00\x00\x00a\x00b\x00", false}, // would be an empty key
		{"draft, long key", "physmap/1\x00v\x00", true},
		{"draft, short keys", "a\x00b\x00c\x00d\x00", true},
		{"draft, empty value", "abc\x00\x00de\x00x\x00", true},
		{"draft, shorter than a sub-header", "a\x00b\x00", true},
		{"cut short", "a\x00b", false},
		{"binary", "\x80\x81\x82\x83\x00\x00\x00\x00", false},
	} {
		rec := libxlfmt.Record{Type: libxlfmt.TypeXenstore, Length: int64(len(c.body))}
		b, _ := libxlfmt.Decode(rec, []byte(c.body))
		x, ok := b.(libxlfmt.Xenstore)
		if got := ok && x.DraftB; got != c.draftB {
			t.Errorf("%s: Draft B %v, want %v", c.name, got, c.draftB)
		}
	}
}

// TestBodiesRoundTrip: decode and encode every body of every vector.
func TestBodiesRoundTrip(t *testing.T) {
	for _, v := range good(t) {
		r, err := libxlfmt.NewReader(bytes.NewReader(v.data), nil)
		for err == nil {
			var rec libxlfmt.Record
			if rec, err = r.Next(); err != nil {
				break
			}
			var raw []byte
			if raw, err = io.ReadAll(r); err != nil {
				break
			}
			b, err := libxlfmt.Decode(rec, raw)
			if err != nil {
				t.Errorf("%s: %v", v.Name, err)
				continue
			}
			order := rec.Order().(binary.AppendByteOrder)
			if got := b.AppendBody(nil, order); b.Type() != rec.Type || !bytes.Equal(got, raw) {
				t.Errorf("%s: %v at %#x: %T differs", v.Name, rec.Type, rec.Offset, b)
			}
		}
		if err != io.EOF {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
}

// TestPages: the iterator gives the pages of the decoded body, without memory
// for each.
func TestPages(t *testing.T) {
	for _, name := range []string{"pv64", "hvm-emu", "big-endian-hvm", "big-endian-pv"} {
		v := vectorNamed(t, name)
		a, err := libxlfmt.NewReader(bytes.NewReader(v.data), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := libxlfmt.NewReader(onlyReader{bytes.NewReader(v.data)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for {
			rec, err := a.Next()
			if _, errB := b.Next(); err != errB {
				t.Fatal(err, errB)
			}
			if err == io.EOF {
				break
			}
			if rec.Type != libxlfmt.TypePageData {
				for _, err := range b.Pages() {
					if !errors.Is(err, libxlfmt.ErrState) {
						t.Fatalf("pages of %v: %v", rec.Type, err)
					}
				}
				continue
			}
			body, err := a.Decode()
			if err != nil {
				t.Fatal(err)
			}
			var want, got []libxlfmt.Page
			for p := range body.(libxlfmt.PageBatch).Pages() {
				want = append(want, p)
			}
			for p, err := range b.Pages() {
				if err != nil {
					t.Fatal(err)
				}
				p.Data = bytes.Clone(p.Data)
				got = append(got, p)
			}
			same := func(a, b libxlfmt.Page) bool {
				return a.PFN == b.PFN && a.Type == b.Type && bytes.Equal(a.Data, b.Data)
			}
			if !slices.EqualFunc(want, got, same) {
				t.Fatalf("%s at %#x: %d pages, %d of them as decoded", name, rec.Offset, len(got), len(want))
			}
		}
	}
}

// TestEntries: entries first, then contents by Read, or by nobody.
func TestEntries(t *testing.T) {
	v := vectorNamed(t, "hvm-emu")
	for _, read := range []bool{false, true} {
		r, err := libxlfmt.NewReader(onlyReader{bytes.NewReader(v.data)}, nil)
		for err == nil {
			var rec libxlfmt.Record
			if rec, err = r.Next(); err != nil {
				break
			}
			entries, entriesErr := r.Entries()
			if rec.Type != libxlfmt.TypePageData {
				if !errors.Is(entriesErr, libxlfmt.ErrState) {
					t.Errorf("entries of %v: %v", rec.Type, entriesErr)
				}
				continue
			}
			if entriesErr != nil || len(entries) == 0 {
				t.Fatal(entriesErr)
			}
			if read {
				n, copyErr := io.Copy(io.Discard, r)
				if err = copyErr; n != rec.Length-8-8*int64(len(entries)) {
					t.Errorf("%d bytes of contents", n)
				}
			}
		}
		if err != io.EOF {
			t.Error(err)
		}
	}
}

// TestPagesAllocate: the memory for reading pages does not depend on their
// number.
func TestPagesAllocate(t *testing.T) {
	entries := make([]libxlfmt.PageEntry, 1024)
	for i := range entries {
		entries[i] = libxlfmt.NewPageEntry(uint64(i), libxlfmt.PageNormal)
	}
	body := libxlfmt.PageBatch{Entries: entries, Data: make([]byte, len(entries)<<12)}.AppendBody(nil, binary.LittleEndian)
	batch := record(1, uint32(len(body)), string(body))
	use := func(batches int) uint64 {
		src := onlyReader{io.MultiReader(strings.NewReader(hvmHeader), repeat(batch, batches), strings.NewReader(record(0, 0, "")))}
		pages := 0
		n := allocated(func() {
			r, err := libxlfmt.NewReader(src, nil)
			for err == nil {
				var rec libxlfmt.Record
				if rec, err = r.Next(); err == nil && rec.Type == libxlfmt.TypePageData {
					for range r.Pages() {
						pages++
					}
				}
			}
			if err != io.EOF {
				t.Error(err)
			}
		})
		if pages != batches*1024 {
			t.Errorf("%d pages", pages)
		}
		return n
	}
	few, many := use(2), use(20)
	if many > few+20*1024 { // 18,000 more pages
		t.Errorf("%d bytes for 2 batches, %d for 20", few, many)
	}
	if few > 256<<10 {
		t.Errorf("%d bytes", few)
	}
}

// repeat reads s n times over.
func repeat(s string, n int) io.Reader {
	var rs []io.Reader
	for range n {
		rs = append(rs, strings.NewReader(s))
	}
	return io.MultiReader(rs...)
}
