package migschema_test

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"testing"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/migschema"
)

// file returns the octets of a QemuFile of indefinite length with these in
// its top.
func file(top ...byte) []byte {
	b := []byte{0x7f, 0xcd, 0xc5, 0x51, 0x80, 2, 1, 3, 0x30, 0x80}
	return append(append(b, top...), 0, 0, 0, 0)
}

// TestLimitsOfBER holds what is just inside of a limit against what is just
// outside.
func TestLimitsOfBER(t *testing.T) {
	unknown := &migschema.DecoderOptions{Lenient: migschema.Lenient{Unknown: true}}
	nested := func(n int) []byte { // an unknown element of so many levels
		b := bytes.Repeat([]byte{0xbf, 0x7f, 0x80}, n)
		return file(append(b, make([]byte, 2*n)...)...)
	}
	full := func(blob int) []byte { // a device of so many octets, of definite length, at most 127
		b := []byte{0x7f, 0x8f, 0x53, byte(20 + blob), 0x0c, 3, 'd', 'e', 'v', 2, 1, 1, 2, 1, 0, 2, 1, 1, 4, byte(blob)}
		return file(append(append(b, make([]byte, blob)...), 0x5f, 0xd3, 0x45, 0)...)
	}
	for _, c := range []struct {
		name string
		b    []byte
		o    *migschema.DecoderOptions
		want error
	}{
		{"tag 2^32-1", file(0xbf, 0x8f, 0xff, 0xff, 0xff, 0x7f, 0x80, 0, 0), unknown, nil},
		{"tag 2^32", file(0xbf, 0x90, 0x80, 0x80, 0x80, 0x00, 0x80, 0, 0), unknown, migschema.CodeTagTooLarge},
		{"tag 2^32 and a low part", file(0xbf, 0x90, 0x80, 0x80, 0xcd, 0x51, 0x80, 0, 0), unknown, migschema.CodeTagTooLarge},
		{"tag of six octets", file(0xbf, 0x81, 0x80, 0x80, 0x80, 0x80, 0x00, 0x80, 0, 0), unknown, migschema.CodeTagTooLarge},
		{"end marks in constructed form", file(0x20, 0), nil, migschema.CodeNoChoiceArm},
		{"unknown depth", nested(126), unknown, nil},
		{"unknown depth over the limit", nested(127), unknown, migschema.CodeDepth},
		{"unknown cut", file()[:10], unknown, migschema.CodeMissingEOC},
		{"unknown longer than the stream", append(file()[:10], 0xbf, 0x7f, 100, 1, 2), unknown, io.ErrUnexpectedEOF},
		{"length", full(30), &migschema.DecoderOptions{MaxLength: 50}, nil},
		{"length over the limit", full(30), &migschema.DecoderOptions{MaxLength: 49}, migschema.CodeLimit},
	} {
		if _, err := count(migschema.NewDecoderBytes(c.b, c.o)); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if _, err := count(migschema.NewDecoder(bytes.NewReader(c.b), c.o)); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s, from a reader: %v, want %v", c.name, err, c.want)
		}
	}
}

// TestLimitsOfClassic does so for the classic stream.
func TestLimitsOfClassic(t *testing.T) {
	for _, n := range []int{1, 512, 1 << 9, 3000, 4097, 1 << 21, -1} {
		if _, err := migschema.NewReaderBytes(noneMig(t), &migschema.ReaderOptions{PageSize: n}).Next(); !errors.Is(err, migschema.CodeMisuse) {
			t.Errorf("pages of %d bytes: %v", n, err)
		}
	}
	for _, n := range []int{0, 1 << 10, 1 << 12, 1 << 20} {
		if _, err := records(migschema.NewReaderBytes(noneMig(t), &migschema.ReaderOptions{PageSize: n})); err != nil {
			t.Errorf("pages of %d bytes: %v", n, err)
		}
	}
	// The option and the capability both say that blocks have addresses.
	shared := func(names ...string) []byte {
		c := newClassic().config("pc").raw(5).str("configuration/capabilities").be32(1, uint32(len(names)))
		for _, n := range names {
			c.str(n)
		}
		return c.open(1, 2, "ram", 0, 4).be64(0x1000|4).str("a").be64(0x1000, 0x7000, 0x10).footer(2).raw(0).Bytes()
	}
	for _, c := range []struct {
		b      []byte
		option bool
		ok     bool
	}{
		{shared("x-ignore-shared", "other"), false, true},
		{shared("x-ignore-shared"), true, true},
		{shared("other"), true, true},
		{shared("other"), false, false},
	} {
		got, err := records(migschema.NewReaderBytes(c.b, &migschema.ReaderOptions{IgnoreShared: c.option}))
		if (err == nil) != c.ok || c.ok && !bytes.Contains([]byte(got), []byte("Addr:28672 HasAddr:true")) {
			t.Errorf("option %v: %v\n%s", c.option, err, got)
		}
	}
	// What follows the stream may begin as a description does.
	for _, tail := range []string{"\x06", "\x06\x00\x00", "\x07"} {
		r := migschema.NewReaderBytes(append(newClassic().raw(0).Bytes(), tail...), &migschema.ReaderOptions{TrailingData: true})
		if _, err := records(r); err != nil || string(r.Buffered()) != tail {
			t.Errorf("%q after the end: %v, %q is left", tail, err, r.Buffered())
		}
	}
	// Sections are kept account of up to a limit.
	many := newClassic()
	for i := range uint32(1<<16 + 1) {
		many.open(1, i, "ram", 0, 4).be64(0x10).footer(i)
	}
	if _, err := records(migschema.NewReaderBytes(many.raw(0).Bytes(), nil)); !errors.Is(err, migschema.CodeLimit) {
		t.Errorf("65537 sections: %v", err)
	}
}

