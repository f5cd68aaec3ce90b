package tablecache_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/internal/tablecache"
)

// reader reads f, zeros past its end, and counts the reads.
func reader(f io.ReaderAt, reads *atomic.Int64) func([]byte, int64) error {
	return func(p []byte, off int64) error {
		reads.Add(1)
		n, err := f.ReadAt(p, off)
		if err != nil && err != io.EOF {
			return err
		}
		clear(p[n:])
		return nil
	}
}

func load(t *testing.T, c *tablecache.Cache, off int64) *tablecache.Slice {
	t.Helper()
	s, err := c.Load(off)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLoadAndGet(t *testing.T) {
	f := memfile.FromBytes(bytes.Repeat([]byte{7}, 3*512))
	var reads atomic.Int64
	c := tablecache.New(512, 1<<20, reader(f, &reads))
	if c.Get(600) != nil {
		t.Error("a slice that was never read")
	}
	s := load(t, c, 600)
	if s.Offset() != 512 || len(s.Bytes()) != 512 || s.Bytes()[0] != 7 {
		t.Errorf("slice at %d: % x", s.Offset(), s.Bytes()[:4])
	}
	if c.Get(512) != s || c.Get(1023) != s || c.Get(1024) != nil || load(t, c, 1000) != s {
		t.Error("lookups of one slice differ")
	}
	if load(t, c, 1<<40).Bytes()[0] != 0 || reads.Load() != 2 {
		t.Errorf("%d reads", reads.Load())
	}
}

func TestLoadError(t *testing.T) {
	f := memfile.New()
	boom := errors.New("boom")
	f.Fault = memfile.FailNth(0, boom, nil)
	c := tablecache.New(512, 1<<20, func(p []byte, off int64) error {
		_, err := f.ReadAt(p, off)
		if err == io.EOF {
			err = nil
		}
		return err
	})
	if _, err := c.Load(0); err != boom {
		t.Errorf("got %v", err)
	}
	if _, err := c.Load(0); err != nil {
		t.Errorf("the error stayed: %v", err)
	}
}

// TestSingleFlight: concurrent misses of one slice read it once.
func TestSingleFlight(t *testing.T) {
	var reads atomic.Int64
	release := make(chan struct{})
	c := tablecache.New(512, 1<<20, func(p []byte, off int64) error {
		reads.Add(1)
		<-release
		return nil
	})
	var wg sync.WaitGroup
	got := make([]*tablecache.Slice, 16)
	for i := range got {
		wg.Go(func() { got[i], _ = c.Load(0) })
	}
	for reads.Load() == 0 {
	}
	close(release)
	wg.Wait()
	for _, s := range got {
		if s == nil || s != got[0] {
			t.Error("not one slice")
		}
	}
	if reads.Load() != 1 {
		t.Errorf("%d reads", reads.Load())
	}
}

func TestBudget(t *testing.T) {
	const budget = 100 << 10
	var reads atomic.Int64
	c := tablecache.New(4096, budget, reader(memfile.New(), &reads))
	c.Reserve(10 << 10)
	for i := range int64(1000) {
		load(t, c, i*4096)
		load(t, c, 0) // in use all the time
		if s := c.Stats(); s.Bytes > budget {
			t.Fatalf("%d bytes", s.Bytes)
		}
	}
	if s := c.Stats(); s.Loads != reads.Load() || s.Loads > 1005 || s.Evictions != s.Loads-int64(s.Slices) || s.Slices < 15 {
		t.Errorf("%+v", s)
	}
	// What was changed stays, over the budget if need be.
	for i := range int64(100) {
		c.Modify(load(t, c, i*4096), 1)[0] = 1
	}
	if s := c.Stats(); s.Dirty != 100*4096 || s.Slices < 100 {
		t.Errorf("%+v", s)
	}
	c.Cut(9).Done() // nothing was written
	if c.Dirty() != 100*4096 {
		t.Errorf("dirty %d", c.Dirty())
	}
	b := c.Cut(9)
	if err := b.Write(memfile.New(), 9); err != nil {
		t.Fatal(err)
	}
	b.Done()
	if s := c.Stats(); s.Dirty != 0 || s.Bytes > budget {
		t.Errorf("%+v", s)
	}
}

// log remembers the order of writes.
type log struct {
	*memfile.File
	offs []int64
	fail int64 // offset at which writes fail
}

var errLog = errors.New("fault")

func (l *log) WriteAt(p []byte, off int64) (int, error) {
	if l.fail >= off && l.fail < off+int64(len(p)) {
		return 0, errLog
	}
	l.offs = append(l.offs, off)
	return l.File.WriteAt(p, off)
}

func TestBatchStages(t *testing.T) {
	f := &log{File: memfile.FromBytes(make([]byte, 64<<10)), fail: -1}
	var reads atomic.Int64
	c := tablecache.New(512, 1<<20, reader(f, &reads))
	modify := func(off int64, stage int, v byte) { c.Modify(load(t, c, off), stage)[0] = v }
	modify(4096, 3, 1)
	modify(1024, 1, 2)
	modify(512, 1, 3)
	modify(0, 3, 4)
	modify(0, 1, 5) // the first stage counts
	c.Insert(8192, make([]byte, 512), 3)
	res := tablecache.NewResident(16384, make([]byte, 700))
	res.Modify(600, 8)[600] = 9
	b := c.Cut(3)
	res.AddTo(b, 2)
	other := tablecache.NewTable(32768, []byte("header"), 2)
	other.AddTo(b, 9)
	modify(512, 1, 77) // after the cut: not in the batch
	for stage := 1; stage <= 3; stage++ {
		if !b.Has(stage) {
			t.Errorf("nothing in stage %d", stage)
		}
		if err := b.Write(f, stage); err != nil {
			t.Fatal(err)
		}
	}
	b.Done()
	want := []int64{0, 16896, 32768, 4096, 8192}
	if len(f.offs) != len(want) {
		t.Fatalf("writes at %v", f.offs)
	}
	for i := range want {
		if f.offs[i] != want[i] {
			t.Fatalf("writes at %v, want %v", f.offs, want)
		}
	}
	got := f.Bytes()
	if got[0] != 5 || got[512] != 3 || got[1024] != 2 || got[4096] != 1 || got[16384+600] != 9 {
		t.Error("bytes of the file")
	}
	if c.Dirty() != 512 || c.Get(512).Bytes()[0] != 77 {
		t.Error("what was changed after the cut")
	}
}

// TestBatchFails: what could not be written is written by the next batch.
func TestBatchFails(t *testing.T) {
	f := &log{File: memfile.FromBytes(make([]byte, 64<<10)), fail: 4096}
	var reads atomic.Int64
	c := tablecache.New(512, 1<<20, reader(f, &reads))
	c.Modify(load(t, c, 0), 1)[0] = 1
	c.Modify(load(t, c, 4096), 2)[0] = 2
	c.Modify(load(t, c, 8192), 3)[0] = 3
	c.Modify(load(t, c, 12288), 3)[0] = 4
	fresh := tablecache.NewTable(16384, bytes.Repeat([]byte{5}, 1000), 3)
	res := tablecache.NewResident(20480, make([]byte, 1000))
	res.Modify(0, 1)[0] = 6
	b := c.Cut(3)
	fresh.AddTo(b, 9)
	res.AddTo(b, 3)
	if err := b.Write(f, 1); err != nil {
		t.Fatal(err)
	}
	if err := b.Write(f, 2); !errors.Is(err, errLog) {
		t.Errorf("got %v", err)
	}
	c.Drop(12288, 512)
	b.Done()
	if c.Dirty() != 2*512 {
		t.Errorf("dirty %d", c.Dirty())
	}
	f.fail = -1
	b = c.Cut(3)
	fresh.AddTo(b, 9)
	res.AddTo(b, 3)
	if err := b.Write(f, 3); err != nil {
		t.Fatal(err)
	}
	b.Done()
	got := f.Bytes()
	if got[0] != 1 || got[4096] != 2 || got[8192] != 3 || got[12288] != 0 || got[16384+999] != 5 || got[20480] != 6 {
		t.Error("bytes of the file")
	}
}

// TestAgainstArray changes, drops, writes and reads at random beside an array.
func TestAgainstArray(t *testing.T) {
	const slices, size = 200, 512
	rng := rand.New(rand.NewPCG(difftest.Seed(t, 1), 0))
	f := memfile.FromBytes(make([]byte, slices*size))
	var reads atomic.Int64
	c := tablecache.New(size, 40*size, reader(f, &reads))
	want := make([]uint64, slices)
	durable := make([]uint64, slices)
	for range difftest.Scale(t, 50_000) {
		i := rng.Int64N(slices)
		switch rng.IntN(20) {
		case 0: // what was not written is lost
			c.Drop(i*size, size)
			want[i] = durable[i]
		case 1:
			b := c.Cut(3)
			copy(durable, want)
			j := rng.Int64N(slices)
			want[j]++ // while the batch is written
			binary.BigEndian.PutUint64(c.Modify(load(t, c, j*size), 2), want[j])
			if err := b.Write(f, 3); err != nil {
				t.Fatal(err)
			}
			b.Done()
		case 2:
			want[i] = rng.Uint64()
			c.Insert(i*size, binary.BigEndian.AppendUint64(make([]byte, 0, size), want[i])[:size], 1)
		case 3, 4, 5, 6:
			want[i] = rng.Uint64()
			binary.BigEndian.PutUint64(c.Modify(load(t, c, i*size), rng.IntN(4)), want[i])
		default:
			if got := binary.BigEndian.Uint64(load(t, c, i*size+rng.Int64N(size)).Bytes()); got != want[i] {
				t.Fatalf("slice %d holds %#x, want %#x", i, got, want[i])
			}
		}
	}
	if s := c.Stats(); s.Evictions == 0 {
		t.Error("nothing was evicted")
	}
}

// TestConcurrent: readers under a shared lock, a writer under the exclusive
// one, write-backs under neither.
func TestConcurrent(t *testing.T) {
	const slices, size = 64, 512
	f := memfile.FromBytes(make([]byte, slices*size))
	var reads atomic.Int64
	c := tablecache.New(size, 20*size, reader(f, &reads))
	var mu sync.RWMutex
	var wg sync.WaitGroup
	steps := difftest.Scale(t, 20_000)
	for g := range 3 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			for range steps {
				i := rng.Int64N(slices)
				if _, err := c.Load(i * size); err != nil {
					t.Error(err)
				}
				mu.RLock()
				if s := c.Get(i * size); s != nil {
					b := s.Bytes()
					if binary.BigEndian.Uint64(b) != binary.BigEndian.Uint64(b[8:]) {
						t.Error("torn")
					}
				}
				mu.RUnlock()
			}
		})
	}
	rng := rand.New(rand.NewPCG(9, 9))
	want := make([]uint64, slices)
	for step := range steps {
		i := rng.Int64N(slices)
		if step%50 == 0 {
			mu.Lock()
			b := c.Cut(3)
			mu.Unlock()
			if err := b.Write(f, 3); err != nil {
				t.Error(err)
			}
			mu.Lock()
			b.Done()
			mu.Unlock()
		}
		for done := false; !done; {
			if _, err := c.Load(i * size); err != nil {
				t.Error(err)
			}
			mu.Lock()
			if s := c.Get(i * size); s != nil {
				b := c.Modify(s, 1)
				if got := binary.BigEndian.Uint64(b); got != want[i] {
					t.Errorf("slice %d holds %d, want %d", i, got, want[i])
				}
				want[i]++
				binary.BigEndian.PutUint64(b, want[i])
				binary.BigEndian.PutUint64(b[8:], want[i])
				done = true
			}
			mu.Unlock()
		}
	}
	wg.Wait()
}

func TestGetDoesNotAllocate(t *testing.T) {
	c := tablecache.New(4096, 1<<20, func([]byte, int64) error { return nil })
	load(t, c, 8192)
	if n := testing.AllocsPerRun(100, func() { c.Get(8192 + 5) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkGet(b *testing.B) {
	c := tablecache.New(4096, 32<<20, func([]byte, int64) error { return nil })
	const n = 4096
	for i := range int64(n) {
		if _, err := c.Load(i * 4096); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("hit", func(b *testing.B) {
		i := int64(0)
		for b.Loop() {
			if c.Get(i%n*4096) == nil {
				b.Fatal("miss")
			}
			i += 37
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			i := rand.Int64()
			for pb.Next() {
				if c.Get(i&(n-1)*4096) == nil {
					b.Error("miss")
				}
				i += 37
			}
		})
	})
}
