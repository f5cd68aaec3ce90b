package inflight_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/inflight"
)

func TestReclaimerWaitsForPins(t *testing.T) {
	var p inflight.Pins
	var r inflight.Reclaimer[int]
	drained := func(want ...int) {
		t.Helper()
		if got := r.Drained(&p); !slices.Equal(got, want) {
			t.Errorf("drained %v, want %v", got, want)
		}
	}
	drained()
	r.Add(1)
	drained(1)

	a := p.Pin(1)
	r.Add(2)
	drained()
	b := p.Pin(2) // after 2 was added: need not be waited for
	r.Add(3)
	drained()
	a.Unpin()
	drained(2)
	drained() // 3 was added while b was held
	if r.Len() != 1 {
		t.Errorf("Len %d", r.Len())
	}
	c := p.Pin(3)
	b.Unpin()
	drained(3)
	c.Unpin()
	drained()
}

// TestPinsRace: cells are handed from user to user as clusters are; a reader
// that is pinned never sees a cell of another.
func TestPinsRace(t *testing.T) {
	const readers = 4
	var (
		p     inflight.Pins
		r     inflight.Reclaimer[*atomic.Int64]
		shown atomic.Pointer[atomic.Int64] // the mapping: the cell holds 1
		stop  atomic.Bool
		wg    sync.WaitGroup
	)
	shown.Store(new(atomic.Int64))
	shown.Load().Store(1)
	for i := range readers {
		wg.Go(func() {
			for !stop.Load() {
				pin := p.Pin(uint64(i))
				cell := shown.Load()
				for range 10 {
					if cell.Load() != 1 {
						t.Error("a reader saw a cell that was used again")
						stop.Store(true)
					}
				}
				pin.Unpin()
			}
		})
	}
	var free []*atomic.Int64
	for range difftest.Scale(t, 200_000) {
		var next *atomic.Int64
		if n := len(free); n > 0 {
			next, free = free[n-1], free[:n-1]
		} else {
			next = new(atomic.Int64)
		}
		next.Store(2) // used by another meanwhile
		next.Store(1)
		r.Add(shown.Swap(next))
		for _, cell := range r.Drained(&p) {
			cell.Store(2)
			free = append(free, cell)
		}
		if stop.Load() {
			break
		}
	}
	stop.Store(true)
	wg.Wait()
}

func TestRanges(t *testing.T) {
	var l inflight.Ranges
	var busy [64]atomic.Int32
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range difftest.Scale(t, 2000) {
				start := int64((i*7 + g*13) % 60)
				r := inflight.Range{Start: start, End: start + int64(i%4) + 1}
				l.Lock(&r)
				for c := r.Start; c < r.End; c++ {
					if busy[c].Add(1) != 1 {
						t.Error("two hold one cell")
					}
				}
				for c := r.Start; c < r.End; c++ {
					busy[c].Add(-1)
				}
				l.Unlock(&r)
			}
		})
	}
	wg.Wait()
}

// TestRangesOrder: a wide range is not starved by narrow ones that come later.
func TestRangesOrder(t *testing.T) { synctest.Test(t, testRangesOrder) }

func testRangesOrder(t *testing.T) {
	var l inflight.Ranges
	first := inflight.Range{Start: 0, End: 1}
	l.Lock(&first)
	var order []string
	var wg sync.WaitGroup
	lock := func(name string, r inflight.Range) {
		wg.Go(func() {
			l.Lock(&r)
			order = append(order, name)
			l.Unlock(&r)
		})
		synctest.Wait() // until it waits
	}
	lock("wide", inflight.Range{Start: 0, End: 10})
	lock("narrow", inflight.Range{Start: 9, End: 10})
	apart := inflight.Range{Start: 10, End: 11}
	l.Lock(&apart)
	l.Unlock(&apart)
	l.Unlock(&first)
	wg.Wait()
	if !slices.Equal(order, []string{"wide", "narrow"}) {
		t.Error(order)
	}
}
