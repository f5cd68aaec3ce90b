package migschema_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/migschema"
)

// TestVectorsJSON holds what each vector decodes to against its JSON value,
// and reads that value back.
func TestVectorsJSON(t *testing.T) {
	for _, v := range vectors(t) {
		if v.Expect != "accept" && v.Lenient != "accept" || string(v.Value) == "null" && v.Type != "SecEndMark" {
			continue
		}
		t.Run(v.ID, func(t *testing.T) {
			opt := &migschema.DecoderOptions{}
			if v.Expect == "reject" {
				opt.Lenient = everyLeniency
			}
			got := newValue(t, v.Type)
			if err := migschema.Unmarshal(v.octets(t), got, opt); err != nil {
				t.Fatal(err)
			}
			j, err := migschema.AppendJSON(nil, got)
			if err != nil {
				t.Fatal(err)
			}
			var want bytes.Buffer
			if err := json.Compact(&want, v.Value); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(normal(t, want.Bytes()), normal(t, j)); diff != "" {
				t.Errorf("JSON (-want +got):\n%s", diff)
			}
			back := newValue(t, v.Type)
			if err := migschema.ParseJSON(v.Value, back); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, back) {
				t.Errorf("decoded %v, parsed %v", got, back)
			}
		})
	}
}

// normal writes JSON with one kind of escapes, numbers untouched.
func normal(t *testing.T, b []byte) string {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestParseJSONErrors(t *testing.T) {
	for name, in := range map[string]string{
		"missing member": `{"version":3}`,
		"unknown member": `{"version":3,"top":[],"x":1}`,
		"double member":  `{"version":3,"version":3,"top":[]}`,
		"fraction":       `{"version":3.5,"top":[]}`,
		"exponent":       `{"version":3e0,"top":[]}`,
		"two arms":       `{"version":3,"top":[{"full":{},"min":{}}]}`,
		"no arm":         `{"version":3,"top":[{}]}`,
		"unknown arm":    `{"version":3,"top":[{"maybe":1}]}`,
		"not hex":        `{"version":3,"top":[{"full":{"name":"a","sectionid":1,"instanceid":1,"versionid":1,"contents":{"oldblob":"0g"}}}]}`,
		"trailing":       `{"version":3,"top":[]} 1`,
		"cut":            `{"version":3,"top":[`,
		"empty":          ``,
		"null":           `null`,
	} {
		t.Run(name, func(t *testing.T) {
			f := migschema.QemuFile{Version: migschema.NewInt(7)}
			if err := migschema.ParseJSON([]byte(in), &f); err == nil {
				t.Error("accepted")
			}
			if f.Version != migschema.NewInt(7) {
				t.Error("the value was changed")
			}
		})
	}
}

func TestJSONDepth(t *testing.T) {
	in := strings.Repeat(`{"array":[`, 20000) + strings.Repeat(`]}`, 20000)
	var e migschema.Entry
	if err := migschema.ParseJSON([]byte(in), &e); err == nil {
		t.Error("parsed without a bound on depth")
	}
	loop := make(migschema.Array, 1)
	loop[0] = loop
	e = loop
	if _, err := migschema.AppendJSON(nil, &e); err == nil {
		t.Error("wrote a value that holds itself")
	}
}

// TestJSONInStructs uses the types with encoding/json.
func TestJSONInStructs(t *testing.T) {
	var f migschema.QemuFile
	in := `{"version":3,"top":[{"full":{"name":"x","sectionid":18446744073709551616,"instanceid":0,"versionid":1,"contents":{"vmstate":{"vmstateentries":[{"bool":true}]}}}}]}`
	if err := json.Unmarshal([]byte(in), &f); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	if string(out) != in {
		t.Errorf("got  %s\nwant %s", out, in)
	}
}
