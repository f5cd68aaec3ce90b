package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/qcow2"
)

// A refusal is an error in the words of qemu-io.
type refusal string

func (r refusal) Error() string { return string(r) }

// report prints what a request did, and how fast.
func (s *session) report(word string, t *transfer) {
	took := t.took
	seconds := max(took.Seconds(), 1e-9)
	rate, ops := float64(t.n)/seconds, 1/seconds
	minutes, hundredths := int64(took/time.Minute), int64(took%time.Minute/(10*time.Millisecond))
	clock := fmt.Sprintf("%d:%02d:%02d.%02d", minutes/60, minutes%60, hundredths/100, hundredths%100)
	if t.has("C") {
		fmt.Fprintf(s.out, "%d,1,%s,%.3f,%.3f\n", t.n, clock, rate, ops)
		return
	}
	if minutes == 0 {
		clock = fmt.Sprintf("%02d.%02d sec", hundredths/100, hundredths%100)
	}
	fmt.Fprintf(s.out, "%s %d/%d bytes at offset %d\n%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n",
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

// reason returns an error in the words of the C library. What those do not tell
// goes to standard error.
func (s *session) reason(err error) string {
	var path *fs.PathError
	var code syscall.Errno
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return "Operation not supported"
	case errors.Is(err, fs.ErrNotExist):
		return "No such file or directory"
	case errors.As(err, &path):
		return imgopen.Reason(path).Error()
	case errors.As(err, &code):
		return imgopen.Reason(code).Error()
	case !errors.Is(err, qcow2.ErrAllocated): // WriteCompressedAt refuses, as QEMU
		fmt.Fprintf(s.stderr, "qio: %v\n", err)
	}
	return "Input/output error"
}
