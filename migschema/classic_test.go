package migschema_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/golden"
	"github.com/virtfmt/virtfmt/migschema"
)

func noneMig(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/none.mig")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// records reads all records and returns them as text, and the error.
func records(r *migschema.Reader) (string, error) {
	var s strings.Builder
	for rec, err := range r.Records() {
		if err != nil {
			return s.String(), err
		}
		fmt.Fprintf(&s, "%d %s", rec.Offset, rec.Kind)
		switch rec.Kind {
		case migschema.RecordHeader:
			fmt.Fprint(&s, " ", rec.Version)
		case migschema.RecordConfiguration:
			fmt.Fprintf(&s, " %+v %x", *rec.Config, rec.Data)
		case migschema.RecordStart, migschema.RecordFull:
			fmt.Fprintf(&s, " %s id %d instance %d version %d", rec.Name, rec.ID, rec.Instance, rec.Version)
		case migschema.RecordPart, migschema.RecordEnd:
			fmt.Fprintf(&s, " %s id %d", rec.Name, rec.ID)
		case migschema.RecordRAMList:
			fmt.Fprintf(&s, " %d %+v", rec.Total, rec.Blocks)
		case migschema.RecordPage:
			fmt.Fprintf(&s, " %s %s %#x fill %d named %v %x", rec.Page.Kind, rec.Page.Block, rec.Page.Addr, rec.Page.Fill, rec.Named, rec.Page.Data)
		case migschema.RecordState:
			fmt.Fprintf(&s, " %s %x", rec.Split, rec.Data)
		case migschema.RecordFooter:
			fmt.Fprint(&s, " ", rec.ID)
		case migschema.RecordCommand:
			fmt.Fprintf(&s, " %d %x", rec.Command, rec.Data)
		case migschema.RecordTail:
			fmt.Fprintf(&s, " %x", rec.Data)
		case migschema.RecordVMDesc:
			fmt.Fprintf(&s, " %s", rec.Data)
		}
		s.WriteByte('\n')
	}
	return s.String(), nil
}

func TestNoneMig(t *testing.T) {
	b := noneMig(t)
	got, err := records(migschema.NewReaderBytes(b, &migschema.ReaderOptions{Validate: true}))
	if err != nil {
		t.Fatal(err)
	}
	golden.Text(t, "none.txt", got)
	checkRewrite(t, b, nil)
}

// checkRewrite passes a stream through Reader and Writer: the same octets.
func checkRewrite(t testing.TB, b []byte, o *migschema.ReaderOptions) {
	t.Helper()
	var out bytes.Buffer
	if err := rewrite(&out, bytes.NewReader(b), o); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), b) {
		n := 0
		for n < min(out.Len(), len(b)) && out.Bytes()[n] == b[n] {
			n++
		}
		t.Fatalf("rewriting %d octets gave %d, which differ from %#x on", len(b), out.Len(), n)
	}
}

func rewrite(out io.Writer, in io.Reader, o *migschema.ReaderOptions) error {
	var wo migschema.WriterOptions
	if o != nil {
		wo.PageSize = o.PageSize
	}
	w := migschema.NewWriter(out, &wo)
	for rec, err := range migschema.NewReader(in, o).Records() {
		if err != nil {
			return err
		}
		if err := w.Write(rec); err != nil {
			return err
		}
	}
	return w.Close()
}

// A classic builds a stream by hand, octet by octet, apart from the Writer.
type classic struct{ bytes.Buffer }

func newClassic() *classic {
	c := new(classic)
	c.WriteString("QEVM")
	return c.be32(3)
}

func (c *classic) be16(v ...uint16) *classic {
	for _, v := range v {
		c.Write(binary.BigEndian.AppendUint16(nil, v))
	}
	return c
}

func (c *classic) be32(v ...uint32) *classic {
	for _, v := range v {
		c.Write(binary.BigEndian.AppendUint32(nil, v))
	}
	return c
}

func (c *classic) be64(v ...uint64) *classic {
	for _, v := range v {
		c.Write(binary.BigEndian.AppendUint64(nil, v))
	}
	return c
}

func (c *classic) str(s string) *classic {
	c.WriteByte(byte(len(s)))
	c.WriteString(s)
	return c
}

func (c *classic) raw(b ...byte) *classic {
	c.Write(b)
	return c
}

