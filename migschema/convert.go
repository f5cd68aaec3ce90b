package migschema

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// How a classic stream is told in the schema. All of it is legal there, so
// that any BER tool reads it.
//
//	START of ram              SecFull with ramblid
//	PART, END of ram          SecMin, the last one of an id is the END
//	FULL                      SecFull with oldblob or vmstate
//	other START, PART, END    SecFull with oldblob, each under the same id
//	records the schema lacks  SecFull with oldblob and a negative id
//	a block named anew        another RAMSecBlock of the same name behind the last
//	a block continued         no such
//	page sizes and addresses  escapeBlocks before the SecFull with ramblid
//	footers                   implied by a configuration, otherwise escapeFooters
//	end of RAM, EOF           implied
const (
	escapeBlocks        = -1   // page size and address of each block
	escapeTail          = -4   // sections that could not be told apart, as they are
	escapeVMDesc        = -6   // the VMDESC
	escapeConfiguration = -7   // the configuration, as it is
	escapeCommand       = -8   // a command; the instance is its number
	escapeFooters       = -126 // after the first section: the instance is 1 if there are footers
)

// ConvertOptions says how to convert. nil and the zero value are the defaults:
// no loss, devices as blobs.
type ConvertOptions struct {
	// Form is how [ToBER] encodes, Streamed if Auto. DER needs an input that
	// can seek.
	Form Form
	// Typed gives devices that a VMDESC describes as typed state in place of
	// blobs. The way back needs that VMDESC, which the stream carries.
	Typed bool
	// Decompress turns compressed pages, which the schema cannot say, into full
	// ones. No content is lost; the way back gives full pages.
	Decompress bool
	// Lossy goes on where the other form cannot say something, and reports it;
	// otherwise that is a [CodeLossy] error that names what would be lost.
	Lossy bool
	// PageSize admits pages of that size, which the schema does not know, if
	// not 0 or 4096: a power of two from 1 KiB to 1 MiB.
	PageSize int
	// VMDesc describes the device state where the stream does not.
	VMDesc *VMDesc
	// MaxState is how many bytes of device state are held, 256 MiB if 0. Of
	// typed state it counts what [Decoder.State] does.
	MaxState int64
	// Lenient says which breaches to bear in a BER input.
	Lenient Lenient
}

func (o *ConvertOptions) withDefaults() ConvertOptions {
	var d ConvertOptions
	if o != nil {
		d = *o
	}
	orDefault(&d.PageSize, PageSize)
	orDefault(&d.MaxState, maxStateDefault)
	if d.Form == AutoForm {
		d.Form = Streamed
	}
	return d
}

// A Report tells how a conversion went.
type Report struct {
	Typed  int    // devices given as typed state, or from it
	Opaque int    // devices given as blobs, or from them
	Losses []Loss // what the other form could not say, one of each kind
}

// A Loss is something that a conversion changed.
type Loss struct {
	What   string // such as "zero page with a fill byte, as a full page"
	Offset int64  // in the input, of the first
	Count  int64  // how many there were
}

// String describes l.
func (l Loss) String() string {
	return fmt.Sprintf("%s (%d, the first at %#x)", l.What, l.Count, l.Offset)
}

// lose notes a loss.
func (r *Report) lose(what string, at int64) {
	for i := range r.Losses {
		if r.Losses[i].What == what {
			r.Losses[i].Count++
			return
		}
	}
	r.Losses = append(r.Losses, Loss{what, at, 1})
}

// A conversion is what both directions share.
type conversion struct {
	opt    ConvertOptions
	report Report
	nth    map[device]int
	index  descIndex
}

func newConversion(o *ConvertOptions) conversion {
	return conversion{opt: o.withDefaults(), nth: make(map[device]int)}
}

// lossy notes a loss, or makes it an error.
func (c *conversion) lossy(what, field string, at int64) error {
	if !c.opt.Lossy {
		return &FormatError{at, field, CodeLossy, errors.New(what)}
	}
	c.report.lose(what, at)
	return nil
}

// describe returns the description of the next device of that name and
// instance.
func (c *conversion) describe(desc *VMDesc, d device) *DeviceDesc {
	nth := c.nth[d]
	c.nth[d]++
	return c.index.device(desc, d, nth)
}

// rewind returns src as something that can be read twice, and a function that
// goes back to where it stands now.
func rewind(src io.Reader) (again func() error, ok bool) {
	s, ok := src.(io.Seeker)
	if !ok {
		return nil, false
	}
	at, err := s.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, false
	}
	return func() error {
		if _, err := s.Seek(at, io.SeekStart); err != nil {
			return fmt.Errorf("migschema: %w", err)
		}
		return nil
	}, true
}

// blockExtra is what escapeBlocks tells of a block: its page size, whether it
// has an address, the address.
const blockExtra = 8 + 1 + 8

func appendBlockExtras(b []byte, blocks []RAMBlock) []byte {
	for i := range blocks {
		has := byte(0)
		if blocks[i].HasAddr {
			has = 1
		}
		b = append(binary.BigEndian.AppendUint64(b, blocks[i].PageSize), has)
		b = binary.BigEndian.AppendUint64(b, blocks[i].Addr)
	}
	return b
}

// setBlockExtras is the reverse. It reports whether b is of as many blocks.
func setBlockExtras(blocks []RAMBlock, b []byte) bool {
	if len(b) != len(blocks)*blockExtra {
		return false
	}
	for i := range blocks {
		e := b[i*blockExtra:]
		blocks[i].PageSize = binary.BigEndian.Uint64(e)
		blocks[i].HasAddr = e[8] != 0
		blocks[i].Addr = binary.BigEndian.Uint64(e[9:])
	}
	return true
}
