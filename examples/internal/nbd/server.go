package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"sync"

	"github.com/virtfmt/virtfmt/internal/block"
)

// An Export is a disk that clients may use under a name.
//
// For writing, Disk must be an io.WriterAt; where it also has WriteZeroesAt,
// DiscardAt or Sync, clients may zero, trim and flush.
type Export struct {
	Name        string
	Description string
	Disk        block.Disk
	Writable    bool
	// AllocationDepth offers the context qemu:allocation-depth.
	AllocationDepth bool
	// Bitmaps are offered as contexts qemu:dirty-bitmap:NAME.
	Bitmaps []Bitmap
}

// A Bitmap tells which ranges of a disk are dirty.
type Bitmap struct {
	Name string
	// Dirty yields start and length of the dirty ranges within the n bytes at
	// off, in order.
	Dirty func(off, n int64) iter.Seq2[int64, int64]
}

// A Server serves exports. Its methods are safe for concurrent use.
type Server struct {
	Exports []*Export
	// MaxClients is how many clients may be connected at a time; others wait.
	// The default is 1.
	MaxClients int
	// Once ends Serve when the last client has left.
	Once bool
	// Log, where set, is told about clients that broke the protocol.
	Log func(error)
}

// Serve accepts clients until the context ends, or, with Once set, until the
// last of them has left. It closes the listener, and with the context's end
// the connections, and returns when all clients have gone.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	slots := make(chan struct{}, max(1, s.MaxClients))
	var clients sync.WaitGroup
	defer clients.Wait()
	var mu sync.Mutex // guards active
	active := 0
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		mu.Lock()
		active++
		mu.Unlock()
		clients.Go(func() {
			stop := context.AfterFunc(ctx, func() { c.Close() })
			err := s.serveConn(c)
			stop()
			c.Close()
			if err != nil && s.Log != nil && ctx.Err() == nil {
				s.Log(err)
			}
			mu.Lock()
			active--
			last := active == 0
			mu.Unlock()
			<-slots
			if s.Once && last {
				cancel()
			}
		})
	}
}

// serveConn serves one client. A client that leaves is no error.
func (s *Server) serveConn(c net.Conn) error {
	n := &negotiation{server: s, c: c}
	e, err := n.run()
	if err == nil && e != nil {
		err = newSession(c, e, n).run()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || isReset(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("nbd: client %v: %w", c.RemoteAddr(), err)
	}
	return nil
}

func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && !op.Timeout()
}

func (s *Server) find(name string) *Export {
	for _, e := range s.Exports {
		if e.Name == name {
			return e
		}
	}
	return nil
}

// flags returns the transmission flags of e.
func (e *Export) flags() uint16 {
	f := uint16(txHasFlags | txSendDF | txMultiConn)
	if !e.Writable {
		return f | txReadOnly
	}
	f |= txSendFlush | txSendFUA | txSendWriteZeroes
	if _, ok := e.Disk.(discarder); ok {
		f |= txSendTrim
	}
	return f
}

type discarder interface{ DiscardAt(off, n int64) error }
