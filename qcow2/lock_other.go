//go:build !linux

package qcow2

import "os"

// lockFile does nothing: QEMU takes its locks on Linux only.
func lockFile(*os.File, bool) error { return nil }
