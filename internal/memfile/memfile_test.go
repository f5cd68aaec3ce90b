package memfile_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
)

// model is the same file as plain bytes.
type model []byte

func (m *model) truncate(n int) {
	if n <= len(*m) {
		*m = (*m)[:n:n]
		return
	}
	*m = append(*m, make([]byte, n-len(*m))...)
}

func (m *model) write(p []byte, off int) {
	if len(p) > 0 && off+len(p) > len(*m) {
		m.truncate(off + len(p))
	}
	copy((*m)[min(off, len(*m)):], p)
}

func TestAgainstPlainBytes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	f, m := memfile.New(), model{}
	var clone *memfile.File
	var cloned []byte
	for i := range difftest.Scale(t, 5000) {
		off, n := rnd.IntN(40000), rnd.IntN(9000)
		switch rnd.IntN(6) {
		case 0:
			if err := f.Truncate(int64(off)); err != nil {
				t.Fatal(err)
			}
			m.truncate(off)
		case 1:
			if err := f.PunchHole(int64(off), int64(n)); err != nil {
				t.Fatal(err)
			}
			if off < len(m) {
				clear(m[off:min(off+n, len(m))])
			}
		case 2:
			clone, cloned = f.Clone(), bytes.Clone(m)
		default:
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(rnd.Uint32())
			}
			if _, err := f.WriteAt(p, int64(off)); err != nil {
				t.Fatal(err)
			}
			m.write(p, off)
		}
		if !bytes.Equal(f.Bytes(), m) {
			t.Fatalf("differs after %d operations", i+1)
		}
		got := make([]byte, n)
		k, err := f.ReadAt(got, int64(off))
		want := []byte(m)[min(off, len(m)):min(off+n, len(m))]
		if !bytes.Equal(got[:k], want) || (k < n) != (err == io.EOF) {
			t.Fatalf("ReadAt(%d bytes at %d) of %d: %d, %v", n, off, len(m), k, err)
		}
		if clone != nil && !bytes.Equal(clone.Bytes(), cloned) {
			t.Fatal("a clone changed with its original")
		}
	}
}

func TestFaults(t *testing.T) {
	boom := errors.New("boom")
	f := memfile.FromBytes([]byte("abcdef"))
	f.Fault = memfile.FailNth(1, boom, func(op memfile.Op) bool { return op.Kind == memfile.Write })
	if _, err := f.WriteAt([]byte("X"), 0); err != nil {
		t.Fatal(err)
	}
	if n, err := f.WriteAt([]byte("Y"), 1); n != 0 || err != boom {
		t.Fatalf("%d, %v", n, err)
	}
	if _, err := f.WriteAt([]byte("Z"), 2); err != nil {
		t.Fatal(err)
	}
	f.Fault = func(memfile.Op) error { return &memfile.ShortWrite{N: 2, Err: boom} }
	if n, err := f.WriteAt([]byte("1234"), 3); n != 2 || !errors.Is(err, boom) {
		t.Fatalf("short write: %d, %v", n, err)
	}
	if got := string(f.Bytes()); got != "XbZ12f" {
		t.Errorf("content %q", got)
	}
	f.Fault = func(op memfile.Op) error {
		if op.Kind == memfile.Read {
			return boom
		}
		return nil
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); err != boom {
		t.Errorf("read: %v", err)
	}
}

func sectorOf(c byte) []byte { return bytes.Repeat([]byte{c}, memfile.SectorSize) }

// states returns the states at the end of f's journal: the first byte of each
// sector, by file.
func states(t *testing.T, f *memfile.File) map[string]bool {
	t.Helper()
	r := memfile.NewReplay(f)
	for r.Next() {
	}
	seen := map[string]bool{}
	n := 0
	for s := range r.All() {
		n++
		var name []byte
		for b := s.Bytes(); len(b) > 0; b = b[min(len(b), memfile.SectorSize):] {
			name = append(name, max(b[0], '.'))
		}
		seen[string(name)] = true
	}
	if n != r.States() {
		t.Errorf("All gave %d states, States said %d", n, r.States())
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var name []byte
		for b := r.Random(rnd).Bytes(); len(b) > 0; b = b[min(len(b), memfile.SectorSize):] {
			name = append(name, max(b[0], '.'))
		}
		if !seen[string(name)] {
			t.Fatalf("Random gave %q, which All does not", name)
		}
	}
	return seen
}

