package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync"

	"github.com/virtfmt/virtfmt/internal/block"
)

// inFlight is how many requests of a client are worked on at a time, and how
// many bytes of payload they may hold.
const (
	inFlight      = 16
	inFlightBytes = 2 * maxPayload
)

// A session is the transmission phase of one client.
type session struct {
	c          net.Conn
	r          *bufio.Reader
	e          *Export
	structured bool
	meta       []metaContext
	slots      chan struct{}

	writing sync.Mutex // held while a reply goes out

	payload sync.Mutex
	room    *sync.Cond // guards used
	used    int        // bytes of payload held
}

type request struct {
	flags, typ uint16
	cookie     uint64
	off        int64
	n          int64
	data       []byte // of a write
}

func newSession(c net.Conn, e *Export, n *negotiation) *session {
	s := &session{c: c, r: bufio.NewReader(c), e: e, structured: n.structured, slots: make(chan struct{}, inFlight)}
	s.room = sync.NewCond(&s.payload)
	if n.metaFor == e {
		s.meta = n.meta
	}
	return s
}

// run answers requests until the client leaves.
func (s *session) run() error {
	var workers sync.WaitGroup
	defer workers.Wait()
	for {
		q, err := s.read()
		if err != nil {
			return err
		}
		if q.typ == cmdDisconnect {
			return nil
		}
		s.slots <- struct{}{}
		workers.Go(func() {
			defer func() { <-s.slots }()
			if err := s.answer(q); err != nil {
				s.c.Close() // the reader ends with the connection
			}
			s.release(len(q.data))
		})
	}
}

// read reads one request with its payload.
func (s *session) read() (request, error) {
	var h [28]byte
	if _, err := io.ReadFull(s.r, h[:]); err != nil {
		return request{}, err
	}
	if m := binary.BigEndian.Uint32(h[:]); m != magicRequest {
		return request{}, fmt.Errorf("request magic %#x", m)
	}
	q := request{
		flags:  binary.BigEndian.Uint16(h[4:]),
		typ:    binary.BigEndian.Uint16(h[6:]),
		cookie: binary.BigEndian.Uint64(h[8:]),
		off:    int64(binary.BigEndian.Uint64(h[16:])),
		n:      int64(binary.BigEndian.Uint32(h[24:])),
	}
	if q.typ != cmdWrite {
		return q, nil
	}
	if q.n > maxPayload {
		return q, fmt.Errorf("write of %d bytes", q.n)
	}
	s.reserve(int(q.n))
	q.data = make([]byte, q.n)
	_, err := io.ReadFull(s.r, q.data)
	return q, err
}

// reserve waits until n bytes of payload may be held.
func (s *session) reserve(n int) {
	s.payload.Lock()
	for s.used > 0 && s.used+n > inFlightBytes {
		s.room.Wait()
	}
	s.used += n
	s.payload.Unlock()
}

func (s *session) release(n int) {
	s.payload.Lock()
	s.used -= n
	s.payload.Unlock()
	s.room.Broadcast()
}

// answer carries out a request. Its error means that the client is gone.
func (s *session) answer(q request) error {
	if err := s.valid(q); err != nil {
		return s.fail(q, err)
	}
	switch q.typ {
	case cmdRead:
		return s.readData(q)
	case cmdBlockStatus:
		return s.blockStatus(q)
	}
	if err := s.change(q); err != nil {
		return s.fail(q, err)
	}
	return s.succeed(q)
}

// A wireError is an error with a number of its own on the wire.
type wireError struct {
	errno uint32
	text  string
}

func (e *wireError) Error() string { return e.text }

// valid checks a request against the protocol and the export.
func (s *session) valid(q request) error {
	size := s.e.Disk.Size()
	inside := q.off >= 0 && q.off <= size && q.n <= size-q.off
	allowed := uint16(0)
	switch q.typ {
	case cmdRead:
		allowed = cmdFlagDF
		if q.n > maxPayload {
			return &wireError{errnoOverflow, "read too long"}
		}
	case cmdWrite, cmdTrim:
		allowed = cmdFlagFUA
	case cmdWriteZeroes:
		allowed = cmdFlagFUA | cmdFlagNoHole
	case cmdBlockStatus:
		allowed = cmdFlagReqOne
		if len(s.meta) == 0 || q.n == 0 {
			return &wireError{errnoInvalid, "no context was selected, or no range given"}
		}
	case cmdFlush:
		inside = true
	default:
		return &wireError{errnoInvalid, fmt.Sprintf("unknown command %d", q.typ)}
	}
	switch changes := q.typ == cmdWrite || q.typ == cmdTrim || q.typ == cmdWriteZeroes; {
	case changes && !s.e.Writable:
		return &wireError{errnoPerm, "the export is read-only"}
	case changes && !inside:
		return &wireError{errnoNoSpace, "past the end of the disk"}
	case !inside:
		return &wireError{errnoInvalid, "past the end of the disk"}
	case q.flags&^allowed&^cmdFlagFUA != 0:
		return &wireError{errnoInvalid, fmt.Sprintf("flags %#x", q.flags)}
	}
	return nil
}

