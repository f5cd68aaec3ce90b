package migschema_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"math/big"
	"reflect"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/migschema"
)

// TestVectorsEncode writes what each vector decodes to: canonical vectors
// come out as they were, all others decode to the same.
func TestVectorsEncode(t *testing.T) {
	for _, v := range vectors(t) {
		if v.Expect != "accept" {
			continue
		}
		t.Run(v.ID, func(t *testing.T) {
			b := v.octets(t)
			val := newValue(t, v.Type)
			if err := migschema.Unmarshal(b, val, nil); err != nil {
				t.Fatal(err)
			}
			for _, form := range []migschema.Form{migschema.DER, migschema.CER, migschema.Streamed} {
				got, err := migschema.Marshal(val, &migschema.EncoderOptions{Form: form})
				if err != nil {
					t.Fatal(err)
				}
				if (v.Group == "der" && form == migschema.DER || v.Group == "cer" && form == migschema.CER) && !bytes.Equal(got, b) {
					t.Errorf("%s:\ngot  %x\nwant %x", form, got, b)
				}
				again := newValue(t, v.Type)
				if err := migschema.Unmarshal(got, again, &migschema.DecoderOptions{DER: form == migschema.DER}); err != nil {
					t.Errorf("%s: decoding what was written: %v", form, err)
				} else if !reflect.DeepEqual(val, again) {
					t.Errorf("%s: decodes to another value", form)
				}
			}
		})
	}
}

// TestVectorsStream passes the vectors that are files through a Decoder and
// an Encoder event by event.
func TestVectorsStream(t *testing.T) {
	for _, v := range vectors(t) {
		if v.Type != "QemuFile" || v.Expect != "accept" {
			continue
		}
		t.Run(v.ID, func(t *testing.T) {
			b := v.octets(t)
			var want migschema.QemuFile
			if err := migschema.Unmarshal(b, &want, nil); err != nil {
				t.Fatal(err)
			}
			for _, form := range []migschema.Form{migschema.DER, migschema.CER, migschema.Streamed} {
				got := transcode(t, b, form)
				whole, err := migschema.Marshal(&want, &migschema.EncoderOptions{Form: form})
				if err != nil {
					t.Fatal(err)
				}
				if form != migschema.Streamed && !bytes.Equal(got, whole) {
					t.Errorf("%s: by events %x\nas a whole %x", form, got, whole)
				}
				if !bytes.Equal(transcode(t, got, form), got) {
					t.Errorf("%s: no fixpoint", form)
				}
				var again migschema.QemuFile
				if err := migschema.Unmarshal(got, &again, nil); err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(want, again) {
					t.Errorf("%s: decodes to another value", form)
				}
			}
		})
	}
}

