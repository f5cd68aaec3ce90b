package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/sparse"
)

func (s *session) write(v *verb, args []string) {
	letters := map[string]string{"write": "bcCfnpP:qs:uz", "writev": "CfqP:", "aio_write": "CfiP:quz"}[v.name]
	t := s.transfer(v, args, letters)
	if t == nil {
		return
	}
	if (t.has("b") || t.has("c")) && !s.aligned(t) {
		return
	}
	if !t.has("P") {
		t.pattern = 0xcd
	}
	var source []byte
	if t.has("s") {
		source = make([]byte, min(t.n, max(0, s.img.Size()-t.off)))
		if t.has("b") {
			source = make([]byte, t.n)
		}
		n, err := fillFrom(source, t.given["s"])
		if err != nil {
			s.fail("%s: %s\n", t.given["s"], s.reason(err))
			return
		}
		source = source[:n]
	}
	err := s.inside(t)
	if err == nil {
		start := time.Now()
		err = s.writeAll(t, source)
		t.took = time.Since(start)
	}
	switch {
	case err != nil:
		s.failed(v, err)
	case !t.has("q"):
		s.report("wrote", t)
	}
}

// fillFrom reads p from a file, of which it reads no more than p holds, so that
// it may be a device without end. It returns how many bytes it read.
func fillFrom(p []byte, name string) (int, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := io.ReadFull(f, p)
	switch {
	case n == 0 && err == io.EOF:
		return 0, errors.New("file is empty")
	case err != nil && err != io.ErrUnexpectedEOF:
		return 0, err
	}
	return n, nil
}

// conflict tells which options do not go together, of a request with a number
// of lengths.
func (t *transfer) conflict(lengths int) string {
	kinds := 0
	for _, letter := range []string{"z", "P", "s"} {
		if t.has(letter) {
			kinds++
		}
	}
	async := t.verb.name == "aio_write"
	switch {
	case !t.verb.writes:
	case t.has("b") && t.has("z"):
		return "-b and -z cannot be specified at the same time"
	case t.has("f") && (t.has("b") || t.has("c")):
		return "-f and -b or -c cannot be specified at the same time"
	case t.has("n") && !t.has("z"):
		return "-n requires -z to be specified"
	case async && t.has("z") && lengths != 1:
		return "-z supports only a single length parameter"
	case t.has("u") && !t.has("z"):
		return "-u requires -z to be specified"
	case kinds > 1 && !async:
		return "Only one of -z, -P, and -s can be specified at the same time"
	}
	return ""
}

// writeAll writes what a request asks for: zeros, the source over and over, or
// bytes of one value.
func (s *session) writeAll(t *transfer, source []byte) error {
	var err error
	switch {
	case s.img.Qcow2 == nil && (t.has("b") || t.has("c") && !t.has("z")):
		return errors.ErrUnsupported
	case t.has("c") && !t.has("z") && s.img.Data != "": // clusters of it have no length
		return errors.ErrUnsupported
	case t.has("c") && !t.has("z") && !s.compressible(t):
		return syscall.EINVAL
	case t.has("z"):
		err = s.zero(t)
	default:
		err = s.writePieces(t, source)
	}
	if err == nil && (t.has("f") || s.how.writeThrough) {
		err = s.img.Writer().Sync()
	}
	return err
}

// compressible tells whether a request is one of whole clusters.
func (s *session) compressible(t *transfer) bool {
	cluster := s.img.ClusterSize()
	return t.off%cluster == 0 && (t.n%cluster == 0 || t.off+t.n == s.img.Size())
}

func (s *session) writePieces(t *transfer, source []byte) error {
	var p []byte
	if source == nil {
		p = bytes.Repeat([]byte{t.pattern}, int(min(t.n, maxPiece)))
	} else {
		p = make([]byte, min(t.n, maxPiece))
	}
	for done := int64(0); done < t.n; {
		p = p[:min(t.n-done, int64(len(p)))]
		if source != nil {
			at := int(done % int64(len(source)))
			for i := copy(p, source[at:]); i < len(p); {
				i += copy(p[i:], source)
			}
		}
		if err := s.writeAt(p, t, t.off+done); err != nil {
			return err
		}
		done += int64(len(p))
	}
	return nil
}

