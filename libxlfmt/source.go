package libxlfmt

import (
	"io"

	"github.com/virtfmt/virtfmt/internal/block"
)

// A source counts what is read from a stream, and reads nothing ahead.
type source struct {
	r    io.Reader
	off  int64     // bytes passed
	seek io.Seeker // nil: bytes are skipped by reading them
	base int64     // what seek told at offset 0
	size int64     // length of the stream as far as seek knows it
	junk []byte    // for skipping, made when needed
	idle int       // reads of nothing in a row
}

const (
	junkSize = 32 << 10
	minSeek  = 512 // fewer bytes are read, not sought over
	maxIdle  = 100 // reads of nothing that are borne in a row
)

func newSource(r io.Reader) source {
	s := source{r: r}
	seek, ok := r.(io.Seeker)
	if !ok {
		return s
	}
	here, err := seek.Seek(0, io.SeekCurrent)
	if err != nil {
		return s
	}
	n, err := block.Length(r)
	if err != nil {
		return s
	}
	s.seek, s.base, s.size = seek, here, n-here
	return s
}

// full fills p. At the end of the stream it is [io.EOF] before the first byte
// and [io.ErrUnexpectedEOF] behind it.
func (s *source) full(p []byte) error {
	_, err := io.ReadFull(sourceReader{s}, p)
	return err
}

// read is a plain read of at most len(p) bytes, which are not none.
func (s *source) read(p []byte) (int, error) {
	if s.r == nil {
		return 0, block.ErrNil
	}
	n, err := s.r.Read(p)
	s.off += int64(n)
	if n > 0 || err != nil {
		s.idle = 0
	} else if s.idle++; s.idle == maxIdle {
		return 0, io.ErrNoProgress
	}
	return n, err
}

// A sourceReader is a source as an [io.Reader].
type sourceReader struct{ s *source }

func (r sourceReader) Read(p []byte) (int, error) { return r.s.read(p) }

// scratch returns n bytes of memory that the next call uses again.
//
// Preconditions: n <= junkSize.
func (s *source) scratch(n int) []byte {
	if s.junk == nil {
		s.junk = make([]byte, junkSize)
	}
	return s.junk[:n]
}

// skip passes over n bytes. A stream that ends before them is
// [io.ErrUnexpectedEOF].
func (s *source) skip(n int64) error {
	if s.seek != nil && n >= minSeek && s.off+n <= s.size {
		at, err := s.seek.Seek(s.base+s.off+n, io.SeekStart)
		if err != nil {
			return err
		}
		s.off = at - s.base
		return nil
	}
	for n > 0 {
		p := s.scratch(int(min(n, junkSize)))
		if err := s.full(p); err != nil {
			return noEOF(err)
		}
		n -= int64(len(p))
	}
	return nil
}

// A window reads an [io.ReaderAt] front to back in chunks.
//
// Invariant: 0 <= start <= pos.
type window struct {
	r     io.ReaderAt
	size  int64
	pos   int64
	start int64  // offset of buf
	buf   []byte // what was read ahead
	mem   [windowSize]byte
}

// windowSize holds the header and the entries of a full batch of pages, and
// what stands between two of them.
const windowSize = 16 << 10

func newWindow(r io.ReaderAt, off, size int64) *window { return &window{r: r, pos: off, size: size} }

// Size returns the length of what is read.
func (w *window) Size() int64 { return w.size }

// Read reads from the window, which it moves forward where that is used up.
func (w *window) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if w.pos >= w.size {
		return 0, io.EOF
	}
	if w.pos < w.start || w.pos >= w.start+int64(len(w.buf)) {
		if len(p) >= windowSize {
			n, err := w.r.ReadAt(p[:min(int64(len(p)), w.size-w.pos)], w.pos)
			w.pos += int64(n)
			return n, eofIfEmpty(n, err)
		}
		n, err := w.r.ReadAt(w.mem[:min(windowSize, w.size-w.pos)], w.pos)
		w.start, w.buf = w.pos, w.mem[:n]
		if n == 0 {
			return 0, eofIfEmpty(n, err)
		}
	}
	n := copy(p, w.buf[w.pos-w.start:])
	w.pos += int64(n)
	return n, nil
}

// Seek moves to an offset from the start or from the current one.
func (w *window) Seek(off int64, whence int) (int64, error) {
	if whence == io.SeekCurrent {
		off += w.pos
	}
	w.pos = off
	return off, nil
}

// eofIfEmpty keeps an error only where nothing was read.
func eofIfEmpty(n int, err error) error {
	switch {
	case n > 0:
		return nil
	case err == nil:
		return io.EOF
	}
	return err
}
