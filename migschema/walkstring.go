package migschema

import "unicode/utf8"

// maxName is how many octets 255 characters have at most.
const maxName = 255 * utf8.UTFMax

// pieceSize is how much of a string without a bound is handed out at once, at
// least, where the string has as much.
const pieceSize = 64 << 10

// str reads the contents of a string, or the first piece of a long one. The
// header has been consumed. Strings may come in segments, and those in
// segments again (X.690 8.7, 8.23); what holds them is on the stack meanwhile.
func (w *walker) str(n *node, limit int64) error {
	w.split, w.rest = len(w.stack), 0
	if w.h.constructed {
		if err := w.push(nodeSegments, limit); err != nil {
			return err
		}
	} else {
		w.rest, w.restAt = w.h.length, w.at
	}
	if n.long {
		return w.piece()
	}
	if w.h.constructed {
		return w.joined(n)
	}
	if code := w.stringSize(n, w.h.length); code != "" {
		return w.fail(code, w.at)
	}
	if !w.src.has(int(w.rest)) {
		return w.cut(w.src.offset())
	}
	w.data = w.src.take(int(w.rest))
	w.rest = 0
	return w.checkName(n)
}

// joined reads a string that comes in segments.
func (w *walker) joined(n *node) error {
	at, h := w.at, w.h
	w.scratch = w.scratch[:0]
	for more := true; more; {
		if err := w.segment(); err != nil {
			return err
		}
		w.scratch = append(w.scratch, w.data...)
		more = w.more
		size := int64(len(w.scratch))
		code := w.stringSize(n, size)
		if code == CodeSize && n.paged && more && size <= int64(w.opt.PageSize) {
			code = ""
		}
		if code != "" {
			return w.fail(code, at)
		}
	}
	w.data, w.at, w.h = w.scratch, at, h
	return w.checkName(n)
}

// stringSize judges how many octets a string has.
func (w *walker) stringSize(n *node, size int64) Code {
	switch {
	case n.paged && !w.opt.Lenient.PageSize && size != int64(w.opt.PageSize):
		return CodeSize
	case n.kind == kindUTF8 && !w.opt.Lenient.NameSize && size > maxName:
		return CodeSize
	case size > int64(w.opt.MaxString):
		return CodeLimit
	}
	return ""
}

// checkName judges the characters of a name.
func (w *walker) checkName(n *node) error {
	if n.kind != kindUTF8 {
		return nil
	}
	if code := nameFault(w.data, w.opt.Lenient.NameSize); code != "" {
		return w.fail(code, w.at)
	}
	return nil
}

// nameFault returns what is wrong with a QemuString, "" if nothing is.
func nameFault[T string | []byte](b T, anySize bool) Code {
	s := string(b)
	if !utf8.ValidString(s) {
		return CodeBadUTF8
	}
	if n := utf8.RuneCountInString(s); !anySize && (n < 1 || n > 255) {
		return CodeSize
	}
	return ""
}

// piece reads the next piece of a long string.
func (w *walker) piece() error {
	at, h := w.at, w.h
	if err := w.segment(); err != nil {
		return err
	}
	w.at, w.h = at, h
	return nil
}

// segment sets data to the next octets of a string, and more to whether it
// goes on. The last piece of a string in segments is empty.
func (w *walker) segment() error {
	for w.rest == 0 {
		if len(w.stack) == w.split {
			w.data, w.more = nil, false
			return nil
		}
		if err := w.nextSegment(&w.stack[len(w.stack)-1]); err != nil {
			return err
		}
	}
	if !w.src.has(int(min(w.rest, pieceSize))) {
		return w.cut(w.src.offset())
	}
	n := min(w.rest, int64(len(w.src.window())))
	w.data = w.src.take(int(n))
	w.rest -= n
	w.more = w.rest > 0 || len(w.stack) > w.split
	return nil
}

// nextSegment reads the header of a segment, or the end of its parent.
func (w *walker) nextSegment(f *frame) error {
	ended, err := w.atEnd(f)
	if err != nil {
		return err
	}
	if ended {
		w.stack = w.stack[:len(w.stack)-1]
		return nil
	}
	limit := f.limit
	h, err := w.header(limit)
	if err != nil {
		return err
	}
	if h.tag != tagOctets && !(h.tag == tagUTF8 && w.node.kind == kindUTF8 && w.opt.Lenient.UTF8Segments) {
		if h.isEOC() {
			return w.fail(CodeUnexpectedEOC, w.at)
		}
		return w.fail(CodeBadSegmentTag, w.at)
	}
	w.h = h
	w.src.pos += h.size
	if h.constructed {
		return w.push(nodeSegments, limit)
	}
	w.rest, w.restAt = h.length, w.at
	return nil
}
