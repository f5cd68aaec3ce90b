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

	"github.com/virtfmt/virtfmt/qcow2"
)

// A row is one line of the table, or a few that are measured together.
type row struct {
	name   string
	images []string // that it needs
	run    func(context.Context, *bench) ([]result, error)
}

func rows() []row {
	return []row{
		randomReads("half"),
		randomReads("frag"),
		{"read 4K of 100 GiB sparse", []string{"sparse.qcow2"}, sparseReads},
		{"open and close", []string{"frag.qcow2"}, openClose},
		convert("half", "cp", 1),
		convert("frag", "cp", 1),
		convert("deflate", "qemu-img", 1),
		convert("zstd", "qemu-img", 1),
		convertCompressed("deflate", 0.5, 1),
		convertCompressed("zstd", 1.1, 1.02),
		{"check 1 TiB of metadata", []string{"meta.qcow2"}, checkMetadata},
	}
}

// convert converts an image to a raw one, beside qemu-img doing it, or beside
// a copy of the raw image.
func convert(image, beside string, limit float64) row {
	r := row{name: fmt.Sprintf("convert %s to raw", image), images: []string{image + ".qcow2"}}
	if beside == "cp" {
		r.images = append(r.images, image+".raw")
	}
	r.run = func(ctx context.Context, b *bench) ([]result, error) {
		src, dst := b.path(image+".qcow2"), b.path("out.raw")
		defer os.Remove(dst)
		theirs := []string{"cp", b.path(image + ".raw"), dst}
		if beside != "cp" {
			theirs = []string{"qemu-img", "convert", "-m", "8", "-W", "-f", "qcow2", "-O", "raw", src, dst}
		}
		x, y, err := b.race(ctx, dst, []string{b.self, workerCommand, "raw", src, dst}, theirs)
		return []result{{x.String(), y.String(), ratio(x.wall, y.wall), limit, "beside " + beside}}, err
	}
	return r
}

// convertCompressed compresses text to an image, beside qemu-img.
func convertCompressed(method string, limit, sizeLimit float64) row {
	return row{"convert -c to " + method, []string{"text.raw"}, func(ctx context.Context, b *bench) ([]result, error) {
		src, ours, theirs := b.path("text.raw"), b.path("ours.qcow2"), b.path("theirs.qcow2")
		defer os.Remove(ours)
		defer os.Remove(theirs)
		option := "compression_type=zlib"
		if method == "zstd" {
			option = "compression_type=zstd"
		}
		x, y, err := b.race(ctx, "", []string{b.self, workerCommand, method, src, ours},
			[]string{"qemu-img", "convert", "-c", "-m", "8", "-W", "-f", "raw", "-O", "qcow2", "-o", option, src, theirs})
		if err != nil {
			return nil, err
		}
		m, err := os.Stat(ours)
		if err != nil {
			return nil, err
		}
		n, err := os.Stat(theirs)
		if err != nil {
			return nil, err
		}
		mb := func(fi os.FileInfo) string { return fmt.Sprintf("%.1f MB", float64(fi.Size())/1e6) }
		return []result{
			{x.String(), y.String(), ratio(x.wall, y.wall), limit, "beside qemu-img"},
			{mb(m), mb(n), float64(m.Size()) / float64(n.Size()), sizeLimit, "size"},
		}, nil
	}}
}

func checkMetadata(ctx context.Context, b *bench) ([]result, error) {
	src := b.path("meta.qcow2")
	x, y, err := b.race(ctx, "", []string{b.self, workerCommand, "check", src}, []string{"qemu-img", "check", "-q", "-f", "qcow2", src})
	return []result{{x.String(), y.String(), ratio(x.wall, y.wall), 1, "beside qemu-img"}}, err
}

func ratio[T time.Duration | float64](x, y T) float64 { return float64(x) / float64(y) }

// reads is how many random reads are one measurement.
const reads = 20000

// measureReads returns the time that a read of 4 KiB at a random place takes
// when so many goroutines read.
func measureReads(r io.ReaderAt, size int64, threads int, seed uint64) (time.Duration, error) {
	errs := make([]error, threads)
	var group sync.WaitGroup
	start := time.Now()
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
	took := time.Since(start) / reads
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return took, nil
}

// randomReads reads 4 KiB at random places of an image, beside reading the raw
// file, with one goroutine and with two.
func randomReads(image string) row {
	run := func(ctx context.Context, b *bench) ([]result, error) {
		f, err := os.Open(b.path(image + ".raw"))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		im, err := qcow2.OpenFile(b.path(image+".qcow2"), nil)
		if err != nil {
			return nil, err
		}
		defer im.Close()
		var took [4][]time.Duration // image and file with one goroutine, then with two
		var one, scaling []float64
		for i := range b.pairs + 1 {
			var t [4]time.Duration
			for j := range t {
				r := io.ReaderAt(im)
				if j%2 == 1 {
					r = f
				}
				if t[j], err = measureReads(r, im.Size(), 1+j/2, uint64(i)); err != nil {
					return nil, err
				}
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if i == 0 { // to warm up
				continue
			}
			for j := range t {
				took[j] = append(took[j], t[j])
			}
			one = append(one, ratio(t[0], t[1]))
			// How much two goroutines gain the file, by how much they gain the image.
			scaling = append(scaling, ratio(t[1], t[3])/ratio(t[0], t[2]))
		}
		allocs := allocations(func() error { _, err := measureReads(im, im.Size(), 1, 1); return err })
		return []result{
			{median(took[0]).String(), median(took[1]).String(), median(one), 1.10, fmt.Sprintf("beside the raw file; %.3f allocations", allocs/reads)},
			{median(took[2]).String(), median(took[3]).String(), median(scaling), 1 / 0.95, "two goroutines: gain of the raw file by gain of the image"},
		}, nil
	}
	return row{"read 4K of " + image, []string{image + ".qcow2", image + ".raw"}, run}
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

func sparseReads(ctx context.Context, b *bench) ([]result, error) {
	im, err := qcow2.OpenFile(b.path("sparse.qcow2"), nil)
	if err != nil {
		return nil, err
	}
	defer im.Close()
	var took []time.Duration
	for i := range b.pairs + 1 {
		t, err := measureReads(im, im.Size(), 1, uint64(i))
		if err != nil {
			return nil, err
		}
		took = append(took, t)
	}
	m := median(took[1:])
	return []result{{m.String(), "1µs", ratio(m, time.Microsecond), 1, "with the default cache"}}, ctx.Err()
}

func openClose(ctx context.Context, b *bench) ([]result, error) {
	var took []time.Duration
	for range b.pairs + 1 {
		const times = 200
		start := time.Now()
		for range times {
			im, err := qcow2.OpenFile(b.path("frag.qcow2"), nil)
			if err != nil {
				return nil, err
			}
			if err := im.Close(); err != nil {
				return nil, err
			}
		}
		took = append(took, time.Since(start)/times)
	}
	m := median(took[1:])
	return []result{{m.String(), "15µs", ratio(m, 15*time.Microsecond), 1, ""}}, ctx.Err()
}

func median[T time.Duration | float64](v []T) T {
	slices.Sort(v)
	return v[len(v)/2]
}
