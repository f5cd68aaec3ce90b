package migschema

import (
	"fmt"
	"io"
	"math"
	"strconv"
)

// A walker reads one element after the other and holds each against the
// schema. It is what all decoders are made of. After an error it gives that
// error for ever.
//
// What next found is in the fields at the end, until it is called again.
type walker struct {
	src   source
	opt   DecoderOptions
	rules rules
	root  *node
	stack []frame // the constructed elements that are open
	done  bool    // the root has ended
	err   error   // sticky

	valueEnd int64 // offset that a value decoded as a whole may not pass; entries bring it nearer

	// The element at hand, for paths: the component or the arm by which its
	// parent holds it. Lists count in frame.n.
	part, arm *field
	child     bool // there is an element at hand

	rest    int64  // contents octets still to come of a string or segment
	restAt  int64  // offset of its identifier
	split   int    // depth of the stack below the segments of the string
	scratch []byte // a string that came in segments

	event ElementKind
	node  *node
	at    int64  // offset of the identifier
	h     header // of the element; not set for an end
	num   Int    // of an INTEGER
	flag  bool   // of a BOOLEAN
	data  []byte // of a string, or a piece of it
	more  bool   // data goes on
}

// A frame is an open constructed element.
//
// Invariant: start < limit, and limit <= limit of the frame below.
type frame struct {
	node      *node
	part, arm *field
	start     int64 // offset of the identifier
	end       int64 // offset past the contents, or indefinite
	limit     int64 // what nothing inside may pass
	index     int64 // among the elements of a list
	n         int64 // components or elements begun
}

func (w *walker) init(src source, root *node, o *DecoderOptions) {
	*w = walker{src: src, opt: o.withDefaults(), root: root, stack: make([]frame, 0, 16), valueEnd: math.MaxInt64}
	w.rules = rules{w.opt.DER, w.opt.Lenient.AnyTag, w.opt.MaxLength}
}

// next finds the next element, piece, or end of an element. After the end of
// the root it returns io.EOF.
func (w *walker) next() error {
	if w.err == nil {
		w.err = w.step()
	}
	return w.err
}

func (w *walker) step() error {
	if w.more {
		err := w.piece()
		if err == nil && !w.more {
			w.count()
		}
		return err
	}
	for {
		if len(w.stack) == 0 {
			if w.done {
				return w.finish()
			}
			w.part, w.arm = nil, nil
			_, err := w.element(w.root, math.MaxInt64)
			return err
		}
		top := &w.stack[len(w.stack)-1]
		if top.node == nodePageList && w.zeroPage(top) {
			return nil
		}
		w.child = false
		ended, err := w.atEnd(top)
		if err != nil {
			return err
		}
		if ended {
			return w.endFrame(top)
		}
		skipped, err := w.inside(top)
		if err != nil || !skipped {
			return err
		}
	}
}

// inside reads the element that comes next in top. It reports whether that
// was one to skip.
func (w *walker) inside(top *frame) (skipped bool, err error) {
	w.arm = nil
	if top.node.kind == kindList {
		w.part = nil
		return w.element(top.node.elem, top.limit)
	}
	if top.n < int64(len(top.node.parts)) {
		w.part = &top.node.parts[top.n]
		return w.element(w.part.node, top.limit)
	}
	h, err := w.header(top.limit)
	if err != nil {
		return false, err
	}
	return w.unknown(&h, top.limit, CodeExtraComponent)
}

