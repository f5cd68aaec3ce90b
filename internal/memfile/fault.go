package memfile

import "fmt"

// A Kind is a kind of operation on a file.
type Kind uint8

// The kinds of operation.
const (
	Read     Kind = iota + 1 // ReadAt
	Write                    // WriteAt
	Truncate                 // Truncate; its Off is the new length
	Punch                    // PunchHole
	Sync                     // Sync

	failedSync // in the journal: a Sync that returned an error
)

// String returns the name of k.
func (k Kind) String() string {
	switch k {
	case Read:
		return "read"
	case Write:
		return "write"
	case Truncate:
		return "truncate"
	case Punch:
		return "punch"
	case Sync:
		return "sync"
	case failedSync:
		return "failed sync"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// An Op is one operation, as [File.Fault] sees it.
type Op struct {
	Index  int // how many operations came before
	Kind   Kind
	Off, N int64
}

// A ShortWrite makes a write store its first N bytes and then fail with Err.
type ShortWrite struct {
	N   int
	Err error
}

// Error describes the fault.
func (e *ShortWrite) Error() string { return fmt.Sprintf("short write of %d bytes: %v", e.N, e.Err) }

// Unwrap returns e.Err.
func (e *ShortWrite) Unwrap() error { return e.Err }

// fault counts an operation and asks f.Fault about it.
func (f *File) fault(k Kind, off, n int64) error {
	op := Op{Index: f.ops, Kind: k, Off: off, N: n}
	f.ops++
	if f.Fault == nil {
		return nil
	}
	return f.Fault(op)
}

// FailNth returns a fault that lets n operations pass, of those that match
// says true to (all, where it is nil), and fails the next one with err. Later
// ones pass again.
func FailNth(n int, err error, match func(Op) bool) func(Op) error {
	return func(op Op) error {
		if match != nil && !match(op) {
			return nil
		}
		n--
		if n == -1 {
			return err
		}
		return nil
	}
}
