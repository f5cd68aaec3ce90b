package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/block"
)

// A limiter lets bytes pass at a limited rate.
type limiter struct {
	ctx  context.Context
	rate int64 // bytes a second

	mu   sync.Mutex // guards next
	next time.Time  // when the next bytes may pass
}

// wait waits until n bytes may pass.
func (l *limiter) wait(n int) error {
	l.mu.Lock()
	now := time.Now()
	if l.next.Before(now) {
		l.next = now
	}
	wait := l.next.Sub(now)
	l.next = l.next.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
	l.mu.Unlock()
	select {
	case <-time.After(wait):
		return nil
	case <-l.ctx.Done():
		return context.Cause(l.ctx)
	}
}

// A limited disk is read at a limited rate.
type limited struct {
	block.Disk
	limit *limiter
}

func (l *limited) ReadAt(p []byte, off int64) (int, error) {
	if err := l.limit.wait(len(p)); err != nil {
		return 0, err
	}
	return l.Disk.ReadAt(p, off)
}

// A limitedTarget is an image that is written at a limited rate.
type limitedTarget struct {
	imgopen.Writer
	image *imgopen.Image
	limit *limiter
}

func (l *limitedTarget) Size() int64 { return l.image.Size() }

func (l *limitedTarget) WriteAt(p []byte, off int64) (int, error) {
	if err := l.limit.wait(len(p)); err != nil {
		return 0, err
	}
	return l.Writer.WriteAt(p, off)
}

// WriteZeroesAt makes n bytes at off read as zeros.
func (l *limitedTarget) WriteZeroesAt(off, n int64) error {
	if z, ok := l.Writer.(block.ZeroWriter); ok {
		return z.WriteZeroesAt(off, n)
	}
	return errors.ErrUnsupported
}
