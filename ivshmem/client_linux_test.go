package ivshmem_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/ivshmem"
)

// dial connects a client that is closed when the test ends.
func dial(t *testing.T, path string, o *ivshmem.ClientOptions) *ivshmem.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := ivshmem.Dial(ctx, path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// next returns the next event.
func next(t *testing.T, c *ivshmem.Client) ivshmem.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, err := c.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// expectEvents compares the next events, as they tell themselves.
func expectEvents(t *testing.T, c *ivshmem.Client, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := next(t, c).String(); got != w {
			t.Fatalf("event %q, want %q", got, w)
		}
	}
}

func TestClientsShare(t *testing.T) {
	_, path := startServer(t, &ivshmem.ServerOptions{Vectors: 2, Size: 1 << 16})
	a := dial(t, path, nil)
	expectEvents(t, a, "peer 0: vector 0 connected", "peer 0: vector 1 connected")
	b := dial(t, path, &ivshmem.ClientOptions{Vectors: 1, PeerVectors: 1})
	expectEvents(t, b, "peer 0: vector 0 connected", "peer 1: vector 0 connected")
	expectEvents(t, a, "peer 1: vector 0 connected", "peer 1: vector 1 connected")
	if a.ID() != 0 || b.ID() != 1 || a.Size() != 1<<16 || a.Vectors() != 2 || b.Vectors() != 1 || !a.Sealed() {
		t.Errorf("IDs %d %d, size %d, vectors %d %d, sealed %v", a.ID(), b.ID(), a.Size(), a.Vectors(), b.Vectors(), a.Sealed())
	}
	if diff := cmp.Diff([]ivshmem.PeerInfo{{ID: 0, Vectors: 2}, {ID: 1, Vectors: 2}}, a.Peers()); diff != "" {
		t.Errorf("a's peers (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]ivshmem.PeerInfo{{ID: 0, Vectors: 1}, {ID: 1, Vectors: 1}}, b.Peers()); diff != "" {
		t.Errorf("b's peers (-want +got)\n%s", diff)
	}

	ma, err := a.Map()
	if err != nil {
		t.Fatal(err)
	}
	mb, err := b.Map()
	if err != nil {
		t.Fatal(err)
	}
	copy(ma[100:], "hello")
	if string(mb[100:105]) != "hello" {
		t.Errorf("b sees %q", mb[100:105])
	}
	again, err := a.Map()
	if err != nil || &again[0] != &ma[0] {
		t.Errorf("mapped twice, %v", err)
	}

	for _, c := range []struct {
		peer, vector uint16
		want         error
	}{{0, 0, nil}, {0, 1, ivshmem.ErrNoVector}, {2, 0, ivshmem.ErrNoPeer}, {65535, 65535, ivshmem.ErrNoPeer}} {
		if err := b.Ring(c.peer, c.vector); !errors.Is(err, c.want) {
			t.Errorf("b rings %d:%d: %v, want %v", c.peer, c.vector, err, c.want)
		}
	}
	expectEvents(t, a, "vector 0 interrupted, 1 times")
	for range 3 {
		if err := a.Ring(1, 0); err != nil {
			t.Error(err)
		}
	}
	if err := a.Ring(1, 1); err != nil { // b has closed it
		t.Error(err)
	}
	expectEvents(t, b, "vector 0 interrupted, 3 times")
	if err := a.Ring(0, 1); err != nil {
		t.Error(err)
	}
	expectEvents(t, a, "vector 1 interrupted, 1 times")

	b.Close()
	expectEvents(t, a, "peer 1: disconnected")
	if err := a.Ring(1, 0); !errors.Is(err, ivshmem.ErrNoPeer) {
		t.Errorf("ringing a peer that is gone: %v", err)
	}
	if _, err := b.Next(t.Context()); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Next after Close: %v", err)
	}
	if err := b.Ring(0, 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Ring after Close: %v", err)
	}
	if _, err := b.Map(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Map after Close: %v", err)
	}
}

