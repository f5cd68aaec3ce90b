package ivshmem

import (
	"errors"
	"net"
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
//
// What it has to be told is never written down: members stand in a row in the
// order in which they joined, and each is told of one after the other, itself
// among them. So a member that does not read costs as little as one that does,
// however many come and go meanwhile.
type member struct {
	info    ClientInfo
	conn    *net.UnixConn
	vectors []*descriptor // owned
	wake    *sync.Cond    // on Server.mu: there is something to tell, or gone is set

	// Guarded by Server.mu.
	number     uint64  // in the order of joining
	prev, next *member // in the row
	at         *member // whom the client is told of next, nil if it knows all
	sent       int     // how many of at's vectors were handed to the sender
	byes       []uint16
	gone       bool
	sendErr    error // why sending ended
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

// publish puts a new member at the end of the row, so that the others are told
// of it, and it of them and of itself.
func (s *Server) publish(m *member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.joins++
	m.number, m.prev = s.joins, s.last
	if s.last == nil {
		s.first = m
	} else {
		s.last.next = m
	}
	s.last, m.at = m, s.first
	s.members[m.info.ID] = m
	for _, p := range s.members {
		if p.at == nil {
			p.at = m
			p.wake.Signal()
		}
	}
	if s.isClosed() {
		m.conn.Close()
	}
}

// withdraw takes a member out of the row. Those that have heard of it are told.
func (s *Server) withdraw(m *member) {
	s.mu.Lock()
	delete(s.members, m.info.ID)
	s.ids.leave(m.info.ID)
	for _, p := range s.members {
		p.forget(m)
	}
	if m.prev == nil {
		s.first = m.next
	} else {
		m.prev.next = m.next
	}
	if m.next == nil {
		s.last = m.prev
	} else {
		m.next.prev = m.prev
	}
	m.gone = true
	m.wake.Signal()
	s.mu.Unlock()
	m.conn.Close()
	releaseAll(m.vectors)
}

// forget has p be told that m is gone, unless it has not heard of it.
//
// Preconditions: Server.mu is held; m is in the row still.
func (p *member) forget(m *member) {
	heard := p.at == nil || m.number < p.at.number
	if p.at == m {
		heard = p.sent > 0
		p.at, p.sent = m.next, 0
	}
	if heard && len(m.vectors) > 0 { // else there was nothing to hear
		p.byes = append(p.byes, m.info.ID)
		p.wake.Signal()
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
	for !m.gone {
		switch {
		case len(m.byes) > 0:
			num = int64(m.byes[0])
			if m.byes = m.byes[1:]; len(m.byes) == 0 {
				m.byes = nil
			}
			return num, nil, true
		case m.at == nil:
			m.wake.Wait()
		case m.sent == len(m.at.vectors):
			m.at, m.sent = m.at.next, 0
		default:
			// The owner's reference is held until it leaves the row.
			d = m.at.vectors[m.sent]
			d.acquire()
			m.sent++
			return int64(m.at.info.ID), d, true
		}
	}
	return 0, nil, false
}

// sendError returns why sending to the member ended.
func (m *member) sendError() error {
	m.wake.L.Lock()
	defer m.wake.L.Unlock()
	return m.sendErr
}
