package migschema_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/migschema"
)

// TestRAMBounds applies what lies just inside of an image, and just outside.
func TestRAMBounds(t *testing.T) {
	type B = migschema.RAMBlock
	at := func(off int64) func(B) (int64, bool) { return func(B) (int64, bool) { return off, true } }
	for name, c := range map[string]struct {
		opt  migschema.RAMOptions
		len  uint64
		addr uint64
		ok   bool
	}{
		"last page":              {migschema.RAMOptions{}, 8192, 4096, true},
		"half a page at the end": {migschema.RAMOptions{}, 6000, 4096, false},
		"up to the limit":        {migschema.RAMOptions{MaxSize: 8192}, 8192, 0, true},
		"over the limit":         {migschema.RAMOptions{MaxSize: 8191}, 8192, 0, false},
		"placed up to the limit": {migschema.RAMOptions{MaxSize: 16384, Place: at(8192)}, 8192, 0, true},
		"placed over the limit":  {migschema.RAMOptions{MaxSize: 16384, Place: at(8193)}, 8192, 0, false},
		"placed past the limit":  {migschema.RAMOptions{MaxSize: 16384, Place: at(math.MaxInt64)}, 8192, 0, false},
		"small pages":            {migschema.RAMOptions{PageSize: 1024}, 4096, 3072, true},
		"no whole small page":    {migschema.RAMOptions{PageSize: 1024}, 4096, 100, false},
	} {
		m := migschema.NewRAM(new(memory), &c.opt)
		err := m.SetBlocks([]B{{Name: "a", Len: c.len}})
		if err == nil {
			err = m.Apply(&migschema.Page{Block: "a", Addr: c.addr})
		}
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	// An option goes before what a stream says of its pages.
	m := migschema.NewRAM(new(memory), &migschema.RAMOptions{PageSize: 1024})
	for _, rec := range []*migschema.Record{
		{Kind: migschema.RecordConfiguration, Config: &migschema.Configuration{}},
		{Kind: migschema.RecordConfiguration, Config: &migschema.Configuration{TargetPageBits: 12}},
		{Kind: migschema.RecordRAMList, Blocks: []B{{Name: "a", Len: 4096}}},
		{Kind: migschema.RecordPage, Page: migschema.Page{Kind: migschema.PageFull, Block: "a", Addr: 1024, Data: make([]byte, 1024)}},
	} {
		if err := m.Record(rec); err != nil {
			t.Errorf("record %v: %v", rec.Kind, err)
		}
	}
	// An image that takes less than it is given loses memory.
	m = migschema.NewRAM(writerOnly{new(shortImage)}, nil)
	err := m.SetBlocks([]B{{Name: "a", Len: 8192}})
	for range 2 {
		err = errors.Join(err, m.Apply(&migschema.Page{Block: "a", Kind: migschema.PageFull, Data: make([]byte, 4096)}))
	}
	if err = errors.Join(err, m.Flush()); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("short writes: %v", err)
	}
}

// A shortImage takes half of what it is given, and says nothing of it.
type shortImage struct{ memory }

func (*shortImage) WriteAt(p []byte, off int64) (int, error) { return len(p) / 2, nil }

// TestTargetPageBits reads configurations at the bounds of page sizes.
func TestTargetPageBits(t *testing.T) {
	for bits, ok := range map[uint32]bool{0: false, 9: false, 10: true, 12: true, 20: true, 21: false, 64: false, math.MaxUint32: false} {
		b := newClassic().config("pc").raw(5).str("configuration/target-page-bits").be32(1, bits).raw(0).Bytes()
		if _, err := records(migschema.NewReaderBytes(b, nil)); (err == nil) != ok || !ok && !errors.Is(err, migschema.CodeRange) {
			t.Errorf("%d: %v", bits, err)
		}
	}
}

// TestSectionAgain: a section that goes on is the one that began.
func TestSectionAgain(t *testing.T) {
	i := migschema.NewInt
	dev := func(name string, instance, version int64) *migschema.SecFull {
		return &migschema.SecFull{Name: name, SectionID: i(3), InstanceID: i(instance), VersionID: i(version), Contents: migschema.OldBlob{1}}
	}
	for _, c := range []struct {
		again *migschema.SecFull
		want  error
	}{
		{dev("a", 1, 1), nil}, {dev("b", 1, 1), migschema.CodeDuplicateID}, {dev("a", 2, 1), migschema.CodeDuplicateID}, {dev("a", 1, 2), migschema.CodeDuplicateID},
	} {
		b, err := migschema.Marshal(&migschema.QemuFile{Version: i(3), Top: []migschema.Section{dev("a", 1, 1), c.again}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := count(migschema.NewDecoderBytes(b, &migschema.DecoderOptions{Validate: true})); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.again, err, c.want)
		}
	}
}

