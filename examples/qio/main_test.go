package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/qcow2"
)

// timing is what differs from run to run.
var timing = regexp.MustCompile(`ops; .*|,1,[0-9:.]+,[0-9.]+,[0-9.]+`)

// asProgram is set in the environment of a process that is to be the program.
const asProgram = "QIO_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// self returns a command that runs the program in a process of its own.
func self(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	return cmd
}

// qio runs the program and returns what it prints, and its exit code.
func qio(stdin string, args ...string) (string, int) {
	var stdout, stderr bytes.Buffer
	code := run(args, strings.NewReader(stdin), &stdout, &stderr)
	return timing.ReplaceAllString(stdout.String(), "TIMING"), code
}

// create makes an image of 1 MiB.
func create(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.qcow2")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	im, err := qcow2.Create(f, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(im.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCommands(t *testing.T) {
	name := create(t)
	got, code := qio("write -P 0x41 64k 1k\nread -v 64k 17\nread -P 7 64k 512\nmap\nq\nlength\n", name)
	want := `qemu-io> wrote 1024/1024 bytes at offset 65536
1 KiB, 1 TIMING
qemu-io> 00010000:  41 41 41 41 41 41 41 41 41 41 41 41 41 41 41 41  AAAAAAAAAAAAAAAA
00010010:  41  A
read 17/17 bytes at offset 65536
17 bytes, 1 TIMING
qemu-io> Pattern verification failed at offset 65536, 512 bytes
read 512/512 bytes at offset 65536
512 bytes, 1 TIMING
qemu-io> 64 KiB (0x10000) bytes not allocated at offset 0 bytes (0x0)
64 KiB (0x10000) bytes     allocated at offset 64 KiB (0x10000)
896 KiB (0xe0000) bytes not allocated at offset 128 KiB (0x20000)
qemu-io> `
	if got != want || code != 1 {
		t.Errorf("exit code %d, printed\n%s\nwant 1 and\n%s", code, got, want)
	}
}

func TestRefused(t *testing.T) {
	name := create(t)
	for _, args := range [][]string{
		{"-c", "read 0 1", filepath.Join(t.TempDir(), "none")},
		{"-r", "-c", "write 0 512", name},
		{"-C", "-r", name}, {"-U", name}, {"-k", name}, {"-T", "x", name}, {"-i", "bogus", name}, {"-t", "bogus", name}, {"-d", "bogus", name}, {name, name}, {"--bogus"},
		{"-c", "read 0 1"},
	} {
		if out, code := qio("", args...); code != 1 || out != "" {
			t.Errorf("%q: exit code %d, printed %q", args, code, out)
		}
	}
}
