// Package block holds what disks of every format share: the interfaces
// between an image and the file below it, between an image and whoever reads
// it, and copying from one to the other.
package block

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"

	"github.com/virtfmt/virtfmt/internal/sparse"
)

// A Kind says what stands behind a range of a disk.
type Kind uint8

const (
	// Unallocated ranges are held by no layer of the disk: they read as zeros.
	// Where a cluster has a place in the file and a part of it is not used yet,
	// that is at [Extent.HostOffset].
	Unallocated Kind = iota
	// Data ranges are stored as they are, at [Extent.HostOffset].
	Data
	// Compressed ranges are stored, but not byte for byte.
	Compressed
	// Zero ranges are known to read as zeros. They may still own space in the
	// file, at [Extent.HostOffset].
	Zero
)

// String returns the name of k: unallocated, data, compressed or zero.
func (k Kind) String() string {
	switch k {
	case Unallocated:
		return "unallocated"
	case Data:
		return "data"
	case Compressed:
		return "compressed"
	case Zero:
		return "zero"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// NoOffset is the [Extent.HostOffset] of an extent that has no place of its
// own in a file.
const NoOffset = -1

// An Extent is a range of a disk that is stored in one way.
type Extent struct {
	Start      int64 // bytes from the start of the disk
	Length     int64 // bytes, at least 1
	Kind       Kind  // what stands behind the range
	HostOffset int64 // where Start lies in the file of its layer, or NoOffset
	Depth      int   // the layer: 0 the disk itself, 1 its backing file, and so on
}

// End returns the offset of the first byte after e.
func (e Extent) End() int64 { return e.Start + e.Length }

// IsZero reports whether e is known to read as zeros.
func (e Extent) IsZero() bool { return e.Kind == Unallocated || e.Kind == Zero }

// Follows reports whether e continues prev, so that both can be told as one
// extent.
func (e Extent) Follows(prev Extent) bool {
	if e.Start != prev.End() || e.Kind != prev.Kind || e.Depth != prev.Depth {
		return false
	}
	if e.HostOffset == NoOffset || prev.HostOffset == NoOffset {
		return e.HostOffset == prev.HostOffset
	}
	return e.Kind != Compressed && e.HostOffset == prev.HostOffset+prev.Length
}

// A Disk is a virtual disk that can be read: an image with the backing files
// below it, a snapshot, a device in an archive, raw bytes. Its methods may be
// called concurrently.
type Disk interface {
	io.ReaderAt
	// Size returns the length of the disk in bytes.
	Size() int64
	// Extents yields what stands behind the n bytes at off, in order, without
	// gaps, cut to the range asked for and to the end of the disk. After an
	// error it yields nothing more.
	Extents(off, n int64) iter.Seq2[Extent, error]
}

// A File is what an image is stored in. A File may also be a [Syncer], a
// [PunchHoler] and tell its length as [Length] asks for it. An [*os.File] does
// all of that, holes by [PunchHole].
type File interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
}

// A Syncer can make what was written durable. A file without Sync counts as
// durable at each write.
type Syncer interface{ Sync() error }

// A PunchHoler can give space back: the n bytes at off read as zeros
// afterwards. An error that is [errors.ErrUnsupported] changes nothing.
type PunchHoler interface{ PunchHole(off, n int64) error }

// PunchHole gives back the space of the n bytes of f at off, which read as
// zeros then. Where f cannot, nothing changes and the error is
// [errors.ErrUnsupported].
func PunchHole(f any, off, n int64) error {
	switch f := f.(type) {
	case PunchHoler:
		return f.PunchHole(off, n)
	case *os.File:
		return sparse.PunchHole(f, off, n)
	}
	return errors.ErrUnsupported
}

// A ZeroWriter can make a range read as zeros without being handed the zeros.
type ZeroWriter interface{ WriteZeroesAt(off, n int64) error }

// ErrNoLength means that the length of a reader is neither told by the reader
// nor given in an option.
var ErrNoLength = errors.New("the reader does not tell its length")

// ErrNil means that nil was given for a reader or a file.
var ErrNil = errors.New("the file is nil")

// Length returns the length of r in bytes, from its method Size, Stat or
// Seek, in that order. Without any of them it is [ErrNoLength], and [ErrNil]
// where r is nil.
func Length(r any) (int64, error) {
	switch s := r.(type) {
	case nil:
		return 0, ErrNil
	case interface{ Size() int64 }:
		return s.Size(), nil
	case interface{ Size() (int64, error) }:
		return s.Size()
	}
	if s, ok := r.(interface{ Stat() (fs.FileInfo, error) }); ok {
		fi, err := s.Stat()
		if err != nil {
			return 0, err
		}
		if fi.Mode().IsRegular() {
			return fi.Size(), nil
		}
	}
	if s, ok := r.(io.Seeker); ok {
		here, err := s.Seek(0, io.SeekCurrent)
		if err != nil {
			return 0, err
		}
		end, err := s.Seek(0, io.SeekEnd)
		if err != nil {
			return 0, err
		}
		_, err = s.Seek(here, io.SeekStart)
		return end, err
	}
	return 0, ErrNoLength
}

// Sync makes all that was written to f durable, where f can.
func Sync(f any) error {
	if s, ok := f.(Syncer); ok {
		return s.Sync()
	}
	return nil
}
