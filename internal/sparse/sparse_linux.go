package sparse

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// lseek(2), fallocate(2) and statfs(2).
const (
	seekToData = 3
	seekToHole = 4
	keepSize   = 1
	punch      = 2
	tmpfs      = 0x01021994
	ext        = 0xef53 // ext2, ext3 and ext4
)

func seekData(f *os.File, off int64) (int64, error) { return seek(f, off, seekToData) }
func seekHole(f *os.File, off int64) (int64, error) { return seek(f, off, seekToHole) }

func seek(f *os.File, off int64, whence int) (int64, error) {
	at, err := f.Seek(off, whence)
	switch {
	case errors.Is(err, syscall.ENXIO):
		return 0, io.EOF
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ESPIPE):
		return 0, unsupported("seek", f, err)
	}
	return at, err
}

func punchHole(f *os.File, off, n int64) error {
	return allocate(f, punch|keepSize, off, n)
}

func reserve(f *os.File, off, n int64) error { return allocate(f, 0, off, n) }

func allocate(f *os.File, mode uint32, off, n int64) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = c.Control(func(fd uintptr) {
		failed = syscall.EINTR
		for failed == syscall.EINTR {
			failed = syscall.Fallocate(int(fd), mode, off, n)
		}
	})
	switch failed {
	case nil:
		return err
	case syscall.EOPNOTSUPP, syscall.ENOSYS, syscall.ENODEV, syscall.ESPIPE:
		return unsupported("fallocate", f, failed)
	}
	return &os.PathError{Op: "fallocate", Path: f.Name(), Err: failed}
}

func sharesBlocks(f *os.File) bool {
	c, err := f.SyscallConn()
	if err != nil {
		return true
	}
	var st syscall.Statfs_t
	var failed error
	err = c.Control(func(fd uintptr) { failed = syscall.Fstatfs(int(fd), &st) })
	return err != nil || failed != nil || st.Type != tmpfs && st.Type != ext
}
