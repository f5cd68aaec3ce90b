package qcow2_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// header returns the first bytes of a version 2 image without anything.
func header(clusterBits uint32, size, l1Offset uint64, l1Size uint32, refTable uint64, refClusters uint32) []byte {
	be := binary.BigEndian
	b := append([]byte("QFI\xfb"), 0, 0, 0, 2)
	b = append(b, make([]byte, 12)...)
	b = be.AppendUint32(b, clusterBits)
	b = be.AppendUint64(b, size)
	b = append(b, 0, 0, 0, 0)
	b = be.AppendUint32(b, l1Size)
	b = be.AppendUint64(b, l1Offset)
	b = be.AppendUint64(b, refTable)
	b = be.AppendUint32(b, refClusters)
	return append(b, make([]byte, 12)...)
}

func fill(b []byte, word func(i int) uint64) {
	for i := 0; i+8 <= len(b); i += 8 {
		binary.BigEndian.PutUint64(b[i:], word(i/8))
	}
}

const mebi = 1 << 20

// hostileImages are files of 1 MiB that ask for as much work as they can.
var hostileImages = map[string]func() []byte{
	"every L1 entry points to one L2 table": func() []byte {
		b := make([]byte, mebi)
		copy(b, header(16, 1<<40, 1<<16, 1<<17, 0, 0))
		fill(b[1<<16:1<<17], func(i int) uint64 { return 1<<63 | 2<<16 })
		fill(b[2<<16:3<<16], func(i int) uint64 { return 1<<63 | 3<<16 })
		fill(b[3<<16:], func(i int) uint64 { return 1<<63 | 2<<16 })
		return b
	},
	"snapshots that share an L1 table at many lengths": func() []byte {
		b := make([]byte, mebi)
		copy(b, header(9, 512, 512, 1, 0, 0))
		binary.BigEndian.PutUint32(b[60:], 13000)
		binary.BigEndian.PutUint64(b[64:], mebi/2)
		fill(b[512:mebi/2], func(i int) uint64 { return 512 * uint64(i%2000) })
		for i := range 13000 {
			e := b[mebi/2+40*i:]
			binary.BigEndian.PutUint64(e, 512)
			binary.BigEndian.PutUint32(e[8:], uint32(65500-i))
		}
		return b
	},
	"overlapping L2 tables of 2 MiB": func() []byte {
		b := make([]byte, mebi)
		copy(b, header(21, 1<<50, 0, 1<<17, 0, 0))
		fill(b[512:], func(i int) uint64 { return 512 * uint64(i%2048) })
		return b
	},
	"refcount blocks that overlap everything": func() []byte {
		b := make([]byte, mebi)
		copy(b, header(9, 1<<29, 512, 1<<14, 512, 1<<14))
		fill(b[512:], func(i int) uint64 { return 512 * uint64(i%2048) })
		return b
	},
	"compressed clusters over everything": func() []byte {
		b := make([]byte, mebi)
		copy(b, header(9, 1<<30, 512, 1<<17, 0, 0))
		fill(b[512:], func(i int) uint64 { return 3<<61 | 512*uint64(i%2048) })
		return b
	},
}

