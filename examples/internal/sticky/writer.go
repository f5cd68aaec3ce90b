// Package sticky remembers that output was lost.
package sticky

import "io"

// A Writer writes to another and keeps the first error, for programs that print in
// many places and look once.
type Writer struct {
	io.Writer
	Err error
}

// Write writes p.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if w.Err == nil {
		w.Err = err
	}
	return n, err
}
