//go:build unix

package imagefile

import "syscall"

// nonblock opens a FIFO, or a device, at once. It means nothing to a regular
// file.
const nonblock = syscall.O_NONBLOCK