// transcode decodes b and encodes its events.
func transcode(t testing.TB, b []byte, form migschema.Form) []byte {
	t.Helper()
	var out bytes.Buffer
	opt := &migschema.EncoderOptions{Form: form}
	if form == migschema.DER {
		if err := migschema.EncodeDER(&out, opt, func(e *migschema.Encoder) error { return pump(e, b) }); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	e := migschema.NewEncoder(&out, opt)
	if err := pump(e, b); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func pump(e *migschema.Encoder, b []byte) error {
	for ev, err := range migschema.NewDecoder(bytes.NewReader(b), nil).Events() {
		if err != nil {
			return err
		}
		if err := e.Event(ev); err != nil {
			return err
		}
	}
	return nil
}

// TestGoldens are octets that were worked out by hand.
func TestGoldens(t *testing.T) {
	file := &migschema.QemuFile{Version: migschema.NewInt(3)}
	page := &migschema.FullPage{Data: make([]byte, 4096)}
	for _, c := range []struct {
		name string
		v    any
		form migschema.Form
		want string
	}{
		{"empty file", file, migschema.DER, "7fcdc551050201033000"},
		{"empty file, streamed", file, migschema.Streamed, "7fcdc55180020103308000000000"},
		{"SecMin", &migschema.SecMin{SectionID: migschema.NewInt(2)}, migschema.DER, "7f81530b0201027fcc52005fd34500"},
		{"SecFull", &migschema.SecFull{
			Name: "ram", SectionID: migschema.NewInt(2), VersionID: migschema.NewInt(4), Contents: migschema.OldBlob{1},
		}, migschema.DER, "7f8f53150c0372616d0201020201000201040401015fd34500"},
		{"compr", migschema.Compr{}, migschema.DER, "400100"},
		{"hook", migschema.Hook{}, migschema.DER, "5fc84f00"},
		{"xbzrle", &migschema.XBZRLEPage{Addr: migschema.NewInt(8192), Data: []byte{1, 2, 0xff}}, migschema.DER, "7fd8420902022000" + "04030102ff"},
		{"block list", &migschema.RAMBlockList{}, migschema.DER, "7fbe52050201003000"},
		{"subsections", migschema.SubSecList{}, migschema.DER, "7fd34c00"},
		{"array", migschema.Array{migschema.Array{migschema.NewInt(2)}}, migschema.DER, "30053003020102"},
		{"page", page, migschema.DER, "7fc650821007020100" + "04821000" + strings.Repeat("00", 4096)},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := migschema.Marshal(c.v, &migschema.EncoderOptions{Form: c.form})
			if err != nil {
				t.Fatal(err)
			}
			if hex.EncodeToString(got) != c.want {
				t.Errorf("got %x\nwant %s", got, c.want)
			}
		})
	}
}

// TestInts takes INTEGERs of many sizes there and back.
func TestInts(t *testing.T) {
	check := func(v *big.Int) {
		t.Helper()
		i := migschema.IntFromBig(v)
		if i.Big().Cmp(v) != 0 || i.String() != v.String() || i.Sign() != v.Sign() {
			t.Fatalf("%v is held as %v", v, i)
		}
		if got, ok := i.Int64(); ok != v.IsInt64() || ok && got != v.Int64() {
			t.Fatalf("%v: Int64 %v %v", v, got, ok)
		}
		if got, ok := i.Uint64(); ok != v.IsUint64() || ok && got != v.Uint64() {
			t.Fatalf("%v: Uint64 %v %v", v, got, ok)
		}
		b, err := migschema.Marshal(i, nil)
		if err != nil {
			t.Fatal(err)
		}
		var back migschema.Int
		if err := migschema.Unmarshal(b, &back, &migschema.DecoderOptions{DER: true}); err != nil {
			t.Fatalf("%v as %x: %v", v, b, err)
		}
		if !back.Equal(i) || back.Equal(migschema.IntFromBig(new(big.Int).Add(v, big.NewInt(1)))) {
			t.Fatalf("%v came back as %v", v, back)
		}
	}
	for bit := range uint(140) {
		for d := int64(-2); d <= 2; d++ {
			v := new(big.Int).Lsh(big.NewInt(1), bit)
			v.Add(v, big.NewInt(d))
			check(v)
			check(v.Neg(v))
		}
	}
	if !migschema.NewInt(5).Equal(migschema.NewUint(5)) || migschema.NewInt(-1).Equal(migschema.NewUint(1<<64-1)) {
		t.Error("Equal")
	}
}

