package migschema_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/migschema"
)

// device decodes a description of one device.
func device(t testing.TB, fields string) *migschema.DeviceDesc {
	t.Helper()
	d, err := migschema.ParseVMDesc([]byte(`{"page_size": 4096, "devices": [{"name": "dev", "instance_id": 0, "vmsd_name": "dev", "version": 1, ` + fields + `}]}`))
	if err != nil {
		t.Fatal(err)
	}
	return d.Device("dev", 0, 0)
}

const everyField = `"fields": [
	{"name": "u8", "type": "uint8", "size": 1},
	{"name": "i16", "type": "int16", "size": 2},
	{"name": "le", "type": "int32 le", "size": 4},
	{"name": "eq", "type": "uint32 equal", "size": 4},
	{"name": "t", "type": "timer", "size": 8},
	{"name": "u64", "type": "uint64", "size": 8},
	{"name": "yes", "type": "bool", "size": 1},
	{"name": "odd", "type": "bool", "size": 1},
	{"name": "raw", "type": "buffer", "size": 3},
	{"name": "arr", "array_len": 2, "type": "uint16", "size": 2},
	{"name": "none", "array_len": 0, "type": "uint16", "size": 2},
	{"name": "empty", "array_len": 9, "type": "unused_buffer", "size": 0},
	{"name": "one", "type": "struct", "struct": {"vmsd_name": "s", "version": 1, "fields": [{"name": "x", "type": "uint8", "size": 1}]}, "size": 1},
	{"name": "two", "array_len": 2, "type": "struct", "struct": {"vmsd_name": "s", "version": 1, "fields": [{"name": "x", "type": "int8", "size": 1}, {"name": "y", "type": "uint8", "size": 1}]}, "size": 2},
	{"name": "drives", "index": 1, "type": "struct", "struct": {"vmsd_name": "d", "version": 1, "fields": [], "subsections": [{"vmsd_name": "d/s", "version": 2, "fields": [{"name": "z", "type": "uint8", "size": 1}]}]}, "size": 10},
	{"name": "odd struct", "type": "struct", "struct": {"vmsd_name": "s", "version": 1, "fields": []}, "size": 1}
	], "subsections": [{"vmsd_name": "dev/sub", "version": 3, "fields": [{"name": "w", "type": "uint16", "size": 2}]}]`

func everyState() []byte {
	var b bytes.Buffer
	b.Write([]byte{200, 0xff, 0xfe, 1, 0, 0, 0x80, 0, 0, 0, 7})
	b.Write(bytes.Repeat([]byte{0xff}, 16))
	b.Write([]byte{1, 2, 'r', 'a', 'w', 0, 1, 0, 2, 9, 0xff, 5, 6, 7})
	b.Write([]byte{5, 3, 'd', '/', 's', 0, 0, 0, 2, 8, 0xcc})
	b.Write([]byte{5, 7})
	b.WriteString("dev/sub")
	b.Write([]byte{0, 0, 0, 3, 1, 2})
	return b.Bytes()
}

