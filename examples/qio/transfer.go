package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/qcow2"
)

// maxTransfer is the most bytes of one request, as in QEMU.
const maxTransfer = 1<<31 - 1 - 511

// A transfer is one request.
type transfer struct {
	given  map[string]string
	off, n int64
}

func (t *transfer) has(letter string) bool { _, ok := t.given[letter]; return ok }

// transfer parses the arguments of a request.
func (s *session) transfer(v *verb, args []string, letters string) *transfer {
	most := 2
	if strings.HasSuffix(v.name, "v") || strings.HasPrefix(v.name, "aio") {
		most = -1
	}
	given, operands := s.parse(v, args, letters, 2, most)
	if given == nil {
		return nil
	}
	t := &transfer{given: given}
	var ok bool
	if t.off, ok = s.number(operands[0]); !ok {
		return nil
	}
	for _, text := range operands[1:] {
		n, ok := s.number(text)
		if !ok {
			return nil
		}
		if n > maxTransfer-t.n {
			s.failOut("length cannot exceed %d, given %s\n", maxTransfer, text)
			return nil
		}
		t.n += n
	}
	return t
}

// pattern parses the byte of option -P.
func (s *session) pattern(text string) (byte, bool) {
	n, err := strconv.ParseUint(text, 0, 8)
	if err != nil {
		s.failOut("%s is not a valid pattern byte\n", text)
	}
	return byte(n), err == nil
}

// inside holds that a request lies within the disk.
func (s *session) inside(t *transfer) error {
	if t.n > s.img.Size()-t.off {
		return syscall.EIO
	}
	return nil
}

func (s *session) read(v *verb, args []string) {
	letters := map[string]string{"read": "abCl:pP:qs:v", "readv": "CP:qv", "aio_read": "CiP:qv"}[v.name]
	t := s.transfer(v, args, letters)
	if t == nil {
		return
	}
	var want byte
	from, length := int64(0), t.n
	ok := true
	if t.has("P") {
		want, ok = s.pattern(t.given["P"])
	}
	if ok && t.has("s") {
		from, ok = s.number(t.given["s"])
		length = t.n - from
	}
	if ok && t.has("l") {
		length, ok = s.number(t.given["l"])
	}
	switch {
	case !ok:
		return
	case !t.has("P") && (t.has("s") || t.has("l")):
		s.failOut("%s %s -- %s\n", v.name, v.args, v.what)
		return
	case from > t.n || length < 0 || length > t.n-from:
		s.failOut("pattern verification range exceeds end of read data\n")
		return
	case t.has("b") && !s.aligned(t):
		return
	case t.has("i"):
		return
	}
	if !t.has("b") && s.inside(t) != nil { // before memory is taken
		s.failed(v, syscall.EIO)
		return
	}
	p := make([]byte, t.n)
	start := time.Now()
	if err := s.readAt(p, t); err != nil {
		s.failed(v, err)
		return
	}
	took := time.Since(start)
	if part := p[from : from+length]; t.has("P") && bytes.Count(part, []byte{want}) != len(part) {
		fmt.Fprintf(s.stdout, "Pattern verification failed at offset %d, %d bytes\n", t.off+from, length)
		if v.name != "aio_read" {
			s.exit = 1
		}
	}
	if t.has("q") {
		return
	}
	if t.has("v") {
		dump(s.stdout, p, t.off)
	}
	s.report("read", t, took)
}

func (s *session) readAt(p []byte, t *transfer) error {
	if !t.has("b") {
		_, err := s.img.ReadAt(p, t.off)
		if err == io.EOF {
			err = nil
		}
		return err
	}
	if s.img.Qcow2 == nil {
		return errors.ErrUnsupported
	}
	_, err := s.img.Qcow2.ReadVMStateAt(p, t.off)
	if err == io.EOF {
		err = nil
	}
	return err
}

