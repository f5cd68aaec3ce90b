package migschema

import (
	"errors"
	"fmt"
	"io"
	"math"
)

// ToClassic converts a BER stream to a classic one. Of a stream that [ToBER]
// made, it is the one that that was made from, unless a report named a loss.
// After an error what has been written lacks its end.
//
// Which part of RAM is the last one can only be told from the whole stream,
// and typed state needs the VMDESC at its end: so the input must be able to
// seek. One that cannot is converted with [ConvertOptions.Lossy]: then an
// empty last part is added, and typed state needs [ConvertOptions.VMDesc].
func ToClassic(dst io.Writer, src io.Reader, o *ConvertOptions) (*Report, error) {
	t := toClassic{conversion: newConversion(o), parts: make(map[int64]*parts)}
	t.desc = t.opt.VMDesc
	if again, ok := rewind(src); ok {
		t.surveyed = true
		if err := t.survey(src); err != nil {
			return nil, err
		}
		if err := again(); err != nil {
			return nil, err
		}
	}
	t.w = NewWriter(dst, &WriterOptions{PageSize: t.opt.PageSize})
	if err := t.w.Write(&Record{Kind: RecordHeader, Version: classicVersion}); err != nil {
		return nil, err
	}
	t.d = t.decoder(src)
	if err := each(t.d.Events(), t.event); err != nil {
		return nil, err
	}
	if err := t.w.Close(); err != nil {
		return nil, err
	}
	return &t.report, nil
}

type toClassic struct {
	conversion
	d        *Decoder
	w        *Writer
	rec      Record
	desc     *VMDesc
	surveyed bool
	parts    map[int64]*parts

	ev      Event  // the head of the section at hand
	block   string // the block before in the section, if there was one
	began   bool   // there was one
	again   bool   // the next page names its block again
	pending bool   // a footer may have to be written
	config  bool   // there was a configuration
	footers tristate
	extras  []byte // of the blocks in the list to come
	tail    []byte // VMDESC, kept for the end
	hasTail bool
	lastID  int64 // of the RAM section, for an end to be added
	ramOpen bool  // it has parts and no end
}

// parts counts the sections of an id.
type parts struct{ total, seen int }

func (t *toClassic) decoder(src io.Reader) *Decoder {
	return NewDecoder(src, &DecoderOptions{Validate: true, PageSize: t.opt.PageSize, Lenient: t.opt.Lenient})
}

// survey counts the parts of each section, and looks for the VMDESC.
func (t *toClassic) survey(src io.Reader) error {
	d := NewDecoder(src, &DecoderOptions{PageSize: t.opt.PageSize, Lenient: t.opt.Lenient})
	limit := t.opt.MaxState
	if t.desc != nil {
		limit = 0
	}
	desc, err := surveyBER(d, limit, func(id int64) error {
		if err := t.part(id); err != nil {
			return err
		}
		t.parts[id].total++
		return nil
	})
	if t.desc == nil {
		t.desc = desc
	}
	return err
}

// part makes an account of the parts of id.
func (t *toClassic) part(id int64) error {
	if t.parts[id] == nil {
		if len(t.parts) == maxSections {
			return fmt.Errorf("migschema: %w: more than %d sections", CodeLimit, maxSections)
		}
		t.parts[id] = new(parts)
	}
	return nil
}

func (t *toClassic) event(ev *Event) error {
	switch ev.Kind {
	case EventPage:
		return t.page(ev)
	case EventFull, EventMin:
		return t.section(ev)
	case EventBlock:
		t.again = t.began && t.block == ev.Name
		t.block, t.began = ev.Name, true
	case EventRAMList:
		return t.list(ev)
	case EventBlob:
		return t.blob()
	case EventState:
		return t.state()
	case EventSectionEnd:
		return t.sectionEnd(ev)
	case EventFileEnd:
		return t.fileEnd(ev)
	}
	return nil
}

// fail is an error about the section at hand.
func (t *toClassic) fail(code Code, what string) error {
	return &FormatError{t.ev.Offset, t.d.Path(), code, errors.New(what)}
}

