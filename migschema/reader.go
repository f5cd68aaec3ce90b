package migschema

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"

	"github.com/virtfmt/virtfmt/internal/align"
)

// ReaderOptions says how to read a classic stream. nil and the zero value are
// the defaults.
type ReaderOptions struct {
	// PageSize is the size of a page, a power of two from 1 KiB to 1 MiB, if 0
	// what the configuration tells, or 4096.
	PageSize int
	// VMDesc describes the device state, where it is known beforehand: from
	// another stream of the same machine. The device state is then read as it
	// comes. Otherwise the reader must look for the description at the end of
	// the stream, and holds what lies between.
	VMDesc *VMDesc
	// MaxState is how many bytes of device state are held, 256 MiB if 0.
	MaxState int64
	// MaxBlocks is how many blocks a RAM list may have, 65536 if 0.
	MaxBlocks int
	// IgnoreShared says that the stream tells a guest address for each block,
	// as with the capability x-ignore-shared. A configuration that names the
	// capability says it too.
	IgnoreShared bool
	// TrailingData leaves octets after the end in [Reader.Buffered] and in the
	// reader; otherwise they are an error.
	TrailingData bool
	// NoReadAhead reads no octet past [RecordEOF]. A caller that goes on to
	// the VMDESC gives that up. It needs VMDesc.
	NoReadAhead bool
	// Validate also checks records against one another. See [Validator].
	Validate bool
}

// maxStateDefault is how many bytes of device state are held where no option
// says otherwise.
const maxStateDefault = 256 << 20

func (o *ReaderOptions) withDefaults() ReaderOptions {
	var d ReaderOptions
	if o != nil {
		d = *o
	}
	orDefault(&d.MaxState, maxStateDefault)
	orDefault(&d.MaxBlocks, 1<<16)
	return d
}

// A Reader reads a classic stream as a sequence of records. RAM passes
// through in memory that does not grow with it; device state is held as a
// whole unless its description is known. A Reader is not safe for concurrent
// use.
type Reader struct {
	src      source
	opt      ReaderOptions
	rec      Record
	step     func(*Reader) error // reads the next record into rec
	err      error
	check    *Validator
	pageSize uint64

	sections map[uint32]*section
	devices  map[device]int // how many sections of each
	cur      *section
	footers  tristate

	blocks    map[string]string // names announced
	addresses bool              // blocks tell a guest address
	summary   uint64            // page sizes that postcopy announced
	last      string            // block of the last page

	desc  *VMDesc
	index descIndex
	tail  *tail // once the rest of the stream is in memory
	far   bool  // a search for the next footer went to the end in vain
}

// A section is what a Reader or a Writer knows of one.
type section struct {
	device
	id   uint32
	nth  int  // of the devices of this name and instance
	ram  bool // it carries RAM
	full bool // it comes whole
}

// A device is what tells one device from another, nearly: see [VMDesc.Device].
type device struct {
	name     string
	instance uint32
}

// A tristate is something that a stream has, has not, or has not shown yet.
type tristate uint8

const (
	unknown tristate = iota
	yes
	no
)

// pageSizeFault returns what is wrong with the size of a page by option: the
// flags of a page lie below it, and a window holds some.
func pageSizeFault(n int) error {
	if n == 0 || n >= 1<<minPageBits && n <= 1<<maxPageBits && align.IsPow2(n) {
		return nil
	}
	return fmt.Errorf("migschema: %w: pages of %d bytes: not a power of two from %d to %d", CodeMisuse, n, 1<<minPageBits, 1<<maxPageBits)
}

// NewReader returns a Reader of the classic stream in r. It reads ahead,
// unless told not to.
func NewReader(r io.Reader, o *ReaderOptions) *Reader {
	return newReader(newSource(r, o != nil && o.NoReadAhead), o)
}

// NewReaderBytes returns a Reader of the classic stream in b. It copies
// nothing: what it hands out are views of b, valid as long as b is.
func NewReaderBytes(b []byte, o *ReaderOptions) *Reader { return newReader(bytesSource(b), o) }

func newReader(src source, o *ReaderOptions) *Reader {
	r := &Reader{src: src, opt: o.withDefaults(), step: (*Reader).header, sections: make(map[uint32]*section), devices: make(map[device]int)}
	r.desc = r.opt.VMDesc
	r.pageSize = uint64(r.opt.PageSize)
	r.addresses = r.opt.IgnoreShared
	r.err = pageSizeFault(r.opt.PageSize)
	return r
}

// Next returns the next record, or [io.EOF] after the last. The record is
// valid until the next call. Errors are [*FormatError] or those of the reader,
// and stay.
func (r *Reader) Next() (*Record, error) {
	if r.err != nil {
		return nil, r.err
	}
	r.rec.Offset = r.src.offset()
	if r.err = r.step(r); r.err == nil && r.opt.Validate {
		r.err = r.validate()
	}
	if r.err != nil {
		return nil, r.err
	}
	return &r.rec, nil
}