// TestBlobPieces writes one blob in pieces of all kinds of sizes, in every
// form, with and without its size.
func TestBlobPieces(t *testing.T) {
	blob := make([]byte, 5003)
	for i := range blob {
		blob[i] = byte(i * 7)
	}
	for _, form := range []migschema.Form{migschema.DER, migschema.CER, migschema.Streamed} {
		for _, total := range []int{0, 1, 999, 1000, 1001, 2000, 5003} {
			want, err := migschema.Marshal(migschema.OldBlob(blob[:total]), &migschema.EncoderOptions{Form: form})
			if err != nil {
				t.Fatal(err)
			}
			for _, step := range []int{1, 7, 1000, 1001, 9999} {
				for _, told := range []bool{true, false} {
					got := encodeFile(t, form, func(e *migschema.Encoder) error {
						e.BeginFull("dev", 1, 0, 1)
						size, rest := int64(total), blob[:total]
						if !told {
							size = -1
						}
						for len(rest) > step {
							e.Blob(rest[:step], size, true)
							rest = rest[step:]
						}
						e.Blob(rest, size, false)
						return e.EndSection()
					})
					if (form != migschema.Streamed || told) && !bytes.Contains(got, want) {
						t.Fatalf("%s, %d octets in steps of %d: %x", form, total, step, got)
					}
					var f migschema.QemuFile
					if err := migschema.Unmarshal(got, &f, nil); err != nil {
						t.Fatal(err)
					}
					if b := f.Top[0].(*migschema.SecFull).Contents.(migschema.OldBlob); !bytes.Equal(b, blob[:total]) {
						t.Fatalf("%s, %d octets in steps of %d come back as %d", form, total, step, len(b))
					}
				}
			}
		}
	}
}

