package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/vma"
)

// TestMain is qimg itself where a test asks for a process of it.
func TestMain(m *testing.M) {
	if os.Getenv("QIMG_IN_TEST") != "" {
		main()
	}
	os.Exit(m.Run())
}

// qimg runs a command line in this process.
func qimg(t *testing.T, line string) (stdout string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	c := &command{ctx: context.Background(), stdin: strings.NewReader(""), stdout: &out, stderr: &errs}
	code = c.main(words(line))
	if errs.Len() > 0 {
		t.Logf("%s: %s", line, &errs)
	}
	return out.String(), code
}

// The whole program, without any other.
func TestSmoke(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("disk.raw", bytes.Repeat([]byte("not zeros "), 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line string
		code int
		says string
	}{
		{"create -f qcow2 new.qcow2 1.5G", 0, "Formatting 'new.qcow2', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=1610612736 lazy_refcounts=off refcount_bits=16\n"},
		{"info new.qcow2", 0, "virtual size: 1.5 GiB (1610612736 bytes)"},
		{"convert -c -O qcow2 disk.raw disk.qcow2", 0, ""},
		{"compare disk.raw disk.qcow2", 0, "Images are identical."},
		{"compare -q disk.raw new.qcow2", 1, ""},
		{"compare disk.raw nosuch", 2, ""},
		{"check disk.qcow2", 0, "No errors were found on the image.\n10/10 = 100.00% allocated, 100.00% fragmented, 100.00% compressed clusters\n"},
		{"check disk.raw", 63, ""},
		{"create -f qcow2 -b disk.qcow2 -F qcow2 over.qcow2", 0, "backing_file=disk.qcow2"},
		{"convert -p over.qcow2 back.raw", 0, "    (100.00/100%)\r\n"},
		{"compare back.raw disk.raw", 0, ""},
		{"map disk.raw", 0, "disk.raw\n"},
		{"convert -O qed disk.raw disk.qed", 0, ""},
		{"compare disk.qed disk.raw", 0, ""},
		{"--version", 0, "7.2"},
		{"--help", 0, "convert"},
		{"", 1, ""},
		{"nosuch", 1, ""},
	} {
		out, code := qimg(t, c.line)
		if code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("%s: exit code %d, not %d; it says\n%s", c.line, code, c.code, out)
		}
	}
	out, _ := qimg(t, "info --output=json over.qcow2")
	var info map[string]any
	if err := json.Unmarshal([]byte(out), &info); err != nil || info["backing-filename"] != "disk.qcow2" {
		t.Errorf("%v in\n%s", err, out)
	}
}

// As a process: what is printed, and the exit code.
func TestProcess(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "check", "nosuch")
	cmd.Env = append(os.Environ(), "QIMG_IN_TEST=1")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !bytes.HasPrefix(out, []byte("qimg: Could not open 'nosuch'")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// A disk in an archive is a source like any other.
func TestArchive(t *testing.T) {
	t.Chdir(t.TempDir())
	f, err := os.Create("backup.vma")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := vma.NewWriter(f, &vma.Header{Devices: []vma.DeviceInfo{{Name: "one", Size: 1 << 20}, {Name: "two", Size: 1 << 19}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for dev, size := range map[uint8]int{1: 1 << 20, 2: 1 << 19} {
		if err := w.ReadFrom(t.Context(), dev, bytes.NewReader(bytes.Repeat([]byte{dev}, size)), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]int{
		"convert -O qcow2 vma:two:backup.vma two.qcow2":                               0,
		"convert --image-opts driver=vma,device=one,file.filename=backup.vma one.raw": 0,
		"info vma:one:backup.vma":                                                     0,
		"map --output=json vma:one:backup.vma":                                        0,
		"info backup.vma":                                                             1,
		"convert vma:three:backup.vma x":                                              1,
		"check vma:one:backup.vma":                                                    63,
		"convert -O vma one.raw x.vma":                                                1,
		`convert json:{"driver":"vma","device":"two","file":{"filename":"backup.vma"}} again.qcow2`: 0,
	} {
		if out, code := qimg(t, line); code != want {
			t.Errorf("%s: exit code %d, not %d\n%s", line, code, want, out)
		}
	}
	if out, code := qimg(t, "compare two.qcow2 vma:two:backup.vma"); code != 0 {
		t.Error(out)
	}
	if b, err := os.ReadFile("one.raw"); err != nil || !bytes.Equal(b, bytes.Repeat([]byte{1}, 1<<20)) {
		t.Errorf("one.raw holds something else, %v", err)
	}
}

func TestHuman(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 512: "512 B", 999: "999 B", 1000: "0.977 KiB", 1023: "0.999 KiB", 1 << 20: "1 MiB", 3 << 29: "1.5 GiB", 196 << 10: "196 KiB", 999 << 10: "999 KiB",
		1001 << 10: "0.978 MiB", 1 << 60: "1 EiB", 1234567890: "1.15 GiB",
	} {
		if got := human(n); got != want {
			t.Errorf("%d is %q, not %q", n, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	opts, operands, err := parse([]string{"a", "-fx", "-qp", "--output=json", "b", "--max-l", "5", "-s", "1", "--", "-c"}, "f:qps:l:", "output: max-length:=l")
	if err != nil || strings.Join(operands, " ") != "a b -c" {
		t.Errorf("operands %q, %v", operands, err)
	}
	want := []option{{"f", "x"}, {"q", ""}, {"p", ""}, {"output", "json"}, {"l", "5"}, {"s", "1"}}
	if len(opts) != len(want) {
		t.Fatalf("options %q", opts)
	}
	for i := range want {
		if opts[i] != want[i] {
			t.Errorf("option %d is %q, not %q", i, opts[i], want[i])
		}
	}
	for _, line := range []string{"-x", "-f", "--nosuch", "--max-length", "--quiet=1"} {
		if _, _, err := parse([]string{line}, "f:qps:l:", "quiet=q max-length:=l max-lever"); err == nil {
			t.Errorf("%s is accepted", line)
		}
	}
}
