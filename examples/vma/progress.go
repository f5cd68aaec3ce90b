package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/virtfmt/virtfmt/vma"
)

// percent returns a function that prints progress to w as the original does: a
// line for each percent.
func percent(w io.Writer) func(vma.Progress) {
	start, last := time.Now(), int64(0)
	return func(p vma.Progress) {
		if p.Total == 0 {
			return
		}
		if now := p.Done * 100 / p.Total; now > last {
			last = now
			fmt.Fprintf(w, "progress %d%% (read %d bytes, duration %d sec)\n", now, p.Done, int64(time.Since(start).Seconds()))
		}
	}
}

// A bar shows progress on a terminal, and nothing elsewhere.
type bar struct {
	w           io.Writer // nil for none
	name        string
	start, last time.Time
	total       int64
}

// bar returns a bar with a name.
func (c *command) bar(name string) *bar {
	b := &bar{name: name, start: time.Now()}
	if f, ok := c.stderr.(*os.File); ok {
		if fi, err := f.Stat(); err == nil && fi.Mode()&os.ModeCharDevice != 0 {
			b.w = f
		}
	}
	return b
}

const (
	barWidth = 30
	barPause = 100 * time.Millisecond
)

// show draws the bar, at most ten times a second.
func (b *bar) show(done, total int64) {
	b.total = total
	if b.w == nil || total == 0 || time.Since(b.last) < barPause {
		return
	}
	b.last = time.Now()
	b.draw(done)
}

func (b *bar) draw(done int64) {
	filled := int(done * barWidth / b.total)
	seconds := time.Since(b.start).Seconds()
	rate, left := float64(done)/seconds, "     "
	if done > 0 && done < b.total {
		s := int(seconds * float64(b.total-done) / float64(done))
		left = fmt.Sprintf("%2d:%02d", s/60, s%60)
	}
	fmt.Fprintf(b.w, "\r%-16.16s [%s%s] %3d%% %8.1f MiB/s %s", b.name, strings.Repeat("=", filled),
		strings.Repeat(" ", barWidth-filled), done*100/b.total, rate/(1<<20), left)
}

// done ends the bar, full if all went well.
func (b *bar) done(ok bool) {
	if b.w == nil || b.total == 0 {
		return
	}
	if ok {
		b.draw(b.total)
	}
	fmt.Fprintln(b.w)
}
