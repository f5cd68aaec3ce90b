//go:build unix

package main

import (
	"os"
	"syscall"
)

// allocated returns how much space a file takes, in bytes.
func allocated(fi os.FileInfo) int64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return int64(st.Blocks) * 512
	}
	return fi.Size()
}