// TestClientOutlivesServer goes on ringing and sharing. (Spec: The ivshmem
// server.)
func TestClientOutlivesServer(t *testing.T) {
	s, path := startServer(t, nil)
	a := dial(t, path, nil)
	expectEvents(t, a, "peer 0: vector 0 connected")
	b := dial(t, path, nil)
	expectEvents(t, b, "peer 0: vector 0 connected", "peer 1: vector 0 connected")
	expectEvents(t, a, "peer 1: vector 0 connected")
	s.Close()
	// Whom the server disconnects first the others are still told of, or not.
	for _, c := range []*ivshmem.Client{a, b} {
		for {
			if e := next(t, c); e.Kind == ivshmem.ServerLost {
				if e.Err != nil {
					t.Errorf("server lost: %v", e.Err)
				}
				break
			}
		}
	}
	if err := a.Ring(0, 0); err != nil {
		t.Fatal(err)
	}
	expectEvents(t, a, "vector 0 interrupted, 1 times")
	if len(a.Peers()) == 2 {
		if err := a.Ring(1, 0); err != nil {
			t.Fatal(err)
		}
		expectEvents(t, b, "vector 0 interrupted, 1 times")
	}
}

func TestClientNextEnds(t *testing.T) {
	_, path := startServer(t, &ivshmem.ServerOptions{Vectors: -1})
	c := dial(t, path, nil)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if _, err := c.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Next: %v", err)
		}
		cancel()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next: %v", err)
	}
	d := dial(t, path, nil)
	d.Close()
	done := make(chan error)
	go func() {
		_, err := c.Next(context.Background())
		done <- err
	}()
	time.Sleep(time.Millisecond)
	c.Close()
	if err := <-done; !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Next during Close: %v", err)
	}
}

// TestRingDoesNotWait rings a peer that does not take interrupts in and, as QEMU
// does, has made its vectors block.
func TestRingDoesNotWait(t *testing.T) {
	_, path := startServer(t, nil)
	peer := dialRaw(t, path)
	peer.expect("0 0 -1+fd 0+fd")
	vector := peer.fds[1]
	if err := syscall.SetNonblock(vector, false); err != nil {
		t.Fatal(err)
	}
	const top = 1<<64 - 2 // the highest count there is
	if _, err := syscall.Write(vector, binary.NativeEndian.AppendUint64(nil, top)); err != nil {
		t.Fatal(err)
	}
	c := dial(t, path, nil)
	expectEvents(t, c, "peer 0: vector 0 connected", "peer 1: vector 0 connected")
	done := make(chan error)
	go func() { done <- c.Ring(0, 0) }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Ring: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Ring waits")
	}
}

// A fakeServer says what a test makes it say to one client.
type fakeServer struct {
	t      *testing.T
	conn   *net.UnixConn
	memory *os.File
}

// startFake returns the path at which script talks to one client.
func startFake(t *testing.T, size int64, script func(*fakeServer)) string {
	t.Helper()
	path := filepath.Join(difftest.SocketDir(t), "fake")
	l, err := ivshmem.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.CreateTemp(t.TempDir(), "shm")
	if err == nil {
		err = memory.Truncate(size)
	}
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer l.Close()
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		f := &fakeServer{t, conn, memory}
		script(f)
		conn.Read(make([]byte, 1)) // until the client leaves
		conn.Close()
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		memory.Close()
	})
	return path
}

// tx sends a number and descriptors.
func (f *fakeServer) tx(num int64, fds ...int) {
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	f.conn.WriteMsgUnix(binary.LittleEndian.AppendUint64(nil, uint64(num)), rights, nil)
}

// setup sends what a good server does: version, ID, memory, n vectors.
func (f *fakeServer) setup(id int64, n int) {
	f.tx(0)
	f.tx(id)
	f.tx(-1, f.shm())
	f.vectors(id, n)
}

func (f *fakeServer) shm() int { return int(f.memory.Fd()) }

// vectors sends n new vectors of a peer.
func (f *fakeServer) vectors(id int64, n int) {
	for range n {
		fd := f.eventfd()
		f.tx(id, fd)
		syscall.Close(fd)
	}
}

func (f *fakeServer) eventfd() int {
	fd, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC, 0)
	if errno != 0 {
		f.t.Error(errno)
	}
	return int(fd)
}

