package qcow2_test

import (
	"context"
	"io"
	"math/rand/v2"
	"time"

	"github.com/virtfmt/virtfmt/internal/mutant"
	"github.com/virtfmt/virtfmt/qcow2"
)

// writeMutant does a few of all operations that change an image, in any order.
// Short tests leave some out.
func writeMutant(tr *mutant.Trial, im *qcow2.Image, buf []byte, random *rand.Rand) {
	// Some walk over the whole disk, which may be of any size.
	ctx, cancel := context.WithTimeout(tr.TB.Context(), 2*time.Second)
	defer cancel()
	w := &mutantWriter{tr, ctx, im, buf, random}
	steps := []func(){w.write, w.snapshots, w.bitmaps, w.resize, w.amend, w.layers, w.passphrases}
	for _, i := range random.Perm(len(steps))[:3+random.IntN(3)] {
		steps[i]()
	}
	tr.Step("Sync", func() { im.Sync() })
}

// A mutantWriter changes a mutant that is open. Whatever cannot be done is an
// error that does not matter.
type mutantWriter struct {
	*mutant.Trial
	ctx    context.Context
	im     *qcow2.Image
	buf    []byte
	random *rand.Rand
}

// at returns a place of the disk, more often one at its start.
func (w *mutantWriter) at() int64 {
	return w.random.Int64N(max(1, min(w.im.Size()-int64(len(w.buf)), 1<<uint(w.random.IntN(40)))))
}

func (w *mutantWriter) write() {
	im, buf := w.im, w.buf
	w.Step("writing", func() {
		for range 4 {
			im.WriteAt(buf[:1+w.random.IntN(len(buf))], w.at())
		}
		im.WriteZeroesAt(w.at(), 5000)
		im.UnmapAt(w.at()&^4095, 64<<10)
		im.DiscardAt(w.at()&^4095, 64<<10)
		im.WriteCompressedAt(buf[:min(int64(len(buf)), im.ClusterSize())], w.at()&^(im.ClusterSize()-1))
		im.WriteVMStateAt(buf[:1000], 0)
		im.Sync()
	})
}

func (w *mutantWriter) snapshots() {
	w.Step("snapshots", func() {
		w.im.CreateSnapshot(w.ctx, "new", &qcow2.SnapshotOptions{VMStateSize: int64(w.random.IntN(2))})
		w.im.WriteAt(w.buf[:5000], w.at())
		if list, _ := w.im.Snapshots(); len(list) > 0 {
			w.im.ApplySnapshot(w.ctx, list[w.random.IntN(len(list))].ID)
			w.im.DeleteSnapshot(w.ctx, list[len(list)-1].ID)
		}
	})
}

func (w *mutantWriter) bitmaps() {
	im := w.im
	w.Step("AddBitmap", func() {
		im.AddBitmap("new", &qcow2.BitmapOptions{Granularity: 512 << w.random.IntN(12)})
		im.WriteAt(w.buf[:5000], w.at())
	})
	list, _ := im.Bitmaps()
	for _, b := range list[:min(len(list), 3)] {
		other := list[w.random.IntN(len(list))].Name
		w.Step("MergeBitmap", func() { im.MergeBitmap(w.ctx, b.Name, im, other) })
		w.Step("DirtyRanges", func() { dirtyOf(im, b.Name) })
		w.Step("changing bitmaps", func() {
			switch w.random.IntN(5) {
			case 0:
				im.ClearBitmap(b.Name)
			case 1:
				im.RemoveBitmap(b.Name)
			case 2:
				im.DisableBitmap(b.Name)
			case 3:
				im.EnableBitmap(b.Name)
			}
		})
	}
}

// dirtyOf iterates over a bitmap.
func dirtyOf(im *qcow2.Image, name string) {
	n := 0
	for _, err := range im.DirtyRanges(name) {
		if n++; err != nil || n > 1000 {
			return
		}
	}
}

func (w *mutantWriter) resize() {
	im, size := w.im, w.im.Size()
	w.Step("growing", func() { im.Resize(w.ctx, size+w.random.Int64N(1<<20)&^511, nil) })
	w.Step("writing to what was added", func() { im.WriteAt(w.buf[:1000], max(0, im.Size()-5000)) })
	w.Step("growing with clusters", func() {
		o := &qcow2.ResizeOptions{Preallocation: qcow2.Preallocation(w.random.IntN(3))} // not full: whatever was to be written
		im.Resize(w.ctx, im.Size()+w.random.Int64N(64<<10)&^511, o)
	})
	w.Step("shrinking", func() {
		im.Resize(w.ctx, w.random.Int64N(size+1)&^511, &qcow2.ResizeOptions{Shrink: true})
	})
}

func (w *mutantWriter) amend() {
	for _, o := range []qcow2.AmendOptions{
		{Version: 2 + w.random.IntN(2)}, {RefcountBits: 1 << w.random.IntN(7)}, {LazyRefcounts: new(bool)},
	} {
		if o.LazyRefcounts != nil {
			*o.LazyRefcounts = w.random.IntN(2) == 0
		}
		w.Step("Amend", func() { w.im.Amend(w.ctx, &o) })
	}
}

// layers has one worker at a time, because each has a buffer of some MiB.
func (w *mutantWriter) layers() {
	w.Step("Commit", func() { w.im.Commit(w.ctx, discard{w.im.Size()}, &qcow2.CommitOptions{Workers: 1}) })
	w.Step("Rebase", func() { w.im.Rebase(w.ctx, "other", "raw", &qcow2.RebaseOptions{Workers: 1}) })
	w.Step("ChangeBacking", func() { w.im.ChangeBacking([]string{"", "third"}[w.random.IntN(2)], "raw") })
}

func (w *mutantWriter) passphrases() {
	key := cheap()
	w.Step("AddPassphrase", func() {
		w.im.AddPassphrase(w.ctx, []byte("secret"), []byte("more"), w.random.IntN(9)-1, &key)
	})
	w.Step("RemovePassphrase", func() { w.im.RemovePassphrase(w.ctx, []byte([]string{"secret", "more"}[w.random.IntN(2)])) })
	w.Step("EraseSlot", func() { w.im.EraseSlot(w.random.IntN(8), w.random.IntN(2) == 0) })
}

// discard takes what is written to it to be somewhere.
type discard struct{ size int64 }

func (d discard) Size() int64 { return d.size }

func (d discard) WriteAt(p []byte, off int64) (int, error) { return len(p), nil }

func (d discard) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	return len(p), io.EOF
}
