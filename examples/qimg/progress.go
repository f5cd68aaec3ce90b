package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/virtfmt/virtfmt/examples/internal/sticky"
)

// A progress shows how far something is: on a terminal by a bar, elsewhere by
// percents, as qemu-img does.
type progress struct {
	w    io.Writer // nil for none
	bar  bool
	mu   sync.Mutex // guards what follows
	last float64    // percent shown
	done float64    // percent
	at   time.Time
}

func (c *command) newProgress(s *settings) *progress {
	p := &progress{}
	if !s.progress || s.quiet {
		if c.asked != nil {
			go p.tell(c.asked, c.stderr)
		}
		return p
	}
	p.w = c.stdout
	if f, ok := c.stdout.(*sticky.Writer).Writer.(*os.File); ok {
		fi, err := f.Stat()
		p.bar = err == nil && fi.Mode()&os.ModeCharDevice != 0
	}
	p.print(0)
	return p
}

// show shows that so much is done.
func (p *progress) show(done, total int64) {
	if total == 0 {
		return
	}
	percent := float64(done) * 100 / float64(total)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = percent
	if p.w == nil {
		return
	}
	if percent-p.last >= 1 && (!p.bar || time.Since(p.at) > 50*time.Millisecond) {
		p.print(percent)
	}
}

// tell prints how far it is whenever somebody asks.
func (p *progress) tell(asked <-chan os.Signal, w io.Writer) {
	for range asked {
		p.mu.Lock()
		fmt.Fprintf(w, "    (%3.2f/100%%)\n", p.done)
		p.mu.Unlock()
	}
}

func (p *progress) print(percent float64) {
	p.last, p.at = percent, time.Now()
	if p.bar {
		const width = 50
		n := int(percent * width / 100)
		fmt.Fprintf(p.w, "\r[%s%s] %5.1f%% ", strings.Repeat("=", n), strings.Repeat(" ", width-n), percent)
		return
	}
	fmt.Fprintf(p.w, "    (%3.2f/100%%)\r", percent)
}

// end ends the line.
func (p *progress) end() {
	if p.w != nil {
		fmt.Fprintln(p.w)
	}
}

// finish shows that all is done, and ends the line.
func (p *progress) finish() {
	if p.w != nil {
		p.mu.Lock()
		p.print(100)
		p.mu.Unlock()
	}
	p.end()
}