// violations are the cases of testdata/violations.json, and what the client
// says where QEMU dies, refuses or goes on.
var violations = map[string]struct {
	size   int64
	script func(*fakeServer)
	dial   string // in Dial's error; empty: it succeeds
	lost   string // in ServerLost's error; empty: the server is not lost
}{
	"ok":               {script: func(f *fakeServer) { f.setup(0, 2) }},
	"version1":         {script: func(f *fakeServer) { f.tx(1) }, dial: "version at 0x0: version 1, want 0"},
	"version-neg":      {script: func(f *fakeServer) { f.tx(-1) }, dial: "version at 0x0: the server refuses"},
	"id-65535":         {script: func(f *fakeServer) { f.setup(65535, 2) }},
	"id-65536":         {script: func(f *fakeServer) { f.setup(65536, 2) }, dial: "id at 0x8: id 65536, want 0 to 65535"},
	"id-neg2":          {script: func(f *fakeServer) { f.setup(-2, 2) }, dial: "id at 0x8: id -2"},
	"shm-without-fd":   {script: func(f *fakeServer) { f.tx(0); f.tx(0); f.tx(-1) }, dial: "shared memory at 0x10: comes without its file descriptor"},
	"close-before-shm": {script: func(f *fakeServer) { f.tx(0); f.tx(0); f.conn.Close() }, dial: "shared memory at 0x10: unexpected EOF"},
	"fd-with-version":  {script: func(f *fakeServer) { f.tx(0, f.shm()) }, dial: "version at 0x0: comes with a file descriptor"},
	"fd-with-id":       {script: func(f *fakeServer) { f.tx(0); f.tx(0, f.shm()) }, dial: "id at 0x8: comes with a file descriptor"},
	"peers-before-shm": {script: func(f *fakeServer) {
		f.tx(0)
		f.tx(0)
		f.vectors(5, 1)
		f.tx(-1, f.shm())
		f.vectors(0, 2)
	}},
	"own-vectors-before-shm": {script: func(f *fakeServer) {
		f.tx(0)
		f.tx(0)
		f.vectors(0, 2)
		f.tx(-1, f.shm())
	}},
	"shm-not-pow2": {size: 3 << 20, script: func(f *fakeServer) { f.setup(0, 2) }},
	"shm-tiny-100": {size: 100, script: func(f *fakeServer) { f.setup(0, 2) }},
	"shm-zero":     {size: -1, script: func(f *fakeServer) { f.setup(0, 2) }, dial: "shared memory at 0x10: shared memory is empty"},
	"split-messages": {script: func(f *fakeServer) {
		b := make([]byte, 16)
		for len(b) > 0 {
			n := min(3, len(b))
			f.conn.Write(b[:n])
			b = b[n:]
		}
		f.conn.WriteMsgUnix([]byte{255}, syscall.UnixRights(f.shm()), nil)
		f.conn.Write([]byte{255, 255, 255, 255, 255, 255, 255})
		f.vectors(0, 2)
	}},
	"second-shm":           {script: func(f *fakeServer) { f.setup(0, 2); f.tx(-1, f.shm()) }, lost: "shared memory at 0x28: sent a second time"},
	"disconnect-self":      {script: func(f *fakeServer) { f.setup(0, 2); f.tx(0) }, lost: "notification at 0x28: id 0, the client's own"},
	"disconnect-unknown":   {script: func(f *fakeServer) { f.setup(0, 2); f.tx(77); f.tx(40000) }},
	"live-neg2":            {script: func(f *fakeServer) { f.setup(0, 2); f.tx(-2) }, lost: "notification at 0x28: id -2"},
	"live-65536":           {script: func(f *fakeServer) { f.setup(0, 2); f.tx(65536, f.shm()) }, lost: "notification at 0x28: id 65536"},
	"peer-with-70-vectors": {script: func(f *fakeServer) { f.setup(0, 2); f.vectors(3, 70) }},
	"self-with-8-vectors":  {script: func(f *fakeServer) { f.setup(0, 8) }},
	"self-with-0-vectors":  {script: func(f *fakeServer) { f.setup(0, 0) }},
	"reuse-disconnected-id": {script: func(f *fakeServer) {
		f.setup(0, 2)
		f.vectors(1, 2)
		f.tx(1)
		f.vectors(1, 2)
	}},
	"peer-fd-not-eventfd": {script: func(f *fakeServer) { f.setup(0, 2); f.tx(9, f.shm()) }, lost: "notification at 0x28: the file descriptor is of "},
}