// TestCompressedPages are pages whose zlib stream is none.
func TestCompressedPages(t *testing.T) {
	whole := deflated(make([]byte, 4096))
	preset := bytes.Clone(whole)
	for preset[1] = 0x20; (int(preset[0])<<8|int(preset[1]))%31 != 0; preset[1]++ {
	}
	bad := map[string][]byte{"preset dictionary": preset, "other method": append([]byte{0x79}, whole[1:]...)}
	for n := range len(whole) {
		bad[string(rune('A'+n))+" cut"] = whole[:n]
	}
	page := make([]byte, 4096)
	for name, b := range bad {
		p := migschema.Page{Kind: migschema.PageCompressed, Data: b}
		if err := p.Decode(page); !errors.Is(err, migschema.CodeCompressed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := migschema.Page{Kind: migschema.PageCompressed, Data: whole}
	if err := p.Decode(page); err != nil {
		t.Error(err)
	}
}

// TestRAMReadBack: what was held back is written before it is read, and where
// that fails the difference is not applied to something else.
func TestRAMReadBack(t *testing.T) {
	f := memfile.New()
	m := migschema.NewRAM(f, nil)
	if err := m.SetBlocks([]migschema.RAMBlock{{Name: "a", Len: 8192}}); err != nil {
		t.Fatal(err)
	}
	if err := m.Apply(&migschema.Page{Block: "a", Kind: migschema.PageFull, Data: bytes.Repeat([]byte{1}, 4096)}); err != nil {
		t.Fatal(err)
	}
	f.Fault = func(memfile.Op) error { return io.ErrClosedPipe }
	if err := m.Apply(&migschema.Page{Block: "a", Kind: migschema.PageXBZRLE, Data: []byte{0, 1, 9}}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v", err)
	}
}

// TestEncodeDepth: state as deep as a description that was made by hand.
func TestEncodeDepth(t *testing.T) {
	desc := &migschema.StructDesc{Fields: []migschema.FieldDesc{{Name: "a", Type: "uint8", Size: 1}}}
	state := migschema.VMState{migschema.NewInt(5)}
	for depth := 1; depth < 200; depth++ {
		_, err := desc.Encode(state)
		_, derr := desc.Decode([]byte{5})
		if (err == nil) != (derr == nil) {
			t.Fatalf("%d levels: encode %v, decode %v", depth, err, derr)
		}
		if depth > 100 && !errors.Is(err, migschema.CodeVMDesc) {
			t.Fatalf("%d levels: %v", depth, err)
		}
		desc = &migschema.StructDesc{Fields: []migschema.FieldDesc{{Name: "s", Type: "struct", Size: 1, Struct: desc}}}
		state = migschema.VMState{migschema.Array(state)}
	}
}

// TestDecoderMisuse asks for values where none begin.
func TestDecoderMisuse(t *testing.T) {
	d := migschema.NewDecoderBytes(fileVector(t, "file/all-arms"), nil)
	for {
		ev, err := d.Next()
		if err != nil {
			break
		}
		if ev.Kind != migschema.EventState {
			if _, err := d.State(1 << 20); !errors.Is(err, migschema.CodeMisuse) {
				t.Fatalf("State after %v: %v", ev.Kind, err)
			}
		}
		if ev.Kind != migschema.EventBlob {
			if _, err := d.Blob(1 << 20); !errors.Is(err, migschema.CodeMisuse) {
				t.Fatalf("Blob after %v: %v", ev.Kind, err)
			}
		} else if _, err := d.Blob(0); len(ev.Data) > 0 && !errors.Is(err, migschema.CodeLimit) {
			t.Fatalf("Blob over the limit: %v", err)
		}
	}
}

// TestExtremes converts what lies at the bounds of the classic layout, and
// back.
func TestExtremes(t *testing.T) {
	const huge, most = 2 << 20, 1<<32 - 1
	list := func(c *classic) *classic {
		return c.raw(8).be16(3, 16).be64(4096|huge, 4096).open(1, 2, "ram", 0, 4).be64(3*huge | 4)
	}
	end := func(c *classic) []byte { return c.be64(0x10).footer(2).part(3, 2).be64(0x10).footer(2).raw(0).Bytes() }
	for name, b := range map[string][]byte{
		"page size of the first block": end(list(newClassic().config("pc")).str("a").be64(huge, huge).str("b").be64(2 * huge)),
		"page size of the last block":  end(list(newClassic().config("pc")).str("a").be64(huge).str("b").be64(2*huge, huge)),
		"largest id and version":       newClassic().config("pc").open(4, most, "dev", most, most).raw(1).footer(most).raw(0).Bytes(),
		"smallest id and version":      newClassic().config("pc").open(4, 0, "dev", 0, 0).raw(1).footer(0).raw(0).Bytes(),
		"advice without sizes":         newClassic().config("pc").raw(8).be16(3, 4).be32(1).raw(8).be16(3, 0).raw(0).Bytes(),
		"largest command":              newClassic().config("pc").raw(8).be16(65535, 65535).raw(make([]byte, 65535)...).raw(0).Bytes(),
	} {
		checkRewrite(t, b, nil)
		if _, back, _, err := roundTrip(b, nil); err != nil || !bytes.Equal(back, b) {
			t.Errorf("%s: %v, or other octets", name, err)
		}
		if name == "smallest id and version" {
			continue // without a description a cut behind a 0 looks like the end
		}
		for n := range b[:min(len(b), 400)] {
			if _, err := records(migschema.NewReaderBytes(b[:n], nil)); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s, %d octets of it: %v", name, n, err)
			}
		}
	}
}

// TestStateLimit: typed state over the limit is not made.
func TestStateLimit(t *testing.T) {
	for limit, want := range map[int64]error{0: migschema.CodeLimit, 1: migschema.CodeLimit, 1 << 20: nil} {
		d := migschema.NewDecoderBytes(fileVector(t, "file/all-arms"), nil)
		for ev, err := range d.Events() {
			if err != nil {
				t.Fatal(err)
			}
			if ev.Kind != migschema.EventState {
				continue
			}
			if _, err := d.State(limit); !errors.Is(err, want) {
				t.Errorf("limit %d: %v, want %v", limit, err, want)
			}
			break
		}
	}
}

// TestStateCost: what typed state takes in memory is within its limit, however
// few octets its entries have.
func TestStateCost(t *testing.T) {
	const n, limit = 1 << 20, 4 << 20
	for name, element := range map[string][]byte{
		"ints":        {2, 1, 5},
		"arrays":      {0x30, 0},
		"blobs":       {4, 0},
		"subsections": {0x7f, 0xd3, 0x53, 8, 0x0c, 1, 's', 2, 1, 0, 0x30, 0},
	} {
		entries := bytes.Repeat(element, n/len(element))
		if name == "subsections" {
			entries = append(append([]byte{0x7f, 0xd3, 0x4c, 0x80}, entries...), 0, 0)
		}
		d := migschema.NewDecoderBytes(state(entries...), nil)
		for ev, err := range d.Events() {
			if err != nil {
				t.Fatal(err)
			}
			if ev.Kind != migschema.EventState {
				continue
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, err := d.State(limit); !errors.Is(err, migschema.CodeLimit) {
				t.Errorf("%s: %v", name, err)
			}
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > 4*limit { // lists that grow are copied
				t.Errorf("%s: took %d bytes", name, got)
			}
			break
		}
	}
}

// TestLookups ask for what is not there.
func TestLookups(t *testing.T) {
	r := migschema.NewReaderBytes(everyRecord(), nil)
	if _, err := records(r); err != nil {
		t.Fatal(err)
	}
	d := r.VMDesc()
	if d.Device("dev", 1, 0) == nil || d.Device("dev", 1, 1) != nil || d.Device("dev", 2, 0) != nil || d.Device("other", 1, 0) != nil {
		t.Error("devices of another name, instance or count")
	}
	m, err := migschema.ReadRAM(nowhere{}, bytes.NewReader(twoBlocks()), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for e := range m.Extents("other") {
		t.Errorf("an extent %+v of no block", e)
	}
	n := 0
	for range m.Extents("a") { // a caller may stop
		n++
		break
	}
	if data, zero := m.Sent("other"); data != 0 || zero != 0 || n != 1 {
		t.Errorf("%d and %d pages of no block, %d extents", data, zero, n)
	}
}
