package main

import (
	"bytes"
	"compress/zlib"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/migschema"
)

const noneMig = "../../migschema/testdata/none.mig"

const description = `{"page_size": 4096, "devices": [{"name": "dev", "instance_id": 0, "vmsd_name": "dev", "version": 1, "fields": [` +
	`{"name": "count", "type": "uint16", "size": 2}, {"name": "on", "type": "bool", "size": 1}]}]}`

// pages writes a stream with pages of every kind and a device, and returns its
// name and the memory in it.
func pages(t *testing.T) (name string, memory []byte) {
	t.Helper()
	var b, packed bytes.Buffer
	z := zlib.NewWriter(&packed)
	z.Write(bytes.Repeat([]byte{0xcc}, 4096))
	z.Close()
	w := migschema.NewWriter(&b, nil)
	page := func(kind migschema.PageKind, addr uint64, data []byte) *migschema.Record {
		return &migschema.Record{Kind: migschema.RecordPage, Page: migschema.Page{Kind: kind, Block: "pc.ram", Addr: addr, Data: data}}
	}
	for _, rec := range []*migschema.Record{
		{Kind: migschema.RecordHeader, Version: 3},
		{Kind: migschema.RecordStart, ID: 2, Name: "ram", Version: 4},
		{Kind: migschema.RecordRAMList, Total: 0x5000, Blocks: []migschema.RAMBlock{{Name: "pc.ram", Len: 0x4000}, {Name: "rom", Len: 0x1000}}},
		{Kind: migschema.RecordRAMEnd},
		{Kind: migschema.RecordFooter, ID: 2},
		{Kind: migschema.RecordEnd, ID: 2, Name: "ram"},
		page(migschema.PageFull, 0x1000, bytes.Repeat([]byte{0xaa}, 4096)),
		page(migschema.PageXBZRLE, 0x1000, []byte{1, 1, 0xbb}),
		page(migschema.PageCompressed, 0x2000, packed.Bytes()),
		page(migschema.PageZero, 0x3000, nil),
		{Kind: migschema.RecordRAMEnd},
		{Kind: migschema.RecordFooter, ID: 2},
		{Kind: migschema.RecordFull, ID: 5, Name: "dev", Version: 1},
		{Kind: migschema.RecordState, Data: []byte{1, 2, 1}},
		{Kind: migschema.RecordFooter, ID: 5},
		{Kind: migschema.RecordEOF},
		{Kind: migschema.RecordVMDesc, Data: []byte(description)},
	} {
		if err := w.Write(rec); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	name = filepath.Join(t.TempDir(), "stream")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	memory = make([]byte, 0x5000)
	copy(memory[0x1000:], bytes.Repeat([]byte{0xaa}, 4096))
	memory[0x1001] = 0xbb
	copy(memory[0x2000:], bytes.Repeat([]byte{0xcc}, 4096))
	return name, memory
}

// migdump runs a command and returns what it prints.
func migdump(t *testing.T, status int, args ...string) string {
	t.Helper()
	return piped(t, status, "", args...)
}

func piped(t *testing.T, status int, in string, args ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	if got := run(args, strings.NewReader(in), &out, &errOut); got != status {
		t.Fatalf("%v: exit %d, want %d\n%s%s", args, got, status, &out, &errOut)
	}
	if status == 0 {
		return out.String()
	}
	return out.String() + errOut.String()
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("no %q in\n%s", p, text)
		}
	}
}

