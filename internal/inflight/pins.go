// Package inflight keeps track of what operations on a disk image are doing
// at the moment, so that the space they use is not given to others and two of
// them do not fill the same cluster.
package inflight

import "sync/atomic"

// Pins tells when everything that began before a moment is over. An operation
// that looks up where something lies and then reads or writes there is pinned
// from before the lookup until after the access. Space that was unlinked may
// be used again once all pins are gone that were held at the unlinking; the
// [Pins.Drained] of a reclaimer tells so. Taking and giving back a pin costs an
// atomic addition each. The zero Pins is ready for use.
type Pins struct {
	phase atomic.Uint32 // its lowest bit says which count new pins go to
	slots [slots]slot
}

// slots spreads pins over cache lines.
const slots = 8

type slot struct {
	count [2]atomic.Int64
	_     [112]byte
}

// A Pin is held by one operation.
type Pin struct{ count *atomic.Int64 }

// Pin returns a new pin. The hint, any number that differs between concurrent
// operations, keeps them off each other's cache lines.
func (p *Pins) Pin(hint uint64) Pin {
	s := &p.slots[hint*0x9e3779b97f4a7c15>>61]
	c := &s.count[p.phase.Load()&1]
	c.Add(1)
	return Pin{c}
}

// Unpin gives the pin back, once.
func (p Pin) Unpin() { p.count.Add(-1) }

// idle reports whether no pin of a phase is held.
func (p *Pins) idle(phase uint32) bool {
	var n int64
	for i := range p.slots {
		n += p.slots[i].count[phase&1].Load()
	}
	return n == 0
}

// A Reclaimer passes things on once all pins are gone that were held when
// they were added. Its methods must not be called concurrently with each
// other.
type Reclaimer[T any] struct {
	waiting  []T // added after the last change of phase
	draining []T // added before it
}

// Add adds things that were unlinked before the call.
func (r *Reclaimer[T]) Add(things ...T) { r.waiting = append(r.waiting, things...) }

// Len returns how many things are held.
func (r *Reclaimer[T]) Len() int { return len(r.waiting) + len(r.draining) }

// Drained removes and returns the things that no operation can still know.
func (r *Reclaimer[T]) Drained(p *Pins) []T {
	var done []T
	for range 2 {
		phase := p.phase.Load()
		if len(r.draining) > 0 {
			if !p.idle(phase ^ 1) {
				return done
			}
			done = append(done, r.draining...)
			r.draining = nil
		}
		// The phase that new pins will be counted in must be empty before it
		// begins: a pin of it may be older than what is waiting.
		if len(r.waiting) == 0 || !p.idle(phase^1) {
			return done
		}
		r.draining, r.waiting = r.waiting, nil
		p.phase.Store(phase ^ 1)
	}
	return done
}
