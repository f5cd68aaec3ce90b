package sparse

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// copyFileRange is the number of the system call copy_file_range(2), which
// package syscall has not, or 0 where it is not known.
var copyFileRange = map[string]uintptr{
	"386":      377,
	"amd64":    326,
	"arm":      391,
	"arm64":    285,
	"loong64":  285,
	"mips":     4360,
	"mipsle":   4360,
	"mips64":   5320,
	"mips64le": 5320,
	"ppc64":    379,
	"ppc64le":  379,
	"riscv64":  285,
	"s390x":    375,
}[runtime.GOARCH]

// atOnce is how much the kernel is asked to copy in one call.
const atOnce = 1 << 30

func copyRange(dst *os.File, dstOff int64, src *os.File, srcOff, n int64) (int64, error) {
	if copyFileRange == 0 {
		return 0, unsupported("copy_file_range", dst, syscall.ENOSYS)
	}
	to, err := dst.SyscallConn()
	if err != nil {
		return 0, err
	}
	from, err := src.SyscallConn()
	if err != nil {
		return 0, err
	}
	var done uintptr
	var failed syscall.Errno
	err = to.Control(func(dstFD uintptr) {
		err = from.Control(func(srcFD uintptr) {
			failed = syscall.EINTR
			for failed == syscall.EINTR {
				done, _, failed = syscall.Syscall6(copyFileRange,
					srcFD, uintptr(unsafe.Pointer(&srcOff)), dstFD, uintptr(unsafe.Pointer(&dstOff)),
					uintptr(min(n, atOnce)), 0)
			}
		})
	})
	switch failed {
	case 0:
		return int64(done), err
	case syscall.ENOSYS, syscall.EOPNOTSUPP, syscall.EXDEV, syscall.EINVAL, syscall.EPERM, syscall.EBADF, syscall.ETXTBSY:
		return 0, unsupported("copy_file_range", dst, failed)
	}
	return 0, &os.PathError{Op: "copy_file_range", Path: dst.Name(), Err: failed}
}
