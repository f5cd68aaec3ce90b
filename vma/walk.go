package vma

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/virtfmt/virtfmt/internal/align"
)

// A walker goes over the extents of an archive. Without resync it ends at the
// first finding that stops a reading; with it, it looks for the next extent
// after damage.
type walker struct {
	ctx    context.Context // nil for none
	src    source
	opt    Options
	size   int64 // of the archive, -1 for a stream
	resync bool
	list   bool // extents list their clusters
	header Header
	report *Report
	ledger *ledger
	uuid   *[16]byte // of the extents; nil while a damaged header does not tell it
	extent extent    // the last one returned
	count  int64     // extents returned
	err    error     // sticky
	resyncState
}

// An extent is one that the walker came to.
type extent struct {
	header   extentView
	offset   int64 // in the archive
	number   int64
	length   int       // header and blocks, as far as they are in the archive
	data     []byte    // header and blocks; nil where the source is not a stream
	clusters []cluster // the clusters that can be taken

	miscounted bool // the finding was made
}

// newWalker reads the header. An archive that is too short to have one, and
// without resync one that a finding stops at, is an error.
func newWalker(ctx context.Context, src source, size int64, opt Options, resync bool) (*walker, error) {
	w := &walker{ctx: ctx, src: src, size: size, opt: opt, resync: resync, report: &Report{Profile: opt.Profile}}
	w.checked, w.mended.at = -1, -1
	h, err := readHeader(src, w.report, opt, resync)
	if err != nil {
		return w, err
	}
	w.header = h
	w.ledger = newLedger(&h, w.report, opt, max(-1, size-h.Size))
	if w.report.Count(CodeHeaderMD5) == 0 {
		w.uuid = &w.header.UUID
	}
	return w, nil
}

// readHeader reads and consumes the header. Without resync the first finding
// that stops is the error; with it, only that there is no header at all.
func readHeader(src source, report *Report, opt Options, resync bool) (h Header, err error) {
	note := func(code Code, off int64, dev uint8, detail string) {
		report.add(Finding{Code: code, Severity: code.severity(opt.Profile), Offset: off, Extent: -1, Slot: -1,
			Device: dev, Detail: detail}, opt.MaxFindings)
	}
	stopped := func() error {
		if report.stop != nil && !resync {
			return report.stop.formatError()
		}
		return nil
	}
	b, err := src.peek(fixedHeader)
	if err != nil {
		return h, ioError(src.offset(), err)
	}
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		note(CodeHeaderMagic, 0, 0, describeMagic(b))
	}
	if len(b) < fixedHeader {
		// Nothing can be read of it, whatever the profile.
		report.add(Finding{Code: CodeTruncated, Severity: Error, Offset: int64(len(b)), Extent: -1, Slot: -1,
			Detail: fmt.Sprintf("%d bytes, a header has over %d", len(b), fixedHeader)}, opt.MaxFindings)
		return h, report.stop.formatError()
	}
	if err := stopped(); err != nil {
		return h, err
	}
	size := int64(binary.BigEndian.Uint32(b[offHeaderSize:]))
	if !validHeaderSize(size) || size > opt.MaxHeaderSize {
		note(CodeHeaderSize, offHeaderSize, 0, fmt.Sprintf("%d, not above %d and at most %d", size, fixedHeader, opt.MaxHeaderSize))
		size = guessHeaderSize(b, opt)
	}
	if err := stopped(); err != nil {
		return h, err
	}
	if b, err = src.peek(int(size)); err != nil {
		return h, ioError(src.offset(), err)
	}
	if int64(len(b)) < size {
		note(CodeTruncated, int64(len(b)), 0, fmt.Sprintf("%d bytes, the header has %d", len(b), size))
		if err := stopped(); err != nil {
			return h, err
		}
	}
	h = decodeHeader(b, note)
	src.skip(len(b))
	return h, stopped()
}

// guessHeaderSize says where a header of no valid size may end: after its blob
// buffer, otherwise after the fixed part.
func guessHeaderSize(b []byte, opt Options) int64 {
	off := int64(binary.BigEndian.Uint32(b[offBlobOffset:]))
	end := align.Up(off+int64(binary.BigEndian.Uint32(b[offBlobSize:])), 512)
	if off >= fixedHeader && end <= opt.MaxHeaderSize {
		return end
	}
	return fixedHeader
}

// describeMagic says what a file that is no archive may be.
func describeMagic(b []byte) string {
	if c := detect(b); c != Uncompressed {
		return fmt.Sprintf("compressed with %s", c)
	}
	return ""
}

