package imagelock

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// A permission has a byte that says that it is used, and one that says that it
// is denied.
const (
	lockUsed   = 100 // + permission: it is used
	lockDenied = 200 // + permission: others must not use it

	permRead   = 0 // what is read is consistent
	permWrite  = 1
	permResize = 3

	getOFDLock = 36 // fcntl(2): F_OFD_GETLK
	setOFDLock = 37 // F_OFD_SETLK
)

var permNames = map[int64]string{permRead: "read", permWrite: "write", permResize: "resize"}

// Lock takes the locks that QEMU takes for an image that it reads, or writes
// as well. It is [ErrLocked] if another program uses the file in a way that
// does not go with that. A file system without such locks is no error.
func Lock(f *os.File, write bool) error {
	used := []int64{permRead}
	if write {
		used = append(used, permWrite, permResize)
	}
	denied := []int64{permWrite, permResize}
	for _, p := range used {
		if err := lockByte(f, lockUsed+p); err != nil {
			return ignoreUnsupported(err)
		}
	}
	for _, p := range denied {
		if err := lockByte(f, lockDenied+p); err != nil {
			return err
		}
	}
	for _, p := range used {
		if err := checkByte(f, lockDenied+p); err != nil {
			return fmt.Errorf("%w: permission to %s is denied", err, permNames[p])
		}
	}
	for _, p := range denied {
		if err := checkByte(f, lockUsed+p); err != nil {
			return fmt.Errorf("%w: permission to %s is used", err, permNames[p])
		}
	}
	return nil
}

// lockByte takes a read lock on a byte.
func lockByte(f *os.File, off int64) error {
	return fcntl(f, setOFDLock, &syscall.Flock_t{Type: syscall.F_RDLCK, Whence: io.SeekStart, Start: off, Len: 1})
}

// checkByte is ErrLocked if somebody else holds a lock on a byte.
func checkByte(f *os.File, off int64) error {
	l := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: off, Len: 1}
	if err := fcntl(f, getOFDLock, &l); err != nil {
		return err
	}
	if l.Type != syscall.F_UNLCK {
		return ErrLocked
	}
	return nil
}

func fcntl(f *os.File, cmd int, l *syscall.Flock_t) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno error
	if err := c.Control(func(fd uintptr) { errno = syscall.FcntlFlock(fd, cmd, l) }); err != nil {
		return err
	}
	if errno != nil {
		return &os.PathError{Op: "lock", Path: f.Name(), Err: errno}
	}
	return nil
}

// ignoreUnsupported makes locking optional where the system or the file system
// has no such locks, as QEMU does.
func ignoreUnsupported(err error) error {
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}