// element reads the header of an element of type n, and its contents where it
// is primitive.
func (w *walker) element(n *node, limit int64) (skipped bool, err error) {
	w.child = true
	if w.h, err = w.header(limit); err != nil {
		return false, err
	}
	h := &w.h
	if n.kind == kindChoice {
		arm := n.arm(h.tag)
		if arm == nil {
			return w.unknown(h, limit, CodeNoChoiceArm)
		}
		w.arm, n = arm, arm.node
	} else if h.tag != n.tag {
		if h.isEOC() {
			return false, w.fail(CodeUnexpectedEOC, w.at)
		}
		return false, w.fail(CodeUnexpectedTag, w.at)
	}
	w.node = n
	if h.constructed != n.constructed() && !(h.constructed && n.isString() && !w.opt.DER) {
		if h.constructed {
			return false, w.fail(CodeMustBePrimitive, w.at)
		}
		return false, w.fail(CodeMustBeConstructed, w.at)
	}
	w.src.pos += h.size
	if n.constructed() {
		w.event = ElementBegin
		return false, w.push(n, limit)
	}
	w.event = ElementValue
	if err := w.contents(n, limit); err != nil {
		return false, err
	}
	if !w.more {
		w.count()
	}
	return false, nil
}

// unknown deals with an element that the schema does not have at this place.
func (w *walker) unknown(h *header, limit int64, code Code) (skipped bool, err error) {
	if h.isEOC() {
		code = CodeUnexpectedEOC
	}
	listed := len(w.stack) > 0 && (w.part == nil || code == CodeExtraComponent)
	if !w.opt.Lenient.Unknown || h.tag == (Tag{}) || !listed {
		return false, w.fail(code, w.at)
	}
	if h.constructed && len(w.stack) >= w.opt.MaxDepth {
		return false, w.fail(CodeDepth, w.at)
	}
	w.src.pos += h.size
	if err := w.skipContents(h, limit, len(w.stack)+1); err != nil {
		return false, err
	}
	w.count()
	return true, nil
}

// count notes that the element at hand is complete.
func (w *walker) count() {
	if len(w.stack) == 0 {
		w.done = true
		return
	}
	w.stack[len(w.stack)-1].n++
}

func (w *walker) contents(n *node, limit int64) error {
	switch n.kind {
	case kindInteger:
		return w.integer(n)
	case kindBoolean:
		if w.h.length != 1 {
			return w.fail(CodeBoolLength, w.at)
		}
		if !w.src.has(1) {
			return w.cut(w.src.offset())
		}
		b := w.src.take(1)[0]
		if w.opt.DER && b != 0 && b != 0xff {
			return w.fail(CodeBoolNotCanonical, w.at)
		}
		w.flag = b != 0
		return nil
	case kindNull:
		if w.h.length != 0 {
			return w.fail(CodeNullLength, w.at)
		}
		return nil
	}
	return w.str(n, limit)
}

// integer reads the contents of an INTEGER (X.690 8.3).
func (w *walker) integer(n *node) error {
	size := w.h.length
	if size == 0 {
		return w.fail(CodeIntEmpty, w.at)
	}
	if size > int64(w.opt.MaxInteger) {
		return w.fail(CodeLimit, w.at)
	}
	if !w.src.has(int(size)) {
		return w.cut(w.src.offset())
	}
	b := w.src.take(int(size))
	if size > 1 && !w.opt.Lenient.IntNotMinimal && (b[0] == 0 && b[1] < 0x80 || b[0] == 0xff && b[1] >= 0x80) {
		return w.fail(CodeIntNotMinimal, w.at+int64(w.h.size))
	}
	w.num = decodeInt(b)
	if n == nodeVersion && !w.opt.Lenient.Version && w.num != NewInt(3) {
		return w.fail(CodeVersion, w.at)
	}
	return nil
}

// header reads the header of the element at w.at, which it sets, and leaves
// it in the window. The element ends at limit or before.
func (w *walker) header(limit int64) (header, error) {
	w.at = w.src.offset()
	w.h.length = indefinite // not known
	room := limit - w.at
	for {
		b := w.src.window()
		if int64(len(b)) > room {
			b = b[:room]
		}
		h, code, at := parseHeader(b, &w.rules)
		switch {
		case code == "":
			if h.length > room-int64(h.size) {
				return h, w.fail(CodeLengthExceeds, w.at)
			}
			return h, nil
		case code != short:
			return h, w.fail(code, w.at+int64(at))
		case int64(len(b)) == room:
			return h, w.fail(CodeLengthExceeds, w.at+int64(at))
		case !w.src.has(len(b) + 1):
			return h, w.cut(w.at + int64(at))
		}
	}
}

