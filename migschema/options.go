package migschema

import "math"

// PageSize is the size of a page where no option says otherwise.
const PageSize = 4096

// MaxDepth is how deep elements may nest where no option says otherwise. Real
// streams have six levels of state.
const MaxDepth = 128

// Lenient holds the rules that a decoder can be told to bear the breach of,
// each on its own. The zero value bears none.
type Lenient struct {
	IntNotMinimal bool // INTEGERs in more octets than they need, as fixed-width writers make
	AnyTag        bool // tag numbers padded with zeros, or small ones in the long form
	UTF8Segments  bool // segments of a name tagged UTF8String in place of OCTET STRING, as pyasn1 makes
	PageSize      bool // pages of any size
	NameSize      bool // names of no or of more than 255 characters
	Version       bool // versions other than 3
	Unknown       bool // skip components past the last one, and elements of a list that no arm matches
	TrailingData  bool // octets after the end; they are left in [Decoder.Buffered] and in the reader
}

// DecoderOptions says how strictly to decode, and within what limits. nil and
// the zero value are X.690 and the schema to the letter.
type DecoderOptions struct {
	// DER rejects what is sound BER but not DER: indefinite lengths, lengths
	// not in the fewest octets, strings in segments, TRUE not as ff. It leaves
	// the switches of Lenient as they are.
	DER bool
	// Lenient says which breaches to bear.
	Lenient Lenient
	// Validate also checks records against one another: ids, blocks, lengths,
	// page ranges. See [Validator].
	Validate bool
	// NoReadAhead reads no octet past the end of the stream, so that the
	// reader can be used for what follows. Decoding is slower, and octets
	// after the end are not looked for.
	NoReadAhead bool
	// PageSize is the size that pages must have, 4096 if 0.
	PageSize int
	// MaxDepth is how many elements that hold others may be open at a time,
	// [MaxDepth] if 0. The file, its list of sections, a section and its state
	// are four. What is passed over by its length is not looked into.
	MaxDepth int
	// MaxString is how many octets a name or an XBZRLE page may have, 1 MiB
	// if 0. It bounds device state where that is decoded as a whole.
	MaxString int
	// MaxInteger is how many octets an INTEGER may have, 64 KiB if 0.
	MaxInteger int
	// MaxBlocks is how many blocks a RAM block list may have, 65536 if 0.
	MaxBlocks int
	// MaxLength is the largest definite length that an element may claim, no
	// limit if 0. Memory is never taken on the word of a length.
	MaxLength int64
}

func (o *DecoderOptions) withDefaults() DecoderOptions {
	var d DecoderOptions
	if o != nil {
		d = *o
	}
	orDefault(&d.PageSize, PageSize)
	orDefault(&d.MaxDepth, MaxDepth)
	orDefault(&d.MaxString, 1<<20)
	orDefault(&d.MaxInteger, 64<<10)
	orDefault(&d.MaxBlocks, 1<<16)
	orDefault(&d.MaxLength, math.MaxInt64)
	return d
}

// orDefault sets *v where it is not positive.
func orDefault[T int | int64](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}
