package qed_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qed"
)

// TestSelfReference: nothing is written to the L1 table because an entry says
// that it is an L2 table, or that guest data lies there.
func TestSelfReference(t *testing.T) {
	good, l2 := written(t)
	l1 := int64(binary.LittleEndian.Uint64(good[40:]))
	for _, entry := range []int64{l1, l2} {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint64(b[entry:], uint64(l1))
		f := memfile.FromBytes(b)
		img, err := qed.OpenRW(f, nil)
		if err != nil {
			t.Fatal(err)
		}
		// The first cluster of the disk, and others that have none yet.
		for off := int64(0); off < img.Size(); off += 1 << 20 {
			_, err := img.WriteAt([]byte("data"), off)
			if off == 0 && !errors.Is(err, qed.ErrCorrupt) || err != nil && !errors.Is(err, qed.ErrCorrupt) {
				t.Errorf("entry at %#x, write at %#x: %v", entry, off, err)
			}
			_ = img.WriteZeroesAt(off, 512)
		}
		_ = img.Close()
		got := f.Bytes()[l1:][:len(good)-int(l1)]
		if n := min(len(got), int(l2-l1)); !bytes.Equal(got[:n], b[l1:][:n]) {
			t.Errorf("entry at %#x: the L1 table changed", entry)
		}
	}
}