// change carries out what is not a read.
func (s *session) change(q request) error {
	var err error
	switch q.typ {
	case cmdWrite:
		w, ok := s.e.Disk.(io.WriterAt)
		if !ok {
			return &wireError{errnoPerm, "the disk cannot be written"}
		}
		_, err = w.WriteAt(q.data, q.off)
	case cmdWriteZeroes:
		err = s.zero(q)
	case cmdTrim:
		d, ok := s.e.Disk.(discarder)
		if !ok {
			return &wireError{errnoNotSup, "the disk cannot discard"}
		}
		err = d.DiscardAt(q.off, q.n)
		if errors.Is(err, errors.ErrUnsupported) {
			err = nil // a trim is a hint
		}
	case cmdFlush:
		return block.Sync(s.e.Disk)
	}
	if err == nil && q.flags&cmdFlagFUA != 0 {
		err = block.Sync(s.e.Disk)
	}
	return err
}

// zero writes zeroes, with the disk's own way where it has one.
func (s *session) zero(q request) error {
	if z, ok := s.e.Disk.(block.ZeroWriter); ok {
		return z.WriteZeroesAt(q.off, q.n)
	}
	w, ok := s.e.Disk.(io.WriterAt)
	if !ok {
		return &wireError{errnoPerm, "the disk cannot be written"}
	}
	buf := make([]byte, min(q.n, 1<<20))
	for off, end := q.off, q.off+q.n; off < end; off += int64(len(buf)) {
		if _, err := w.WriteAt(buf[:min(int64(len(buf)), end-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// readData answers a read: ranges that are known to be zero become holes where
// the client takes structured replies.
func (s *session) readData(q request) error {
	if s.structured && q.flags&cmdFlagDF == 0 && q.n > 0 {
		if e, ok := s.first(q.off, q.n); ok && e.IsZero() && e.Length == q.n {
			b := binary.BigEndian.AppendUint64(nil, uint64(q.off))
			b = binary.BigEndian.AppendUint32(b, uint32(q.n))
			return s.chunk(q, chunkDone, chunkOffsetHole, b, nil)
		}
	}
	s.reserve(int(q.n))
	defer s.release(int(q.n))
	data := make([]byte, q.n)
	if n, err := s.e.Disk.ReadAt(data, q.off); n < len(data) {
		return s.fail(q, errors.Join(err, io.ErrUnexpectedEOF))
	}
	if !s.structured {
		return s.simple(q, 0, data)
	}
	if q.n == 0 {
		return s.chunk(q, chunkDone, chunkNone, nil, nil)
	}
	return s.chunk(q, chunkDone, chunkOffsetData, binary.BigEndian.AppendUint64(nil, uint64(q.off)), data)
}

func (s *session) first(off, n int64) (block.Extent, bool) {
	for e, err := range s.e.Disk.Extents(off, n) {
		return e, err == nil
	}
	return block.Extent{}, false
}

// succeed answers a request that gives no data.
func (s *session) succeed(q request) error {
	if s.structured {
		return s.chunk(q, chunkDone, chunkNone, nil, nil)
	}
	return s.simple(q, 0, nil)
}

// fail answers with an error.
func (s *session) fail(q request, err error) error {
	errno := uint32(errnoIO)
	var wire *wireError
	switch {
	case errors.As(err, &wire):
		errno = wire.errno
	case errors.Is(err, fs.ErrClosed):
		errno = errnoShutdown
	case errors.Is(err, fs.ErrPermission):
		errno = errnoPerm
	case errors.Is(err, errors.ErrUnsupported):
		errno = errnoNotSup
	}
	if !s.structured {
		return s.simple(q, errno, nil)
	}
	text := err.Error()
	text = text[:min(len(text), 1000)]
	b := binary.BigEndian.AppendUint32(nil, errno)
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return s.chunk(q, chunkDone, chunkError, append(b, text...), nil)
}

func (s *session) simple(q request, errno uint32, data []byte) error {
	h := binary.BigEndian.AppendUint32(nil, magicSimple)
	h = binary.BigEndian.AppendUint32(h, errno)
	h = binary.BigEndian.AppendUint64(h, q.cookie)
	return s.send(h, data)
}

func (s *session) chunk(q request, flags, typ uint16, head, data []byte) error {
	h := binary.BigEndian.AppendUint32(nil, magicStructured)
	h = binary.BigEndian.AppendUint16(h, flags)
	h = binary.BigEndian.AppendUint16(h, typ)
	h = binary.BigEndian.AppendUint64(h, q.cookie)
	h = binary.BigEndian.AppendUint32(h, uint32(len(head)+len(data)))
	return s.send(append(h, head...), data)
}

func (s *session) send(head, data []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	bufs := net.Buffers{head, data}
	_, err := bufs.WriteTo(s.c)
	return err
}
