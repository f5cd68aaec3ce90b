package qcow2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/virtfmt/virtfmt/internal/crashtest"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// A dataStep changes whole sectors of an image with a data file, and knows what
// it fills them with.
type dataStep struct {
	name     string
	first, n int  // sectors
	fill     byte // of sector i: plus i
	durable  bool
	do       func(im *qcow2.Image) error
}

// dataSteps returns n operations on a disk of that many sectors. What changes
// the size leaves half of them.
func dataSteps(rng *rand.Rand, sectors, n int) []dataStep {
	var steps []dataStep
	for range n {
		s := dataStep{first: rng.IntN(sectors / 2)}
		s.n = min(1+rng.IntN(40), sectors/2-s.first)
		off, length := int64(s.first)*512, int64(s.n)*512
		switch rng.IntN(8) {
		case 0:
			s.name, s.do = "zero", func(im *qcow2.Image) error { return im.WriteZeroesAt(off, length) }
		case 1:
			s.name, s.do = "unmap", func(im *qcow2.Image) error { return im.UnmapAt(off, length) }
		case 2:
			s = dataStep{name: "sync", durable: true, do: (*qcow2.Image).Sync}
		case 3:
			to := int64(sectors/2+rng.IntN(sectors/2)) * 512
			s = dataStep{name: fmt.Sprint("resize to ", to), durable: true, do: func(im *qcow2.Image) error {
				return im.Resize(context.Background(), to, &qcow2.ResizeOptions{Shrink: true})
			}}
		default:
			s.name, s.fill = "write", byte(1+rng.IntN(255))
			p := bytes.Repeat([]byte{s.fill}, int(length))
			s.do = func(im *qcow2.Image) error { _, err := im.WriteAt(p, off); return err }
		}
		steps = append(steps, s)
	}
	return steps
}

// A dataRun is a run of steps over an image and its data file of which one
// operation fails.
type dataRun struct {
	f, data *memfile.File
	failed  memfile.Op // what failed, if hit
	hit     bool
	// What the sectors may hold now, and what they may after a power cut.
	now, after [][]byte
}

// run does the steps. Operation n, counted over both files, fails.
func (r *dataRun) run(steps []dataStep, n int) error {
	count := 0
	fault := func(op memfile.Op) error {
		if count++; count-1 != n {
			return nil
		}
		r.hit, r.failed = true, op
		switch {
		case n%3 == 1 && op.Kind != memfile.Read:
			return crashtest.ErrNoSpace
		case n%3 == 2 && op.Kind == memfile.Write:
			return &memfile.ShortWrite{N: int(op.N/2) &^ 511, Err: crashtest.ErrNoSpace}
		}
		return crashtest.ErrIO
	}
	r.f.Fault, r.data.Fault = fault, fault
	defer func() { r.f.Fault, r.data.Fault = nil, nil }()
	im, err := qcow2.OpenRW(r.f, dataFileOptions(r.data))
	if err != nil {
		return r.injected("open", err)
	}
	for _, s := range steps {
		err := s.do(im)
		if err := r.injected(s.name, err); err != nil {
			return err
		}
		r.note(s, err)
	}
	err = im.Close()
	if r.hit && r.failed.Kind == memfile.Sync && err == nil {
		return errors.New("Close forgets the Sync that failed")
	}
	r.note(dataStep{durable: true}, err)
	return r.injected("close", err)
}

// injected returns what is wrong about an error, or that there is none: it is
// the fault, or follows from it.
func (r *dataRun) injected(what string, err error) error {
	switch {
	case err == nil, errors.Is(err, crashtest.ErrIO), errors.Is(err, crashtest.ErrNoSpace):
		return nil
	case r.hit && errors.Is(err, qcow2.ErrReadOnly):
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// note takes down what a step left.
func (r *dataRun) note(s dataStep, err error) {
	for i := s.first; i < s.first+s.n; i++ {
		if err == nil {
			r.now[i] = r.now[i][:0:0]
		}
		r.now[i] = append(r.now[i], s.fill)
		r.after[i] = append(r.after[i], s.fill)
	}
	if !s.durable || err != nil {
		return
	}
	for i := range r.after {
		r.after[i] = slices.Clone(r.now[i])
	}
}

// TestFaultsOverDataFile: each operation on an image with an external data
// file, or on that file, fails once. The error comes back, a failed Sync is
// never forgotten, and what was synced is there afterwards, also after a power
// cut.
func TestFaultsOverDataFile(t *testing.T) {
	seed := difftest.Seed(t, 1)
	var stats crashtest.Stats
	for name, o := range imagesWithDataFile() {
		t.Run(name, func(t *testing.T) {
			const sectors = 256
			f, data := memfile.New(), memfile.New()
			o.Data, o.DataFile = data, "d"
			im, err := qcow2.Create(f, sectors*512, &o)
			if err != nil {
				t.Fatal(err)
			}
			content := bytes.Repeat([]byte{1}, 20<<10)
			_, err = im.WriteAt(content, 0)
			if err := errors.Join(err, im.AddBitmap("b", nil), im.Close()); err != nil {
				t.Fatal(err)
			}
			rng := rand.New(rand.NewPCG(seed, 14))
			for range difftest.Scale(t, 3) {
				steps := dataSteps(rng, sectors, 10)
				for n := 0; ; n++ {
					r := &dataRun{f: f.Clone(), data: data.Clone(), now: make([][]byte, sectors/2), after: make([][]byte, sectors/2)}
					for i := range r.now {
						fill := byte(0)
						if i < len(content)/512 {
							fill = 1
						}
						r.now[i], r.after[i] = []byte{fill}, []byte{fill}
					}
					r.f.Record()
					r.data.Record()
					err := r.run(steps, n)
					if err == nil {
						err = r.judge(rng, &stats)
					}
					if err != nil {
						t.Fatalf("%v at operation %d of %v: %v", r.failed, n, stepNames(steps), err)
					}
					if !r.hit {
						break
					}
					stats.Faults++
				}
			}
		})
	}
	t.Log(stats)
}

func stepNames(steps []dataStep) (names []string) {
	for _, s := range steps {
		names = append(names, fmt.Sprint(s.name, " ", s.first, " ", s.n))
	}
	return names
}

// judge opens the files as they are, and as a power cut may leave them.
func (r *dataRun) judge(rng *rand.Rand, stats *crashtest.Stats) error {
	a, b := memfile.NewReplay(r.f), memfile.NewReplay(r.data)
	for a.Next() {
	}
	for b.Next() {
	}
	states := [][]*memfile.File{{r.f.Clone(), r.data.Clone()}}
	for range 2 {
		states = append(states, []*memfile.File{a.Random(rng), b.Random(rng)})
	}
	for _, s := range states {
		stats.States++
		if err := judgeDataFile(s, r.after); err != nil {
			return err
		}
	}
	return nil
}
