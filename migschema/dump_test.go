package migschema_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/golden"
	"github.com/virtfmt/virtfmt/migschema"
)

// dumped returns the lines of a dump as text.
func dumped(src io.Reader, o *migschema.StreamOptions) (l []string, err error) {
	for line, err := range migschema.Dump(src, o) {
		if err != nil {
			return l, err
		}
		v := line.Value
		if b, ok := v.([]byte); ok {
			v = fmt.Sprintf("%x", b)
		}
		l = append(l, fmt.Sprintf("%#x|%s|%s|%s|%s|%s|%v|%v", line.Offset, line.Tag, line.Path, line.Type, line.Section, line.Field, v, line.More))
	}
	return l, nil
}

// fieldLines returns section, field and value of what has a field.
func fieldLines(t *testing.T, src io.Reader) (l []string) {
	t.Helper()
	var data []byte
	for line, err := range migschema.Dump(src, nil) {
		if err != nil {
			t.Fatal(err)
		}
		if line.Field == "" || line.Value == nil {
			continue
		}
		value := line.Value
		if b, ok := value.([]byte); ok {
			if data = append(data, b...); line.More {
				continue
			}
			value, data = data, nil
			if len(value.([]byte)) == 0 {
				continue // of no element; one form has it, the other not
			}
		}
		l = append(l, fmt.Sprintf("%s %s %v", line.Section, line.Field, value))
	}
	return l
}

// checkDump dumps a stream in both formats: the fields are the same.
func checkDump(t *testing.T, stream []byte, opt migschema.ConvertOptions) {
	t.Helper()
	want := fieldLines(t, bytes.NewReader(stream))
	if len(want) == 0 && bytes.Contains(stream, []byte(`"vmsd_name"`)) {
		t.Error("no fields")
	}
	for _, form := range []struct {
		typed bool
		form  migschema.Form
	}{{false, migschema.Streamed}, {false, migschema.CER}, {true, migschema.Streamed}, {true, migschema.CER}} {
		opt.Typed, opt.Form = form.typed, form.form
		var ber bytes.Buffer
		if _, err := migschema.ToBER(&ber, bytes.NewReader(stream), &opt); err != nil {
			t.Fatal(err)
		}
		if got := fieldLines(t, bytes.NewReader(ber.Bytes())); !slices.Equal(want, got) {
			t.Errorf("%v (-classic +BER):\n%s", form, cmp.Diff(want, got))
		}
	}
}

// TestDumpSegments dumps a described blob that comes in segments.
func TestDumpSegments(t *testing.T) {
	c := newClassic().config("pc").open(4, 3, "dev", 0, 1).raw(bytes.Repeat([]byte{7}, 5000)...).footer(3).raw(0)
	desc := `{"devices": [{"name": "dev", "instance_id": 0, "fields": [{"name": "a", "type": "buffer", "size": 4999}, {"name": "b", "type": "uint8", "size": 1}]}]}`
	c.raw(6).be32(uint32(len(desc))).raw([]byte(desc)...)
	checkDump(t, c.Bytes(), migschema.ConvertOptions{})
}

func TestDumpNone(t *testing.T) {
	checkDump(t, noneMig(t), migschema.ConvertOptions{})
	var typed, opaque bytes.Buffer
	migschema.ToBER(&typed, bytes.NewReader(noneMig(t)), &migschema.ConvertOptions{Typed: true})
	migschema.ToBER(&opaque, bytes.NewReader(noneMig(t)), nil)
	var out bytes.Buffer
	for _, s := range []struct {
		name string
		b    []byte
	}{{"classic", noneMig(t)}, {"typed", typed.Bytes()}, {"opaque", opaque.Bytes()}} {
		l, err := dumped(bytes.NewReader(s.b), nil)
		if err != nil {
			t.Fatal(err)
		}
		piped, err := dumped(iotest.OneByteReader(bytes.NewReader(s.b)), nil)
		if s.name == "classic" && (err != nil || !cmp.Equal(l, piped)) {
			t.Errorf("from a pipe: %v\n%s", err, cmp.Diff(l, piped))
		}
		fmt.Fprintf(&out, "%s\n%s\n", s.name, strings.Join(l, "\n"))
	}
	golden.Text(t, "dump.txt", out.String())
}

