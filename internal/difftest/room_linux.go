package difftest

import "syscall"

// room returns how many bytes are free in a file system, 0 if that is unknown.
func room(path string) int64 {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0
	}
	return int64(st.Bavail) * int64(st.Bsize)
}
