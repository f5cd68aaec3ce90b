package migschema_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"reflect"
	"testing"
	"testing/iotest"

	"github.com/virtfmt/virtfmt/migschema"
)

// seedTypes are the types that FuzzUnmarshal decodes, by its first argument.
var seedTypes = []string{
	"QemuFile", "Sections", "SecFull", "SecMin", "RAMBlockList", "RAMBlockID", "RAMSecBlock", "RAMPage", "FullPage",
	"XBZRLEPage", "VMState", "VMStateEntries", "SubSecList", "SubSection", "SectionID", "QemuString", "SecEndMark",
}

// FuzzUnmarshal decodes any octets: what is accepted can be written in all
// forms and as JSON, and reads back the same.
func FuzzUnmarshal(f *testing.F) {
	for _, v := range vectors(f) {
		b, err := hex.DecodeString(v.BER)
		if err != nil {
			f.Fatal(err)
		}
		for i, name := range seedTypes {
			if name == v.Type {
				f.Add(uint8(i), b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, typ uint8, b []byte) {
		name := seedTypes[int(typ)%len(seedTypes)]
		v := newValue(t, name)
		lenient := everyLeniency
		lenient.UTF8Segments = true
		strict := migschema.Unmarshal(b, v, nil)
		loose := migschema.Unmarshal(b, newValue(t, name), &migschema.DecoderOptions{Lenient: lenient})
		if strict == nil && loose != nil {
			t.Fatalf("strict accepts what lenient does not: %v", loose)
		}
		if strict != nil {
			var fe *migschema.FormatError
			if !errors.As(strict, &fe) || fe.Offset < 0 || fe.Offset > int64(len(b)) || fe.Field == "" {
				t.Fatalf("error %#v", strict)
			}
			return
		}
		for _, form := range []migschema.Form{migschema.DER, migschema.CER, migschema.Streamed} {
			out, err := migschema.Marshal(v, &migschema.EncoderOptions{Form: form})
			if err != nil {
				t.Fatal(err)
			}
			back := newValue(t, name)
			if err := migschema.Unmarshal(out, back, &migschema.DecoderOptions{DER: form == migschema.DER}); err != nil {
				t.Fatalf("%s: %v", form, err)
			}
			if !reflect.DeepEqual(v, back) {
				t.Fatalf("%s: reads back another value", form)
			}
		}
		if migschema.Unmarshal(b, newValue(t, name), &migschema.DecoderOptions{DER: true}) == nil {
			if out, _ := migschema.Marshal(v, nil); !bytes.Equal(out, b) {
				t.Fatalf("DER %x comes out as %x", b, out)
			}
		}
		j, err := migschema.AppendJSON(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		back := newValue(t, name)
		if err := migschema.ParseJSON(j, back); err != nil || !reflect.DeepEqual(v, back) {
			t.Fatalf("JSON: %v, another value: %v", err, err == nil)
		}
	})
}

// FuzzDecoder reads any octets as a file: the ways to read one agree.
func FuzzDecoder(f *testing.F) {
	for _, v := range vectors(f) {
		if v.Type == "QemuFile" {
			b, err := hex.DecodeString(v.BER)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, false)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, validate bool) {
		opt := &migschema.DecoderOptions{Validate: validate}
		want, err := drain(migschema.NewDecoderBytes(b, opt))
		got, err2 := drain(migschema.NewDecoder(iotest.HalfReader(bytes.NewReader(b)), opt))
		if (err == nil) != (err2 == nil) || err != nil && err.Error() != err2.Error() || got != want {
			t.Fatalf("slice: %v, reader: %v", err, err2)
		}
		// What reads no further than it must knows no short cuts.
		slow, err3 := drain(migschema.NewDecoder(bytes.NewReader(b), &migschema.DecoderOptions{Validate: validate, NoReadAhead: true}))
		if err == nil && (err3 != nil || slow != want) {
			t.Fatalf("slice: nil, without reading ahead: %v", err3)
		}
		var scanErr error
		for _, err := range migschema.NewScannerBytes(b, nil).All() {
			scanErr = err
		}
		whole := migschema.Unmarshal(b, new(migschema.QemuFile), nil)
		if (scanErr == nil) != (whole == nil) || whole != nil && whole.Error() != scanErr.Error() {
			t.Fatalf("scanner: %v, whole: %v", scanErr, whole)
		}
		if err == nil && whole != nil {
			t.Fatalf("events: nil, whole: %v", whole)
		}
		if err != nil {
			return
		}
		var out bytes.Buffer
		e := migschema.NewEncoder(&out, nil)
		if err := pump(e, b); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		again := transcode(t, out.Bytes(), migschema.Streamed)
		if !bytes.Equal(out.Bytes(), again) {
			t.Fatal("no fixpoint")
		}
		d := migschema.NewDecoderBytes(b, nil)
		for {
			if _, err := d.Next(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if err := d.Skip(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
