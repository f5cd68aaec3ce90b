package qcow2_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/internal/mutant"
	"github.com/virtfmt/virtfmt/qcow2"
)

// What becomes of an image of which one number is changed.
type outcome int

const (
	refused  outcome = iota // it does not open
	unread                  // the disk cannot be read at the place in question
	asZeros                 // the place reads as zeros
	asBefore                // the place reads as before
)

// A mutation is one change that made another implementation of the format
// crash, hang, take all memory, or read what is not there.
type mutation struct {
	name  string
	image string // of testdata/check, or a compression
	do    func(e *editor)
	at    int64 // place in question
	want  outcome
}

// hostCluster is a guest cluster of the images that has a host cluster, and
// packedCluster one that is compressed.
const hostCluster, packedCluster = 2, 48

// garbage replaces what a compressed cluster holds.
func garbage(e *editor, cluster int64, b byte) {
	x := 62 - (int64(e.b[23]) - 8)
	off := int64(e.u64(e.l2(cluster)) & (1<<x - 1))
	copy(e.b[off:], bytes.Repeat([]byte{b}, 100))
}

var mutations = []mutation{
	{"l1_size 0x7fffffff", "v3", func(e *editor) { e.put32(36, 0x7fffffff) }, 0, refused},
	{"l1_size 0", "v3", func(e *editor) { e.put32(36, 0) }, 0, refused},
	{"cluster_bits 0", "v3", func(e *editor) { e.put32(20, 0) }, 0, refused},
	{"cluster_bits 40", "v3", func(e *editor) { e.put32(20, 40) }, 0, refused},
	{"cluster_bits 63", "v3", func(e *editor) { e.put32(20, 63) }, 0, refused},
	{"cluster_bits 255", "v3", func(e *editor) { e.put32(20, 255) }, 0, refused},
	{"cluster_bits 2^32-1", "v3", func(e *editor) { e.put32(20, 1<<32-1) }, 0, refused},
	{"size 2^63", "v3", func(e *editor) { e.put64(24, 1<<63) }, 0, refused},
	{"size 2^63-1", "v3", func(e *editor) { e.put64(24, 1<<63-1) }, 0, refused},
	{"size 2^64-1", "v3", func(e *editor) { e.put64(24, 1<<64-1) }, 0, refused},
	{"refcount_order 7", "v3", func(e *editor) { e.put32(96, 7) }, 0, refused},
	{"refcount_order 2^31", "v3", func(e *editor) { e.put32(96, 1<<31) }, 0, refused},
	{"header_length 0xfffffff8", "v3", func(e *editor) { e.put32(100, 0xfffffff8) }, 0, refused},
	{"header_length 0", "v3", func(e *editor) { e.put32(100, 0) }, 0, refused},
	{"refcount_table_clusters 2^28", "v3", func(e *editor) { e.put32(56, 1<<28) }, 0, refused},
	{"refcount table past the end", "v3", func(e *editor) { e.put64(48, 1<<40) }, hostCluster, asBefore},
	{"L1 table past the end", "v3", func(e *editor) { e.put64(40, 1<<40) }, hostCluster, asZeros},
	{"L1 table at 2^63", "v3", func(e *editor) { e.put64(40, 1<<63) }, 0, refused},
	{"L2 table past the end", "v3", func(e *editor) { e.put64(e.l1, 1<<63|1<<40) }, hostCluster, asZeros},
	{"L2 table past 2^55", "v3", func(e *editor) { e.put64(e.l1, 1<<63|0x00fffffffffff000) }, hostCluster, asZeros},
	{"L2 table between clusters", "v3", func(e *editor) { e.put64(e.l1, e.u64(e.l1)+512) }, hostCluster, unread},
	{"L2 table that is the header", "v2", func(e *editor) { e.put64(e.l1, 1<<63) }, hostCluster, asZeros},
	{"snapshot table past the end", "v3", func(e *editor) { e.put64(64, 1<<40) }, hostCluster, asBefore},
	{"snapshot table at 2^63", "v3", func(e *editor) { e.put64(64, 1<<63) }, hostCluster, refused},
	{"a file cut inside the L1 table", "v3", func(e *editor) { e.b = e.b[:e.l1+8] }, hostCluster, asZeros},
	{"a file cut in the first L1 entry", "v3", func(e *editor) { e.b = e.b[:e.l1+4] }, hostCluster, asZeros},
	{"a file cut before the L1 table", "v3", func(e *editor) { e.b = e.b[:e.l1] }, hostCluster, asZeros},
	{"a file cut inside an L2 table", "v3", func(e *editor) { e.b = e.b[:e.l2(hostCluster)] }, hostCluster, asZeros},
	{"data past the end", "v3", func(e *editor) { e.put64(e.l2(hostCluster), 1<<63|1<<40) }, hostCluster, asZeros},
	{"data at the last cluster of 2^56", "v3", func(e *editor) { e.put64(e.l2(hostCluster), 1<<63|0x00fffffffffff000) }, hostCluster, asZeros},
	{"data between clusters", "v3", func(e *editor) { e.flip(e.l2(hostCluster), 9) }, hostCluster, unread},
	{"compressed garbage, deflate", "v3", func(e *editor) { garbage(e, packedCluster, 0xff) }, packedCluster, unread},
	{"compressed zeros, deflate", "v3", func(e *editor) { garbage(e, packedCluster, 0) }, packedCluster, unread},
	{"compressed garbage, zstd", "zstd", func(e *editor) { garbage(e, packedCluster, 0xff) }, packedCluster, unread},
	{"compressed zeros, zstd", "zstd", func(e *editor) { garbage(e, packedCluster, 0) }, packedCluster, unread},
	{"compressed data past the end, deflate", "v3", func(e *editor) { e.put64(e.l2(packedCluster), 1<<62|1<<50) }, packedCluster, unread},
	{"compressed data past the end, zstd", "zstd", func(e *editor) { e.put64(e.l2(packedCluster), 1<<62|1<<50) }, packedCluster, unread},
	{"compressed data that is the header, zstd", "zstd", func(e *editor) { e.put64(e.l2(packedCluster), 1<<62) }, packedCluster, unread},
	{"all sectors of a compressed cluster, deflate", "v3", func(e *editor) { e.put64(e.l2(packedCluster), e.u64(e.l2(packedCluster))|0xf<<58) }, packedCluster, asBefore},
	{"reserved bit 58 of an L2 entry", "v3", func(e *editor) { e.flip(e.l2(hostCluster), 58) }, hostCluster, asBefore},
	{"reserved bit 1 of an L2 entry", "v3", func(e *editor) { e.flip(e.l2(hostCluster), 1) }, hostCluster, asBefore},
	{"reserved bit 58 of an L1 entry", "v3", func(e *editor) { e.flip(e.l1, 58) }, hostCluster, asBefore},
	{"reserved bit 1 of an L1 entry", "v3", func(e *editor) { e.flip(e.l1, 1) }, hostCluster, asBefore},
	{"the bit of zeros in version 2", "v2", func(e *editor) { e.flip(e.l2(hostCluster), 0) }, hostCluster, unread},
}

