package ivshmem_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/ivshmem"
)

// patience is how long a test waits for what has to happen.
const patience = 3 * time.Minute

// startServer serves on a socket until the test ends.
func startServer(tb testing.TB, o *ivshmem.ServerOptions) (*ivshmem.Server, string) {
	tb.Helper()
	s, path, stop := serve(tb, o)
	tb.Cleanup(stop)
	return s, path
}

// serve serves on a socket until stop is called.
func serve(tb testing.TB, o *ivshmem.ServerOptions) (s *ivshmem.Server, path string, stop func()) {
	tb.Helper()
	s, err := ivshmem.NewServer(o)
	if err != nil {
		tb.Fatal(err)
	}
	path = filepath.Join(difftest.SocketDir(tb), "iv")
	l, err := ivshmem.Listen(path)
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	return s, path, func() {
		tb.Helper()
		if err := s.Close(); err != nil {
			tb.Errorf("closing the server: %v", err)
		}
		if err := <-done; !errors.Is(err, fs.ErrClosed) {
			tb.Errorf("Serve: %v", err)
		}
		if err := s.Serve(l); !errors.Is(err, fs.ErrClosed) {
			tb.Errorf("Serve after Close: %v", err)
		}
	}
}

// A rawClient reads the protocol with nothing of this package.
type rawClient struct {
	t    *testing.T
	conn *net.UnixConn
	fds  []int
}

func dialRaw(t *testing.T, path string) *rawClient {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	c := &rawClient{t: t, conn: conn}
	t.Cleanup(c.close)
	return c
}

// next returns a message and its descriptor, -1 if there is none.
func (c *rawClient) next() (num int64, fd int, err error) {
	c.conn.SetReadDeadline(time.Now().Add(patience))
	var b [8]byte
	oob := make([]byte, 64)
	n, oobn, _, _, err := c.conn.ReadMsgUnix(b[:], oob)
	if err != nil {
		return 0, -1, err
	}
	if n != 8 {
		return 0, -1, io.ErrUnexpectedEOF
	}
	fd = -1
	if oobn > 0 {
		m, err := syscall.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(m) != 1 {
			return 0, -1, fmt.Errorf("control messages %v, %v", m, err)
		}
		fds, err := syscall.ParseUnixRights(&m[0])
		if err != nil || len(fds) != 1 {
			return 0, -1, fmt.Errorf("descriptors %v, %v", fds, err)
		}
		fd = fds[0]
		c.fds = append(c.fds, fd)
	}
	return int64(binary.LittleEndian.Uint64(b[:])), fd, nil
}

// expect compares the next messages, written as "number" or "number+fd".
func (c *rawClient) expect(want string) {
	c.t.Helper()
	var got []string
	for range strings.FieldsSeq(want) {
		num, fd, err := c.next()
		if err != nil {
			got = append(got, err.Error())
			break
		}
		s := fmt.Sprint(num)
		if fd >= 0 {
			s += "+fd"
		}
		got = append(got, s)
	}
	if diff := cmp.Diff(strings.Fields(want), got); diff != "" {
		c.t.Fatalf("messages (-want +got)\n%s", diff)
	}
}

// expectEnd checks that the connection ends without another message.
func (c *rawClient) expectEnd() {
	c.t.Helper()
	if num, _, err := c.next(); !errors.Is(err, io.EOF) {
		c.t.Fatalf("got %d, %v, want the end", num, err)
	}
}

func (c *rawClient) close() {
	c.conn.Close()
	for _, fd := range c.fds {
		syscall.Close(fd)
	}
	c.fds = nil
}

// TestServerSpeaks has the messages in the order of the specification.
func TestServerSpeaks(t *testing.T) {
	_, path := startServer(t, &ivshmem.ServerOptions{Vectors: 2, Size: 1 << 20})
	a := dialRaw(t, path)
	a.expect("0 0 -1+fd 0+fd 0+fd")
	var st syscall.Stat_t
	if err := syscall.Fstat(a.fds[0], &st); err != nil || st.Size != 1<<20 {
		t.Errorf("shared memory has %d bytes, %v", st.Size, err)
	}
	if err := syscall.Ftruncate(a.fds[0], 4096); err == nil {
		t.Error("a client could truncate the shared memory")
	}
	b := dialRaw(t, path)
	b.expect("0 1 -1+fd 0+fd 0+fd 1+fd 1+fd")
	a.expect("1+fd 1+fd")
	c := dialRaw(t, path)
	c.expect("0 2 -1+fd 0+fd 0+fd 1+fd 1+fd 2+fd 2+fd")
	a.expect("2+fd 2+fd")
	b.expect("2+fd 2+fd")

	// What one rings, the other sees.
	one := make([]byte, 8)
	binary.NativeEndian.PutUint64(one, 1)
	if _, err := syscall.Write(a.fds[4], one); err != nil { // peer 1, vector 1
		t.Fatal(err)
	}
	got := make([]byte, 8)
	if _, err := syscall.Read(b.fds[4], got); err != nil || binary.NativeEndian.Uint64(got) != 1 {
		t.Errorf("own vector 1 reads %x, %v", got, err)
	}

	b.close()
	a.expect("1")
	c.expect("1")
	d := dialRaw(t, path)
	d.expect("0 3 -1+fd 0+fd 0+fd 2+fd 2+fd 3+fd 3+fd")
	a.expect("3+fd 3+fd")
}

