package sparse

import (
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"
)

const (
	noCopyFlag     = 0x00800000 // FS_NOCOW_FL
	extentSizeFlag = 0x00000800 // FS_XFLAG_EXTSIZE
)

// An attributes is struct fsxattr of linux/fs.h.
type attributes struct {
	flags      uint32
	extentSize uint32 // in bytes
	_          [5]uint32
}

// request returns the number of a request to a file system: what is moved from
// the kernel, or with write to it, of size bytes.
func request(write bool, number, size uintptr, kind byte) uintptr {
	read, to, shift := uintptr(2), uintptr(1), 30
	if strings.HasPrefix(runtime.GOARCH, "mips") || strings.HasPrefix(runtime.GOARCH, "ppc64") {
		to, shift = 4, 29
	}
	if write {
		read = to
	}
	return read<<shift | size<<16 | uintptr(kind)<<8 | number
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed syscall.Errno
	if err := c.Control(func(fd uintptr) { _, _, failed = syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(arg)) }); err != nil {
		return err
	}
	switch failed {
	case 0:
		return nil
	case syscall.ENOTTY, syscall.ENOSYS, syscall.EOPNOTSUPP, syscall.EINVAL:
		return unsupported("ioctl", f, failed)
	}
	return &os.PathError{Op: "ioctl", Path: f.Name(), Err: failed}
}

func noCopyOnWrite(f *os.File) error {
	var flags [2]uint32 // the kernel moves an int and counts a long
	if err := ioctl(f, request(false, 1, unsafe.Sizeof(uintptr(0)), 'f'), unsafe.Pointer(&flags)); err != nil {
		return err
	}
	flags[0] |= noCopyFlag
	return ioctl(f, request(true, 2, unsafe.Sizeof(uintptr(0)), 'f'), unsafe.Pointer(&flags))
}

func extentSizeHint(f *os.File, n uint32) error {
	var a attributes
	if err := ioctl(f, request(false, 31, unsafe.Sizeof(a), 'X'), unsafe.Pointer(&a)); err != nil {
		return err
	}
	a.flags |= extentSizeFlag
	a.extentSize = n
	return ioctl(f, request(true, 32, unsafe.Sizeof(a), 'X'), unsafe.Pointer(&a))
}
