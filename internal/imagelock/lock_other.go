//go:build !linux

package imagelock

import "os"

// Lock does nothing: QEMU takes its locks on Linux only.
func Lock(*os.File, bool) error { return nil }