// next returns the next extent, which is valid until the next call, or io.EOF
// after the last.
func (w *walker) next() (*extent, error) {
	if w.err != nil {
		return nil, w.err
	}
	e, err := w.find()
	if err == nil && e == nil {
		w.ledger.close(w.src.offset(), w.count)
		err = w.end()
	}
	if err != nil {
		w.err = err
		return nil, err
	}
	w.count++
	if w.opt.Progress != nil {
		w.opt.Progress(Progress{e.offset + int64(e.length), w.size, w.ledger.taken * ClusterSize, w.header.total()})
	}
	return e, nil
}

// result returns the report as it stands.
func (w *walker) result() *Report {
	if w.ledger == nil { // there was no header
		return w.report.clone()
	}
	return w.ledger.snapshot(w.count)
}

// stopped returns the finding at which a reading without resync ends.
func (w *walker) stopped() error {
	if w.report.stop != nil && !w.resync {
		return w.report.stop.formatError()
	}
	return nil
}

// end returns the error at the end of the archive: io.EOF or what keeps it
// from being whole. One without its magic and without extents is none at all.
func (w *walker) end() error {
	stop := w.report.stop
	if stop != nil && (!w.resync || stop.Code == CodeHeaderMagic && w.count == 0) {
		return stop.formatError()
	}
	return io.EOF
}

// note records a finding about the extent at the offset of the source.
func (w *walker) note(code Code, off, count int64, detail string) {
	w.report.add(Finding{Code: code, Severity: code.severity(w.opt.Profile), Offset: off, Extent: w.count, Slot: -1,
		Count: count, Detail: detail}, w.opt.MaxFindings)
}

// find judges the next extent, after a search for it where there is damage. It
// returns nil at the end of the archive.
func (w *walker) find() (*extent, error) {
	w.release()
	for {
		if w.ctx != nil && w.ctx.Err() != nil {
			return nil, canceled(w.ctx)
		}
		have, code, off, err := w.load()
		switch {
		case err != nil || have == 0:
			return nil, err
		case off >= 0 && !w.resync:
			w.note(code, w.src.offset()+off, 0, "")
			return nil, w.stopped()
		case off >= 0:
			mended, err := w.mend(code, off, have)
			if err != nil {
				return nil, err
			}
			if !mended {
				continue
			}
		}
		if e, err := w.accept(); e != nil || err != nil {
			return e, err
		}
	}
}

// release consumes the last extent that next returned.
func (w *walker) release() {
	w.src.skip(w.extent.length)
	w.extent.length = 0
}

// load loads the header of the extent at the offset of the source into
// w.extent. It returns how much of it there is, and what is wrong with it at
// which byte; -1 for nothing.
func (w *walker) load() (have int, code Code, off int64, err error) {
	at := w.src.offset()
	b, err := w.src.peek(extentHeader)
	if err != nil {
		return 0, 0, -1, ioError(at, err)
	}
	w.extent.header = append(w.extent.header[:0], b...)
	switch {
	case len(b) < extentHeader:
		return len(b), CodeTruncated, int64(len(b)), nil
	case at == w.checked:
		return len(b), 0, -1, nil
	}
	code, off, _ = w.extent.header.check(w.uuid)
	return len(b), code, off, nil
}

// accept judges the extent whose header is in w.extent. It returns nil where
// resync finds that the extent is not whole and goes on after it.
func (w *walker) accept() (*extent, error) {
	at, e := w.src.offset(), w.extent.header
	if w.uuid == nil {
		uuid := e.uuid()
		w.uuid = &uuid
	}
	length := extentHeader + e.blocks()*BlockSize
	if w.resync {
		whole, err := w.whole(&length)
		if err != nil || !whole {
			return nil, err
		}
	}
	have, data, err := w.src.body(length)
	if err != nil {
		return nil, ioError(at, err)
	}
	if have < length {
		w.note(CodeTruncated, at+int64(have), 0, fmt.Sprintf("%d of %d bytes", have, length))
		if err := w.stopped(); err != nil {
			return nil, err
		}
	}
	w.extent.offset, w.extent.number = at, w.count
	w.extent.length, w.extent.data = have, data
	w.extent.clusters, w.extent.miscounted = w.extent.clusters[:0], false
	w.ledger.judge(&w.extent, w.list)
	if err := w.stopped(); err != nil {
		return nil, err
	}
	return &w.extent, nil
}
