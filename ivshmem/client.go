package ivshmem

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/virtfmt/virtfmt/internal/memfd"
)

// ClientOptions bound what a server can make a client hold. The zero value
// suits any server that is trusted.
type ClientOptions struct {
	// Vectors is how many interrupt vectors of its own the client keeps, as
	// QEMU's "vectors" property; the descriptors of further ones are closed. 0
	// means [MaxVectors].
	Vectors int

	// PeerVectors is how many vectors the client keeps of each peer, those past
	// it being closed. 0 means [MaxVectors].
	PeerVectors int

	// MaxDescriptors is how many descriptors of vectors, its own and its peers',
	// the client holds at a time. A server that sends more is at fault. 0 means
	// 65536.
	MaxDescriptors int
}

// An Event is what [Client.Next] returns.
type Event struct {
	Kind   EventKind
	Peer   uint16 // Connected, Disconnected: whose ID; the client's own for its own vectors
	Vector uint16 // Connected, Interrupted
	Count  uint64 // Interrupted: how often since the last time, at least 1
	Err    error  // ServerLost: nil where the server closed the connection
}

// An EventKind is a kind of [Event].
type EventKind uint8

// What an Event tells.
const (
	// Connected: a vector of a peer can be rung, or one of the client's own is
	// set up. A peer with several connects them in order from 0.
	Connected EventKind = iota
	// Disconnected: a peer is gone with all its vectors.
	Disconnected
	// Interrupted: a vector of the client was rung.
	Interrupted
	// ServerLost: the server is gone, or broke the protocol and was left. It
	// comes once. Memory and interrupts go on working; peers no longer come or
	// go.
	ServerLost
)

var eventKindNames = [...]string{"connected", "disconnected", "interrupted", "server lost"}

// String returns the kind in words, such as "server lost".
func (k EventKind) String() string {
	if int(k) < len(eventKindNames) {
		return eventKindNames[k]
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// String tells the event.
func (e Event) String() string {
	switch e.Kind {
	case Connected:
		return fmt.Sprintf("peer %d: vector %d connected", e.Peer, e.Vector)
	case Disconnected:
		return fmt.Sprintf("peer %d: disconnected", e.Peer)
	case Interrupted:
		return fmt.Sprintf("vector %d interrupted, %d times", e.Vector, e.Count)
	case ServerLost:
		if e.Err != nil {
			return "server lost: " + e.Err.Error()
		}
		return "server lost"
	}
	return e.Kind.String()
}

// A PeerInfo is a peer of a [Client].
type PeerInfo struct {
	ID      uint16
	Vectors int // connected so far
}

// What a [Client] cannot ring.
var (
	ErrNoPeer   = errors.New("ivshmem: no such peer is connected")
	ErrNoVector = errors.New("ivshmem: the peer has no such vector connected")
)

var errClientClosed = fmt.Errorf("ivshmem: client: %w", fs.ErrClosed)

// A Client takes part in what a server shares: it has an ID, maps the memory,
// rings its peers and is rung by them. The server is a [Server], or any other
// that speaks version 0 of the protocol.
//
// It has no goroutine of its own: what comes from the server and from peers is
// taken in by [Client.Next], which has to be called again and again. Next is
// for one goroutine at a time; the other methods are safe for concurrent use,
// with it and with each other.
type Client struct {
	opts   ClientOptions
	conn   *net.UnixConn
	id     uint16
	memory *os.File
	size   int64

	poller *poller // watches conn and own vectors

	// Used by Next only.
	state   protocolState
	partial []byte  // of the message that is coming in
	events  []Event // not yet returned
	ready   []int32 // keys from the poller, not yet looked at

	mu      sync.RWMutex // guards what follows
	passed  *descriptor  // came with the message that is coming in
	peers   map[uint16][]*descriptor
	held    int // descriptors in peers
	mapping []byte
	closed  bool
}

// connKey is the poller's key of the connection; own vectors have their number.
const connKey = -1

// Dial connects to the server that listens on the Unix socket at path, and
// waits until it has sent the ID and the memory. ctx bounds that only.
func Dial(ctx context.Context, path string, o *ClientOptions) (*Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("ivshmem: %w", err)
	}
	return NewClient(ctx, conn.(*net.UnixConn), o)
}

// NewClient is [Dial] on a connection that is there already. It takes the
// connection over, and closes it where it fails.
func NewClient(ctx context.Context, conn *net.UnixConn, o *ClientOptions) (*Client, error) {
	c := &Client{conn: conn, peers: map[uint16][]*descriptor{}}
	if o != nil {
		c.opts = *o
	}
	c.opts.Vectors = cmp.Or(c.opts.Vectors, MaxVectors)
	c.opts.PeerVectors = cmp.Or(c.opts.PeerVectors, MaxVectors)
	c.opts.MaxDescriptors = cmp.Or(c.opts.MaxDescriptors, 1<<16)
	err := c.start(ctx)
	if err != nil {
		c.Close()
		if cerr := ctx.Err(); cerr != nil {
			err = cerr
		}
		if _, ok := errors.AsType[*FormatError](err); !ok {
			err = fmt.Errorf("ivshmem: %w", err)
		}
		return nil, err
	}
	return c, nil
}

// start takes messages until the memory is there.
func (c *Client) start(ctx context.Context) (err error) {
	if c.poller, err = newPoller(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })
	for c.memory == nil && err == nil {
		err = c.receive()
	}
	if !stop() {
		return ctx.Err()
	}
	if err == io.EOF {
		err = &FormatError{Offset: c.state.off, Field: c.state.field(), Err: io.ErrUnexpectedEOF}
	}
	if err != nil {
		return err
	}
	return c.poller.addConn(c.conn, connKey)
}

