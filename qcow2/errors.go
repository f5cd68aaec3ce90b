package qcow2

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/virtfmt/virtfmt/internal/imagefile"
	"github.com/virtfmt/virtfmt/internal/imagelock"
	"github.com/virtfmt/virtfmt/internal/safeio"
)

var (
	// ErrFormat means that a file is not a qcow2 image: it does not begin with
	// the magic bytes.
	ErrFormat = errors.New("qcow2: not a qcow2 image")

	// ErrReadOnly means that an image was opened for reading only, or became
	// read-only because of an error that the message tells. It is also
	// [fs.ErrPermission].
	ErrReadOnly error = &sentinel{"image is read-only", fs.ErrPermission}

	// ErrClosed means that an image was used after Close. It is also
	// [fs.ErrClosed].
	ErrClosed error = &sentinel{"image is closed", fs.ErrClosed}

	// ErrLocked means that another program, or this one through another opening,
	// uses the image in a way that does not go with the one that was asked for.
	ErrLocked = imagelock.ErrLocked

	// ErrNoBacking means that an image was to be committed to a backing file
	// that it does not have.
	ErrNoBacking = errors.New("qcow2: image has no backing file")

	// ErrNotGranted means that an image names another file, its backing file or
	// external data file, that the caller did not grant: nothing in [Options]
	// opens it, or it lies outside of [Options.Root]. It is also
	// [fs.ErrPermission].
	ErrNotGranted = imagefile.ErrNotGranted

	// ErrMetadataOnly means that guest data was asked for which the image does
	// not hold itself, and that it was opened with Options.MetadataOnly.
	ErrMetadataOnly = errors.New("qcow2: image was opened for its metadata only")

	// ErrCorrupt means that the metadata of an image contradicts itself, or that
	// the image is marked as corrupt (incompatible feature bit 1) and was to be
	// opened for writing.
	ErrCorrupt = errors.New("qcow2: image is corrupt")

	// ErrLimit means that a size or a count in an image is over the limit for
	// it, or that an operation would make it so.
	ErrLimit = safeio.ErrLimit

	// ErrOutOfRange means that an offset or a length lies outside of the disk.
	ErrOutOfRange = errors.New("qcow2: range outside of the disk")
)

// A sentinel is an error that is also one of the standard library's.
type sentinel struct {
	msg  string
	base error
}

func (s *sentinel) Error() string { return "qcow2: " + s.msg }
func (s *sentinel) Unwrap() error { return s.base }

// A FormatError tells what is wrong in an image and where. Truncated
// structures unwrap to [io.ErrUnexpectedEOF], sizes over a limit to
// [ErrLimit], entries that contradict others to [ErrCorrupt].
type FormatError struct {
	Offset int64  // in the file, in bytes, where the field begins
	Field  string // the field or structure, in words of the specification
	Err    error  // what is wrong with it
}

// Error describes the field, its place and what is wrong with it.
func (e *FormatError) Error() string {
	msg := strings.TrimPrefix(e.Err.Error(), "qcow2: ")
	return fmt.Sprintf("qcow2: %s at %#x: %s", e.Field, e.Offset, msg)
}

// Unwrap returns e.Err.
func (e *FormatError) Unwrap() error { return e.Err }

// badf returns a FormatError whose cause is made by fmt.Errorf.
func badf(off int64, field, format string, args ...any) error {
	return &FormatError{Offset: off, Field: field, Err: fmt.Errorf(format, args...)}
}

// corruptf is badf for metadata that contradicts itself: the error is also
// ErrCorrupt.
func corruptf(off int64, field, format string, args ...any) error {
	return &FormatError{Offset: off, Field: field, Err: &corruption{fmt.Sprintf(format, args...)}}
}

type corruption struct{ msg string }

func (c *corruption) Error() string        { return c.msg }
func (c *corruption) Is(target error) bool { return target == ErrCorrupt }

// An UnsupportedError names what an image uses and this package does not
// know. It is also [errors.ErrUnsupported].
type UnsupportedError struct {
	Features []string // at least one
}

// Error lists the features.
func (e *UnsupportedError) Error() string {
	return "qcow2: unsupported: " + strings.Join(e.Features, ", ")
}

// Is reports whether target is [errors.ErrUnsupported].
func (e *UnsupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

func unsupportedf(format string, args ...any) error {
	return &UnsupportedError{Features: []string{fmt.Sprintf(format, args...)}}
}
