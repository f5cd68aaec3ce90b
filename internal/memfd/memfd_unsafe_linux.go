// Package memfd makes files that live in memory and have no name.
package memfd

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// Flags of memfd_create and commands of fcntl that package syscall lacks.
const (
	mfdCloexec      = 0x1
	mfdAllowSealing = 0x2
	mfdNoexecSeal   = 0x8 // Linux 6.3
	fAddSeals       = 1033
	fGetSeals       = 1034
	sealSeal        = 0x1
	sealShrink      = 0x2
	sealGrow        = 0x4
)

// trap is the number of memfd_create on each architecture; package syscall has
// it on some.
var trap = map[string]uintptr{
	"386": 356, "amd64": 319, "arm": 385, "arm64": 279, "loong64": 279, "mips": 4354, "mipsle": 4354,
	"mips64": 5314, "mips64le": 5314, "ppc64": 360, "ppc64le": 360, "riscv64": 279, "s390x": 350,
}

// Create returns a file of size bytes in memory, all zeros, whose size is
// sealed: no process that is handed the file can change it, so that none can
// take pages away from under another that maps them. The name shows in
// /proc only. The file is not inherited by programs that are run.
func Create(name string, size int64) (*os.File, error) {
	b, err := syscall.BytePtrFromString(name)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	nr, ok := trap[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("memfd_create on %s: %w", runtime.GOARCH, errors.ErrUnsupported)
	}
	create := func(flags uintptr) (uintptr, syscall.Errno) {
		fd, _, errno := syscall.Syscall(nr, uintptr(unsafe.Pointer(b)), flags, 0)
		return fd, errno
	}
	fd, errno := create(mfdCloexec | mfdAllowSealing | mfdNoexecSeal)
	if errno == syscall.EINVAL {
		fd, errno = create(mfdCloexec | mfdAllowSealing)
	}
	if errno != 0 {
		return nil, os.NewSyscallError("memfd_create", errno)
	}
	f := os.NewFile(fd, name)
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, err
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, fAddSeals, sealShrink|sealGrow|sealSeal); errno != 0 {
		f.Close()
		return nil, os.NewSyscallError("fcntl", errno)
	}
	return f, nil
}

// Sealed reports whether the size of f is sealed, as that of a file made by
// [Create] is.
func Sealed(f *os.File) bool {
	rc, err := f.SyscallConn()
	if err != nil {
		return false
	}
	const want = sealShrink | sealGrow
	var seals uintptr
	err = rc.Control(func(fd uintptr) {
		var errno syscall.Errno
		if seals, _, errno = syscall.Syscall(syscall.SYS_FCNTL, fd, fGetSeals, 0); errno != 0 {
			seals = 0
		}
	})
	return err == nil && seals&want == want
}
