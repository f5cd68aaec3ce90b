//go:build !unix

package imagefile

// nonblock is not needed: no folder holds a FIFO here.
const nonblock = 0
