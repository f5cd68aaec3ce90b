package vma

import (
	"bytes"
	"io"
	"slices"

	"github.com/virtfmt/virtfmt/internal/safeio"
)

// A source is an archive read from front to back, with a look ahead.
type source interface {
	// offset returns how many bytes were skipped so far.
	offset() int64
	// peek returns the next n bytes, fewer only where the archive ends. They
	// are valid until the next call.
	peek(n int) ([]byte, error)
	// ahead returns n bytes from skip bytes on, as peek does. What peek
	// returned before stays valid on a file only.
	ahead(skip, n int) ([]byte, error)
	// body returns how many of the next n bytes there are. A stream returns
	// them as well.
	body(n int) (have int, b []byte, err error)
	// skip consumes n bytes that peek or body returned.
	skip(n int)
}

// A fileSource reads through an io.ReaderAt, and of data nothing.
type fileSource struct {
	r         io.ReaderAt
	pos, size int64 // Invariant: 0 <= pos <= size
	buf       []byte
	bufPos    int64 // offset of buf[0]
}

func newBytesSource(b []byte) *fileSource {
	return &fileSource{r: bytes.NewReader(b), size: int64(len(b))}
}

func (s *fileSource) offset() int64 { return s.pos }
func (s *fileSource) skip(n int)    { s.pos += int64(n) }

func (s *fileSource) peek(n int) ([]byte, error) { return s.ahead(0, n) }

func (s *fileSource) ahead(skip, n int) ([]byte, error) {
	off := min(s.pos+int64(skip), s.size)
	n = int(min(int64(n), s.size-off))
	at := off - s.bufPos
	if at >= 0 && at+int64(n) <= int64(len(s.buf)) {
		return s.buf[at:][:n], nil
	}
	if n > maxExtent {
		return safeio.ReadAt(s.r, off, int64(n), int64(n))
	}
	if at >= 0 && at <= int64(len(s.buf))+near && n < nearby {
		if b, err := s.fill(off, int(min(nearby, s.size-off))); err == nil {
			return b[:n], nil
		}
	}
	return s.fill(off, n)
}

// Extents of zeros are short. Where one begins within near bytes of what was
// read before, so may the next ones, and nearby bytes are read at once.
const (
	near   = 4 << 10
	nearby = 8 << 10
)

// fill reads the n bytes at off into the buffer.
func (s *fileSource) fill(off int64, n int) ([]byte, error) {
	s.buf, s.bufPos = slices.Grow(s.buf[:0], n)[:n], off
	if err := safeio.ReadFull(s.r, s.buf, off); err != nil {
		s.buf = s.buf[:0]
		return nil, err
	}
	return s.buf, nil
}

func (s *fileSource) body(n int) (int, []byte, error) {
	return int(min(int64(n), s.size-s.pos)), nil, nil
}

// A streamSource reads an io.Reader, and never more of it than was asked for.
type streamSource struct {
	r    io.Reader
	pos  int64  // offset of buf[head]
	buf  []byte // Invariant: 0 <= head <= len(buf)
	head int
	eof  bool
	late *lateSums // of what is in buf; nil where r checks what it returns

	lenient bool  // where r cannot go on, the archive ends
	failed  error // how r failed first then
}

func (s *streamSource) offset() int64 { return s.pos }

func (s *streamSource) skip(n int) {
	s.head += n
	s.pos += int64(n)
}

func (s *streamSource) peek(n int) ([]byte, error) {
	if have := len(s.buf) - s.head; have < n && !s.eof {
		if err := s.makeRoom(n); err != nil {
			return nil, err
		}
		if err := s.fill(n); err != nil {
			return nil, err
		}
	}
	return s.buf[s.head:min(s.head+n, len(s.buf))], nil
}

func (s *streamSource) ahead(skip, n int) ([]byte, error) {
	b, err := s.peek(skip + n)
	return b[min(skip, len(b)):], err
}

func (s *streamSource) body(n int) (int, []byte, error) {
	b, err := s.peek(n)
	return len(b), b, err
}

// growth is how much the buffer grows at once beyond one extent, so that a
// header costs no more than twice what there is of it.
const growth = 1 << 20

// smallBuffer is enough for a header with little in it.
const smallBuffer = 16 << 10

// makeRoom makes the buffer able to hold n bytes from head on, or as much of
// them as can be afforded before they were seen.
func (s *streamSource) makeRoom(n int) error {
	if s.head < len(s.buf) && s.head+n <= cap(s.buf) {
		return nil
	}
	if err := s.settle(); err != nil {
		return err
	}
	rest := s.buf[s.head:]
	if n <= cap(s.buf) {
		s.move(s.buf[:0])
		return nil
	}
	size := min(n, max(2*len(rest), len(rest)+growth))
	if n <= maxPeek {
		size = min(maxPeek, max(n, 2*cap(s.buf), smallBuffer))
	}
	s.move(make([]byte, 0, size))
	return nil
}

// move moves what is not consumed to the front of buf, which becomes the
// buffer.
//
// Preconditions: what is in the current buffer is settled or handed out.
func (s *streamSource) move(buf []byte) {
	s.buf, s.head = append(buf[:0], s.buf[s.head:]...), 0
	if s.late != nil {
		s.late.from = len(s.buf)
	}
}

// fill reads until n bytes are there, growing the buffer on the way, or until
// the stream ends.
func (s *streamSource) fill(n int) error {
	for empty := 0; len(s.buf)-s.head < n; {
		if len(s.buf) == cap(s.buf) {
			if err := s.makeRoom(n); err != nil {
				return err
			}
		}
		k, err := s.read(s.buf[len(s.buf):min(s.head+n, cap(s.buf))])
		if k < 0 || k > cap(s.buf)-len(s.buf) {
			return io.ErrNoProgress
		}
		s.buf = s.buf[:len(s.buf)+k]
		switch {
		case err == io.EOF:
			s.eof = true
			return nil
		case err != nil && s.lenient:
			if s.failed == nil {
				s.failed = ioError(s.pos+int64(len(s.buf)-s.head), err)
			}
			// The content of a frame with a wrong checksum is there all the same.
			if z, ok := s.r.(*zstdReader); !ok || !z.resume() {
				s.eof = true
				return nil
			}
		case err != nil:
			return err
		case k > 0:
			empty = 0
		default:
			if empty++; empty == 100 {
				return io.ErrNoProgress
			}
		}
	}
	return nil
}

// read reads what follows the buffer.
func (s *streamSource) read(p []byte) (int, error) {
	if s.late == nil {
		return s.r.Read(p)
	}
	return s.late.read(p, s.buf)
}

// settle checks what of the buffer was not handed out.
func (s *streamSource) settle() error {
	if s.late == nil || s.late.from == len(s.buf) && len(s.late.frames) == 0 {
		return nil
	}
	return s.late.handOut(s.buf)()
}

// swap gives the source another buffer, so that views of the current one stay
// valid. What was read ahead moves over. The current one has to be checked by
// the function that swap returns, see [lateSums].
func (s *streamSource) swap(buf []byte) (check func() error) {
	check = func() error { return nil }
	if s.late != nil {
		check = s.late.handOut(s.buf)
	}
	s.move(buf)
	return check
}

// release drops a buffer that grew past what extents need, once a large
// header was read.
//
// Preconditions: as of move.
func (s *streamSource) release() {
	if cap(s.buf) > maxPeek && len(s.buf)-s.head <= maxPeek {
		s.move(make([]byte, 0, maxPeek))
	}
}