func TestDumpEveryRecord(t *testing.T) {
	l, err := dumped(bytes.NewReader(everyRecord()), nil)
	if err != nil {
		t.Fatal(err)
	}
	golden.Text(t, "everydump.txt", strings.Join(l, "\n")+"\n")
}

// TestDumpOffsets looks up the fields of an opaque blob by the offsets told.
func TestDumpOffsets(t *testing.T) {
	var ber bytes.Buffer
	if _, err := migschema.ToBER(&ber, bytes.NewReader(noneMig(t)), &migschema.ConvertOptions{Form: migschema.DER}); err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{noneMig(t), ber.Bytes()} {
		found := false
		for line, err := range migschema.Dump(bytes.NewReader(b), nil) {
			if err != nil {
				t.Fatal(err)
			}
			if line.Field == "runstate" {
				found = true
				if !bytes.HasPrefix(b[line.Offset:], []byte("prelaunch\x00")) {
					t.Errorf("%x at %#x", b[line.Offset:line.Offset+10], line.Offset)
				}
			}
		}
		if !found {
			t.Error("no runstate")
		}
	}
}

// TestDumpBroken gives what there is before the fault, then the fault.
func TestDumpBroken(t *testing.T) {
	var ber bytes.Buffer
	if _, err := migschema.ToBER(&ber, bytes.NewReader(noneMig(t)), &migschema.ConvertOptions{Typed: true}); err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{ber.Bytes(), everyRecord()} {
		whole, err := dumped(bytes.NewReader(b), nil)
		if err != nil {
			t.Fatal(err)
		}
		for n := range len(b) {
			l, err := dumped(bytes.NewReader(b[:n]), nil)
			if err == nil && len(l) >= len(whole) {
				t.Errorf("%d octets of %d: no error", n, len(b))
			}
			if err != nil && n >= 8 && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, migschema.CodeSplit) && !errors.Is(err, migschema.CodeVMDesc) {
				t.Errorf("%d octets: %v", n, err)
			}
		}
	}
	if _, err := dumped(strings.NewReader("elephants"), nil); !errors.Is(err, migschema.ErrFormat) {
		t.Error(err)
	}
}

func TestReadVMDesc(t *testing.T) {
	var ber bytes.Buffer
	if _, err := migschema.ToBER(&ber, bytes.NewReader(noneMig(t)), nil); err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{noneMig(t), ber.Bytes()} {
		desc, err := migschema.ReadVMDesc(bytes.NewReader(b), nil)
		if err != nil || desc.Device("timer", 0, 0) == nil {
			t.Errorf("%v, %v", desc, err)
		}
	}
	if desc, err := migschema.ReadVMDesc(bytes.NewReader(newClassic().raw(0).Bytes()), nil); err != nil || desc != nil {
		t.Errorf("%v, %v", desc, err)
	}
	// A pipe has no end to look at; a description given beforehand helps.
	desc, _ := migschema.ReadVMDesc(bytes.NewReader(noneMig(t)), nil)
	l, err := dumped(io.MultiReader(bytes.NewReader(ber.Bytes())), &migschema.StreamOptions{VMDesc: desc})
	if err != nil || !strings.Contains(strings.Join(l, "\n"), "cpu_ticks_offset") {
		t.Error(err)
	}
}

// FuzzDump dumps anything: it ends, and names fields of the same values in
// both formats.
func FuzzDump(f *testing.F) {
	f.Add(noneMig(f))
	f.Add(everyRecord())
	var ber bytes.Buffer
	migschema.ToBER(&ber, bytes.NewReader(noneMig(f)), &migschema.ConvertOptions{Typed: true})
	f.Add(ber.Bytes())
	for _, v := range vectors(f) {
		if v.Type == "QemuFile" {
			f.Add(fileVector(f, v.ID))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := dumped(bytes.NewReader(b), nil)
		if err != nil || migschema.Detect(b) != migschema.Classic {
			return
		}
		for _, typed := range []bool{false, true} {
			var ber bytes.Buffer
			if _, err := migschema.ToBER(&ber, bytes.NewReader(b), &migschema.ConvertOptions{Typed: typed}); err != nil {
				return
			}
			got := fieldLines(t, bytes.NewReader(ber.Bytes()))
			if want := fieldLines(t, bytes.NewReader(b)); !cmp.Equal(want, got) {
				t.Fatalf("typed %v (-classic +BER):\n%s", typed, cmp.Diff(want, got))
			}
		}
	})
}
