package migschema

import (
	"errors"
	"fmt"
)

// ErrFormat means that the data does not begin as a migration stream does, for
// a [Reader] and for what takes either format. A [Decoder], which takes no other
// than its own, has [CodeUnexpectedTag] instead.
var ErrFormat = errors.New("not a migration stream")

// A Code says which rule a stream breaks. Codes are errors, so that
// errors.Is(err, migschema.CodeSize) tells one from another.
type Code string

// The codes of X.690, of the schema, of a limit, and of the relations between
// records.
const (
	CodeTruncated         Code = "truncated"             // the stream ends early
	CodeMissingEOC        Code = "missing-eoc"           // an indefinite length is not ended
	CodeUnexpectedEOC     Code = "unexpected-eoc"        // end-of-contents octets where an element belongs
	CodeTagTooLarge       Code = "tag-too-large"         // a tag number of more than 32 bits
	CodeTagLeadingZero    Code = "tag-leading-zero"      // a tag number padded with zeros (X.690 8.1.2.4.2)
	CodeTagNotLowForm     Code = "tag-not-low-form"      // a small tag number in the long form (8.1.2.2)
	CodeLengthReserved    Code = "length-reserved"       // length octet ff (8.1.3.5)
	CodeLengthTooLarge    Code = "length-too-large"      // a length of more than 63 bits
	CodeLengthNotMinimal  Code = "length-not-minimal"    // DER: a length not in the fewest octets (10.1)
	CodeIndefinite        Code = "indefinite-length"     // DER: an indefinite length (10.1)
	CodeIndefinitePrim    Code = "indefinite-primitive"  // an indefinite length on a primitive (8.1.3.2)
	CodeLengthExceeds     Code = "length-exceeds-parent" // an element longer than what holds it
	CodeMustBePrimitive   Code = "must-be-primitive"     // a constructed INTEGER, BOOLEAN or NULL, or in DER a string
	CodeMustBeConstructed Code = "must-be-constructed"   // a primitive SEQUENCE
	CodeUnexpectedTag     Code = "unexpected-tag"        // another component than the schema says
	CodeNoChoiceArm       Code = "no-choice-arm"         // a tag that no arm of a CHOICE has
	CodeMissingComponent  Code = "missing-component"     // a SEQUENCE that ends early
	CodeExtraComponent    Code = "extra-component"       // a SEQUENCE that goes on
	CodeTrailingData      Code = "trailing-data"         // octets after the value
	CodeIntEmpty          Code = "int-empty"             // an INTEGER without contents (8.3.1)
	CodeIntNotMinimal     Code = "int-not-minimal"       // an INTEGER not in the fewest octets (8.3.2)
	CodeBoolLength        Code = "bool-length"           // a BOOLEAN not of one octet (8.2.1)
	CodeBoolNotCanonical  Code = "bool-not-canonical"    // DER: TRUE not as ff (11.1)
	CodeNullLength        Code = "null-length"           // a NULL with contents (8.8.2)
	CodeBadSegmentTag     Code = "bad-segment-tag"       // a string segment that is no OCTET STRING (8.7.3.2, 8.23.6)
	CodeBadUTF8           Code = "bad-utf8"              // a name that is not UTF-8
	CodeSize              Code = "size"                  // a name or a page of a size outside the schema's
	CodeVersion           Code = "version"               // another version than 3
	CodeRange             Code = "range"                 // a number that its use cannot hold
	CodeDepth             Code = "depth"                 // nested deeper than the limit
	CodeLimit             Code = "limit"                 // larger than a limit allows
	CodeRecord            Code = "record"                // classic: a record of unknown type, or out of place
	CodeFooter            Code = "footer"                // classic: a footer of another section
	CodeFlags             Code = "flags"                 // classic: page flags of no known meaning
	CodeSplit             Code = "split"                 // classic: device state whose end cannot be told
	CodeVMDesc            Code = "vmdesc"                // a VMDESC that is malformed or does not fit the device state
	CodeXBZRLE            Code = "xbzrle"                // a malformed XBZRLE page
	CodeCompressed        Code = "compressed"            // a malformed compressed page
	CodeDuplicateID       Code = "duplicate-id"          // validation: a section id or a block name used twice
	CodeUnknownID         Code = "unknown-id"            // validation: a section id or a block name never announced
	CodeOrder             Code = "order"                 // validation: a section after its end, a delta before its page
	CodeSum               Code = "sum"                   // validation: block lengths that do not add up
	CodePageRange         Code = "page-range"            // validation: a page outside its block, or unaligned
	CodeLossy             Code = "lossy"                 // conversion: the other form cannot say it
	CodeMisuse            Code = "misuse"                // an encoder or writer called out of order
)

// Error returns the code itself.
func (c Code) Error() string { return string(c) }

// A FormatError tells what is wrong with a stream, and where.
//
// errors.Is finds its [Code]; [io.ErrUnexpectedEOF] in a stream that ends
// early; [errors.ErrUnsupported] in one that is sound but uses what this
// package does not read.
type FormatError struct {
	Offset int64  // in the stream, of the octet at fault
	Field  string // path of the element, such as QemuFile.top[3].full.name
	Code   Code   // the rule that is broken
	Err    error  // more about it, or nil
}

// Error describes the fault.
func (e *FormatError) Error() string {
	s := fmt.Sprintf("migschema: %s at %#x: %s", e.Field, e.Offset, e.Code)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the code and the cause.
func (e *FormatError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.Err}
}

// A coded is a fault in something that has no offset in a stream, or whose
// caller knows it.
type coded struct {
	code Code
	err  error
}

func (e *coded) Error() string   { return "migschema: " + string(e.code) + ": " + e.err.Error() }
func (e *coded) Unwrap() []error { return []error{e.code, e.err} }

// placed gives a fault its place in a stream.
func placed(err error, at int64, field string) error {
	if c, ok := err.(*coded); ok {
		return &FormatError{at, field, c.code, c.err}
	}
	return err
}