func (r *Reader) validate() error {
	if r.check == nil {
		r.check = NewValidator(int(r.pages()))
	}
	if err := r.check.Record(&r.rec); err != nil {
		return r.fail(r.rec.Kind.String(), err.(Code), r.rec.Offset)
	}
	return nil
}

// Records returns the records that are left. It ends after the first error,
// and does not give [io.EOF].
func (r *Reader) Records() iter.Seq2[*Record, error] { return all(r.Next) }

// Offset returns the offset in the stream of the first octet not consumed.
func (r *Reader) Offset() int64 { return r.src.offset() }

// Buffered returns what has been read from the reader and not consumed: after
// [io.EOF], what follows the stream. It is valid until the next call.
func (r *Reader) Buffered() []byte { return r.src.window() }

// PageSize returns the size of a page as far as it is known, in bytes.
func (r *Reader) PageSize() int { return int(r.pages()) }

func (r *Reader) pages() uint64 {
	if r.pageSize == 0 {
		return PageSize
	}
	return r.pageSize
}

// VMDesc returns the description of the device state: the one given, or the
// one found, from the first [RecordState] on. It is nil where there is none.
func (r *Reader) VMDesc() *VMDesc { return r.desc }

// Device returns the description of the device whose state is at hand: after
// [RecordState], as long as the stream goes on to be read. It is nil where
// there is none, or where the state does not have the size that it tells.
// [StructDesc.Values] gives the fields of the state by it.
func (r *Reader) Device() *DeviceDesc {
	if r.cur == nil || r.rec.Kind != RecordState {
		return nil
	}
	dev := r.index.device(r.desc, r.cur.device, r.cur.nth)
	if dev == nil {
		return nil
	}
	if n, ok := dev.size(); !ok || n != int64(len(r.rec.Data)) {
		return nil
	}
	return dev
}

// found makes the record at hand one of the given kind.
func (r *Reader) found(kind RecordKind, next func(*Reader) error) error {
	r.rec.Kind, r.step = kind, next
	return nil
}

func (r *Reader) fail(field string, code Code, at int64) error {
	return &FormatError{Offset: at, Field: field, Code: code}
}

// take consumes n octets of the given field.
func (r *Reader) take(field string, n int) ([]byte, error) {
	if !r.src.has(n) {
		return nil, r.cut(field)
	}
	return r.src.take(n), nil
}

// cut is the error of a stream that ends within a field.
func (r *Reader) cut(field string) error {
	if err := r.src.failure(); err != nil {
		return fmt.Errorf("migschema: %s: read at %#x: %w", field, r.src.base+int64(r.src.end), err)
	}
	return &FormatError{r.src.offset(), field, CodeTruncated, io.ErrUnexpectedEOF}
}

