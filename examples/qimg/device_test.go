package main

import (
	"bytes"
	"os"
	"path/filepath"
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