func (c *classic) config(machine string) *classic {
	return c.raw(7).be32(uint32(len(machine))).raw([]byte(machine)...)
}

func (c *classic) open(typ byte, id uint32, name string, instance, version uint32) *classic {
	return c.raw(typ).be32(id).str(name).be32(instance, version)
}

func (c *classic) part(typ byte, id uint32) *classic { return c.raw(typ).be32(id) }

func (c *classic) footer(id uint32) *classic { return c.raw(0x7e).be32(id) }

// everyRecord is a stream with each kind of record there is.
func everyRecord() []byte {
	page := bytes.Repeat([]byte{0xa5}, 4096)
	c := newClassic().config("pc-i440fx-7.2")
	c.raw(5).str("configuration/capabilities").be32(1, 2).str("validate-uuid").str("x-other")
	c.raw(5).str("configuration/target-page-bits").be32(1, 12)
	c.raw(5).str("configuration/uuid").be32(1).raw(bytes.Repeat([]byte{7}, 16)...)
	c.raw(8).be16(1, 0)
	c.raw(8).be16(2, 4).be32(1)
	c.open(1, 2, "ram", 0, 4).be64(0x5000 | 4).str("pc.ram").be64(0x4000).str("pc.rom").be64(0x1000).be64(0x10).footer(2)
	c.part(2, 2)
	c.be64(0x0000 | 0x02).str("pc.ram").raw(0)                // zero
	c.be64(0x1000 | 0x08 | 0x20).raw(page...)                 // page
	c.be64(0x2000 | 0x02 | 0x20).raw(0xee)                    // fill
	c.be64(0x80)                                              // hook
	c.be64(0x0000|0x100).str("pc.rom").be32(3).raw(1, 2, 3)   // compressed
	c.be64(0x3000 | 0x02).str("pc.ram").raw(0)                // back
	c.be64(0x3000 | 0x08).str("pc.ram").raw(page...)          // named again
	c.be64(0x10).footer(2)                                    // end
	c.part(3, 2)                                              // the block goes on across sections
	c.be64(0x1000|0x40|0x20).raw(1).be16(4).raw(1, 2, 3, 0xf) // xbzrle
	c.be64(0x200)                                             // flush
	c.be64(0x10).footer(2)
	c.open(4, 5, "dev", 0, 3).raw(1, 2, 3, 4).footer(5)
	c.open(4, 6, "dev", 1, 3).raw(5, 6).raw(5).str("dev/sub").be32(1).raw(9).footer(6)
	c.raw(0)
	desc := `{"page_size": 4096, "devices": [` +
		`{"name": "dev", "instance_id": 0, "vmsd_name": "dev", "version": 3, "fields": [{"name": "a", "type": "uint16", "array_len": 2, "size": 2}]}, ` +
		`{"name": "dev", "instance_id": 1, "vmsd_name": "dev", "version": 3, "fields": [{"name": "a", "type": "uint16", "size": 2}], ` +
		`"subsections": [{"vmsd_name": "dev/sub", "version": 1, "fields": [{"name": "b", "type": "bool", "size": 1}]}]}]}`
	return c.raw(6).be32(uint32(len(desc))).raw([]byte(desc)...).Bytes()
}

