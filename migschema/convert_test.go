package migschema_test

import (
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/migschema"
)

var convertForms = []migschema.Form{migschema.Streamed, migschema.DER, migschema.CER}

// roundTrip takes a classic stream to BER and back.
func roundTrip(b []byte, o *migschema.ConvertOptions) (ber, back []byte, to *migschema.Report, err error) {
	var out, classic bytes.Buffer
	if to, err = migschema.ToBER(&out, bytes.NewReader(b), o); err != nil {
		return nil, nil, nil, err
	}
	if _, err = migschema.ToClassic(&classic, bytes.NewReader(out.Bytes()), o); err != nil {
		return nil, nil, nil, fmt.Errorf("back: %w", err)
	}
	return out.Bytes(), classic.Bytes(), to, nil
}

// ramHead begins a stream with two blocks.
func ramHead(config bool) *classic {
	c := newClassic()
	if config {
		c.config("pc")
	}
	c.open(1, 2, "ram", 0, 4).be64(0x5000 | 4).str("a").be64(0x4000).str("b").be64(0x1000).be64(0x10)
	return c
}

func TestConvertRoundTrip(t *testing.T) {
	page := bytes.Repeat([]byte{0x5a}, 4096)
	zero := func(c *classic, addr uint64, block string) *classic {
		if block == "" {
			return c.be64(addr | 0x22).raw(0)
		}
		return c.be64(addr | 0x02).str(block).raw(0)
	}
	streams := map[string][]byte{
		"none":  noneMig(t),
		"empty": newClassic().raw(0).Bytes(),
	}
	for _, footers := range []bool{true, false} {
		for _, config := range []bool{true, false} {
			foot := func(c *classic, id uint32) *classic {
				if footers {
					c.footer(id)
				}
				return c
			}
			c := foot(ramHead(config), 2).raw(8).be16(2, 4).be32(7).part(2, 2)
			zero(c, 0, "a")
			c.be64(0x1000 | 0x28).raw(page...)
			zero(c, 0x2000, "a") // named again
			c.be64(0x80)
			zero(c, 0, "b")
			c.be64(0x10)
			foot(c, 2).part(2, 2)
			zero(c, 0, "b") // named again, first of its part
			c.be64(0x10)
			foot(c, 2).part(2, 2).be64(0x80) // a hook, then a block that goes on
			zero(c, 0, "")
			zero(c, 0x3000, "a")
			c.be64(0x10)
			foot(c, 2).part(2, 2).be64(0x10) // nothing
			foot(c, 2).part(3, 2).be64(0x1000|0x60).raw(1).be16(3).raw(0, 1, 9).be64(0x10)
			foot(c, 2).open(4, 4, "dev", 0, 1).raw(1, 2, 3)
			foot(c, 4).open(4, 5, "dev", 0, 2).raw(4, 5)
			foot(c, 5).raw(0)
			streams[fmt.Sprintf("footers %v, configuration %v", footers, config)] = c.Bytes()
		}
	}
	it := newClassic().open(1, 3, "dirty-bitmap", 0, 1).raw(1, 2).footer(3)
	it.part(2, 3).raw(3).footer(3).part(3, 3).raw(4, 5, 6).footer(3).raw(0)
	streams["other iterator"] = it.Bytes()
	streams["hook first"] = ramHead(true).footer(2).part(3, 2).be64(0x80).be64(2).str("b").raw(0).be64(0x10).footer(2).raw(0).Bytes()
	streams["unsplit"] = newClassic().open(4, 7, "x", 1, 2).raw(1, 2, 3, 0).Bytes()
	for name, b := range streams {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(name, "other iterator") {
				checkRewrite(t, b, nil)
			}
			for _, form := range convertForms {
				for _, typed := range []bool{false, true} {
					ber, back, report, err := roundTrip(b, &migschema.ConvertOptions{Form: form, Typed: typed})
					if err != nil {
						t.Fatalf("%s: %v", form, err)
					}
					if !bytes.Equal(back, b) {
						t.Errorf("%s: came back otherwise\n%x\n%x\n%x", form, b, ber, back)
					}
					if len(report.Losses) > 0 {
						t.Error(report.Losses)
					}
					if err := migschema.Unmarshal(ber, new(migschema.QemuFile), &migschema.DecoderOptions{DER: form == migschema.DER}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// TestConvertExtras takes block page sizes and addresses there and back.
func TestConvertExtras(t *testing.T) {
	const huge = 2 << 20
	c := newClassic().config("pc").raw(5).str("configuration/capabilities").be32(1, 1).str("x-ignore-shared")
	c.raw(8).be16(3, 16).be64(4096|huge, 4096)
	c.open(1, 2, "ram", 0, 4).be64(3*huge|4).str("a").be64(huge, huge, 0x100000).str("b").be64(2*huge, 0)
	c.be64(0x10).footer(2).part(3, 2).be64(0x10).footer(2).raw(0)
	_, back, _, err := roundTrip(c.Bytes(), nil)
	if err != nil || !bytes.Equal(back, c.Bytes()) {
		t.Errorf("%v\n%x\n%x", err, c.Bytes(), back)
	}
}

// deflated returns b as a zlib stream.
func deflated(b []byte) []byte {
	var out bytes.Buffer
	w, _ := zlib.NewWriterLevel(&out, zlib.HuffmanOnly) // which is cheap to set up
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func TestConvertLosses(t *testing.T) {
	part := func(c *classic) *classic { return c.footer(2).part(3, 2) }
	end := func(c *classic) []byte { return c.be64(0x10).footer(2).raw(0).Bytes() }
	packed := deflated(make([]byte, 4096))
	for _, c := range []struct {
		name, what string
		b          []byte
		fatal      bool // no option helps
	}{
		{"fill byte", "fill byte", end(part(ramHead(true)).be64(2).str("a").raw(7)), false},
		{"compressed", "compressed page", end(part(ramHead(true)).be64(0x100).str("a").be32(uint32(len(packed))).raw(packed...)), false},
		{"flush", "flush mark", end(part(ramHead(true)).be64(0x200)), false},
		{"no end", "without an end", ramHead(true).footer(2).part(2, 2).be64(0x10).footer(2).raw(0).Bytes(), false},
		{"start without an end", "without an end", newClassic().config("pc").open(1, 3, "it", 0, 1).raw(1).footer(3).raw(0).Bytes(), false},
		{"whole section goes on", "came whole", newClassic().config("pc").open(4, 3, "it", 0, 1).raw(1).footer(3).part(3, 3).raw(2).footer(3).raw(0).Bytes(), false},
		{"whole section of RAM goes on", "came whole", newClassic().config("pc").open(4, 3, "ram", 0, 1).raw(1).footer(3).part(3, 3).raw(2).footer(3).raw(0).Bytes(), true},
		{"page at the start", "at the start", end(newClassic().config("pc").open(1, 2, "ram", 0, 4).be64(0x1000 | 4).str("a").be64(0x1000).be64(2).str("a").raw(0)), true},
		{"second list", "second list", end(part(ramHead(true)).be64(0x1000 | 4).str("a").be64(0x1000)), true},
		{"no list", "without a list", end(newClassic().config("pc").open(1, 2, "ram", 0, 4)), true},
		{"name not UTF-8", "bad-utf8", newClassic().config("pc").open(4, 2, "a\xff", 0, 4).raw(1).footer(2).raw(0).Bytes(), true},
		{"large pages", "pages of 8192", newClassic().config("x").raw(5).str("configuration/target-page-bits").be32(1, 13).
			open(1, 2, "ram", 0, 4).be64(0x2000|4).str("a").be64(0x2000, 0x10).footer(2).part(3, 2).be64(2).str("a").raw(0).be64(0x10).footer(2).raw(0).Bytes(), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, _, err := roundTrip(c.b, nil)
			if !errors.Is(err, migschema.CodeLossy) || !strings.Contains(err.Error(), c.what) {
				t.Errorf("got %v", err)
			}
			_, back, report, err := roundTrip(c.b, &migschema.ConvertOptions{Lossy: true})
			if c.fatal {
				if err == nil {
					t.Error("converted")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(report.Losses) != 1 || !strings.Contains(report.Losses[0].String(), c.what) || report.Losses[0].Offset == 0 {
				t.Errorf("%v", report.Losses)
			}
			if c.name == "flush" {
				return // other channels have its RAM
			}
			if !bytes.Equal(image(t, back), image(t, c.b)) {
				t.Error("the RAM differs")
			}
		})
	}
	t.Run("decompress", func(t *testing.T) {
		b := end(part(ramHead(true)).be64(0x100).str("a").be32(uint32(len(packed))).raw(packed...))
		if _, _, report, err := roundTrip(b, &migschema.ConvertOptions{Decompress: true}); err != nil || len(report.Losses) != 1 {
			t.Errorf("%v %v", report, err)
		}
	})
	t.Run("large pages by option", func(t *testing.T) {
		c := newClassic().config("x").raw(5).str("configuration/target-page-bits").be32(1, 13)
		c.open(1, 2, "ram", 0, 4).be64(0x2000|4).str("a").be64(0x2000, 0x10).footer(2)
		c.part(3, 2).be64(8).str("a").raw(make([]byte, 8192)...).be64(0x10).footer(2).raw(0)
		if _, back, _, err := roundTrip(c.Bytes(), &migschema.ConvertOptions{PageSize: 8192}); err != nil || !bytes.Equal(back, c.Bytes()) {
			t.Error(err)
		}
	})
}

// TestConvertPageSize converts pages of a size that only an option tells.
func TestConvertPageSize(t *testing.T) {
	c := newClassic().config("x").open(1, 2, "ram", 0, 4).be64(0x4000|4).str("a").be64(0x4000, 0x10).footer(2)
	c.part(3, 2).be64(8).str("a").raw(make([]byte, 8192)...).be64(0x2000 | 0x22).raw(0).be64(0x10).footer(2).raw(0)
	if _, back, _, err := roundTrip(c.Bytes(), &migschema.ConvertOptions{PageSize: 8192}); err != nil || !bytes.Equal(back, c.Bytes()) {
		t.Error(err)
	}
	for _, size := range []int{-4096, 1, 512, 1000, 4097, 2 << 20} {
		if _, err := migschema.NewReaderBytes(c.Bytes(), &migschema.ReaderOptions{PageSize: size}).Next(); !errors.Is(err, migschema.CodeMisuse) {
			t.Errorf("reader, %d: %v", size, err)
		}
		var out bytes.Buffer
		w := migschema.NewWriter(&out, &migschema.WriterOptions{PageSize: size})
		if err := w.Write(&migschema.Record{Kind: migschema.RecordEOF}); !errors.Is(err, migschema.CodeMisuse) || w.Close() == nil || out.Len() > 0 {
			t.Errorf("writer, %d: %v", size, err)
		}
	}
}

// A full writer takes so many octets and no more.
type full struct {
	bytes.Buffer
	left int
}

var errFull = errors.New("full")

func (f *full) Write(p []byte) (int, error) {
	n := min(len(p), f.left)
	f.left -= n
	f.Buffer.Write(p[:n])
	if n < len(p) {
		return n, errFull
	}
	return n, nil
}

// TestConvertCut cuts the input and the output of conversion at many offsets:
// what has been written then is not taken for complete.
func TestConvertCut(t *testing.T) {
	step := max(1, 1000/difftest.Scale(t, 300))
	for _, form := range convertForms {
		opt := &migschema.ConvertOptions{Form: form, Typed: true}
		classic := noneMig(t)
		eof := bytes.LastIndex(classic, []byte{0, 6}) + 1 // what ends here is complete, without its VMDESC
		ber, _, _, err := roundTrip(classic, opt)
		if err != nil {
			t.Fatal(err)
		}
		reads := func(b []byte) bool { return migschema.Unmarshal(b, new(migschema.QemuFile), nil) == nil }
		for n := 0; n < len(ber); n += step {
			out := full{left: n}
			if _, err := migschema.ToBER(&out, bytes.NewReader(classic), opt); !errors.Is(err, errFull) || reads(out.Bytes()) {
				t.Errorf("%s: room for %d: %v", form, n, err)
			}
			out = full{left: 1 << 20}
			if _, err := migschema.ToClassic(&out, bytes.NewReader(ber[:n]), opt); err == nil {
				t.Errorf("%s: the first %d octets of BER convert", form, n)
			}
			if _, err := records(migschema.NewReaderBytes(out.Bytes(), nil)); err == nil {
				t.Errorf("%s: the first %d octets of BER make a stream", form, n)
			}
		}
		for n := 0; n < len(classic); n += step {
			out := full{left: n}
			_, err := migschema.ToClassic(&out, bytes.NewReader(ber), opt)
			_, rerr := records(migschema.NewReaderBytes(out.Bytes(), nil))
			if !errors.Is(err, errFull) || rerr == nil && n != eof {
				t.Errorf("%s: room for %d: %v", form, n, err)
			}
			out = full{left: 1 << 20}
			if _, err := migschema.ToBER(&out, bytes.NewReader(classic[:n]), opt); (err == nil || reads(out.Bytes())) && n != eof {
				t.Errorf("%s: the first %d octets convert: %v", form, n, err)
			}
		}
	}
}

// TestMaxState holds conversion to the limit of device state, in all forms
// that it comes in.
func TestMaxState(t *testing.T) {
	for _, typed := range []bool{false, true} {
		var ber bytes.Buffer
		if _, err := migschema.ToBER(&ber, bytes.NewReader(noneMig(t)), &migschema.ConvertOptions{Typed: typed}); err != nil {
			t.Fatal(err)
		}
		desc, err := migschema.ReadVMDesc(bytes.NewReader(noneMig(t)), nil)
		if err != nil {
			t.Fatal(err)
		}
		for limit, want := range map[int64]error{60: migschema.CodeLimit, 600: nil} {
			opt := &migschema.ConvertOptions{MaxState: limit, VMDesc: desc}
			if _, err := migschema.ToClassic(io.Discard, bytes.NewReader(ber.Bytes()), opt); !errors.Is(err, want) {
				t.Errorf("typed %v, at most %d: %v", typed, limit, err)
			}
		}
	}
	for limit, want := range map[int64]error{60: migschema.CodeLimit, 750: nil} {
		if _, err := migschema.ToBER(io.Discard, bytes.NewReader(noneMig(t)), &migschema.ConvertOptions{MaxState: limit}); !errors.Is(err, want) {
			t.Errorf("to BER, at most %d: %v", limit, err)
		}
	}
}

// TestToClassicErrors gives BER that the classic layout cannot say.
func TestToClassicErrors(t *testing.T) {
	i := migschema.NewInt
	dev := func(id int64, name string, c migschema.FullContents) migschema.Section {
		return &migschema.SecFull{Name: name, SectionID: i(id), Contents: c}
	}
	ram := &migschema.RAMBlockList{TotalRAM: i(0x1000), Blocks: []migschema.RAMBlockID{{Name: "a", Len: i(0x1000)}}}
	for name, top := range map[string][]migschema.Section{
		"id over 32 bits":        {dev(1<<32, "a", migschema.OldBlob{})},
		"unknown escape":         {dev(-99, "a", migschema.OldBlob{})},
		"typed escape":           {dev(-8, "a", migschema.VMState{})},
		"typed, no description":  {dev(1, "a", migschema.VMState{})},
		"version over 32 bits":   {&migschema.SecFull{Name: "a", VersionID: i(1 << 32), Contents: migschema.OldBlob{}}},
		"negative instance":      {&migschema.SecFull{Name: "a", InstanceID: i(-1), Contents: migschema.OldBlob{}}},
		"name over 255 octets":   {dev(1, strings.Repeat("é", 200), migschema.OldBlob{})},
		"RAM of another name":    {dev(1, "mar", ram)},
		"unknown block":          {dev(1, "ram", ram), &migschema.SecMin{SectionID: i(1), RAMSec: []migschema.RAMSecBlock{{Name: "b", PageList: []migschema.RAMPage{migschema.Compr{}}}}}},
		"unaligned page":         {dev(1, "ram", ram), &migschema.SecMin{SectionID: i(1), RAMSec: []migschema.RAMSecBlock{{Name: "a", PageList: []migschema.RAMPage{migschema.Compr{Addr: i(5)}}}}}},
		"command over 16 bits":   {&migschema.SecFull{Name: "c", SectionID: i(-8), InstanceID: i(1 << 16), Contents: migschema.OldBlob{}}},
		"footers told late":      {dev(1, "a", migschema.OldBlob{}), dev(2, "b", migschema.OldBlob{}), dev(-126, "f", migschema.OldBlob{})},
		"extras of other blocks": {dev(-1, "e", migschema.OldBlob{1}), dev(1, "ram", ram)},
		"bad tail":               {dev(-4, "t", migschema.OldBlob{9})},
		"bad configuration":      {dev(-7, "c", migschema.OldBlob{9})},
		"bad description":        {dev(-6, "d", migschema.OldBlob("{{"))},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := migschema.Marshal(&migschema.QemuFile{Version: i(3), Top: top}, nil)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if _, err := migschema.ToClassic(&out, bytes.NewReader(b), nil); err == nil {
				t.Errorf("converted to %x", out.Bytes())
			}
			if _, err := records(migschema.NewReaderBytes(out.Bytes(), nil)); err == nil {
				t.Error("what was written reads")
			}
		})
	}
	b, _ := migschema.Marshal(&migschema.QemuFile{Version: i(3), Top: []migschema.Section{
		dev(1, "ram", ram), &migschema.SecMin{SectionID: i(1)},
	}}, nil)
	if _, err := migschema.ToClassic(io.Discard, io.MultiReader(bytes.NewReader(b)), nil); !errors.Is(err, migschema.CodeLossy) {
		t.Errorf("from a pipe: %v", err)
	}
	if _, err := migschema.ToBER(io.Discard, io.MultiReader(bytes.NewReader(noneMig(t))), &migschema.ConvertOptions{Form: migschema.DER}); err == nil {
		t.Error("DER from a pipe")
	}
}

// TestConvertFiles converts between files, from where they stand.
func TestConvertFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, append([]byte("head"), noneMig(t)...), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(4, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	var der bytes.Buffer
	if _, err := migschema.ToBER(&der, f, &migschema.ConvertOptions{Form: migschema.DER}); err != nil || der.Len() != 806 {
		t.Errorf("%d octets, %v", der.Len(), err)
	}
}

// TestOpenSSL lets openssl walk what is written, and compares what it finds
// with the Scanner.
func TestOpenSSL(t *testing.T) {
	openssl := difftest.Tool(t, "openssl", "")
	line := regexp.MustCompile(`^ *(\d+):d=(\d+) +hl=(\d+) l= *(\d+|inf) +(prim|cons): (.*)$`)
	for name, b := range map[string][]byte{"none": noneMig(t), "every": convertible(t)} {
		for _, form := range []migschema.Form{migschema.Streamed, migschema.DER} {
			for _, typed := range []bool{false, true} {
				var ber bytes.Buffer
				opt := &migschema.ConvertOptions{Form: form, Typed: typed, Lossy: true}
				if _, err := migschema.ToBER(&ber, bytes.NewReader(b), opt); err != nil {
					t.Fatal(err)
				}
				var want, got []string
				for e, err := range migschema.NewScannerBytes(ber.Bytes(), nil).All() {
					if err != nil {
						t.Fatal(err)
					}
					if e.Kind == migschema.ElementEnd {
						continue
					}
					l := fmt.Sprint(e.Length)
					if e.Length < 0 {
						l = "inf"
					}
					want = append(want, fmt.Sprintf("%d d=%d hl=%d l=%s", e.Offset, e.Depth, e.HeaderSize, l))
				}
				path := filepath.Join(t.TempDir(), "ber")
				if err := os.WriteFile(path, ber.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
				for l := range strings.Lines(string(difftest.Run(t, openssl, "asn1parse", "-inform", "DER", "-in", path))) {
					m := line.FindStringSubmatch(strings.TrimRight(l, "\n"))
					if m == nil {
						t.Fatalf("openssl says %q", l)
					}
					if strings.HasPrefix(m[6], "EOC") {
						continue
					}
					got = append(got, fmt.Sprintf("%s d=%s hl=%s l=%s", m[1], m[2], m[3], m[4]))
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s, %s, typed %v (-scanner +openssl):\n%s", name, form, typed, diff)
				}
			}
		}
	}
}

// convertible is a stream with as much as the schema can say.
func convertible(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	w := migschema.NewWriter(&out, nil)
	for rec, err := range migschema.NewReaderBytes(everyRecord(), nil).Records() {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Kind == migschema.RecordPage && (rec.Page.Kind == migschema.PageCompressed || rec.Page.Kind == migschema.PageFlush) {
			continue
		}
		if rec.Kind == migschema.RecordPage && rec.Page.Kind == migschema.PageXBZRLE {
			rec.Page.Data = []byte{1, 1, 9}
		}
		rec.Page.Fill = 0
		if err := w.Write(rec); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// FuzzConvert takes any classic stream that converts without loss there and
// back, and any BER stream that converts to classic to BER again.
func FuzzConvert(f *testing.F) {
	f.Add(noneMig(f), uint8(0))
	f.Add(everyRecord(), uint8(1))
	f.Add(ramHead(false).raw(0).Bytes(), uint8(2))
	for _, v := range vectors(f) {
		if v.Type == "QemuFile" && v.Expect == "accept" {
			f.Add(fileVector(f, v.ID), uint8(0))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, mode uint8) {
		opt := &migschema.ConvertOptions{Form: convertForms[mode%3], Typed: mode&4 != 0}
		if migschema.Detect(b) == migschema.BER {
			var classic bytes.Buffer
			if _, err := migschema.ToClassic(&classic, bytes.NewReader(b), opt); err != nil {
				return
			}
			if _, _, _, err := roundTrip(classic.Bytes(), opt); err != nil && !errors.Is(err, migschema.CodeLossy) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, migschema.CodeSplit) {
				t.Fatalf("%x: %v", classic.Bytes(), err)
			}
			return
		}
		_, back, report, err := roundTrip(b, opt)
		if err != nil {
			if strings.HasPrefix(err.Error(), "back:") {
				t.Fatal(err)
			}
			return
		}
		if len(report.Losses) == 0 && !bytes.Equal(back, b) {
			t.Fatalf("came back as %x", back)
		}
	})
}
