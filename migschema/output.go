package migschema

import (
	"fmt"
	"io"

	"github.com/virtfmt/virtfmt/internal/block"
)

// outputBuffer is what is handed to a writer at a time.
const outputBuffer = 256 << 10

// An output gathers octets for a writer. The first error stays.
type output struct {
	w    io.Writer
	buf  []byte
	gone int64 // octets handed to w
	err  error
}

// keep makes err the output's, unless it has one.
func (o *output) keep(err error) error {
	if o.err == nil {
		o.err = err
	}
	return o.err
}

func (o *output) misuse(format string, args ...any) error {
	return o.keep(fmt.Errorf("migschema: %w: %w", CodeMisuse, fmt.Errorf(format, args...)))
}

// offset returns how many octets there have been.
func (o *output) offset() int64 { return o.gone + int64(len(o.buf)) }

// room makes room for n octets in the buffer. What is in it goes out only
// when more is to come, so that an unfinished stream always lacks something.
//
// Preconditions: n <= outputBuffer.
func (o *output) room(n int) {
	if o.buf == nil {
		o.buf = make([]byte, 0, outputBuffer)
	}
	if len(o.buf)+n > cap(o.buf) {
		o.flush()
	}
}

// put appends b.
func (o *output) put(b []byte) {
	for len(b) > 0 && o.err == nil {
		o.room(1)
		n := copy(o.buf[len(o.buf):cap(o.buf)], b)
		o.buf = o.buf[:len(o.buf)+n]
		b = b[n:]
	}
}

func (o *output) flush() error {
	if o.err != nil || len(o.buf) == 0 {
		return o.err
	}
	if o.w == nil {
		return o.keep(fmt.Errorf("migschema: %w", block.ErrNil))
	}
	n, err := o.w.Write(o.buf)
	if err == nil && n < len(o.buf) {
		err = io.ErrShortWrite
	}
	if err != nil {
		o.keep(fmt.Errorf("migschema: write: %w", err))
	}
	o.gone += int64(len(o.buf))
	o.buf = o.buf[:0]
	return o.err
}
