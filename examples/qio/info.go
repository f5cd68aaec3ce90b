package main

import (
	"fmt"

	"github.com/virtfmt/virtfmt/examples/internal/imginfo"
	"github.com/virtfmt/virtfmt/qcow2"
)

func (s *session) info(*verb, []string) {
	cluster := s.img.ClusterSize()
	if s.img.Raw != nil {
		cluster = 0
	}
	var stateOffset float64
	q := s.img.Qcow2
	if q != nil {
		stateOffset = vmStateOffset(q)
	}
	fmt.Fprintf(s.out, "format name: %s\ncluster size: %s\nvm state offset: %s\n", s.img.Format, human(float64(cluster)), human(stateOffset))
	if q == nil {
		return
	}
	o, err := imginfo.Qcow2(q, s.img.Writer() != nil) // one that is open for writing uses its bitmaps
	if err != nil {
		s.fail("qio: %v\n", err)
		return
	}
	fmt.Fprintln(s.out, "Format specific information:")
	imginfo.WriteText(s.out, o, "    ")
}

// vmStateOffset returns where the VM state of an image begins, as counted by
// qemu-io: after all that the L1 table describes of the disk.
func vmStateOffset(q *qcow2.Image) float64 {
	h := q.Header()
	entry := int64(8)
	if h.IncompatibleFeatures&qcow2.IncompatExtendedL2 != 0 {
		entry = 16
	}
	covers := float64(h.ClusterSize()) * float64(h.ClusterSize()/entry)
	return float64(int64((float64(q.Size())+covers-1)/covers)) * covers
}
