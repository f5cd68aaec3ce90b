package migschema

import (
	"fmt"
	"io"
	"iter"
	"math"
)

// sectionDepth is how many elements hold a section: the file and its list.
const sectionDepth = 2

// stateDepth is how deep the state of a device is, itself counted: the file,
// its list and the section hold it.
const stateDepth = sectionDepth + 2

// A Decoder reads a BER stream as a sequence of events, in memory that does
// not grow with it. A Decoder is not safe for concurrent use.
type Decoder struct {
	w       walker
	ev      Event
	names   map[string]string // of the blocks announced
	skipped bool              // Skip has closed the section
	check   *Validator
	blob    []byte // a string that came in pieces
}

// NewDecoder returns a Decoder of the QemuFile in r. It reads ahead, unless
// told not to.
func NewDecoder(r io.Reader, o *DecoderOptions) *Decoder {
	return newDecoder(newSource(r, o != nil && o.NoReadAhead), o)
}

// NewDecoderBytes returns a Decoder of the QemuFile in b. It copies nothing:
// page data are views of b, valid as long as b is.
func NewDecoderBytes(b []byte, o *DecoderOptions) *Decoder {
	return newDecoder(bytesSource(b), o)
}

func newDecoder(src source, o *DecoderOptions) *Decoder {
	d := new(Decoder)
	d.w.init(src, nodeQemuFile, o)
	if d.w.opt.Validate {
		d.check = NewValidator(d.w.opt.PageSize)
	}
	return d
}

// Next returns the next event, or [io.EOF] after [EventFileEnd]. The event is
// valid until the next call. Errors are [*FormatError] or those of the reader,
// and stay.
//
// Ids must fit an int64 and addresses a uint64, though the schema bounds
// neither; otherwise it is [CodeRange]. [Unmarshal] takes any.
func (d *Decoder) Next() (*Event, error) {
	if d.skipped {
		d.skipped = false
		return d.emit(EventSectionEnd, d.w.src.offset())
	}
	for {
		if err := d.w.next(); err != nil {
			return nil, err
		}
		kind, ok := d.event()
		if d.w.err != nil {
			return nil, d.w.err
		}
		if ok {
			return d.emit(kind, d.ev.Offset)
		}
	}
}

func (d *Decoder) emit(kind EventKind, at int64) (*Event, error) {
	d.ev.Kind, d.ev.Offset = kind, at
	if d.check != nil {
		if err := d.check.Event(&d.ev); err != nil {
			d.w.err = &FormatError{at, d.w.elementPath(), err.(Code), nil}
			return nil, d.w.err
		}
	}
	return &d.ev, nil
}

// event turns the element that has been found, and what belongs to it, into
// an event. It reports false where the element shows in no event.
func (d *Decoder) event() (EventKind, bool) {
	d.ev.Offset = d.w.at
	switch d.w.event {
	case ElementBegin:
		return d.begin()
	case ElementEnd:
		return d.end()
	}
	switch d.w.node {
	case nodeCompr:
		return d.page(PageZero, d.addr(), nil)
	case nodeHook:
		return d.page(PageHook, 0, nil)
	case nodeBoolean:
		d.ev.Bool = d.w.flag
		return EventBool, true
	case nodeInteger:
		d.ev.Int = d.w.num
		return EventInt, true
	case nodeOldBlob:
		d.ev.Data, d.ev.More, d.ev.Size = d.w.data, d.w.more, d.w.h.length
		return EventBlob, true
	}
	return 0, false // secendmark
}

func (d *Decoder) begin() (EventKind, bool) {
	w := &d.w
	switch w.node {
	case nodeFullPage:
		addr := d.nextAddr()
		w.next()
		return d.page(PageFull, addr, w.data)
	case nodeXBZRLEPage:
		addr := d.nextAddr()
		w.next()
		return d.page(PageXBZRLE, addr, w.data)
	case nodeRAMSecBlock:
		w.next()
		d.ev.Name = d.intern(w.data)
		d.ev.Page.Block = d.ev.Name
		w.next() // pagelist
		return EventBlock, true
	case nodeSecMin:
		d.ev.SectionID = d.nextID()
		return EventMin, true
	case nodeSecFull:
		w.next()
		d.ev.Name = string(w.data)
		d.ev.SectionID, d.ev.InstanceID, d.ev.VersionID = d.nextID(), d.nextID(), d.nextID()
		return EventFull, true
	case nodeRAMBlockList:
		d.blockList()
		return EventRAMList, true
	case nodeStateList:
		return EventState, true
	case nodeArray:
		return EventArray, true
	case nodeSubSecList:
		return EventSubSecList, true
	case nodeSubSection:
		w.next()
		d.ev.Name = string(w.data)
		d.ev.VersionID = d.nextID()
		w.next() // contents
		return EventSubSection, true
	case nodeQemuFile:
		w.next()
		d.ev.Version = w.num
		w.next() // top
		return EventFile, true
	}
	return 0, false // ramsec
}

