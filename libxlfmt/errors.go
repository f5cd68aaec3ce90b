package libxlfmt

import (
	"errors"
	"fmt"
)

// ErrFormat means that the bytes are not a saved domain in any form that this
// package knows.
var ErrFormat = errors.New("not a saved domain")

// ErrState means that a method of a [Writer] or [Reader] was called where the
// stream does not allow it, such as a second record before the body of the
// first is complete.
var ErrState = errors.New("called out of turn")

// A FormatError is a stream that breaks a rule. Err is [io.ErrUnexpectedEOF]
// where the stream ends early, satisfies [errors.ErrUnsupported] where the
// stream is sound but of a kind that is not read, and [ErrFormat] where it is
// no saved domain at all.
type FormatError struct {
	Offset int64  // where, in bytes from the start of the stream
	Field  string // the header, the record or the field of it
	Code   Code   // the rule
	Err    error  // what is wrong
}

// Error describes the place and the rule.
func (e *FormatError) Error() string {
	return fmt.Sprintf("libxlfmt: %s at %#x: %v", e.Field, e.Offset, e.Err)
}

// Unwrap returns Err.
func (e *FormatError) Unwrap() error { return e.Err }
