package migschema

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// A Form is a way to encode lengths and strings. All three are BER.
type Form uint8

const (
	// AutoForm is Streamed for an [Encoder] and DER for [Marshal].
	AutoForm Form = iota
	// Streamed gives the elements whose end is not known when they begin an
	// indefinite length, all others a definite one.
	Streamed
	// DER gives every element a definite length (X.690 10). It takes two
	// passes: see [EncodeDER] and [Marshal].
	DER
	// CER gives every element that holds others an indefinite length, and
	// splits strings after each 1000 octets (X.690 9).
	CER
)

// String returns auto, streamed, der or cer.
func (f Form) String() string { return [...]string{"auto", "streamed", "der", "cer"}[f%4] }

// EncoderOptions says how to encode. nil and the zero value are the defaults.
type EncoderOptions struct {
	Form     Form // how to encode; an Encoder cannot do DER, EncodeDER does no other
	PageSize int  // what full pages must have, 4096 if 0; the schema knows no other
	// Version is what to write in place of 3, which the schema demands, if
	// not 0.
	Version int64
	// MaxDepth is how deep elements may nest, [MaxDepth] if 0: a decoder needs
	// [DecoderOptions.MaxDepth] to read more. It bounds the stack that a value
	// takes which holds itself.
	MaxDepth int
}

func (o *EncoderOptions) withDefaults() EncoderOptions {
	var d EncoderOptions
	if o != nil {
		d = *o
	}
	orDefault(&d.PageSize, PageSize)
	orDefault(&d.Version, 3)
	orDefault(&d.MaxDepth, MaxDepth)
	return d
}

// cerSegment is how many octets of a string CER puts in a segment (X.690 9.2).
const cerSegment = 1000

// An Encoder writes a BER stream part by part, in memory that does not grow
// with it. It refuses what the schema does not allow.
//
// The end of the stream is written by [Encoder.Close] alone. Without it, and
// after any error, what has been written lacks its end and no reader takes it
// for complete. An Encoder is not safe for concurrent use.
type Encoder struct {
	output
	opt  EncoderOptions
	open []opened
	// parted is how many elements are open that are not in open: a page, and a
	// string in segments.
	parted int

	// A sizing pass counts octets in place of writing them, and notes the
	// length of each element in the order in which they begin. The pass after
	// it takes them from there.
	sizing  bool
	known   bool    // the lengths are those of a sizing pass
	count   int64   // octets counted
	lengths []int64 // contents of each element
	next    int     // of lengths

	blob blobPieces
}

// An opened element.
type opened struct {
	node    *node
	index   int   // in lengths
	start   int64 // count after its header was put off
	content int64 // its length where known
	end     bool  // it takes end-of-contents octets
	filled  bool  // of a SecFull: its contents are there
}

// NewEncoder returns an Encoder that writes to w.
func NewEncoder(w io.Writer, o *EncoderOptions) *Encoder {
	e := &Encoder{output: output{w: w}, opt: o.withDefaults()}
	if e.opt.Form == DER {
		e.err = errors.New("migschema: DER needs its lengths beforehand: use EncodeDER")
	}
	return e
}

// EncodeDER writes the stream that produce makes in DER. It calls produce
// twice, first to learn the lengths, with nothing written, then to write; both
// times produce must make the same stream, and must not close the Encoder.
// Lengths are kept for sections and blocks, not for pages. After an error what
// has been written lacks its end.
func EncodeDER(w io.Writer, o *EncoderOptions, produce func(*Encoder) error) error {
	e := &Encoder{output: output{w: w}, opt: o.withDefaults(), sizing: true}
	e.opt.Form = DER
	for range 2 {
		e.next = 0
		if err := produce(e); err != nil {
			e.keep(err)
		}
		e.finish()
		if e.err != nil {
			return e.err
		}
		e.sizing, e.known = false, true
	}
	return e.flush()
}

// Close writes the end of the stream. It does not close the writer. It is an
// error to close within a section.
func (e *Encoder) Close() error {
	if e.err == errClosed {
		return nil
	}
	e.finish()
	if e.err == nil {
		e.flush()
	}
	err := e.err
	if err == nil {
		e.err = errClosed
	}
	return err
}

var errClosed = fmt.Errorf("migschema: the encoder: %w", fs.ErrClosed)

// finish ends the list of sections and the file.
func (e *Encoder) finish() {
	if e.file() != nil {
		return
	}
	if n := len(e.open); n != sectionDepth {
		e.misuse("a %s is not ended", e.open[n-1].node.name)
		return
	}
	e.end()
	e.end()
}

// file begins the file, where that has not happened.
func (e *Encoder) file() error {
	if e.err != nil || len(e.open) > 0 {
		return e.err
	}
	e.begin(nodeQemuFile)
	e.integer(tagInteger, NewInt(e.opt.Version))
	e.begin(nodeTop)
	return e.err
}

// top returns the innermost open element.
func (e *Encoder) top() *opened {
	if len(e.open) == 0 {
		return &opened{node: nodeSegments}
	}
	return &e.open[len(e.open)-1]
}

