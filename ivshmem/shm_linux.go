package ivshmem

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// shmPath returns where the shared memory object of that name lies: a slash at
// its front is optional, none can be elsewhere. (shm_open(3))
func shmPath(name string) (string, error) {
	const limit = 255 // NAME_MAX
	base := strings.TrimPrefix(name, "/")
	if base == "" || base == "." || base == ".." || len(base) > limit || strings.ContainsAny(base, "/\x00") {
		return "", errors.New("not a name")
	}
	return filepath.Join("/dev/shm", base), nil
}

// mapMemory maps size bytes of f for reading and writing, shared.
func mapMemory(f *os.File, size int) (b []byte, err error) {
	err = control(f, func(fd int) error {
		b, err = syscall.Mmap(fd, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
		return os.NewSyscallError("mmap", err)
	})
	return b, err
}

func unmapMemory(b []byte) error { return os.NewSyscallError("munmap", syscall.Munmap(b)) }