// make returns the image before and after the change, and the place in
// question in bytes.
func (m *mutation) make(tb testing.TB) (before, after []byte, off int64) {
	tb.Helper()
	if m.image == "zstd" {
		before = zstdImage(tb)
	} else {
		before = image(tb, m.image)
	}
	e := edit(bytes.Clone(before))
	m.do(e)
	return before, e.b, m.at * e.cluster
}

// zstdImage has a compressed cluster in the place where those of
// testdata/check have one.
func zstdImage(tb testing.TB) []byte {
	tb.Helper()
	f := memfile.New()
	im, err := qcow2.Create(f, 1<<20, &qcow2.CreateOptions{ClusterSize: 4096, CompressionType: qcow2.CompressionZstd})
	if err != nil {
		tb.Fatal(err)
	}
	_, err = im.WriteCompressedAt(bytes.Repeat([]byte("zstd"), 1024), packedCluster*4096)
	if err := errors.Join(err, im.Close()); err != nil {
		tb.Fatal(err)
	}
	return f.Bytes()
}

// TestMutationTable: none of the changes costs more than 64 MiB and a second,
// and each is an error that says what is wrong, or reads as QEMU reads it.
func TestMutationTable(t *testing.T) {
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			before, after, off := m.make(t)
			tr := &mutant.Trial{TB: t, What: m.name, Mutant: after, Stats: new(mutant.Stats)}
			tr.Step("Check", func() { qcow2.Check(t.Context(), bytes.NewReader(after), nil) })
			var im *qcow2.Image
			var err error
			tr.Step("Open", func() { im, err = qcow2.Open(bytes.NewReader(after), nil) })
			if m.want == refused {
				if im != nil {
					// Its snapshots are looked at when they are needed.
					_, err = im.Snapshots()
				}
				isTyped(t, err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer im.Close()
			got, want := make([]byte, 512), make([]byte, 512)
			if _, err := open(t, before, nil).ReadAt(want, off); err != nil {
				t.Fatal(err)
			}
			if isZeros(want) {
				t.Fatal("there is nothing in that place")
			}
			if m.want == asZeros {
				clear(want)
			}
			tr.Step("ReadAt", func() { _, err = im.ReadAt(got, off) })
			if m.want == unread {
				isTyped(t, err)
			} else if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%x…, %v, want %x…", got[:8], err, want[:8])
			}
			whole := make([]byte, min(im.Size(), 1<<20))
			tr.Step("reading all", func() { im.ReadAt(whole, 0) })
		})
	}
}