// more are violations that QEMU was not asked about.
var more = map[string]func(*fakeServer){
	"lost: notification at 0x28: comes with more than one file descriptor": func(f *fakeServer) {
		f.setup(0, 2)
		f.tx(3, f.shm(), f.shm())
	},
	"lost: notification at 0x28: unexpected EOF": func(f *fakeServer) {
		f.setup(0, 2)
		f.conn.WriteMsgUnix([]byte{1, 2, 3}, syscall.UnixRights(f.shm()), nil)
		f.conn.CloseWrite()
	},
	"dial: shared memory at 0x10: shared memory is a file of type": func(f *fakeServer) {
		f.tx(0)
		f.tx(0)
		r, w, err := os.Pipe()
		if err != nil {
			f.t.Error(err)
			return
		}
		f.tx(-1, int(r.Fd()))
		r.Close()
		w.Close()
	},
	"dial: version at 0x0: unexpected EOF": func(f *fakeServer) { f.conn.CloseWrite() },
	"lost: notification at 0x40: more than 5 file descriptors": func(f *fakeServer) {
		f.setup(0, 2)
		f.vectors(1, 8)
	},
}

// TestClientAndBadServers has every way of breaking the protocol that was tried
// on QEMU: the client refuses or leaves the server, and never dies.
func TestClientAndBadServers(t *testing.T) {
	b, err := os.ReadFile("testdata/violations.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded []struct {
		Case       string
		Started    bool
		IVPosition uint16
	}
	if err := json.Unmarshal(b, &recorded); err != nil {
		t.Fatal(err)
	}
	for _, r := range recorded {
		t.Run(r.Case, func(t *testing.T) {
			v, ok := violations[r.Case]
			if !ok {
				t.Fatal("not tried")
			}
			size := v.size
			if size == 0 {
				size = 1 << 20
			}
			c := tryServer(t, startFake(t, max(size, 0), v.script), &ivshmem.ClientOptions{Vectors: 2}, v.dial, v.lost)
			if c != nil && r.Started && c.ID() != r.IVPosition {
				t.Errorf("ID %d, QEMU has %d", c.ID(), r.IVPosition)
			}
			if r.Started && v.dial != "" {
				t.Error("QEMU starts")
			}
		})
	}
	for want, script := range more {
		t.Run(want, func(t *testing.T) {
			d, _ := strings.CutPrefix(want, "dial: ")
			l, isLost := strings.CutPrefix(want, "lost: ")
			if isLost {
				d = ""
			} else {
				l = ""
			}
			tryServer(t, startFake(t, 1<<20, script), &ivshmem.ClientOptions{MaxDescriptors: 5}, d, l)
		})
	}
}

// tryServer dials, takes all events and rings itself. It returns the client
// where Dial succeeds.
func tryServer(t *testing.T, path string, o *ivshmem.ClientOptions, wantDial, wantLost string) *ivshmem.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := ivshmem.Dial(ctx, path, o)
	if wantDial != "" {
		if err == nil || !strings.Contains(err.Error(), wantDial) {
			t.Errorf("Dial: %v, want %q", err, wantDial)
		}
		if strings.Contains(wantDial, "version 1") && !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%v is not ErrUnsupported", err)
		}
		if strings.Contains(wantDial, "EOF") && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v is not ErrUnexpectedEOF", err)
		}
		if _, ok := errors.AsType[*ivshmem.FormatError](err); !ok {
			t.Errorf("%v is no FormatError", err)
		}
		return nil
	}
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	// Ring vector 0 once it is there; that the interrupt comes back shows that
	// what the server sent before was taken in, unless the server is lost.
	lost, rung := "", false
	for lost == "" && !rung {
		short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		e, err := c.Next(short)
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			if wantLost != "" && ctx.Err() == nil {
				continue
			}
			if rung = c.Vectors() == 0; !rung {
				err = c.Ring(c.ID(), 0)
			}
			if err != nil && !rung {
				t.Fatal(err)
			}
		case err != nil:
			t.Fatal(err)
		case e.Kind == ivshmem.ServerLost:
			lost = fmt.Sprint(e.Err)
		case e.Kind == ivshmem.Interrupted:
			rung = true
		}
	}
	if wantLost == "" && lost != "" || !strings.Contains(lost, wantLost) {
		t.Errorf("server lost: %q, want %q", lost, wantLost)
	}
	if _, err := c.Map(); err != nil {
		t.Errorf("Map: %v", err)
	}
	return c
}

// TestDialGivesUp waits for a server that says nothing.
func TestDialGivesUp(t *testing.T) {
	for _, first := range [][]byte{nil, {0}, make([]byte, 16)} {
		path := startFake(t, 4096, func(f *fakeServer) { f.conn.Write(first) })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := ivshmem.Dial(ctx, path, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%d bytes: %v", len(first), err)
		}
		cancel()
	}
	if _, err := ivshmem.Dial(t.Context(), filepath.Join(difftest.SocketDir(t), "none"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
}
