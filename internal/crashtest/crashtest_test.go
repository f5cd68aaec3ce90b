package crashtest

import (
	"errors"
	"testing"

	"github.com/virtfmt/virtfmt/internal/memfile"
)

// journaled is a disk of two sectors that keeps the promise: a write goes to
// the half of the file that is not in use, and Sync switches the halves.
// With careless set it switches before the data is durable.
type journaled struct {
	f        *memfile.File
	careless bool
	half     byte
	data     []byte
	err      error
	// forgetful makes Close claim that all is well.
	forgetful bool
}

const disk = 2 * sector

func openJournaled(careless bool) func(*memfile.File) (*journaled, error) {
	return func(f *memfile.File) (*journaled, error) {
		j := &journaled{f: f, careless: careless, data: make([]byte, disk)}
		var b [1]byte
		if _, err := f.ReadAt(b[:], 0); err != nil {
			return nil, err
		}
		j.half = b[0]
		_, err := f.ReadAt(j.data, sector+int64(j.half)*disk)
		return j, err
	}
}

func (j *journaled) Size() int64 { return disk }

func (j *journaled) ReadAt(p []byte, off int64) (int, error) { return copy(p, j.data[off:]), nil }

func (j *journaled) write(c byte, at int) error {
	for i := range sector {
		j.data[at*sector+i] = c
	}
	return j.err
}

func (j *journaled) Sync() error {
	if j.err != nil {
		return j.err
	}
	j.err = j.flush()
	return j.err
}

func (j *journaled) flush() error {
	other := 1 - j.half
	if _, err := j.f.WriteAt(j.data, sector+int64(other)*disk); err != nil {
		return err
	}
	if !j.careless {
		if err := j.f.Sync(); err != nil {
			return err
		}
	}
	if _, err := j.f.WriteAt([]byte{other}, 0); err != nil {
		return err
	}
	j.half = other
	return j.f.Sync()
}

func (j *journaled) Close() error {
	if j.forgetful {
		return nil
	}
	return j.Sync()
}

func format(careless bool) Format[*journaled] {
	return Format[*journaled]{
		Open:  openJournaled(careless),
		After: func(*journaled) error { return nil },
	}
}

func steps() []Step[*journaled] {
	write := func(c byte, at int) Step[*journaled] {
		return Step[*journaled]{Name: "write", Do: func(j *journaled) error { return j.write(c, at) }}
	}
	sync := Step[*journaled]{Name: "sync", Do: (*journaled).Sync, Durable: true}
	return []Step[*journaled]{
		write('a', 0), write('b', 1), sync, write('c', 0), sync, write('d', 1), write('e', 1), sync,
		{Name: "close", Do: (*journaled).Close, Durable: true, Reopen: true}, write('f', 0), sync,
	}
}

func empty() *memfile.File { return memfile.FromBytes(make([]byte, sector+2*disk)) }

func TestACarefulImagePasses(t *testing.T) {
	s := PowerCuts(t, format(false), empty(), steps(), Options{Exhaustive: 12})
	s.Add(Faults(t, format(false), empty(), steps(), 1, Options{Random: 5}))
	if s.States < 50 || s.Faults < 20 {
		t.Errorf("only %v", s)
	}
}

// failing records a failure instead of ending the test.
type failing struct {
	testing.TB
	failed bool
}

func (f *failing) Helper()               {}
func (f *failing) Log(...any)            {}
func (f *failing) Logf(string, ...any)   {}
func (f *failing) ArtifactDir() string   { return f.TempDir() }
func (f *failing) Fatalf(string, ...any) { f.failed = true; panic(f) }
func (f *failing) Fatal(...any)          { f.failed = true; panic(f) }

func caught(t *testing.T, run func(testing.TB)) bool {
	f := &failing{TB: t}
	func() {
		defer func() {
			if r := recover(); r != nil && r != any(f) {
				panic(r)
			}
		}()
		run(f)
	}()
	return f.failed
}

func TestACarelessImageIsCaught(t *testing.T) {
	if !caught(t, func(tb testing.TB) {
		PowerCuts(tb, format(true), empty(), steps(), Options{Exhaustive: 12})
	}) {
		t.Error("an image that switches before its data is durable passed the power cuts")
	}
	forgets := steps()
	forgets[2].Do = func(j *journaled) error {
		err := j.Sync()
		if errors.Is(err, ErrIO) || errors.Is(err, ErrNoSpace) {
			err, j.forgetful = nil, true // claims to be durable
		}
		return err
	}
	if !caught(t, func(tb testing.TB) {
		Faults(tb, format(false), empty(), forgets[:3], 1, Options{Random: 5})
	}) {
		t.Error("an image that forgets a failed Sync passed the faults")
	}
}
