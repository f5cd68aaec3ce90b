package vma_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/virtfmt/virtfmt/vma"
)

// TestZstdSourceFails reads from a source that fails after every byte, also
// with what a server says that ended too early: a stream that seems to be whole
// there is not, and damage is not what ails it.
func TestZstdSourceFails(t *testing.T) {
	text := bytes.Repeat([]byte("a page of text\n"), 100)
	b := slices.Concat(zstdFrame(t, text), skippableFrame, zstdFrame(t, nil),
		zstdFrame(t, text[:200], zstd.WithEncoderCRC(false)), skippableFrame)
	for _, fails := range []error{io.ErrUnexpectedEOF, errFull} {
		for cut := range len(b) + 1 {
			r, _, err := vma.Decompress(io.MultiReader(bytes.NewReader(b[:cut]), iotest.ErrReader(fails)), nil)
			if err == nil {
				_, err = io.ReadAll(r)
				r.Close()
			}
			if !errors.Is(err, fails) {
				t.Errorf("a source that fails at %d of %d with %v: %v", cut, len(b), fails, err)
			}
		}
	}
}