// receive reads once from the server, and takes in a message that is complete.
// At the end of the connection it returns io.EOF.
func (c *Client) receive() error {
	var b [messageSize]byte
	n, fds, err := receiveMessage(c.conn, b[:messageSize-len(c.partial)])
	surplus := c.keep(fds)
	c.partial = append(c.partial, b[:n]...)
	switch {
	case errors.Is(err, io.EOF) || hungUp(err):
		if len(c.partial) > 0 {
			return &FormatError{Offset: c.state.off, Field: c.state.field(), Err: io.ErrUnexpectedEOF}
		}
		return io.EOF
	case err != nil:
		return err
	case surplus:
		return &FormatError{Offset: c.state.off, Field: c.state.field(), Err: errDescriptors}
	case len(c.partial) < messageSize:
		return nil
	}
	off, field := c.state.off, c.state.field()
	num := decodeMessage([messageSize]byte(c.partial))
	c.partial = c.partial[:0]
	d := c.takePassed()
	m, err := c.state.next(num, d != nil)
	if err != nil {
		if d != nil {
			d.release()
		}
		return err
	}
	if err := c.apply(m, d); err != nil {
		return &FormatError{Offset: off, Field: field, Err: err}
	}
	return nil
}

// keep holds on to the descriptor of the message that is coming in. It reports
// whether there were more than one, which are closed.
func (c *Client) keep(fds []int) (surplus bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, fd := range fds {
		if c.passed == nil && !c.closed {
			c.passed = newDescriptor(fd)
			continue
		}
		closeFD(fd)
		surplus = true
	}
	return surplus
}

// takePassed returns the descriptor of the message, nil if none came with it.
func (c *Client) takePassed() *descriptor {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.passed
	c.passed = nil
	return d
}

// apply does what a message says. It takes over the descriptor.
func (c *Client) apply(m meaning, d *descriptor) error {
	switch m.kind {
	case msgNone:
		c.id = c.state.id
	case msgMemory:
		return c.setMemory(d)
	case msgConnect:
		return c.connect(m.id, d)
	case msgDisconnect:
		c.disconnect(m.id)
	}
	return nil
}

