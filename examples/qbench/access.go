package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/virtfmt/virtfmt/internal/corpus"
	"github.com/virtfmt/virtfmt/qcow2"
)

// reads is how many random reads are one measurement.
const reads = 20000

// measureReads returns what a read of 4 KiB at a random place takes when so many
// goroutines read.
func measureReads(r io.ReaderAt, size int64, threads int, seed uint64) (cost, error) {
	errs := make([]error, threads)
	c, err := timed(func() error {
		var group sync.WaitGroup
		for i := range threads {
			group.Go(func() {
				rng := rand.New(rand.NewPCG(seed, uint64(i)))
				p := make([]byte, 4096)
				for range reads / threads {
					if _, err := r.ReadAt(p, rng.Int64N(size/4096)*4096); err != nil {
						errs[i] = err
						return
					}
				}
			})
		}
		group.Wait()
		return nil
	})
	for _, e := range errs {
		if e != nil {
			return c, e
		}
	}
	return c.by(reads), err
}

// randomReads reads 4 KiB at random places of an image, beside reading the raw
// file, with one goroutine and with two.
func randomReads(image, format string) row {
	run := func(ctx context.Context, b *bench) ([]line, error) {
		f, err := os.Open(b.path(image + ".raw"))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		im, err := open(b.path(image + "." + format))
		if err != nil {
			return nil, err
		}
		defer im.Close()
		var one, two pairs
		var scaling []float64
		for i := range b.pairs + 1 {
			var c [4]cost // of the image and the file with one goroutine, then with two
			for j := range c {
				r := io.ReaderAt(im)
				if j%2 == 1 {
					r = f
				}
				if c[j], err = measureReads(r, im.Size(), 1+j/2, uint64(i)); err != nil {
					return nil, err
				}
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if i == 0 { // to warm up
				continue
			}
			one, two = append(one, pair{c[0], c[1]}), append(two, pair{c[2], c[3]})
			scaling = append(scaling, ratio(c[1].wall, c[3].wall)/ratio(c[0].wall, c[2].wall))
		}
		allocs := allocations(func() error { _, err := measureReads(im, im.Size(), 1, 1); return err })
		alone := one.byMedian(1.10, fmt.Sprintf("beside the raw file; %.3f allocations a read", allocs/reads))
		both := two.byMedian(1/0.95, "two goroutines: the gain of the raw file by that of the image")
		both.least, both.median, both.cpu = slices.Min(scaling), median(scaling), 0
		both.judged = both.median
		return []line{alone, both}, nil
	}
	return row{"read 4K of " + called(image, format), []string{image + "." + format, image + ".raw"}, run}
}

// allocations returns how often f allocates.
func allocations(f func() error) float64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if f() != nil {
		return 0
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs - before.Mallocs)
}

// limited makes a line of what has no peer but a limit.
func limited(costs []cost, limit time.Duration, note string) line {
	walls := make([]time.Duration, len(costs))
	for i, c := range costs {
		walls[i] = c.wall
	}
	m := median(walls)
	l := line{ours: short(m).String(), peer: limit.String(), least: ratio(slices.Min(walls), limit), median: ratio(m, limit), most: 1, note: note}
	l.judged = l.median
	return l
}

func sparseReads(ctx context.Context, b *bench) ([]line, error) {
	im, err := qcow2.OpenFile(b.path("sparse.qcow2"), nil)
	if err != nil {
		return nil, err
	}
	defer im.Close()
	var took []cost
	for i := range b.pairs + 1 {
		c, err := measureReads(im, im.Size(), 1, uint64(i))
		if err != nil {
			return nil, err
		}
		took = append(took, c)
	}
	return []line{limited(took[1:], time.Microsecond, "with the default cache")}, ctx.Err()
}

func openClose(ctx context.Context, b *bench) ([]line, error) {
	var took []cost
	for range b.pairs + 1 {
		const times = 200
		c, err := timed(func() error {
			for range times {
				im, err := qcow2.OpenFile(b.path("frag.qcow2"), nil)
				if err != nil {
					return err
				}
				if err := im.Close(); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		took = append(took, c.by(times))
	}
	return []line{limited(took[1:], 15*time.Microsecond, "")}, ctx.Err()
}

// sequentialWrites fills a new image, beside a new file.
func sequentialWrites(ctx context.Context, b *bench) ([]line, error) {
	data := corpus.Bytes(corpus.Noise(1), mib)
	fill := func(w io.WriterAt) error {
		for off := int64(0); off < b.size(gib); off += cluster {
			from := off % mib
			if _, err := w.WriteAt(data[from:from+cluster], off); err != nil {
				return err
			}
		}
		return nil
	}
	// write times a write of everything to a new file, which it removes again.
	write := func(name string, do func(*os.File) error) (cost, error) {
		f, err := os.Create(b.path(name))
		if err != nil {
			return cost{}, err
		}
		defer os.Remove(f.Name())
		defer f.Close()
		return timed(func() error { return do(f) })
	}
	p, err := inTurn(ctx, b.pairs, func(int) (cost, error) {
		return write("out.qcow2", func(f *os.File) error {
			im, err := qcow2.Create(f, b.size(gib), nil)
			if err != nil {
				return err
			}
			if err := fill(im); err != nil {
				return err
			}
			return im.Close()
		})
	}, func(int) (cost, error) {
		return write("out.raw", func(f *os.File) error { return fill(f) })
	})
	if err != nil {
		return nil, err
	}
	return []line{p.byMedian(1.2, "beside pwrite; Create and Close are counted")}, nil
}