func (t *toClassic) write(kind RecordKind) error {
	t.rec.Kind = kind
	return t.w.Write(&t.rec)
}

// section writes the head of a section, unless it is an escape.
func (t *toClassic) section(ev *Event) error {
	t.ev = *ev
	if ev.Kind == EventFull && ev.SectionID < 0 {
		return nil
	}
	if err := t.footer(); err != nil {
		return err
	}
	if ev.SectionID < 0 || ev.SectionID > math.MaxUint32 {
		return t.fail(CodeLossy, "a section id that is no 32-bit number")
	}
	t.rec.ID = uint32(ev.SectionID)
	t.began = false
	if err := t.part(ev.SectionID); err != nil {
		return err
	}
	p := t.parts[ev.SectionID]
	p.seen++
	if ev.Kind == EventMin {
		return t.ramPart(p)
	}
	if ev.InstanceID < 0 || ev.InstanceID > math.MaxUint32 || ev.VersionID < 0 || ev.VersionID > math.MaxUint32 {
		return t.fail(CodeLossy, "an instance or a version that is no 32-bit number")
	}
	t.rec.Name, t.rec.Instance, t.rec.Version = ev.Name, uint32(ev.InstanceID), uint32(ev.VersionID)
	return nil // its kind shows from its contents
}

// ramPart writes the head of a part of RAM.
func (t *toClassic) ramPart(p *parts) error {
	if t.surveyed && p.seen == p.total {
		return t.write(RecordEnd)
	}
	t.ramOpen, t.lastID = !t.surveyed, t.ev.SectionID
	return t.write(RecordPart)
}

// endRAM adds the end of RAM to a stream whose last part could not be told.
func (t *toClassic) endRAM() error {
	if !t.ramOpen {
		return nil
	}
	t.ramOpen = false
	if err := t.lossy("end of RAM, as an empty part", "top", t.ev.Offset); err != nil {
		return err
	}
	if err := t.footer(); err != nil {
		return err
	}
	id := t.rec.ID
	t.rec.ID = uint32(t.lastID)
	t.write(RecordEnd)
	t.write(RecordRAMEnd)
	t.pending = true
	err := t.footer()
	t.rec.ID = id
	return err
}

// footer writes the footer of the section before, if there are any.
func (t *toClassic) footer() error {
	if !t.pending {
		return nil
	}
	t.pending = false
	if t.footers == unknown {
		t.footers = no
		if t.config {
			t.footers = yes
		}
	}
	if t.footers == no {
		return nil
	}
	return t.w.Write(&Record{Kind: RecordFooter, ID: t.w.cur})
}

func (t *toClassic) list(ev *Event) error {
	t.rec.Total, t.rec.Blocks = ev.TotalRAM, ev.Blocks
	if t.rec.Name != ramSection {
		return t.fail(CodeLossy, "a RAM list in a section that is not named ram")
	}
	if t.extras != nil && !setBlockExtras(t.rec.Blocks, t.extras) {
		return t.fail(CodeLossy, "page sizes and addresses of other blocks")
	}
	t.extras = nil
	if err := t.write(RecordStart); err != nil {
		return err
	}
	if err := t.write(RecordRAMList); err != nil {
		return err
	}
	return t.write(RecordRAMEnd)
}

func (t *toClassic) page(ev *Event) error {
	t.rec.Page, t.rec.Named = ev.Page, t.again
	if ev.Page.Kind != PageHook {
		t.again = false
	}
	return t.write(RecordPage)
}

// blob writes opaque state, or takes an escape.
func (t *toClassic) blob() error {
	b, err := t.d.Blob(t.opt.MaxState)
	if err != nil {
		return err
	}
	if t.ev.SectionID < 0 {
		return t.escape(b)
	}
	t.report.Opaque++
	if t.parts[t.ev.SectionID].total <= 1 {
		t.describe(t.desc, device{t.rec.Name, t.rec.Instance})
	}
	return t.device(b)
}

