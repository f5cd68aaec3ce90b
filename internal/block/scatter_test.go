package block_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/block"
)

// TestTarget writes pieces in no order over what a file held before.
func TestTarget(t *testing.T) {
	const size = 300 << 10
	for _, c := range []struct {
		name   string
		before int
		o      *block.CopyOptions
		size   int64
	}{
		{"empty", 0, nil, size},
		{"full", size, nil, size},
		{"longer", 2 * size, nil, size},
		{"longer, kept", 2 * size, &block.CopyOptions{KeepSize: true}, 2 * size},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(name, bytes.Repeat([]byte("x"), c.before), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			target, err := block.NewTarget(f, size, c.o)
			if err != nil {
				t.Fatal(err)
			}
			want := make([]byte, c.size)
			if c.size > size {
				copy(want[size:], bytes.Repeat([]byte("x"), int(c.size)-size))
			}
			for _, i := range rand.Perm(size >> 12) {
				off := i << 12
				if i%3 == 0 {
					err = target.WriteZeroes(t.Context(), int64(off), 4096)
				} else {
					copy(want[off:], bytes.Repeat([]byte{byte(i)}, 4096))
					_, err = target.WriteAt(want[off:off+4096], int64(off))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			got, err := os.ReadFile(name)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%v, or other bytes", err)
			}
		})
	}
	var at *block.CopyError
	target, err := block.NewTarget(full{}, size, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := target.WriteAt(make([]byte, 512), 1024); !errors.As(err, &at) || at.Offset != 1024 || !errors.Is(err, errFault) {
		t.Errorf("write: %v", err)
	}
	if err := target.WriteZeroes(t.Context(), 2048, 512); !errors.As(err, &at) || at.Offset != 2048 || !errors.Is(err, errFault) {
		t.Errorf("zeros: %v", err)
	}
}

type full struct{}

func (full) WriteAt([]byte, int64) (int, error) { return 0, errFault }