// TestServerReusesIDs shows when an ID comes back: when nobody is left who has
// heard of its holder.
func TestServerReusesIDs(t *testing.T) {
	_, path := startServer(t, nil)
	a := dialRaw(t, path)
	a.expect("0 0 -1+fd 0+fd")
	b := dialRaw(t, path)
	b.expect("0 1 -1+fd 0+fd 1+fd")
	a.expect("1+fd") // else it may never hear of b
	b.close()
	a.expect("1")
	c := dialRaw(t, path)
	c.expect("0 2 -1+fd 0+fd 2+fd")
	a.close()
	c.expect("0")
	d := dialRaw(t, path)
	d.expect("0 1 -1+fd 2+fd 1+fd") // 1 left before c came; 0 is known to c
	c.expect("1+fd")
	c.close()
	d.expect("2")
	d.close()
	waitFor(t, "0 again", func() bool {
		e := dialRaw(t, path)
		defer e.close()
		e.expect("0")
		num, _, err := e.next()
		return err == nil && num == 0
	})
}

// waitFor tries until try reports true.
func waitFor(t *testing.T, what string, try func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !try(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for: %s", patience, what)
		}
	}
}

func TestServerWithoutVectors(t *testing.T) {
	s, path := startServer(t, &ivshmem.ServerOptions{Vectors: -1})
	a := dialRaw(t, path)
	a.expect("0 0 -1+fd")
	b := dialRaw(t, path)
	b.expect("0 1 -1+fd")
	b.close()
	waitFor(t, "b to be gone", func() bool { return len(s.Clients()) == 1 })
	s.Close()
	a.expectEnd()
}

// TestServerRefuses turns clients away by a version, on which QEMU exits.
func TestServerRefuses(t *testing.T) {
	var mu sync.Mutex
	var events []string
	admitted := 0
	s, path := startServer(t, &ivshmem.ServerOptions{
		MaxClients: 2,
		Admit: func(c ivshmem.Credentials) error {
			mu.Lock()
			defer mu.Unlock()
			if c.PID != os.Getpid() || c.UID != os.Getuid() || c.GID != os.Getgid() {
				return fmt.Errorf("credentials %+v", c)
			}
			if admitted++; admitted == 2 {
				return errors.New("the second is not wanted")
			}
			return nil
		},
		Events: func(e ivshmem.ServerEvent) {
			e.PID, e.UID = 1, 2
			mu.Lock()
			defer mu.Unlock()
			events = append(events, e.String())
		},
	})
	a := dialRaw(t, path)
	a.expect("0 0 -1+fd 0+fd")
	b := dialRaw(t, path)
	b.expect("-1")
	b.expectEnd()
	told := func(n int) {
		t.Helper()
		waitFor(t, fmt.Sprintf("event %d", n), func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(events) == n
		})
	}
	told(2)
	c := dialRaw(t, path)
	c.expect("0 1 -1+fd 0+fd 1+fd")
	a.expect("1+fd") // else it may never hear of c
	d := dialRaw(t, path)
	d.expect("-1")
	d.expectEnd()
	told(4)

	if _, err := c.conn.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	c.expectEnd()
	a.expect("1")
	told(5)
	s.Close()
	a.expectEnd()
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff([]string{
		"client 0 joined (pid 1, uid 2)",
		"client refused (pid 1, uid 2): the second is not wanted",
		"client 1 joined (pid 1, uid 2)",
		"client refused (pid 1, uid 2): as many clients are connected as may be",
		"client 1 left (pid 1, uid 2): the client sent data",
		"client 0 left (pid 1, uid 2): file already closed",
	}, events); diff != "" {
		t.Errorf("events (-want +got)\n%s", diff)
	}
}