// TestContentsOutside: contents need a section, and the first error stays.
func TestContentsOutside(t *testing.T) {
	for name, call := range map[string]func(*migschema.Encoder) error{
		"blob":    func(e *migschema.Encoder) error { return e.OldBlob([]byte{1}) },
		"pieces":  func(e *migschema.Encoder) error { return e.Blob([]byte{1}, 2, true) },
		"state":   func(e *migschema.Encoder) error { return e.BeginState() },
		"list":    func(e *migschema.Encoder) error { return e.RAMList(0, nil) },
		"integer": func(e *migschema.Encoder) error { return e.Int(migschema.NewInt(1)) },
		"array":   func(e *migschema.Encoder) error { return e.BeginArray() },
	} {
		var out bytes.Buffer
		e := migschema.NewEncoder(&out, nil)
		err := call(e)
		if !errors.Is(err, migschema.CodeMisuse) {
			t.Errorf("%s: %v", name, err)
		}
		for again, call := range map[string]func() error{
			"section": func() error { return begin(e) }, "piece": func() error { return e.Blob([]byte{1}, 1, false) },
			"page": func() error { return e.ZeroPage(0) }, "close": e.Close,
		} {
			if got := call(); got != err {
				t.Errorf("%s, then a %s: %v", name, again, got)
			}
		}
		if migschema.Unmarshal(out.Bytes(), new(migschema.QemuFile), nil) == nil {
			t.Errorf("%s: what was written decodes", name)
		}
	}
}

// TestSubsectionFit: a subsection is encoded as the description has it, or not
// at all.
func TestSubsectionFit(t *testing.T) {
	dev := device(t, `"fields": [], "subsections": [{"vmsd_name": "dev/sub", "version": 7, "fields": [{"name": "a", "type": "uint8", "size": 1}]}]`)
	i := migschema.NewInt
	huge := migschema.NewUint(1<<32 + 7)
	for _, c := range []struct {
		sub migschema.SubSection
		ok  bool
	}{
		{migschema.SubSection{Name: "dev/sub", VersionID: i(7), Contents: []migschema.Entry{i(1)}}, true},
		{migschema.SubSection{Name: "dev/sub", VersionID: i(8), Contents: []migschema.Entry{i(1)}}, false},
		{migschema.SubSection{Name: "dev/sub", VersionID: i(-7), Contents: []migschema.Entry{i(1)}}, false},
		{migschema.SubSection{Name: "dev/sub", VersionID: huge, Contents: []migschema.Entry{i(1)}}, false},
		{migschema.SubSection{Name: "dev/bus", VersionID: i(7), Contents: []migschema.Entry{i(1)}}, false},
		{migschema.SubSection{Name: "dev/sub", VersionID: i(7)}, false},
	} {
		b, err := dev.Encode(migschema.VMState{migschema.SubSecList{c.sub}})
		if (err == nil) != c.ok || !c.ok && !errors.Is(err, migschema.CodeVMDesc) {
			t.Errorf("%+v: %x, %v", c.sub, b, err)
		}
	}
	// Sizes that do not add up to one.
	field := migschema.FieldDesc{Name: "a", Type: "buffer", Size: math.MaxInt64 - 20}
	sub := migschema.StructDesc{VMSDName: "dev/sub", Fields: []migschema.FieldDesc{field}}
	for n := range 3 {
		d := migschema.StructDesc{Fields: []migschema.FieldDesc{{Name: "b", Type: "buffer", Size: int64(n) * 7}}, Subsections: []migschema.StructDesc{sub}}
		if size, err := d.Size(); (err == nil) != (n < 2) || n < 2 && size != math.MaxInt64-20+13+int64(n)*7 {
			t.Errorf("%d bytes, %v", size, err)
		}
	}
}

