// Package inflate decodes a raw deflate stream (RFC 1951) from one slice into
// another, all at once.
//
// A streaming decoder keeps a window, hands bytes on from it and may stop at
// any bit. Compressed clusters of a disk image need none of that: the whole
// input is in memory and the size of the output is known. So matches are
// copied within the output itself, and bits are loaded eight bytes at a time.
//
// What is decoded is what [compress/flate] decodes, the 32 KiB window
// included, up to the point where dst is full. Decoding stops there: what
// follows in src is not looked at.
package inflate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Errors that an [Error] wraps.
var (
	// ErrCorrupt means that the input is not a deflate stream.
	ErrCorrupt = errors.New("corrupt deflate stream")
	// ErrShort means that the stream ends before the output is full.
	ErrShort = errors.New("deflate stream holds less than expected")
)

// An Error tells where decoding failed and why.
type Error struct {
	Offset int    // bytes of the input that were taken up before the failure
	Field  string // the part of the stream that is bad
	Err    error  // ErrCorrupt, ErrShort, or io.ErrUnexpectedEOF where src ends within the stream
}

// Error says what was wrong, and where.
func (e *Error) Error() string {
	return fmt.Sprintf("inflate: %s at byte %#x: %v", e.Field, e.Offset, e.Err)
}

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// A Decoder holds the tables of decoding, about 40 KiB, so that they can be
// used again. The zero value is ready. A Decoder is not safe for concurrent
// use.
type Decoder struct {
	state
	fixed bool // lit and dist hold the code of fixed blocks

	lengths [maxLitLen + maxDist]uint8 // code lengths of a dynamic block
	pre     [1 << maxPre]symbol
	lit     [litSize]symbol
	dist    [distSize]symbol
	packed  [1 << litBits]packed // lit, several symbols an entry
	code    code
	packer
}

// state is where decoding stands.
//
// Invariant: bits at and above count in acc are zero, or are a copy of what
// in[ip:] starts with.
type state struct {
	in    []byte
	ip    int // next byte of in to load
	out   []byte
	op    int // next byte of out to fill
	acc   uint64
	count uint // bits of acc that are loaded and not used
}

// Decode fills dst with what the stream at the start of src decodes to, and
// returns how many bytes it wrote. That is len(dst) if and only if the error
// is nil; otherwise the error is an [*Error]. Bytes of dst past those written
// may be overwritten. Once dst is full the rest of src is not looked at, so
// that dst may be shorter than what src decodes to and src may have anything
// behind the stream. A call without an error does not allocate.
func (d *Decoder) Decode(dst, src []byte) (int, error) {
	d.state = state{in: src, out: dst}
	err := d.blocks()
	n := d.op
	d.state = state{}
	return n, err
}

// blocks decodes blocks until the output is full. RFC 1951 3.2.3.
func (d *Decoder) blocks() error {
	for d.op < len(d.out) {
		head, ok := d.take(3)
		if !ok {
			return d.eof("block header")
		}
		var err error
		switch head >> 1 {
		case 0:
			err = d.stored()
		case 1:
			d.fixedTables()
			err = d.block()
		case 2:
			if err = d.dynamicTables(); err == nil {
				err = d.block()
			}
		default:
			err = d.corrupt("block type")
		}
		if err != nil {
			return err
		}
		if head&1 != 0 && d.op < len(d.out) {
			return d.fail("end of stream", ErrShort)
		}
	}
	return nil
}

// stored copies a stored block. RFC 1951 3.2.4.
func (d *Decoder) stored() error {
	// Give back the whole bytes that were loaded ahead.
	d.ip -= int(d.count >> 3)
	d.acc, d.count = 0, 0
	if len(d.in)-d.ip < 4 {
		d.ip = len(d.in)
		return d.eof("stored block length")
	}
	n := binary.LittleEndian.Uint16(d.in[d.ip:])
	if n != ^binary.LittleEndian.Uint16(d.in[d.ip+2:]) {
		return d.corrupt("stored block length")
	}
	d.ip += 4
	room := d.out[d.op:]
	part := d.in[d.ip:min(d.ip+int(n), len(d.in))]
	c := copy(room, part)
	d.op += c
	d.ip += c
	if c < int(n) && c < len(room) {
		return d.eof("stored block")
	}
	return nil
}

// refill loads bytes until more than 32 bits are there or the input ends.
func (d *Decoder) refill() {
	if d.count <= 32 && len(d.in)-d.ip >= 4 {
		d.acc |= uint64(binary.LittleEndian.Uint32(d.in[d.ip:])) << d.count
		d.ip += 4
		d.count += 32
		return
	}
	for d.count <= 32 && d.ip < len(d.in) {
		d.acc |= uint64(d.in[d.ip]) << d.count
		d.ip++
		d.count += 8
	}
}

// take returns the next n bits, n at most 32, and whether they were there.
func (d *Decoder) take(n uint) (uint32, bool) {
	if d.count < n {
		d.refill()
		if d.count < n {
			return 0, false
		}
	}
	v := uint32(d.acc & (1<<n - 1))
	d.acc >>= n
	d.count -= n
	return v, true
}

func (d *Decoder) fail(field string, err error) error {
	return &Error{Offset: d.ip - int(d.count>>3), Field: field, Err: err}
}

func (d *Decoder) corrupt(field string) error { return d.fail(field, ErrCorrupt) }

func (d *Decoder) eof(field string) error { return d.fail(field, io.ErrUnexpectedEOF) }
