package ivshmem_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/ivshmem"
)

// openDescriptors returns what each descriptor of this process is.
func openDescriptors(t *testing.T) map[string]string {
	t.Helper()
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	fds := map[string]string{}
	for _, e := range entries {
		if link, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			fds[e.Name()] = link
		}
	}
	return fds
}

// expectNoLeak compares with what was open before.
func expectNoLeak(t *testing.T, before map[string]string) {
	t.Helper()
	for fd, link := range openDescriptors(t) {
		if before[fd] == "" {
			t.Errorf("descriptor %s is left open: %s", fd, link)
		}
	}
}

// mostClients returns n, or how many clients there may be where each takes that
// many of the descriptors that this process may have open or under way.
func mostClients(t *testing.T, n, each int) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return max(2, int(min(uint64(n), uint64(limit.Cur)/uint64(each))))
}

// warmUp opens what the runtime keeps open, such as its poller.
func warmUp(t *testing.T) {
	t.Helper()
	_, _, stop := serve(t, nil)
	stop()
}

// TestCrowd has 64 clients that join, ring each other and leave, again and
// again, and counts descriptors before and after.
func TestCrowd(t *testing.T) {
	warmUp(t)
	before := openDescriptors(t)
	seed := difftest.Seed(t, 1)
	// A client can come back before the server has noticed that it left, hence
	// twice as many places.
	clients := mostClients(t, 64, 400)
	rounds := difftest.Scale(t, 10)

	_, path, stop := serve(t, &ivshmem.ServerOptions{Size: 1 << 16, Vectors: 2, MaxClients: 2 * clients})
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
	defer cancel()
	var interrupts atomic.Uint64
	var wg sync.WaitGroup
	for i := range uint64(clients) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, i))
			for range rounds {
				n, err := visit(ctx, path, rnd)
				if err != nil {
					t.Error(err)
					return
				}
				interrupts.Add(n)
			}
		})
	}
	wg.Wait()
	stop()
	t.Logf("%d interrupts came in", interrupts.Load())
	expectNoLeak(t, before)
}

// visit joins, rings whom it knows, takes in what happens and leaves, sometimes
// before it was told all. What it is told must make sense.
func visit(ctx context.Context, path string, rnd *rand.Rand) (interrupts uint64, err error) {
	c, err := ivshmem.Dial(ctx, path, nil)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	memory, err := c.Map()
	if err != nil {
		return 0, err
	}
	// The own word must stay what this client makes it.
	word := memory[int(c.ID())%8192*8:][:8]
	binary.LittleEndian.PutUint64(word, uint64(c.ID()))
	known := map[uint16]uint16{} // vectors by peer
	for events := rnd.IntN(300); events > 0; events-- {
		if c.Vectors() == 2 {
			for peer, vectors := range known {
				if err := c.Ring(peer, uint16(rnd.UintN(uint(vectors)))); err != nil {
					return interrupts, err
				}
				break
			}
			if err := c.Ring(c.ID(), 1); err != nil { // so that there is a next event
				return interrupts, err
			}
		}
		e, err := c.Next(ctx)
		if err != nil {
			return interrupts, err
		}
		switch e.Kind {
		case ivshmem.Connected:
			if known[e.Peer] != e.Vector {
				return interrupts, fmt.Errorf("peer %d: vector %d connected, want %d", e.Peer, e.Vector, known[e.Peer])
			}
			known[e.Peer]++
		case ivshmem.Disconnected:
			if known[e.Peer] == 0 {
				return interrupts, fmt.Errorf("peer %d is gone that was not there", e.Peer)
			}
			delete(known, e.Peer)
		case ivshmem.Interrupted:
			interrupts += e.Count
		case ivshmem.ServerLost:
			return interrupts, fmt.Errorf("server lost: %v", e.Err)
		}
	}
	if got := binary.LittleEndian.Uint64(word); got != uint64(c.ID()) {
		return interrupts, fmt.Errorf("client %d finds %d in its word", c.ID(), got)
	}
	return interrupts, nil
}

// TestNoLeakOnErrors counts descriptors around everything that fails.
func TestNoLeakOnErrors(t *testing.T) {
	warmUp(t)
	before := openDescriptors(t)
	t.Run("servers", func(t *testing.T) {
		for _, v := range violations {
			size := v.size
			if size == 0 {
				size = 1 << 20
			}
			tryServer(t, startFake(t, max(size, 0), v.script), &ivshmem.ClientOptions{Vectors: 2}, v.dial, v.lost)
		}
		for _, script := range more {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
			if c, err := ivshmem.Dial(ctx, startFake(t, 1<<20, script), nil); err == nil {
				for err == nil {
					_, err = c.Next(ctx)
				}
				c.Close()
			}
			cancel()
		}
	})
	t.Run("clients", func(t *testing.T) {
		s, path := startServer(t, &ivshmem.ServerOptions{Vectors: 3, MaxClients: 2})
		for i := range 30 {
			c := dialRaw(t, path)
			for range i % 5 { // leave at any point
				c.next()
			}
			c.close()
		}
		waitFor(t, "all to be gone", func() bool { return len(s.Clients()) == 0 })
	})
	t.Run("options", func(t *testing.T) {
		if _, err := ivshmem.NewServer(&ivshmem.ServerOptions{Vectors: 5000}); err == nil {
			t.Error("no error")
		}
	})
	expectNoLeak(t, before)
}

