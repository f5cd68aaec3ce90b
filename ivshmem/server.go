package ivshmem

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// ServerOptions say what a server shares and with whom. The zero value shares
// 4 MiB of new memory and one interrupt vector a client with whoever connects.
type ServerOptions struct {
	// Size is the size of the shared memory that the server makes, in bytes: a
	// power of two, at least a page. 0 means [DefaultShared].
	Size int64

	// Memory, unless nil, is shared in place of memory that the server makes.
	// Its size must be a power of two and at least a page. The server does not
	// close it. [NewMemory], [NewMemoryIn] and [OpenSHM] make some.
	Memory *os.File

	// Vectors is the number of interrupt vectors of each client, at most
	// [MaxVectors]. 0 means 1; negative means none. QEMU's device ignores those
	// that it has no use for.
	Vectors int

	// MaxClients is how many clients can be connected at a time, at most
	// one more than [MaxID]. 0 means 1024. A client costs the server one file descriptor
	// and one for each vector, and each other client one for each vector.
	MaxClients int

	// Admit, unless nil, is asked for each connection. A client for which it
	// returns an error is refused. It is called from many goroutines.
	Admit func(Credentials) error

	// Events, unless nil, is told who comes and goes, one event at a time; it
	// holds up others that come and go while it runs.
	Events func(ServerEvent)
}

// Credentials are who a client is, as the kernel saw it when it connected.
type Credentials struct {
	PID int
	UID int
	GID int
}

// A ServerEvent is a client that comes or goes.
type ServerEvent struct {
	Kind ServerEventKind
	ID   uint16 // not for Refused
	Credentials
	Err error // Refused: why; Left: nil where the client closed the connection
}

// A ServerEventKind is a kind of [ServerEvent].
type ServerEventKind uint8

// What a ServerEvent tells.
const (
	Joined  ServerEventKind = iota // the client has an ID and the shared memory
	Left                           // the client is gone, or was dropped for sending data
	Refused                        // the client was not let in
)

var serverEventKindNames = [...]string{"joined", "left", "refused"}

// String returns "joined", "left" or "refused".
func (k ServerEventKind) String() string {
	if int(k) < len(serverEventKindNames) {
		return serverEventKindNames[k]
	}
	return fmt.Sprintf("ServerEventKind(%d)", uint8(k))
}

// String tells the event.
func (e ServerEvent) String() string {
	var s string
	switch e.Kind {
	case Joined:
		s = fmt.Sprintf("client %d joined", e.ID)
	case Left:
		s = fmt.Sprintf("client %d left", e.ID)
	default:
		s = "client refused"
	}
	s += fmt.Sprintf(" (pid %d, uid %d)", e.PID, e.UID)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// A ClientInfo is a client of a [Server].
type ClientInfo struct {
	ID uint16
	Credentials
	Joined time.Time
}

// A Server shares memory and interrupts between its clients, which are QEMUs
// with an ivshmem-doorbell device, other programs with a [Client], or whatever
// speaks version 0 of the protocol. Once clients know each other they interrupt each other without
// the server; they go on when it is gone.
//
// What it does for clients that break easily, measured on QEMU 7.2 and 10.0:
//
//   - An ID does not come back while a client is connected that has heard of an
//     earlier holder: QEMU corrupts its heap.
//   - Memory is always a power of two of at least a page, and comes before the
//     vectors: QEMU aborts.
//   - A connection is never closed before the client has the memory, not even
//     while the server shuts down: QEMU spins. Who is not let in is told so by a
//     version that does not exist, on which QEMU exits with an error.
//
// IDs are 16 bits wide. A server that one client never leaves can thus take
// 65535 others over its life, and refuses more until that client leaves; when
// nobody is connected it starts anew.
//
// Who may connect is up to the permissions of the socket, and to
// [ServerOptions.Admit].
//
// A client that is slow, or stopped, delays nobody. When it reads again it is
// told what is, not all that was, so that it costs no memory but two bytes for
// each other client that it knew and that has left.
//
// Methods of Server are safe for concurrent use.
type Server struct {
	opts   ServerOptions
	memory *descriptor
	wg     sync.WaitGroup // Serve, and goroutines of connections; added to with mu held
	events sync.Mutex     // serialises Options.Events

	done chan struct{} // closed by Close, with mu held

	mu          sync.Mutex // guards what follows, and what every member is told
	ids         idPool
	members     map[uint16]*member
	first, last *member                        // of the row of members
	joins       uint64                         // members so far
	listeners   map[*net.UnixListener]struct{} // that Serve accepts from
}

// NewServer returns a server that has its memory and waits for
// [Server.Serve].
func NewServer(o *ServerOptions) (*Server, error) {
	s := &Server{done: make(chan struct{}), members: map[uint16]*member{}, listeners: map[*net.UnixListener]struct{}{}}
	if o != nil {
		s.opts = *o
	}
	if err := s.opts.setDefaults(); err != nil {
		return nil, fmt.Errorf("ivshmem: server: %w", err)
	}
	memory := s.opts.Memory
	if memory == nil {
		f, err := NewMemory(s.opts.Size)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		memory = f
	}
	size, err := regularSize(memory)
	if err == nil {
		err = checkSharedSize(size)
	}
	if err == nil {
		s.memory, err = sharedDescriptor(memory)
	}
	if err != nil {
		return nil, fmt.Errorf("ivshmem: server: %w", err)
	}
	return s, nil
}

func (o *ServerOptions) setDefaults() error {
	o.Size = cmp.Or(o.Size, DefaultShared)
	o.MaxClients = cmp.Or(o.MaxClients, 1024)
	switch {
	case o.Vectors == 0:
		o.Vectors = 1
	case o.Vectors < 0:
		o.Vectors = 0
	}
	if o.Vectors > MaxVectors {
		return fmt.Errorf("%d vectors, want at most %d", o.Vectors, MaxVectors)
	}
	if o.MaxClients < 0 || o.MaxClients > MaxID+1 {
		return fmt.Errorf("%d clients, want at most %d", o.MaxClients, MaxID+1)
	}
	return nil
}

// Serve takes connections from l until [Server.Close], and then returns an
// error that satisfies [fs.ErrClosed]; any other error is that of l. It closes
// l, and no process can connect to the socket after that, even where another
// has it open too.
func (s *Server) Serve(l *net.UnixListener) error {
	open := s.enter(l)
	if open {
		defer s.leave(l)
	}
	defer l.Close()
	// Closing l removes the socket's name, which has to go before connections
	// are refused: a socket that refuses them is taken for stale, and replaced.
	// So there is a second descriptor to refuse them by.
	socket, err := l.File()
	if err == nil {
		defer socket.Close()
		if open {
			err = s.accept(l)
		}
		l.Close()
		err = errors.Join(err, refuseConnections(socket), refuseWaiting(socket))
	}
	if s.isClosed() {
		err = fs.ErrClosed
	}
	return fmt.Errorf("ivshmem: server: %w", err)
}

// enter makes l one that Close ends, unless that has been called.
func (s *Server) enter(l *net.UnixListener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return false
	}
	s.wg.Add(1)
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) leave(l *net.UnixListener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
	s.wg.Done()
}