func (s *session) writeAt(p []byte, t *transfer, off int64) (err error) {
	q := s.img.Qcow2
	switch {
	case t.has("b"):
		_, err = q.WriteVMStateAt(p, off)
	case t.has("c"):
		_, err = q.WriteCompressedAt(p, off)
	default:
		_, err = s.img.Writer().WriteAt(p, off)
	}
	return err
}

// store writes p, as zeros where it holds nothing else.
func (s *session) store(p []byte, off int64) error {
	if block.IsZero(p) {
		return s.zeroAt(off, int64(len(p)), false)
	}
	_, err := s.img.Writer().WriteAt(p, off)
	return err
}

// zero makes the bytes of a request zeros.
func (s *session) zero(t *transfer) error {
	if !t.has("n") {
		return s.zeroAt(t.off, t.n, t.has("u"))
	}
	switch {
	case s.img.Raw != nil:
		return s.punch(t.off, t.n)
	case s.img.Qed != nil, !s.zeroable(t):
		return errors.ErrUnsupported
	}
	return s.zeroAt(t.off, t.n, t.has("u"))
}

// zeroAt makes bytes zeros, and gives back the space they took if unmap is set.
func (s *session) zeroAt(off, n int64, unmap bool) error {
	unmap = unmap && s.img.Discards()
	if s.img.Raw != nil && unmap {
		if err := s.punch(off, n); !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	if s.img.Qcow2 != nil && unmap {
		return s.img.Qcow2.UnmapAt(off, n)
	}
	if z, ok := s.img.Writer().(block.ZeroWriter); ok && s.img.Raw == nil {
		return z.WriteZeroesAt(off, n)
	}
	if f, ok := s.img.Raw.(*os.File); ok && n > 0 { // zeros that are there and take space
		err := sparse.PunchHole(f, off, n)
		if err == nil {
			err = sparse.Reserve(f, off, n)
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		done, err := s.img.Writer().WriteAt(zeros[:min(n, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(done), n-int64(done)
	}
	return nil
}

// punch makes bytes of a raw image zeros, and gives back the space they took.
func (s *session) punch(off, n int64) error {
	if n == 0 {
		return nil
	}
	return imgopen.PunchHole(s.img.Raw, off, n)
}

// zeroable tells whether tables alone can make the bytes of a qcow2 image zeros.
func (s *session) zeroable(t *transfer) bool {
	q := s.img.Qcow2
	h, cluster := q.Header(), q.ClusterSize()
	if h.Version < 3 || t.off%cluster == 0 && (t.n%cluster == 0 || t.off+t.n == q.Size()) {
		return h.Version >= 3
	}
	start := t.off - t.off%cluster
	end := min(q.Size(), (t.off+t.n+cluster-1)/cluster*cluster)
	for e, err := range q.Extents(start, end-start) {
		if err != nil || e.Kind == block.Data || e.Kind == block.Compressed {
			return false
		}
	}
	return true
}

func (s *session) discard(v *verb, args []string) {
	t := s.transfer(v, args, "Cq")
	if t == nil {
		return
	}
	start := time.Now()
	err := s.inside(t)
	if err == nil && s.img.Discards() {
		err = s.discardAt(t.off, t.n)
	}
	t.took = time.Since(start)
	switch {
	case err != nil:
		s.failOut("discard failed: %s\n", s.reason(err))
	case !t.has("q"):
		s.report("discard", t)
	}
}

// discardAt discards bytes. Where that cannot be done nothing is, as discarding
// is a hint.
func (s *session) discardAt(off, n int64) error {
	var err error
	switch {
	case s.img.Qcow2 != nil:
		err = s.img.Qcow2.DiscardAt(off, n)
	case s.img.Raw != nil:
		err = s.punch(off, n)
	}
	if errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	if err == nil && s.how.writeThrough {
		err = s.img.Writer().Sync()
	}
	return err
}