// TestManyClients keeps as many as the process has descriptors for, each with
// vectors of its own, and rings all of them from one.
func TestManyClients(t *testing.T) {
	n := mostClients(t, difftest.Scale(t, 300), 50)
	s, path := startServer(t, &ivshmem.ServerOptions{MaxClients: n + 1})
	first := dial(t, path, nil)
	for len(first.Peers()) == 0 { // it hears of itself when others can of it
		next(t, first)
	}
	var raws []*rawClient
	for range n {
		// These read their first messages only, and are slow from then on.
		c := dialRaw(t, path)
		c.expect("0 " + strconv.Itoa(len(raws)+1) + " -1+fd 0+fd")
		raws = append(raws, c)
	}
	if got := len(s.Clients()); got != n+1 {
		t.Errorf("%d clients, want %d", got, n+1)
	}
	for len(first.Peers()) < n+1 {
		next(t, first)
	}
	for id := range n {
		if err := first.Ring(uint16(id+1), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range raws {
		c.close()
	}
	for len(first.Peers()) > 1 {
		next(t, first)
	}
}

// TestAttach wires two devices to clients of one server: their guests share
// memory and ring each other.
func TestAttach(t *testing.T) {
	_, path := startServer(t, &ivshmem.ServerOptions{Vectors: 2, Size: 1 << 16})
	type machine struct {
		sync.Mutex
		device ivshmem.Device
		client *ivshmem.Client
		sent   chan uint32
	}
	var machines [2]machine
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	ready := make(chan struct{}, 16)
	for i := range machines {
		m := &machines[i]
		m.sent = make(chan uint32, 16)
		m.client = dial(t, path, nil)
		m.device.Vectors = 2
		m.device.SendMSI = func(_ uint64, data uint32) { m.sent <- data }
		if err := m.client.Attach(&m.device); err != nil {
			t.Fatal(err)
		}
		aim(&m.device, 2)
		m.device.WriteConfig(0x42, bytesOf(ivshmem.MSIXEnable, 2))
		m.device.WriteConfig(4, bytesOf(6, 2))
		wg.Go(func() {
			err := m.client.Run(ctx, &m.device, m, func(e ivshmem.Event) {
				if e.Kind == ivshmem.Connected {
					ready <- struct{}{}
				}
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		})
	}
	for range 2 * 4 { // both know both vectors of both
		<-ready
	}
	ring := func(from, to int, vector uint16, want uint32) {
		t.Helper()
		m := &machines[from]
		m.Lock()
		write32(&m.device, ivshmem.RegDoorbell, ivshmem.DoorbellValue(uint16(to), vector))
		m.Unlock()
		select {
		case got := <-machines[to].sent:
			if got != want {
				t.Errorf("%d rings %d:%d: message %#x, want %#x", from, to, vector, got, want)
			}
		case <-time.After(patience):
			t.Fatalf("%d rings %d:%d: no message", from, to, vector)
		}
	}
	ring(0, 1, 0, 0xa0)
	ring(0, 1, 1, 0xa1)
	ring(1, 0, 1, 0xa1)
	ring(1, 1, 0, 0xa0)
	if got := read32(&machines[1].device, ivshmem.RegIVPosition); got != 1 {
		t.Errorf("IVPosition %d, want 1", got)
	}
	machines[0].device.WriteBAR(2, 0x1234, []byte("hello"))
	p := make([]byte, 5)
	machines[1].device.ReadBAR(2, 0x1234, p)
	if string(p) != "hello" {
		t.Errorf("the other guest reads %q", p)
	}
}

func TestAttachRefuses(t *testing.T) {
	for _, size := range []int64{5000, 100, 3 << 20} {
		c := dial(t, startFake(t, size, func(f *fakeServer) { f.setup(0, 1) }), nil)
		if err := c.Attach(new(ivshmem.Device)); err == nil {
			t.Errorf("shared memory of %d bytes was taken", size)
		}
	}
}

func BenchmarkRing(b *testing.B) {
	_, path := startServer(b, nil)
	c, err := ivshmem.Dial(b.Context(), path, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for c.Vectors() == 0 {
		if _, err := c.Next(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("ring", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := c.Ring(0, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ring+next", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := c.Ring(0, 0); err != nil {
				b.Fatal(err)
			}
			if _, err := c.Next(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
