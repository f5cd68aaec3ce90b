package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/virtfmt/virtfmt/qcow2"
)

// An editor changes the metadata of an image in place.
type editor struct {
	b            []byte
	cluster      int64
	l1, refTable int64 // offsets
	snapshots    int64
	refcountBits int64
	entrySize    int64
}

func edit(b []byte) *editor {
	be := binary.BigEndian
	e := &editor{
		b:            b,
		cluster:      1 << be.Uint32(b[20:]),
		l1:           int64(be.Uint64(b[40:])),
		refTable:     int64(be.Uint64(b[48:])),
		snapshots:    int64(be.Uint64(b[64:])),
		refcountBits: 16,
		entrySize:    8,
	}
	if be.Uint32(b[4:]) == 3 {
		e.refcountBits = 1 << be.Uint32(b[96:])
		if b[79]&16 != 0 {
			e.entrySize = 16
		}
	}
	return e
}

func (e *editor) u64(off int64) uint64      { return binary.BigEndian.Uint64(e.b[off:]) }
func (e *editor) put64(off int64, v uint64) { binary.BigEndian.PutUint64(e.b[off:], v) }
func (e *editor) put32(off int64, v uint32) { binary.BigEndian.PutUint32(e.b[off:], v) }
func (e *editor) flip(off int64, bit int)   { e.put64(off, e.u64(off)^1<<bit) }
func (e *editor) end() uint64               { return uint64(len(e.b)) }
func (e *editor) table(entry int64) int64   { return int64(e.u64(entry) & 0x00fffffffffffe00) }
func (e *editor) snapshotL1(i int64) int64  { return int64(e.u64(e.snapshotEntry(i))) }
func (e *editor) host(i int64) uint64       { return e.u64(e.l2(i)) & 0x00fffffffffffe00 }
func (e *editor) refcountAt(off uint64) int64 {
	return e.table(e.refTable) + int64(off)/e.cluster*e.refcountBits/8
}

// l2 returns where the L2 entry of guest cluster i lies.
func (e *editor) l2(i int64) int64 {
	n := e.cluster / e.entrySize
	return e.table(e.l1+i/n*8) + i%n*e.entrySize
}

// snapshotEntry returns where the i-th entry of the snapshot table lies.
func (e *editor) snapshotEntry(i int64) int64 {
	at := e.snapshots
	for ; i > 0 && at >= 0 && at+40 <= int64(len(e.b)); i-- {
		n := 40 + int64(binary.BigEndian.Uint32(e.b[at+36:])) + int64(binary.BigEndian.Uint16(e.b[at+12:])) + int64(binary.BigEndian.Uint16(e.b[at+14:]))
		at += (n + 7) &^ 7
	}
	return at
}

// setRefcount sets the 16-bit refcount of the cluster at off.
func (e *editor) setRefcount(off uint64, n uint16) {
	binary.BigEndian.PutUint16(e.b[e.refcountAt(off):], n)
}

// bitmapTable returns where the first bitmap's table lies.
func (e *editor) bitmapTable() int64 {
	for at := int64(112); ; {
		n := int64(binary.BigEndian.Uint32(e.b[at+4:]))
		if binary.BigEndian.Uint32(e.b[at:]) == qcow2.ExtensionBitmaps {
			return int64(e.u64(int64(e.u64(at + 8 + 16))))
		}
		at += 8 + (n+7)&^7
	}
}

// A damage is one thing done to an image and what that makes wrong. That
// qemu-img agrees about the counts is the business of TestDamagesInQemu.
type damage struct {
	name        string
	image       string
	do          func(*editor)
	corruptions int64
	leaks       int64
	checkErrors int64
	kinds       []qcow2.FindingKind // beside leaks
}

