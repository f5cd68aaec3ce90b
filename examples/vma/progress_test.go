package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestBar(t *testing.T) {
	var out strings.Builder
	b := &bar{w: &out, name: "drive-scsi0-and-more", start: time.Now().Add(-10 * time.Second)}
	b.show(0, 0) // nothing is known yet
	if out.Len() > 0 {
		t.Errorf("drew %q", out.String())
	}
	b.show(50<<20, 200<<20)
	if got := out.String(); !strings.HasPrefix(got, "\rdrive-scsi0-and- [=======                       ]  25%") || !strings.Contains(got, " MiB/s ") {
		t.Errorf("drew %q", got)
	}
	out.Reset()
	b.last = time.Now().Add(time.Hour)
	b.show(100<<20, 200<<20)
	if out.Len() > 0 {
		t.Errorf("drew %q before its time", out.String())
	}
	b.done(false)
	if out.String() != "\n" {
		t.Errorf("ended by %q", out.String())
	}
	out.Reset()
	b.done(true)
	if got := out.String(); !strings.Contains(got, "["+strings.Repeat("=", barWidth)+"] 100%") || !strings.HasSuffix(got, "\n") {
		t.Errorf("ended by %q", got)
	}
}

// A bar is for those who look: not for a file or for another program.
func TestBarOfTerminals(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, c := range map[string]*command{"a file": {stderr: f}, "a buffer": {stderr: new(strings.Builder)}} {
		b := c.bar("x")
		b.show(1, 2)
		b.done(true)
		if b.w != nil {
			t.Errorf("%s has a bar", name)
		}
	}
	device, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if b := (&command{stderr: device}).bar("x"); b.w == nil {
		t.Error("a device has no bar")
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != 0 {
		t.Errorf("the file has %d bytes, %v", fi.Size(), err)
	}
}
