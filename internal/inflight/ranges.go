package inflight

import "sync"

// Ranges locks ranges of a disk: of two overlapping ones the second waits for
// the first, in the order in which they came. The zero Ranges is ready for
// use.
type Ranges struct {
	mu   sync.Mutex
	free sync.Cond
	held []*Range // in the order of arrival, waiting ones included
}

// A Range is the range from Start up to End, in the unit of the caller.
type Range struct{ Start, End int64 }

func (r *Range) overlaps(o *Range) bool { return r.Start < o.End && o.Start < r.End }

// Lock waits until nobody who came before holds what overlaps r, and holds r
// until [Ranges.Unlock]. The caller does not touch r meanwhile.
func (l *Ranges) Lock(r *Range) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free.L == nil {
		l.free.L = &l.mu
	}
	l.held = append(l.held, r)
	for l.blocked(r) {
		l.free.Wait()
	}
}

// blocked reports whether r overlaps one that came before it.
func (l *Ranges) blocked(r *Range) bool {
	for _, o := range l.held {
		if o == r {
			return false
		}
		if o.overlaps(r) {
			return true
		}
	}
	return false
}

// Unlock lets go of r.
func (l *Ranges) Unlock(r *Range) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, o := range l.held {
		if o == r {
			copy(l.held[i:], l.held[i+1:])
			l.held[len(l.held)-1] = nil
			l.held = l.held[:len(l.held)-1]
			break
		}
	}
	l.free.Broadcast()
}