func encodeFile(t testing.TB, form migschema.Form, write func(*migschema.Encoder) error) []byte {
	t.Helper()
	var out bytes.Buffer
	opt := &migschema.EncoderOptions{Form: form}
	var err error
	if form == migschema.DER {
		err = migschema.EncodeDER(&out, opt, write)
	} else {
		e := migschema.NewEncoder(&out, opt)
		if err = write(e); err == nil {
			err = e.Close()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestEncoderMisuse calls out of order: an error that stays, and no stream
// that a decoder takes for complete.
func TestEncoderMisuse(t *testing.T) {
	type E = *migschema.Encoder
	page := make([]byte, 4096)
	for name, calls := range map[string][]func(E) error{
		"page outside a block":       {func(e E) error { return e.ZeroPage(0) }},
		"block outside a section":    {func(e E) error { return e.BeginBlock("a") }},
		"end of nothing":             {func(e E) error { return e.EndSection() }},
		"end of no state":            {func(e E) error { return e.End() }},
		"empty name":                 {func(e E) error { return e.BeginFull("", 1, 0, 1) }},
		"long name":                  {func(e E) error { return e.BeginFull(strings.Repeat("é", 256), 1, 0, 1) }},
		"name not UTF-8":             {func(e E) error { return e.BeginFull("\xff", 1, 0, 1) }},
		"section in a section":       {begin, begin},
		"section without contents":   {begin, func(e E) error { return e.EndSection() }},
		"two contents":               {begin, func(e E) error { return e.OldBlob(nil) }, func(e E) error { return e.OldBlob(nil) }},
		"list after contents":        {begin, func(e E) error { return e.OldBlob(nil) }, func(e E) error { return e.RAMList(0, nil) }},
		"entry outside state":        {begin, func(e E) error { return e.Bool(true) }},
		"subsection outside a list":  {begin, func(e E) error { return e.BeginState() }, func(e E) error { return e.BeginSubSection("a", 1) }},
		"entry in a subsection list": {begin, func(e E) error { return e.BeginState() }, func(e E) error { return e.BeginSubSecList() }, func(e E) error { return e.Bool(true) }},
		"blob too long":              {begin, func(e E) error { return e.Blob(page, 5, true) }},
		"blob too short":             {begin, func(e E) error { return e.Blob(page, 5000, true) }, func(e E) error { return e.Blob(nil, 5000, false) }},
		"end within a blob":          {begin, func(e E) error { return e.Blob(page, -1, true) }, func(e E) error { return e.EndSection() }},
		"page of another size":       {func(e E) error { return e.BeginMin(1) }, func(e E) error { return e.BeginBlock("a") }, func(e E) error { return e.FullPage(0, page[1:]) }},
		"page with a fill byte":      {func(e E) error { return e.BeginMin(1) }, func(e E) error { return e.BeginBlock("a") }, func(e E) error { return e.Page(&migschema.Page{Fill: 1}) }},
		"list with an address":       {begin, func(e E) error { return e.RAMList(0, []migschema.RAMBlock{{Name: "a", HasAddr: true}}) }},
		"nothing in a choice":        {begin, func(e E) error { return e.Contents(nil) }},
		"close within a section":     {func(e E) error { return e.BeginMin(1) }, func(e E) error { return e.Close() }},
		"other version":              {func(e E) error { return e.Event(&migschema.Event{Kind: migschema.EventFile}) }},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			e := migschema.NewEncoder(&out, nil)
			var err error
			for i, call := range calls {
				if err != nil {
					t.Fatalf("call %d failed: %v", i, err)
				}
				err = call(e)
			}
			if err == nil {
				t.Fatal("no error")
			}
			if again := e.BeginFull("x", 9, 9, 9); again != err {
				t.Errorf("then %v, not %v", again, err)
			}
			if e.Close() == nil {
				t.Error("closed")
			}
			var f migschema.QemuFile
			if migschema.Unmarshal(out.Bytes(), &f, nil) == nil {
				t.Error("what was written decodes")
			}
		})
	}
	if err := migschema.NewEncoder(io.Discard, &migschema.EncoderOptions{Form: migschema.DER}).Close(); err == nil {
		t.Error("an Encoder took DER")
	}
}

func begin(e *migschema.Encoder) error { return e.BeginFull("dev", 1, 0, 1) }

// TestForgottenClose writes a stream and does not close it.
func TestForgottenClose(t *testing.T) {
	var out bytes.Buffer
	e := migschema.NewEncoder(&out, nil)
	blob := make([]byte, 300<<10)
	for range 4 {
		begin(e)
		e.OldBlob(blob)
		if err := e.EndSection(); err != nil {
			t.Fatal(err)
		}
	}
	var f migschema.QemuFile
	if err := migschema.Unmarshal(out.Bytes(), &f, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("unfinished: %v", err)
	}
	for range 2 {
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := migschema.Unmarshal(out.Bytes(), &f, nil); err != nil || len(f.Top) != 4 {
		t.Errorf("%d sections, %v", len(f.Top), err)
	}
	if err := begin(e); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestDERSecondPass changes its mind between the passes.
func TestDERSecondPass(t *testing.T) {
	for name, second := range map[string]func(e *migschema.Encoder) error{
		"shorter": func(e *migschema.Encoder) error { return e.OldBlob(nil) },
		"longer":  func(e *migschema.Encoder) error { return e.OldBlob(make([]byte, 300<<10)) },
		"fails":   func(e *migschema.Encoder) error { e.OldBlob([]byte("12345")); return io.ErrNoProgress },
		"other":   func(e *migschema.Encoder) error { e.BeginState(); e.BeginArray(); e.End(); return e.End() },
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			n := 0
			err := migschema.EncodeDER(&out, nil, func(e *migschema.Encoder) error {
				begin(e)
				if n++; n == 2 {
					if err := second(e); err != nil {
						return err
					}
				} else if err := e.OldBlob([]byte("12345")); err != nil {
					return err
				}
				return e.EndSection()
			})
			if err == nil {
				t.Error("no error")
			}
			var f migschema.QemuFile
			if migschema.Unmarshal(out.Bytes(), &f, nil) == nil {
				t.Error("what was written decodes")
			}
		})
	}
}

// failingWriter takes n octets.
type failingWriter struct{ n int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.n -= len(p); w.n < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestEncoderWriteError(t *testing.T) {
	for _, n := range []int{0, 300 << 10} {
		e := migschema.NewEncoder(&failingWriter{n}, nil)
		for range 3 {
			begin(e)
			e.OldBlob(make([]byte, 300<<10))
			e.EndSection()
		}
		if err := e.Close(); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("after %d: %v", n, err)
		}
		if err := e.Close(); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("after %d, again: %v", n, err)
		}
	}
}
