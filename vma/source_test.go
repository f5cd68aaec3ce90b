package vma_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/virtfmt/virtfmt/vma"
)

// badByte is a file of which one byte cannot be read.
type badByte struct {
	io.ReaderAt
	size, bad int64
}

func (b badByte) Size() int64 { return b.size }

func (b badByte) ReadAt(p []byte, off int64) (int, error) {
	if off <= b.bad && b.bad < off+int64(len(p)) {
		return 0, errors.New("bad sector")
	}
	return b.ReaderAt.ReadAt(p, off)
}

// TestReadAheadOfData: headers of short extents are read with what follows
// them, but it is no error that data which is not asked for cannot be read.
func TestReadAheadOfData(t *testing.T) {
	disk := make(ram, 200*vma.ClusterSize) // three extents of zeros
	disk[len(disk)-1] = 1                  // and one with a block at its end
	b := build(t, false, disk)
	bad := badByte{bytes.NewReader(b), int64(len(b)), int64(len(b)) - 1}
	r, err := vma.Verify(t.Context(), bad, nil)
	if err != nil || !r.OK() || r.Extents != 4 {
		t.Errorf("%+v, %v", r, err)
	}
	bad.bad -= vma.BlockSize // in the header of the last extent
	if _, err := vma.Verify(t.Context(), bad, nil); err == nil {
		t.Error("no error for a header that cannot be read")
	}
}