func TestDump(t *testing.T) {
	name, _ := pages(t)
	text := migdump(t, 0, "dump", name)
	contains(t, text, "QEVM", "ram.pc.ram[0x1000] full aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa... (4096 octets)", "ram.pc.ram[0x1000] xbzrle 0101bb",
		"ram.pc.ram[0x2000] compressed", "ram.pc.ram[0x3000] zero 0", "dev.count uint16 258", "dev.on bool true")
	text = migdump(t, 0, "dump", "-no-pages", name)
	if strings.Contains(text, "0x2000") {
		t.Errorf("pages in\n%s", text)
	}
	contains(t, text, "dev full", "ram end", "ram.end")
	if text = migdump(t, 0, "dump", "-fields", name); strings.Count(text, "\n") != 2 {
		t.Errorf("%s", text)
	}
	if text = migdump(t, 0, "dump", "-section", "ram", name); strings.Contains(text, "dev") {
		t.Errorf("%s", text)
	}
	for _, args := range [][]string{{}, {"-fields"}, {"-section", "dev"}} {
		var lines []dumpLine
		if err := json.Unmarshal([]byte(migdump(t, 0, append(append([]string{"dump", "-json"}, args...), name)...)), &lines); err != nil {
			t.Error(err)
		}
	}
	contains(t, migdump(t, 1, "dump", "-section", "nothing", name), "no section \"nothing\"")
	// A stream that breaks is dumped as far as it goes.
	b, _ := os.ReadFile(name)
	contains(t, piped(t, 1, string(b[:300]), "dump", "-"), "ram.totalram uint64 20480", "migdump: migschema:", "truncated")
	piped(t, 1, "no stream", "dump", "-")
}

func TestConvert(t *testing.T) {
	name, _ := pages(t)
	dir := t.TempDir()
	ber, back := filepath.Join(dir, "ber"), filepath.Join(dir, "back")
	contains(t, migdump(t, 1, "convert", name, ber), "compressed page")
	if _, err := os.Stat(ber); err == nil {
		t.Error("a file is left")
	}
	contains(t, migdump(t, 0, "convert", "-decompress", "-typed", "-form", "der", name, ber), "1 typed devices, 0 as blobs", "changed: compressed page")
	contains(t, migdump(t, 0, "dump", ber), "vmstate[0].int {dev count} INTEGER 258", "vmstate[1].bool {dev on} BOOLEAN true", "fullpage.data OCTET-STRING cccc")
	if text := migdump(t, 0, "dump", "-no-pages", ber); strings.Contains(text, "cccc") {
		t.Errorf("pages in\n%s", text)
	}
	contains(t, migdump(t, 0, "convert", ber, back), "1 typed")
	contains(t, migdump(t, 0, "stats", back), "classic")
	contains(t, migdump(t, 1, "convert", ber, ber), "is the input")
	contains(t, migdump(t, 1, "convert", "-to", "ber", ber, back), "is ber")
	// Octet for octet where nothing is compressed; through pipes as well.
	none, err := os.ReadFile(noneMig)
	if err != nil {
		t.Fatal(err)
	}
	piped(t, 0, string(none), "convert", "-typed", "-json", "-", ber)
	if got := migdump(t, 0, "convert", ber, "-"); got != string(none) {
		t.Errorf("came back as %q", got)
	}
	b, _ := os.ReadFile(ber)
	var out, errOut bytes.Buffer
	in := struct{ *bytes.Buffer }{bytes.NewBuffer(b)} // which cannot seek
	if got := run([]string{"convert", "-lossy", "-vmdesc", noneMig, "-", "-"}, in, &out, &errOut); got != 0 {
		t.Errorf("%d: %s", got, &errOut)
	}
	contains(t, errOut.String(), "end of RAM")
	// Without a loss where it does not fit into a pipe at once.
	none2, errOut := bytes.Buffer{}, bytes.Buffer{}
	in.Buffer = bytes.NewBuffer(b)
	if got := run([]string{"convert", "-", "-"}, in, &none2, &errOut); got != 0 || none2.String() != string(none) {
		t.Errorf("%d: %s, came back as %q", got, &errOut, &none2)
	}
}

