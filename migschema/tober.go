package migschema

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// ToBER converts a classic stream to BER. What comes back from [ToClassic] is
// then the same octets, unless the report names a loss. After an error what
// has been written lacks its end.
//
// Memory grows with the device state alone.
func ToBER(dst io.Writer, src io.Reader, o *ConvertOptions) (*Report, error) {
	opt := o.withDefaults()
	eo := &EncoderOptions{Form: opt.Form, PageSize: opt.PageSize}
	if opt.Form == DER {
		again, ok := rewind(src)
		if !ok {
			return nil, errors.New("migschema: DER takes two passes: the input must be able to seek")
		}
		var report *Report
		err := EncodeDER(dst, eo, func(e *Encoder) error {
			if err := again(); err != nil {
				return err
			}
			var err error
			report, err = encodeClassic(e, src, o)
			return err
		})
		if err != nil {
			return nil, err
		}
		return report, nil
	}
	e := NewEncoder(dst, eo)
	report, err := encodeClassic(e, src, o)
	if err != nil {
		return nil, err
	}
	if err := e.Close(); err != nil {
		return nil, err
	}
	return report, nil
}

// encodeClassic writes the sections of a classic stream to e.
func encodeClassic(e *Encoder, src io.Reader, o *ConvertOptions) (*Report, error) {
	t := toBER{conversion: newConversion(o), e: e, sections: make(map[uint32]*berSection)}
	ro := &ReaderOptions{VMDesc: t.opt.VMDesc, MaxState: t.opt.MaxState, Validate: true}
	if t.opt.PageSize != PageSize {
		ro.PageSize = t.opt.PageSize
	}
	t.r = NewReader(src, ro)
	if err := each(t.r.Records(), t.record); err != nil {
		return nil, err
	}
	if err := t.finish(); err != nil {
		return nil, err
	}
	return &t.report, nil
}

type toBER struct {
	conversion
	r        *Reader
	e        *Encoder
	sections map[uint32]*berSection
	cur      *berSection
	head     Record // of the section at hand
	first    string // of the blocks announced
	last     string // block of the last page
	block    string // block that is open
	open     bool   // a block is open
	named    bool   // a block has been open in this section
	footers  tristate
	config   bool // there is a configuration
	page     []byte
}

// A berSection is what becomes of a section: which of its parts is which must
// be seen from their order alone.
type berSection struct {
	id      uint32
	ram     bool
	full    bool       // it began as a whole one
	list    bool       // its RAM list has been written
	parts   int        // records of it
	last    RecordKind // of them
	at      int64      // its offset
	name    string
	device  device
	version uint32
}

func (t *toBER) record(rec *Record) error {
	if rec.Kind != RecordFooter && rec.Kind != RecordHeader {
		if err := t.noteFooters(rec); err != nil {
			return err
		}
	}
	switch rec.Kind {
	case RecordPage:
		return t.pageRecord(rec)
	case RecordConfiguration:
		t.config = true
		return t.escape(escapeConfiguration, "configuration", 0, rec.Data)
	case RecordStart, RecordFull, RecordPart, RecordEnd:
		return t.section(rec)
	case RecordRAMList:
		return t.list(rec)
	case RecordRAMEnd:
		return t.ramEnd(rec)
	case RecordState:
		return t.state(rec)
	case RecordCommand:
		return t.escape(escapeCommand, "command", int64(rec.Command), rec.Data)
	case RecordTail:
		return t.tail(rec)
	case RecordVMDesc:
		return t.escape(escapeVMDesc, "vmdesc", 0, rec.Data)
	}
	return nil
}

// noteFooters writes, after the first section, whether there are footers,
// where a configuration does not imply it.
func (t *toBER) noteFooters(rec *Record) error {
	if t.footers != unknown || t.r.footers == unknown {
		return nil
	}
	switch rec.Kind {
	case RecordRAMList, RecordPage, RecordRAMEnd, RecordState, RecordTail:
		return nil // within a section
	}
	t.footers = t.r.footers
	if (t.footers == yes) == t.config {
		return nil
	}
	has := int64(0)
	if t.footers == yes {
		has = 1
	}
	return t.escape(escapeFooters, "footers", has, nil)
}