// TestServerClosesLate connects while the server closes: nobody is left without
// an answer, on which QEMU would spin.
func TestServerClosesLate(t *testing.T) {
	for range 20 {
		s, path, stop := serve(t, nil)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
					if err != nil {
						return // refused, or the name is gone
					}
					c := &rawClient{t: t, conn: conn}
					num, _, err := c.next()
					for err == nil && num != -1 {
						num, _, err = c.next()
					}
					if err != nil {
						t.Errorf("%v before the memory or a refusal", err)
					}
					c.close()
				}
			})
		}
		waitFor(t, "clients", func() bool { return len(s.Clients()) > 0 })
		stop()
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestServerAndSlowClient has a client that does not read while many others
// come and go. When it reads at last it is told what is, not all that was.
func TestServerAndSlowClient(t *testing.T) {
	s, path := startServer(t, &ivshmem.ServerOptions{Vectors: 2})
	slow := dialRaw(t, path)
	slow.expect("0 0 -1+fd 0+fd 0+fd")
	const rounds = 500
	for i := range rounds {
		c := dialRaw(t, path)
		c.expect(fmt.Sprintf("0 %d -1+fd 0+fd 0+fd %d+fd %d+fd", i+1, i+1, i+1))
		c.close()
		waitFor(t, "the client to be gone", func() bool { return len(s.Clients()) == 1 })
	}
	last := dialRaw(t, path)
	last.expect(fmt.Sprintf("0 %d -1+fd 0+fd 0+fd", rounds+1))

	present := map[int64]int{}
	messages := 0
	for present[rounds+1] < 2 {
		num, fd, err := slow.next()
		if err != nil {
			t.Fatal(err)
		}
		messages++
		if fd >= 0 {
			present[num]++
		} else if present[num] == 0 {
			t.Fatalf("%d is said to be gone that was not there", num)
		} else {
			delete(present, num)
		}
	}
	if diff := cmp.Diff(map[int64]int{rounds + 1: 2}, present); diff != "" {
		t.Errorf("peers (-want +got)\n%s", diff)
	}
	if messages >= rounds {
		t.Errorf("%d messages for %d clients that are gone", messages, rounds)
	}
}

func TestServerOptions(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, size int64) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		if err == nil {
			err = f.Truncate(size)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer w.Close()
	closed := file("closed", 1<<20)
	closed.Close()
	for _, c := range []struct {
		name    string
		options ivshmem.ServerOptions
		want    string
	}{
		{"odd size", ivshmem.ServerOptions{Size: 3 << 20}, "power of two"},
		{"small size", ivshmem.ServerOptions{Size: 2048}, "power of two"},
		{"negative size", ivshmem.ServerOptions{Size: -4096}, "power of two"},
		{"vectors", ivshmem.ServerOptions{Vectors: 2049}, "2049 vectors"},
		{"clients", ivshmem.ServerOptions{MaxClients: 65537}, "65537 clients"},
		{"odd file", ivshmem.ServerOptions{Memory: file("odd", 5000)}, "power of two"},
		{"pipe", ivshmem.ServerOptions{Memory: pipe}, "regular"},
		{"closed file", ivshmem.ServerOptions{Memory: closed}, "closed"},
	} {
		if _, err := ivshmem.NewServer(&c.options); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", c.name, err, c.want)
		}
	}
	s, err := ivshmem.NewServer(&ivshmem.ServerOptions{Memory: file("good", 1<<16)})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func TestMemory(t *testing.T) {
	name := fmt.Sprintf("/virtfmt-test-%d", os.Getpid())
	f, err := ivshmem.OpenSHM(name, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	g, err := ivshmem.OpenSHM(name[1:], 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	b := make([]byte, 4)
	if _, err := g.ReadAt(b, 0); err != nil || string(b) != "kept" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := ivshmem.OpenSHM(name, 1<<17); err == nil || !strings.Contains(err.Error(), "65536 bytes") {
		t.Errorf("another size: %v", err)
	}
	if err := ivshmem.RemoveSHM(name); err != nil {
		t.Error(err)
	}
	if err := ivshmem.RemoveSHM(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed twice: %v", err)
	}
	for _, bad := range []string{"", "/", "a/b", "//a", "..", ".", strings.Repeat("x", 256), "a\x00"} {
		if _, err := ivshmem.OpenSHM(bad, 4096); err == nil {
			t.Errorf("name %q was taken", bad)
		}
	}
	h, err := ivshmem.NewMemoryIn(t.TempDir(), 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if fi, err := h.Stat(); err != nil || fi.Size() != 1<<16 {
		t.Errorf("%v, %v", fi, err)
	}
	if _, err := ivshmem.NewMemoryIn("/nonexistent", 1<<16); err == nil {
		t.Error("memory in a directory that does not exist")
	}
	for _, size := range []int64{0, -1, 1000, 4096 + 1} {
		if _, err := ivshmem.NewMemory(size); err == nil {
			t.Errorf("memory of %d bytes", size)
		}
	}
}
