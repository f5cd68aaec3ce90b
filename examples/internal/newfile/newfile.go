// Package newfile writes files that take the place of others only when they
// are whole.
package newfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace has write fill a new file, which takes the place of the one of that
// name when it is whole; until then, and where anything fails, that stays as
// it was. What is no regular file, such as a pipe or a device, is written as
// it is; regular says which it is.
func Replace(name string, write func(f *os.File, regular bool) error) error {
	mode := fs.FileMode(0o666)
	switch fi, err := os.Stat(name); {
	case err == nil && !fi.Mode().IsRegular():
		flags := os.O_RDWR
		if fi.Mode()&fs.ModeNamedPipe != 0 {
			flags = os.O_WRONLY // which waits for a reader
		}
		f, err := os.OpenFile(name, flags, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f, false), f.Close())
	case err == nil:
		mode = fi.Mode().Perm()
		if name, err = filepath.EvalSymlinks(name); err != nil {
			return err
		}
	}
	part := fmt.Sprintf("%s.%d.part", name, os.Getpid())
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	err = errors.Join(write(f, true), f.Close())
	if err == nil {
		err = os.Rename(part, name)
	}
	if err != nil {
		os.Remove(part)
	}
	return err
}
