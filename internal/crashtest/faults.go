package crashtest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/virtfmt/virtfmt/internal/memfile"
)

// The faults that are tried in turn. A short write fails with ErrNoSpace.
var (
	// ErrIO stands for EIO.
	ErrIO = errors.New("injected I/O error")
	// ErrNoSpace stands for ENOSPC.
	ErrNoSpace = errors.New("injected: no space left")
)

// Faults runs the steps again and again, each time with another operation on
// the file failing, once for each of stride operations (1: all of them). The
// failing step must return an error that wraps the fault, or have had no need
// of the operation; the steps after it may fail or not, and a Reopen that fails
// ends the sequence. Then the file is whole again, and the image must keep the
// promise: both as it is, and after a power cut.
//
// The steps must write whole sectors, so that what a sector may hold does not
// depend on which of them failed.
func Faults[I Image](tb testing.TB, fm Format[I], start *memfile.File, steps []Step[I], stride int, o Options) Stats {
	tb.Helper()
	clean := start.Clone()
	clean.Record()
	marks, err := run(fm, clean, steps)
	if err != nil {
		tb.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(o.Seed, 2))
	var stats Stats
	for n := 0; n < clean.Ops(); n += stride {
		f := start.Clone()
		f.Record()
		kind := n / stride % 3
		hit := false
		f.Fault = func(op memfile.Op) error {
			if op.Index != n {
				return nil
			}
			hit = true
			switch {
			case kind == 1 && op.Kind != memfile.Read:
				return ErrNoSpace
			case kind == 2 && op.Kind == memfile.Write:
				return &memfile.ShortWrite{N: int(op.N/2) &^ (sector - 1), Err: ErrNoSpace}
			}
			return ErrIO
		}
		want, err := runFaulty(fm, f, steps, marks)
		if !hit {
			break
		}
		stats.Faults++
		f.Fault = nil
		name := fmt.Sprintf("fault %d at operation %d of %d", kind, n, clean.Ops())
		if err != nil {
			tb.Fatalf("%s: %v", name, err)
		}
		r := memfile.NewReplay(f)
		for r.Next() {
		}
		states := []*memfile.File{f.Clone()}
		for range max(1, o.Random) {
			states = append(states, r.Random(rnd))
		}
		for i, s := range states {
			stats.States++
			if err := judge(fm, s, want); err != nil {
				keep(tb, s)
				tb.Fatalf("%s, state %d (seed %d): %v", name, i, o.Seed, err)
			}
		}
	}
	return stats
}

// runFaulty runs the steps on a file of which one operation fails, and returns
// what sectors may hold afterwards. Its error is a broken promise of the image
// while it was open.
func runFaulty[I Image](fm Format[I], f *memfile.File, steps []Step[I], marks []mark) (want [][]byte, err error) {
	base := 0
	var failed []int // steps whose effect may be missing
	// marks[i] is what the disk holds before steps[i].
	allowed := func() [][]byte {
		var out [][]byte
		for _, m := range marks[base:] {
			out = append(out, m.content)
		}
		for _, i := range failed {
			out = append(out, undo(marks[base].content, marks[i].content, marks[i+1].content))
		}
		return out
	}
	img, err := fm.Open(f)
	if err != nil {
		return allowed(), injected("open", err)
	}
	for i, s := range steps {
		if err := s.Do(img); err != nil {
			if err := injected(s.Name, err); err != nil && !refused(err) {
				return nil, err
			}
			if s.Durable { // what it was to make durable is in doubt too
				for j := base; j < i; j++ {
					failed = append(failed, j)
				}
			}
			failed = append(failed, i)
		} else if s.Durable {
			base = i + 1
		}
		if s.Reopen && len(failed) > 0 && failed[len(failed)-1] == i {
			// After a Sync that failed, what a file reads back may not be what
			// it keeps, and a program that opens it anew cannot know.
			return allowed(), nil
		}
		if s.Reopen {
			if img, err = fm.Open(f); err != nil {
				return allowed(), injected("open after "+s.Name, err)
			}
		}
	}
	if err := img.Close(); err == nil {
		base = len(marks) - 1
	} else if err := injected("close", err); err != nil && !refused(err) {
		return nil, err
	}
	return allowed(), nil
}

// undo returns base, but that the sectors which a step changed read as before
// it.
func undo(base, before, after []byte) []byte {
	if len(before) != len(after) || len(base) != len(before) {
		return before
	}
	out := slices.Clone(base)
	for off := 0; off < len(out); off += sector {
		end := min(off+sector, len(out))
		if !bytes.Equal(before[off:end], after[off:end]) {
			copy(out[off:end], before[off:end])
		}
	}
	return out
}

// injected returns nil for an error that was injected, otherwise the error.
func injected(what string, err error) error {
	if errors.Is(err, ErrIO) || errors.Is(err, ErrNoSpace) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// refused reports whether err says that an earlier error made the image
// read-only.
func refused(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrClosed)
}

func writeArtifact(tb testing.TB, b []byte) error {
	name := filepath.Join(tb.ArtifactDir(), "state.img")
	tb.Logf("kept %s", name)
	return os.WriteFile(name, slices.Clone(b), 0o600)
}