func check(t *testing.T, f *memfile.File, want ...string) {
	t.Helper()
	got := states(t, f)
	for _, w := range want {
		if !got[w] {
			t.Errorf("state %q is missing from %v", w, got)
		}
		delete(got, w)
	}
	for g := range got {
		t.Errorf("state %q must not be", g)
	}
}

func write(t *testing.T, f *memfile.File, at int64, s string) {
	t.Helper()
	var p []byte
	for i := range len(s) {
		p = append(p, sectorOf(s[i])...)
	}
	if _, err := f.WriteAt(p, at*memfile.SectorSize); err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, s string) *memfile.File {
	f := memfile.New()
	write(t, f, 0, s)
	f.Record()
	return f
}

func TestPowerCuts(t *testing.T) {
	t.Run("a write is torn between sectors", func(t *testing.T) {
		f := start(t, "ab")
		write(t, f, 0, "AB")
		check(t, f, "ab", "Ab", "aB", "AB")
	})
	t.Run("a sector written twice has any of its contents", func(t *testing.T) {
		f := start(t, "a")
		write(t, f, 0, "b")
		write(t, f, 0, "c")
		check(t, f, "a", "b", "c")
	})
	t.Run("Sync makes certain", func(t *testing.T) {
		f := start(t, "ab")
		write(t, f, 0, "A")
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		write(t, f, 1, "B")
		check(t, f, "Ab", "AB")
	})
	t.Run("a longer file has any length on the way", func(t *testing.T) {
		f := start(t, "a")
		write(t, f, 1, "b")
		check(t, f, "a", "a.", "ab")
	})
	t.Run("a shorter file too", func(t *testing.T) {
		f := start(t, "abc")
		if err := f.Truncate(memfile.SectorSize); err != nil {
			t.Fatal(err)
		}
		check(t, f, "a", "abc", "a.c", "ab.", "a..")
	})
	t.Run("a hole", func(t *testing.T) {
		f := start(t, "ab")
		if err := f.PunchHole(0, memfile.SectorSize); err != nil {
			t.Fatal(err)
		}
		check(t, f, "ab", ".b")
	})
	t.Run("a failed Sync leaves doubt for good", func(t *testing.T) {
		f := start(t, "ab")
		write(t, f, 0, "AB")
		f.Fault = memfile.FailNth(0, errors.New("boom"), nil)
		if err := f.Sync(); err == nil {
			t.Fatal("Sync did not fail")
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		check(t, f, "ab", "Ab", "aB", "AB")
		write(t, f, 0, "X")
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		check(t, f, "Xb", "XB")
	})
}

func TestReplayEndsAtTheFileItself(t *testing.T) {
	rnd := rand.New(rand.NewPCG(difftest.Seed(t, 3), 0))
	f := memfile.FromBytes(make([]byte, 3000))
	f.Record()
	for range 300 {
		switch rnd.IntN(8) {
		case 0:
			f.Truncate(rnd.Int64N(20000))
		case 1:
			f.PunchHole(rnd.Int64N(20000), rnd.Int64N(5000))
		case 2:
			f.Sync()
		default:
			f.WriteAt(bytes.Repeat([]byte{byte(rnd.Uint32())}, rnd.IntN(3000)), rnd.Int64N(20000))
		}
	}
	r := memfile.NewReplay(f)
	for r.Next() {
	}
	if r.Point() != f.Point() {
		t.Errorf("replayed %d of %d", r.Point(), f.Point())
	}
	if !bytes.Equal(r.Now().Bytes(), f.Bytes()) {
		t.Error("the replayed file differs")
	}
}
