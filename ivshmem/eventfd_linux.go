package ivshmem

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// Flags of eventfd2 that package syscall lacks.
const eventfdCloexec = syscall.O_CLOEXEC

// newEventfd returns an eventfd with count 0.
func newEventfd() (*descriptor, error) {
	fd, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, eventfdCloexec|syscall.O_NONBLOCK, 0)
	if errno != 0 {
		return nil, os.NewSyscallError("eventfd2", errno)
	}
	return newDescriptor(int(fd)), nil
}

// newEventfds returns n eventfds.
func newEventfds(n int) ([]*descriptor, error) {
	ds := make([]*descriptor, 0, n)
	for range n {
		d, err := newEventfd()
		if err != nil {
			releaseAll(ds)
			return nil, err
		}
		ds = append(ds, d)
	}
	return ds, nil
}

// checkEventfd reports a descriptor that is something else than an eventfd.
// Where /proc is not mounted it cannot tell.
func checkEventfd(fd int) error {
	link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err == nil && link != "anon_inode:[eventfd]" {
		return fmt.Errorf("the file descriptor is of %s, want an eventfd", link)
	}
	return nil
}

// ring adds 1 to the count. Where the count is as high as it gets the
// interrupt is already under way.
//
// The flag for not blocking belongs to the open file, which all processes
// share that were handed it; QEMU clears it. So it is set anew each time.
func (d *descriptor) ring() error {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	if err := syscall.SetNonblock(d.fd, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	for {
		_, err := syscall.Write(d.fd, one[:])
		switch {
		case err == syscall.EINTR:
			continue
		case err == nil || err == syscall.EAGAIN:
			return nil
		}
		return os.NewSyscallError("write", err)
	}
}

// drain returns the count and makes it 0.
func (d *descriptor) drain() (uint64, error) {
	var b [8]byte
	if err := syscall.SetNonblock(d.fd, true); err != nil {
		return 0, os.NewSyscallError("fcntl", err)
	}
	for {
		n, err := syscall.Read(d.fd, b[:])
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return 0, nil
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n != len(b):
			return 0, errors.New("short read of an eventfd")
		}
		return binary.NativeEndian.Uint64(b[:]), nil
	}
}

func closeFD(fd int) { syscall.Close(fd) }
