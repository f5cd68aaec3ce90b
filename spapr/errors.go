package spapr

import (
	"errors"
	"fmt"
)

// FormatError describes what is wrong with bytes that were to be decoded.
type FormatError struct {
	Offset int64  // of the field, from the start of the bytes
	Field  string // its name
	Err    error  // what is wrong with it
}

// Error returns the package, field, offset and cause.
func (e *FormatError) Error() string {
	return fmt.Sprintf("spapr: %s at 0x%x: %v", e.Field, e.Offset, e.Err)
}

// Unwrap returns Err.
func (e *FormatError) Unwrap() error { return e.Err }

var errUnknownService = errors.New("spapr: the machine has no such rtas service")
