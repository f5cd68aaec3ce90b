package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is left out between writes must not show what the device held before.
func TestDevice(t *testing.T) {
	name := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(name, bytes.Repeat([]byte{0xff}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := &device{File: f}
	if _, err := d.WriteAt([]byte{1}, 1000); err != nil {
		t.Fatal(err)
	}
	if err := d.Truncate(2000); err != nil {
		t.Fatal(err)
	}
	if err := d.Truncate(1<<20 + 1); err == nil {
		t.Error("it became longer than it is")
	}
	want := make([]byte, 2000)
	want[1000] = 1
	got, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(got[:2000], want) || got[2000] != 0xff || len(got) != 1<<20 {
		t.Errorf("%v: it holds something else", err)
	}
	if n, err := d.ReadAt(make([]byte, 10), 1995); n != 5 || err == nil {
		t.Errorf("at the end %d bytes are read, %v", n, err)
	}
}

// A device that holds nothing is no place for an image, and the error says so.
func TestNullDevice(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("disk.raw", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"convert -O qcow2 disk.raw /dev/null", "convert -c -O qcow2 disk.raw /dev/null", "convert -O qed disk.raw /dev/null",
		"convert -O qcow2 -o preallocation=full disk.raw /dev/null", "create -f qcow2 /dev/null 1M", "create -f qed /dev/null 1M",
	} {
		var out, errs bytes.Buffer
		c := &command{ctx: t.Context(), stdout: &out, stderr: &errs}
		if code := c.main(words(line)); code != 1 || !strings.Contains(errs.String(), "'/dev/null' is a device that holds nothing") {
			t.Errorf("%s: exit code %d, %s", line, code, &errs)
		}
	}
	if fi, err := os.Stat("/dev/null"); err != nil || fi.Mode()&os.ModeDevice == 0 {
		t.Fatal("/dev/null is gone")
	}
}
