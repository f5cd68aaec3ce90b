package ivshmem

import (
	"fmt"
	"io/fs"
	"os"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/memfd"
)

// NewMemory returns shared memory of size bytes that has no name and whose size
// is sealed: no process that it is shared with can truncate it, and so kill the
// others by taking pages away that they have mapped. It is what a [Server] makes
// for itself.
func NewMemory(size int64) (*os.File, error) {
	if err := checkSharedSize(size); err != nil {
		return nil, fmt.Errorf("ivshmem: %w", err)
	}
	f, err := memfd.Create("ivshmem", size)
	if err != nil {
		return nil, fmt.Errorf("ivshmem: %w", err)
	}
	return f, nil
}

// NewMemoryIn returns shared memory of size bytes that is a file without a name
// in dir, such as a mount of hugetlbfs. Its size is not sealed.
func NewMemoryIn(dir string, size int64) (*os.File, error) {
	if err := checkSharedSize(size); err != nil {
		return nil, fmt.Errorf("ivshmem: %w", err)
	}
	f, err := os.CreateTemp(dir, "ivshmem-*")
	if err != nil {
		return nil, fmt.Errorf("ivshmem: %w", err)
	}
	err = os.Remove(f.Name())
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("ivshmem: %w", err)
	}
	return f, nil
}

// OpenSHM opens the POSIX shared memory object of that name, as shm_open does,
// and makes it with size bytes, for its owner only, where it does not exist. An
// object that exists keeps its content and must have that size. Whoever it is
// shared with can truncate it.
func OpenSHM(name string, size int64) (*os.File, error) {
	if err := checkSharedSize(size); err != nil {
		return nil, fmt.Errorf("ivshmem: %w", err)
	}
	path, err := shmPath(name)
	if err != nil {
		return nil, fmt.Errorf("ivshmem: shared memory object %q: %w", name, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("ivshmem: %w", err)
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case !fi.Mode().IsRegular():
		err = fmt.Errorf("%s is not a regular file", path)
	case fi.Size() == 0:
		err = f.Truncate(size)
	case fi.Size() != size:
		err = fmt.Errorf("%s has %d bytes, want %d", path, fi.Size(), size)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("ivshmem: %w", err)
	}
	return f, nil
}

// RemoveSHM removes the POSIX shared memory object of that name, as shm_unlink
// does; who has it open keeps it.
func RemoveSHM(name string) error {
	path, err := shmPath(name)
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil {
		return fmt.Errorf("ivshmem: shared memory object %q: %w", name, err)
	}
	return nil
}

// checkSharedSize reports a size of shared memory that QEMU's device does not
// take: on a size that is no power of two it aborts.
func checkSharedSize(size int64) error {
	least := max(MinSharedSize, os.Getpagesize())
	if size < int64(least) || !align.IsPow2(size) {
		return fmt.Errorf("shared memory of %d bytes, want a power of two of at least %d", size, least)
	}
	return nil
}

// regularSize returns the size of a file that is to be mapped.
func regularSize(f *os.File) (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if fi.Mode()&fs.ModeType != 0 {
		return 0, fmt.Errorf("shared memory is a file of type %v, want a regular one", fi.Mode().Type())
	}
	return fi.Size(), nil
}
