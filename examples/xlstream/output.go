package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// replaceFile has write fill a new file, which takes the place of the one of
// that name when it is whole; until then, and where anything fails, that stays
// as it was. What is no regular file, such as a pipe or a device, is written
// as it is.
func replaceFile(name string, write func(io.Writer) error) error {
	mode := fs.FileMode(0o666)
	switch fi, err := os.Stat(name); {
	case err == nil && !fi.Mode().IsRegular():
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	case err == nil:
		mode = fi.Mode().Perm()
		if name, err = filepath.EvalSymlinks(name); err != nil {
			return err
		}
	}
	part := fmt.Sprintf("%s.%d.part", name, os.Getpid())
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Close())
	if err == nil {
		err = os.Rename(part, name)
	}
	if err != nil {
		os.Remove(part)
	}
	return err
}

// distinct refuses to write over what is read.
func distinct(src *os.File, name string) error {
	a, err := src.Stat()
	if err != nil {
		return err
	}
	if b, err := os.Stat(name); err == nil && os.SameFile(a, b) {
		return fmt.Errorf("%s is the file to read", name)
	}
	return nil
}
