package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/libxlfmt"
)

// saved writes a saved HVM domain of three pages to a file.
func saved(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	w, err := libxlfmt.NewWriter(&b, &libxlfmt.WriterOptions{Container: libxlfmt.Container{
		Kind: libxlfmt.ContainerXL, XL: libxlfmt.NewXLHeader([]byte(`{"c_info":{"name":"guest"}}`), true)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.StartLibxc(libxlfmt.LibxcHeader{Type: libxlfmt.HVM, XenMajor: 4, XenMinor: 17}); err != nil {
		t.Fatal(err)
	}
	qemu := libxlfmt.Emulator{ID: libxlfmt.EmulatorQemu}
	for _, body := range []libxlfmt.Body{
		libxlfmt.Mark(libxlfmt.TypeStaticDataEnd),
		libxlfmt.PageBatch{
			Entries: []libxlfmt.PageEntry{
				libxlfmt.NewPageEntry(0, libxlfmt.PageNormal), libxlfmt.NewPageEntry(1, libxlfmt.PageXTab),
				libxlfmt.NewPageEntry(3, libxlfmt.PageNormal),
			},
			Data: append(bytes.Repeat([]byte("a"), 4096), make([]byte, 4096)...),
		},
		libxlfmt.HVMParams{{Index: 1, Value: 0xfeffc}},
		libxlfmt.HVMContext{Data: []byte("\x0c\x00\x00\x00\x04\x00\x00\x00hpet\x00\x00\x00\x00\x00\x00\x00\x00")},
		libxlfmt.Mark(libxlfmt.TypeLibxcEnd),
		libxlfmt.Xenstore{Emulator: qemu, Pairs: []libxlfmt.XenstorePair{{Key: "physmap/1/name", Value: "vga"}}},
		libxlfmt.EmulatorState{Emulator: qemu, State: []byte("QEVM")},
	} {
		if err := w.Put(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "saved")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// xlstream runs a command and returns what it prints.
func xlstream(t *testing.T, status int, args ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	if got := run(args, strings.NewReader(""), &out, &errOut); got != status {
		t.Fatalf("%v: exit %d, want %d\n%s%s", args, got, status, &out, &errOut)
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

func TestInfo(t *testing.T) {
	name := saved(t)
	contains(t, xlstream(t, 0, "info", name), "container  xl", "hvm, Xen 4.17", "8192 bytes of contents", "STORE_PFN = 0xfeffc",
		`physmap/1/name = "vga"`, "emulator   qemu 0: 4 bytes", "end        end")
	var in info
	if err := json.Unmarshal([]byte(xlstream(t, 0, "info", "-json", name)), &in); err != nil {
		t.Fatal(err)
	}
	if in.Container != "xl" || in.Params["STORE_PFN"] != 0xfeffc || in.Memory.Pages["normal"] != 2 || in.Records["libxc PAGE_DATA"] != 1 {
		t.Errorf("%+v", in)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data[:len(data)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	contains(t, xlstream(t, 1, "info", name), "container  xl", "stream ends: unexpected EOF")
	if err := os.WriteFile(name, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	contains(t, xlstream(t, 1, "info", name), "container  unknown", "not a saved domain")
}

func TestRecords(t *testing.T) {
	name := saved(t)
	contains(t, xlstream(t, 0, "records", name), "PAGE_DATA", "3 pages, 2 with contents, pfns 0x0 to 0x3", "qemu 0, 1 keys")
	contains(t, xlstream(t, 0, "records", "-sum", name), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	var lines []recordLine
	if err := json.Unmarshal([]byte(xlstream(t, 0, "records", "-json", name)), &lines); err != nil || len(lines) != 9 {
		t.Errorf("%d lines, %v", len(lines), err)
	}
}

func TestVerify(t *testing.T) {
	name := saved(t)
	contains(t, xlstream(t, 0, "verify", name), "good by strict: 9 records")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append(data, "more"...), 0o600); err != nil {
		t.Fatal(err)
	}
	contains(t, xlstream(t, 1, "verify", name), "4 bytes behind its end [trailing-bytes]", "bad by strict")
	contains(t, xlstream(t, 0, "verify", "-profile", "xen", name), "note", "good by xen")
	var v verdict
	if err := json.Unmarshal([]byte(xlstream(t, 1, "verify", "-json", name)), &v); err != nil || v.OK || v.Trailing != 4 || len(v.Findings) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	xlstream(t, 2, "verify", "-profile", "loose", name)
}

func TestMemory(t *testing.T) {
	name := saved(t)
	out := filepath.Join(t.TempDir(), "memory")
	want := append(bytes.Repeat([]byte("a"), 4096), make([]byte, 3*4096)...)
	for _, zeros := range []string{"-zeros=false", "-zeros"} {
		contains(t, xlstream(t, 0, "memory", zeros, name, out), "16384 bytes of memory")
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", zeros, len(got), err)
		}
	}
	if got := xlstream(t, 0, "memory", name, "-"); got != string(want) {
		t.Errorf("on standard output: %d bytes", len(got))
	}
	contains(t, xlstream(t, 0, "memory", "-map", name), "0x00000000        1 normal", "0x00000001        1 xtab      -")
	var runs []runLine
	if err := json.Unmarshal([]byte(xlstream(t, 0, "memory", "-map", "-json", name)), &runs); err != nil || len(runs) != 3 || runs[1].Offset != nil {
		t.Errorf("%+v, %v", runs, err)
	}
	contains(t, xlstream(t, 1, "memory", "-checkpoint", name, out), "no checkpoint")
	contains(t, xlstream(t, 1, "memory", name, name), "is the file to read")
	xlstream(t, 2, "memory", name)
}

// TestMemoryOfBrokenStream: what there is of the memory is written, and the
// exit status says that it is not all; where there is none, nothing is written.
func TestMemoryOfBrokenStream(t *testing.T) {
	name := saved(t)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, int64(len(data))-8); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "memory")
	contains(t, xlstream(t, 1, "memory", name, out), "breaks", "16384 bytes of memory")
	contains(t, xlstream(t, 1, "memory", "-map", name), "0x00000000        1 normal")
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(t.TempDir(), "none")
	for _, bad := range []string{empty, "main.go", t.TempDir()} {
		xlstream(t, 1, "memory", bad, none)
		if _, err := os.Stat(none); !os.IsNotExist(err) {
			t.Errorf("%s: something was written: %v", bad, err)
		}
	}
	contains(t, xlstream(t, 1, "info", t.TempDir()), "is a directory")
}

func TestPatch(t *testing.T) {
	name := saved(t)
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"patch", "-record", "HVM_CONTEXT", "-entry", "HPET", "-at", "1", "-hex", "41 42"}
	contains(t, xlstream(t, 0, append(args, "-n", name)...), "- 7065", "+ 4142")
	if after, err := os.ReadFile(name); err != nil || !bytes.Equal(after, before) {
		t.Error("-n changed the file")
	}
	xlstream(t, 0, append(args, name)...)
	after, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(after, bytes.Replace(before, []byte("hpet"), []byte("hABt"), 1)) {
		t.Errorf("the file is not as it should be, %v", err)
	}
	for _, bad := range [][]string{
		{"-record", "PAGE_DATA", "-hex", "00"},                           // a count of 0
		{"-record", "END", "-hex", "00"},                                 // two of them
		{"-record", "99", "-hex", "00"},                                  // not there
		{"-record", "HVM_CONTEXT", "-entry", "RTC", "-hex", "00"},        // not there
		{"-record", "HVM_CONTEXT", "-entry", "12.1", "-hex", "00"},       // not there
		{"-record", "HVM_PARAMS", "-entry", "HPET", "-hex", "00"},        // has none
		{"-record", "HVM_CONTEXT", "-at", "19", "-hex", "0000"},          // past the body
		{"-record", "HVM_CONTEXT", "-entry", "12", "-hex", "0000000000"}, // past the entry
		{"-record", "HVM_CONTEXT", "-hex", "zz"},                         // no digits
		{"-record", "HVM_CONTEXT", "-in", name + ".missing"},             // no file
	} {
		xlstream(t, 1, append(append([]string{"patch"}, bad...), name)...)
	}
	xlstream(t, 2, "patch", "-record", "HVM_CONTEXT", name)
	if now, err := os.ReadFile(name); err != nil || !bytes.Equal(now, after) {
		t.Error("a refused patch changed the file")
	}
}

func TestConvert(t *testing.T) {
	name := saved(t)
	dir := t.TempDir()
	xml, other := filepath.Join(dir, "xml"), filepath.Join(dir, "other")
	if err := os.WriteFile(xml, []byte("<domain/>"), 0o600); err != nil {
		t.Fatal(err)
	}
	xlstream(t, 0, "convert", "-to", "libvirt", "-config", xml, name, other)
	contains(t, xlstream(t, 0, "info", other), "container  libvirt", "config     10 bytes")
	contains(t, xlstream(t, 0, "convert", "-to", "libxc", other, filepath.Join(dir, "libxc")), "left out: libxl EMULATOR_XENSTORE_DATA")
	xlstream(t, 0, "convert", "-xenstore", "draft-b", name, other)
	contains(t, xlstream(t, 1, "verify", other), "draft-b")
	xlstream(t, 0, "convert", "-xenstore", "final", other, other+"2")
	a, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(other + "2")
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("to Draft B and back: %d bytes of %d, %v", len(b), len(a), err)
	}
	contains(t, xlstream(t, 1, "convert", "-to", "libxc", name, name), "is the file to read")
	contains(t, xlstream(t, 1, "convert", "-to", "libxc", "-config", xml, name, other), "no place")
	xlstream(t, 1, "convert", "-to", "tar", name, other)
	// What cannot be converted leaves the file that was there, and nothing else.
	if err := os.WriteFile(name, a[:len(a)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	contains(t, xlstream(t, 1, "convert", name, other), "stream ends")
	if now, err := os.ReadFile(other); err != nil || len(now) == 0 {
		t.Errorf("a conversion that failed left %d bytes of the file before it, %v", len(now), err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 4 {
		t.Errorf("%v, %v", files, err)
	}
	xlstream(t, 2, "convert", "-xenstore", "other", name, other)
}

// TestSpecialFiles: what is no regular file is written as it is, and stays.
func TestSpecialFiles(t *testing.T) {
	name := saved(t)
	null := filepath.Join(t.TempDir(), "null")
	if err := os.Symlink(os.DevNull, null); err != nil {
		t.Fatal(err)
	}
	xlstream(t, 0, "convert", name, null)
	if err := os.Truncate(name, 5000); err != nil {
		t.Fatal(err)
	}
	xlstream(t, 1, "convert", name, null)
	if _, err := os.Lstat(null); err != nil {
		t.Error(err)
	}
	if fi, err := os.Stat(os.DevNull); err != nil || fi.Mode().IsRegular() {
		t.Errorf("%s is gone, %v", os.DevNull, err)
	}
}

// TestPipes: what needs no seeking takes standard input and output.
func TestPipes(t *testing.T) {
	data, err := os.ReadFile(saved(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"records", "-"}, {"verify", "-"}, {"convert", "-", "-"}} {
		var out, errOut bytes.Buffer
		if status := run(args, bytes.NewReader(data), &out, &errOut); status != 0 {
			t.Errorf("%v: exit %d, %s", args, status, &errOut)
		}
		if args[0] == "convert" && !bytes.Equal(out.Bytes(), data) {
			t.Errorf("convert: %d bytes of %d", out.Len(), len(data))
		}
	}
}

func TestCommandLine(t *testing.T) {
	contains(t, xlstream(t, 2), "usage: xlstream info")
	contains(t, xlstream(t, 0, "--help"), "usage: xlstream info", "usage: xlstream convert")
	contains(t, xlstream(t, 2, "nonsense"), "usage: xlstream info")
	contains(t, xlstream(t, 2, "info"), "usage: xlstream info")
	contains(t, xlstream(t, 2, "info", "-nonsense"), "not defined")
	contains(t, xlstream(t, 0, "info", "-h"), "usage: xlstream info")
	contains(t, xlstream(t, 1, "info", "no such file"), "xlstream: open")
}
