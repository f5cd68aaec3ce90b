package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// timing is what differs from run to run.
var timing = regexp.MustCompile(`ops; .*|,1,[0-9:.]+,[0-9.]+,[0-9.]+`)

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
		{"-s", name}, {"-C", name}, {"-i", "bogus", name}, {name, name}, {"--bogus"},
		{"-c", "read 0 1"},
	} {
		if out, code := qio("", args...); code != 1 || out != "" {
			t.Errorf("%q: exit code %d, printed %q", args, code, out)
		}
	}
}

// scripts are command lines of which the outputs are compared.
var scripts = [][]string{
	{"write -P 0x5a 0 64k", "read -P 0x5a 0 64k", "read -P 1 0 64k", "read -v 0 33", "read -C 0 512", "read -q 0 64k"},
	{"write -P 1 0 128k", "write -z 0 64k", "write -c 64k 64k", "discard 0 64k", "writev -P 3 0 512 1k", "readv -P 4 0 512 512", "alloc 0 1M", "map", "length", "info"},
	{"aio_write -P 9 0 64k", "aio_flush", "aio_read -P 9 0 64k", "aio_flush", "aio_write -z 0 4k", "aio_flush", "aio_read -v 0 40"},
	{"truncate 2M", "length", "read 2M 1", "write 1536k 512", "map", "truncate 1M", "length", "map"},
	{"read 0", "read 0 x", "foo", "write -P 999 0 1", "write 0 0", "write 1M 2M", "alloc 0", "alloc 64k 100", "alloc 3M 1", "sleep x", "sleep 1", "quit", "length"},
	{"write -P 3 -z 0 1", "write -z -c 0 1", "write -u 0 1", "write -b 0 1", "write -b -z 0 1", "write -f -c 0 1", "write -C 1 511", "read -P 3 -s 1 -l 3 0 5", "read -s 1 -l 9 -P 1 0 5"},
	{"write -z -n 0 1k", "write -z -n 0 64k", "write -f 0 1k", "write -z -u 64k 64k", "write -c 512 512", "discard 5M 1k", "discard -C 0 1k", "discard -q 0 1", "read 0x10 0x20", "read 1.5k 1"},
	{"write -b -P 7 0 64k", "read -b -P 7 0 64k", "map"},
	{"rv 0 1", "wv 0 1", "r 0 1", "w 0 1", "write -s /nonexistent 0 1", "write -s /dev/null 0 512", "write -s /dev/zero 0 1k"},
	{"aio_write 0 3M", "aio_flush", "aio_read 2M 1", "aio_flush"},
	{"aio_read -P 9 0 512", "aio_flush"},
	{"reopen -r -w", "read 0 1"},
	{"close", "length", "map", "help nothing", " ", ""},
	{"reopen -r", "write 0 512", "read -P 0 0 512", "reopen -w", "write -P 1 0 512", "read -P 1 0 512"},
}

func TestScriptsBesideQemuIO(t *testing.T) {
	qemu := difftest.Tool(t, "qemu-io", "7.2")
	img := difftest.Tool(t, "qemu-img", "7.2")
	all := scripts
	r := rand.New(rand.NewPCG(difftest.Seed(t, 1), 1))
	for range difftest.Scale(t, 10) {
		all = append(all, random(r))
	}
	for _, options := range []string{"-f qcow2", "-f qcow2 -o compat=0.10", "-f qcow2 -o extended_l2=on", "-f raw"} {
		for _, script := range all {
			if strings.Contains(options, "raw") && strings.Contains(strings.Join(script, "\n"), "write") {
				continue
			}
			compare(t, qemu, img, options, script)
		}
	}
}

// random returns a random script.
func random(r *rand.Rand) []string {
	var script []string
	for range 30 {
		off := r.IntN(1 << 11)
		n := r.IntN(1<<11 - off + 1)
		verb := []string{"write -P 0x%[3]x %[1]d %[2]d", "write -z %[1]d %[2]d", "discard %[1]d %[2]d", "read -v %[1]d 512", "alloc %[1]d %[2]d", "read -P 0x%[3]x %[1]d %[2]d"}[r.IntN(6)]
		script = append(script, fmt.Sprintf(verb, off*512, n*512, r.IntN(256)))
		if strings.Contains(verb, "512") {
			script[len(script)-1] = fmt.Sprintf("read -v %d 512", min(off, 1<<11-1)*512)
		}
	}
	return script
}

// compare runs a script by both programs and compares what they did.
func compare(t *testing.T, qemu, img, options string, script []string) {
	t.Helper()
	dir := t.TempDir()
	var names [2]string
	for i := range names {
		names[i] = filepath.Join(dir, fmt.Sprint("disk", i))
		if out, err := exec.Command(img, append(append([]string{"create", "-q"}, strings.Fields(options)...), names[i], "1M")...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	format := strings.Fields(options)[1]
	args := []string{"-f", format}
	for _, c := range script {
		args = append(args, "-c", c)
	}
	cmd := exec.Command(qemu, append(args, names[0])...)
	out, _ := cmd.Output()
	want, wantCode := timing.ReplaceAllString(string(out), "TIMING"), cmd.ProcessState.ExitCode()
	got, code := qio("", append(args, names[1])...)
	// The texts of help are this program's own.
	synopsis := regexp.MustCompile(`(?m)^.* -- .*\n`)
	if got, want = synopsis.ReplaceAllString(got, ""), synopsis.ReplaceAllString(want, ""); got != want || code != wantCode {
		t.Errorf("%s %q:\nexit code %d, printed\n%s\nqemu-io: %d,\n%s", options, script, code, got, wantCode, want)
	}
	if out, err := exec.Command(img, "compare", "-f", format, "-F", format, names[0], names[1]).CombinedOutput(); err != nil {
		t.Errorf("%s %q: %s", options, script, out)
	}
	if format != "raw" {
		if out, err := exec.Command(img, "check", names[1]).CombinedOutput(); err != nil {
			t.Errorf("%s %q: %s", options, script, out)
		}
	}
}
