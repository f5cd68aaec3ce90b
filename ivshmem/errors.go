package ivshmem

import "fmt"

// A FormatError is a message of a server that breaks the protocol. Where the
// message is of a version that is not known, it satisfies
// [errors.ErrUnsupported]; where the server closed the connection in the middle
// of it, [io.ErrUnexpectedEOF].
type FormatError struct {
	Offset int64  // of the message in what the server sent, bytes
	Field  string // which message: "version", "id", "shared memory", "notification"
	Err    error  // what is wrong with it
}

// Error describes the message.
func (e *FormatError) Error() string {
	return fmt.Sprintf("ivshmem: %s at %#x: %v", e.Field, e.Offset, e.Err)
}

// Unwrap returns what is wrong.
func (e *FormatError) Unwrap() error { return e.Err }
