package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// TestRepairBitmapsAsQemu damages the directory and the tables of bitmaps, or
// makes them overlap other metadata. What qemu-img says of the image after a
// repair here is what its own repair ends with: nothing is wrong, something is
// left, or the image does not open.
func TestRepairBitmapsAsQemu(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	base := bitmapDisk(t, 1<<20, 4096).Bytes()
	x, _ := open(t, base, nil).Header().Bitmaps()
	dir := x.DirectoryOffset
	table := int64(binary.BigEndian.Uint64(base[dir:]))
	for _, c := range []struct {
		name string
		edit func(b []byte)
	}{
		{"a table at 0", func(b []byte) { clear(b[dir : dir+8]) }},
		{"a table between clusters", func(b []byte) { b[dir+7] = 1 }},
		{"a table past the end", func(b []byte) { b[dir+2] = 1 }},
		{"a table of 2^32-1 entries", func(b []byte) { copy(b[dir+8:], "\xff\xff\xff\xff") }},
		{"bits at an odd place", func(b []byte) { b[table+6] = 2 }},
		{"bits past the end", func(b []byte) { b[table+2] = 1 }},
		{"reserved bits of an entry", func(b []byte) { b[table] = 1 }},
		{"a table that is the L1 table", func(b []byte) { copy(b[dir:dir+8], b[40:48]) }},
		{"a table of two", func(b []byte) { copy(b[dir+32:dir+40], b[dir:]) }},
		{"bits that are the refcount table", func(b []byte) { copy(b[table:table+8], b[48:56]) }},
		{"bits that are the directory", func(b []byte) { binary.BigEndian.PutUint64(b[table:], uint64(dir)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(base)
			c.edit(b)
			name := filepath.Join(difftest.FastDir(t), "x.qcow2")
			writeFile(t, name, b)
			want := difftest.Try(t, img, "check", "-r", "all", "-f", "qcow2", name).Code
			f := memfile.FromBytes(b)
			res, err := qcow2.Repair(t.Context(), f, qcow2.RepairAll, nil)
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, name, f.Bytes())
			if got := difftest.Try(t, img, "check", "-f", "qcow2", name).Code; got != want || res.Clean() != (want == 0) {
				t.Errorf("qemu-img check ends with %d, after its own repair with %d; here it is clean: %t", got, want, res.Clean())
			}
		})
	}
}