func TestEveryRecord(t *testing.T) {
	b := everyRecord()
	got, err := records(migschema.NewReaderBytes(b, nil))
	if err != nil {
		t.Fatal(err)
	}
	golden.Text(t, "everyrecord.txt", got)
	checkRewrite(t, b, nil)
	for name, r := range map[string]io.Reader{
		"whole":    bytes.NewReader(b),
		"one byte": iotest.OneByteReader(bytes.NewReader(b)),
		"half":     iotest.HalfReader(bytes.NewReader(b)),
	} {
		again, err := records(migschema.NewReader(r, nil))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(got, again); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestClassicTruncation cuts streams at every offset. What is left of a
// stream cut right after its EOF is one without a description.
func TestClassicTruncation(t *testing.T) {
	for name, b := range map[string][]byte{"none": noneMig(t), "every": everyRecord()} {
		step := 1
		if testing.Short() && name == "every" {
			step = 11
		}
		for n := 0; n < len(b); n += step {
			_, err := records(migschema.NewReaderBytes(b[:n], nil))
			if err == nil && bytes.IndexByte(b[n:], 6) == 0 && b[n-1] == 0 {
				continue
			}
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s cut at %d: %v", name, n, err)
			}
			_, err2 := records(migschema.NewReader(iotest.HalfReader(bytes.NewReader(b[:n])), nil))
			if err2 == nil || err2.Error() != err.Error() {
				t.Fatalf("%s cut at %d: %v from a slice, %v from a reader", name, n, err, err2)
			}
		}
	}
}

// TestSplits reads one device state with all, and with less and less, of what
// tells its sections apart.
func TestSplits(t *testing.T) {
	build := func(footers, desc bool) []byte {
		c := newClassic()
		c.open(1, 2, "ram", 0, 4).be64(4, 0x10)
		sections := []string{"timer", "cpu_common", "cpu", "i8259", "fdc"}
		if footers {
			c.footer(2)
		}
		var devs []string
		for i, name := range sections {
			id := uint32(3 + i)
			body := bytes.Repeat([]byte{0x7e, 0, 0, 0, byte(id), 5, 0, 4, 0, 0}, i+1) // footers that lead nowhere
			c.open(4, id, name, 0, 1).raw(body...)
			if footers {
				c.footer(id)
			}
			devs = append(devs, fmt.Sprintf(`{"name": %q, "instance_id": 0, "vmsd_name": "x", "version": 1, "fields": [{"name": "b", "type": "buffer", "size": %d}]}`, name, len(body)))
		}
		c.raw(0)
		if desc {
			j := `{"devices": [` + strings.Join(devs, ",") + `]}`
			c.raw(6).be32(uint32(len(j))).raw([]byte(j)...)
		}
		return c.Bytes()
	}
	described := build(true, true)
	var want []string
	for _, c := range []struct {
		name  string
		b     []byte
		split migschema.Split
	}{
		{"description and footers", described, migschema.SplitVMDesc},
		{"description", build(false, true), migschema.SplitVMDesc},
		{"footers", build(true, false), migschema.SplitFooter},
		{"neither", build(false, false), migschema.SplitGuess},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for rec, err := range migschema.NewReaderBytes(c.b, nil).Records() {
				if err != nil {
					t.Fatal(err)
				}
				if rec.Kind == migschema.RecordState {
					got = append(got, hex.EncodeToString(rec.Data))
					if rec.Split != c.split {
						t.Errorf("split by %s", rec.Split)
					}
				}
			}
			if want == nil {
				want = got
			}
			if diff := cmp.Diff(want, got); diff != "" || len(got) != 5 {
				t.Error(diff)
			}
			checkRewrite(t, c.b, nil)
		})
	}
	t.Run("given description", func(t *testing.T) {
		r := migschema.NewReaderBytes(described, nil)
		if _, err := records(r); err != nil {
			t.Fatal(err)
		}
		for name, in := range map[string]io.Reader{"ahead": bytes.NewReader(build(false, false)), "not ahead": iotest.OneByteReader(strings.NewReader(string(build(false, false)) + "rest"))} {
			opt := &migschema.ReaderOptions{VMDesc: r.VMDesc(), NoReadAhead: name == "not ahead"}
			r := migschema.NewReader(in, opt)
			states := 0
			for {
				rec, err := r.Next()
				if err != nil {
					t.Fatal(err)
				}
				if rec.Kind == migschema.RecordState {
					states++
					if rec.Split != migschema.SplitVMDesc {
						t.Errorf("%s: split by %s", name, rec.Split)
					}
				}
				if rec.Kind == migschema.RecordEOF {
					break
				}
			}
			if states != 5 {
				t.Errorf("%s: %d states", name, states)
			}
			if rest, _ := io.ReadAll(in); opt.NoReadAhead && string(rest) != "rest" {
				t.Errorf("left %q", rest)
			}
		}
	})
	t.Run("trailing data", func(t *testing.T) {
		for name, b := range map[string][]byte{"description": described, "footers": build(true, false)} {
			b := append(b[:len(b):len(b)], "rest"...)
			if _, err := records(migschema.NewReaderBytes(b, nil)); err == nil {
				t.Errorf("%s: accepted", name)
			}
			r := migschema.NewReaderBytes(b, &migschema.ReaderOptions{TrailingData: true})
			if _, err := records(r); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if string(r.Buffered()) != "rest" {
				t.Errorf("%s: left %q", name, r.Buffered())
			}
		}
	})
	t.Run("one opaque device", func(t *testing.T) {
		c := newClassic().open(4, 1, "x", 0, 1).raw(1, 2, 3).raw(0)
		got, err := records(migschema.NewReaderBytes(c.Bytes(), nil))
		if err != nil || !strings.Contains(got, "tail 010203\n") {
			t.Errorf("%s%v", got, err)
		}
		checkRewrite(t, c.Bytes(), nil)
	})
}

