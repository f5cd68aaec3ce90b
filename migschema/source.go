package migschema

import (
	"io"

	"github.com/virtfmt/virtfmt/internal/block"
)

const (
	// windowSize is what is asked of an io.Reader at a time: enough for the
	// cost of a call to vanish, little enough to stay in a core's cache.
	windowSize = 256 << 10
	// maxEmptyReads is how many reads of nothing are borne in a row.
	maxEmptyReads = 100
)

// A source is a window that moves over a stream, or a stream that is wholly
// in memory. What it hands out are views of the window, valid until it is
// asked for more.
//
// Invariant: 0 <= pos <= end <= len(buf).
type source struct {
	r     io.Reader // nil: buf is all there is
	buf   []byte
	pos   int   // the next octet
	end   int   // past the last octet read
	base  int64 // offset in the stream of buf[0]
	err   error // why no more can be read, io.EOF at the end
	exact bool  // never read more than was asked for
}

func newSource(r io.Reader, exact bool) source {
	s := source{r: r, exact: exact}
	if r == nil {
		s.err = block.ErrNil
	}
	return s
}

func bytesSource(b []byte) source { return source{buf: b, end: len(b), err: io.EOF} }

// offset returns the offset in the stream of the next octet.
func (s *source) offset() int64 { return s.base + int64(s.pos) }

// window returns what has been read and not yet consumed.
func (s *source) window() []byte { return s.buf[s.pos:s.end:s.end] }

// has reports whether n more octets can be had, and makes them part of the
// window. Memory grows with what is read, not with n.
func (s *source) has(n int) bool { return s.end-s.pos >= n || s.fill(n) }

// take consumes n octets, which has has found, and returns a view of them.
func (s *source) take(n int) []byte {
	b := s.buf[s.pos : s.pos+n : s.pos+n]
	s.pos += n
	return b
}

// fill reads until the window holds n octets.
func (s *source) fill(n int) bool {
	empty := 0
	for s.end-s.pos < n {
		if s.err != nil {
			return false
		}
		s.makeRoom(n)
		to := len(s.buf)
		if s.exact {
			to = min(to, s.pos+n)
		}
		m, err := s.r.Read(s.buf[s.end:to])
		if m < 0 || m > to-s.end {
			m, err = 0, io.ErrNoProgress
		}
		s.end += m
		if err != nil {
			s.err = err
		} else if m > 0 {
			empty = 0
		} else if empty++; empty == maxEmptyReads {
			s.err = io.ErrNoProgress
		}
	}
	return true
}

// makeRoom leaves at least one free octet after end. A window that must hold
// more than it can is doubled.
func (s *source) makeRoom(n int) {
	switch {
	case s.buf == nil:
		s.buf = make([]byte, windowSize)
	case s.pos == s.end, s.pos > len(s.buf)/2, s.end == len(s.buf) && s.pos > 0:
		copy(s.buf, s.buf[s.pos:s.end])
		s.base += int64(s.pos)
		s.end -= s.pos
		s.pos = 0
	case s.end == len(s.buf):
		grown := make([]byte, max(min(n, 2*len(s.buf)), len(s.buf)+windowSize))
		copy(grown, s.buf[:s.end])
		s.buf = grown
	}
}

// skip consumes n octets without keeping them, and reports whether there
// were as many.
func (s *source) skip(n int64) bool {
	for {
		have := int64(s.end - s.pos)
		if n <= have {
			s.pos += int(n)
			return true
		}
		n -= have
		s.pos = s.end
		if !s.has(int(min(n, windowSize))) {
			return false
		}
	}
}

// failure returns the error that ended reading, or nil where the stream
// simply ended.
func (s *source) failure() error {
	if s.err == io.EOF || s.err == nil {
		return nil
	}
	return s.err
}
