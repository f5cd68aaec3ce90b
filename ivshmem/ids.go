package ivshmem

import "math"

// An idPool gives out the IDs of clients: the lowest that no client now
// connected has ever heard of as somebody else's. QEMU 7.2 and 10.0 corrupt
// their heap where an ID comes back that they have seen disconnect.
type idPool struct {
	clock  uint64            // counts joins and departures
	joined map[uint16]uint64 // who is connected, and when it joined
	left   map[uint16]uint64 // when the last holder of a free ID left

	// Below floor no ID is free while the client that is connected the
	// longest is the one that joined at oldest.
	floor  int
	oldest uint64
}

// taken returns how many IDs are in use.
func (p *idPool) taken() int { return len(p.joined) }

// take returns a free ID, or false where none is.
func (p *idPool) take() (uint16, bool) {
	if p.joined == nil {
		p.joined, p.left = map[uint16]uint64{}, map[uint16]uint64{}
	}
	oldest := uint64(math.MaxUint64)
	for _, t := range p.joined {
		oldest = min(oldest, t)
	}
	if oldest != p.oldest {
		p.floor, p.oldest = 0, oldest
	}
	for ; p.floor <= MaxID; p.floor++ {
		id := uint16(p.floor)
		if _, taken := p.joined[id]; taken {
			continue
		}
		if t, used := p.left[id]; used && t > oldest {
			continue
		}
		delete(p.left, id)
		p.clock++
		p.joined[id] = p.clock
		return id, true
	}
	return 0, false
}

// leave frees an ID whose holder others may have heard of.
func (p *idPool) leave(id uint16) {
	p.clock++
	delete(p.joined, id)
	p.left[id] = p.clock
}

// giveBack frees an ID that nobody has heard of.
func (p *idPool) giveBack(id uint16) {
	delete(p.joined, id)
	p.floor = min(p.floor, int(id))
}
