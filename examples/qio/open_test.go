package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// overlay makes an image of 1 MiB over a raw one that holds 'b' all over.
func overlay(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "base"), bytes.Repeat([]byte{'b'}, 1<<20), 0o666); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "disk.qcow2")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	im, err := qcow2.Create(f, 1<<20, &qcow2.CreateOptions{BackingFile: "base", BackingFormat: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(im.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}

// holds runs commands and holds that they print want, and exit with code.
func holds(t *testing.T, want string, code int, args ...string) {
	t.Helper()
	got, gotCode := qio("", args...)
	if got != want || gotCode != code {
		t.Errorf("%q: exit code %d, printed\n%s\nwant %d,\n%s", args, gotCode, got, code, want)
	}
}

func TestTemporary(t *testing.T) {
	name := overlay(t)
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	holds(t, "3 MiB\n", 0, "-s", "-c", "write -q -P 1 0 100k", "-c", "discard -q 0 64k", "-c", "write -q -b 0 512", "-c", "reopen", "-c", "read -q -P 1 64k 36k",
		"-c", "reopen -r", "-c", "read -q -P 98 100k 900k", "-c", "reopen -w", "-c", "truncate 3M", "-c", "length", name)
	holds(t, "1 MiB\n", 1, "-s", "-r", "-c", "write -q 0 1", "-c", "length", name)
	holds(t, "", 0, "-c", "open -s "+name, "-c", "write -q 0 1", "-c", "close", "-c", "open "+name, "-c", "read -q -P 98 0 1M")
	after, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the image has changed (%v)", err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestCopyOnRead(t *testing.T) {
	name := overlay(t)
	holds(t, "65536/1048576 bytes allocated at offset 0 bytes\n", 0, "-C", "-c", "read -q -P 98 100k 1k", "-c", "alloc 0 1M", name)
	if err := os.WriteFile(filepath.Join(filepath.Dir(name), "base"), make([]byte, 1<<20), 0o666); err != nil {
		t.Fatal(err)
	}
	holds(t, "", 0, "-c", "read -q -P 98 64k 64k", "-c", "read -q -P 0 0 64k", "-c", "read -q -P 0 128k 896k", name)
}

// What a command wrote is in the image when it ends, unless the cache mode says
// otherwise.
func TestWriteThrough(t *testing.T) {
	for mode, there := range map[string]bool{"writethrough": true, "directsync": true, "writeback": false} {
		name := create(t)
		for _, c := range []string{"write -P 1 0 64k", "writev -P 1 0 512", "aio_write -P 1 0 64k"} {
			if out, err := self("-t", mode, "-c", c, "-c", "abort", name).Output(); err == nil || len(out) == 0 {
				t.Errorf("%s, %s: %v, %s", mode, c, err, out)
			}
		}
		_, code := qio("", "-r", "-c", "read -P 1 0 512", name)
		if (code == 0) != there {
			t.Errorf("%s: reading after an abort exits with %d", mode, code)
		}
	}
}

func TestReopen(t *testing.T) {
	name := create(t)
	for _, c := range []string{
		"reopen -o foo=bar", "reopen -o driver=raw", "reopen -o file.filename=x", "reopen -o lazy-refcounts=x", "reopen -o l2-cache-size=x", "reopen -o overlap-check=x",
		"reopen -o discard=x", "reopen -o detect-zeroes=x", "reopen -o detect-zeroes=unmap,discard=off", "reopen -o force-share=on", "reopen -o backing=x", "reopen -c x",
		"reopen -r -w", "reopen -r -r", "reopen -r -o read-only=on", "reopen -c none -o cache.direct=on", "reopen -o read-only=on",
	} { // the image stays open as it was
		holds(t, "1 MiB\n", 1, "-c", c, "-c", "write -q 0 512", "-c", "length", name)
	}
	holds(t, "", 0, "-c", "reopen -r", "-c", "read -q 0 1", "-c", "reopen -w -c unsafe", "-c", "write -q 0 1", "-c", "reopen -o lazy-refcounts=on,l2-cache-size=1M", "-c", "write -q 0 1", name)
}

func TestSignals(t *testing.T) {
	name := create(t)
	for number, code := range map[string]int{"6": 134, "9": -1, "15": -1, "3": 131, "40": 168} {
		cmd := self("-c", "length", "-c", "sigraise "+number, "-c", "length", name)
		out, _ := cmd.Output()
		if string(out) != "1 MiB\n" || cmd.ProcessState.ExitCode() != code {
			t.Errorf("signal %s: exit code %d, printed %s", number, cmd.ProcessState.ExitCode(), out)
		}
	}
	holds(t, "1 MiB\n", 0, "-c", "sigraise 0", "-c", "sigraise 13", "-c", "sigraise 17", "-c", "length", name)
}

// What is dumped is not held in memory, nor are requests.
func TestLargeDump(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 256<<20); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n := difftest.Scale(t, 48<<20)
	var stderr bytes.Buffer
	code := run([]string{"-f", "raw", "-c", fmt.Sprintf("read -v 1 %d", n), "-c", "write -z 0 256M", name}, nil, io.Discard, &stderr)
	runtime.ReadMemStats(&after)
	if taken := after.Sys - min(before.Sys, after.Sys); code != 0 || taken > 128<<20 {
		t.Errorf("exit code %d, %d bytes of memory, %s", code, taken, stderr.String())
	}
}

// The program reads no more of standard input than a line of bounded length.
func TestEndlessInput(t *testing.T) {
	var stdout, stderr bytes.Buffer
	endless := &zeros{}
	if code := run([]string{create(t)}, endless, &stdout, &stderr); code != 1 || !strings.Contains(stderr.String(), "too long") {
		t.Errorf("exit code %d, %s", code, stderr.String())
	}
	if endless.n > 4*maxLine {
		t.Errorf("%d bytes were read", endless.n)
	}
}

// zeros has no end.
type zeros struct{ n int }

func (z *zeros) Read(p []byte) (int, error) {
	z.n += len(p)
	return len(p), nil
}
