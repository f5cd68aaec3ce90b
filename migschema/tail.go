package migschema

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// A tail is the rest of a stream from the first device on, in memory. Bodies
// of devices carry no length: where they end is told by the description at
// the end of the stream, or must be found.
//
// Where it must be found, the tail is read from its end to its start. A place
// where a record may begin is good if it leads, from footer to footer, to the
// end of the sections. Each step takes the nearest good place, so that all of
// it is linear in the length. Without footers, the next thing that looks like
// the header of a section is taken for one.
type tail struct {
	base int64  // offset in the stream
	b    []byte // up to and with the octet of EOF
	eof  int    // index of that octet, -1 if there is none

	searched bool
	good     []uint64         // bit set: a record that leads to the end begins here
	footers  map[uint32][]int // good footers of a section, last first
	starts   []int            // likely headers of sections, last first
}

// stateSize returns how long the body of the current section is, and how that
// was found; -1 where it cannot be.
func (r *Reader) stateSize() (int, Split, error) {
	if !r.cur.full && r.footers != no && !r.far {
		if n, ok := r.nearFooter(); ok {
			return n, SplitFooter, nil
		}
		r.far = true // once is enough, or the search would be quadratic
	}
	if r.opt.VMDesc == nil {
		if err := r.loadTail(); err != nil {
			return 0, 0, err
		}
	}
	if n, ok := r.describedSize(); ok {
		return n, SplitVMDesc, nil
	}
	if err := r.loadTail(); err != nil {
		return 0, 0, err
	}
	at := int(r.src.offset() - r.tail.base)
	if r.footers != no {
		if end, ok := r.tail.footer(r.cur.id, at); ok {
			return end - at, SplitFooter, nil
		}
	}
	if r.footers == yes || r.tail.eof < at {
		return 0, 0, &FormatError{r.src.offset(), r.cur.name + ".state", CodeSplit, errNoEnd}
	}
	if end, ok := r.tail.start(at); ok {
		return end - at, SplitGuess, nil
	}
	return -1, 0, nil
}

var errNoEnd = fmt.Errorf("no end of the sections after it: %w", io.ErrUnexpectedEOF)

// describedSize returns the size that the description gives, where what
// follows then is the end of a section.
func (r *Reader) describedSize() (int, bool) {
	dev := r.index.device(r.desc, r.cur.device, r.cur.nth)
	if dev == nil {
		return 0, false
	}
	size, ok := dev.size()
	if !ok || size > r.opt.MaxState || size > math.MaxInt32 {
		return 0, false
	}
	n := int(size)
	if !r.src.has(n + 1) {
		return 0, false
	}
	if b := r.src.window(); b[n] != recFooter {
		return n, r.footers != yes && isRecord(b[n])
	}
	if r.footers == no || !r.src.has(n+footerSize) {
		return 0, false
	}
	return n, binary.BigEndian.Uint32(r.src.window()[n+1:]) == r.cur.id
}

// isRecord reports whether a record may begin with c, after a section.
func isRecord(c byte) bool {
	switch c {
	case recEOF, recStart, recPart, recEnd, recFull, recCommand:
		return true
	}
	return false
}

// nearFooter looks for the end of a section that comes in parts, before all
// of RAM perhaps: its footer, with what may begin a record behind it.
func (r *Reader) nearFooter() (int, bool) {
	for n := 0; int64(n) <= r.opt.MaxState && r.src.has(n+footerSize+1); n++ {
		b := r.src.window()[n:]
		skip := bytes.IndexByte(b[:len(b)-footerSize], recFooter)
		if skip < 0 {
			skip = len(b) - footerSize - 1
		}
		n += skip
		if b = b[skip:]; b[0] == recFooter && binary.BigEndian.Uint32(b[1:]) == r.cur.id && r.recordAt(n+footerSize) {
			return n, true
		}
	}
	return 0, false
}

// recordAt reports whether a record may begin n octets from here.
func (r *Reader) recordAt(n int) bool {
	at := func(i int) []byte { // the octets from i of the record on
		if !r.src.has(n + i + 1) {
			return nil
		}
		return r.src.window()[n+i:]
	}
	switch b := at(0); b[0] {
	case recEOF:
		if r.opt.NoReadAhead || r.opt.TrailingData {
			return true
		}
		b := at(1)
		return b == nil || b[0] == recVMDesc
	case recCommand:
		return true
	case recPart, recEnd:
		b := at(4)
		return b != nil && r.sections[binary.BigEndian.Uint32(r.src.window()[n+1:])] != nil
	case recStart, recFull:
		b := at(5)
		if b == nil || b[0] == 0 || at(5+int(b[0])+8) == nil {
			return false
		}
		name := r.src.window()[n+6:]
		return printable(name[:r.src.window()[n+5]])
	}
	return false
}

// loadTail reads the stream to its end.
func (r *Reader) loadTail() error {
	if r.tail != nil {
		return nil
	}
	if r.opt.NoReadAhead {
		return &FormatError{r.src.offset(), r.cur.name + ".state", CodeSplit, errNeedsDesc}
	}
	for n := windowSize; r.src.has(n); n *= 2 {
		if int64(n) > r.opt.MaxState || n > math.MaxInt32/2 {
			return r.fail(r.cur.name+".state", CodeLimit, r.src.offset())
		}
	}
	if r.src.failure() != nil {
		return r.cut(r.cur.name + ".state")
	}
	b := r.src.window()
	if int64(len(b)) > r.opt.MaxState {
		return r.fail(r.cur.name+".state", CodeLimit, r.src.offset())
	}
	r.tail = &tail{base: r.src.offset(), b: b, eof: -1}
	if eof, desc := findVMDesc(b, r.opt.TrailingData); desc != nil {
		r.tail.eof = eof
		if r.desc == nil {
			r.desc = desc
		}
	} else if len(b) > 0 && b[len(b)-1] == recEOF {
		r.tail.eof = len(b) - 1
	}
	return nil
}

