package difftest

import (
	"os"
	"testing"
)

// SocketDir returns a new directory for Unix sockets, whose paths may be no
// longer than some hundred bytes. It is removed when the test ends.
func SocketDir(tb testing.TB) string {
	tb.Helper()
	const room = 50 // of the 104 bytes that the strictest system takes
	parent := ""
	if len(os.TempDir()) > room {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "s")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// FastDir returns a new directory in memory, where the system has room for one
// there, else on disk: programs sync what they write. It is removed when the
// test ends.
func FastDir(tb testing.TB) string {
	tb.Helper()
	const parent = "/dev/shm"
	if room(parent) < 4<<30 { // containers often have 64 MiB
		return tb.TempDir()
	}
	dir, err := os.MkdirTemp(parent, "virtfmt")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
