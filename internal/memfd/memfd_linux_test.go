package memfd_test

import (
	"os"
	"testing"

	"github.com/virtfmt/virtfmt/internal/memfd"
)

func TestCreate(t *testing.T) {
	f, err := memfd.Create("test", 8192)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Size() != 8192 {
		t.Errorf("stat: %v, %v", fi, err)
	}
	if _, err := f.WriteAt([]byte("end"), 8189); err != nil {
		t.Error(err)
	}
	for _, size := range []int64{0, 4096, 16384} {
		if err := f.Truncate(size); err == nil {
			t.Errorf("a sealed file was truncated to %d", size)
		}
	}
	if !memfd.Sealed(f) {
		t.Error("not sealed")
	}
}

func TestSealedOfAPlainFile(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if memfd.Sealed(f) {
		t.Error("a plain file counts as sealed")
	}
	f.Close()
	if memfd.Sealed(f) {
		t.Error("a closed file counts as sealed")
	}
}

func TestBadName(t *testing.T) {
	if f, err := memfd.Create("a\x00b", 1); err == nil {
		f.Close()
		t.Error("a name with a zero byte was taken")
	}
}
