package qcow2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// resize gives the disk another size, of which what is added reads as zeros.
func (d *disk) resize(snapshots bool) string {
	d.t.Helper()
	// Around the size it has, and now and then far off.
	size := max(512, len(d.want)+(d.rng.IntN(401)-200)*512)
	if d.rng.IntN(3) == 0 {
		size = (1 + d.rng.IntN(4000)) * 512
	}
	if d.rng.IntN(2) == 0 {
		size = (size/d.sizes + 1) * d.sizes
	}
	o := &qcow2.ResizeOptions{Shrink: true}
	if size > len(d.want) && d.rng.IntN(2) == 0 {
		o.Preallocation = qcow2.Preallocation(d.rng.IntN(4))
	}
	name := fmt.Sprintf("resize %d from %d, %v", size, len(d.want), o.Preallocation)
	err := d.im.Resize(d.t.Context(), int64(size), o)
	switch {
	case d.v2 && snapshots && size != len(d.want):
		if !errors.Is(err, errors.ErrUnsupported) {
			d.t.Fatalf("%s of version 2 with snapshots: %v", name, err)
		}
		return name
	case err != nil:
		d.t.Fatalf("%s: %v", name, err)
	}
	if d.im.Size() != int64(size) {
		d.t.Fatalf("%s: %d", name, d.im.Size())
	}
	if size < len(d.want) {
		d.want = bytes.Clone(d.want[:size])
	} else {
		d.want = append(d.want, make([]byte, size-len(d.want))...)
	}
	return name
}

// TestResizeModel resizes among other operations.
func TestResizeModel(t *testing.T) {
	seed := difftest.Seed(t, 1)
	for name, make := range writeFlavours() {
		t.Run(name, func(t *testing.T) {
			d := make(t, seed)
			var log []string
			defer func() {
				if t.Failed() {
					t.Logf("last steps: %q", log[max(0, len(log)-12):])
				}
			}()
			for i := range difftest.Scale(t, 300) {
				if d.rng.IntN(6) == 0 {
					log = append(log, d.resize(false))
				} else {
					log = append(log, d.step())
				}
				if i%20 == 19 {
					d.verify()
					d.reopen()
				}
			}
			d.verify()
			checkExtents(t, d.im, d.want)
			d.reopen()
			if err := d.im.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestResizeRefused(t *testing.T) {
	d := newDisk(t, 1<<20, 0, qcow2.CreateOptions{ClusterSize: 512}, 1)
	before := d.f.Bytes()
	ctx := t.Context()
	done, cancel := context.WithCancel(ctx)
	cancel()
	for _, tc := range []struct {
		ctx  context.Context
		size int64
		o    *qcow2.ResizeOptions
		err  error // nil: any
	}{
		{ctx, 1<<20 - 512, nil, qcow2.ErrShrink},
		{ctx, -512, nil, qcow2.ErrOutOfRange},
		{ctx, 1<<20 + 1, nil, qcow2.ErrOutOfRange},
		{ctx, 128<<30 + 512, nil, qcow2.ErrLimit},
		{ctx, math.MaxInt64 - 511, nil, qcow2.ErrLimit},
		{ctx, 1<<20 - 512, &qcow2.ResizeOptions{Shrink: true, Preallocation: qcow2.PreallocateFull}, nil},
		{ctx, 1 << 20, &qcow2.ResizeOptions{Preallocation: qcow2.PreallocateFull}, nil},
		{ctx, 2 << 20, &qcow2.ResizeOptions{Preallocation: 9}, errors.ErrUnsupported},
		{done, 2 << 20, &qcow2.ResizeOptions{Preallocation: qcow2.PreallocateMetadata}, context.Canceled},
		{done, 2 << 20, nil, context.Canceled},
		{done, 1 << 19, &qcow2.ResizeOptions{Shrink: true}, context.Canceled},
	} {
		err := d.im.Resize(tc.ctx, tc.size, tc.o)
		if err == nil || tc.err != nil && !errors.Is(err, tc.err) {
			t.Errorf("%d, %+v: %v", tc.size, tc.o, err)
		}
		if d.im.Size() != 1<<20 {
			t.Errorf("%d, %+v: the size is %d", tc.size, tc.o, d.im.Size())
		}
		if tc.ctx == ctx && !bytes.Equal(before, d.f.Bytes()) {
			t.Errorf("%d, %+v: the file changed", tc.size, tc.o)
		}
	}
	d.reopen()
	ro := open(t, d.f.Bytes(), nil)
	if err := ro.Resize(ctx, 2<<20, nil); !errors.Is(err, qcow2.ErrReadOnly) {
		t.Error(err)
	}
}

// TestResizeLimits: the largest disks that there are.
func TestResizeLimits(t *testing.T) {
	limits := []struct{ cluster, size int64 }{
		{65536, 2 << 50}, {512, 128 << 30}, {4096, 8 << 40}, {2 << 20, 2 << 60},
	}
	for _, tc := range limits[:min(difftest.Scale(t, len(limits)), len(limits))] {
		f := memfile.New()
		im, err := qcow2.Create(f, 1<<20, &qcow2.CreateOptions{ClusterSize: tc.cluster})
		if err != nil {
			t.Fatal(err)
		}
		if err := im.Resize(t.Context(), tc.size+512, nil); !errors.Is(err, qcow2.ErrLimit) {
			t.Errorf("clusters of %d: %v", tc.cluster, err)
		}
		if err := im.Resize(t.Context(), tc.size, nil); err != nil {
			t.Errorf("clusters of %d: %v", tc.cluster, err)
		}
		if _, err := im.WriteAt([]byte("the end"), tc.size-7); err != nil {
			t.Error(err)
		}
		// VM state has no place any more.
		if _, err := im.WriteVMStateAt([]byte("x"), 0); !errors.Is(err, qcow2.ErrLimit) {
			t.Error(err)
		}
		if _, err := im.CreateSnapshot(t.Context(), "s", nil); err != nil {
			t.Error(err)
		}
		if err := im.Resize(t.Context(), 0, &qcow2.ResizeOptions{Shrink: true}); err != nil {
			t.Errorf("clusters of %d: %v", tc.cluster, err)
		}
		v, err := im.OpenSnapshot("s")
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 7)
		if _, err := v.ReadAt(got, tc.size-7); err != nil || string(got) != "the end" {
			t.Errorf("%q, %v", got, err)
		}
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		checkClean(t, f)
	}
}
