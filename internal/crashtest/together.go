package crashtest

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/virtfmt/virtfmt/internal/memfile"
)

// Together records what happens to several files, each with a Sync of its
// own, so that the power can be cut for all of them at once.
type Together struct {
	mu      sync.Mutex
	files   []*memfile.File
	moments [][]int // after each operation, how many there were on each file
}

// NewTogether records the files from now on.
func NewTogether(files ...*memfile.File) *Together {
	t := &Together{files: files}
	for _, f := range files {
		f.Record()
	}
	t.note()
	return t
}

func (t *Together) note() {
	points := make([]int, len(t.files))
	for i, f := range t.files {
		points[i] = f.Point()
	}
	t.moments = append(t.moments, points)
}

// File returns file i as it is to be used.
func (t *Together) File(i int) *Part { return &Part{t.files[i], t} }

// A Part is one of the files of a [Together].
type Part struct {
	*memfile.File
	t *Together
}

func (p *Part) do(op func() error) error {
	p.t.mu.Lock()
	defer p.t.mu.Unlock()
	defer p.t.note()
	return op()
}

// WriteAt writes to the file.
func (p *Part) WriteAt(b []byte, off int64) (n int, err error) {
	err = p.do(func() error { n, err = p.File.WriteAt(b, off); return err })
	return n, err
}

// Truncate changes the length of the file.
func (p *Part) Truncate(size int64) error {
	return p.do(func() error { return p.File.Truncate(size) })
}

// PunchHole makes a range zeros.
func (p *Part) PunchHole(off, n int64) error {
	return p.do(func() error { return p.File.PunchHole(off, n) })
}

// Sync makes what was written to this file durable.
func (p *Part) Sync() error { return p.do(p.File.Sync) }

// PowerCuts tries states that a power cut may leave of all files.
func (t *Together) PowerCuts(tb testing.TB, o Options, judge func(files []*memfile.File) error) Stats {
	tb.Helper()
	var stats Stats
	rnd := rand.New(rand.NewPCG(o.Seed, 1))
	replays := make([]*memfile.Replay, len(t.files))
	for i, f := range t.files {
		replays[i] = memfile.NewReplay(f)
	}
	last := len(t.moments) - 1
	for at, points := range t.moments {
		for i, r := range replays {
			for r.Point() < points[i] && r.Next() {
			}
		}
		if at != last && o.Moments != 0 && rnd.Float64() >= o.Moments {
			continue
		}
		stats.Moments++
		for range max(1, o.Random) {
			stats.States++
			var states []*memfile.File
			for _, r := range replays {
				states = append(states, r.Random(rnd))
			}
			if err := judge(slices.Clone(states)); err != nil {
				tb.Fatalf("power cut after %d of %d operations on the files (seed %d): %v", at, last, o.Seed, err)
			}
		}
	}
	return stats
}