// TestWriterErrorStays: what follows an error writes nothing and says the same.
func TestWriterErrorStays(t *testing.T) {
	var out bytes.Buffer
	w := migschema.NewWriter(&out, nil)
	err := w.Write(&migschema.Record{Kind: migschema.RecordFooter})
	if !errors.Is(err, migschema.CodeMisuse) {
		t.Fatal(err)
	}
	for _, kind := range []migschema.RecordKind{migschema.RecordHeader, migschema.RecordEOF} {
		if again := w.Write(&migschema.Record{Kind: kind, Version: 3}); again != err {
			t.Errorf("then %v", again)
		}
	}
	if again := w.Close(); again != err {
		t.Errorf("Close: %v", again)
	}
	if _, err := records(migschema.NewReaderBytes(out.Bytes(), nil)); err == nil {
		t.Error("what was written reads")
	}
}

// TestOffsets: all three readers know where they are, and Offset at the end is
// that of the end.
func TestOffsets(t *testing.T) {
	classic, ber := everyRecord(), fileVector(t, "file/all-arms")
	for name, c := range map[string]struct {
		b []byte
		r interface{ Offset() int64 }
	}{
		"Reader": {classic, migschema.NewReaderBytes(classic, nil)}, "Decoder": {ber, migschema.NewDecoderBytes(ber, nil)},
		"Scanner": {ber, migschema.NewScannerBytes(ber, nil)}, "Scanner of a stream": {ber, migschema.NewScanner(bytes.NewReader(ber), nil)},
		"Reader of a stream": {classic, migschema.NewReader(bytes.NewReader(classic), nil)}, "Decoder of a stream": {ber, migschema.NewDecoder(bytes.NewReader(ber), nil)},
	} {
		if c.r.Offset() != 0 {
			t.Errorf("%s: begins at %d", name, c.r.Offset())
		}
		var err error
		for last := int64(0); err == nil; last = c.r.Offset() {
			if c.r.Offset() < last {
				t.Fatalf("%s: goes back to %d", name, c.r.Offset())
			}
			switch r := c.r.(type) {
			case *migschema.Reader:
				_, err = r.Next()
			case *migschema.Decoder:
				_, err = r.Next()
			case *migschema.Scanner:
				_, err = r.Next()
			}
		}
		if err != io.EOF || c.r.Offset() != int64(len(c.b)) {
			t.Errorf("%s: %v at %d of %d", name, err, c.r.Offset(), len(c.b))
		}
	}
}

// TestJSONOfParts: sections and state have a JSON form of their own.
func TestJSONOfParts(t *testing.T) {
	for in, v := range map[string]any{
		`{"name":"x","sectionid":1,"instanceid":0,"versionid":-1,"contents":{"oldblob":"00ff"}}`:                          new(migschema.SecFull),
		`{"sectionid":2,"contents":{"ramsec":[{"name":"a","pagelist":[{"compr":4096},{"hook":null}]}]}}`:                  new(migschema.SecMin),
		`{"vmstateentries":[{"bool":false},{"int":340282366920938463463374607431768211456},{"array":[]},{"oldblob":""}]}`: new(migschema.VMState),
		`340282366920938463463374607431768211456`:                                                                         new(migschema.Int),
		`-170141183460469231731687303715884105729`:                                                                        new(migschema.Int),
	} {
		if err := json.Unmarshal([]byte(in), v); err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		// By value and by pointer alike.
		for _, v := range []any{v, reflect.ValueOf(v).Elem().Interface()} {
			if out, err := json.Marshal(v); err != nil || string(out) != in {
				t.Errorf("%s came back as %s, %v", in, out, err)
			}
		}
		if err := json.Unmarshal([]byte(`{"other":1}`), v); err == nil {
			t.Errorf("%T takes another object", v)
		}
	}
}

// TestNamesOfKinds: every kind has a name of its own, and what is none has
// one too.
func TestNamesOfKinds(t *testing.T) {
	seen := make(map[string]bool)
	for k := range 200 {
		for _, s := range []fmt.Stringer{
			migschema.PageKind(k), migschema.RecordKind(k), migschema.EventKind(k), migschema.ElementKind(k), migschema.Form(k), migschema.Format(k), migschema.Split(k), migschema.Class(k),
		} {
			name := s.String()
			if name == "" {
				t.Errorf("%T(%d) has no name", s, k)
			}
			if id := fmt.Sprintf("%T %s", s, name); k < 3 && seen[id] {
				t.Errorf("%T(%d) is called %s as another is", s, k, name)
			} else {
				seen[id] = true
			}
		}
	}
}

