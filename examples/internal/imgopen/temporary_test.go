package imgopen_test

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
)

// Options that decide how an image is used are heeded or refused.
func TestDiscards(t *testing.T) {
	inFolder(t)
	list := func(more string) string { return "driver=qcow2,file.filename=plain.qcow2," + more }
	for more, want := range map[string]bool{"discard=ignore": false, "discard=off": false, "discard=unmap": true, "read-only=off": true, "detect-zeroes=unmap": true} {
		img, err := imgopen.Open(list(more), &imgopen.Options{ImageOpts: true, Write: true, Discard: true})
		must(t, err)
		if img.Discards() != want {
			t.Errorf("%s: %t", more, img.Discards())
		}
		must(t, img.Close())
	}
	for _, more := range []string{
		"read-only=on", "read-only=x", "force-share=on", "discard=x", "detect-zeroes=x", "detect-zeroes=unmap,discard=ignore", "cache.direct=x", "cache.no-flush=x",
		"file.aio=native", "file.aio=x", "file.read-only=on", "lazy-refcounts=x", "overlap-check=x", "cache-size=x", "pass-discard-other=x", "x=y", "auto-read-only=x",
	} {
		if img, err := imgopen.Open(list(more), &imgopen.Options{ImageOpts: true, Write: true}); err == nil {
			t.Errorf("%s: no error", more)
			must(t, img.Close())
		}
	}
}

func TestWith(t *testing.T) {
	inFolder(t)
	img, err := imgopen.Open("base.raw", &imgopen.Options{With: "driver=raw,offset=512,size=1k"})
	must(t, err)
	if img.Size() != 1024 {
		t.Errorf("size %d", img.Size())
	}
	must(t, img.Close())
	if _, err := imgopen.Open("base.raw", &imgopen.Options{With: "file.filename=other.raw"}); err == nil {
		t.Error("two names: no error")
	}
}

func TestTemporary(t *testing.T) {
	inFolder(t)
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	o := &imgopen.Options{Temporary: true, Write: true}
	img, err := imgopen.Open("over.qcow2", o)
	must(t, err)
	p := text("new")
	_, err = img.Writer().WriteAt(p, 0)
	must(t, err)
	for _, write := range []bool{false, true} {
		again := *o
		again.Write = write
		img, err = img.Reopen(&again)
		must(t, err)
		got := make([]byte, len(p))
		_, err = img.ReadAt(got, 0)
		must(t, err)
		if string(got) != string(p) || (img.Writer() != nil) != write {
			t.Errorf("reopened, write %t: %q", write, got)
		}
	}
	bad := *o
	bad.With = "x=y"
	img, err = img.Reopen(&bad)
	if err == nil || img == nil || img.Size() != size {
		t.Fatalf("reopened with an unknown option: %v", err)
	}
	must(t, img.Close())
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := imgopen.Open("none", o); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such image: %v", err)
	}
}

// An image that cannot be opened as asked stays open as it was.
func TestReopen(t *testing.T) {
	inFolder(t)
	img, err := imgopen.Open("plain.qcow2", &imgopen.Options{Write: true})
	must(t, err)
	img, err = img.Reopen(&imgopen.Options{Write: true, With: "x=y"})
	if err == nil || img == nil || img.Writer() == nil {
		t.Fatalf("reopened with an unknown option: %v", err)
	}
	img, err = img.Reopen(nil)
	must(t, err)
	if img.Writer() != nil {
		t.Error("open for writing")
	}
	must(t, img.Close())
}