// TestFailureKeeps: what cannot be read leaves the file that was there, and
// nothing else.
func TestFailureKeeps(t *testing.T) {
	name, _ := pages(t)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cut, out := filepath.Join(dir, "cut"), filepath.Join(dir, "out")
	if err := errors.Join(os.WriteFile(cut, b[:len(b)/2], 0o644), os.WriteFile(out, []byte("precious"), 0o600)); err != nil {
		t.Fatal(err)
	}
	migdump(t, 1, "ram", cut, out)
	migdump(t, 1, "convert", "-lossy", cut, out)
	if got, err := os.ReadFile(out); err != nil || string(got) != "precious" {
		t.Errorf("left %q, %v", got, err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Errorf("%v, %v", files, err)
	}
	migdump(t, 0, "ram", name, out)
	if fi, err := os.Stat(out); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	migdump(t, 0, "convert", "-lossy", name, os.DevNull)
	if fi, err := os.Stat(os.DevNull); err != nil || fi.Mode().IsRegular() {
		t.Errorf("%s is gone, %v", os.DevNull, err)
	}
}

func TestRAM(t *testing.T) {
	name, memory := pages(t)
	out := filepath.Join(t.TempDir(), "ram")
	contains(t, migdump(t, 0, "ram", name, out), "pc.ram: 16384 bytes, at 0x0\n", "rom: 4096 bytes, at 0x4000\n",
		"0x000000001000         8192 data\n", "0x000000003000         4096 zero\n")
	if b, err := os.ReadFile(out); err != nil || !bytes.Equal(b, memory) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	contains(t, migdump(t, 0, "ram", "-block", "pc.ram", name, out), "rom: 4096 bytes, left out")
	if b, err := os.ReadFile(out); err != nil || !bytes.Equal(b, memory[:0x4000]) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	contains(t, migdump(t, 1, "ram", "-block", "nothing", name, out), "no block \"nothing\"")
	contains(t, migdump(t, 1, "ram", "-block", "nothing", name), "no block \"nothing\"")
	contains(t, migdump(t, 1, "ram", name, "-"), "needs a file")
	if b, err := os.ReadFile(out); err != nil || !bytes.Equal(b, memory[:0x4000]) {
		t.Errorf("a block that is not there left %d bytes, %v", len(b), err)
	}
	var blocks []ramBlock
	if err := json.Unmarshal([]byte(migdump(t, 0, "ram", "-json", name)), &blocks); err != nil || len(blocks) != 2 || len(blocks[0].Extents) != 3 {
		t.Errorf("%v, %v", blocks, err)
	}
}

func TestStats(t *testing.T) {
	name, _ := pages(t)
	contains(t, migdump(t, 0, "stats", name), "classic", "pc.ram", "dev", "rom")
	var s streamStats
	if err := json.Unmarshal([]byte(migdump(t, 0, "stats", "-json", name)), &s); err != nil {
		t.Fatal(err)
	}
	if b := s.Blocks[0]; b.Full != 1 || b.XBZRLE != 1 || b.Compressed != 1 || b.Zero != 1 || b.Distinct != 3 || s.Devices[0].Split != "vmdesc" {
		t.Errorf("%+v", s)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{}, {"what"}, {"dump"}, {"dump", "a", "b"}, {"convert", "a"}, {"convert", "-to", "what", "a", "b"}, {"convert", "-form", "what", "a", "b"},
	} {
		contains(t, migdump(t, 2, args...), "usage: migdump")
	}
	contains(t, migdump(t, 0, "--help"), "usage: migdump dump", "usage: migdump convert")
	contains(t, migdump(t, 0, "dump", "-h"), "usage: migdump dump")
	contains(t, migdump(t, 2, "dump", "-what", "a"), "migdump: wrong flags: flag provided but not defined: -what")
	contains(t, migdump(t, 2, "what"), `migdump: no command "what"`)
	contains(t, migdump(t, 1, "convert", "main.go", filepath.Join(t.TempDir(), "out")), "main.go is not a migration stream")
	migdump(t, 1, "dump", "/nonexistent")
	migdump(t, 1, "dump", "-vmdesc", "main.go", noneMig)
}
