// Package cursor decodes variable records from a byte slice.
//
// A [Cursor] consumes bytes from the front and remembers the first error, so
// that a record decodes in one struct literal and the error is checked once.
// Records are encoded by the append functions of encoding/binary.
package cursor

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A Cursor reads integers and byte strings from the front of a slice. After
// the first read past its end every read gives zeros, and [Cursor.Err] tells
// where that was. A Cursor is not safe for concurrent use.
type Cursor struct {
	order binary.ByteOrder
	name  string // of the structure, for errors
	base  int64  // offset of buf[0] in the file or stream
	buf   []byte
	pos   int // Invariant: 0 <= pos <= len(buf)
	err   error
}

// An Error is a read past the end of a structure. It unwraps to
// [io.ErrUnexpectedEOF].
type Error struct {
	Name   string // the structure
	Offset int64  // in the file or stream, where the read began
	Want   int    // bytes wanted
	Have   int    // bytes left
}

// Error describes the read.
func (e *Error) Error() string {
	return fmt.Sprintf("%s at %#x: want %d bytes, have %d", e.Name, e.Offset, e.Want, e.Have)
}

// Unwrap returns [io.ErrUnexpectedEOF].
func (e *Error) Unwrap() error { return io.ErrUnexpectedEOF }

// New returns a cursor over b, whose first byte lies at offset base of the
// file. The name appears in errors. The cursor never writes to b.
func New(order binary.ByteOrder, name string, base int64, b []byte) *Cursor {
	return &Cursor{order: order, name: name, base: base, buf: b}
}

// Err returns the first error, nil if every read was within the slice.
func (c *Cursor) Err() error { return c.err }

// Offset returns the offset in the file of the next byte.
func (c *Cursor) Offset() int64 { return c.base + int64(c.pos) }

// Len returns how many bytes are left.
func (c *Cursor) Len() int { return len(c.buf) - c.pos }

// Bytes consumes n bytes and returns a view of them, or nil past the end.
func (c *Cursor) Bytes(n int) []byte {
	if c.err != nil {
		return nil
	}
	if n < 0 || n > c.Len() {
		c.err = &Error{Name: c.name, Offset: c.Offset(), Want: n, Have: c.Len()}
		return nil
	}
	b := c.buf[c.pos : c.pos+n : c.pos+n]
	c.pos += n
	return b
}

// Rest consumes and returns all that is left.
func (c *Cursor) Rest() []byte { return c.Bytes(c.Len()) }

// Skip consumes n bytes.
func (c *Cursor) Skip(n int) { c.Bytes(n) }

// Uint8 consumes one byte.
func (c *Cursor) Uint8() uint8 {
	b := c.Bytes(1)
	if b == nil {
		return 0
	}
	return b[0]
}

// Uint16 consumes two bytes.
func (c *Cursor) Uint16() uint16 {
	b := c.Bytes(2)
	if b == nil {
		return 0
	}
	return c.order.Uint16(b)
}

// Uint32 consumes four bytes.
func (c *Cursor) Uint32() uint32 {
	b := c.Bytes(4)
	if b == nil {
		return 0
	}
	return c.order.Uint32(b)
}

// Uint64 consumes eight bytes.
func (c *Cursor) Uint64() uint64 {
	b := c.Bytes(8)
	if b == nil {
		return 0
	}
	return c.order.Uint64(b)
}