func (d *Decoder) end() (EventKind, bool) {
	switch d.w.node {
	case nodeRAMSecBlock:
		return EventBlockEnd, true
	case nodeSecMin, nodeSecFull:
		return EventSectionEnd, true
	case nodeStateList, nodeArray, nodeSubSecList, nodeSubSection:
		return EventEnd, true
	case nodeQemuFile:
		return EventFileEnd, true
	}
	// ramsec, pagelist, top; the contents of a subsection; a page, whose data
	// had to be handed out before the window moves on
	return 0, false
}

func (d *Decoder) page(kind PageKind, addr uint64, data []byte) (EventKind, bool) {
	p := &d.ev.Page
	p.Kind, p.Addr, p.Data = kind, addr, data
	return EventPage, true
}

// nextID returns the next element, an INTEGER, as an id.
func (d *Decoder) nextID() int64 {
	d.w.next()
	id, ok := d.w.num.Int64()
	d.inRange(ok)
	return id
}

// nextAddr returns the next element, an INTEGER, as an address or a length.
func (d *Decoder) nextAddr() uint64 {
	d.w.next()
	return d.addr()
}

func (d *Decoder) addr() uint64 {
	v, ok := d.w.num.Uint64()
	d.inRange(ok)
	return v
}

func (d *Decoder) inRange(ok bool) {
	if w := &d.w; !ok && w.err == nil {
		w.err = &FormatError{w.at, w.valuePath(), CodeRange, nil}
	}
}

func (d *Decoder) blockList() {
	w := &d.w
	d.ev.TotalRAM = d.nextAddr()
	d.ev.Blocks = d.ev.Blocks[:0]
	d.names = make(map[string]string)
	w.next() // blocks
	for w.next() == nil && w.event != ElementEnd {
		if len(d.ev.Blocks) == w.opt.MaxBlocks {
			w.err = w.fail(CodeLimit, w.at)
			return
		}
		w.next()
		name := string(w.data)
		d.names[name] = name
		d.ev.Blocks = append(d.ev.Blocks, RAMBlock{Name: name, Len: d.nextAddr()})
		w.next() // its end
	}
	w.next() // end of the list
}

// intern returns the name of a block without an allocation, where it is a
// known one.
func (d *Decoder) intern(b []byte) string {
	if string(b) == d.ev.Page.Block {
		return d.ev.Page.Block
	}
	if s, ok := d.names[string(b)]; ok {
		return s
	}
	return string(b)
}

// Events returns the events that are left. It ends after the first error, and
// does not give [io.EOF].
func (d *Decoder) Events() iter.Seq2[*Event, error] { return all(d.Next) }

// State returns the typed state that [EventState] begins, as a value, after
// that event, if that takes at most limit bytes: its octets in the stream, and
// 64 for each entry and 128 for each subsection. Events go on behind its end.
func (d *Decoder) State(limit int64) (VMState, error) {
	if d.w.err == nil && (d.w.event != ElementBegin || d.w.node != nodeStateList) {
		return nil, fmt.Errorf("migschema: %w: State without EventState", CodeMisuse)
	}
	d.w.valueEnd = d.w.src.offset() + min(limit, math.MaxInt64-d.w.src.offset())
	l := d.w.entries()
	d.w.valueEnd = math.MaxInt64
	return l, d.w.err
}

// Blob returns the whole of the string that [EventBlob] is the first piece
// of, after that event, at most limit octets. It is valid until the next
// call; events go on behind it.
func (d *Decoder) Blob(limit int64) ([]byte, error) {
	if d.w.err == nil && d.ev.Kind != EventBlob {
		return nil, fmt.Errorf("migschema: %w: Blob without EventBlob", CodeMisuse)
	}
	whole := d.ev.Data
	if d.ev.More {
		d.blob = append(d.blob[:0], whole...)
		for int64(len(d.blob)) <= limit && d.ev.More && d.w.next() == nil {
			d.event()
			d.blob = append(d.blob, d.ev.Data...)
		}
		whole = d.blob
	}
	if d.w.err == nil && int64(len(whole)) > limit {
		d.w.err = &FormatError{d.w.at, d.w.valuePath(), CodeLimit, nil}
	}
	return whole, d.w.err
}

// Skip passes over the rest of the section that is being read, without
// looking at it where its length is known. The next event is
// [EventSectionEnd]. Outside a section it does nothing.
func (d *Decoder) Skip() error {
	if d.w.err == nil && !d.skipped && len(d.w.stack) > sectionDepth {
		d.w.leave(sectionDepth)
		d.skipped = true
	}
	return d.w.err
}

// Offset returns the offset in the stream of the first octet not consumed.
func (d *Decoder) Offset() int64 { return d.w.src.offset() }

// Path returns the path of the element that the last event ended with, such
// as QemuFile.top[3].min.contents.ramsec[0].pagelist[7].
func (d *Decoder) Path() string { return d.w.elementPath() }

// Buffered returns what has been read from the reader and not consumed: after
// [io.EOF], what follows the stream. It is valid until the next call.
func (d *Decoder) Buffered() []byte { return d.w.src.window() }
