package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// A buffer collects what is printed.
type buffer struct {
	sync.Mutex
	b bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.Lock()
	defer b.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.Lock()
	defer b.Unlock()
	return b.b.String()
}

// start serves with the arguments until stop is called, which returns the exit
// code, and returns the URI for clients.
func start(t *testing.T, args ...string) (uri string, stop func() int) {
	t.Helper()
	dir := difftest.SocketDir(t)
	socket, ready := filepath.Join(dir, "s"), filepath.Join(dir, "pid")
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	var errs buffer
	go func() {
		code <- run(ctx, append([]string{"-t", "-k", socket, "--pid-file", ready}, args...), io.Discard, &errs)
	}()
	for range 30000 {
		if _, err := os.Stat(ready); err == nil {
			break
		}
		select {
		case c := <-code:
			t.Fatalf("exit %d: %s", c, &errs)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return "nbd+unix:///?socket=" + socket, func() int {
		t.Helper()
		cancel()
		c := <-code
		if errs.String() != "" {
			t.Log(&errs)
		}
		return c
	}
}

// image makes a qcow2 image of 4 MiB with a snapshot and a bitmap, and returns
// what it holds now and in the snapshot.
func image(t *testing.T, name string) (now, then []byte) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	im, err := qcow2.Create(f, 4<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	now = make([]byte, 4<<20)
	r := rand.NewChaCha8([32]byte{1})
	put := func(off, n int) {
		r.Read(now[off : off+n])
		if _, err := im.WriteAt(now[off:off+n], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	put(100000, 300000)
	then = bytes.Clone(now)
	if _, err := im.CreateSnapshot(t.Context(), "first", nil); err != nil {
		t.Fatal(err)
	}
	if err := im.AddBitmap("since", &qcow2.BitmapOptions{Granularity: 65536}); err != nil {
		t.Fatal(err)
	}
	put(1<<20, 65536)
	put(3<<20, 1000)
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	return now, then
}

// Without any client: the server greets, and ends when it is told to.
func TestSmoke(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.qcow2")
	image(t, name)
	uri, stop := start(t, name)
	conn, err := net.Dial("unix", strings.TrimPrefix(uri, "nbd+unix:///?socket="))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	hello := make([]byte, 8)
	if _, err := io.ReadFull(conn, hello); err != nil || string(hello) != "NBDMAGIC" {
		t.Errorf("%q, %v", hello, err)
	}
	if code := stop(); code != 0 {
		t.Errorf("exit %d", code)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--help"}, 0, "usage: qnbd"},
		{[]string{"--version"}, 0, "7.2"},
		{nil, 1, "Invalid number of arguments"},
		{[]string{"--nosuch", name}, 1, "unrecognized option"},
		{[]string{name + "x"}, 1, "Could not open"},
		{[]string{"-f", "qed", name}, 1, "Could not open"},
		{[]string{"-l", "nosuch", name}, 1, "Can't find snapshot"},
		{[]string{"-B", "nosuch", name}, 1, "is not found"},
		{[]string{"-r", "-B", "since", name}, 1, "incompatible with readonly export"},
		{[]string{"-e", "-1", name}, 1, "must be a number"},
		{[]string{"--cache", "x", name}, 1, "Invalid cache mode"},
		{[]string{"-b", "256.0.0.1", name}, 1, "listen"},
	} {
		var out bytes.Buffer
		if code := run(t.Context(), c.args, &out, &out); code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("%q: exit %d, %s", c.args, code, &out)
		}
	}
}

// TestRead copies the disk, a snapshot and a raw file out, by two clients.
func TestRead(t *testing.T) {
	nbdcopy, img := difftest.Tool(t, "nbdcopy", "1.14"), difftest.Tool(t, "qemu-img", "7.2")
	t.Chdir(t.TempDir())
	now, then := image(t, "x.qcow2")
	raw := append(bytes.Clone(now), 1, 2, 3)
	raw = append(raw, make([]byte, 509)...)
	if err := os.WriteFile("x.raw", raw, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want []byte
	}{
		{[]string{"x.qcow2"}, now},
		{[]string{"-r", "-e", "0", "-f", "qcow2", "x.qcow2"}, now},
		{[]string{"-l", "first", "x.qcow2"}, then},
		{[]string{"-l", "snapshot.id=1", "-e", "9", "x.qcow2"}, then},
		{[]string{"-f", "raw", "x.raw"}, raw},
		{[]string{"--image-opts", "driver=qcow2,file.filename=x.qcow2"}, now},
	} {
		uri, stop := start(t, append([]string{"-e", "4"}, c.args...)...)
		difftest.Run(t, nbdcopy, uri, "a.raw")
		difftest.Run(t, img, "convert", "-f", "raw", "-O", "raw", uri, "b.raw")
		if code := stop(); code != 0 {
			t.Errorf("%q: exit %d", c.args, code)
		}
		for _, name := range []string{"a.raw", "b.raw"} {
			if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, c.want) {
				t.Errorf("%q: %s differs, %v", c.args, name, err)
			}
		}
	}
}

// TestStatus asks which parts hold data, and which are dirty.
func TestStatus(t *testing.T) {
	info := difftest.Tool(t, "nbdinfo", "1.14")
	t.Chdir(t.TempDir())
	image(t, "x.qcow2")
	uri, stop := start(t, "-B", "since", "-D", "a disk", "x.qcow2")
	defer stop()
	type extent struct{ Offset, Length, Type int64 }
	ask := func(context string) (list []extent) {
		t.Helper()
		out := difftest.Run(t, info, "--json", "--map="+context, uri)
		if err := json.Unmarshal(out, &list); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return list
	}
	dirty := map[int64]int64{}
	for _, e := range ask("qemu:dirty-bitmap:since") {
		if e.Type&1 != 0 {
			dirty[e.Offset] = e.Length
		}
	}
	if len(dirty) != 2 || dirty[1<<20] != 65536 || dirty[3<<20] != 65536 {
		t.Errorf("dirty: %v", dirty)
	}
	want := []extent{{0, 65536, 3}, {65536, 393216, 0}, {458752, 589824, 3}, {1 << 20, 65536, 0},
		{1114112, 2031616, 3}, {3 << 20, 65536, 0}, {3211264, 983040, 3}}
	if list := ask("base:allocation"); !slices.Equal(list, want) {
		t.Errorf("allocation: %v", list)
	}
	if out := difftest.Run(t, info, "--json", uri); !bytes.Contains(out, []byte("a disk")) {
		t.Errorf("%s", out)
	}
}

// TestWrite copies a disk in, and writes by qemu-io.
func TestWrite(t *testing.T) {
	nbdcopy, img, qio := difftest.Tool(t, "nbdcopy", "1.14"), difftest.Tool(t, "qemu-img", "7.2"), difftest.Tool(t, "qemu-io", "7.2")
	t.Chdir(t.TempDir())
	want, _ := image(t, "from.qcow2")
	if err := os.WriteFile("from.raw", want, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"qcow2", "qed", "raw"} {
		difftest.Run(t, img, "create", "-q", "-f", format, "to", "4M")
		uri, stop := start(t, "-e", "4", "-f", format, "--discard=unmap", "to")
		difftest.Run(t, nbdcopy, "from.raw", uri)
		difftest.Run(t, qio, "-f", "raw", "-c", "write -P 7 70000 70000", "-c", "write -z 1M 1M", "-c", "discard 3M 64k", "-c", "flush", uri)
		if code := stop(); code != 0 {
			t.Errorf("exit %d", code)
		}
		now := bytes.Clone(want)
		copy(now[70000:], bytes.Repeat([]byte{7}, 70000))
		clear(now[1<<20 : 2<<20])
		difftest.Run(t, img, "convert", "-f", format, "-O", "raw", "to", "back.raw")
		got, err := os.ReadFile("back.raw")
		if err != nil {
			t.Fatal(err)
		}
		clear(now[3<<20 : 3<<20+65536]) // may be either after a discard
		clear(got[3<<20 : 3<<20+65536])
		if !bytes.Equal(got, now) {
			t.Errorf("%s differs", format)
		}
		if format != "raw" {
			difftest.Run(t, img, "check", "-q", "-f", format, "to")
		}
	}
}
