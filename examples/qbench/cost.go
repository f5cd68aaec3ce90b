package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// A cost is what something took.
type cost struct{ wall, cpu time.Duration }

func (c cost) String() string {
	return fmt.Sprintf("%s (cpu %s)", short(c.wall), short(c.cpu))
}

// short is d to three digits or so.
func short(d time.Duration) time.Duration {
	for unit := time.Second; unit > time.Nanosecond; unit /= 10 {
		if d >= 100*unit {
			return d.Round(unit)
		}
	}
	return d
}

// timed measures f within this process.
func timed(f func() error) (cost, error) {
	cpu, start := cpuTime(), time.Now()
	err := f()
	return cost{time.Since(start), cpuTime() - cpu}, err
}

// by divides a cost.
func (c cost) by(n int) cost {
	return cost{c.wall / time.Duration(n), c.cpu / time.Duration(n)}
}

// A pair is what two sides took in turn.
type pair struct{ ours, peer cost }

type pairs []pair

// inTurn measures two sides in turn, n times after a pair to warm up; they are
// told which it is.
func inTurn(ctx context.Context, n int, ours, peer func(i int) (cost, error)) (pairs, error) {
	p := make(pairs, n+1)
	for i := range p {
		var err error
		if p[i].ours, err = ours(i); err != nil {
			return nil, err
		}
		if p[i].peer, err = peer(i); err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return p[1:], nil
}

// least returns the least that each side took.
func (p pairs) least() (ours, peer cost) {
	ours, peer = p[0].ours, p[0].peer
	for _, q := range p {
		ours.wall, ours.cpu = min(ours.wall, q.ours.wall), min(ours.cpu, q.ours.cpu)
		peer.wall, peer.cpu = min(peer.wall, q.peer.wall), min(peer.cpu, q.peer.cpu)
	}
	return ours, peer
}

// line makes a line of them that passes by the least.
func (p pairs) line(most float64, note string) line {
	ours, peer := p.least()
	ratios := make([]float64, len(p))
	for i, q := range p {
		ratios[i] = ratio(q.ours.wall, q.peer.wall)
	}
	l := line{ours: ours.String(), peer: peer.String(), least: ratio(ours.wall, peer.wall),
		median: median(ratios), cpu: ratio(ours.cpu, peer.cpu), most: most, note: note}
	l.judged = l.least
	return l
}

// byMedian makes a line of them that passes by the median.
func (p pairs) byMedian(most float64, note string) line {
	l := p.line(most, note)
	l.judged = l.median
	return l
}

// ratio returns x to y, or 0 where y is too little to be measured.
func ratio(x, y time.Duration) float64 {
	if y <= 0 {
		return 0
	}
	return float64(x) / float64(y)
}

func median[T time.Duration | float64](v []T) T {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
