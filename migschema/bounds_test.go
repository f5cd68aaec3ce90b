package migschema_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
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
