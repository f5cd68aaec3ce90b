package migschema

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/adler32"
	"sync"

	"github.com/virtfmt/virtfmt/internal/inflate"
)

// A PageKind is one way to send a page of RAM.
type PageKind uint8

const (
	// PageZero is a page of one byte repeated, zero in all but odd streams.
	PageZero PageKind = iota
	// PageFull is a page as it is.
	PageFull
	// PageXBZRLE is a page as its difference to what was sent before.
	PageXBZRLE
	// PageCompressed is a zlib stream of the page. Only classic streams have it.
	PageCompressed
	// PageHook marks that the transport has its own word on the next page. It
	// has no address.
	PageHook
	// PageFlush is a synchronisation point between channels (multifd). It has
	// no address. Only classic streams have it.
	PageFlush
)

// String returns the name of k: zero, full, xbzrle, compressed, hook or flush.
func (k PageKind) String() string {
	names := [...]string{"zero", "full", "xbzrle", "compressed", "hook", "flush"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// A Page is one page of RAM, or a mark among them, as a stream sends it.
type Page struct {
	Kind  PageKind
	Block string // the block of RAM
	Addr  uint64 // bytes from the start of the block
	Fill  byte   // the byte that a PageZero repeats
	Data  []byte // as in the stream; see [Page.Decode]
}

// A RAMBlock is a block of RAM that a stream announces.
type RAMBlock struct {
	Name string // such as pc.ram
	Len  uint64 // bytes

	// PageSize is the size of the pages that back the block, where a stream
	// prepared for postcopy tells one that is not the usual; otherwise 0.
	PageSize uint64
	// Addr is the guest physical address, where a stream that leaves shared
	// RAM out (x-ignore-shared) tells it.
	Addr uint64
	// HasAddr says that Addr is told.
	HasAddr bool
}

// Decode changes page, which holds what the page was before, to what p makes
// of it. A p that cannot be decoded leaves page in any state. Hooks and
// flushes change nothing.
func (p *Page) Decode(page []byte) error {
	switch p.Kind {
	case PageZero:
		if p.Fill == 0 {
			clear(page)
			return nil
		}
		for i := range page {
			page[i] = p.Fill
		}
	case PageFull:
		if len(p.Data) != len(page) {
			return &coded{CodeSize, fmt.Errorf("a page of %d bytes for one of %d", len(p.Data), len(page))}
		}
		copy(page, p.Data)
	case PageXBZRLE:
		return DecodeXBZRLE(page, p.Data)
	case PageCompressed:
		return decompress(page, p.Data)
	}
	return nil
}

// inflaters keeps the tables of decoding, which are large.
var inflaters = sync.Pool{New: func() any { return new(inflate.Decoder) }}

// decompress fills page with what the zlib stream b (RFC 1950) holds: a header
// of two octets, deflate, a checksum of four.
func decompress(page, b []byte) error {
	const head, sum = 2, 4
	if len(b) < head+sum || b[0]&0x0f != 8 || binary.BigEndian.Uint16(b)%31 != 0 || b[1]&0x20 != 0 {
		return &coded{CodeCompressed, errZlibHeader}
	}
	d := inflaters.Get().(*inflate.Decoder)
	_, err := d.Decode(page, b[head:len(b)-sum])
	inflaters.Put(d)
	if err != nil {
		return &coded{CodeCompressed, err}
	}
	if adler32.Checksum(page) != binary.BigEndian.Uint32(b[len(b)-sum:]) {
		return &coded{CodeCompressed, errChecksum}
	}
	return nil
}

var (
	errZlibHeader = errors.New("no zlib header")
	errChecksum   = errors.New("the checksum differs")
)
