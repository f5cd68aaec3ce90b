package block_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/corpus"
	"github.com/virtfmt/virtfmt/internal/difftest"
)

func TestCompare(t *testing.T) {
	r := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	for range difftest.Scale(t, 60) {
		a := newModel(r, 1+r.IntN(3<<20))
		b := newModel(r, len(a.data)+r.IntN(2)*r.IntN(1<<20))
		copy(b.data, a.data)
		clear(b.data[len(a.data):])
		// Zero in b only where that is true of a.
		for i, e := range b.list {
			if e.IsZero() && !block.IsZero(b.data[e.Start:e.End()]) {
				b.list[i].Kind = block.Data
			}
		}
		var want *block.Difference
		for range r.IntN(4) {
			at := r.Int64N(b.Size())
			for _, e := range b.list {
				if e.Start <= at && at < e.End() && !e.IsZero() {
					b.data[at] ^= 1 << r.IntN(8)
					if want == nil || at < want.Offset {
						want = &block.Difference{Kind: block.DifferentBytes, Offset: at}
					}
				}
			}
		}
		if want != nil && want.Offset < a.Size() && a.data[want.Offset] == b.data[want.Offset] {
			continue // the same bit twice
		}
		var x, y block.Disk = a, b
		if r.IntN(2) == 0 {
			x, y = b, a
		}
		got, err := block.Compare(t.Context(), x, y, &block.CompareOptions{Workers: r.IntN(5)})
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatalf("%v (-want +got):\n%s", err, diff)
		}
	}
}

func TestCompareStrict(t *testing.T) {
	disk := func(n int, list ...block.Extent) *model {
		m := &model{data: make([]byte, n), list: list}
		m.Reader.Reset(m.data)
		return m
	}
	e := func(start, n int64, k block.Kind) block.Extent {
		return block.Extent{Start: start, Length: n, Kind: k, HostOffset: block.NoOffset}
	}
	a := disk(1000, e(0, 500, block.Data), e(500, 500, block.Zero))
	for _, c := range []struct {
		name string
		b    *model
		want *block.Difference
	}{
		{"the same", a, nil},
		{"stored otherwise", disk(1000, e(0, 100, block.Compressed), e(100, 400, block.Data), e(500, 500, block.Zero)), nil},
		{"unallocated", disk(1000, e(0, 500, block.Data), e(500, 100, block.Zero), e(600, 400, block.Unallocated)),
			&block.Difference{Kind: block.DifferentAllocation, Offset: 600}},
		{"stored zeros", disk(1000, e(0, 1000, block.Data)), &block.Difference{Kind: block.DifferentAllocation, Offset: 500}},
		{"longer", disk(1001, e(0, 500, block.Data), e(500, 501, block.Zero)), &block.Difference{Kind: block.DifferentSize, Offset: 1000}},
	} {
		got, err := block.Compare(t.Context(), a, c.b, &block.CompareOptions{Strict: true})
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", c.name, err, diff)
		}
		if got, err := block.Compare(t.Context(), a, c.b, nil); got != nil || err != nil {
			t.Errorf("%s, not strictly: %v, %v", c.name, got, err)
		}
	}
}

func TestCompareFaults(t *testing.T) {
	fresh := func() *model { return newModel(rand.New(rand.NewPCG(5, 0)), 4<<20) }
	a, b := fresh(), fresh()
	for _, e := range b.list {
		if e.Start > 1<<20 && !e.IsZero() {
			b.failAt = e.Start
			break
		}
	}
	var e *block.CopyError
	if _, err := block.Compare(t.Context(), a, b, nil); !errors.As(err, &e) || e.Op != "read" || !errors.Is(err, errFault) {
		t.Errorf("a fault of reading: %v", err)
	}
	b = fresh()
	b.mapFail = b.list[5].Start
	if _, err := block.Compare(t.Context(), a, b, nil); !errors.As(err, &e) || e.Op != "map" || e.Offset != b.mapFail {
		t.Errorf("a fault of mapping: %v", err)
	}
	// What comes first counts, however many read at a time.
	for range 50 {
		b = fresh()
		b.failAt, b.data[0], b.list[0].Kind = 600<<10, b.data[0]^1, block.Data
		if d, err := block.Compare(t.Context(), a, b, nil); err != nil || d == nil || d.Offset != 0 {
			t.Fatalf("a difference before a fault: %v, %v", d, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := block.Compare(ctx, a, fresh(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	done, total := int64(0), int64(0)
	if _, err := block.Compare(t.Context(), a, fresh(), &block.CompareOptions{Progress: func(d, n int64) { done, total = d, n }}); err != nil || done != total {
		t.Errorf("progress ends at %d of %d, %v", done, total, err)
	}
}

// TestCompareAsQEMU compares files as qemu-img does, which tells differences
// by the sector.
func TestCompareAsQEMU(t *testing.T) {
	qemu := difftest.Tool(t, "qemu-img", "7.2")
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(difftest.Seed(t, 3), 0))
	for i := range difftest.Scale(t, 30) {
		data := make([]byte, 512*(1+r.IntN(2000)))
		copy(data[r.IntN(len(data)):], corpus.Bytes(corpus.Noise(1), r.IntN(200000)))
		other := bytes.Clone(data)
		if r.IntN(2) == 0 {
			other = append(other, make([]byte, 512*r.IntN(300))...)
		}
		if r.IntN(3) > 0 {
			other[r.IntN(len(other))]++
		}
		var files [2]*os.File
		for j, p := range [][]byte{data, other} {
			name := filepath.Join(dir, fmt.Sprintf("%d-%d.raw", i, j))
			if err := os.WriteFile(name, p, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			files[j] = f
		}
		res := difftest.Try(t, qemu, "compare", "-f", "raw", "-F", "raw", files[0].Name(), files[1].Name())
		diff, err := block.Compare(t.Context(), block.Raw(files[0], int64(len(data))), block.Raw(files[1], int64(len(other))), nil)
		if err != nil {
			t.Fatal(err)
		}
		want := "Images are identical."
		if diff != nil {
			want = fmt.Sprintf("Content mismatch at offset %d!", diff.Offset&^511)
		}
		if !strings.Contains(string(res.Stdout), want) || (res.Code == 0) != (diff == nil) {
			t.Errorf("%v, qemu-img exits %d and says %q", diff, res.Code, res.Stdout)
		}
	}
}
