// Package sparse asks the system where a file has data, makes holes in it,
// reserves space and copies without reading. What a system cannot do is an
// error that is [errors.ErrUnsupported], and nothing has changed then.
package sparse

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// NextData returns the next range of f that holds data: the bytes from start
// to end, with start at off or after it. Everything between off and start
// reads as zeros. There being none is [io.EOF]. The position of f, which
// ReadAt and WriteAt do not use, moves.
func NextData(f *os.File, off int64) (start, end int64, err error) {
	if start, err = seekData(f, off); err != nil {
		return 0, 0, err
	}
	if end, err = seekHole(f, start); err != nil {
		if err == io.EOF { // cut in between
			return 0, 0, io.EOF
		}
		return 0, 0, err
	}
	if end <= start {
		return 0, 0, fmt.Errorf("%s: a range of data from %#x to %#x", f.Name(), start, end)
	}
	return start, end, nil
}

// PunchHole makes the n bytes of f at off read as zeros and gives back the
// space they took, where the system can. The size of f stays.
func PunchHole(f *os.File, off, n int64) error { return punchHole(f, off, n) }

// Reserve takes space for the n bytes of f at off, so that writing there does
// not fail for lack of it. What they hold does not change; f grows to off+n if
// it is shorter.
func Reserve(f *os.File, off, n int64) error { return reserve(f, off, n) }

// NoCopyOnWrite asks for what is written to f, which is empty, to take the place
// of what was there, on file systems such as btrfs that write elsewhere.
func NoCopyOnWrite(f *os.File) error { return noCopyOnWrite(f) }

// ExtentSizeHint asks for space to be given to f in units of n bytes; 0 leaves
// that to the file system. f is empty.
func ExtentSizeHint(f *os.File, n uint32) error { return extentSizeHint(f, n) }

// CopyRange lets the system copy n bytes of src at srcOff to dst at dstOff,
// which it can do without reading them where the file system shares blocks
// between files. It returns how many bytes it copied: fewer than n with an
// error, or where src ends.
func CopyRange(dst *os.File, dstOff int64, src *os.File, srcOff, n int64) (int64, error) {
	done := int64(0)
	for done < n {
		c, err := copyRange(dst, dstOff+done, src, srcOff+done, n-done)
		if err != nil || c == 0 {
			return done, err
		}
		done += c
	}
	return done, nil
}

// SharesBlocks reports whether the file system of f may let files share blocks,
// or copy between them without the data coming here. It is false for those
// known to copy by way of memory: to read and to write is as fast there.
func SharesBlocks(f *os.File) bool { return sharesBlocks(f) }

// unsupported returns the error of an operation that the system or the file
// system does not have.
func unsupported(op string, f *os.File, err error) error {
	return &os.PathError{Op: op, Path: f.Name(), Err: fmt.Errorf("%w: %w", errors.ErrUnsupported, err)}
}
