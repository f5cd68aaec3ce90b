//go:build !linux

package imgopen

import "os"

// openDirect opens a file. Only on Linux is the page cache bypassed; here it is
// told that it is not.
func openDirect(name string, flag int, warn func(string)) (File, *os.File, error) {
	f, err := os.OpenFile(name, flag, 0)
	if err != nil {
		return nil, nil, err
	}
	warn("warning: '" + name + "' goes through the page cache: bypassing it is not supported on this system")
	return f, f, nil
}