// TestBlockExtras reads lists of blocks that tell more than the usual.
func TestBlockExtras(t *testing.T) {
	const huge = 2 << 20
	config := func() *classic {
		return newClassic().config("pc").raw(5).str("configuration/capabilities").be32(1, 1).str("x-ignore-shared")
	}
	advise := func(c *classic) *classic { return c.raw(8).be16(3, 16).be64(4096|huge, 4096) }
	end := func(c *classic) []byte { return c.be64(0x10).footer(2).raw(0).Bytes() }
	list := func(c *classic) *classic { return c.open(1, 2, "ram", 0, 4).be64(3*huge | 4) }
	for _, c := range []struct {
		name string
		b    []byte
		want []migschema.RAMBlock
	}{
		{"addresses", end(list(config()).str("a").be64(huge, 0x100000).str("b").be64(2*huge, 0)), []migschema.RAMBlock{
			{Name: "a", Len: huge, Addr: 0x100000, HasAddr: true}, {Name: "b", Len: 2 * huge, HasAddr: true},
		}},
		{"huge pages first", end(list(advise(newClassic())).str("a").be64(huge, huge).str("b").be64(2 * huge)), []migschema.RAMBlock{
			{Name: "a", Len: huge, PageSize: huge}, {Name: "b", Len: 2 * huge},
		}},
		{"huge pages last", end(list(advise(newClassic())).str("a").be64(huge).str("b").be64(2*huge, huge)), []migschema.RAMBlock{
			{Name: "a", Len: huge}, {Name: "b", Len: 2 * huge, PageSize: huge},
		}},
		{"both", end(list(advise(config())).str("a").be64(huge, huge, 7).str("b").be64(2*huge, 0)), []migschema.RAMBlock{
			{Name: "a", Len: huge, PageSize: huge, Addr: 7, HasAddr: true}, {Name: "b", Len: 2 * huge, HasAddr: true},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []migschema.RAMBlock
			for rec, err := range migschema.NewReaderBytes(c.b, nil).Records() {
				if err != nil {
					t.Fatal(err)
				}
				if rec.Kind == migschema.RecordRAMList {
					got = append(got, rec.Blocks...)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			checkRewrite(t, c.b, nil)
		})
	}
}

func TestPageSizes(t *testing.T) {
	page := make([]byte, 65536)
	c := newClassic().config("virt").raw(5).str("configuration/target-page-bits").be32(1, 16)
	c.open(1, 2, "ram", 0, 4).be64(0x20000 | 4).str("ram").be64(0x20000).be64(0x10).footer(2)
	c.part(3, 2).be64(0x10000 | 8).str("ram").raw(page...).be64(0x10).footer(2).raw(0)
	r := migschema.NewReaderBytes(c.Bytes(), nil)
	if got, err := records(r); err != nil || r.PageSize() != 65536 {
		t.Errorf("%d, %v %s", r.PageSize(), err, got)
	}
	checkRewrite(t, c.Bytes(), nil)
	old := newClassic()
	old.open(1, 2, "ram", 0, 4).be64(0x4000 | 4).str("ram").be64(0x4000).be64(0x10)
	old.part(3, 2).be64(0x2000 | 8).str("ram").raw(page[:8192]...).be64(0x10).raw(0)
	checkRewrite(t, old.Bytes(), &migschema.ReaderOptions{PageSize: 8192})
}

// TestReaderDevice: the description of the state at hand is told with the
// state alone, and not where it is of another size.
func TestReaderDevice(t *testing.T) {
	r := migschema.NewReaderBytes(everyRecord(), nil)
	var got []int64
	for rec, err := range r.Records() {
		if err != nil {
			t.Fatal(err)
		}
		desc := r.Device()
		if (desc != nil) != (rec.Kind == migschema.RecordState) {
			t.Fatalf("at %v: %v", rec.Kind, desc)
		}
		if desc != nil {
			got = append(got, desc.InstanceID)
		}
	}
	if !slices.Equal(got, []int64{0, 1}) {
		t.Errorf("devices %v", got)
	}
	other, err := migschema.ParseVMDesc([]byte(`{"devices":[{"name":"dev","fields":[{"name":"a","type":"uint8","size":1}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	r = migschema.NewReaderBytes(everyRecord(), &migschema.ReaderOptions{VMDesc: other})
	for rec, err := range r.Records() {
		if err != nil || r.Device() != nil {
			t.Errorf("at %v: %v, %v", rec.Kind, err, r.Device())
		}
	}
}

func TestReaderErrors(t *testing.T) {
	ram := func(blocks ...byte) *classic {
		c := newClassic().config("pc").open(1, 2, "ram", 0, 4)
		return c.be64(0x1000|4).str("a").be64(0x1000).be64(0x10).footer(2).part(2, 2).raw(blocks...)
	}
	full := func() *classic { return newClassic().open(4, 3, "dev", 0, 1) }
	for _, c := range []struct {
		name  string
		b     []byte
		want  error
		field string
		at    int64
	}{
		{"magic", []byte("QFI\xfb\x00\x00\x00\x03"), migschema.ErrFormat, "header.magic", 0},
		{"version 2", []byte("QEVM\x00\x00\x00\x02"), errors.ErrUnsupported, "header.version", 4},
		{"record type", newClassic().raw(9).Bytes(), migschema.CodeRecord, "record", 8},
		{"subsection at large", newClassic().raw(5).Bytes(), migschema.CodeRecord, "record", 8},
		{"configuration twice", newClassic().config("pc").raw(newClassic().config("pc").Bytes()[8:]...).raw(0).Bytes(), migschema.CodeRecord, "record", 15},
		{"configuration after a command", newClassic().raw(8).be16(1, 0).raw(newClassic().config("pc").Bytes()[8:]...).raw(0).Bytes(), migschema.CodeRecord, "record", 13},
		{"multifd channel", []byte("\x11\x22\x33\x44\x00\x00\x00\x01"), errors.ErrUnsupported, "header.magic", 0},
		{"part of nothing", newClassic().part(2, 7).Bytes(), migschema.CodeUnknownID, "part.id", 9},
		{"huge machine", newClassic().raw(7).be32(1 << 30).Bytes(), migschema.CodeLimit, "configuration.length", 13},
		{"unknown subsection", newClassic().config("pc").raw(5).str("x/y").be32(1).raw(0).Bytes(), errors.ErrUnsupported, "configuration", 24},
		{"page bits", newClassic().config("pc").raw(5).str("configuration/target-page-bits").be32(1, 63).raw(0).Bytes(), migschema.CodeRange, "configuration/target-page-bits", 55},
		{"many capabilities", newClassic().config("pc").raw(5).str("configuration/capabilities").be32(1, 1<<31).raw(0).Bytes(), migschema.CodeLimit, "configuration/capabilities", 51},
		{"mapped RAM", newClassic().config("pc").raw(5).str("configuration/capabilities").be32(1, 1).str("mapped-ram").raw(0).Bytes(), errors.ErrUnsupported, "configuration/capabilities", 8},
		{"flags", ram().be64(0x01).Bytes(), migschema.CodeFlags, "ram.page", 68},
		{"no flags", ram().be64(0).Bytes(), migschema.CodeFlags, "ram.page", 68},
		{"end with an address", ram().be64(0x1010).Bytes(), migschema.CodeFlags, "ram.page", 68},
		{"hook with an address", ram().be64(0x1080).Bytes(), migschema.CodeFlags, "ram.page", 68},
		{"first page continues", ram().be64(0x22).raw(0).Bytes(), migschema.CodeFlags, "ram.page", 68},
		{"unknown block", ram().be64(0x02).str("b").raw(0).Bytes(), migschema.CodeUnknownID, "ram.page.block", 76},
		{"xbzrle encoding", ram().be64(0x40).str("a").raw(2).Bytes(), errors.ErrUnsupported, "ram.page.encoding", 78},
		{"xbzrle length", ram().be64(0x40).str("a").raw(1).be16(4097).Bytes(), migschema.CodeXBZRLE, "ram.page.length", 79},
		{"compressed length", ram().be64(0x100).str("a").be32(5000).Bytes(), migschema.CodeCompressed, "ram.page.length", 78},
		{"list too long", newClassic().open(1, 2, "ram", 0, 4).be64(0x1000 | 4).str("a").be64(0x2000).Bytes(), migschema.CodeSum, "ram.list.length", 33},
		{"footer of another", ram().be64(0x10).footer(3).Bytes(), migschema.CodeFooter, "ram.footer", 76},
		{"footer missing", ram().be64(0x10).raw(0).Bytes(), migschema.CodeFooter, "ram.footer", 76},
		{"no name", newClassic().open(4, 3, "", 0, 1).raw(0).Bytes(), migschema.CodeSize, "full.name", 8},
		{"no end", full().raw(1, 2, 3).Bytes(), migschema.CodeSplit, "dev.state", 25},
		{"no footer", ram().be64(0x10).footer(2).open(4, 3, "dev", 0, 1).raw(1, 2, 3).raw(0).Bytes(), migschema.CodeSplit, "dev.state", 98},
		{"trailing data", newClassic().raw(0, 1).Bytes(), migschema.CodeTrailingData, "end", 9},
		{"bad description", newClassic().raw(0, 6).be32(2).raw('{', '{').Bytes(), migschema.CodeVMDesc, "vmdesc", 9},
		{"validation", ram().be64(0x1002).str("a").raw(0).Bytes(), migschema.CodePageRange, "page", 68},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := records(migschema.NewReaderBytes(c.b, &migschema.ReaderOptions{Validate: true}))
			var fe *migschema.FormatError
			if !errors.Is(err, c.want) || !errors.As(err, &fe) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if fe.Field != c.field || fe.Offset != c.at {
				t.Errorf("in %s at %d, want %s at %d", fe.Field, fe.Offset, c.field, c.at)
			}
		})
	}
	small := &migschema.ReaderOptions{MaxState: 1000, MaxBlocks: 1}
	b := full().raw(make([]byte, 1<<20)...).Bytes()
	if _, err := records(migschema.NewReader(bytes.NewReader(b), small)); !errors.Is(err, migschema.CodeLimit) {
		t.Errorf("device state over the limit: %v", err)
	}
	if _, err := records(migschema.NewReaderBytes(everyRecord(), small)); !errors.Is(err, migschema.CodeLimit) {
		t.Errorf("blocks over the limit: %v", err)
	}
	if _, err := records(migschema.NewReaderBytes(b, &migschema.ReaderOptions{NoReadAhead: true})); !errors.Is(err, migschema.CodeSplit) {
		t.Errorf("no reading ahead: %v", err)
	}
}

func TestWriterMisuse(t *testing.T) {
	type R = migschema.Record
	ram := []*R{
		{Kind: migschema.RecordStart, ID: 2, Name: "ram"},
		{Kind: migschema.RecordRAMList, Total: 4096, Blocks: []migschema.RAMBlock{{Name: "a", Len: 4096}}},
	}
	page := func(p migschema.Page) *R { return &R{Kind: migschema.RecordPage, Page: p} }
	for name, recs := range map[string][]*R{
		"version":             {{Kind: migschema.RecordHeader, Version: 2}},
		"header twice":        {{Kind: migschema.RecordHeader, Version: 3}, {Kind: migschema.RecordHeader, Version: 3}},
		"page outside":        {page(migschema.Page{})},
		"state of nothing":    {{Kind: migschema.RecordState}},
		"footer of nothing":   {{Kind: migschema.RecordFooter}},
		"footer of another":   {{Kind: migschema.RecordFull, ID: 1, Name: "a"}, {Kind: migschema.RecordState}, {Kind: migschema.RecordFooter, ID: 2}},
		"no body":             {{Kind: migschema.RecordFull, ID: 1, Name: "a"}, {Kind: migschema.RecordEOF}},
		"no name":             {{Kind: migschema.RecordFull, ID: 1}},
		"long name":           {{Kind: migschema.RecordFull, ID: 1, Name: strings.Repeat("é", 128)}},
		"id twice":            {{Kind: migschema.RecordFull, ID: 1, Name: "a"}, {Kind: migschema.RecordState}, {Kind: migschema.RecordFull, ID: 1, Name: "b"}},
		"part of nothing":     {{Kind: migschema.RecordPart, ID: 1}},
		"sum":                 {ram[0], {Kind: migschema.RecordRAMList, Total: 8192, Blocks: ram[1].Blocks}},
		"blocks past the sum": {ram[0], {Kind: migschema.RecordRAMList, Total: 4096, Blocks: []migschema.RAMBlock{{Name: "a", Len: 4096}, {Name: "b"}}}},
		"footers of some": {{Kind: migschema.RecordFull, ID: 1, Name: "a"}, {Kind: migschema.RecordState}, {Kind: migschema.RecordFooter, ID: 1},
			{Kind: migschema.RecordFull, ID: 2, Name: "b"}, {Kind: migschema.RecordState}, {Kind: migschema.RecordEOF}},
		"unaligned total":      {ram[0], {Kind: migschema.RecordRAMList, Total: 1, Blocks: []migschema.RAMBlock{{Name: "a", Len: 1}}}},
		"unaligned page":       {ram[0], ram[1], page(migschema.Page{Block: "a", Addr: 5})},
		"unknown block":        {ram[0], ram[1], page(migschema.Page{Block: "b"})},
		"no block":             {ram[0], ram[1], page(migschema.Page{})},
		"short page":           {ram[0], ram[1], page(migschema.Page{Kind: migschema.PageFull, Block: "a", Data: make([]byte, 4095)})},
		"long delta":           {ram[0], ram[1], page(migschema.Page{Kind: migschema.PageXBZRLE, Block: "a", Data: make([]byte, 4097)})},
		"long compressed":      {ram[0], ram[1], page(migschema.Page{Kind: migschema.PageCompressed, Block: "a", Data: make([]byte, 9999)})},
		"kind of page":         {ram[0], ram[1], page(migschema.Page{Kind: 99, Block: "a"})},
		"kind of record":       {{Kind: 99}},
		"configuration twice":  {{Kind: migschema.RecordConfiguration, Data: []byte{0, 0, 0, 1, 'a'}}, {Kind: migschema.RecordConfiguration, Data: []byte{0, 0, 0, 1, 'a'}}},
		"configuration":        {{Kind: migschema.RecordConfiguration, Data: []byte{1}}},
		"more configuration":   {{Kind: migschema.RecordConfiguration, Data: []byte{0, 0, 0, 1, 'a', 'b'}}},
		"description too soon": {{Kind: migschema.RecordVMDesc}},
		"after the end":        {{Kind: migschema.RecordEOF}, {Kind: migschema.RecordEOF}},
		"long command":         {{Kind: migschema.RecordCommand, Data: make([]byte, 65536)}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			w := migschema.NewWriter(&out, nil)
			var err error
			for i, r := range recs {
				if err != nil {
					t.Fatalf("record %d: %v", i-1, err)
				}
				err = w.Write(r)
			}
			if err == nil {
				t.Fatal("no error")
			}
			if again := w.Write(&R{Kind: migschema.RecordEOF}); again != err {
				t.Errorf("then %v", again)
			}
			if w.Close() == nil {
				t.Error("closed")
			}
			if _, err := records(migschema.NewReaderBytes(out.Bytes(), nil)); err == nil {
				t.Error("what was written reads")
			}
		})
	}
	var out bytes.Buffer
	w := migschema.NewWriter(&out, nil)
	if err := w.Write(&R{Kind: migschema.RecordHeader, Version: 3}); err != nil {
		t.Fatal(err)
	}
	if w.Close() == nil || out.Len() > 0 {
		t.Error("closed without an end")
	}
}

// FuzzReader reads any octets as a classic stream: what is read can be
// written, and is then the same octets.
func FuzzReader(f *testing.F) {
	f.Add(noneMig(f))
	f.Add(everyRecord())
	f.Fuzz(func(t *testing.T, b []byte) {
		want, err := records(migschema.NewReaderBytes(b, nil))
		got, err2 := records(migschema.NewReader(iotest.HalfReader(bytes.NewReader(b)), nil))
		if (err == nil) != (err2 == nil) || err != nil && err.Error() != err2.Error() || got != want {
			t.Fatalf("slice: %v, reader: %v", err, err2)
		}
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := rewrite(&out, bytes.NewReader(b), nil); err != nil {
			if errors.Is(err, migschema.CodeMisuse) || errors.Is(err, migschema.CodeSize) || errors.Is(err, migschema.CodePageRange) {
				return // what only a Writer minds: ids used twice, names of no length
			}
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), b) {
			t.Fatal("written otherwise")
		}
	})
}

// classicBombs are classic streams of size octets or less that are as hard to
// split as can be.
func classicBombs(size int) map[string][]byte {
	fill := func(c *classic, unit ...byte) []byte {
		for c.Len() < size-len(unit) {
			c.raw(unit...)
		}
		return append(c.Bytes(), 0)
	}
	dev := func() *classic { return newClassic().open(4, 3, "dev", 0, 1) }
	described := func(json []byte) []byte {
		return dev().raw(1, 0, 6).be32(uint32(len(json))).raw(json...).Bytes()
	}
	text := func(s, unit, end string) []byte {
		return []byte(s + strings.Repeat(unit, max(0, size-100-len(s))/len(unit)) + end)
	}
	descs := dev()
	for descs.Len() < size-8 {
		descs.raw(0, 6).be32(uint32(size-descs.Len()-6)).raw('{', '}')
	}
	ids := newClassic()
	for i := uint32(0); ids.Len() < size-16; i++ {
		ids.open(4, i, "x", 0, 1)
	}
	// Sections in parts with a footer that the search for the next one does not
	// take, because what follows it has an odd name: only the description tells
	// where they end.
	var odd classic
	oddDesc := new(strings.Builder)
	oddDesc.WriteString(`{"devices":[{"name":"ram","instance_id":7}`)
	odd.Write(newClassic().Bytes())
	for i := uint32(0); odd.Len()+oddDesc.Len() < 2*size; i++ {
		odd.open(1, i, "\x01", 0, 1).footer(i)
		oddDesc.WriteString(`,{"name":"\u0001","version":0}`)
	}
	oddDesc.WriteString(`]}`)
	odd.raw(0, 6).be32(uint32(oddDesc.Len())).raw([]byte(oddDesc.String())...)
	return map[string][]byte{
		"odd parts":       odd.Bytes(),
		"footers":         fill(dev(), 0x7e, 0, 0, 0, 3),
		"footers, eof":    fill(dev(), 0x7e, 0, 0, 0, 3, 0),
		"headers":         fill(dev(), 4, 0, 0, 0, 3, 3, 'd', 'e', 'v', 0, 0, 0, 0, 0, 0, 0, 1),
		"headers, footer": fill(dev(), 4, 0, 0, 0, 3, 3, 'd', 'e', 'v', 0, 0, 0, 0, 0, 0, 0, 1, 0x7e, 0, 0, 0, 3),
		"parts":           fill(dev(), 2, 0, 0, 0, 3, 0x7e, 0, 0, 0, 3),
		"commands":        fill(newClassic(), 8, 0, 1, 0, 0),
		"commands within": fill(dev(), 8, 0, 1, 0, 0),
		"descriptions":    descs.Bytes(),
		"many fields":     described(text(`{"devices":[{"name":"dev","fields":[{}`, `,{}`, `]}]}`)),
		"many devices":    described(text(`{"devices":[{}`, `,{}`, `]}`)),
		"nested":          described(text(`{"devices":[{"name":"dev","fields":[`, `{"struct":{"fields":[`, ``)),
		"huge arrays":     described([]byte(`{"devices":[{"name":"dev","fields":[{"name":"a","type":"uint8","size":9223372036854775807,"array_len":9223372036854775807}]}]}`)),
		"negative":        described([]byte(`{"devices":[{"name":"dev","fields":[{"name":"a","type":"uint8","size":-1}]}]}`)),
		"many sections":   fill(ids, 0),
		"many blocks":     fill(newClassic().open(1, 2, "ram", 0, 4).be64(1<<40|4), append([]byte{1, 'a'}, 0, 0, 0, 0, 0, 0, 0, 0)...),
		"zero pages":      fill(newClassic().open(1, 2, "ram", 0, 4).be64(1<<40|4).str("a").be64(1<<40).be64(2).str("a").raw(0), 0, 0, 0, 0, 0, 0, 0, 0x22, 0),
	}
}

func TestClassicBombs(t *testing.T) {
	for name, b := range classicBombs(difftest.Scale(t, 1<<20)) {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			var err error
			for _, err = range migschema.NewReader(bytes.NewReader(b), &migschema.ReaderOptions{Validate: true}).Records() {
			}
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > bombLimit(b) {
				t.Errorf("took %d MiB in all (%v)", got>>20, err)
			}
			if took > 20*time.Second {
				t.Errorf("took %v", took)
			}
			t.Logf("%v, %d KiB, %v", took, (after.TotalAlloc-before.TotalAlloc)>>10, err)
		})
	}
}
