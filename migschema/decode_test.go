package migschema_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/migschema"
)

// drain reads all events and returns them as text, and the error.
func drain(d *migschema.Decoder) (string, error) {
	var s strings.Builder
	for e, err := range d.Events() {
		if err != nil {
			return s.String(), err
		}
		fmt.Fprintf(&s, "%d %s", e.Offset, e.Kind)
		switch e.Kind {
		case migschema.EventFile:
			fmt.Fprint(&s, " ", e.Version)
		case migschema.EventFull:
			fmt.Fprint(&s, " ", e.Name, e.SectionID, e.InstanceID, e.VersionID)
		case migschema.EventMin:
			fmt.Fprint(&s, " ", e.SectionID)
		case migschema.EventRAMList:
			fmt.Fprint(&s, " ", e.TotalRAM, e.Blocks)
		case migschema.EventBlock, migschema.EventSubSection:
			fmt.Fprint(&s, " ", e.Name)
		case migschema.EventPage:
			fmt.Fprintf(&s, " %s %s %#x %x", e.Page.Kind, e.Page.Block, e.Page.Addr, e.Page.Data)
		case migschema.EventBool:
			fmt.Fprint(&s, " ", e.Bool)
		case migschema.EventInt:
			fmt.Fprint(&s, " ", e.Int)
		case migschema.EventBlob:
			fmt.Fprintf(&s, " %x", e.Data)
		}
		s.WriteByte('\n')
	}
	return s.String(), nil
}

func fileVector(t testing.TB, id string) []byte {
	t.Helper()
	for _, v := range vectors(t) {
		if v.ID == id {
			b := make([]byte, len(v.BER)/2)
			if _, err := fmt.Sscanf(v.BER, "%x", &b); err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	t.Fatalf("no vector %s", id)
	return nil
}

func TestReadersOfAllKinds(t *testing.T) {
	for _, id := range []string{"file/all-arms", "ber/indef/file", "ber/indef/inner-only", "cer/file"} {
		b := fileVector(t, id)
		want, err := drain(migschema.NewDecoderBytes(b, nil))
		if err != nil {
			t.Fatal(err)
		}
		for name, r := range map[string]io.Reader{
			"whole":      bytes.NewReader(b),
			"one byte":   iotest.OneByteReader(bytes.NewReader(b)),
			"half":       iotest.HalfReader(bytes.NewReader(b)),
			"data error": iotest.DataErrReader(bytes.NewReader(b)),
		} {
			for _, exact := range []bool{false, true} {
				got, err := drain(migschema.NewDecoder(r, &migschema.DecoderOptions{NoReadAhead: exact}))
				if err != nil {
					t.Errorf("%s, %s: %v", id, name, err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s, %s: %s", id, name, diff)
				}
				r = bytes.NewReader(b)
			}
		}
	}
}

// TestTruncation cuts every sound vector at every offset: an error that says
// so, the same from a slice and from a reader.
func TestTruncation(t *testing.T) {
	for _, v := range vectors(t) {
		if v.Expect != "accept" || v.Type == "QemuFile" {
			continue
		}
		b := v.octets(t)
		step := 1
		if len(b) > 600 && testing.Short() {
			step = 97
		}
		for n := 0; n < len(b); n += step {
			if err := migschema.Unmarshal(b[:n], newValue(t, v.Type), nil); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s cut at %d: %v", v.ID, n, err)
			}
		}
	}
	for _, id := range []string{"file/all-arms", "ber/indef/file", "ber/indef/inner-only", "cer/file"} {
		b := fileVector(t, id)
		step := 1
		if testing.Short() {
			step = 41
		}
		for n := 0; n < len(b); n += step {
			_, err := drain(migschema.NewDecoderBytes(b[:n], nil))
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s cut at %d: %v", id, n, err)
			}
			_, err2 := drain(migschema.NewDecoder(iotest.HalfReader(bytes.NewReader(b[:n])), nil))
			if err2 == nil || err2.Error() != err.Error() {
				t.Fatalf("%s cut at %d: %v from a slice, %v from a reader", id, n, err, err2)
			}
		}
	}
}

func TestReadError(t *testing.T) {
	b := fileVector(t, "file/all-arms")
	for n := 0; n < len(b); n += 13 {
		r := io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(io.ErrClosedPipe))
		_, err := drain(migschema.NewDecoder(r, nil))
		if !errors.Is(err, io.ErrClosedPipe) || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("after %d: %v", n, err)
		}
	}
	for _, r := range []io.Reader{iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(b))), emptyReader{}} {
		if _, err := drain(migschema.NewDecoder(r, nil)); err == nil {
			t.Error("no error")
		}
	}
}