var errNeedsDesc = errors.New("without reading ahead, only a description given beforehand tells where it ends")

// maxDescTries is how many things that look like a description are decoded in
// the search for one.
const maxDescTries = 8

// findVMDesc looks for the end of sections with a description behind it, at
// the end of b, or with trailing data anywhere, the last one first.
func findVMDesc(b []byte, trailing bool) (eof int, desc *VMDesc) {
	tries := 0
	for hi := len(b); tries < maxDescTries; {
		at := bytes.LastIndex(b[:hi], []byte{recEOF, recVMDesc})
		if at < 0 {
			return 0, nil
		}
		hi = at + 1
		if len(b)-at < 8 {
			continue
		}
		n, body := int64(binary.BigEndian.Uint32(b[at+2:])), b[at+6:]
		if n > int64(len(body)) || n < int64(len(body)) && !trailing || n == 0 || body[0] != '{' || body[n-1] != '}' {
			continue
		}
		tries++
		if desc, err := ParseVMDesc(body[:n]); err == nil {
			return at, desc
		}
	}
	return 0, nil
}

// unsplit takes all up to the octet of EOF as one record.
func (r *Reader) unsplit() error {
	n := int(r.tail.base + int64(r.tail.eof) - r.src.offset())
	r.rec.Data = r.src.take(n)
	return r.found(RecordTail, (*Reader).record)
}

// footer returns the index of the first good footer of section id at or
// after at.
func (t *tail) footer(id uint32, at int) (int, bool) {
	t.search()
	return first(t.footers[id], at)
}

// start returns the index of the first likely header, or of the end of
// sections, at or after at.
func (t *tail) start(at int) (int, bool) {
	t.search()
	if end, ok := first(t.starts, at); ok {
		return end, true
	}
	return t.eof, len(t.starts) > 0 && at <= t.eof
}

// first returns the smallest element of a descending list that is at or over
// min.
func first(list []int, min int) (int, bool) {
	i, exact := slices.BinarySearchFunc(list, min, func(e, min int) int { return min - e })
	if exact {
		return min, true
	}
	if i == 0 {
		return 0, false
	}
	return list[i-1], true
}

// search marks what is good.
func (t *tail) search() {
	if t.searched {
		return
	}
	t.searched = true
	t.footers = make(map[uint32][]int)
	t.good = make([]uint64, len(t.b)/64+1)
	for p := len(t.b) - 1; p >= 0; p-- {
		switch t.b[p] {
		case recFooter:
			if p+footerSize < len(t.b) && t.isGood(p+footerSize) {
				id := binary.BigEndian.Uint32(t.b[p+1:])
				t.footers[id] = append(t.footers[id], p)
			}
		case recEOF:
			if p == t.eof || t.eof < 0 && p >= footerSize && t.b[p-footerSize] == recFooter {
				t.mark(p)
			}
		case recStart, recFull:
			t.header(p)
		case recPart, recEnd:
			if p+5 <= len(t.b) {
				if _, ok := first(t.footers[binary.BigEndian.Uint32(t.b[p+1:])], p+5); ok {
					t.mark(p)
				}
			}
		case recCommand:
			if p+5 <= len(t.b) {
				if end := p + 5 + int(binary.BigEndian.Uint16(t.b[p+3:])); end < len(t.b) && t.isGood(end) {
					t.mark(p)
				}
			}
		}
	}
}

func (t *tail) mark(p int)        { t.good[p/64] |= 1 << (p % 64) }
func (t *tail) isGood(p int) bool { return t.good[p/64]>>(p%64)&1 != 0 }

// header judges whether the header of a section may begin at p.
func (t *tail) header(p int) {
	const fixed = 1 + 4 + 1 + 4 + 4 // besides the name
	if len(t.b)-p < fixed {
		return
	}
	id := binary.BigEndian.Uint32(t.b[p+1:])
	n := int(t.b[p+5])
	if n == 0 || len(t.b)-p < fixed+n || !printable(t.b[p+6:p+6+n]) {
		return
	}
	body := p + fixed + n
	if _, ok := first(t.footers[id], body); ok {
		t.mark(p)
		return
	}
	if body <= t.eof && likelyHeader(t.b[p:body], id) {
		t.starts = append(t.starts, p)
	}
}

// printable reports whether b may be the name of a device.
func printable(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

// likelyHeader holds a header against what QEMU writes, where no footer backs
// it up: small numbers, and a name of some length that begins with a letter,
// a digit or a slash.
func likelyHeader(b []byte, id uint32) bool {
	name := b[6 : len(b)-8]
	instance, version := binary.BigEndian.Uint32(b[len(b)-8:]), binary.BigEndian.Uint32(b[len(b)-4:])
	if b[0] != recFull || len(name) < 3 || id >= 1<<16 || instance >= 1<<16 || version >= 1<<10 {
		return false
	}
	c := name[0] | 0x20
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || name[0] == '/'
}
