// Package ordered does work in parallel and hands on the results in order.
package ordered

import (
	"context"
	"iter"
	"sync"
)

// Run calls work for each job with one of several workers, and then done for
// each in the order of jobs, one at a time. Up to ahead jobs are between the
// two at any time; each has one of as many values of type S to itself, such as
// a buffer, which is made by the zero value and used again.
//
// The first error of work or done, or the cause of ctx, ends the run: no call
// starts after it, and Run returns when those that run have ended. jobs is
// called by the goroutine that called Run; it may end the run by ending ctx.
//
// Preconditions: workers >= 1 and ahead >= workers.
func Run[J, S any](ctx context.Context, workers, ahead int, jobs iter.Seq[J], work, done func(J, *S) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type task struct {
		job    J
		slot   *S
		worked chan struct{}
	}
	// A slot is taken in the order of jobs, before the work is handed out: so
	// the job that is next to be done never waits for one.
	slots := make(chan *S, ahead)
	for range ahead {
		slots <- new(S)
	}
	tasks, order := make(chan *task, ahead), make(chan *task, ahead)
	var group sync.WaitGroup
	call := func(f func(J, *S) error, t *task) {
		if ctx.Err() != nil {
			return
		}
		if err := f(t.job, t.slot); err != nil {
			cancel(err)
		}
	}
	for range workers {
		group.Go(func() {
			for t := range tasks {
				call(work, t)
				close(t.worked)
			}
		})
	}
	group.Go(func() {
		for t := range order {
			<-t.worked
			call(done, t)
			slots <- t.slot
		}
	})
	for job := range jobs {
		var slot *S
		select {
		case slot = <-slots:
		case <-ctx.Done():
		}
		if slot == nil || ctx.Err() != nil {
			break
		}
		t := &task{job, slot, make(chan struct{})}
		tasks <- t
		order <- t
	}
	close(tasks)
	close(order)
	group.Wait()
	return context.Cause(ctx)
}
