package qcow2_test

import (
	"io"
	"os"
	"testing"

	"github.com/virtfmt/virtfmt/qcow2"
)

// A file that is nil is an error, whether the interface is or what is in it.
func TestNilFile(t *testing.T) {
	for _, f := range []qcow2.File{nil, (*os.File)(nil)} {
		r := io.ReaderAt(f)
		for _, size := range []int64{0, 1 << 20} {
			for name, call := range map[string]func() error{
				"Open":   func() error { _, err := qcow2.Open(r, &qcow2.Options{Size: size}); return err },
				"OpenRW": func() error { _, err := qcow2.OpenRW(f, &qcow2.Options{Size: size}); return err },
				"Create": func() error { _, err := qcow2.Create(f, size, nil); return err },
				"Check": func() error {
					_, err := qcow2.Check(t.Context(), r, &qcow2.CheckOptions{Size: size})
					return err
				},
				"Repair": func() error {
					_, err := qcow2.Repair(t.Context(), f, qcow2.RepairAll, &qcow2.CheckOptions{Size: size})
					return err
				},
			} {
				if err := call(); err == nil {
					t.Errorf("%s of %T with size %d: no error", name, f, size)
				}
			}
		}
	}
}
