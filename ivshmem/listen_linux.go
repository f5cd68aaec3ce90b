package ivshmem

import (
	"errors"
	"os"
	"syscall"
)

// isStale reports whether dialling failed because nobody listens on the socket.
func isStale(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// inUse reports whether listening failed because the name is taken.
func inUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }

// lockSocket waits for the lock that goes with the socket at path.
//
// The socket itself cannot be locked, and there is none at first. The file that
// is locked in its place is removed by whoever holds the lock; one who waited
// for it meanwhile has the lock of a file that is gone, and begins anew.
func lockSocket(path string) (unlock func(), err error) {
	name := path + ".lock"
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		current, err := lockFile(f)
		if err != nil {
			f.Close()
			return nil, err
		}
		if current {
			return func() {
				os.Remove(name)
				f.Close()
			}, nil
		}
		f.Close()
	}
}

// lockFile locks f, and reports whether its name is still that of f.
func lockFile(f *os.File) (current bool, err error) {
	err = control(f, func(fd int) error {
		for {
			if err := syscall.Flock(fd, syscall.LOCK_EX); err != syscall.EINTR {
				return os.NewSyscallError("flock", err)
			}
		}
	})
	if err != nil {
		return false, err
	}
	locked, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Lstat(f.Name())
	return err == nil && os.SameFile(locked, named), nil
}
