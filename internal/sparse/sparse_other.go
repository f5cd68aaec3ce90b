//go:build !linux

package sparse

import (
	"errors"
	"os"
	"runtime"
)

func seekData(f *os.File, off int64) (int64, error) { return 0, no("seek", f) }
func seekHole(f *os.File, off int64) (int64, error) { return 0, no("seek", f) }
func punchHole(f *os.File, off, n int64) error      { return no("punch", f) }
func reserve(f *os.File, off, n int64) error        { return no("reserve", f) }

func copyRange(dst *os.File, dstOff int64, src *os.File, srcOff, n int64) (int64, error) {
	return 0, no("copy", dst)
}

func noCopyOnWrite(f *os.File) error            { return no("ioctl", f) }
func extentSizeHint(f *os.File, _ uint32) error { return no("ioctl", f) }

func sharesBlocks(*os.File) bool { return false }

func no(op string, f *os.File) error {
	return unsupported(op, f, errors.New("not on "+runtime.GOOS))
}
