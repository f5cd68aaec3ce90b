package memfile

import (
	"iter"
	"math"
	"math/rand/v2"
	"slices"
)

// SectorSize is what storage writes whole or not at all, in bytes.
const SectorSize = 512

// journal holds all that changed a file since Record.
type journal struct {
	base *File
	ops  []entry
}

type entry struct {
	kind Kind
	off  int64
	n    int64
	data []byte
}

// Record starts the journal: the present content counts as durable.
func (f *File) Record() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.journal = &journal{base: f.clone()}
}

// Point returns the present point of the journal: how many operations that
// change the file or sync it have been recorded. A test notes it when a call
// returns, to know later what had been acknowledged before a power cut.
func (f *File) Point() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.journal == nil {
		return 0
	}
	return len(f.journal.ops)
}

func (f *File) record(k Kind, off int64, data []byte, n int64) {
	if f.journal != nil {
		f.journal.ops = append(f.journal.ops, entry{k, off, n, slices.Clone(data)})
	}
}

// A Replay goes through a journal, operation by operation. At each point it
// knows what storage may hold if the power fails there: of each sector
// written since the last successful Sync any content that it had since then,
// independently of all other sectors, and of the length of the file any that
// it had since then. After a Sync that failed, what was not durable then
// stays in doubt until it is written again and synced, because that is what
// page caches do.
type Replay struct {
	ops     []entry
	point   int
	durable *File // all that is certain
	now     *File // all operations applied
	// pending holds, by sector number, the contents that a sector had since
	// it was last certain, oldest first, without the certain one.
	pending map[int64]*sector
	lengths []int64 // that the file had since the last Sync, the certain one first
}

type sector struct {
	versions [][]byte
	doubtful bool // a failed Sync came after the newest version
}

// NewReplay returns a replay of f's journal, at the moment of [File.Record].
//
// Preconditions: Record was called.
func NewReplay(f *File) *Replay {
	f.mu.RLock()
	defer f.mu.RUnlock()
	base := f.journal.base
	return &Replay{
		ops:     slices.Clone(f.journal.ops),
		durable: base.Clone(),
		now:     base.Clone(),
		pending: map[int64]*sector{},
		lengths: []int64{base.Size()},
	}
}

// Point returns how many operations of the journal have been replayed.
func (r *Replay) Point() int { return r.point }

// Next replays one more operation. It reports false at the journal's end.
func (r *Replay) Next() bool {
	if r.point == len(r.ops) {
		return false
	}
	e := r.ops[r.point]
	r.point++
	switch e.kind {
	case Write:
		r.now.store(e.data, e.off)
		if len(e.data) > 0 {
			r.now.size = max(r.now.size, e.off+int64(len(e.data)))
		}
		r.changed(e.off, int64(len(e.data)))
	case Punch:
		n := min(e.n, max(0, r.now.size-e.off))
		r.now.zero(e.off, n)
		r.changed(e.off, n)
	case Truncate:
		old := r.now.size
		r.now.setSize(e.off)
		if e.off < old {
			r.changed(e.off, old-e.off)
		}
	case Sync:
		r.sync()
	case failedSync:
		for _, s := range r.pending {
			s.doubtful = true
		}
	}
	if r.now.size != r.lengths[len(r.lengths)-1] {
		r.lengths = append(r.lengths, r.now.size)
	}
	return true
}

// changed notes the present content of the sectors that the n bytes at off
// touch.
func (r *Replay) changed(off, n int64) {
	for s := off / SectorSize; n > 0 && s <= (off+n-1)/SectorSize; s++ {
		b := make([]byte, SectorSize)
		r.now.load(b, s*SectorSize)
		p := r.pending[s]
		if p == nil {
			p = &sector{}
			r.pending[s] = p
		}
		p.versions = append(p.versions, b)
		p.doubtful = false
	}
}

func (r *Replay) sync() {
	for s, p := range r.pending {
		if p.doubtful {
			continue
		}
		r.durable.store(p.versions[len(p.versions)-1], s*SectorSize)
		delete(r.pending, s)
	}
	r.durable.setSize(r.now.size)
	r.lengths = []int64{r.now.size}
}

// Unsynced returns how many sectors are in doubt at this point.
func (r *Replay) Unsynced() int { return len(r.pending) }

// States returns how many different choices of sectors and length there are
// at this point, at most math.MaxInt.
func (r *Replay) States() int {
	n := len(r.lengths)
	for _, p := range r.pending {
		if n > math.MaxInt/(len(p.versions)+1) {
			return math.MaxInt
		}
		n *= len(p.versions) + 1
	}
	return n
}

// All yields every state in which a power cut at this point may leave the
// file.
func (r *Replay) All() iter.Seq[*File] {
	return func(yield func(*File) bool) {
		sectors := r.sectors()
		pick := make([]int, len(sectors)+1)
		for {
			if !yield(r.state(sectors, pick)) {
				return
			}
			i := 0
			for ; i < len(pick); i++ {
				pick[i]++
				if pick[i] < r.choices(sectors, i) {
					break
				}
				pick[i] = 0
			}
			if i == len(pick) {
				return
			}
		}
	}
}

// Random returns one such state. About a tenth of them have all or none of
// the sectors, the others a share that is random itself.
func (r *Replay) Random(rnd *rand.Rand) *File {
	sectors := r.sectors()
	pick := make([]int, len(sectors)+1)
	share := rnd.Float64()*1.1 - 0.05
	for i := range pick {
		switch n := r.choices(sectors, i); {
		case i < len(sectors) && rnd.Float64() < share:
			pick[i] = n - 1 - rnd.IntN(min(2, n-1))*rnd.IntN(2)
		case i == len(sectors):
			pick[i] = rnd.IntN(n)
		}
	}
	return r.state(sectors, pick)
}

// Now returns the file as it is when every operation so far reached storage.
func (r *Replay) Now() *File { return r.now.Clone() }

func (r *Replay) sectors() []int64 {
	sectors := make([]int64, 0, len(r.pending))
	for s := range r.pending {
		sectors = append(sectors, s)
	}
	slices.Sort(sectors)
	return sectors
}

// choices returns how many values pick[i] has: the versions of a sector and
// the certain one, or, for the last i, the lengths.
func (r *Replay) choices(sectors []int64, i int) int {
	if i == len(sectors) {
		return len(r.lengths)
	}
	return len(r.pending[sectors[i]].versions) + 1
}

func (r *Replay) state(sectors []int64, pick []int) *File {
	f := r.durable.Clone()
	for i, s := range sectors {
		if pick[i] > 0 {
			f.store(r.pending[s].versions[pick[i]-1], s*SectorSize)
		}
	}
	// What lies past the length is cut off before it can be seen.
	f.size = math.MaxInt64
	f.setSize(r.lengths[pick[len(sectors)]])
	return f
}