func (r *Reader) uint8(field string) (uint8, error) {
	b, err := r.take(field, 1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

func (r *Reader) uint16(field string) (uint16, error) {
	b, err := r.take(field, 2)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint16(b), nil
}

func (r *Reader) uint32(field string) (uint32, error) {
	b, err := r.take(field, 4)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(b), nil
}

func (r *Reader) uint64(field string) (uint64, error) {
	b, err := r.take(field, 8)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(b), nil
}

// name reads a length of one octet and as many of a name.
func (r *Reader) name(field string) ([]byte, error) {
	n, err := r.uint8(field)
	if err != nil {
		return nil, err
	}
	return r.take(field, int(n))
}

func (r *Reader) header() error {
	b, err := r.take("header.magic", len(classicMagic))
	if err != nil {
		return err
	}
	if string(b) != classicMagic {
		return &FormatError{0, "header.magic", CodeRecord, foreign(b)}
	}
	if r.rec.Version, err = r.uint32("header.version"); err != nil {
		return err
	}
	if r.rec.Version != classicVersion {
		return &FormatError{4, "header.version", CodeVersion, fmt.Errorf("version %d: %w", r.rec.Version, errors.ErrUnsupported)}
	}
	return r.found(RecordHeader, (*Reader).begin)
}

// begin reads the head of the first record, which alone can be a
// configuration.
func (r *Reader) begin() error {
	if !r.src.has(1) || r.src.window()[0] != recConfiguration {
		return r.record()
	}
	r.src.pos++
	return r.configuration()
}

// record reads the head of a record of any type.
func (r *Reader) record() error {
	typ, err := r.uint8("record")
	if err != nil {
		return err
	}
	switch typ {
	case recEOF:
		return r.found(RecordEOF, (*Reader).vmdesc)
	case recStart, recFull:
		return r.open(typ)
	case recPart, recEnd:
		return r.resume(typ)
	case recCommand:
		return r.command()
	}
	return &FormatError{r.rec.Offset, "record", CodeRecord, fmt.Errorf("type %#x", typ)}
}

// maxClassicSections bounds the sections that a reader keeps account of.
const maxClassicSections = 1 << 16

// open reads the head of a section, after its type.
func (r *Reader) open(typ uint8) error {
	kind := RecordStart
	if typ == recFull {
		kind = RecordFull
	}
	id, err := r.uint32(kind.String() + ".id")
	if err != nil {
		return err
	}
	name, err := r.name(kind.String() + ".name")
	if err != nil {
		return err
	}
	if len(name) == 0 {
		return r.fail(kind.String()+".name", CodeSize, r.rec.Offset)
	}
	s := &section{id: id, full: typ == recFull}
	s.name = string(name)
	if r.rec.Instance, err = r.uint32(kind.String() + ".instance"); err != nil {
		return err
	}
	if r.rec.Version, err = r.uint32(kind.String() + ".version"); err != nil {
		return err
	}
	if len(r.sections) == maxClassicSections {
		return r.fail(kind.String(), CodeLimit, r.rec.Offset)
	}
	s.instance = r.rec.Instance
	s.ram = kind == RecordStart && s.name == ramSection
	s.nth = r.devices[s.device]
	r.devices[s.device]++
	r.sections[id] = s
	r.rec.ID, r.rec.Name = id, s.name
	return r.enter(s, kind)
}

// resume reads the head of a part, after its type.
func (r *Reader) resume(typ uint8) error {
	kind := RecordPart
	if typ == recEnd {
		kind = RecordEnd
	}
	id, err := r.uint32(kind.String() + ".id")
	if err != nil {
		return err
	}
	s := r.sections[id]
	if s == nil {
		return &FormatError{r.rec.Offset + 1, kind.String() + ".id", CodeUnknownID, fmt.Errorf("id %d", id)}
	}
	r.rec.ID, r.rec.Name, r.rec.Instance = id, s.name, s.instance
	return r.enter(s, kind)
}

func (r *Reader) enter(s *section, kind RecordKind) error {
	r.cur = s
	if s.ram {
		return r.found(kind, (*Reader).ram)
	}
	return r.found(kind, (*Reader).state)
}

// footer reads what follows the body of a section: a footer, or the next
// record at once.
func (r *Reader) footer() error {
	if !r.src.has(1) {
		return r.cut("footer")
	}
	has := no
	if r.src.window()[0] == recFooter {
		has = yes
	}
	if r.footers != unknown && r.footers != has {
		return &FormatError{r.rec.Offset, r.cur.name + ".footer", CodeFooter, errors.New("other sections differ in having one")}
	}
	if r.footers = has; has == no {
		return r.record()
	}
	b, err := r.take("footer", footerSize)
	if err != nil {
		return err
	}
	if r.rec.ID = binary.BigEndian.Uint32(b[1:]); r.rec.ID != r.cur.id {
		return &FormatError{r.rec.Offset, r.cur.name + ".footer", CodeFooter, fmt.Errorf("of section %d in section %d", r.rec.ID, r.cur.id)}
	}
	return r.found(RecordFooter, (*Reader).record)
}

// state reads the body of a section that is no RAM.
func (r *Reader) state() error {
	n, how, err := r.stateSize()
	if err != nil {
		return err
	}
	if n < 0 {
		return r.unsplit()
	}
	if r.rec.Data, err = r.take(r.cur.name+".state", n); err != nil {
		return err
	}
	r.rec.Split = how
	return r.found(RecordState, (*Reader).footer)
}

func (r *Reader) command() error {
	var err error
	if r.rec.Command, err = r.uint16("command"); err != nil {
		return err
	}
	n, err := r.uint16("command.length")
	if err != nil {
		return err
	}
	if r.rec.Data, err = r.take("command.data", int(n)); err != nil {
		return err
	}
	if r.rec.Command == CommandPostcopyAdvise && n >= 8 {
		r.summary = binary.BigEndian.Uint64(r.rec.Data)
	}
	return r.found(RecordCommand, (*Reader).record)
}

// vmdesc reads what follows the sections: a description, or nothing.
func (r *Reader) vmdesc() error {
	if !r.src.has(1) || r.src.window()[0] != recVMDesc {
		return r.end()
	}
	if !r.src.has(5) && r.opt.TrailingData {
		return r.end()
	}
	b, err := r.take("vmdesc.length", 5)
	if err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint32(b[1:]))
	if n > r.opt.MaxState || n > math.MaxInt32 {
		return r.fail("vmdesc.length", CodeLimit, r.rec.Offset+1)
	}
	if r.rec.Data, err = r.take("vmdesc", int(n)); err != nil {
		return err
	}
	if r.desc == nil {
		if r.desc, err = ParseVMDesc(r.rec.Data); err != nil {
			return placed(err, r.rec.Offset, "vmdesc")
		}
	}
	return r.found(RecordVMDesc, (*Reader).end)
}

// end looks at what follows the stream.
func (r *Reader) end() error {
	r.step = (*Reader).end
	if r.opt.TrailingData || r.opt.NoReadAhead {
		return io.EOF
	}
	if r.src.has(1) {
		return r.fail("end", CodeTrailingData, r.src.offset())
	}
	if err := r.src.failure(); err != nil {
		return r.cut("end")
	}
	return io.EOF
}
