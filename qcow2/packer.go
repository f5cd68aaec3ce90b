package qcow2

import "github.com/virtfmt/virtfmt/internal/align"

// A packer gives clusters their places in an image that is written front to
// back. Compressed clusters follow each other without a gap, over the borders
// of host clusters too; a plain cluster begins a host cluster, and so waits in
// memory until compressed ones have filled theirs.
type packer struct {
	layout
	pos     int64    // bytes laid out
	refs    []uint16 // the refcount of each host cluster
	waiting []waiting
	set     func(guest int64, e l2Entry) error // is told each entry, with its offset
	out     func(p []byte) error               // is given the bytes in order, nil for none
	free    [][]byte                           // buffers of clusters that waited

	// checking says that set is to compare and not to set.
	checking bool
}

// waiting is a plain cluster that waits for the border of a host cluster.
type waiting struct {
	guest int64
	data  []byte
}

// maxWaiting bounds the bytes that wait, but for one cluster.
const maxWaiting = 1 << 20

// plain adds a guest cluster that is stored as it is.
func (p *packer) plain(guest int64, data []byte) error {
	if p.offsetInCluster(p.pos) == 0 {
		if err := p.flush(); err != nil {
			return err
		}
		return p.place(guest, data)
	}
	var buf []byte
	if n := len(p.free); n > 0 {
		buf, p.free = p.free[n-1], p.free[:n-1]
	}
	p.waiting = append(p.waiting, waiting{guest, append(buf[:0], data...)})
	if int64(len(p.waiting))<<p.clusterBits < maxWaiting {
		return nil
	}
	if err := p.pad(p.clusterSize()); err != nil {
		return err
	}
	return p.flush()
}

// place puts a plain cluster at the border of a host cluster.
func (p *packer) place(guest int64, data []byte) error {
	e := makeL2Entry(hostOff(p.pos), true)
	p.refs = append(p.refs, 1)
	if err := p.write(data); err != nil {
		return err
	}
	return p.set(guest, e)
}

// compressed adds a guest cluster that is stored compressed.
func (p *packer) compressed(guest int64, data []byte) error {
	rest := align.Up(p.pos, p.clusterSize()) - p.pos // of the host cluster
	fits := int64(len(data)) <= rest
	if rest > 0 && (!fits && len(p.waiting) > 0 || p.shared()) {
		if err := p.pad(p.clusterSize()); err != nil {
			return err
		}
	}
	if p.offsetInCluster(p.pos) == 0 {
		if err := p.flush(); err != nil {
			return err
		}
		p.refs = append(p.refs, 0)
	}
	e := p.makeCompressedEntry(hostOff(p.pos), int64(len(data)))
	p.refs[len(p.refs)-1]++
	if p.pos>>p.clusterBits != (p.pos+int64(len(data))-1)>>p.clusterBits {
		p.refs = append(p.refs, 1)
	}
	if err := p.write(data); err != nil {
		return err
	}
	return p.set(guest, e)
}

// shared reports whether no more clusters can share the host cluster that is
// being filled. With refcounts of one bit none can, and so none continues in
// the next one either.
func (p *packer) shared() bool {
	n := uint64(p.refs[len(p.refs)-1])
	return n == maxRefcount(min(p.refcountOrder, 4))
}

// flush places the clusters that wait.
func (p *packer) flush() error {
	for _, w := range p.waiting {
		if err := p.place(w.guest, w.data); err != nil {
			return err
		}
		p.free = append(p.free, w.data)
	}
	p.waiting = p.waiting[:0]
	return nil
}

// end places what waits and fills the last sector.
func (p *packer) end() error {
	if len(p.waiting) > 0 {
		if err := p.pad(p.clusterSize()); err != nil {
			return err
		}
		if err := p.flush(); err != nil {
			return err
		}
	}
	return p.pad(sectorSize)
}

// pad fills up with zeros to a multiple of unit.
func (p *packer) pad(unit int64) error {
	return p.write(make([]byte, align.Up(p.pos, unit)-p.pos))
}

func (p *packer) write(b []byte) error {
	p.pos += int64(len(b))
	if p.out == nil || len(b) == 0 {
		return nil
	}
	return p.out(b)
}
