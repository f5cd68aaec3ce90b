package libxlfmt

import (
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/virtfmt/virtfmt/internal/safeio"
)

// Options say how a stream is read. The zero value, and nil, are the
// defaults.
type Options struct {
	// Profile says which deviations are errors. The default is [Strict],
	// except that bodies in the form of Draft B are read; see Report and
	// [VerifyOptions] for how to learn of them.
	Profile Profile

	// Report, if not nil, is called for every deviation from the
	// specification, refused by the profile or not, and decides itself: its
	// error ends the reading, nil goes on. The deviations marked so at [Code]
	// end the reading even then.
	Report func(Finding) error

	// Xenstore is the form in which bodies of EMULATOR_XENSTORE_DATA are read.
	// The default looks at their content.
	Xenstore XenstoreForm

	// MaxRecord is the length in bytes that the body of a libxl record or a
	// xenopsd section may have; at most 4 GiB. The default is 1 GiB. Bodies of
	// libxc never exceed 128 MiB.
	MaxRecord int64

	// MaxConfig is the length in bytes that the configuration in a container
	// may have, which is held in memory. The default is 16 MiB.
	MaxConfig int64

	// BackChannel tells that the stream is the back channel of COLO, which has
	// no headers: CHECKPOINT_STATE and CHECKPOINT_DIRTY_PFN_LIST to the end.
	BackChannel bool

	// BigEndian is the byte order of a back channel.
	BigEndian bool

	// Size is the length in bytes of what [Open] is given. The default is what
	// its method Size, Stat or Seek tells.
	Size int64

	// Partial lets [Open] return the records up to where the stream ends early
	// or breaks; [Index.Err] tells where and why.
	Partial bool
}

const (
	defaultMaxRecord = 1 << 30
	defaultMaxConfig = 16 << 20
	maxMaxRecord     = 1<<32 - 1
)

func (o *Options) withDefaults() Options {
	var out Options
	if o != nil {
		out = *o
	}
	if out.MaxRecord <= 0 {
		out.MaxRecord = defaultMaxRecord
	}
	out.MaxRecord = min(out.MaxRecord, maxMaxRecord)
	if out.MaxConfig <= 0 {
		out.MaxConfig = defaultMaxConfig
	}
	return out
}

// An End is how a stream ended.
type End uint8

const (
	// Unfinished streams have not been read to their end.
	Unfinished End = iota
	// Ended streams ended with END.
	Ended
	// EndedAtCheckpoint streams ended behind a checkpoint, as those of Remus
	// and COLO do, which have no END: their sender failed or was stopped.
	EndedAtCheckpoint
)

// String returns unfinished, end or checkpoint.
func (e End) String() string {
	switch e {
	case Unfinished:
		return "unfinished"
	case Ended:
		return "end"
	case EndedAtCheckpoint:
		return "checkpoint"
	}
	return fmt.Sprintf("end(%d)", uint8(e))
}

// A Reader reads a stream front to back, record by record, in memory that
// does not depend on the stream. It reads no byte behind the END of the
// stream, and none of a record before it is asked for.
//
// A Reader is not safe for concurrent use.
type Reader struct {
	src       source
	g         grammar
	container Container
	rec       Record
	left      int64 // of the body of rec
	check     bodyCheck
	open      bool // rec is not finished
	ended     End
	err       error
	pager     pager
	pad       [recordAlign]byte
	small     [libxcHeaderSize]byte // for headers
	begun     int                   // bytes of the header to come that are in small already
}

// NewReader reads the headers before the first record: those of the container
// and of the first layer. Where r is an [io.Seeker] that knows its end, what is
// not asked for is sought over.
func NewReader(r io.Reader, o *Options) (*Reader, error) {
	s := new(Reader)
	if err := s.start(r, o); err != nil {
		return nil, err
	}
	return s, nil
}

// start is [NewReader]. Where it fails, the container is there as far as it
// was read.
func (r *Reader) start(src io.Reader, o *Options) error {
	opt := o.withDefaults()
	r.src = newSource(src)
	r.g.judge = judge{profile: opt.Profile, tell: opt.Report, form: opt.Xenstore}
	r.g.maxRecord = opt.MaxRecord
	if opt.BackChannel {
		r.g.backChannel(opt.BigEndian)
		return nil
	}
	if err := r.readContainer(opt.MaxConfig); err != nil {
		return err
	}
	return r.readHeaders()
}

// Container returns what stands before the stream.
func (r *Reader) Container() Container { return r.container }

// Header returns the header of the libxl layer, false if there is none, or
// none yet.
func (r *Reader) Header() (Header, bool) { return r.g.libxl, r.g.libxl.Version != 0 }

// Libxc returns the headers of the stream of libxc that was entered last,
// false before the first. In the libxl layer they are read by the call of
// [Reader.Next] behind the one that returned LIBXC_CONTEXT.
func (r *Reader) Libxc() (LibxcHeader, bool) { return r.g.libxc, r.g.libxcStarted }

// Offset returns how many bytes of the source have been passed.
func (r *Reader) Offset() int64 { return r.src.off }

