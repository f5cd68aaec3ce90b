package ivshmem

import (
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// greetTime bounds how long a client's first messages may take, which fit
	// any socket's buffer.
	greetTime = 10 * time.Second
	// sendBuffer is the size of a connection's buffer, in bytes as setsockopt
	// takes them: some forty messages. Their descriptors are in flight, which
	// the kernel lets a user have only so many of.
	sendBuffer = 16 << 10
)

// A member is a client that has an ID.
type member struct {
	info    ClientInfo
	conn    *net.UnixConn
	vectors []*descriptor // owned
	wake    *sync.Cond    // on Server.mu: the queue has grown, or gone is set

	// Guarded by Server.mu.
	queue   []notice // what to tell the client
	gone    bool
	sendErr error // why sending ended
}

// A notice is something to tell a client about one peer, or about itself.
type notice struct {
	id      uint16
	vectors []*descriptor // one message each; the peer owns them
	sent    int           // how many of them were handed to the sender
	bye     bool          // then a message without descriptor: the peer is gone
}

var (
	errFull = errors.New("as many clients are connected as may be")
	errNoID = errors.New("all IDs are known to clients that are connected")
)

// admit decides on a connection and, where it lets the client in, gives it an
// ID and vectors.
func (s *Server) admit(conn *net.UnixConn, c *Credentials) (*member, error) {
	var err error
	if *c, err = credentials(conn); err != nil {
		return nil, err
	}
	if s.opts.Admit != nil {
		if err := s.opts.Admit(*c); err != nil {
			return nil, err
		}
	}
	if err := conn.SetWriteBuffer(sendBuffer); err != nil {
		return nil, err
	}
	id, err := s.takeID()
	if err != nil {
		return nil, err
	}
	vectors, err := newEventfds(s.opts.Vectors)
	if err != nil {
		s.giveBackID(id)
		return nil, err
	}
	m := &member{conn: conn, vectors: vectors, wake: sync.NewCond(&s.mu)}
	m.info = ClientInfo{ID: id, Credentials: *c, Joined: time.Now()}
	return m, nil
}

func (s *Server) takeID() (uint16, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids.taken() >= s.opts.MaxClients {
		return 0, errFull
	}
	id, ok := s.ids.take()
	if !ok {
		return 0, errNoID
	}
	return id, nil
}

func (s *Server) giveBackID(id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids.giveBack(id)
}

// greet sends what a client waits for at startup: version, ID, memory.
func (s *Server) greet(m *member) error {
	end := time.Now().Add(greetTime)
	if err := m.conn.SetWriteDeadline(end); err != nil {
		return err
	}
	late := func() bool { return time.Now().After(end) }
	err := sendMessage(m.conn, protocolVersion, nil, late)
	if err == nil {
		err = sendMessage(m.conn, int64(m.info.ID), nil, late)
	}
	if err == nil {
		err = sendMessage(m.conn, sharedMemory, s.memory, late)
		if err != nil {
			// A client gives up on the message without its descriptor.
			sendMessage(m.conn, sharedMemory, nil, late)
		}
	}
	if err == nil {
		err = m.conn.SetWriteDeadline(time.Time{})
	}
	return err
}

// drop forgets a member that was not published.
func (s *Server) drop(m *member) {
	s.giveBackID(m.info.ID)
	releaseAll(m.vectors)
}

// publish tells the others of a new member, and it of them and of itself.
func (s *Server) publish(m *member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := m.info.ID
	for _, other := range slices.Sorted(maps.Keys(s.members)) {
		p := s.members[other]
		p.enqueue(notice{id: id, vectors: m.vectors})
		m.enqueue(notice{id: other, vectors: p.vectors})
	}
	m.enqueue(notice{id: id, vectors: m.vectors})
	s.members[id] = m
	if s.isClosed() {
		m.conn.Close()
	}
}

// withdraw takes a member out and tells the others.
func (s *Server) withdraw(m *member) {
	s.mu.Lock()
	id := m.info.ID
	delete(s.members, id)
	s.ids.leave(id)
	if len(m.vectors) > 0 { // else nobody has heard of it
		for _, p := range s.members {
			p.forget(id)
		}
	}
	m.gone, m.queue = true, nil
	m.wake.Signal()
	s.mu.Unlock()
	m.conn.Close()
	releaseAll(m.vectors)
}

// enqueue adds a notice that says something.
//
// Preconditions: Server.mu is held.
func (m *member) enqueue(n notice) {
	if len(n.vectors) > 0 || n.bye {
		m.queue = append(m.queue, n)
		m.wake.Signal()
	}
}

// forget tells m that peer id is gone, unless m has not heard of it yet.
//
// Preconditions: Server.mu is held.
func (m *member) forget(id uint16) {
	i := slices.IndexFunc(m.queue, func(n notice) bool { return n.id == id && !n.bye })
	switch {
	case i < 0: // all was sent
		m.enqueue(notice{id: id, bye: true})
	case m.queue[i].sent == 0:
		m.queue = slices.Delete(m.queue, i, i+1)
	default:
		n := &m.queue[i]
		n.vectors, n.bye = n.vectors[:n.sent], true
		m.wake.Signal()
	}
}

// send sends what a member has to be told until it is gone.
func (s *Server) send(m *member) {
	for {
		num, d, ok := s.nextMessage(m)
		if !ok {
			return
		}
		err := sendMessage(m.conn, num, d, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return m.gone || s.isClosed()
		})
		if d != nil {
			d.release()
		}
		if err != nil {
			s.mu.Lock()
			m.sendErr = err
			s.mu.Unlock()
			m.conn.Close() // which watch notices
			return
		}
	}
}

// nextMessage waits for something to tell a member. The descriptor is the
// caller's to release.
func (s *Server) nextMessage(m *member) (num int64, d *descriptor, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if m.gone {
			return 0, nil, false
		}
		if len(m.queue) == 0 {
			m.wake.Wait()
			continue
		}
		n := &m.queue[0]
		num = int64(n.id)
		if n.sent < len(n.vectors) {
			// The owner's reference is held until it leaves, which would have
			// cut the notice short.
			d = n.vectors[n.sent]
			d.acquire()
			n.sent++
			return num, d, true
		}
		bye := n.bye
		m.queue = m.queue[1:]
		if len(m.queue) == 0 {
			m.queue = nil
		}
		if bye {
			return num, nil, true
		}
	}
}

// sendError returns why sending to the member ended.
func (m *member) sendError() error {
	m.wake.L.Lock()
	defer m.wake.L.Unlock()
	return m.sendErr
}
