package imagelock_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/virtfmt/virtfmt/internal/imagelock"
)

// Locks belong to the file that was opened, so that two openings of one file
// in one process stand for two programs.
func TestLock(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Log("only Linux has these locks")
		return
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ first, second, ok bool }{
		{false, false, true},
		{false, true, false},
		{true, false, false},
		{true, true, false},
	} {
		a, b := open(t, path), open(t, path)
		if err := imagelock.Lock(a, c.first); err != nil {
			t.Fatal(err)
		}
		err := imagelock.Lock(b, c.second)
		if c.ok && err != nil || !c.ok && !errors.Is(err, imagelock.ErrLocked) {
			t.Errorf("first for writing %v, second for writing %v: %v", c.first, c.second, err)
		}
		a.Close()
		b.Close()
		d := open(t, path)
		if err := imagelock.Lock(d, true); err != nil {
			t.Errorf("after both were closed: %v", err)
		}
		d.Close()
	}
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
