// Package mutant makes hostile images out of good ones, a field at a time, and
// measures what opening them costs.
//
// A format lists its [Field]s: every word of its header, its tables and its
// directories. [Mutate] changes some of them to values that tend to break
// things: limits, neighbours, other structures' places, single bits.
package mutant

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/metrics"
	"strings"
	"testing"
	"time"
)

// What a file of 1 MiB may cost a step.
const (
	// MaxMemory bounds what a step takes in all, in bytes, whether it is given
	// back meanwhile or not.
	MaxMemory = 64 << 20
	// MaxTime is a second, and slack for busy and slow machines.
	MaxTime = 20 * time.Second
)

// A Field is a number in an image.
type Field struct {
	Name string
	Off  int64
	Size int // bytes: 1, 2, 4 or 8
}

// At returns the field of size bytes at off.
func At(name string, off int64, size int) Field { return Field{name, off, size} }

// Fields returns n fields of size bytes that follow each other.
func Fields(name string, off int64, n, size int) []Field {
	var list []Field
	for i := range n {
		list = append(list, Field{name, off + int64(i*size), size})
	}
	return list
}

// Mutate changes one to four fields of b, and sometimes its length. unit is
// the size of a cluster. It returns the mutant, which may share b's memory,
// and says what was done.
func Mutate(random *rand.Rand, order binary.ByteOrder, b []byte, unit int64, fields []Field) ([]byte, string) {
	var done []string
	for range 1 + random.IntN(4)*random.IntN(2) {
		f := fields[random.IntN(len(fields))]
		if f.Off < 0 || f.Off+int64(f.Size) > int64(len(b)) {
			continue
		}
		was := get(order, b[f.Off:], f.Size)
		now := value(random, was, int64(len(b)), unit, fields)
		put(order, b[f.Off:], f.Size, now)
		done = append(done, fmt.Sprintf("%s at %#x: %#x to %#x", f.Name, f.Off, was, get(order, b[f.Off:], f.Size)))
	}
	switch random.IntN(20) {
	case 0:
		n := random.IntN(len(b) + 1)
		b = b[:n:n]
		done = append(done, fmt.Sprintf("cut to %d bytes", n))
	case 1:
		n := random.Int64N(4 * unit)
		b = append(b, make([]byte, n)...)
		done = append(done, fmt.Sprintf("%d bytes longer", n))
	}
	return b, strings.Join(done, ", ")
}

// value returns what to put in place of a number.
func value(random *rand.Rand, was uint64, file, unit int64, fields []Field) uint64 {
	switch random.IntN(12) {
	case 0:
		return 0
	case 1:
		return was ^ 1<<random.IntN(64)
	case 2:
		return was ^ 1<<random.IntN(8)
	case 3:
		return was + uint64(random.IntN(5)) - 2
	case 4:
		return uint64(random.IntN(70))
	case 5:
		return 1<<random.IntN(64) - uint64(random.IntN(3))
	case 6: // some place, with the flags that were there
		return was&0xff000000000001ff | uint64(random.Int64N(file+2*unit)&^(unit-1))
	case 7: // another structure's place
		return was&0xff000000000001ff | uint64(fields[random.IntN(len(fields))].Off&^(unit-1))
	case 8:
		return 1<<63 | uint64(fields[random.IntN(len(fields))].Off&^511)
	case 9:
		return was + uint64(unit)*uint64(random.IntN(5)) - 2*uint64(unit)
	case 10:
		return ^uint64(0) >> random.IntN(33)
	}
	return random.Uint64()
}

func get(order binary.ByteOrder, b []byte, size int) uint64 {
	switch size {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(order.Uint16(b))
	case 4:
		return uint64(order.Uint32(b))
	}
	return order.Uint64(b)
}

func put(order binary.ByteOrder, b []byte, size int, v uint64) {
	switch size {
	case 1:
		b[0] = byte(v)
	case 2:
		order.PutUint16(b, uint16(v))
	case 4:
		order.PutUint32(b, uint32(v))
	default:
		order.PutUint64(b, v)
	}
}

// A Trial holds the steps that are done with one mutant to what they may cost.
type Trial struct {
	TB     testing.TB
	What   string // how the mutant was made
	Mutant []byte
	Stats  *Stats
}

// Stats is what the most expensive steps cost.
type Stats struct {
	Mutants int
	Opened  int
	Memory  uint64
	Time    time.Duration
	Step    string // that took the most memory
}

// String gives the numbers as a sentence.
func (s *Stats) String() string {
	return fmt.Sprintf("%d mutants, %d of them opened, at most %.1f MiB (%s) and %v a step",
		s.Mutants, s.Opened, float64(s.Memory)/(1<<20), s.Step, s.Time.Round(time.Millisecond))
}

// Step runs f, which must neither panic nor take more than MaxMemory and
// MaxTime.
func (tr *Trial) Step(name string, f func()) {
	tr.TB.Helper()
	before, start := allocated(), time.Now()
	returned := false
	defer func() {
		if !returned && !tr.TB.Failed() && !tr.TB.Skipped() {
			tr.keep()
			tr.TB.Errorf("%s panics: %s", name, tr.What)
		}
	}()
	f()
	returned = true
	memory, took := allocated()-before, time.Since(start)
	if memory > tr.Stats.Memory {
		tr.Stats.Memory, tr.Stats.Step = memory, name
	}
	tr.Stats.Time = max(tr.Stats.Time, took)
	if memory > MaxMemory || took > MaxTime {
		tr.keep()
		tr.TB.Errorf("%s took %d MiB and %v: %s", name, memory>>20, took, tr.What)
	}
}

// Fail keeps the mutant and fails the test.
func (tr *Trial) Fail(format string, args ...any) {
	tr.TB.Helper()
	tr.keep()
	tr.TB.Errorf("%s: %s", fmt.Sprintf(format, args...), tr.What)
}

func (tr *Trial) keep() {
	name := filepath.Join(tr.TB.ArtifactDir(), "mutant.img")
	if err := os.WriteFile(name, tr.Mutant, 0o600); err != nil {
		tr.TB.Log(err)
	}
	tr.TB.Logf("kept %s", name)
}

// allocated returns how many bytes of memory were taken so far.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