// state writes typed state.
func (t *toClassic) state() error {
	if t.ev.SectionID < 0 {
		return t.fail(CodeLossy, "typed state under a negative section id")
	}
	dev := t.describe(t.desc, device{t.rec.Name, t.rec.Instance})
	if dev == nil {
		return t.fail(CodeVMDesc, "typed state without a description of the device")
	}
	v, err := t.d.State(t.opt.MaxState)
	if err != nil {
		return err
	}
	b, err := dev.Encode(v)
	if err != nil {
		return placed(err, t.ev.Offset, t.d.Path())
	}
	t.report.Typed++
	return t.device(b)
}

// device writes the head of a section that is no RAM, and its body.
func (t *toClassic) device(body []byte) error {
	p := t.parts[t.ev.SectionID]
	kind := RecordFull
	switch {
	case p.total > 1 && p.seen == 1:
		kind = RecordStart
	case p.seen > 1 && p.seen == p.total:
		kind = RecordEnd
	case p.seen > 1:
		kind = RecordPart
	}
	if !t.surveyed && p.seen > 1 {
		return t.fail(CodeLossy, "a section in parts, in an input that cannot seek")
	}
	if kind == RecordFull {
		if err := t.endRAM(); err != nil {
			return err
		}
	}
	if kind == RecordStart && t.rec.Name == ramSection {
		return t.fail(CodeLossy, "RAM as a blob")
	}
	if err := t.write(kind); err != nil {
		return err
	}
	t.rec.Data = body
	return t.write(RecordState)
}

// escape writes a record that the schema lacks.
func (t *toClassic) escape(b []byte) error {
	t.rec.Data = b
	switch t.ev.SectionID {
	case escapeFooters:
		if t.footers != unknown {
			return t.fail(CodeLossy, "word of footers after the second section")
		}
		t.footers = no
		if t.ev.InstanceID != 0 {
			t.footers = yes
		}
		return nil
	case escapeBlocks:
		t.extras = append([]byte{}, b...)
		return nil
	case escapeVMDesc:
		t.tail, t.hasTail = append([]byte{}, b...), true
		return nil
	case escapeConfiguration:
		t.config = true
		return t.before(RecordConfiguration)
	case escapeCommand:
		if t.ev.InstanceID < 0 || t.ev.InstanceID > math.MaxUint16 {
			return t.fail(CodeLossy, "a command that is no 16-bit number")
		}
		t.rec.Command = uint16(t.ev.InstanceID)
		return t.before(RecordCommand)
	case escapeTail:
		return t.sectionsAsTheyAre(b)
	}
	return t.fail(CodeLossy, fmt.Sprintf("a section with the id %d", t.ev.SectionID))
}

// before writes a record after the footer of the section before.
func (t *toClassic) before(kind RecordKind) error {
	if err := t.footer(); err != nil {
		return err
	}
	return t.write(kind)
}

// sectionsAsTheyAre writes sections that could not be told apart.
func (t *toClassic) sectionsAsTheyAre(b []byte) error {
	if err := t.endRAM(); err != nil {
		return err
	}
	if err := t.footer(); err != nil {
		return err
	}
	r := newReader(bytesSource(b), nil)
	r.step = (*Reader).record
	head, err := r.Next()
	if err != nil {
		return err
	}
	if head.Kind != RecordFull {
		return t.fail(CodeLossy, "a tail that does not begin with a section")
	}
	if err := t.w.Write(head); err != nil {
		return err
	}
	t.rec.Data = r.Buffered()
	return t.write(RecordTail)
}

func (t *toClassic) sectionEnd(ev *Event) error {
	if t.ev.SectionID < 0 {
		return nil
	}
	if t.ev.Kind == EventMin {
		if err := t.write(RecordRAMEnd); err != nil {
			return err
		}
	}
	t.pending = true
	return nil
}

func (t *toClassic) fileEnd(ev *Event) error {
	t.ev.Offset = ev.Offset
	if err := t.endRAM(); err != nil {
		return err
	}
	if err := t.footer(); err != nil {
		return err
	}
	if err := t.write(RecordEOF); err != nil || !t.hasTail {
		return err
	}
	t.rec.Data = t.tail
	return t.write(RecordVMDesc)
}
