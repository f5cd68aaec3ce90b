package nbd

import (
	"encoding/binary"
	"strings"

	"github.com/virtfmt/virtfmt/internal/block"
)

// blockStatus answers with one chunk for each context that was selected.
func (s *session) blockStatus(q request) error {
	for i, m := range s.meta {
		limit := maxExtents
		if q.flags&cmdFlagReqOne != 0 {
			limit = 1
		}
		d := &descriptors{limit: limit, end: q.off}
		var err error
		if name, ok := strings.CutPrefix(m.name, dirtyPrefix); ok {
			s.dirty(d, name, q.off, q.n)
		} else {
			err = s.status(d, m.name, q.off, q.n)
		}
		if err != nil {
			return s.fail(q, err)
		}
		flags := uint16(0)
		if i == len(s.meta)-1 {
			flags = chunkDone
		}
		b := binary.BigEndian.AppendUint32(nil, m.id)
		if err := s.chunk(q, flags, chunkBlockStatus, append(b, d.bytes()...), nil); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) status(d *descriptors, context string, off, n int64) error {
	for e, err := range s.e.Disk.Extents(off, n) {
		if err != nil {
			return err
		}
		var state uint32
		switch {
		case context == "qemu:allocation-depth":
			if e.Kind != block.Unallocated {
				state = uint32(e.Depth) + 1
			}
		case e.Kind == block.Unallocated:
			state = stateHole | stateZero
		case e.Kind == block.Zero && e.HostOffset == block.NoOffset:
			state = stateHole | stateZero
		case e.Kind == block.Zero:
			state = stateZero
		}
		if !d.add(e.Length, state) {
			return nil
		}
	}
	return nil
}

func (s *session) dirty(d *descriptors, name string, off, n int64) {
	for _, b := range s.e.Bitmaps {
		if b.Name != name {
			continue
		}
		end := off + n
		for start, length := range b.Dirty(off, n) {
			if start > off && !d.add(start-off, 0) {
				return
			}
			if !d.add(length, stateDirty) {
				return
			}
			off = start + length
		}
		if off < end {
			d.add(end-off, 0)
		}
	}
}

// descriptors collects block status, neighbours of one state merged.
type descriptors struct {
	limit int
	end   int64
	list  []descriptor
}

type descriptor struct{ n, state uint32 }

// add appends n bytes of a state. It reports false when no more fit.
func (d *descriptors) add(n int64, state uint32) bool {
	const most = 1<<32 - 64<<10
	for n > 0 {
		if k := len(d.list); k > 0 && d.list[k-1].state == state && int64(d.list[k-1].n)+n <= most {
			d.list[k-1].n += uint32(n)
			return true
		}
		if len(d.list) == d.limit {
			return false
		}
		step := min(n, most)
		d.list = append(d.list, descriptor{uint32(step), state})
		n -= step
	}
	return true
}

func (d *descriptors) bytes() []byte {
	var b []byte
	for _, e := range d.list {
		b = binary.BigEndian.AppendUint32(b, e.n)
		b = binary.BigEndian.AppendUint32(b, e.state)
	}
	return b
}