func TestHostileImagesCostLittle(t *testing.T) {
	names := slices.Sorted(maps.Keys(hostileImages))
	for _, name := range names[:min(len(names), difftest.Scale(t, 100))] {
		t.Run(name, func(t *testing.T) {
			b := hostileImages[name]()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			r, err := qcow2.Check(t.Context(), bytes.NewReader(b), nil)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if err != nil {
				t.Fatal(err)
			}
			if r.Corruptions == 0 {
				t.Error("nothing is wrong with it")
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
				t.Errorf("%d MiB of memory", n>>20)
			}
			// One second is the promise; a busy machine gets slack.
			t.Log(took)
			if took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// sparse is a huge file of which a few pieces are not zeros.
type sparse struct {
	size   int64
	pieces map[int64][]byte // at multiples of 64 KiB, at most that long
}

func (s sparse) Size() int64 { return s.size }

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for at, b := range s.pieces {
		if at < off+int64(len(p)) && off < at+int64(len(b)) {
			copy(p[max(at-off, 0):], b[max(off-at, 0):])
		}
	}
	if off+int64(len(p)) > s.size {
		return int(max(s.size-off, 0)), io.EOF
	}
	return len(p), nil
}

func TestSparseFileOfExabytes(t *testing.T) {
	const size = 1 << 62
	s := sparse{size, map[int64][]byte{
		0:       header(16, 1<<35, 1<<16, 64, 100<<16, 1<<7),
		1 << 16: make([]byte, 512),
	}}
	for i := range 64 {
		binary.BigEndian.PutUint64(s.pieces[1<<16][8*i:], uint64(i+3)<<16)
		l2 := make([]byte, 1<<16)
		fill(l2, func(j int) uint64 { return (uint64(i)*8192 + uint64(j)) << 36 })
		s.pieces[int64(i+3)<<16] = l2
	}
	r, err := qcow2.Check(t.Context(), s, &qcow2.CheckOptions{MaxMemory: 16 << 20})
	if !errors.Is(err, qcow2.ErrLimit) {
		t.Errorf("%v, %v; want an error that is ErrLimit", r, err)
	}
}

func TestCheckLimits(t *testing.T) {
	b := damageNamed(t, "L2 table between clusters")
	for _, c := range []struct{ max, want int }{{0, 133}, {-1, 0}, {5, 5}} {
		r, err := qcow2.Check(t.Context(), bytes.NewReader(b), &qcow2.CheckOptions{MaxFindings: c.max})
		if err != nil || len(r.Findings) != c.want || r.Corruptions != 129 {
			t.Errorf("MaxFindings %d: %d findings of %d, %v", c.max, len(r.Findings), r.Corruptions, err)
		}
		im, err := qcow2.Open(bytes.NewReader(b), nil)
		if err != nil {
			t.Fatal(err)
		}
		if r, err = im.Check(t.Context(), &qcow2.CheckOptions{MaxFindings: c.max}); err != nil || len(r.Findings) != c.want {
			t.Errorf("MaxFindings %d: an open image has %d findings, %v", c.max, len(r.Findings), err)
		}
	}
}

func damageNamed(tb testing.TB, name string) []byte {
	tb.Helper()
	for _, d := range damages {
		if d.name == name {
			return d.make(tb)
		}
	}
	tb.Fatalf("no damage %q", name)
	return nil
}

func TestCheckProgress(t *testing.T) {
	var last int64
	_, err := qcow2.Check(t.Context(), bytes.NewReader(image(t, "v3")), &qcow2.CheckOptions{
		Progress: func(done, total int64) {
			if done < last || done > total {
				t.Errorf("progress %d of %d after %d", done, total, last)
			}
			last = done
		},
	})
	if err != nil || last == 0 {
		t.Errorf("progress ended at %d, %v", last, err)
	}
}

func TestCheckStops(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := qcow2.Check(ctx, bytes.NewReader(image(t, "v3")), nil); !errors.Is(err, why) {
		t.Errorf("cancelled before: %v", err)
	}
	ctx, cancel = context.WithCancelCause(t.Context())
	_, err := qcow2.Check(ctx, bytes.NewReader(image(t, "v3")), &qcow2.CheckOptions{
		Progress: func(int64, int64) { cancel(why) },
	})
	if !errors.Is(err, why) {
		t.Errorf("cancelled meanwhile: %v", err)
	}
}

type failingAt struct {
	*bytes.Reader
	off int64
	err error
}

func (f failingAt) ReadAt(p []byte, off int64) (int, error) {
	if off <= f.off && f.off < off+int64(len(p)) {
		return 0, f.err
	}
	return f.Reader.ReadAt(p, off)
}

func TestCheckReadErrors(t *testing.T) {
	v3, bitmap := edit(image(t, "v3")), edit(image(t, "bitmap"))
	boom := errors.New("boom")
	for name, at := range map[string]struct {
		e   *editor
		off int64
	}{
		"header": {v3, 0}, "L1 table": {v3, v3.l1}, "L2 table": {v3, v3.l2(0)}, "refcount table": {v3, v3.refTable},
		"refcount block": {v3, v3.refcountAt(0)}, "snapshot table": {v3, v3.snapshots}, "bitmap table": {bitmap, bitmap.bitmapTable()},
	} {
		b, off := at.e.b, at.off
		_, err := qcow2.Check(t.Context(), failingAt{bytes.NewReader(b), off, boom}, nil)
		if !errors.Is(err, boom) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	if _, err := qcow2.Check(t.Context(), bytes.NewReader([]byte("no image")), nil); !errors.Is(err, qcow2.ErrFormat) {
		t.Errorf("not an image: %v", err)
	}
	b := image(t, "v3")
	e := edit(b)
	e.put32(e.snapshots+36, 5000)
	if _, err := qcow2.Check(t.Context(), bytes.NewReader(b), nil); !errors.Is(err, qcow2.ErrLimit) {
		t.Errorf("too much extra data of a snapshot: %v", err)
	}
	if _, err := qcow2.Check(t.Context(), struct{ io.ReaderAt }{bytes.NewReader(b)}, nil); err == nil {
		t.Error("a reader without a length was taken")
	}
	b = image(t, "v3")
	if r, err := qcow2.Check(t.Context(), struct{ io.ReaderAt }{bytes.NewReader(b)}, &qcow2.CheckOptions{Size: int64(len(b))}); err != nil || !r.Clean() {
		t.Errorf("a reader with its length in the options: %v, %v", r, err)
	}
}

func TestImageCheck(t *testing.T) {
	im := open(t, damageNamed(t, "leak"), nil)
	if r, err := im.Check(t.Context(), nil); err != nil || r.Leaks != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	im.Close()
	if _, err := im.Check(t.Context(), nil); !errors.Is(err, qcow2.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func FuzzCheck(f *testing.F) {
	for _, name := range []string{"v3", "v2", "extended", "bitmap"} {
		f.Add(image(f, name)[:8<<10])
	}
	f.Add(image(f, "v2"))
	for _, make := range hostileImages {
		f.Add(make()[:64<<10])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		start := time.Now()
		r, err := qcow2.Check(t.Context(), bytes.NewReader(b), nil)
		if err != nil {
			return
		}
		if n := int64(len(r.Findings)); n < min(1000, r.Leaks) {
			t.Errorf("%d findings, %d leaks", n, r.Leaks)
		}
		for _, f := range r.Findings {
			_ = f.String()
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	// 64 GiB of data clusters in order, as preallocation makes them.
	const clusters, perTable = 1 << 20, 8192
	s := sparse{(clusters + 1024) << 16, map[int64][]byte{
		0: header(16, clusters<<16, 1<<16, clusters/perTable, 2<<16, 1),
	}}
	l1, table := make([]byte, 1<<16), make([]byte, 1<<16)
	host := uint64(256)
	for i := range clusters / perTable {
		l2 := make([]byte, 1<<16)
		fill(l2, func(j int) uint64 { return 1<<63 | (host+1+uint64(j))<<16 })
		binary.BigEndian.PutUint64(l1[8*i:], 1<<63|host<<16)
		s.pieces[int64(host)<<16] = l2
		host += perTable + 1
	}
	s.pieces[1<<16] = l1
	for i := uint64(0); i <= host>>15; i++ {
		binary.BigEndian.PutUint64(table[8*i:], (3+i)<<16)
		block := make([]byte, 1<<16)
		for j := range uint64(1 << 15) {
			if c := i<<15 + j; c < host && (c >= 256 || c < 3+host>>15+1) {
				block[2*j+1] = 1
			}
		}
		s.pieces[int64(3+i)<<16] = block
	}
	s.pieces[2<<16] = table
	r := &flat{s: s}
	b.SetBytes(clusters)
	for b.Loop() {
		res, err := qcow2.Check(b.Context(), r, nil)
		if err != nil || !res.Clean() {
			b.Fatal(res, err)
		}
	}
}

// flat reads pieces by their exact place, for speed.
type flat struct{ s sparse }

func (f *flat) Size() int64 { return f.s.size }
func (f *flat) ReadAt(p []byte, off int64) (int, error) {
	b := f.s.pieces[off&^0xffff]
	n := copy(p, b[min(int(off&0xffff), len(b)):])
	clear(p[n:])
	return len(p), nil
}

func TestHostileImagesRepaired(t *testing.T) {
	names := slices.Sorted(maps.Keys(hostileImages))
	for _, name := range names[:max(1, min(len(names), difftest.Scale(t, 20)))] {
		f := memfile.FromBytes(hostileImages[name]())
		start := time.Now()
		_, err := qcow2.Repair(t.Context(), f, qcow2.RepairAll, nil)
		took := time.Since(start)
		t.Log(name, took, f.Size())
		if err != nil || took > 20*time.Second || f.Size() > 2<<30 {
			t.Errorf("%s: it took %v, %v; the file has %d bytes now", name, took, err, f.Size())
		}
	}
}