// make.sh writes, among others, clusters 0 to 3, 48 and 49 (compressed), and
// 70 to 72 of the disk; in v2 a unit is two clusters.
var damages = []damage{
	{"nothing", "v3", func(*editor) {}, 0, 0, 0, nil},
	{"dirty", "v3", func(e *editor) { e.flip(72, 0) }, 0, 0, 0, nil},
	{"corrupt", "v3", func(e *editor) { e.flip(72, 1) }, 0, 0, 0, nil},
	{"leak", "v3", func(e *editor) { e.b = append(e.b, make([]byte, 8192)...); e.setRefcount(e.end()-4096, 1) }, 0, 1, 0, nil},
	{"refcount too high", "v3", func(e *editor) { e.setRefcount(e.host(0), 9) }, 0, 1, 0, nil},
	{"refcount too high of a COPIED cluster", "v3", func(e *editor) { e.setRefcount(e.host(70), 2) }, 1, 1, 0, []qcow2.FindingKind{qcow2.FindingCopied}},
	{"refcount too low", "v3", func(e *editor) { e.setRefcount(e.host(0), 2) }, 1, 0, 0, []qcow2.FindingKind{qcow2.FindingRefcount}},
	{"refcount zero", "v2", func(e *editor) { e.setRefcount(e.host(140), 0) }, 2, 0, 0, []qcow2.FindingKind{qcow2.FindingCopied, qcow2.FindingRefcount}},
	{"COPIED missing", "v3", func(e *editor) { e.flip(e.l2(70), 63) }, 1, 0, 0, []qcow2.FindingKind{qcow2.FindingCopied}},
	{"COPIED on a shared cluster", "v2", func(e *editor) { e.flip(e.l2(0), 63) }, 1, 0, 0, []qcow2.FindingKind{qcow2.FindingCopied}},
	{"COPIED missing in the L1 table", "v3", func(e *editor) { e.flip(e.l1, 63) }, 1, 0, 0, []qcow2.FindingKind{qcow2.FindingCopied}},
	{"COPIED on a compressed cluster", "v3", func(e *editor) { e.flip(e.l2(48), 63) }, 1, 0, 0, []qcow2.FindingKind{qcow2.FindingCompressedCopied}},
	{"COPIED in a snapshot", "v3", func(e *editor) { e.flip(e.snapshotL1(0), 63) }, 0, 0, 0, nil},
	{"reserved bits of an L2 entry", "v3", func(e *editor) { e.flip(e.l2(70), 57); e.flip(e.l2(1), 3) }, 2, 0, 0, []qcow2.FindingKind{qcow2.FindingReserved}},
	{"reserved bits of an L1 entry", "v3", func(e *editor) { e.flip(e.l1, 60) }, 1, 0, 0, []qcow2.FindingKind{qcow2.FindingReserved}},
	{"reserved bits of an unallocated cluster", "v3", func(e *editor) { e.flip(e.l2(100), 60) }, 1, 0, 0, []qcow2.FindingKind{qcow2.FindingReserved}},
	{"reserved bits of a refcount table entry", "v3", func(e *editor) { e.flip(e.refTable, 2) }, 1, 1, 0, []qcow2.FindingKind{qcow2.FindingReserved}},
	{"two guest clusters in one", "v2", func(e *editor) { e.put64(e.l2(141), e.u64(e.l2(140))) }, 1, 1, 0, []qcow2.FindingKind{qcow2.FindingRefcount}},
	{"guest cluster in the L1 table", "v3", func(e *editor) { e.put64(e.l2(100), 1<<63|uint64(e.l1)) }, 1, 0, 0, []qcow2.FindingKind{qcow2.FindingRefcount}},
	{"guest cluster in the header", "v3", func(e *editor) { e.put64(e.l2(48), 1<<62|17) }, 1, 1, 0, []qcow2.FindingKind{qcow2.FindingRefcount}},
	{"guest cluster between clusters", "v3", func(e *editor) { e.put64(e.l2(70), e.u64(e.l2(70))+512) }, 2, 0, 0, []qcow2.FindingKind{qcow2.FindingRefcount, qcow2.FindingUnaligned}},
	{"guest cluster past the end", "v3", func(e *editor) { e.put64(e.l2(70), 1<<63|(e.end()&^4095+8192)) }, 2, 1, 0, []qcow2.FindingKind{qcow2.FindingBeyondEnd, qcow2.FindingCopied}},
	{"compressed cluster past the end", "v3", func(e *editor) { e.put64(e.l2(49), 1<<62|(e.end()+1<<20)) }, 1, 1, 0, []qcow2.FindingKind{qcow2.FindingBeyondEnd}},
	{"L2 table between clusters", "v3", func(e *editor) { e.put64(e.snapshotL1(0), e.u64(e.snapshotL1(0))+512) }, 129, 4, 0, []qcow2.FindingKind{qcow2.FindingBeyondEnd, qcow2.FindingReserved, qcow2.FindingUnaligned}},
	{"L2 table past the end", "v3", func(e *editor) { e.put64(e.snapshotL1(1), e.end()&^4095+1<<20) }, 1, 6, 0, []qcow2.FindingKind{qcow2.FindingBeyondEnd}},
	{"refcount table past the end", "v2", func(e *editor) { e.put64(48, e.end()&^511+1<<20) }, 47, 0, 0, []qcow2.FindingKind{qcow2.FindingBeyondEnd, qcow2.FindingCopied, qcow2.FindingRefcount}},
	{"no refcount table", "v3", func(e *editor) { e.put32(56, 0) }, 26, 0, 0, []qcow2.FindingKind{qcow2.FindingCopied, qcow2.FindingRefcount}},
	{"refcount block past the end", "v3", func(e *editor) { e.put64(e.refTable+8, 1<<40) }, 1, 0, 0, []qcow2.FindingKind{qcow2.FindingRefcountBlock}},
	{"refcount block used otherwise", "v3", func(e *editor) { e.put64(e.refTable+8, uint64(e.l1)) }, 2, 0, 0, []qcow2.FindingKind{qcow2.FindingRefcount, qcow2.FindingRefcountBlock}},
	{"refcount block between clusters", "v3", func(e *editor) { e.put64(e.refTable, e.u64(e.refTable)+512) }, 1, 0, 22, []qcow2.FindingKind{qcow2.FindingNoRefcount, qcow2.FindingUnaligned}},
	{"L1 table of a snapshot between clusters", "v3", func(e *editor) { e.put64(e.snapshotEntry(1), e.u64(e.snapshotEntry(1))+512) }, 1, 7, 0, []qcow2.FindingKind{qcow2.FindingUnaligned}},
	{"L1 table of a snapshot past the end", "v2", func(e *editor) { e.put64(e.snapshotEntry(1), 1<<40) }, 1, 11, 0, []qcow2.FindingKind{qcow2.FindingBeyondEnd}},
	{"L1 table of a snapshot too large", "v3", func(e *editor) { e.put32(e.snapshotEntry(1)+8, 5_000_000) }, 1, 7, 0, []qcow2.FindingKind{qcow2.FindingSnapshot}},
	{"no L1 table of a snapshot", "v3", func(e *editor) { e.put32(e.snapshotEntry(1)+8, 0) }, 0, 7, 0, nil},
	{"snapshots past the table", "v3", func(e *editor) { e.put32(60, 4) }, 2, 0, 0, []qcow2.FindingKind{qcow2.FindingSnapshot}},
	{"snapshot forgotten", "v2", func(e *editor) { e.put32(60, 1) }, 0, 11, 0, nil},
	{"bitmap and guest cluster in one", "bitmap", func(e *editor) { e.put64(e.bitmapTable(), e.host(70)) }, 1, 1, 0, []qcow2.FindingKind{qcow2.FindingRefcount}},
	{"bitmaps forgotten", "bitmap", func(e *editor) { e.flip(88, 0) }, 0, 3, 0, nil},
	{"subclusters allocated and zero", "extended", func(e *editor) { e.put64(e.l2(70)+8, 3<<32|1) }, 1, 0, 0, []qcow2.FindingKind{qcow2.FindingSubclusters}},
	{"subclusters of an unallocated cluster", "extended", func(e *editor) { e.put64(e.l2(100)+8, 1) }, 1, 0, 0, []qcow2.FindingKind{qcow2.FindingSubclusters}},
	{"subclusters of a compressed cluster", "extended", func(e *editor) { e.put64(e.l2(48)+8, 1) }, 1, 1, 0, []qcow2.FindingKind{qcow2.FindingSubclusters}},
	{"extended entry between clusters", "extended", func(e *editor) { e.put64(e.l2(70), e.u64(e.l2(70))+512) }, 2, 0, 0, []qcow2.FindingKind{qcow2.FindingRefcount, qcow2.FindingUnaligned}},
	{"file cut", "v2", func(e *editor) { e.b = e.b[:len(e.b)-1024] }, 2, 0, 0, []qcow2.FindingKind{qcow2.FindingBeyondEnd}},
}

