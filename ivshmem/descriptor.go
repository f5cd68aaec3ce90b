package ivshmem

import "sync/atomic"

// A descriptor is a file descriptor that is closed when nobody uses it any
// longer: the owner may let go of it while a message that carries it waits for
// a slow client. It stays outside the runtime's poller, which would wake this
// process at every interrupt between two others.
type descriptor struct {
	fd   int
	refs atomic.Int32 // Invariant: fd is open while refs > 0
}

// newDescriptor takes over fd, with one reference.
func newDescriptor(fd int) *descriptor {
	d := &descriptor{fd: fd}
	d.refs.Store(1)
	return d
}

// acquire adds a reference; it reports false where the descriptor is closed.
func (d *descriptor) acquire() bool {
	for {
		n := d.refs.Load()
		if n <= 0 {
			return false
		}
		if d.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release drops a reference.
func (d *descriptor) release() {
	if d.refs.Add(-1) == 0 {
		closeFD(d.fd)
	}
}

func releaseAll(ds []*descriptor) {
	for _, d := range ds {
		d.release()
	}
}