// accept takes connections until l fails, or Close closes it.
func (s *Server) accept(l *net.UnixListener) error {
	const shortest, longest = time.Millisecond, time.Second
	wait := shortest
	for {
		conn, err := l.AcceptUnix()
		switch {
		case err == nil:
			wait = shortest
			s.ServeConn(conn)
			continue
		case !isTransient(err):
			return err
		}
		select { // until there are descriptors again, or memory
		case <-s.done:
			return err
		case <-time.After(wait):
			wait = min(2*wait, longest)
		}
	}
}

// ServeConn takes one connection, as [Server.Serve] does with those it accepts,
// and closes it in the end. It does not wait for that.
func (s *Server) ServeConn(conn *net.UnixConn) {
	s.mu.Lock()
	if s.isClosed() {
		s.mu.Unlock()
		refuse(conn)
		return
	}
	s.wg.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.wg.Done()
		s.handle(conn)
	}()
}

// Clients returns who is connected, by ID.
func (s *Server) Clients() []ClientInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	infos := make([]ClientInfo, 0, len(s.members))
	for _, m := range s.members {
		infos = append(infos, m.info)
	}
	slices.SortFunc(infos, func(a, b ClientInfo) int { return cmp.Compare(a.ID, b.ID) })
	return infos
}

// Close ends the server: connections that wait are refused, clients that are
// about to get the memory get it, and all are disconnected. They go on sharing
// what they have. Close waits until all is done, [Server.Serve] too, and calls
// no hook after that; hooks must not call it. A second Close does nothing.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.isClosed() {
		s.mu.Unlock()
		s.wg.Wait()
		return nil
	}
	close(s.done)
	var err error
	for l := range s.listeners {
		if cerr := l.Close(); !errors.Is(cerr, net.ErrClosed) {
			err = errors.Join(err, cerr)
		}
	}
	for _, m := range s.members {
		m.conn.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	s.memory.release()
	return err
}

func (s *Server) isClosed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// handle serves one connection from beginning to end.
func (s *Server) handle(conn *net.UnixConn) {
	defer conn.Close()
	e := ServerEvent{Kind: Refused}
	m, err := s.admit(conn, &e.Credentials)
	if err != nil {
		refuse(conn)
		e.Err = err
		s.tell(e)
		return
	}
	if err := s.greet(m); err != nil {
		s.drop(m)
		e.Err = err
		s.tell(e)
		return
	}
	s.publish(m)
	e.Kind, e.ID = Joined, m.info.ID
	s.tell(e)

	sent := make(chan struct{})
	go func() {
		defer close(sent)
		s.send(m)
	}()
	e.Kind, e.Err = Left, s.watch(m)
	s.withdraw(m)
	<-sent
	s.tell(e)
}

func (s *Server) tell(e ServerEvent) {
	if s.opts.Events == nil {
		return
	}
	s.events.Lock()
	defer s.events.Unlock()
	s.opts.Events(e)
}

// watch waits until the client closes the connection. A client has nothing to
// say; one that speaks does not follow the protocol.
func (s *Server) watch(m *member) error {
	n, err := m.conn.Read(make([]byte, 1))
	switch {
	case n > 0:
		return errors.New("the client sent data")
	case errors.Is(err, net.ErrClosed) && s.isClosed():
		return fs.ErrClosed
	case errors.Is(err, net.ErrClosed):
		err = m.sendError()
	}
	if err == io.EOF || hungUp(err) {
		return nil
	}
	return err
}

// refuse turns a client away in a way that it understands.
func refuse(conn *net.UnixConn) {
	conn.SetWriteDeadline(time.Now().Add(greetTime))
	sendMessage(conn, refusal, nil, func() bool { return true })
	conn.Close()
}
