//go:build !linux

package imagefile

// nonblock is not known here: what takes the place of a file while it is
// opened may block.
const nonblock = 0
