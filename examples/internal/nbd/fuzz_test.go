package nbd_test

import (
	"bytes"
	"context"
	"io"
	"iter"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/examples/internal/nbd"
)

// clients returns what real clients sent, by the name of the file.
func clients(tb testing.TB) map[string][]byte {
	tb.Helper()
	names, err := filepath.Glob("testdata/*.client")
	if err != nil || len(names) == 0 {
		tb.Fatal("no recordings in testdata", err)
	}
	all := map[string][]byte{}
	for _, name := range names {
		if all[filepath.Base(name)], err = os.ReadFile(name); err != nil {
			tb.Fatal(err)
		}
	}
	return all
}

// A script is a connection whose client sends what is written down, whatever
// it gets, and then leaves.
type script struct {
	net.Conn
	sends   *bytes.Reader
	mu      sync.Mutex // guards what follows
	replies []byte
	closed  bool
}

func (c *script) Read(p []byte) (int, error) { return c.sends.Read(p) }

func (c *script) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	c.replies = append(c.replies, p...)
	return len(p), nil
}

func (c *script) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

func (c *script) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "script"} }

// oneClient is a listener to which one client comes.
type oneClient struct {
	next   chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func listen(c net.Conn) *oneClient {
	l := &oneClient{next: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.next <- c
	return l
}

func (l *oneClient) Accept() (net.Conn, error) {
	select {
	case c := <-l.next:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *oneClient) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *oneClient) Addr() net.Addr { return &net.UnixAddr{Name: "script"} }

const scriptDisk = 1 << 20

// play lets a server answer a script, and returns the replies and the disk.
func play(tb testing.TB, sends []byte) (replies, disk []byte) {
	tb.Helper()
	d := &memDisk{b: bytes.Repeat([]byte{7}, scriptDisk)}
	clear(d.b[chunk : 4*chunk])
	dirty := func(off, n int64) iter.Seq2[int64, int64] {
		return func(yield func(int64, int64) bool) {
			if start, end := max(off, chunk), min(off+n, 2*chunk); start < end {
				yield(start, end-start)
			}
		}
	}
	s := &nbd.Server{Once: true, Exports: []*nbd.Export{
		{Name: "disk", Description: "a disk", Disk: d, Writable: true, AllocationDepth: true, Bitmaps: []nbd.Bitmap{{Name: "b0", Dirty: dirty}}},
		{Name: "other", Disk: d},
	}}
	c := &script{sends: bytes.NewReader(sends)}
	if err := s.Serve(tb.Context(), listen(c)); err != nil {
		tb.Error(err)
	}
	if !c.closed {
		tb.Error("the connection is open")
	}
	return c.replies, d.b
}

// FuzzClient: whatever bytes a client sends, the server does not panic, takes
// no more memory than the protocol lets a client ask for, ends with the
// client, and leaves no goroutine behind.
func FuzzClient(f *testing.F) {
	for _, b := range clients(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, sends []byte) {
		if len(sends) > 16<<10 {
			return
		}
		routines, before := runtime.NumGoroutine(), allocated()
		play(t, sends)
		// A request of 28 bytes may read the disk; a write may claim to be of
		// 32 MiB, once, because then they must follow. An option has at most
		// 64 KiB and a list of replies.
		most := uint64(64<<20) + uint64(len(sends))/28*4*scriptDisk
		if took := allocated() - before; took > most {
			t.Errorf("%d bytes took %d MiB", len(sends), took>>20)
		}
		for end := time.Now().Add(time.Minute); runtime.NumGoroutine() > routines; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), routines)
			}
		}
	})
}

func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// TestRecordedClients: real clients were answered, not refused.
func TestRecordedClients(t *testing.T) {
	for name, b := range clients(t) {
		replies, disk := play(t, b)
		if bytes.Contains(replies, []byte{0x80, 0, 0, 3}) || bytes.Contains(replies, []byte{0x80, 0, 0, 6}) {
			t.Errorf("%s: an option was refused", name)
		}
		// The script waits for no reply, so that what it reads may be older.
		if name == "qemu-io.client" && !bytes.Equal(disk[4096:5120], bytes.Repeat([]byte{3}, 1024)) {
			t.Errorf("%s: what was written is not there", name)
		}
		if len(replies) < 100 {
			t.Errorf("%s: %d bytes of replies", name, len(replies))
		}
	}
}

// TestClientCutShort: a client may leave after any byte.
func TestClientCutShort(t *testing.T) {
	for _, b := range clients(t) {
		for n := range b {
			if n < 60 || n%7 == 0 {
				play(t, b[:n])
			}
		}
	}
}

// A deaf client sends its script and reads nothing.
type deaf struct {
	script
	stop chan struct{}
	once sync.Once
}

// left returns how much is still to be sent.
func (c *deaf) left() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sends.Len()
}

func (c *deaf) Read(p []byte) (int, error) {
	c.mu.Lock()
	n, err := c.sends.Read(p)
	c.mu.Unlock()
	if err != io.EOF {
		return n, err
	}
	<-c.stop
	return 0, net.ErrClosed
}

func (c *deaf) Write(p []byte) (int, error) {
	if c.left() > 0 { // the negotiation
		return len(p), nil
	}
	<-c.stop
	return 0, net.ErrClosed
}

func (c *deaf) Close() error { c.once.Do(func() { close(c.stop) }); return nil }

// TestDeafClient: a client that reads no replies holds up nobody but itself,
// and the end of the server ends it.
func TestDeafClient(t *testing.T) {
	routines := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	d := &memDisk{b: make([]byte, scriptDisk)}
	s := &nbd.Server{Exports: []*nbd.Export{{Name: "disk", Disk: d, Writable: true}}}
	c := &deaf{script: script{sends: bytes.NewReader(clients(t)["nbdcopy.client"])}, stop: make(chan struct{})}
	done := make(chan error)
	go func() { done <- s.Serve(ctx, listen(c)) }()
	for end := time.Now().Add(time.Minute); c.left() > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the server does not end")
	}
	for end := time.Now().Add(time.Minute); runtime.NumGoroutine() > routines; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), routines)
		}
	}
}