// push opens the element whose header has been consumed.
func (w *walker) push(n *node, limit int64) error {
	if len(w.stack) >= w.opt.MaxDepth {
		return w.fail(CodeDepth, w.at)
	}
	f := frame{node: n, part: w.part, arm: w.arm, start: w.at, end: indefinite, limit: limit}
	if w.h.length != indefinite {
		f.end = w.src.offset() + w.h.length
		f.limit = f.end
	}
	if n.kind != kindSegments && len(w.stack) > 0 {
		top := &w.stack[len(w.stack)-1]
		f.index = top.n
		top.n++
	}
	w.stack = append(w.stack, f)
	return nil
}

// atEnd reports whether f ends here, and consumes its end-of-contents octets.
func (w *walker) atEnd(f *frame) (bool, error) {
	if f.end != indefinite {
		return w.src.offset() >= f.end, nil
	}
	at := w.src.offset()
	if at == f.limit {
		return false, w.fail(CodeMissingEOC, at)
	}
	if f.limit-at < 2 {
		return false, nil
	}
	if !w.src.has(2) {
		if b := w.src.window(); (len(b) == 0 || b[0] == 0) && f.complete() && w.definite() == nil {
			return false, w.ended(CodeMissingEOC, at)
		}
		return false, nil
	}
	if b := w.src.buf[w.src.pos:]; b[0] != 0 || b[1] != 0 {
		return false, nil
	}
	if !f.complete() {
		return true, nil // endFrame says what is missing
	}
	w.src.pos += 2
	return true, nil
}

// complete reports whether f has all that its type demands.
func (f *frame) complete() bool {
	return f.node.kind != kindSequence || f.n >= int64(len(f.node.parts))
}

func (w *walker) endFrame(f *frame) error {
	if !f.complete() {
		w.part, w.arm, w.child = &f.node.parts[f.n], nil, true
		return w.fail(CodeMissingComponent, w.src.offset())
	}
	w.event, w.node, w.at = ElementEnd, f.node, w.src.offset()
	w.part, w.arm = f.part, f.arm
	w.stack = w.stack[:len(w.stack)-1]
	w.done = len(w.stack) == 0
	return nil
}

// finish looks at what follows the root.
func (w *walker) finish() error {
	w.child = false
	if w.opt.Lenient.TrailingData || w.opt.NoReadAhead {
		return io.EOF
	}
	if w.src.has(1) {
		return w.fail(CodeTrailingData, w.src.offset())
	}
	if err := w.src.failure(); err != nil {
		return w.readError(err)
	}
	return io.EOF
}

// skipContents passes over the contents of an element whose header has been
// consumed. depth is how many elements are open, itself among them.
func (w *walker) skipContents(h *header, limit int64, depth int) error {
	if h.length != indefinite {
		w.h.length = h.length
		if !w.src.skip(h.length) {
			return w.cut(w.src.offset())
		}
		return nil
	}
	for open := depth; open >= depth; {
		if limit-w.src.offset() >= 2 && w.src.has(2) && w.src.buf[w.src.pos] == 0 && w.src.buf[w.src.pos+1] == 0 {
			w.src.pos += 2
			open--
			continue
		}
		in, err := w.header(limit)
		if err != nil {
			return err
		}
		if in.constructed && open >= w.opt.MaxDepth {
			return w.fail(CodeDepth, w.at)
		}
		w.src.pos += in.size
		if in.length == indefinite {
			open++
		} else if !w.src.skip(in.length) {
			w.h.length = in.length
			return w.cut(w.src.offset())
		}
	}
	return nil
}