// End returns how the stream ended, [Unfinished] until [Reader.Next] returned
// [io.EOF].
func (r *Reader) End() End { return r.ended }

// Next passes what is left of the current record and returns the next. At the
// end of the stream it returns [io.EOF]: behind END without a look at what
// follows, behind a checkpoint where the source ends there. A source that ends
// anywhere else is an error that is [io.ErrUnexpectedEOF].
func (r *Reader) Next() (Record, error) {
	if r.err == nil {
		r.err = r.next()
	}
	if r.err != nil {
		return Record{}, r.err
	}
	return r.rec, nil
}

func (r *Reader) next() error {
	if err := r.finish(); err != nil {
		return err
	}
	if err := r.readHeaders(); err != nil {
		return err
	}
	if r.g.phase == phaseDone {
		r.ended = Ended
		return io.EOF
	}
	rec, err := r.readRecord()
	if err != nil {
		return err
	}
	r.check, err = r.g.record(rec)
	if err != nil {
		return err
	}
	r.rec, r.left, r.open = rec, rec.Length, true
	return nil
}

// finish passes what is left of the current record.
func (r *Reader) finish() error {
	if !r.open {
		return nil
	}
	for r.left > 0 {
		if n := min(r.check.idle(), r.left); n > 0 {
			if err := r.src.skip(n); err != nil {
				return r.broken(err, r.rec.Type.field()+" body", r.src.off)
			}
			r.check.skip(n)
			r.left -= n
			continue
		}
		if err := r.feed(r.src.scratch(int(min(feedSize, r.left)))); err != nil {
			return err
		}
	}
	if err := r.check.end(); err != nil {
		return err
	}
	if n := r.rec.padding(); n > 0 {
		if err := r.readPadding(r.pad[:n]); err != nil {
			return err
		}
	}
	r.open = false
	r.g.passed(r.rec)
	return nil
}

// feedSize is how much of a body is judged at once: the entries of a full
// batch of pages.
const feedSize = pageDataHead + 1024*pageEntrySize

// feed judges the next bytes of the body, which it reads into p.
func (r *Reader) feed(p []byte) error {
	at := r.src.off
	err := r.src.full(p)
	n := r.src.off - at
	r.left -= n
	if err := r.check.feed(p[:n]); err != nil {
		return err
	}
	if err != nil {
		return r.broken(err, r.rec.Type.field()+" body", r.src.off)
	}
	return nil
}

func (r *Reader) readPadding(p []byte) error {
	at := r.src.off
	if err := r.src.full(p); err != nil {
		return r.broken(err, r.rec.Type.field()+" padding", r.src.off)
	}
	if isZero(p) {
		return nil
	}
	return r.g.found(CodePadding, at, r.rec.Type.field()+" padding", "bytes % x", p)
}

// readContainer reads what stands before the stream, and as much of its first
// header as it takes to know what it is.
func (r *Reader) readContainer(limit int64) error {
	var b [max(xlFixedSize, libvirtSize)]byte
	if err := r.fill(b[:probeSize], "libxl header"); err != nil {
		return err
	}
	kind, ok := probe(b[:probeSize])
	if !ok {
		return r.g.found(CodeIdent, 0, "libxl header", "ident %q", b[:probeSize])
	}
	r.container.Kind = kind
	r.g.begin(kind)
	var err error
	switch kind {
	case ContainerNone, ContainerLibxc:
		r.begun = copy(r.small[:], b[:probeSize])
	case ContainerXL:
		err = r.readXL(b[:xlFixedSize], limit)
	case ContainerLibvirt:
		err = r.readLibvirt(b[:libvirtSize], limit)
	case ContainerXenopsd:
		err = r.readMagic(b[:len(xenopsdMagic)], xenopsdMagic, "xenopsd signature")
	}
	return err
}

// readMagic reads the rest of b behind what [probe] saw, which begins with
// magic.
func (r *Reader) readMagic(b []byte, magic, field string) error {
	if err := r.fill(b[probeSize:], field); err != nil {
		return err
	}
	if got := b[:len(magic)]; string(got) != magic {
		return r.g.found(CodeIdent, 0, field, "signature %q", got)
	}
	return nil
}

func (r *Reader) readXL(b []byte, limit int64) error {
	const field = "xl header"
	if err := r.readMagic(b, xlMagic, field); err != nil {
		return err
	}
	h := &r.container.XL
	n, err := h.decodeFixed(&r.g.judge, b, limit)
	if err != nil {
		return err
	}
	if h.Data, err = r.readConfig(n, field); err != nil {
		return err
	}
	return h.check(&r.g.judge)
}

func (r *Reader) readLibvirt(b []byte, limit int64) error {
	const field = "libvirt header"
	if err := r.readMagic(b, libvirtMagic, field); err != nil {
		return err
	}
	h := &r.container.Libvirt
	n, err := h.decodeFixed(&r.g.judge, b, limit)
	if err != nil {
		return err
	}
	h.XML, err = r.readConfig(n, field)
	return err
}

// readConfig reads n bytes, whose number passed its limit.
func (r *Reader) readConfig(n int64, field string) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	b, err := safeio.Read(sourceReader{&r.src}, n, n)
	if err != nil {
		return nil, r.broken(err, field, r.src.off)
	}
	return b, nil
}