// TestStringLimit: names and deltas of MaxString octets, and of one more.
func TestStringLimit(t *testing.T) {
	for _, segments := range []bool{false, true} {
		page := appendTLV([]byte{2, 1, 0}, []byte{4}, make([]byte, 20))
		if segments {
			page = appendTLV([]byte{2, 1, 0}, []byte{0x24}, appendTLV(appendTLV(nil, []byte{4}, make([]byte, 13)), []byte{4}, make([]byte, 7)))
		}
		list := appendTLV(appendTLV(nil, []byte{0x0c}, []byte("a")), []byte{0x30}, appendTLV(nil, []byte{0x7f, 0xd8, 0x42}, page))
		sec := appendTLV([]byte{2, 1, 2}, []byte{0x7f, 0xcc, 0x52}, appendTLV(nil, []byte{0x30}, list))
		b := file(appendTLV(nil, []byte{0x7f, 0x81, 0x53}, append(sec, 0x5f, 0xd3, 0x45, 0))...)
		for limit, want := range map[int]error{19: migschema.CodeLimit, 20: nil, 21: nil} {
			o := &migschema.DecoderOptions{MaxString: limit}
			if _, err := count(migschema.NewDecoderBytes(b, o)); !errors.Is(err, want) {
				t.Errorf("limit %d, segments %v: %v", limit, segments, err)
			}
			if _, err := count(migschema.NewDecoder(bytes.NewReader(b), o)); !errors.Is(err, want) {
				t.Errorf("limit %d, segments %v, from a reader: %v", limit, segments, err)
			}
		}
	}
}

