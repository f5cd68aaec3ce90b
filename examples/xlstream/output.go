package main

import (
	"fmt"
	"io"
	"os"

	"github.com/virtfmt/virtfmt/examples/internal/newfile"
)

// replaceFile has write fill a file of that name, which keeps what it held if
// that fails.
func replaceFile(name string, write func(io.Writer) error) error {
	return newfile.Replace(name, func(f *os.File, _ bool) error { return write(f) })
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