// escape writes a record that the schema lacks.
func (t *toBER) escape(id int64, name string, instance int64, data []byte) error {
	t.e.BeginFull(name, id, instance, 0)
	t.e.OldBlob(data)
	return t.e.EndSection()
}

// section notes the head of a section; what it becomes is seen from its body.
func (t *toBER) section(rec *Record) error {
	s := t.sections[rec.ID]
	if s == nil {
		s = &berSection{
			id: rec.ID, ram: rec.Kind == RecordStart && rec.Name == ramSection, full: rec.Kind == RecordFull, at: rec.Offset,
			name: rec.Name, device: device{rec.Name, rec.Instance}, version: rec.Version,
		}
		t.sections[rec.ID] = s
	}
	if code := nameFault(s.name, false); code != "" {
		return &FormatError{rec.Offset, rec.Kind.String() + ".name", CodeLossy, fmt.Errorf("the name %q: %w", s.name, code)}
	}
	if s.full && s.parts > 0 {
		const what = "a section that came whole and goes on, as one in parts"
		if s.name == ramSection {
			return &FormatError{rec.Offset, rec.Kind.String(), CodeLossy, errors.New(what)}
		}
		if err := t.lossy(what, rec.Kind.String(), rec.Offset); err != nil {
			return err
		}
	}
	s.parts++
	s.last = rec.Kind
	t.cur = s
	t.head = *rec
	t.named = false
	if s.ram && s.parts > 1 {
		return t.e.BeginMin(int64(s.id))
	}
	return nil
}

// list writes the list of blocks, which only the start of RAM can hold.
func (t *toBER) list(rec *Record) error {
	if t.cur.parts > 1 || t.cur.list {
		return &FormatError{rec.Offset, "ram.list", CodeLossy, errors.New("a second list of blocks")}
	}
	t.cur.list = true
	more := false
	for _, b := range rec.Blocks {
		if code := nameFault(b.Name, false); code != "" {
			return &FormatError{rec.Offset, "ram.list", CodeLossy, fmt.Errorf("the name %q: %w", b.Name, code)}
		}
		more = more || b.PageSize != 0 || b.HasAddr
	}
	if more {
		if err := t.escape(escapeBlocks, "ramblocks", 0, appendBlockExtras(nil, rec.Blocks)); err != nil {
			return err
		}
		for i := range rec.Blocks {
			rec.Blocks[i] = RAMBlock{Name: rec.Blocks[i].Name, Len: rec.Blocks[i].Len}
		}
	}
	if len(rec.Blocks) > 0 {
		t.first = rec.Blocks[0].Name
	}
	t.e.BeginFull(t.cur.name, int64(t.cur.id), int64(t.cur.device.instance), int64(t.cur.version))
	t.e.RAMList(rec.Total, rec.Blocks)
	return t.e.EndSection()
}

// ramEnd ends a section of RAM.
func (t *toBER) ramEnd(rec *Record) error {
	if t.cur.parts == 1 {
		if !t.cur.list {
			return &FormatError{rec.Offset, "ram", CodeLossy, errors.New("a start of RAM without a list of blocks")}
		}
		return t.e.err
	}
	t.closeBlock()
	return t.e.EndSection()
}

func (t *toBER) closeBlock() {
	if t.open {
		t.e.EndBlock()
	}
	t.open = false
}

func (t *toBER) openBlock(name string) {
	t.closeBlock()
	t.e.BeginBlock(name)
	t.open, t.named, t.block = true, true, name
}

// pageRecord writes a page. Where a block is named again without need, an
// adjacent block of the same name says so.
func (t *toBER) pageRecord(rec *Record) error {
	if t.cur.parts == 1 {
		return &FormatError{rec.Offset, "ram.page", CodeLossy, errors.New("a page at the start of RAM")}
	}
	p := &rec.Page
	switch {
	case p.Kind == PageHook:
		if !t.open {
			t.openBlock(cmpOr(t.last, t.first))
		}
		return t.e.Hook()
	case p.Kind == PageFlush:
		return t.lossy("flush mark, left out", "ram.page", rec.Offset)
	case rec.Named && !t.named:
		t.openBlock(p.Block)
		t.openBlock(p.Block)
	case rec.Named || !t.open || t.block != p.Block:
		t.openBlock(p.Block)
	}
	t.last = p.Block
	return t.content(rec)
}