// TestSectionLimit: validation keeps account of so many sections.
func TestSectionLimit(t *testing.T) {
	const most = 1 << 16
	var out bytes.Buffer
	e := migschema.NewEncoder(&out, nil)
	for i := range int64(most + 1) {
		if err := errors.Join(e.BeginFull("d", i, 0, 1), e.OldBlob(nil), e.EndSection()); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := count(migschema.NewDecoderBytes(out.Bytes(), &migschema.DecoderOptions{Validate: true}))
	var bad *migschema.FormatError
	if !errors.Is(err, migschema.CodeLimit) || !errors.As(err, &bad) || !strings.HasPrefix(bad.Field, fmt.Sprintf("QemuFile.top[%d].full", most)) {
		t.Errorf("%v", err)
	}
}

// TestSumsDoNotWrap: block lengths that add up to the total but for 2^64.
func TestSumsDoNotWrap(t *testing.T) {
	u, i := migschema.NewUint, migschema.NewInt
	for total, ok := range map[uint64]bool{4096: false, 1<<63 + 4096: true} {
		blocks := []migschema.RAMBlockID{{Name: "a", Len: u(1 << 63)}, {Name: "b", Len: u(4096)}}
		if !ok {
			blocks = append(blocks, migschema.RAMBlockID{Name: "c", Len: u(1 << 63)})
		}
		b, err := migschema.Marshal(&migschema.QemuFile{Version: i(3), Top: []migschema.Section{
			&migschema.SecFull{Name: "ram", SectionID: i(2), VersionID: i(4), Contents: &migschema.RAMBlockList{TotalRAM: u(total), Blocks: blocks}},
		}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = count(migschema.NewDecoderBytes(b, &migschema.DecoderOptions{Validate: true}))
		if (err == nil) != ok || !ok && !errors.Is(err, migschema.CodeSum) {
			t.Errorf("total %#x: %v", total, err)
		}
		c := newClassic().config("pc").open(1, 2, "ram", 0, 4).be64(total | 4)
		for _, bl := range blocks {
			n, _ := bl.Len.Uint64()
			c.str(bl.Name).be64(n)
		}
		if _, err := records(migschema.NewReaderBytes(c.be64(0x10).footer(2).raw(0).Bytes(), nil)); (err == nil) != ok {
			t.Errorf("classic, total %#x: %v", total, err)
		}
	}
}

// TestLongestNames: 255 octets in the classic stream, 255 characters in BER.
func TestLongestNames(t *testing.T) {
	for n, ok := range map[int]bool{1: true, 255: true, 256: false} {
		name := string(bytes.Repeat([]byte("n"), n))
		w := migschema.NewWriter(io.Discard, nil)
		if err := w.Write(&migschema.Record{Kind: migschema.RecordFull, ID: 1, Name: name}); (err == nil) != ok {
			t.Errorf("classic, %d octets: %v", n, err)
		}
		for _, char := range []string{"n", "é", "\U0001f600"} {
			name := string(bytes.Repeat([]byte(char), n))
			var out bytes.Buffer
			e := migschema.NewEncoder(&out, nil)
			err := errors.Join(e.BeginFull(name, 1, 0, 1), e.OldBlob(nil), e.EndSection(), e.Close())
			if (err == nil) != ok {
				t.Errorf("BER, %d times %q: %v", n, char, err)
			}
			var f migschema.QemuFile
			if err := migschema.Unmarshal(out.Bytes(), &f, nil); ok && (err != nil || f.Top[0].(*migschema.SecFull).Name != name) {
				t.Errorf("BER, %d times %q came back as %+v, %v", n, char, f, err)
			}
		}
	}
}

// TestXBZRLEBounds: runs at the bounds of their two octets, pages of other
// sizes.
func TestXBZRLEBounds(t *testing.T) {
	for _, c := range []struct {
		delta []byte
		ok    bool
	}{
		{[]byte{0xff, 0x1f, 1, 9}, true},          // 4095 equal, the last octet changes
		{[]byte{0x80, 0x20, 1, 9}, false},         // 4096 equal, and one more
		{[]byte{0x80, 0x80, 0x01, 1, 9}, false},   // a run in three octets
		{[]byte{0x81, 0x00, 1, 9}, true},          // padded to two
		{[]byte{0x80}, false}, {[]byte{1}, false}, // cut
		{[]byte{1, 0x80}, false}, {[]byte{1, 2, 9}, false},
		{[]byte{1, 0}, false},             // nothing changes
		{nil, true},                       // nothing at all
		{[]byte{0, 1, 9, 0, 1, 8}, false}, // two runs that are one
	} {
		page := make([]byte, 4096)
		if err := migschema.DecodeXBZRLE(page, c.delta); (err == nil) != c.ok || !c.ok && !errors.Is(err, migschema.CodeXBZRLE) {
			t.Errorf("%x: %v", c.delta, err)
		}
	}
	if b, ok := migschema.AppendXBZRLE([]byte{7}, make([]byte, 4096), make([]byte, 4095)); ok || !bytes.Equal(b, []byte{7}) {
		t.Errorf("pages of two sizes: %x, %v", b, ok)
	}
}

// TestListExtras: what the schema's list of blocks cannot say is refused.
func TestListExtras(t *testing.T) {
	for name, b := range map[string]migschema.RAMBlock{"page size": {Name: "a", Len: 4096, PageSize: 2 << 20}, "address": {Name: "a", Len: 4096, HasAddr: true}} {
		e := migschema.NewEncoder(io.Discard, nil)
		if err := begin(e); err != nil {
			t.Fatal(err)
		}
		if err := e.RAMList(4096, []migschema.RAMBlock{b}); !errors.Is(err, migschema.CodeLossy) && !errors.Is(err, migschema.CodeMisuse) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestReaderStateLimit: device state as large as the limit, and larger, told
// by a description, by footers and by nothing.
func TestReaderStateLimit(t *testing.T) {
	const size = 1000
	desc := `{"page_size":4096,"devices":[{"name":"dev","instance_id":0,"vmsd_name":"dev","version":1,"fields":[{"name":"a","type":"buffer","size":1000}]}]}`
	stream := func(footer, described bool) []byte {
		c := newClassic().config("pc").open(4, 5, "dev", 0, 1).raw(make([]byte, size)...)
		if footer {
			c.footer(5)
		}
		if c.raw(0); described {
			c.raw(6).be32(uint32(len(desc))).raw([]byte(desc)...)
		}
		return c.Bytes()
	}
	given, err := migschema.ParseVMDesc([]byte(desc))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{stream(true, true), stream(true, false), stream(false, true)} {
		for _, vmdesc := range []*migschema.VMDesc{nil, given} {
			for limit, ok := range map[int64]bool{10: false, size - 1: false, size + 1000: true} {
				for _, r := range []*migschema.Reader{
					migschema.NewReaderBytes(b, &migschema.ReaderOptions{MaxState: limit, VMDesc: vmdesc}),
					migschema.NewReader(bytes.NewReader(b), &migschema.ReaderOptions{MaxState: limit, VMDesc: vmdesc}),
				} {
					if _, err := records(r); (err == nil) != ok || !ok && !errors.Is(err, migschema.CodeLimit) {
						t.Errorf("%d octets, description given %v, limit %d: %v", len(b), vmdesc != nil, limit, err)
					}
				}
			}
		}
	}
}