// failed tells of a request that failed. Asynchronous ones leave the exit code
// alone, as in qemu-io, which knows of them too late.
func (s *session) failed(v *verb, err error) {
	name := v.name
	if name == "aio_read" {
		name = "readv"
	}
	fmt.Fprintf(s.stdout, "%s failed: %s\n", name, reason(err))
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

func (s *session) write(v *verb, args []string) {
	letters := map[string]string{"write": "bcCfnpP:qs:uz", "writev": "CfqP:", "aio_write": "CfiP:quz"}[v.name]
	t := s.transfer(v, args, letters)
	if t == nil {
		return
	}
	if conflict := t.conflict(); conflict != "" {
		s.failOut("%s\n", conflict)
		return
	}
	fill, ok := byte(0xcd), true
	if t.has("P") {
		fill, ok = s.pattern(t.given["P"])
	}
	if !ok || (t.has("b") || t.has("c")) && !s.aligned(t) || t.has("i") {
		return
	}
	if !t.has("b") && s.inside(t) != nil {
		s.failed(v, syscall.EIO)
		return
	}
	var p []byte
	if !t.has("z") {
		p = bytes.Repeat([]byte{fill}, int(t.n))
	}
	if t.has("s") {
		if err := fillFrom(p, t.given["s"]); err != nil {
			s.fail("%s: %s\n", t.given["s"], reason(err))
			return
		}
	}
	start := time.Now()
	if err := s.writeAt(p, t); err != nil {
		s.failed(v, err)
		return
	}
	if took := time.Since(start); !t.has("q") {
		s.report("wrote", t, took)
	}
}

// fillFrom fills p with what is in a file, over and over. It reads no more of
// the file than p holds, so that it may be a device without end.
func fillFrom(p []byte, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.ReadFull(f, p)
	switch {
	case n == 0 && err == io.EOF:
		return errors.New("file is empty")
	case err != nil && err != io.ErrUnexpectedEOF:
		return err
	}
	for i := n; i < len(p); {
		i += copy(p[i:], p[:i])
	}
	return nil
}

// conflict tells which options do not go together.
func (t *transfer) conflict() string {
	kinds := 0
	for _, letter := range []string{"z", "P", "s"} {
		if t.has(letter) {
			kinds++
		}
	}
	switch {
	case t.has("b") && t.has("z"):
		return "-b and -z cannot be specified at the same time"
	case t.has("f") && (t.has("b") || t.has("c")):
		return "-f and -b or -c cannot be specified at the same time"
	case t.has("n") && !t.has("z"):
		return "-n requires -z to be specified"
	case t.has("u") && !t.has("z"):
		return "-u requires -z to be specified"
	case kinds > 1:
		return "Only one of -z, -P, and -s can be specified at the same time"
	}
	return ""
}

func (s *session) writeAt(p []byte, t *transfer) (err error) {
	w := s.img.Writer()
	switch q := s.img.Qcow2; {
	case (t.has("b") || t.has("c") && !t.has("z")) && q == nil:
		return errors.ErrUnsupported
	case t.has("b"):
		_, err = q.WriteVMStateAt(p, t.off)
	case t.has("z"):
		err = s.zero(t)
	case t.has("c"):
		cluster := q.ClusterSize()
		if t.off%cluster != 0 || t.n%cluster != 0 && t.off+t.n != q.Size() {
			return syscall.EINVAL
		}
		_, err = q.WriteCompressedAt(p, t.off)
	default:
		_, err = w.WriteAt(p, t.off)
	}
	if err == nil && t.has("f") {
		err = w.Sync()
	}
	return err
}

// zero makes the bytes zeros.
func (s *session) zero(t *transfer) error {
	if z, ok := s.img.Writer().(block.ZeroWriter); ok {
		if t.has("n") && !s.zeroable(t) {
			return errors.ErrUnsupported
		}
		if q := s.img.Qcow2; q != nil && t.has("u") {
			return q.UnmapAt(t.off, t.n)
		}
		return z.WriteZeroesAt(t.off, t.n)
	}
	if t.has("n") {
		return errors.ErrUnsupported
	}
	zeros := make([]byte, min(t.n, 1<<20))
	for done := int64(0); done < t.n; {
		n, err := s.img.Writer().WriteAt(zeros[:min(t.n-done, int64(len(zeros)))], t.off+done)
		if err != nil {
			return err
		}
		done += int64(n)
	}
	return nil
}

// zeroable tells whether tables alone can make the bytes zeros.
func (s *session) zeroable(t *transfer) bool {
	q := s.img.Qcow2
	if q == nil {
		return true
	}
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
	err := s.inside(t)
	start := time.Now()
	if d, ok := s.img.Writer().(interface{ DiscardAt(off, n int64) error }); ok && err == nil && !s.noDiscard {
		err = d.DiscardAt(t.off, t.n)
	}
	if err != nil {
		s.failOut("discard failed: %s\n", reason(err))
		return
	}
	if took := time.Since(start); !t.has("q") {
		s.report("discard", t, took)
	}
}

// report prints what a request did, and how fast.
func (s *session) report(word string, t *transfer, took time.Duration) {
	seconds := max(took.Seconds(), 1e-9)
	rate, ops := float64(t.n)/seconds, 1/seconds
	minutes, hundredths := int64(took/time.Minute), int64(took%time.Minute/(10*time.Millisecond))
	clock := fmt.Sprintf("%d:%02d:%02d.%02d", minutes/60, minutes%60, hundredths/100, hundredths%100)
	if t.has("C") {
		fmt.Fprintf(s.stdout, "%d,1,%s,%.3f,%.3f\n", t.n, clock, rate, ops)
		return
	}
	if minutes == 0 {
		clock = fmt.Sprintf("%02d.%02d sec", hundredths/100, hundredths%100)
	}
	fmt.Fprintf(s.stdout, "%s %d/%d bytes at offset %d\n%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n",
		word, t.n, t.n, t.off, human(float64(t.n)), clock, human(rate), ops)
}

// dump prints bytes, 16 to a line.
func dump(w io.Writer, p []byte, off int64) {
	for i := 0; i < len(p); i += 16 {
		line := p[i:min(i+16, len(p))]
		text := bytes.Clone(line)
		for j, c := range text {
			if c|0x20 < 'a' && (c < '0' || c > '9') || c|0x20 > 'z' {
				text[j] = '.'
			}
		}
		fmt.Fprintf(w, "%08x:  % x  %s\n", off+int64(i), line, text)
	}
}

// human returns a number of bytes as qemu-io prints it.
func human(n float64) string {
	for i, unit := range []string{"EiB", "PiB", "TiB", "GiB", "MiB", "KiB"} {
		if one := float64(int64(1) << (60 - 10*i)); n >= one {
			return strings.TrimSuffix(fmt.Sprintf("%.3f", n/one), ".000") + " " + unit
		}
	}
	return strings.TrimSuffix(fmt.Sprintf("%f", n), ".000000") + " bytes"
}

// reason returns the text of an error as the C library words it, where it does.
func reason(err error) string {
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return "Operation not supported"
	case errors.Is(err, syscall.EIO), errors.Is(err, qcow2.ErrAllocated):
		return "Input/output error"
	case errors.Is(err, fs.ErrNotExist):
		return "No such file or directory"
	case errors.Is(err, syscall.EINVAL):
		return "Invalid argument"
	case errors.Is(err, syscall.ENOSPC):
		return "No space left on device"
	}
	return err.Error()
}