// emptyReader never has anything to say.
type emptyReader struct{}

func (emptyReader) Read([]byte) (int, error) { return 0, nil }

// TestNoReadAhead leaves what follows the stream in the reader.
func TestNoReadAhead(t *testing.T) {
	for _, id := range []string{"file/all-arms", "ber/indef/file", "ber/indef/file-empty", "cer/file"} {
		r := bytes.NewReader(append(fileVector(t, id), "rest"...))
		if _, err := drain(migschema.NewDecoder(r, &migschema.DecoderOptions{NoReadAhead: true})); err != nil {
			t.Fatal(err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "rest" {
			t.Errorf("%s: left %q", id, rest)
		}
		opt := &migschema.DecoderOptions{Lenient: migschema.Lenient{TrailingData: true}}
		d := migschema.NewDecoder(bytes.NewReader(append(fileVector(t, id), "rest"...)), opt)
		if _, err := drain(d); err != nil {
			t.Fatal(err)
		}
		if string(d.Buffered()) != "rest" {
			t.Errorf("%s: buffered %q", id, d.Buffered())
		}
		_, err := drain(migschema.NewDecoder(strings.NewReader(string(fileVector(t, id))+"rest"), nil))
		if !errors.Is(err, migschema.CodeTrailingData) {
			t.Errorf("%s: trailing data gave %v", id, err)
		}
	}
}

// TestLenienceIsSeparate bears each breach under its own switch only.
func TestLenienceIsSeparate(t *testing.T) {
	type L = migschema.Lenient
	for _, c := range []struct {
		name, typ, ber string
		only           L
	}{
		{"wide integer", "SectionID", "02080000000000000005", L{IntNotMinimal: true}},
		{"padded tag", "SecMin", "7f8081530b0201027fcc52005fd34500", L{AnyTag: true}},
		{"long tag", "RAMPage", "5f000100", L{AnyTag: true}},
		{"segments", "QemuString", "2c0a0c0370632e0c0372616d", L{UTF8Segments: true}},
		{"page size", "FullPage", "7fc650060201000401ab", L{PageSize: true}},
		{"page size in segments", "FullPage", "7fc6500802010024030401ab", L{PageSize: true}},
		{"name size", "QemuString", "0c00", L{NameSize: true}},
		{"version", "QemuFile", "7fcdc551050201023000", L{Version: true}},
		{"extra component", "QemuFile", "7fcdc5510702010330000500", L{Unknown: true}},
		{"extra component, indefinite", "QemuFile", "7fcdc551800201033000a58002010400000000", L{Unknown: true}},
		{"unknown section", "QemuFile", "7fcdc551090201033004" + "7f850100", L{Unknown: true}},
		{"trailing data", "QemuFile", "7fcdc551050201033000ff", L{TrailingData: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b []byte
			if _, err := fmt.Sscanf(c.ber, "%x", &b); err != nil {
				t.Fatal(err)
			}
			if err := migschema.Unmarshal(b, newValue(t, c.typ), nil); err == nil {
				t.Error("strict accepts it")
			}
			if err := migschema.Unmarshal(b, newValue(t, c.typ), &migschema.DecoderOptions{Lenient: c.only}); err != nil {
				t.Errorf("its switch: %v", err)
			}
			rest := everyLeniency
			rest.UTF8Segments = true
			if c.only.IntNotMinimal {
				rest.IntNotMinimal = false
			} else if c.only.AnyTag {
				rest.AnyTag = false
			} else if c.only.UTF8Segments {
				rest.UTF8Segments = false
			} else if c.only.PageSize {
				rest.PageSize = false
			} else if c.only.NameSize {
				rest.NameSize = false
			} else if c.only.Version {
				rest.Version = false
			} else if c.only.Unknown {
				rest.Unknown = false
			} else {
				rest.TrailingData = false
			}
			if err := migschema.Unmarshal(b, newValue(t, c.typ), &migschema.DecoderOptions{Lenient: rest}); err == nil {
				t.Error("the other switches accept it")
			}
		})
	}
}

// TestZeroPages reads pages of zeros at all sorts of addresses, near to and far
// from the end of what there is: the short cut that they take finds the same
// as the long way, which is all there is without reading ahead.
func TestZeroPages(t *testing.T) {
	r := rand.New(rand.NewPCG(difftest.Seed(t, 9), 0))
	for range difftest.Scale(t, 6000) {
		b := []byte{0x7f, 0xcd, 0xc5, 0x51, 0x80, 2, 1, 3, 0x30, 0x80, 0x7f, 0x81, 0x53, 0x80, 2, 1, 2, 0x7f, 0xcc, 0x52, 0x80, 0x30, 0x80, 0x0c, 1, 'a'}
		var pages []byte
		for range 1 + r.IntN(4) {
			n := r.IntN(11)
			pages = append(pages, 0x40, byte(n))
			for range n {
				pages = append(pages, []byte{0, 0, 1, 0x7f, 0x80, 0xff}[r.IntN(6)])
			}
		}
		if r.IntN(2) == 0 {
			b = append(append(b, 0x30, byte(len(pages)-r.IntN(2)*r.IntN(2))), pages...)
		} else {
			b = append(append(append(b, 0x30, 0x80), pages...), 0, 0)
		}
		b = append(b, 0, 0, 0, 0, 0x5f, 0xd3, 0x45, 0, 0, 0, 0, 0, 0, 0)
		if r.IntN(4) == 0 {
			b = b[:r.IntN(len(b))]
		}
		lenient := migschema.Lenient{IntNotMinimal: r.IntN(2) == 0}
		opt := migschema.DecoderOptions{Lenient: lenient, MaxInteger: r.IntN(9), MaxLength: []int64{0, 0, 4}[r.IntN(3)]}
		short, err := drain(migschema.NewDecoderBytes(b, &opt))
		opt.NoReadAhead = true
		long, lerr := drain(migschema.NewDecoder(bytes.NewReader(b), &opt))
		if short != long || fmt.Sprint(err) != fmt.Sprint(lerr) {
			t.Fatalf("%x: %v\n%s, the long way %v\n%s", b, err, short, lerr, long)
		}
	}
}

func TestSkip(t *testing.T) {
	for _, id := range []string{"file/all-arms", "ber/indef/file", "ber/indef/inner-only", "cer/file"} {
		b := fileVector(t, id)
		all, err := drain(migschema.NewDecoderBytes(b, nil))
		if err != nil {
			t.Fatal(err)
		}
		events := strings.Count(all, "\n")
		// Skip after each event in turn: the section ends, all else is as before.
		for at := range events {
			d := migschema.NewDecoder(bytes.NewReader(b), nil)
			var ends int
			inside := false
			for i := 0; ; i++ {
				e, err := d.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatalf("%s: skip after %d: %v", id, at, err)
				}
				switch e.Kind {
				case migschema.EventFull, migschema.EventMin:
					inside = true
				case migschema.EventSectionEnd:
					inside = false
					ends++
				}
				if i == at {
					if err := d.Skip(); err != nil {
						t.Fatal(err)
					}
					if inside {
						if e, err := d.Next(); err != nil || e.Kind != migschema.EventSectionEnd {
							t.Fatalf("%s: after Skip at %d: %v %v", id, at, e.Kind, err)
						}
						inside = false
						ends++
					}
				}
			}
			if want := strings.Count(all, "section end"); ends != want {
				t.Errorf("%s: skip after %d: %d sections end, want %d", id, at, ends, want)
			}
		}
	}
}

// TestDecoderRange gives the events numbers that they cannot hold.
func TestDecoderRange(t *testing.T) {
	wide := migschema.NewUint(math.MaxUint64)
	for name, f := range map[string]migschema.Section{
		"id":      &migschema.SecMin{SectionID: wide},
		"version": &migschema.SecFull{Name: "a", VersionID: wide, Contents: migschema.OldBlob{}},
		"addr": &migschema.SecMin{RAMSec: []migschema.RAMSecBlock{{Name: "a", PageList: []migschema.RAMPage{
			migschema.Compr{Addr: migschema.NewInt(-1)}}}}},
		"len": &migschema.SecFull{Name: "a", Contents: &migschema.RAMBlockList{
			Blocks: []migschema.RAMBlockID{{Name: "b", Len: migschema.NewInt(-1)}}}},
	} {
		b, err := migschema.Marshal(&migschema.QemuFile{Version: migschema.NewInt(3), Top: []migschema.Section{f}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := drain(migschema.NewDecoderBytes(b, nil)); !errors.Is(err, migschema.CodeRange) {
			t.Errorf("%s: %v", name, err)
		}
		if err := migschema.Unmarshal(b, new(migschema.QemuFile), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestScannerPaths holds the paths of a file with every kind of element
// against those that the issue of this package names.
func TestScannerPaths(t *testing.T) {
	b := fileVector(t, "file/all-arms")
	s := migschema.NewScannerBytes(b, nil)
	seen := make(map[string]bool)
	depth := 0
	for e, err := range s.All() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == migschema.ElementEnd {
			depth--
		}
		if e.Depth != depth {
			t.Errorf("%s: depth %d, want %d", s.Path(), e.Depth, depth)
		}
		if e.Kind == migschema.ElementBegin {
			depth++
		}
		p := s.Path()
		if e.Name != "" && !strings.HasSuffix(p, "."+e.Name) {
			t.Errorf("%s is named %s", p, e.Name)
		}
		if e.Kind != migschema.ElementEnd && seen[p] {
			t.Errorf("%s comes twice", p)
		}
		if e.Kind == migschema.ElementEnd && !seen[p] {
			t.Errorf("%s ends and did not begin", p)
		}
		seen[p] = true
	}
	for _, p := range []string{
		"QemuFile", "QemuFile.version", "QemuFile.top", "QemuFile.top[0].full", "QemuFile.top[0].full.name",
		"QemuFile.top[0].full.contents.ramblid.blocks[4].len", "QemuFile.top[0].full.secendmark",
	} {
		if !seen[p] {
			t.Errorf("no %s", p)
		}
	}
}

// bombs are streams of size octets or less that claim, nest or repeat as much as
// they can.
func bombs(size int) map[string][]byte {
	head := []byte{0x7f, 0xcd, 0xc5, 0x51, 0x80, 2, 1, 3, 0x30, 0x80}
	full := append(append([]byte{}, head...), 0x7f, 0x8f, 0x53, 0x80, 0x0c, 1, 'a', 2, 1, 1, 2, 1, 1, 2, 1, 1)
	min := append(append([]byte{}, head...), 0x7f, 0x81, 0x53, 0x80, 2, 1, 1, 0x7f, 0xcc, 0x52, 0x80, 0x30, 0x80, 0x0c, 1, 'a', 0x30, 0x80)
	fill := func(b []byte, unit ...byte) []byte {
		b = append([]byte{}, b...)
		for len(b) < size-len(unit) {
			b = append(b, unit...)
		}
		return b
	}
	list := append(append([]byte{}, full...), 0x7f, 0xbe, 0x52, 0x80, 2, 1, 0, 0x30, 0x80)
	return map[string][]byte{
		"nested arrays":            fill(append(append([]byte{}, full...), 0x30, 0x80), 0x30, 0x80),
		"nested subsections":       fill(append(append([]byte{}, full...), 0x30, 0x80), 0x7f, 0xd3, 0x4c, 0x80, 0x7f, 0xd3, 0x53, 0x80, 0x0c, 1, 'a', 2, 1, 1, 0x30, 0x80),
		"nested segments":          fill(full, 0x24, 0x80),
		"empty segments":           fill(append(append([]byte{}, full...), 0x24, 0x80), 4, 0),
		"huge blob":                append(append([]byte{}, full...), 4, 0x88, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0),
		"blob of 2^64":             append(append([]byte{}, full...), 4, 0x89, 1, 0, 0, 0, 0, 0, 0, 0, 0),
		"huge integer":             fill(append(append([]byte{}, full...), 0x30, 0x80, 2, 0x83, 0x0f, 0, 0), 1),
		"huge xbzrle":              fill(append(append([]byte{}, min...), 0x7f, 0xd8, 0x42, 0x80, 2, 1, 0, 4, 0x84, 0x7f, 0xff, 0xff, 0xff), 1),
		"huge page":                append(append([]byte{}, min...), 0x7f, 0xc6, 0x50, 0x80, 2, 1, 0, 4, 0x84, 0x7f, 0xff, 0xff, 0xff),
		"huge name":                append(append([]byte{}, head...), 0x7f, 0x8f, 0x53, 0x80, 0x0c, 0x84, 0x7f, 0xff, 0xff, 0xff),
		"endless tag":              fill(head, 0xff),
		"many blocks":              fill(list, 0x30, 6, 0x0c, 1, 'a', 2, 1, 0),
		"many hooks":               fill(min, 0x5f, 0xc8, 0x4f, 0),
		"many zero pages":          fill(min, 0x40, 1, 0),
		"many sections":            fill(head, 0x7f, 0x81, 0x53, 11, 2, 1, 1, 0x7f, 0xcc, 0x52, 0, 0x5f, 0xd3, 0x45, 0),
		"many empty arrays":        fill(append(append([]byte{}, full...), 0x30, 0x80), 0x30, 0),
		"many secblocks":           fill(min[:len(min)-7], 0x30, 5, 0x0c, 1, 'a', 0x30, 0),
		"unknown, nested":          fill(head, 0xa5, 0x80),
		"pages all over the place": strewn(min, size),
	}
}

// strewn is a stream of zero pages each far from all others.
func strewn(head []byte, size int) []byte {
	b := append([]byte{}, head...)
	r := rand.New(rand.NewPCG(1, 2))
	for len(b) < size-10 {
		b = append(b, 0x40, 8, byte(r.Uint32()&0x7f|1))
		for range 5 {
			b = append(b, byte(r.Uint32()))
		}
		b = append(b, 0, 0)
	}
	return b
}

// TestBombs decodes hostile streams within 64 MiB and, on a machine that is
// not too busy, a second.
func TestBombs(t *testing.T) {
	lenient := everyLeniency
	lenient.UTF8Segments = true
	for name, b := range bombs(difftest.Scale(t, 1<<20)) {
		for mode, opt := range map[string]*migschema.DecoderOptions{
			"strict": nil, "lenient": {Lenient: lenient}, "validate": {Validate: true},
		} {
			for kind, run := range map[string]func() error{
				"decoder":   func() error { _, err := count(migschema.NewDecoder(bytes.NewReader(b), opt)); return err },
				"unmarshal": func() error { return migschema.Unmarshal(b, new(migschema.QemuFile), opt) },
			} {
				t.Run(name+"/"+mode+"/"+kind, func(t *testing.T) {
					var before, after runtime.MemStats
					runtime.ReadMemStats(&before)
					start := time.Now()
					err := run()
					took := time.Since(start)
					runtime.ReadMemStats(&after)
					if err == nil {
						t.Error("accepted")
					}
					if got := after.TotalAlloc - before.TotalAlloc; got > bombLimit(b) {
						t.Errorf("took %d MiB in all (%v)", got>>20, err)
					}
					if took > 20*time.Second {
						t.Errorf("took %v", took)
					}
				})
			}
		}
	}
}

// count reads all events.
func count(d *migschema.Decoder) (pages int, err error) {
	for {
		e, err := d.Next()
		if err == io.EOF {
			return pages, nil
		}
		if err != nil {
			return pages, err
		}
		if e.Kind == migschema.EventPage {
			pages++
		}
	}
}

// pageStream is a reader that makes a stream of full pages as it is read.
type pageStream struct {
	pages int
	buf   bytes.Buffer
	e     *migschema.Encoder
	data  [4096]byte
	next  int
}

func newPageStream(pages int) *pageStream {
	s := &pageStream{pages: pages}
	s.e = migschema.NewEncoder(&s.buf, nil)
	s.e.BeginFull("ram", 1, 0, 4)
	s.e.RAMList(uint64(pages)<<12, []migschema.RAMBlock{{Name: "pc.ram", Len: uint64(pages) << 12}})
	s.e.EndSection()
	s.e.BeginMin(1)
	s.e.BeginBlock("pc.ram")
	return s
}

func (s *pageStream) Read(p []byte) (int, error) {
	for s.buf.Len() == 0 && s.next <= s.pages {
		if s.next == s.pages {
			s.e.EndBlock()
			s.e.EndSection()
			if err := s.e.Close(); err != nil {
				return 0, err
			}
			s.next++
			break
		}
		s.data[0], s.data[1] = byte(s.next), byte(s.next>>8)
		if err := s.e.FullPage(uint64(s.next)<<12, s.data[:]); err != nil {
			return 0, err
		}
		s.next++
	}
	return s.buf.Read(p)
}

// TestLongStream makes and decodes 4 GiB of pages: less than 2 MiB of heap
// growth, and the heap that both need is there from the start.
func TestLongStream(t *testing.T) {
	pages := difftest.Scale(t, 1<<20)
	s := newPageStream(pages)
	d := migschema.NewDecoder(s, &migschema.DecoderOptions{Validate: true})
	for range 200 { // past the filling of buffers
		if _, err := d.Next(); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, err := count(d)
	if err != nil {
		t.Fatal(err)
	}
	if n < pages-200 {
		t.Errorf("%d pages of %d", n, pages)
	}
	runtime.ReadMemStats(&after)
	if got := int64(after.HeapSys) - int64(before.HeapSys); got > 16<<20 { // it grows by 4 MiB at least
		t.Errorf("the heap grew by %d KiB", got>>10)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 2<<20 {
		t.Errorf("%d KiB were allocated", got>>10)
	}
}

func TestNoAllocationPerPage(t *testing.T) {
	for name, form := range map[string]migschema.Form{"streamed": migschema.Streamed, "cer": migschema.CER} {
		page := make([]byte, 4096)
		b := encodeFile(t, form, func(e *migschema.Encoder) error {
			e.BeginMin(1)
			e.BeginBlock("pc.ram")
			for i := range 4000 {
				e.FullPage(uint64(i)<<12, page)
				e.ZeroPage(uint64(i) << 12)
				e.XBZRLEPage(uint64(i)<<12, page[:9])
			}
			e.EndBlock()
			return e.EndSection()
		})
		d := migschema.NewDecoder(bytes.NewReader(b), nil)
		for range 10 {
			d.Next()
		}
		if n := testing.AllocsPerRun(10000, func() {
			if _, err := d.Next(); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a page to decode", name, n)
		}
		e := migschema.NewEncoder(io.Discard, &migschema.EncoderOptions{Form: form})
		e.BeginMin(1)
		e.BeginBlock("pc.ram")
		if n := testing.AllocsPerRun(1000, func() {
			e.ZeroPage(1 << 40)
			if err := e.FullPage(1<<40, page); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a page to encode", name, n)
		}
	}
}

// TestErrorsStay asks on after an error, and after the end.
func TestErrorsStay(t *testing.T) {
	var ber bytes.Buffer
	if _, err := migschema.ToBER(&ber, bytes.NewReader(noneMig(t)), &migschema.ConvertOptions{Typed: true}); err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{0, 1, 100} {
		b, c := ber.Bytes()[:ber.Len()-cut], noneMig(t)[:747-cut]
		d, s, r := migschema.NewDecoderBytes(b, nil), migschema.NewScannerBytes(b, nil), migschema.NewReaderBytes(c, nil)
		for name, next := range map[string]func() error{
			"decoder": func() error { _, err := d.Next(); return err },
			"scanner": func() error { _, err := s.Next(); return err },
			"reader":  func() error { _, err := r.Next(); return err },
		} {
			var err error
			for err == nil {
				err = next()
			}
			if (err == io.EOF) != (cut == 0) {
				t.Errorf("%s, %d octets short: %v", name, cut, err)
			}
			for range 3 {
				if again := next(); again != err {
					t.Errorf("%s, %d octets short: %v, then %v", name, cut, err, again)
				}
			}
		}
		if err := d.Skip(); cut > 0 && err == nil {
			t.Error("skipped after an error")
		}
	}
}

// TestStateAndBlob asks for whole values where there are none.
func TestStateAndBlob(t *testing.T) {
	var ber bytes.Buffer
	if _, err := migschema.ToBER(&ber, bytes.NewReader(noneMig(t)), &migschema.ConvertOptions{Typed: true}); err != nil {
		t.Fatal(err)
	}
	states, blobs := 0, 0
	d := migschema.NewDecoderBytes(ber.Bytes(), nil)
	for ev, err := range d.Events() {
		if err != nil {
			t.Fatal(err)
		}
		kind := ev.Kind
		if _, err := d.State(1 << 20); kind == migschema.EventState {
			states++
			if err != nil {
				t.Error(err)
			}
			continue
		} else if !errors.Is(err, migschema.CodeMisuse) {
			t.Errorf("state after %s: %v", kind, err)
		}
		if _, err := d.Blob(1 << 20); kind == migschema.EventBlob {
			blobs++
			if err != nil {
				t.Error(err)
			}
		} else if !errors.Is(err, migschema.CodeMisuse) {
			t.Errorf("blob after %s: %v", kind, err)
		}
	}
	if states != 2 || blobs != 2 {
		t.Errorf("%d states, %d blobs", states, blobs)
	}
}
