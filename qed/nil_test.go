package qed_test

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/qed"
)

// A file that is nil is an error, whether the interface is or what is in it.
func TestNilFile(t *testing.T) {
	for _, f := range []qed.File{nil, (*os.File)(nil)} {
		for _, size := range []int64{0, 1 << 20} {
			if _, err := qed.Open(io.ReaderAt(f), &qed.Options{Size: size}); err == nil {
				t.Errorf("Open of %T with size %d: no error", f, size)
			}
			if _, err := qed.OpenRW(f, &qed.Options{Size: size}); err == nil {
				t.Errorf("OpenRW of %T with size %d: no error", f, size)
			}
			if _, err := qed.Create(f, size, nil); err == nil {
				t.Errorf("Create of %T with size %d: no error", f, size)
			}
		}
	}
}

// What cannot be read is told as an error of this package.
func TestDirectory(t *testing.T) {
	if _, err := qed.OpenFile(t.TempDir(), nil); err == nil || !strings.HasPrefix(err.Error(), "qed: ") {
		t.Error(err)
	}
}
