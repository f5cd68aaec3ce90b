package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/virtfmt/virtfmt/examples/internal/getopt"
	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/block"
)

// maxTransfer is the most bytes of one request, as in QEMU.
const maxTransfer = 1<<31 - 1 - 511

// maxPiece is how many bytes of a request are held in memory at a time, where
// they need not be held all.
const maxPiece = 16 << 20

// A transfer is one request.
type transfer struct {
	verb    *verb
	given   map[string]string // options
	pattern byte              // of option -P
	off, n  int64
	took    time.Duration // by the image
}

func (t *transfer) has(letter string) bool { _, ok := t.given[letter]; return ok }

// transfer parses the arguments of a request; nil stands for wrong ones.
func (s *session) transfer(v *verb, args []string, letters string) *transfer {
	vector := strings.HasSuffix(v.name, "v") || strings.HasPrefix(v.name, "aio_")
	most := 2
	if vector {
		most = -1
	}
	opts, operands, ok := s.parse(v, args, letters, 2, most)
	if !ok {
		return nil
	}
	t := &transfer{verb: v, given: make(map[string]string)}
	if !s.take(t, opts) {
		return nil
	}
	if conflict := t.conflict(len(operands) - 1); conflict != "" {
		s.failOut("%s\n", conflict)
		return nil
	}
	if t.off, ok = s.number(operands[0]); !ok {
		return nil
	}
	vector = vector && !t.has("z")
	for _, text := range operands[1:] {
		n, ok := s.number(text)
		switch large := "length cannot exceed %d, given %s\n"; {
		case !ok:
			return nil
		case n > maxTransfer && vector:
			s.failOut("Argument '%s' exceeds maximum size %d\n", text, maxTransfer)
			return nil
		case n > maxTransfer-t.n && vector:
			s.failOut("The total number of bytes exceed the maximum size %d\n", maxTransfer)
			return nil
		case n > maxTransfer && v.name == "write" && !t.has("n"):
			large = "length cannot exceed %d without -n, given %s\n"
			fallthrough
		case n > maxTransfer && (!t.has("z") || v.name == "write" && !t.has("n")):
			s.failOut(large, maxTransfer, text)
			return nil
		}
		t.n += n
	}
	return t
}

// take takes the options in their order, as qemu-io does.
func (s *session) take(t *transfer, opts []getopt.Option) bool {
	for _, o := range opts {
		t.given[o.Name] = o.Value
		switch o.Name {
		case "P":
			n, err := strconv.ParseUint(o.Value, 0, 8)
			if err != nil {
				s.failOut("%s is not a valid pattern byte\n", o.Value)
				return false
			}
			t.pattern = byte(n)
		case "i": // qemu-io counts it and does nothing else
			fmt.Fprintf(s.out, "injecting invalid %s request\n", strings.TrimPrefix(t.verb.name, "aio_"))
			return false
		}
	}
	return true
}

// inside holds that a request lies within the disk, or is one of VM state.
func (s *session) inside(t *transfer) error {
	if !t.has("b") && t.n > s.img.Size()-t.off {
		return syscall.EIO
	}
	return nil
}

// A wanted is the part of a request in which a read is to find the pattern.
type wanted struct{ from, len int64 }

func (s *session) read(v *verb, args []string) {
	letters := map[string]string{"read": "bCl:pP:qs:v", "readv": "CP:qv", "aio_read": "CiP:qv"}[v.name]
	t := s.transfer(v, args, letters)
	if t == nil {
		return
	}
	want, ok := s.wanted(t)
	if !ok || t.has("b") && !s.aligned(t) {
		return
	}
	same, err := true, s.inside(t) // before memory is taken
	if err == nil {
		err = s.readPieces(t, func(p []byte, at int64) {
			from := max(0, min(want.from-at, int64(len(p))))
			part := p[from:max(from, min(want.from+want.len-at, int64(len(p))))]
			same = same && (!t.has("P") || bytes.Count(part, []byte{t.pattern}) == len(part))
		})
	}
	if err != nil {
		s.failed(v, err)
		return
	}
	if !same {
		fmt.Fprintf(s.out, "Pattern verification failed at offset %d, %d bytes\n", t.off+want.from, want.len)
		if v.name != "aio_read" {
			s.exit = 1
		}
	}
	if t.has("q") {
		return
	}
	took := t.took
	if t.has("v") { // read once more, as text takes five times as much memory
		err := s.readPieces(t, func(p []byte, at int64) { dump(s.out, p, t.off+at) })
		if err != nil {
			s.failed(v, err)
			return
		}
	}
	t.took = took
	s.report("read", t)
}

