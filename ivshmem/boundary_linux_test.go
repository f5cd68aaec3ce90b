package ivshmem_test

import (
	"errors"
	"net"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/ivshmem"
)

// TestHalfAMessage leaves while a message is coming in whose descriptor is
// there already: it must not stay open.
func TestHalfAMessage(t *testing.T) {
	warmUp(t)
	before := openDescriptors(t)
	t.Run("client", func(t *testing.T) {
		sent := make(chan struct{})
		c := dial(t, startFake(t, 1<<16, func(f *fakeServer) {
			f.setup(0, 1)
			fd := f.eventfd()
			f.conn.WriteMsgUnix([]byte{3, 0, 0}, syscall.UnixRights(fd), nil)
			syscall.Close(fd)
			close(sent)
		}), nil)
		expectEvents(t, c, "peer 0: vector 0 connected")
		<-sent
		if err := c.Ring(0, 0); err != nil { // so that there is a next event
			t.Fatal(err)
		}
		for next(t, c).Kind != ivshmem.Interrupted {
			continue
		}
		if err := c.Ring(0, 0); err != nil {
			t.Fatal(err)
		}
		next(t, c) // by now the half message was taken in
	})
	expectNoLeak(t, before)
}

// TestListenerGoes: a listener that its owner closes ends Serve with its own
// error, and does not trouble the server, which serves on with another.
func TestListenerGoes(t *testing.T) {
	s, path := startServer(t, nil)
	l, err := ivshmem.Listen(filepath.Join(difftest.SocketDir(t), "other"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	other := dialRaw(t, l.Addr().String())
	other.expect("0 0 -1+fd 0+fd")
	l.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
	dialRaw(t, path).expect("0 1 -1+fd 0+fd 1+fd")
	other.expect("1+fd")
	if err := s.Close(); err != nil {
		t.Errorf("closing the server: %v", err)
	}
	other.expectEnd()
}

// TestConfigBounds: what is just valid.
func TestConfigBounds(t *testing.T) {
	for _, c := range []ivshmem.Config{
		{SharedSize: ivshmem.MinSharedSize},
		{SharedSize: 1 << 31, Shared32: true},
		{RegisterSize: 1024, Vectors: ivshmem.MaxVectors},
	} {
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
		d := ivshmem.Device{Config: c}
		if got := d.BAR(2).Size; c.SharedSize != 0 && got != c.SharedSize {
			t.Errorf("%+v: BAR2 has %d bytes", c, got)
		}
		if got := d.BAR(0).Size; c.RegisterSize != 0 && got != uint64(c.RegisterSize) {
			t.Errorf("%+v: BAR0 has %d bytes", c, got)
		}
	}
}