func isTyped(t *testing.T, err error) {
	t.Helper()
	var format *qcow2.FormatError
	if !errors.As(err, &format) || format.Field == "" {
		t.Errorf("%v is not an error of the format", err)
	}
}

// TestMutationTableInQemu: qemu-io opens, and reads, what is opened and read
// here, and gets the same bytes.
func TestMutationTableInQemu(t *testing.T) {
	io := difftest.Tool(t, "qemu-io", "7.2")
	name := filepath.Join(difftest.FastDir(t), "x.qcow2")
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			_, after, off := m.make(t)
			writeFile(t, name, after)
			r := difftest.Try(t, io, "-r", "-f", "qcow2", name, "-c", fmt.Sprintf("read -v %d 512", off))
			theirs, ok := difftest.HexDumps(r.Stdout)[off]
			switch m.want {
			case refused, unread:
				if ok {
					t.Errorf("it is read: %s", r.Stdout[:100])
				}
			default:
				got := make([]byte, 512)
				if _, err := open(t, after, nil).ReadAt(got, off); err != nil || !ok || !bytes.Equal(got, theirs) {
					t.Errorf("here %x…, %v, by QEMU %x… %s", got[:8], err, theirs, r.Stderr)
				}
			}
		})
	}
}

// TestSelfBacking: an image that is its own backing file, with whatever name
// leads to it, has an end.
func TestSelfBacking(t *testing.T) {
	dir := difftest.FastDir(t)
	for _, name := range []string{"x.qcow2", "./x.qcow2", "sub/../x.qcow2", filepath.Join(dir, "x.qcow2")} {
		writeFile(t, filepath.Join(dir, "sub", "keep"), nil)
		b := overlay(t, name, "qcow2")
		writeFile(t, filepath.Join(dir, "x.qcow2"), b)
		tr := &mutant.Trial{TB: t, What: name, Mutant: b, Stats: new(mutant.Stats)}
		for _, write := range []bool{false, true} {
			tr.Step("OpenFile", func() {
				im, err := qcow2.OpenFile("x.qcow2", &qcow2.Options{Root: openRoot(t, dir), Write: write})
				if err == nil {
					im.Close()
					t.Errorf("%s: it was opened", name)
				}
			})
		}
	}
}