// leave passes over the rest of the frame at the given depth, and of all
// inside it, and closes it.
func (w *walker) leave(depth int) error {
	w.child, w.more = false, false
	for w.err == nil && len(w.stack) > depth {
		i := len(w.stack) - 1
		for j := depth; j < i; j++ {
			if w.stack[j].end != indefinite {
				i = j // all inside ends where this does
			}
		}
		f := w.stack[i]
		h := header{length: indefinite}
		if f.end != indefinite {
			h.length = f.end - w.src.offset()
		} else if !w.src.skip(w.rest) {
			w.err = w.cut(w.src.offset())
			break
		}
		w.rest = 0
		w.err = w.skipContents(&h, f.limit, i+1)
		w.stack = w.stack[:i]
		w.event, w.node, w.part, w.arm = ElementEnd, f.node, f.part, f.arm
	}
	w.done = len(w.stack) == 0
	return w.err
}

// definite returns the outermost open element whose end is known, nil if
// there is none.
func (w *walker) definite() *frame {
	for i := range w.stack {
		if w.stack[i].end != indefinite {
			return &w.stack[i]
		}
	}
	return nil
}

// cut returns the error of a stream that ends at offset at. What is at fault
// is the outermost element that promised more than there is.
func (w *walker) cut(at int64) error {
	if f := w.definite(); f != nil {
		return w.ended(CodeTruncated, f.start)
	}
	if w.rest > 0 {
		at = w.restAt
	} else if w.h.length != indefinite {
		at = w.at
	}
	return w.ended(CodeTruncated, at)
}

// ended is the error of a stream that ends early, unless it was reading that
// failed.
func (w *walker) ended(code Code, at int64) error {
	if err := w.src.failure(); err != nil {
		return w.readError(err)
	}
	path := w.path()
	if f := w.definite(); f != nil && f.node.kind != kindSegments {
		path = w.pathTo(f)
	}
	return &FormatError{at, path, code, io.ErrUnexpectedEOF}
}

func (w *walker) readError(err error) error {
	return fmt.Errorf("migschema: %s: read at %#x: %w", w.path(), w.src.base+int64(w.src.end), err)
}

func (w *walker) fail(code Code, at int64) error {
	return &FormatError{Offset: at, Field: w.path(), Code: code}
}

// path returns where the walker is, such as QemuFile.top[3].full.name.
func (w *walker) path() string {
	b := w.appendFrames(nil, len(w.stack))
	if !w.child {
		return string(b)
	}
	depth := len(w.stack)
	for depth > 0 && w.stack[depth-1].node.kind == kindSegments {
		depth--
	}
	if depth == 0 {
		return string(appendStep(b, nil, w.arm, -1))
	}
	return string(appendStep(b, w.part, w.arm, w.stack[depth-1].n))
}

// pathTo returns the path of an open element.
func (w *walker) pathTo(f *frame) string {
	for i := range w.stack {
		if &w.stack[i] == f {
			return string(w.appendFrames(nil, i+1))
		}
	}
	return w.path()
}

func (w *walker) appendFrames(b []byte, n int) []byte {
	b = append(b, w.root.name...)
	for i, f := range w.stack[:n] {
		switch {
		case f.node.kind == kindSegments:
		case i == 0:
			b = appendStep(b, nil, f.arm, -1)
		default:
			b = appendStep(b, f.part, f.arm, f.index)
		}
	}
	return b
}

// appendStep appends the step from an element to one inside it: the component,
// or the index in a list, and the arm of a CHOICE.
func appendStep(b []byte, part, arm *field, index int64) []byte {
	if part != nil {
		b = append(append(b, '.'), part.name...)
	} else if index >= 0 {
		b = append(strconv.AppendInt(append(b, '['), index, 10), ']')
	}
	if arm != nil && arm.name != "" {
		b = append(append(b, '.'), arm.name...)
	}
	return b
}