// cmpOr returns a, or b where a is empty.
func cmpOr(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// content writes what a page holds, in a way that the schema knows.
func (t *toBER) content(rec *Record) error {
	p := &rec.Page
	if size := t.r.PageSize(); size != t.opt.PageSize {
		return &FormatError{rec.Offset, "ram.page", CodeLossy, fmt.Errorf("pages of %d bytes, the schema has %d", size, t.opt.PageSize)}
	}
	switch {
	case p.Kind == PageZero && p.Fill != 0:
		if err := t.lossy("zero page with a fill byte, as a full page", "ram.page", rec.Offset); err != nil {
			return err
		}
	case p.Kind == PageCompressed:
		const what = "compressed page, as a full page"
		if t.opt.Decompress {
			t.report.lose(what, rec.Offset)
		} else if err := t.lossy(what, "ram.page", rec.Offset); err != nil {
			return err
		}
	default:
		return t.e.Page(p)
	}
	if t.page == nil {
		t.page = make([]byte, t.opt.PageSize)
	}
	if err := p.Decode(t.page); err != nil {
		return placed(err, rec.Offset, "ram.page")
	}
	return t.e.FullPage(p.Addr, t.page)
}

// state writes the body of a section that is no RAM.
func (t *toBER) state(rec *Record) error {
	s := t.cur
	t.e.BeginFull(s.name, int64(s.id), int64(s.device.instance), int64(s.version))
	if typed := t.typed(rec); typed != nil {
		t.report.Typed++
		t.e.Contents(typed)
	} else {
		t.report.Opaque++
		t.e.OldBlob(rec.Data)
	}
	return t.e.EndSection()
}

// typed returns the typed form of a device's state, nil where it has none
// that gives the same bytes again.
func (t *toBER) typed(rec *Record) VMState {
	if t.head.Kind != RecordFull {
		return nil
	}
	dev := t.describe(t.r.VMDesc(), t.cur.device)
	if !t.opt.Typed || dev == nil {
		return nil
	}
	state, err := dev.Decode(rec.Data)
	if err != nil {
		return nil
	}
	if back, err := dev.Encode(state); err != nil || !slices.Equal(back, rec.Data) || !t.encodable(state, stateDepth) {
		return nil
	}
	return state
}

// encodable reports whether decoders take the names of all subsections, and
// elements as deep as the entries of a list that is the depth'th.
func (t *toBER) encodable(l []Entry, depth int) bool {
	if depth > MaxDepth {
		return false
	}
	for _, e := range l {
		switch e := e.(type) {
		case Array:
			if !t.encodable(e, depth+1) {
				return false
			}
		case OldBlob:
			if t.opt.Form == CER && len(e) > cerSegment && depth == MaxDepth {
				return false
			}
		case SubSecList:
			for _, s := range e {
				if nameFault(s.Name, false) != "" || !t.encodable(s.Contents, depth+3) {
					return false
				}
			}
		}
	}
	return true
}

// tail writes sections that could not be told apart, the head of the first
// included.
func (t *toBER) tail(rec *Record) error {
	if t.head.Kind != RecordFull {
		return &FormatError{rec.Offset, "tail", CodeLossy, errors.New("sections in parts that cannot be told apart")}
	}
	h := &t.head
	b := binary.BigEndian.AppendUint32([]byte{recFull}, h.ID)
	b = append(append(b, byte(len(h.Name))), h.Name...)
	b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, h.Instance), h.Version)
	delete(t.sections, h.ID)
	return t.escape(escapeTail, "tail", 0, append(b, rec.Data...))
}

// finish looks for sections whose parts ToClassic would take for others.
func (t *toBER) finish() error {
	for _, s := range t.sections {
		if s.parts == 1 && s.last == RecordStart && !s.ram {
			if err := t.lossy("start of a section without an end, as a full one", "start", s.at); err != nil {
				return err
			}
		}
		if s.last == RecordPart {
			if err := t.lossy("section without an end: its last part becomes that", "part", s.at); err != nil {
				return err
			}
		}
	}
	return t.e.err
}
