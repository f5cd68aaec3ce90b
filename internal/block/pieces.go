package block

import (
	"iter"
	"os"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/sparse"
)

// follows reports whether p can be one piece with run, before it.
func (p *piece) follows(run *piece) bool {
	return p.off == run.off+run.n && p.zero == run.zero && p.host == run.host &&
		(p.host == nil || p.hostAt == run.hostAt+run.n)
}

// pieces yields the disk cut into pieces, less the zeros that dst has already.
// Pieces to be read end at multiples of the buffer size, so that no two of them
// share a cluster.
func (c *copier) pieces() iter.Seq[piece] {
	return func(yield func(piece) bool) {
		hosts, _ := c.src.(HostFiler)
		if c.Sparse > 0 || c.InOrder || c.dst.file() == nil {
			hosts = nil
		}
		least := int64(worthSharing)
		if hosts != nil && sparse.SharesBlocks(c.dst.file()) {
			least = 0
		}
		var run piece // what is not yielded yet
		for e, err := range WholeDisk(c.src) {
			if err != nil {
				c.cancel(&CopyError{"map", e.Start, err})
				return
			}
			if e.IsZero() && e.Start >= c.dst.zeroFrom || c.skip != nil && c.skip(e) {
				c.report(CopyStats{Skipped: e.Length})
				continue
			}
			next := piece{off: e.Start, n: e.Length, zero: e.IsZero()}
			if hosts != nil && e.Kind == Data && e.HostOffset != NoOffset && e.Length >= least {
				next.host, _ = hosts.HostFile(e.Depth).(*os.File)
				next.hostAt = e.HostOffset
			}
			if next.follows(&run) {
				run.n += next.n
			} else if c.cut(&run, true, yield) {
				run = next
			} else {
				return
			}
			if !c.cut(&run, false, yield) {
				return
			}
		}
		c.cut(&run, true, yield)
	}
}

// cut yields the pieces of run, but for the last one unless all is set, and
// leaves that in run.
func (c *copier) cut(run *piece, all bool, yield func(piece) bool) bool {
	size := int64(c.BufferSize)
	switch {
	case run.zero:
		size = zeroPiece
	case run.host != nil:
		size = sharedPiece
	}
	for run.n > 0 {
		p := *run
		p.n = min(run.n, align.Down(run.off, size)+size-run.off)
		if p.n == run.n && !all {
			break
		}
		if !yield(p) {
			return false
		}
		run.off += p.n
		run.hostAt += p.n
		run.n -= p.n
	}
	return true
}
