package vma

import (
	"errors"
	"fmt"
)

var (
	// ErrFormat means that the bytes are not a VMA archive: the magic is
	// missing. A compressed archive gives it too; see [Decompress].
	ErrFormat = errors.New("not a VMA archive")
	// ErrIncomplete means that a [Writer] was closed before every cluster of
	// every device was written. The error is an [*IncompleteError].
	ErrIncomplete = errors.New("clusters are missing")
)

// A FormatError is an archive that breaks the format. Err is a [Finding],
// which says what is wrong and which satisfies [ErrFormat] for bytes that are
// no archive, [errors.ErrUnsupported] for an unknown version and
// [io.ErrUnexpectedEOF] for an archive that ends early.
type FormatError struct {
	Offset int64  // in the archive
	Field  string // the place, such as "extent 3 slot 5"
	Err    error
}

// Error describes the place and what is wrong there.
func (e *FormatError) Error() string {
	return fmt.Sprintf("vma: %s at %#x: %v", e.Field, e.Offset, e.Err)
}

// Unwrap returns Err.
func (e *FormatError) Unwrap() error { return e.Err }

// ioError wraps an error of the reader below.
func ioError(off int64, err error) error {
	return fmt.Errorf("vma: read at %#x: %w", off, err)
}
