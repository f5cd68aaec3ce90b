package nbd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/virtfmt/virtfmt/examples/internal/nbd"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/difftest"
)

const chunk = 64 << 10

// memDisk is a disk in memory that knows which chunks are zero.
type memDisk struct {
	mu sync.RWMutex
	b  []byte
}

func (d *memDisk) content() []byte {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return bytes.Clone(d.b)
}

func (d *memDisk) Size() int64 { return int64(len(d.b)) }

func (d *memDisk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	n := copy(p, d.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d *memDisk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(d.b[off:], p), nil
}

func (d *memDisk) DiscardAt(off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.b[off : off+n])
	return nil
}

func (d *memDisk) Extents(off, n int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		d.mu.RLock()
		defer d.mu.RUnlock()
		for end := off + n; off < end; {
			next := min(end, off-off%chunk+chunk)
			e := block.Extent{Start: off, Length: next - off, Kind: block.Data, HostOffset: off}
			if len(bytes.Trim(d.b[off:next], "\x00")) == 0 {
				e.Kind, e.HostOffset = block.Unallocated, block.NoOffset
			}
			if !yield(e, nil) {
				return
			}
			off = next
		}
	}
}

// serve serves a disk of random data and holes on a Unix socket, and returns
// the disk and the socket.
func serve(t *testing.T, e *nbd.Export) (*memDisk, string) {
	t.Helper()
	d := &memDisk{b: make([]byte, 3<<20+512)}
	rnd := rand.NewChaCha8([32]byte{1})
	for off := 0; off < len(d.b); off += 2 * chunk {
		rnd.Read(d.b[off:min(off+chunk, len(d.b))])
	}
	e.Disk = d
	sock := filepath.Join(difftest.SocketDir(t), "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &nbd.Server{Exports: []*nbd.Export{e}, MaxClients: 8, Log: func(err error) { t.Error(err) }}
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return d, sock
}

func TestNbdinfo(t *testing.T) {
	tool := difftest.Tool(t, "nbdinfo", "")
	e := &nbd.Export{Name: "disk", Description: "a disk", Writable: true, AllocationDepth: true, Bitmaps: []nbd.Bitmap{{
		Name: "b0",
		Dirty: func(off, n int64) iter.Seq2[int64, int64] {
			return func(yield func(int64, int64) bool) { yield(chunk, 2*chunk) }
		},
	}}}
	d, sock := serve(t, e)
	var info struct {
		Exports []struct {
			Name        string   `json:"export-name"`
			Description string   `json:"description"`
			Size        int64    `json:"export-size"`
			ReadOnly    bool     `json:"is_read_only"`
			Trim        bool     `json:"can_trim"`
			Contexts    []string `json:"contexts"`
		} `json:"exports"`
	}
	uri := "nbd+unix:///disk?socket=" + sock
	if err := json.Unmarshal(difftest.Run(t, tool, "--json", uri), &info); err != nil {
		t.Fatal(err)
	}
	got := info.Exports[0]
	if got.Name != "disk" || got.Description != "a disk" || got.Size != d.Size() || got.ReadOnly || !got.Trim || len(got.Contexts) != 3 {
		t.Errorf("nbdinfo says %+v", got)
	}
	var list struct{ Exports []struct{} }
	if err := json.Unmarshal(difftest.Run(t, tool, "--json", "--list", "nbd+unix:///?socket="+sock), &list); err != nil || len(list.Exports) != 1 {
		t.Errorf("nbdinfo --list: %v, %v", list, err)
	}
	type piece struct {
		Offset, Length int64
		Type           int
	}
	mapOf := func(context string) []piece {
		var m []piece
		if err := json.Unmarshal(difftest.Run(t, tool, "--json", "--map="+context, uri), &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := mapOf("base:allocation")
	for i, p := range m {
		if want := []int{0, 3}[i%2]; p.Type != want || p.Offset != int64(i)*chunk {
			t.Errorf("piece %d of base:allocation is %+v", i, p)
		}
	}
	if len(m) != 49 {
		t.Errorf("%d pieces", len(m))
	}
	if m := mapOf("qemu:dirty-bitmap:b0"); len(m) != 3 || m[1] != (piece{chunk, 2 * chunk, 1}) {
		t.Errorf("dirty bitmap: %+v", m)
	}
	if m := mapOf("qemu:allocation-depth"); m[0].Type != 1 || m[1].Type != 0 {
		t.Errorf("allocation depth: %+v", m[:2])
	}
}

func TestCopyBothWays(t *testing.T) {
	nbdcopy, qemu := difftest.Tool(t, "nbdcopy", ""), difftest.Tool(t, "qemu-img", "7.2")
	d, sock := serve(t, &nbd.Export{Writable: true})
	uri := "nbd+unix:///?socket=" + sock
	for _, c := range [][]string{
		{nbdcopy, "--connections=4", uri},
		{qemu, "convert", "-f", "raw", "-O", "raw", uri},
	} {
		out := filepath.Join(t.TempDir(), "out")
		difftest.Run(t, c[0], append(c[1:], out)...)
		got, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, d.content()) {
			t.Errorf("%s copied other bytes", c[0])
		}
	}
	in := filepath.Join(t.TempDir(), "in")
	want := make([]byte, len(d.b))
	rand.NewChaCha8([32]byte{2}).Read(want[1<<20 : 2<<20])
	if err := os.WriteFile(in, want, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{
		{nbdcopy, "--flush", in, uri},
		{qemu, "convert", "-n", "-f", "raw", "-O", "raw", in, uri},
	} {
		d.mu.Lock()
		rand.NewChaCha8([32]byte{3}).Read(d.b)
		d.mu.Unlock()
		difftest.Run(t, c[0], c[1:]...)
		if !bytes.Equal(d.content(), want) {
			t.Errorf("%s wrote other bytes", c[0])
		}
	}
}

func TestReadOnly(t *testing.T) {
	qemu := difftest.Tool(t, "qemu-io", "7.2")
	d, sock := serve(t, &nbd.Export{})
	before := d.content()
	uri := "nbd+unix:///?socket=" + sock
	if r := difftest.Try(t, qemu, "-f", "raw", "-c", "write 0 64k", uri); r.Code == 0 && !bytes.Contains(r.Stdout, []byte("failed")) {
		t.Errorf("a write to a read-only export: %s%s", r.Stdout, r.Stderr)
	}
	if !bytes.Equal(before, d.content()) {
		t.Error("a read-only disk was written")
	}
}

// TestHostileClients sends what no client would, and finds the server alive.
func TestHostileClients(t *testing.T) {
	d := &memDisk{b: make([]byte, 1<<20)}
	sock := filepath.Join(difftest.SocketDir(t), "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := &nbd.Server{Exports: []*nbd.Export{{Disk: d, Writable: true}}, MaxClients: 4}
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	rnd := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	option := []byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00")
	for range difftest.Scale(t, 300) {
		c, err := net.Dial("unix", sock)
		if err != nil {
			t.Fatal(err)
		}
		msg := bytes.Clone(option)
		for range rnd.IntN(200) {
			msg = append(msg, byte(rnd.Uint32()))
		}
		if rnd.IntN(2) == 0 && len(msg) > 22 {
			copy(msg[20:], []byte{0x25, 0x60, 0x95, 0x13})
		}
		for range rnd.IntN(4) {
			msg[rnd.IntN(len(msg))] = byte(rnd.Uint32())
		}
		c.Write(msg)
		c.Close()
	}
	c, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hello := make([]byte, 18)
	if _, err := io.ReadFull(c, hello); err != nil || string(hello[:8]) != "NBDMAGIC" {
		t.Fatalf("the server is gone: %q, %v", hello, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
