package ordered_test

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/virtfmt/virtfmt/internal/ordered"
)

func count(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

func TestOrder(t *testing.T) {
	const n, ahead = 2000, 7
	next, between := 0, atomic.Int32{}
	slots := map[*[]int]bool{}
	err := ordered.Run(t.Context(), 4, ahead, count(n), func(i int, buf *[]int) error {
		if between.Add(1) > ahead {
			t.Errorf("more than %d jobs between work and done", ahead)
		}
		for range rand.IntN(50) {
			runtime.Gosched()
		}
		*buf = append((*buf)[:0], i*i)
		return nil
	}, func(i int, buf *[]int) error {
		if i != next || (*buf)[0] != i*i {
			t.Errorf("job %d is done with %v, expected job %d", i, *buf, next)
		}
		slots[buf] = true
		next++
		between.Add(-1)
		return nil
	})
	if err != nil || next != n || len(slots) > ahead {
		t.Errorf("%v after %d jobs with %d slots", err, next, len(slots))
	}
}

func TestErrors(t *testing.T) {
	boom := errors.New("boom")
	nothing := func(int, *struct{}) error { return nil }
	for range 50 {
		at := rand.IntN(100)
		fail := func(i int, _ *struct{}) error {
			if i == at {
				return boom
			}
			return nil
		}
		if err := ordered.Run(t.Context(), 3, 3, count(1000), fail, nothing); err != boom {
			t.Errorf("work fails: %v", err)
		}
		last := -1
		if err := ordered.Run(t.Context(), 3, 5, count(1000), nothing, func(i int, s *struct{}) error {
			last = i
			return fail(i, s)
		}); err != boom || last != at {
			t.Errorf("done fails at %d: %v after %d", at, err, last)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		if err := ordered.Run(ctx, 3, 5, count(1<<30), nothing, func(i int, _ *struct{}) error {
			if i == at {
				cancel(boom)
			}
			return nil
		}); err != boom {
			t.Errorf("cancelled: %v", err)
		}
		if err := ordered.Run(ctx, 3, 5, count(1), func(int, *struct{}) error {
			t.Error("work after the end")
			return nil
		}, nothing); err != boom {
			t.Errorf("cancelled before the start: %v", err)
		}
	}
}
