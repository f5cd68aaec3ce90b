package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
)

// TestLzop reads archives that lzop compressed, by one run of lzop each.
func TestLzop(t *testing.T) {
	lzop := difftest.Tool(t, "lzop", "1.04")
	dir := testArchive(t)
	at := func(s string) string { return filepath.Join(dir, s) }
	plain, err := os.ReadFile(at("a.vma"))
	if err != nil {
		t.Fatal(err)
	}
	lzo := difftest.TryIn(t, plain, lzop, "-c").Stdout
	if err := os.WriteFile(at("a.lzo"), lzo, 0o600); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" { // has no scripts
		script := fmt.Sprintf("#!/bin/sh\necho run >>'%s'\nexec '%s' \"$@\"\n", at("log"), lzop)
		if err := os.WriteFile(at("lzop"), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
		must(t, "verify", at("a.lzo"))
		if log, err := os.ReadFile(at("log")); err != nil || string(log) != "run\n" {
			t.Errorf("a file: lzop was run as %q, %v", log, err)
		}
	}
	if r := do(t, lzo, "verify", "-"); r.code != 0 {
		t.Errorf("%+v", r)
	}
	if r := do(t, lzo[:len(lzo)/2], "verify", "-"); r.code != exitError || !strings.Contains(r.stderr, "lzop: exit status") {
		t.Errorf("cut in half: %+v", r)
	}
	// The header is enough, of a pipe that nobody closes too.
	pr, pw := io.Pipe()
	defer pw.Close()
	go pw.Write(lzo)
	var stdout, stderr bytes.Buffer
	c := &command{t.Context(), pr, &stdout, &stderr}
	code := 0
	difftest.Watchdog(t, func() { code = c.main([]string{"list", "-"}) })
	if code != 0 || !strings.HasPrefix(stdout.String(), "CFG: size: 35") {
		t.Errorf("exit %d, %s, %s", code, &stdout, &stderr)
	}
}

// TestZstdLong reads what zstd writes with the largest window that it takes
// without being told.
func TestZstdLong(t *testing.T) {
	zstd := difftest.Tool(t, "zstd", "1.4")
	plain, err := os.ReadFile(filepath.Join(testArchive(t), "a.vma"))
	if err != nil {
		t.Fatal(err)
	}
	long := difftest.TryIn(t, plain, zstd, "-1", "--long=27", "-q", "-c").Stdout
	if r := do(t, long, "verify", "-"); r.code != 0 {
		t.Errorf("%+v", r)
	}
}

// TestSalvageCompressed reads what there is of a compressed archive that is cut.
func TestSalvageCompressed(t *testing.T) {
	dir := testArchive(t)
	at := func(s string) string { return filepath.Join(dir, s) }
	plain, err := os.ReadFile(at("a.vma"))
	if err != nil {
		t.Fatal(err)
	}
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	z.Write(plain)
	z.Close()
	cut := gz.Bytes()[:gz.Len()/2]
	const missing, ended = "missing clusters: device 2 clusters 0 to 8\n", "vma: ERROR: read at 0x"
	for _, args := range [][]string{{"verify", "-"}, {"extract", "-", at("extract")}, {"convert", "-", at("convert")}} {
		if r := do(t, cut, args...); r.code != exitError || !strings.HasPrefix(r.stderr, ended) {
			t.Errorf("%q: %+v", args, r)
		}
		os.RemoveAll(at(args[0]))
		if r := do(t, cut, append(args, "-S")...); r.code != exitError || !strings.Contains(r.stderr, missing) || !strings.Contains(r.stderr, ended) {
			t.Errorf("%q -S: %+v", args, r)
		}
	}
	got, err := os.ReadFile(filepath.Join(at("extract"), "tmp-disk-drive-scsi0.raw"))
	want := disks()[0]
	if err != nil || len(got) != len(want) || !bytes.Equal(got[:len(got)/4], want[:len(got)/4]) || bytes.Equal(got, want) {
		t.Errorf("%d bytes are salvaged of %d, %v", len(got), len(want), err)
	}
}
