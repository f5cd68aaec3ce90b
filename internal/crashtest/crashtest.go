// Package crashtest tries power cuts and failing storage on disk images of
// any format.
//
// A test is a sequence of steps on an image in a [memfile.File]. [PowerCuts]
// runs it once, then opens the image in states that a power cut may leave at
// each moment of it. [Faults] runs it again and again, each time with another
// operation on the file failing. Both hold the image to the same promise: it
// opens, it checks, and each 512-byte sector of the disk reads as it did at
// the last Sync that returned, or as something that was written to it since.
package crashtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/virtfmt/virtfmt/internal/memfile"
)

// sector is the unit in which a write may be seen in part, in bytes.
const sector = memfile.SectorSize

// An Image is a disk image that is open for writing.
type Image interface {
	io.ReaderAt
	Size() int64
	Close() error
}

// A Format says how a test opens and judges images of type I.
type Format[I Image] struct {
	// Open opens the image for writing. It may repair what a power cut is
	// allowed to leave.
	Open func(*memfile.File) (I, error)
	// Before, where set, judges the file before it is opened for writing:
	// what may be found then is what a power cut may leave.
	Before func(*memfile.File) error
	// After judges the open image: nothing but leaks may be found.
	After func(I) error
}

// A Step is one operation of a sequence.
type Step[I Image] struct {
	Name string
	Do   func(I) error
	// Durable says that all that was done before the step, and the step
	// itself, is durable when it returns nil: Sync and its like.
	Durable bool
	// Reopen says that Do closes the image. A new one is opened after it.
	Reopen bool
}

// Options bounds the work of [PowerCuts] and [Faults].
type Options struct {
	Seed uint64
	// Exhaustive is the number of unsynced sectors up to which every state of
	// a moment is tried; above it Random states are.
	Exhaustive int
	// Random is how many states of a moment are tried otherwise.
	Random int
	// Moments is the share of moments that are tried, 0 for all.
	Moments float64
	// Sample, where set, is shown some of the states, about SampleShare of
	// them, for a judgement from outside.
	Sample      func(name string, f *memfile.File)
	SampleShare float64
}

// Stats counts what was tried.
type Stats struct {
	Moments int // at which the power was cut
	States  int // of the file that were opened
	Faults  int // operations that were made to fail
}

// Add adds what was tried in o.
func (s *Stats) Add(o Stats) {
	s.Moments += o.Moments
	s.States += o.States
	s.Faults += o.Faults
}

// String gives the counts as a sentence.
func (s Stats) String() string {
	return fmt.Sprintf("%d power cuts, %d states of the file, %d faults", s.Moments, s.States, s.Faults)
}

// a mark is where a step began and ended in the file's journal, and what the
// disk held after it.
type mark struct {
	name       string
	begin, end int
	content    []byte
	durable    bool
}

// PowerCuts runs the steps on a copy of start and tries the states that a
// power cut may leave.
func PowerCuts[I Image](tb testing.TB, fm Format[I], start *memfile.File, steps []Step[I], o Options) Stats {
	tb.Helper()
	f := start.Clone()
	f.Record()
	marks, err := run(fm, f, steps)
	if err != nil {
		tb.Fatal(err)
	}
	var stats Stats
	rnd := rand.New(rand.NewPCG(o.Seed, 1))
	r := memfile.NewReplay(f)
	for {
		if o.Moments == 0 || rnd.Float64() < o.Moments {
			stats.Moments++
			try := func(s *memfile.File) {
				stats.States++
				name := fmt.Sprintf("power cut after %d of %d operations on the file, during %s (seed %d)",
					r.Point(), f.Point(), during(marks, r.Point()), o.Seed)
				if o.Sample != nil && rnd.Float64() < o.SampleShare {
					o.Sample(name, s.Clone())
				}
				if err := judge(fm, s, allowed(marks, r.Point())); err != nil {
					keep(tb, s)
					tb.Fatalf("%s: %v", name, err)
				}
			}
			if r.Unsynced() <= o.Exhaustive {
				for s := range r.All() {
					try(s)
				}
			} else {
				for range max(1, o.Random) {
					try(r.Random(rnd))
				}
			}
		}
		if !r.Next() {
			return stats
		}
	}
}

// run runs the steps and notes what the disk holds after each.
func run[I Image](fm Format[I], f *memfile.File, steps []Step[I]) ([]mark, error) {
	img, err := fm.Open(f)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	first, err := content(img)
	if err != nil {
		return nil, err
	}
	marks := []mark{{name: "open", end: f.Point(), content: first, durable: true}}
	for _, s := range steps {
		m := mark{name: s.Name, begin: f.Point(), durable: s.Durable}
		if err := s.Do(img); err != nil {
			return nil, fmt.Errorf("%s: %w", s.Name, err)
		}
		m.end = f.Point()
		if s.Reopen {
			if img, err = fm.Open(f); err != nil {
				return nil, fmt.Errorf("open after %s: %w", s.Name, err)
			}
		}
		if m.content, err = content(img); err != nil {
			return nil, fmt.Errorf("after %s: %w", s.Name, err)
		}
		marks = append(marks, m)
	}
	return marks, img.Close()
}

// during names the step that was running at a point.
func during(marks []mark, point int) string {
	for i, m := range marks {
		if point <= m.end {
			return fmt.Sprintf("step %d, %s", i, m.name)
		}
	}
	return "close"
}

// allowed returns the contents that sectors may have at a point: at the last
// durable step that had returned, and after every step begun since.
func allowed(marks []mark, point int) [][]byte {
	base := 0
	for i, m := range marks {
		if m.durable && m.end <= point {
			base = i
		}
	}
	var out [][]byte
	for _, m := range marks[base:] {
		if m.begin > point {
			break
		}
		out = append(out, m.content)
	}
	return out
}

// judge opens the image and holds it to the promise.
func judge[I Image](fm Format[I], f *memfile.File, want [][]byte) error {
	if fm.Before != nil {
		if err := fm.Before(f); err != nil {
			return fmt.Errorf("before opening: %w", err)
		}
	}
	img, err := fm.Open(f)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	got, err := content(img)
	if err != nil {
		return err
	}
	if err := explain(got, want); err != nil {
		return err
	}
	if err := fm.After(img); err != nil {
		return fmt.Errorf("after opening: %w", err)
	}
	return img.Close()
}

// explain reports the first sector of got that is in none of want.
func explain(got []byte, want [][]byte) error {
	sizes := map[int]bool{}
	for _, w := range want {
		sizes[len(w)] = true
	}
	if !sizes[len(got)] {
		return fmt.Errorf("the disk has %d bytes", len(got))
	}
next:
	for off := 0; off < len(got); off += sector {
		g := got[off:min(off+sector, len(got))]
		for _, w := range want {
			if off+len(g) <= len(w) && bytes.Equal(g, w[off:off+len(g)]) {
				continue next
			}
		}
		return fmt.Errorf("the sector at %#x holds %x…, which it never held since the last Sync (then %x…)",
			off, g[:min(8, len(g))], want[0][min(off, len(want[0])):min(off+8, len(want[0]))])
	}
	return nil
}

func content(img Image) ([]byte, error) {
	b := make([]byte, img.Size())
	if n, err := img.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("read at %#x: %w", n, errors.Join(err))
	}
	return b, nil
}

// keep stores the state that failed among the test's artifacts.
func keep(tb testing.TB, f *memfile.File) {
	tb.Helper()
	if err := writeArtifact(tb, f.Bytes()); err != nil {
		tb.Log(err)
	}
}
