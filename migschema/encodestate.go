package migschema

import "fmt"

// blobPieces is an OCTET STRING that is written piece by piece.
type blobPieces struct {
	open     bool
	segments bool   // it has begun in segments
	left     int64  // octets still to come, or indefinite
	start    int64  // of its contents, in DER
	index    int    // in lengths, in a sizing pass
	held     []byte // CER: less than a segment
}

// BeginState begins the typed state of a device, the contents of a SecFull.
// [Encoder.End] ends it. State that is at hand as a whole goes by
// [Encoder.Contents].
func (e *Encoder) BeginState() error {
	if e.contents("state") {
		e.begin(nodeStateList)
	}
	return e.err
}

// entry reports whether one of the schema's VMStateEntries may be written
// here; otherwise it keeps an error.
func (e *Encoder) entry(what string) bool {
	if e.err != nil {
		return false
	}
	switch e.top().node {
	case nodeStateList, nodeArray, nodeEntries:
		if !e.blob.open {
			return true
		}
	}
	e.misuse("%s within %s", what, e.top().node.name)
	return false
}

// BeginArray begins an array among the state. [Encoder.End] ends it.
func (e *Encoder) BeginArray() error {
	if e.entry("an array") {
		e.begin(nodeArray)
	}
	return e.err
}

// Bool writes a truth value among the state.
func (e *Encoder) Bool(v bool) error {
	if e.entry("a bool") {
		e.boolean(v)
	}
	return e.err
}

func (e *Encoder) boolean(v bool) {
	c := byte(0)
	if v {
		c = 0xff
	}
	e.lead(tagBoolean, 1)
	e.raw([]byte{c})
}

// Int writes a number among the state.
func (e *Encoder) Int(v Int) error {
	if e.entry("an int") {
		e.integer(tagInteger, v)
	}
	return e.err
}

// BeginSubSecList begins a list of subsections among the state. [Encoder.End]
// ends it.
func (e *Encoder) BeginSubSecList() error {
	if e.entry("a subsection list") {
		e.begin(nodeSubSecList)
	}
	return e.err
}

// BeginSubSection begins a subsection within a list. [Encoder.End] ends it.
func (e *Encoder) BeginSubSection(name string, version int64) error {
	if e.in(nodeSubSecList, "a subsection") {
		e.subSectionHead(name, NewInt(version))
	}
	return e.err
}

func (e *Encoder) subSectionHead(name string, version Int) {
	e.begin(nodeSubSection)
	e.name(name)
	e.integer(tagInteger, version)
	e.begin(nodeEntries)
}

// End ends what BeginState, BeginArray, BeginSubSecList or BeginSubSection
// began.
func (e *Encoder) End() error {
	if e.err != nil {
		return e.err
	}
	switch n := e.top().node; {
	case e.blob.open:
		return e.misuse("an end within a blob")
	case n == nodeEntries:
		e.end()
		e.end()
	case n == nodeStateList || n == nodeArray || n == nodeSubSecList:
		e.end()
	default:
		return e.misuse("an end within %s", n.name)
	}
	return e.err
}

// OldBlob writes opaque state, as contents of a SecFull or among the state.
func (e *Encoder) OldBlob(b []byte) error { return e.Blob(b, int64(len(b)), false) }

// Blob writes a piece of opaque state, as contents of a SecFull or among the
// state; more says that another piece follows. size is how many octets all
// pieces have, or -1 where that is not known: they then become segments.
func (e *Encoder) Blob(piece []byte, size int64, more bool) error {
	p := &e.blob
	if e.err != nil {
		return e.err
	}
	if !p.open {
		if e.top().node == nodeSecFull {
			e.contents("a blob")
		} else {
			e.entry("a blob")
		}
		if e.err != nil {
			return e.err
		}
		if !more {
			size = int64(len(piece))
		}
		e.beginBlob(size)
	}
	if p.left != indefinite {
		if p.left -= int64(len(piece)); p.left < 0 || !more && p.left > 0 {
			return e.misuse("a blob of another size than was said")
		}
	}
	p.open = more
	e.blobPiece(piece, more)
	return e.err
}

func (e *Encoder) beginBlob(size int64) {
	p := &e.blob
	*p = blobPieces{left: size, held: p.held[:0]}
	switch {
	case e.opt.Form == CER:
	case size != indefinite:
		e.lead(tagOctets, size)
	case e.sizing:
		p.index = len(e.lengths)
		e.lengths = append(e.lengths, 0)
		p.start = e.count
	case e.known:
		p.start, p.left = e.takeLength(tagOctets, false)
	default:
		p.segments = true
		e.beginSegments(tagOctets)
	}
}

func (e *Encoder) blobPiece(piece []byte, more bool) {
	p := &e.blob
	switch {
	case e.opt.Form == CER:
		e.cerPiece(piece, more)
	case p.segments:
		e.octets(tagOctets, piece)
		if !more {
			e.endSegments()
		}
	default:
		e.raw(piece)
		if e.sizing && p.left == indefinite && !more {
			size := e.count - p.start
			e.lengths[p.index] = size
			e.count += int64(identifierSize(tagOctets) + lengthSize(size))
		}
	}
}

// cerPiece writes what is held and piece as segments of 1000 octets, and
// holds the rest while more is to come: in one segment a string is primitive.
func (e *Encoder) cerPiece(piece []byte, more bool) {
	p := &e.blob
	p.held = append(p.held, piece...)
	b := p.held
	for len(b) > cerSegment {
		if !p.segments {
			p.segments = true
			e.beginSegments(tagOctets)
		}
		e.lead(tagOctets, cerSegment)
		e.raw(b[:cerSegment])
		b = b[cerSegment:]
	}
	if !more {
		e.lead(tagOctets, int64(len(b)))
		e.raw(b)
		if p.segments {
			e.endSegments()
		}
		b = b[:0]
	}
	p.held = p.held[:copy(p.held, b)]
}

// Event writes what a [Decoder] found. [EventFileEnd] is left to
// [Encoder.Close].
func (e *Encoder) Event(ev *Event) error {
	switch ev.Kind {
	case EventPage:
		return e.Page(&ev.Page)
	case EventFile:
		if v, ok := ev.Version.Int64(); !ok || v != e.opt.Version {
			return e.keep(fmt.Errorf("migschema: %w: %s", CodeVersion, ev.Version))
		}
		return e.file()
	case EventFull:
		return e.BeginFull(ev.Name, ev.SectionID, ev.InstanceID, ev.VersionID)
	case EventMin:
		return e.BeginMin(ev.SectionID)
	case EventRAMList:
		return e.RAMList(ev.TotalRAM, ev.Blocks)
	case EventBlock:
		return e.BeginBlock(ev.Name)
	case EventBlockEnd:
		return e.EndBlock()
	case EventState:
		return e.BeginState()
	case EventArray:
		return e.BeginArray()
	case EventBool:
		return e.Bool(ev.Bool)
	case EventInt:
		return e.Int(ev.Int)
	case EventBlob:
		return e.Blob(ev.Data, ev.Size, ev.More)
	case EventSubSecList:
		return e.BeginSubSecList()
	case EventSubSection:
		return e.BeginSubSection(ev.Name, ev.VersionID)
	case EventEnd:
		return e.End()
	case EventSectionEnd:
		return e.EndSection()
	}
	return e.err
}
