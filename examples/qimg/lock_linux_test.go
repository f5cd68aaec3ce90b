package main

import (
	"os"
	"testing"

	"github.com/virtfmt/virtfmt/internal/imagelock"
)

// An image that another program uses is refused, as by qemu-img: the test holds
// the locks that QEMU would.
func TestInUse(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, line := range []string{"create -q -f qcow2 x 1M", "create -q -f raw r.raw 1M", "create -q -f qed e.qed 1M", "create -q -f qcow2 -b x -F qcow2 over"} {
		if out, code := qimg(t, line); code != 0 {
			t.Fatal(out)
		}
	}
	for _, name := range []string{"x", "r.raw", "e.qed"} {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := imagelock.Lock(f, true); err != nil {
			t.Fatal(err)
		}
	}
	for line, want := range map[string]int{
		"info x": 1, "info -U x": 0, "map x": 1, "map -U x": 0, "check x": 1, "check -U x": 0, "compare x e.qed": 2, "compare -U x e.qed": 0,
		"convert x z": 1, "convert -U x z": 0, "create -f qcow2 x 2M": 1, "create r.raw 2M": 1, "create -f qcow2 -b x -F qcow2 over2": 0, "convert -O qcow2 -U e.qed x": 1,
		"convert -U -n e.qed r.raw": 1, "resize x 2M": 1, "resize -f raw r.raw 2M": 1, "resize e.qed 2M": 1, "snapshot -c a x": 1,
		"info over": 0, "map over": 1, "map -U over": 0, "commit over": 1, "dd if=e.qed of=z": 1, "dd -U if=e.qed of=x": 1, "bench -c 1 x": 1,
	} {
		if out, code := qimg(t, line); code != want {
			t.Errorf("%s: exit code %d, not %d\n%s", line, code, want, out)
		}
	}
	for _, name := range []string{"x", "e.qed", "r.raw"} {
		if fi, err := os.Stat(name); err != nil || fi.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