// readHeaders reads the headers of a layer where one begins.
func (r *Reader) readHeaders() error {
	at := r.src.off - int64(r.begun)
	switch r.g.phase {
	case phaseLibxlHeader:
		b := r.small[:libxlHeaderSize]
		if err := r.fill(b[r.begun:], "libxl header"); err != nil {
			return err
		}
		var h Header
		if err := h.decode(&r.g.judge, at, b); err != nil {
			return err
		}
		r.g.setLibxl(h)
	case phaseLibxcHeader:
		b := r.small[:libxcHeaderSize]
		if err := r.fill(b[r.begun:], "libxc headers"); err != nil {
			return err
		}
		var h LibxcHeader
		if err := h.decode(&r.g.judge, at, b); err != nil {
			return err
		}
		r.g.setLibxc(h)
	}
	r.begun = 0
	return nil
}

// fill reads b, which must be there.
func (r *Reader) fill(b []byte, field string) error {
	if err := r.src.full(b); err != nil {
		return r.broken(err, field, r.src.off)
	}
	return nil
}

// readRecord reads the header of a record.
func (r *Reader) readRecord() (Record, error) {
	rec := Record{Offset: r.src.off}
	b := r.small[:recordHeaderSize]
	if r.g.phase == phaseSection {
		b = r.small[:sectionHeaderSize]
	}
	if err := r.src.full(b); err != nil {
		if err == io.EOF && r.g.mayEnd {
			r.ended = EndedAtCheckpoint
			return rec, io.EOF
		}
		return rec, r.broken(err, "record header", r.src.off)
	}
	return r.g.decodeHeader(rec, b)
}

// broken turns an error of the source into one that tells where. The end of
// the source counts as a truncated stream.
func (r *Reader) broken(err error, field string, off int64) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return r.g.found(CodeTruncated, off, field, "stream ends")
	}
	return fmt.Errorf("libxlfmt: %s at %#x: %w", field, off, err)
}

// readBody reads from the body of the current record.
func (r *Reader) readBody(p []byte) (int, error) {
	n, err := r.src.read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if n > 0 {
		if err := r.check.feed(p[:n]); err != nil {
			return n, err
		}
	}
	if err != nil && (r.left > 0 || err != io.EOF) {
		return n, r.broken(err, r.rec.Type.field()+" body", r.src.off)
	}
	return n, nil
}

// Read reads from the body of the current record, without its padding. At the
// end of the body it returns [io.EOF]. Rules that the body breaks show as
// errors here, or, where it is not read, in [Reader.Next].
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil && r.err != io.EOF {
		return 0, r.err
	}
	if !r.open || r.left == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.readBody(p)
	r.err = err
	return n, err
}

// Decode reads the body of the current record, of at most 128 MiB, and
// decodes it. What it returns stays valid.
func (r *Reader) Decode() (Body, error) {
	if !r.open || r.left != r.rec.Length {
		return nil, fmt.Errorf("libxlfmt: decode of a body that was read: %w", ErrState)
	}
	b, err := safeio.Read(r, r.left, maxDecode)
	if err != nil {
		return nil, bodyError(r.rec, err)
	}
	return decode(r.rec, r.g.form, b)
}

// Pages yields the pages of the current record, which must be PAGE_DATA. The
// data of a page stay valid until the next is asked for; nothing is copied but
// from the source into a buffer that is used again. After an error it yields
// nothing more. A record of more than 2^20 pages is refused; Xen writes at most
// 1024.
func (r *Reader) Pages() iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		if !r.open || r.rec.Type != TypePageData || r.left != r.rec.Length {
			yield(Page{}, fmt.Errorf("libxlfmt: no unread PAGE_DATA: %w", ErrState))
			return
		}
		for p, err := range r.pager.pages(r, r.rec.Order(), r.rec.Length) {
			if err != nil {
				err = bodyError(r.rec, err)
			}
			if !yield(p, err) {
				return
			}
		}
	}
}

// Entries reads the entries of the current record, which must be PAGE_DATA
// that was not read yet. The contents of the pages follow: [Reader.Read] reads
// them, [Reader.Next] passes them. A record of more than 2^20 pages is refused.
func (r *Reader) Entries() ([]PageEntry, error) {
	if !r.open || r.rec.Type != TypePageData || r.left != r.rec.Length {
		return nil, fmt.Errorf("libxlfmt: no unread PAGE_DATA: %w", ErrState)
	}
	b, err := readEntries(r, r.rec.Order(), r.rec.Length, nil)
	if err != nil {
		return nil, bodyError(r.rec, err)
	}
	return decodeEntries(r.rec.Order(), b), nil
}

// bodyError gives an error that arose in a body its place, unless it has one.
func bodyError(rec Record, err error) error {
	var fe *FormatError
	if errors.As(err, &fe) {
		return err
	}
	code := CodeLength
	if errors.Is(err, io.ErrUnexpectedEOF) {
		code = CodeTruncated
	}
	return &FormatError{Offset: rec.BodyOffset(), Field: rec.Type.field(), Code: code, Err: err}
}