func TestTypedState(t *testing.T) {
	dev := device(t, everyField)
	state := everyState()
	got, err := dev.Decode(state)
	if err != nil {
		t.Fatal(err)
	}
	j, err := migschema.AppendJSON(nil, got)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"vmstateentries":[{"int":200},{"int":-2},{"int":-2147483647},{"int":7},{"int":-1},{"int":18446744073709551615},` +
		`{"bool":true},{"oldblob":"02"},{"oldblob":"726177"},{"array":[{"int":1},{"int":2}]},{"array":[]},{"oldblob":""},` +
		`{"array":[{"int":9}]},{"array":[{"array":[{"int":-1},{"int":5}]},{"array":[{"int":6},{"int":7}]}]},` +
		`{"array":[{"subsecl":[{"name":"d/s","versionid":2,"contents":[{"int":8}]}]}]},{"oldblob":"cc"},` +
		`{"subsecl":[{"name":"dev/sub","versionid":3,"contents":[{"int":258}]}]}]}`
	if diff := cmp.Diff(want, string(j)); diff != "" {
		t.Error(diff)
	}
	back, err := dev.Encode(got)
	if err != nil || !bytes.Equal(back, state) {
		t.Errorf("comes back as %x, %v", back, err)
	}
	var values []string
	for v, err := range dev.Values(state) {
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, fmt.Sprintf("%s@%d %s", v.Path, v.Offset, v.Type))
		if !bytes.Equal(state[v.Offset:][:len(v.Data)], v.Data) {
			t.Errorf("%s: %x is not at %d", v.Path, v.Data, v.Offset)
		}
	}
	wantValues := []string{
		"u8@0 uint8", "i16@1 int16", "le@3 int32 le", "eq@7 uint32 equal", "t@11 timer", "u64@19 uint64", "yes@27 bool", "odd@28 bool",
		"raw@29 buffer", "arr[0]@32 uint16", "arr[1]@34 uint16", "one.x@36 uint8", "two[0].x@37 int8", "two[0].y@38 uint8",
		"two[1].x@39 int8", "two[1].y@40 uint8", "drives[1].d/s:z@50 uint8", "odd struct@51 struct", "dev/sub:w@65 uint16",
	}
	if diff := cmp.Diff(wantValues, values); diff != "" {
		t.Error(diff)
	}
}

func TestTypedStateErrors(t *testing.T) {
	dev := device(t, everyField)
	state := everyState()
	for name, b := range map[string][]byte{
		"short":      state[1:],
		"long":       append(bytes.Clone(state), 0),
		"no section": bytes.Replace(state, []byte("dev/sub"), []byte("dev/bus"), 1),
		"version":    append(bytes.Clone(state[:len(state)-3]), 4, 1, 2),
	} {
		if _, err := dev.Decode(b); !errors.Is(err, migschema.CodeVMDesc) {
			t.Errorf("%s: %v", name, err)
		}
		n := 0
		for _, err := range dev.Values(b) {
			if err != nil {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s: %d errors", name, n)
		}
	}
	small := device(t, `"fields": [{"name": "a", "type": "uint8", "size": 1}, {"name": "b", "array_len": 2, "type": "int16", "size": 2}]`)
	i := migschema.NewInt
	pair := migschema.Array{i(1), i(-1)}
	for name, v := range map[string]migschema.VMState{
		"too few":     {i(1)},
		"too many":    {i(1), pair, i(2)},
		"over":        {i(256), pair},
		"negative":    {i(-1), pair},
		"wide":        {migschema.NewUint(1 << 63), pair},
		"bool":        {migschema.Bool(true), pair},
		"no array":    {i(1), i(1)},
		"short array": {i(1), pair[:1]},
		"over in it":  {i(1), migschema.Array{i(1), i(32768)}},
		"blob":        {migschema.OldBlob{1, 2}, pair},
		"subsections": {migschema.SubSecList{}, pair},
	} {
		if _, err := small.Encode(v); !errors.Is(err, migschema.CodeVMDesc) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, v := range []migschema.VMState{{i(1), pair}, {migschema.OldBlob{1}, migschema.OldBlob{0, 1, 0xff, 0xff}}} {
		if b, err := small.Encode(v); err != nil || !bytes.Equal(b, []byte{1, 0, 1, 0xff, 0xff}) {
			t.Errorf("%x, %v", b, err)
		}
	}
}

// TestVMDescBombs gives descriptions that claim or nest too much.
func TestVMDescBombs(t *testing.T) {
	deep := strings.Repeat(`{"name":"a","type":"struct","size":0,"struct":{"vmsd_name":"s","fields":[`, 500)
	for name, fields := range map[string]string{
		"deep":           `"fields":[` + deep + strings.Repeat(`]}}`, 500) + `]`,
		"array of none":  `"fields":[{"name":"a","type":"uint8","size":0,"array_len":9223372036854775807}]`,
		"overflow":       `"fields":[{"name":"a","type":"uint8","size":4611686018427387904,"array_len":4}]`,
		"overflow, sum":  `"fields":[{"name":"a","size":9223372036854775807},{"name":"a","size":9223372036854775807}]`,
		"negative":       `"fields":[{"name":"a","type":"uint8","size":-1}]`,
		"negative array": `"fields":[{"name":"a","type":"uint8","size":1,"array_len":-1}]`,
	} {
		dev := device(t, fields)
		v, err := dev.Decode(nil)
		if err != nil && !errors.Is(err, migschema.CodeVMDesc) {
			t.Errorf("%s: %v", name, err)
		}
		if len(v) > 1 {
			t.Errorf("%s: %d entries", name, len(v))
		}
	}
	wide := `"fields":[{"name":"a","type":"struct","array_len":100000,"size":1,"struct":{"vmsd_name":"s","fields":[{"type":"uint8","size":1}` +
		strings.Repeat(`,{"type":"buffer","size":0}`, 50000) + `]}}]`
	if _, err := device(t, wide).Decode(make([]byte, 100000)); !errors.Is(err, migschema.CodeVMDesc) {
		t.Errorf("wide: %v", err)
	}
	// An array of structs whose size is another than the array says: each is a
	// blob, and none needs its fields counted anew.
	other := `"fields":[{"name":"a","type":"struct","array_len":500000,"size":1,"struct":{"vmsd_name":"s","fields":[{"type":"uint8","size":2}` +
		strings.Repeat(`,{"type":"buffer","size":0}`, 20000) + `]}}]`
	start := time.Now()
	if _, err := device(t, other).Decode(make([]byte, 500000)); err != nil {
		t.Errorf("other: %v", err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("other: took %v", took)
	}
	for _, s := range []struct{ head, element, end string }{
		{"", "{", ""}, {"", "[", ""}, {"", `{"a":`, ""}, {`{"devices":[`, "0,", "0]}"}, {`{"devices":[`, "{},", "{}]}"},
		{`{"devices":[`, `"",`, `""]}`}, {`{"devices":[{"subsections":[`, "null,", "null]}]}"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := migschema.ParseVMDesc([]byte(s.head + strings.Repeat(s.element, 1<<20/len(s.element)) + s.end))
		runtime.ReadMemStats(&after)
		if !errors.Is(err, migschema.CodeVMDesc) {
			t.Errorf("%s%s: %v", s.head, s.element, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
			t.Errorf("%s%s: took %d MiB in all", s.head, s.element, got>>20)
		}
	}
}

// TestTypedRandom takes random state of random descriptions there and back.
func TestTypedRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(difftest.Seed(t, 5), 0))
	types := []string{"uint8", "int8", "uint16", "int32", "int32 le", "uint64", "timer", "bool", "buffer", "int64 equal", "pci config"}
	var group func(depth int) string
	group = func(depth int) string {
		var f []string
		for range r.IntN(5) {
			array := ""
			if r.IntN(3) == 0 {
				array = fmt.Sprintf(`"array_len": %d, `, r.IntN(4))
			}
			if depth < 3 && r.IntN(4) == 0 {
				inner := group(depth + 1)
				size, err := device(t, inner).Size()
				if err != nil {
					t.Fatal(err)
				}
				f = append(f, fmt.Sprintf(`{"name": "s", %s"type": "struct", "struct": {"vmsd_name": "v", "version": 1, %s}, "size": %d}`, array, inner, size))
				continue
			}
			f = append(f, fmt.Sprintf(`{"name": "f", %s"type": %q, "size": %d}`, array, types[r.IntN(len(types))], []int{1, 2, 3, 4, 8}[r.IntN(5)]))
		}
		return `"fields": [` + strings.Join(f, ",") + `]`
	}
	for range difftest.Scale(t, 2000) {
		fields := group(0)
		dev := device(t, fields)
		size, err := dev.Size()
		if err != nil {
			t.Fatal(err)
		}
		state := make([]byte, size)
		for i := range state {
			state[i] = byte(r.IntN(3) * 0x7f)
		}
		v, err := dev.Decode(state)
		if err != nil {
			t.Fatalf("%s: %v", fields, err)
		}
		if back, err := dev.Encode(v); err != nil || !bytes.Equal(back, state) {
			t.Fatalf("%s: %x came back as %x, %v", fields, state, back, err)
		}
		var flat []byte
		for v, err := range dev.Values(state) {
			if err != nil {
				t.Fatal(err)
			}
			flat = append(flat, v.Data...)
		}
		if !bytes.Equal(flat, state) {
			t.Fatalf("%s: the values are %x", fields, flat)
		}
	}
}

// FuzzVMDesc decodes any state by any description.
func FuzzVMDesc(f *testing.F) {
	f.Add([]byte(`{"devices": [{"name": "dev", `+everyField+`}]}`), everyState())
	f.Fuzz(func(t *testing.T, desc, state []byte) {
		d, err := migschema.ParseVMDesc(desc)
		if err != nil {
			return
		}
		for i := range d.Devices {
			dev := &d.Devices[i]
			v, err := dev.Decode(state)
			if err != nil {
				continue
			}
			if back, err := dev.Encode(v); err != nil || !bytes.Equal(back, state) {
				t.Fatalf("%x came back as %x, %v", state, back, err)
			}
		}
	})
}
