package main

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
)

// A benchmark is a run of "qimg bench".
type benchmark struct {
	settings
	count, depth           int64
	offset, size, step     int64
	pattern                int64
	flush                  int64 // every so many requests, 0 for never
	write, noDrain, native bool
}

// bench runs "qimg bench".
func (c *command) bench(args []string) error {
	b := &benchmark{count: 75000, depth: 64, size: 4096}
	opts, operands, err := parse(args, "c:d:f:ni:o:qs:S:t:wU", "pattern: flush-interval: image-opts force-share=U no-drain")
	if err != nil {
		return err
	}
	for _, o := range opts {
		ok, err := b.settings.set(o)
		if !ok && err == nil {
			err = b.setOption(o)
		}
		if err != nil {
			return err
		}
	}
	name, err := oneFile(operands)
	if err == nil {
		err = b.check()
	}
	if err != nil {
		return err
	}
	switch {
	case !b.write && b.flush > 0:
		return message("--flush-interval is only available in write tests")
	case b.flush > 0 && b.flush < b.depth:
		return message("Flush interval can't be smaller than depth")
	case b.depth == 0:
		return message("Invalid queue depth specified")
	}
	return c.runBenchmark(name, b)
}

// setOption takes an option of bench alone.
func (b *benchmark) setOption(o option) (err error) {
	number := func(what string, to *int64, most int64) error {
		n, err := parseNumber(o.value)
		if err != nil || n < 0 || n > most {
			return messagef("Invalid %s specified", what)
		}
		*to = n
		return nil
	}
	bytes := func(what string, to *int64) error {
		n, err := imgopen.ParseSize(o.value)
		if errors.Is(err, imgopen.ErrSize) {
			_, err = size(o.value, what)
			return err
		}
		if err != nil || n > 1<<31-1 {
			return messagef("Invalid %s specified", what)
		}
		*to = n
		return nil
	}
	switch o.name {
	case "c":
		return number("request count", &b.count, 1<<31-1)
	case "d":
		return number("queue depth", &b.depth, 1<<31-1)
	case "n":
		b.native = true
	case "i":
		b.native = o.value == "native"
		if o.value != "threads" && o.value != "native" && o.value != "io_uring" {
			return messagef("Invalid aio option: %s", o.value)
		}
	case "o":
		b.offset, err = size(o.value, "offset")
		return err
	case "s":
		return bytes("buffer size", &b.size)
	case "S":
		return bytes("step_size", &b.step)
	case "w":
		b.write = true
	case "pattern":
		return number("pattern byte", &b.pattern, 255)
	case "flush-interval":
		return number("flush interval", &b.flush, 1<<31-1)
	case "no-drain":
		b.noDrain = true
	}
	return nil
}

func (c *command) runBenchmark(name string, b *benchmark) (err error) {
	switch {
	case b.native && !c.writing(&b.settings).Direct:
		return messagef("Could not open '%s': aio=native was specified, but it requires cache.direct=on, which was not specified.", name)
	case b.write && b.noLock:
		return messagef("Could not open '%s': force-share=on can only be used with read-only images", name)
	}
	o := c.writing(&b.settings)
	o.Write = b.write
	img, err := c.open(name, o)
	if err != nil {
		return err
	}
	defer closing(img, &err)
	if b.step == 0 {
		b.step = b.size
	}
	kind := "read"
	if b.write {
		kind = "write"
	}
	fmt.Fprintf(c.stdout, "Sending %d %s requests, %d bytes each, %d in parallel (starting at offset %d, step size %d)\n",
		b.count, kind, b.size, b.depth, b.offset, b.step)
	if b.flush > 0 {
		fmt.Fprintf(c.stdout, "Sending flush every %d requests\n", b.flush)
	}
	start := time.Now()
	if err := c.request(img, b); err != nil {
		return messagef("Failed request: %v", imgopen.Reason(err))
	}
	fmt.Fprintf(c.stdout, "Run completed in %.3f seconds.\n", time.Since(start).Seconds())
	return nil
}

// request sends all requests, as many at a time as b says.
func (c *command) request(img *imgopen.Image, b *benchmark) error {
	var next, done atomic.Int64
	var failed atomic.Pointer[error]
	var workers sync.WaitGroup
	var drain sync.RWMutex // held exclusively by a flush that waits for the others
	one := func(i int64, buf []byte) error {
		drain.RLock()
		defer drain.RUnlock()
		off := b.offset
		switch {
		case i > 0 && img.Size() <= b.size:
			off = 0
		case i > 0:
			off = (b.offset + i*b.step) % img.Size()
		}
		if b.write {
			_, err := img.Writer().WriteAt(buf, off)
			return err
		}
		n, err := img.ReadAt(buf, off)
		switch {
		case err == io.EOF && n == len(buf):
			err = nil
		case err == io.EOF:
			err = message("Input/output error")
		}
		return err
	}
	flush := func() error {
		if !b.noDrain {
			drain.Lock()
			defer drain.Unlock()
		}
		return img.Writer().Sync()
	}
	for range min(b.depth, b.count) {
		workers.Go(func() {
			buf := make([]byte, b.size)
			for i := range buf {
				buf[i] = byte(b.pattern)
			}
			for failed.Load() == nil && c.ctx.Err() == nil {
				i := next.Add(1) - 1
				if i >= b.count {
					return
				}
				err := one(i, buf)
				if err == nil && b.flush > 0 && done.Add(1)%b.flush == 0 {
					err = flush()
				}
				if err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	workers.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return c.ctx.Err()
}
