package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"testing"

	"github.com/virtfmt/virtfmt/qcow2"
)

// FuzzImage: no image panics or runs for long, and what Extents calls zeros
// reads as zeros. The input patches a sample: each 10 bytes hold a place in
// its header and tables, and what to write there.
func FuzzImage(f *testing.F) {
	all := samples(f)
	var images []sample
	for i, name := range slices.Sorted(maps.Keys(all)) {
		images = append(images, all[name])
		f.Add(uint8(i), []byte{})
		f.Add(uint8(i), []byte{0, 24, 0, 0, 0, 0x10, 0, 0, 0, 0}) // size
	}
	f.Fuzz(func(t *testing.T, which uint8, patches []byte) {
		b := bytes.Clone(images[int(which)%len(images)].image)
		cluster := 1 << b[23]
		for ; len(patches) >= 10 && len(patches) < 200; patches = patches[10:] {
			at := int(binary.BigEndian.Uint16(patches))
			if at >= 200 { // an entry at the start of one of the first clusters
				at = at%8*cluster + at/8%64*8
			}
			if at+8 <= len(b) {
				copy(b[at:], patches[2:10])
			}
		}
		o := &qcow2.Options{
			OpenBacking: func(string, string) (qcow2.Disk, error) { return rawDisk(bytes.Repeat([]byte{1}, 5000)), nil },
			OpenData:    func(string, bool) (qcow2.File, error) { return nil, bytes.ErrTooLarge },
		}
		im, err := qcow2.Open(bytes.NewReader(b), o)
		if err != nil {
			return
		}
		defer im.Close()
		p := make([]byte, 64<<10)
		for _, off := range []int64{0, 4096, im.Size() / 2, im.Size() - 5000} {
			if off >= 0 {
				_, _ = im.ReadAt(p, off)
			}
		}
		n := 0
		for e, err := range im.Extents(0, im.Size()) {
			if err != nil || n > 1000 {
				break
			}
			n++
			got, err := im.ReadAt(p[:min(e.Length, 4096)], e.Start)
			if e.IsZero() && (err != nil || len(bytes.Trim(p[:got], "\x00")) > 0) {
				t.Fatalf("%+v: %v", e, err)
			}
		}
	})
}
