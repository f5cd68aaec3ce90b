package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/vma"
)

// A driveMap says where devices go. Its lines are
//
//	[format=F:][throttling.bps=N:][throttling.group=G:][cache=M:]{0|1}:NAME=PATH
//	skip=NAME
//
// and 1 means that zeros must be written, because the disk at PATH holds
// something else.
type driveMap struct {
	drives map[string]*mapped
	limits map[string]*limiter // by throttling group
	open   []io.Closer
}

// A mapped drive is a line of a driveMap.
type mapped struct {
	skip, writeZeroes  bool
	name, path, format string
	limit              *limiter
}

// readMap reads a map, often from a pipe whose writer waits for what was
// printed before, up to a line "done" or an empty one. Every device must be in
// it.
func (c *command) readMap(name string, h *vma.Header) (*driveMap, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m := &driveMap{drives: make(map[string]*mapped), limits: make(map[string]*limiter)}
	s := bufio.NewScanner(f)
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		if line == "" || line == "done" {
			break
		}
		d, err := m.parse(line)
		if err != nil {
			return nil, err
		}
		if m.drives[d.name] != nil {
			return nil, fmt.Errorf("duplicate entry in map for '%s'", d.name)
		}
		m.drives[d.name] = d
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	vm, _ := h.VMState()
	for _, d := range h.Devices {
		e := m.drives[d.Name]
		switch {
		case d.ID == vm.ID:
		case e == nil:
			return nil, fmt.Errorf("no device name mapping for '%s'", d.Name)
		case !e.skip:
			zeroes := 0
			if e.writeZeroes {
				zeroes = 1
			}
			fmt.Fprintf(c.stdout, "map '%s' to '%s' (write zeros = %d)\n", e.name, e.path, zeroes)
		}
	}
	return m, nil
}

// parse parses a line.
func (m *driveMap) parse(line string) (*mapped, error) {
	bad := fmt.Errorf("read map failed - parse error ('%s')", line)
	if name, ok := strings.CutPrefix(line, "skip="); ok {
		return &mapped{name: name, skip: true}, nil
	}
	d, bps, group := &mapped{format: "raw"}, int64(0), ""
	for {
		field, rest, ok := strings.Cut(line, ":")
		key, value, _ := strings.Cut(field, "=")
		if !ok {
			return nil, bad
		}
		line = rest
		switch key {
		case "format":
			d.format = value
		case "throttling.bps":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return nil, bad
			}
			bps = n
		case "throttling.group":
			group = value
		case "cache":
		case "0", "1":
			d.writeZeroes = key == "1"
			d.name, d.path, ok = strings.Cut(line, "=")
			if !ok {
				return nil, bad
			}
			d.limit = m.limiter(group, bps)
			return d, nil
		default:
			return nil, bad
		}
	}
}

// limiter returns the limiter of a group, a new one for none, nil for no
// limit.
func (m *driveMap) limiter(group string, bps int64) *limiter {
	l := m.limits[group]
	if (l == nil || group == "") && bps > 0 {
		l = &limiter{bps: bps}
		m.limits[group] = l
	}
	return l
}

func (m *driveMap) skips(d vma.DeviceInfo) bool {
	e := m.drives[d.Name]
	return e != nil && e.skip
}

// target opens the disk of a device, which must be large enough.
func (m *driveMap) target(d vma.DeviceInfo) (*vma.Target, error) {
	e := m.drives[d.Name]
	if e == nil {
		return nil, nil // vmstate, into the directory
	}
	disk, err := openDisk(e.path, e.format, true)
	if err != nil {
		return nil, err
	}
	m.open = append(m.open, disk.close)
	if disk.size < d.Size {
		return nil, fmt.Errorf("%s: %d bytes, %s has %d", e.path, disk.size, d.Name, d.Size)
	}
	t := &vma.Target{W: disk.w, Zeroed: !e.writeZeroes, KeepSize: true, Whole: disk.whole}
	if e.limit != nil {
		t.W = &slowed{disk.w, e.limit}
	}
	return t, nil
}

func (m *driveMap) close() (err error) {
	for _, c := range m.open {
		err = errors.Join(err, c.Close())
	}
	return err
}

// A limiter lets so many bytes a second pass.
type limiter struct {
	bps  int64
	mu   sync.Mutex
	next time.Time // when the next byte may pass
}

func (l *limiter) wait(n int) {
	l.mu.Lock()
	now := time.Now()
	if l.next.Before(now) {
		l.next = now
	}
	l.next = l.next.Add(time.Duration(float64(n) / float64(l.bps) * float64(time.Second)))
	until := l.next
	l.mu.Unlock()
	time.Sleep(time.Until(until))
}

// A slowed target takes no more bytes a second than its limiter lets pass.
type slowed struct {
	w     io.WriterAt
	limit *limiter
}

func (s *slowed) WriteAt(p []byte, off int64) (int, error) {
	s.limit.wait(len(p))
	return s.w.WriteAt(p, off)
}

// WriteZeroesAt is not slowed where the disk can do it by itself.
func (s *slowed) WriteZeroesAt(off, n int64) error {
	if z, ok := s.w.(block.ZeroWriter); ok {
		return z.WriteZeroesAt(off, n)
	}
	return errors.ErrUnsupported
}