func (c *Client) setMemory(d *descriptor) error {
	f := os.NewFile(uintptr(d.fd), "ivshmem") // which closes it now
	size, err := regularSize(f)
	if err == nil && size <= 0 {
		err = errors.New("shared memory is empty")
	}
	if err != nil {
		f.Close()
		return err
	}
	c.memory, c.size = f, size
	return nil
}

// connect adds the next vector of a peer, or of the client itself.
func (c *Client) connect(id uint16, d *descriptor) error {
	if err := checkEventfd(d.fd); err != nil {
		d.release()
		return err
	}
	limit := c.opts.PeerVectors
	if id == c.id {
		limit = c.opts.Vectors
	}
	c.mu.Lock()
	n, full := len(c.peers[id]), c.held >= c.opts.MaxDescriptors
	if n < limit && !full && !c.closed {
		c.peers[id] = append(c.peers[id], d)
		c.held++
		c.mu.Unlock()
		c.events = append(c.events, Event{Kind: Connected, Peer: id, Vector: uint16(n)})
		if id == c.id {
			return c.poller.add(d, int32(n))
		}
		return nil
	}
	c.mu.Unlock()
	d.release()
	if n < limit && full {
		return fmt.Errorf("more than %d file descriptors", c.opts.MaxDescriptors)
	}
	return nil
}

// disconnect takes out a peer; one that was never there is not worth a word.
func (c *Client) disconnect(id uint16) {
	c.mu.Lock()
	vectors, ok := c.peers[id]
	delete(c.peers, id)
	c.held -= len(vectors)
	c.mu.Unlock()
	releaseAll(vectors)
	if ok {
		c.events = append(c.events, Event{Kind: Disconnected, Peer: id})
	}
}

// Next waits for something to happen and returns it. After [Client.Close] it
// returns an error that satisfies [fs.ErrClosed], after the end of ctx that of
// ctx; the client then still works. That the server is gone is no error but an
// event.
func (c *Client) Next(ctx context.Context) (Event, error) {
	for {
		if len(c.events) > 0 {
			e := c.events[0]
			c.events = c.events[1:]
			if len(c.events) == 0 {
				c.events = nil
			}
			return e, nil
		}
		if len(c.ready) == 0 {
			if err := c.wait(ctx); err != nil {
				return Event{}, err
			}
			continue
		}
		key := c.ready[0]
		c.ready = c.ready[1:]
		if key == connKey {
			if err := c.receive(); err != nil {
				if c.isClosed() {
					return Event{}, errClientClosed
				}
				c.loseServer(err)
			}
			continue
		}
		if n := c.take(key); n > 0 {
			return Event{Kind: Interrupted, Vector: uint16(key), Count: n}, nil
		}
	}
}

// wait fills ready.
func (c *Client) wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { c.poller.setDeadline(time.Unix(1, 0)) })
		defer func() {
			if !stop() {
				c.poller.setDeadline(time.Time{})
			}
		}()
	}
	var err error
	c.ready, err = c.poller.wait(c.ready[:0])
	switch {
	case err == nil:
		return nil
	case c.isClosed():
		return errClientClosed
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.poller.setDeadline(time.Time{})
	}
	return fmt.Errorf("ivshmem: client: %w", err)
}

// take returns how often a vector of the client was rung.
func (c *Client) take(vector int32) uint64 {
	c.mu.RLock()
	var d *descriptor
	if own := c.peers[c.id]; int(vector) < len(own) && own[vector].acquire() {
		d = own[vector]
	}
	c.mu.RUnlock()
	if d == nil {
		return 0
	}
	defer d.release()
	n, err := d.drain()
	if err != nil {
		c.poller.remove(d) // it would be reported for ever
		return 0
	}
	return n
}

// loseServer leaves the server because of err.
func (c *Client) loseServer(err error) {
	c.poller.removeConn(c.conn)
	c.conn.Close()
	if d := c.takePassed(); d != nil {
		d.release()
	}
	if err == io.EOF {
		err = nil
	}
	c.events = append(c.events, Event{Kind: ServerLost, Err: err})
}

