package migschema

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