// wanted returns what options -P, -s and -l ask for.
func (s *session) wanted(t *transfer) (w wanted, ok bool) {
	w.len, ok = t.n, true
	if t.has("s") {
		w.from, ok = s.number(t.given["s"])
		w.len = t.n - w.from
	}
	if ok && t.has("l") {
		w.len, ok = s.number(t.given["l"])
	}
	switch {
	case !ok:
	case !t.has("P") && (t.has("s") || t.has("l")):
		s.synopsis(t.verb)
		ok = false
	case w.from > t.n || w.len < 0 || w.len > t.n-w.from:
		s.failOut("pattern verification range exceeds end of read data\n")
		ok = false
	}
	return w, ok
}

// readPieces reads, and calls do with each piece and where in the request it is.
func (s *session) readPieces(t *transfer, do func(p []byte, at int64)) error {
	p := make([]byte, min(t.n, maxPiece))
	for at := int64(0); at < t.n; at += int64(len(p)) {
		p = p[:min(t.n-at, int64(len(p)))]
		start := time.Now()
		if err := s.readAt(p, t, t.off+at); err != nil {
			return err
		}
		t.took += time.Since(start)
		do(p, at)
	}
	return nil
}

func (s *session) readAt(p []byte, t *transfer, off int64) error {
	var err error
	switch {
	case !t.has("b"):
		if s.how.copyOnRead {
			if err := s.copyOnRead(off, int64(len(p))); err != nil {
				return err
			}
		}
		_, err = s.img.ReadAt(p, off)
	case s.img.Qcow2 == nil:
		return errors.ErrUnsupported
	default:
		_, err = s.img.Qcow2.ReadVMStateAt(p, off)
	}
	if err == io.EOF {
		err = nil
	}
	return err
}

// copyOnRead stores the clusters that a read touches in the image, where they
// are not there.
func (s *session) copyOnRead(off, n int64) error {
	cluster := s.img.ClusterSize()
	if cluster == 0 || s.img.Raw != nil || n == 0 {
		return nil
	}
	missing, err := s.missing(off, n)
	if err != nil || len(missing) == 0 {
		return err
	}
	start := align.Down(off, cluster)
	end := min(s.img.Size(), align.Up(off+n, cluster))
	if missing, err = s.missing(start, end-start); err != nil {
		return err
	}
	for _, e := range missing {
		if err := s.copyUp(e.Start, e.Length); err != nil {
			return err
		}
	}
	return nil
}

// missing returns the extents that are not in the image.
func (s *session) missing(off, n int64) ([]block.Extent, error) {
	var list []block.Extent
	for e, err := range s.img.Extents(off, n) {
		if err != nil {
			return nil, err
		}
		if !s.allocated(e) {
			list = append(list, e)
		}
	}
	return list, nil
}

// copyUp writes what the bytes read as.
func (s *session) copyUp(off, n int64) error {
	p := make([]byte, min(n, maxPiece))
	for n > 0 {
		p = p[:min(n, int64(len(p)))]
		if _, err := s.img.ReadAt(p, off); err != nil && err != io.EOF {
			return err
		}
		if err := s.store(p, off); err != nil {
			return err
		}
		off, n = off+int64(len(p)), n-int64(len(p))
	}
	return nil
}

// failed tells of a request that failed. Asynchronous ones leave the exit code
// alone, as in qemu-io, which knows of them too late.
func (s *session) failed(v *verb, err error) {
	name := v.name
	if name == "aio_read" {
		name = "readv"
	}
	fmt.Fprintf(s.out, "%s failed: %s\n", name, s.reason(err))
	if !strings.HasPrefix(v.name, "aio_") {
		s.exit = 1
	}
}

// aligned holds what -b and -c ask for.
func (s *session) aligned(t *transfer) bool {
	for _, v := range []struct {
		name string
		n    int64
	}{{"offset", t.off}, {"count", t.n}} {
		if v.n%512 != 0 {
			s.failOut("%d is not a sector-aligned value for '%s'\n", v.n, v.name)
			return false
		}
	}
	return true
}