// ID returns the client's ID.
func (c *Client) ID() uint16 { return c.id }

// Size returns the size of the shared memory in bytes. QEMU takes powers of two
// of at least a page only; a server may send any other.
func (c *Client) Size() int64 { return c.size }

// Memory returns the shared memory, which [Client.Close] closes.
func (c *Client) Memory() *os.File { return c.memory }

// Sealed reports whether no process can change the size of the shared memory.
// Where one can, it can make others that map the memory die of SIGBUS, or a Go
// program fail with a fault, when they touch what is gone.
func (c *Client) Sealed() bool { return memfd.Sealed(c.memory) }

// Map maps the shared memory and returns it, the same slice each time. Other
// processes write to it at any time: what is read twice may differ, and words
// shared with them need atomic access. Close unmaps it; touching it after that
// is fatal.
func (c *Client) Map() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClientClosed
	}
	if c.mapping == nil {
		if c.size > math.MaxInt {
			return nil, fmt.Errorf("ivshmem: shared memory of %d bytes does not fit the address space", c.size)
		}
		b, err := mapMemory(c.memory, int(c.size))
		if err != nil {
			return nil, fmt.Errorf("ivshmem: %w", err)
		}
		c.mapping = b
	}
	return c.mapping, nil
}

// Peers returns who is connected, the client itself among them once it has
// vectors, by ID.
func (c *Client) Peers() []PeerInfo {
	c.mu.RLock()
	defer c.mu.RUnlock()
	infos := make([]PeerInfo, 0, len(c.peers))
	for id, vectors := range c.peers {
		infos = append(infos, PeerInfo{ID: id, Vectors: len(vectors)})
	}
	slices.SortFunc(infos, func(a, b PeerInfo) int { return cmp.Compare(a.ID, b.ID) })
	return infos
}

// Vectors returns how many vectors of its own the client has so far.
func (c *Client) Vectors() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.peers[c.id])
}

// Ring interrupts a peer, which may be the client itself. It returns
// [ErrNoPeer] or [ErrNoVector] where there is nothing to ring. It does not wait
// for the peer: a vector that was rung and not yet taken in is pending, and
// stays so. (A peer that makes its vectors block, again and again and between
// two system calls, holding their count at the top, can still make Ring wait.
// Linux has no way to write to an eventfd that rules it out.)
func (c *Client) Ring(peer, vector uint16) error {
	c.mu.RLock()
	vectors, ok := c.peers[peer]
	var d *descriptor
	if int(vector) < len(vectors) && vectors[vector].acquire() {
		d = vectors[vector]
	}
	closed := c.closed
	c.mu.RUnlock()
	switch {
	case closed:
		return errClientClosed
	case !ok:
		return ErrNoPeer
	case d == nil:
		return ErrNoVector
	}
	defer d.release()
	if err := d.ring(); err != nil {
		return fmt.Errorf("ivshmem: peer %d, vector %d: %w", peer, vector, err)
	}
	return nil
}

func (c *Client) isClosed() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.closed
}

// Close leaves the server, unmaps the memory and ends [Client.Next]. A second
// Close does nothing.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	mapping := c.mapping
	c.mapping = nil
	if c.passed != nil {
		c.passed.release()
		c.passed = nil
	}
	for id, vectors := range c.peers {
		releaseAll(vectors)
		delete(c.peers, id)
	}
	c.mu.Unlock()
	err := c.conn.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil // the server was lost
	}
	if c.poller != nil {
		err = errors.Join(err, c.poller.close())
	}
	if c.memory != nil {
		err = errors.Join(err, c.memory.Close())
	}
	if mapping != nil {
		err = errors.Join(err, unmapMemory(mapping))
	}
	if err != nil {
		return fmt.Errorf("ivshmem: client: %w", err)
	}
	return nil
}
