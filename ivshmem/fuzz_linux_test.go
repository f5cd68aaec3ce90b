package ivshmem_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/memfd"
	"github.com/virtfmt/virtfmt/ivshmem"
)

// socketPair returns two connections to each other.
func socketPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
	}
	return conns[0], conns[1]
}

// A piece of what a server sends in [FuzzClient]: a byte whose low 4 bits are
// the number of bytes that follow and whose high 4 bits are two descriptors.
func piece(fds byte, b ...byte) []byte { return append([]byte{byte(len(b)) | fds<<4}, b...) }

func number(fds byte, n int64) []byte {
	return piece(fds, binary.LittleEndian.AppendUint64(nil, uint64(n))...)
}

// What the two bits of a descriptor mean.
const (
	noFD = iota
	eventFD
	memoryFD
	pipeFD
)

// FuzzClient takes a byte string for what a server sends. Whatever it is, the
// client comes to an end and leaves no descriptor open.
func FuzzClient(f *testing.F) {
	join := func(pieces ...[]byte) (all []byte) {
		for _, p := range pieces {
			all = append(all, p...)
		}
		return all
	}
	start := join(number(noFD, 0), number(noFD, 7), number(memoryFD, -1))
	f.Add(start)
	f.Add(join(start, number(eventFD, 3), number(eventFD, 3), number(eventFD, 7), number(noFD, 3), number(eventFD, 3)))
	f.Add(join(start, number(eventFD, 7), number(eventFD, 7), number(noFD, 7)))
	f.Add(join(start, number(memoryFD, -1)))
	f.Add(join(start, number(eventFD|eventFD<<2, 1)))
	f.Add(join(start, number(pipeFD, 1)))
	f.Add(join(number(noFD, 0), number(noFD, 7), number(eventFD, 7), number(pipeFD, -1)))
	f.Add(join(number(noFD, 0), piece(noFD, 7, 0, 0), piece(noFD, 0, 0, 0, 0, 0), number(memoryFD, -1), piece(eventFD, 1, 0)))
	f.Add(join(number(noFD, 1)))
	f.Add(join(number(noFD, 0), number(eventFD, 65536)))

	memory, err := memfd.Create("fuzz", 4096)
	if err != nil {
		f.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		f.Fatal(err)
	}
	efd, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC, 0)
	if errno != 0 {
		f.Fatal(errno)
	}
	fds := map[byte]int{eventFD: int(efd), memoryFD: int(memory.Fd()), pipeFD: int(r.Fd())}
	f.Cleanup(func() {
		memory.Close()
		r.Close()
		w.Close()
		syscall.Close(int(efd))
	})
	for range 2 { // what the runtime opens at first use stays open
		a, b := socketPair(f)
		a.Close()
		b.Close()
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := openDescriptors(t)
		server, conn := socketPair(t)
		server.SetWriteDeadline(time.Now().Add(patience))
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer server.CloseWrite()
			for len(data) > 0 {
				n, kinds := int(data[0]&15), data[0]>>4
				data = data[1:]
				n = min(n, len(data))
				var pass []int
				for ; kinds != 0; kinds >>= 2 {
					if fd, ok := fds[kinds&3]; ok {
						pass = append(pass, fd)
					}
				}
				var rights []byte
				if len(pass) > 0 {
					rights = syscall.UnixRights(pass...)
				}
				if _, _, err := server.WriteMsgUnix(data[:n], rights, nil); err != nil {
					return
				}
				data = data[n:]
			}
		}()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		o := &ivshmem.ClientOptions{Vectors: 2, PeerVectors: 3, MaxDescriptors: 20}
		if c, err := ivshmem.NewClient(ctx, conn, o); err == nil {
			use(ctx, t, c)
			c.Close()
		}
		<-done
		server.Close()
		expectNoLeak(t, before)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Error("the client did not come to an end")
		}
	})
}

// use takes events until the server is lost, and checks what they leave.
func use(ctx context.Context, t *testing.T, c *ivshmem.Client) {
	t.Helper()
	vectors := map[uint16]uint16{}
	for {
		e, err := c.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		switch e.Kind {
		case ivshmem.Connected:
			if vectors[e.Peer] != e.Vector {
				t.Fatalf("%v, want vector %d", e, vectors[e.Peer])
			}
			vectors[e.Peer]++
		case ivshmem.Disconnected:
			delete(vectors, e.Peer)
		}
		if e.Kind == ivshmem.ServerLost {
			break
		}
	}
	total := 0
	for _, p := range c.Peers() {
		if int(vectors[p.ID]) != p.Vectors {
			t.Errorf("peer %d has %d vectors, events told of %d", p.ID, p.Vectors, vectors[p.ID])
		}
		total += p.Vectors
	}
	if total > 20 || c.Vectors() > 2 {
		t.Errorf("%d descriptors are held, %d own vectors", total, c.Vectors())
	}
	if _, err := c.Map(); err != nil {
		t.Error(err)
	}
	if n := c.Vectors(); n > 0 {
		if err := c.Ring(c.ID(), uint16(n-1)); err != nil {
			t.Error(err)
		}
		if e, err := c.Next(ctx); err != nil || e.Kind != ivshmem.Interrupted {
			t.Errorf("%v, %v, want an interrupt", e, err)
		}
	}
}