// image returns the bytes of testdata/check/NAME.qcow2.zst.
func image(tb testing.TB, name string) []byte {
	tb.Helper()
	return unzstd(tb, "testdata/check/"+name+".qcow2.zst")
}

func (d damage) make(tb testing.TB) []byte {
	tb.Helper()
	e := edit(image(tb, d.image))
	d.do(e)
	return e.b
}

func TestDamages(t *testing.T) {
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			r, err := qcow2.Check(t.Context(), bytes.NewReader(d.make(t)), nil)
			if err != nil {
				t.Fatal(err)
			}
			var kinds []qcow2.FindingKind
			for _, f := range r.Findings {
				if f.Kind != qcow2.FindingLeak {
					kinds = append(kinds, f.Kind)
				}
			}
			slices.Sort(kinds)
			slices.Sort(d.kinds)
			if kinds = slices.Compact(kinds); !slices.Equal(kinds, d.kinds) {
				t.Errorf("findings %v, want %v", kinds, d.kinds)
			}
			if r.Corruptions != d.corruptions || r.Leaks != d.leaks || r.CheckErrors != d.checkErrors {
				t.Errorf("%d corruptions, %d leaks, %d errors; want %d, %d, %d\n%v",
					r.Corruptions, r.Leaks, r.CheckErrors, d.corruptions, d.leaks, d.checkErrors, r.Findings)
			}
		})
	}
}