// in reports whether the innermost open element is of type n; otherwise it
// keeps an error.
func (e *Encoder) in(n *node, what string) bool {
	if e.err == nil && e.top().node != n {
		e.misuse("%s within %s", what, e.top().node.name)
	}
	return e.err == nil
}

// begin opens an element.
func (e *Encoder) begin(n *node) {
	e.checkDepth()
	o := opened{node: n}
	switch {
	case e.sizing:
		o.index = len(e.lengths)
		e.lengths = append(e.lengths, 0)
		o.start = e.count
	case !e.known:
		o.end = true
		e.room(maxHeader)
		e.buf = append(appendIdentifier(e.buf, n.tag, true), 0x80)
	default:
		o.start, o.content = e.takeLength(n.tag, true)
	}
	e.open = append(e.open, o)
}

// checkDepth keeps an error where one more element may not be open.
func (e *Encoder) checkDepth() {
	if len(e.open)+e.parted >= e.opt.MaxDepth && e.err == nil {
		e.keep(fmt.Errorf("migschema: %w: %d elements are open", CodeDepth, e.opt.MaxDepth))
	}
}

// end closes the innermost open element.
func (e *Encoder) end() {
	o := e.top()
	e.open = e.open[:len(e.open)-1]
	switch {
	case e.err != nil:
	case e.sizing:
		size := e.count - o.start
		e.lengths[o.index] = size
		e.count += int64(identifierSize(o.node.tag) + lengthSize(size))
	case o.end:
		e.room(2)
		e.buf = append(e.buf, 0, 0)
	case e.offset()-o.start != o.content:
		e.keep(errSecondPass)
	}
}

var errSecondPass = fmt.Errorf("migschema: %w: the second pass made another stream", CodeMisuse)

// takeLength writes a header with the next of the lengths that a sizing pass
// noted. It returns where the contents begin and how long they are to be.
func (e *Encoder) takeLength(t Tag, constructed bool) (start, content int64) {
	if e.next == len(e.lengths) {
		e.keep(errSecondPass)
		return 0, 0
	}
	content = e.lengths[e.next]
	e.next++
	e.room(maxHeader)
	e.buf = appendLength(appendIdentifier(e.buf, t, constructed), content)
	return e.offset(), content
}

// whole runs write, which makes a value that is wholly at hand, so that its
// elements get definite lengths where the form allows.
func (e *Encoder) whole(write func()) {
	if e.opt.Form == CER || e.sizing || e.known || e.err != nil {
		write()
		return
	}
	e.sizing, e.lengths, e.next = true, e.lengths[:0], 0
	write()
	e.sizing, e.known = false, true
	if e.err == nil {
		write()
	}
	e.known = false
}

// integer writes a primitive INTEGER.
func (e *Encoder) integer(t Tag, i Int) {
	size := i.size()
	if e.sizing {
		e.count += int64(identifierSize(t) + lengthSize(int64(size)) + size)
		return
	}
	e.room(maxHeader + 9)
	e.buf = appendLength(appendIdentifier(e.buf, t, false), int64(size))
	if size <= 9 {
		e.buf = i.appendContents(e.buf)
		return
	}
	e.raw(i.appendContents(nil))
}

// null writes a primitive NULL.
func (e *Encoder) null(t Tag) {
	if e.sizing {
		e.count += int64(identifierSize(t) + 1)
		return
	}
	e.room(maxHeader)
	e.buf = append(appendIdentifier(e.buf, t, false), 0)
}

// raw writes octets.
func (e *Encoder) raw(b []byte) {
	if e.sizing {
		e.count += int64(len(b))
		return
	}
	e.put(b)
}

// octets writes a string of octets, with the tag t where it is in one piece.
func (e *Encoder) octets(t Tag, b []byte) {
	if e.opt.Form != CER || len(b) <= cerSegment {
		e.lead(t, int64(len(b)))
		e.raw(b)
		return
	}
	e.beginSegments(t)
	for len(b) > 0 {
		n := min(len(b), cerSegment)
		e.lead(tagOctets, int64(n))
		e.raw(b[:n])
		b = b[n:]
	}
	e.endSegments()
}

// lead writes the header of a primitive string of n octets.
func (e *Encoder) lead(t Tag, n int64) {
	if e.sizing {
		e.count += int64(identifierSize(t) + lengthSize(n))
		return
	}
	e.room(maxHeader)
	e.buf = appendLength(appendIdentifier(e.buf, t, false), n)
}

// beginSegments begins a page of CER, or a string in segments.
func (e *Encoder) beginSegments(t Tag) {
	e.checkDepth()
	e.parted++
	e.room(maxHeader)
	e.buf = append(appendIdentifier(e.buf, t, true), 0x80)
}

func (e *Encoder) endSegments() {
	e.parted--
	e.room(2)
	e.buf = append(e.buf, 0, 0)
}

// name writes a QemuString.
func (e *Encoder) name(s string) {
	if code := nameFault(s, false); code != "" {
		e.keep(fmt.Errorf("migschema: the name %q: %w", s, code))
		return
	}
	e.octets(tagUTF8, []byte(s))
}
