package qcow2_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// TestNamesInImages: what an image calls its backing or data file is opened
// only if it is a regular file inside of the root, whatever way leads there.
func TestNamesInImages(t *testing.T) {
	outside, dir := difftest.FastDir(t), difftest.FastDir(t)
	secret := filepath.Join(outside, "secret")
	writeFile(t, secret, make([]byte, 1<<20))
	writeFile(t, filepath.Join(dir, "sub", "file"), make([]byte, 1<<20))
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	device := syscall.Mknod(filepath.Join(dir, "null"), syscall.S_IFCHR|0o600, 1<<8|3) == nil // as root
	for link, to := range map[string]string{
		"link-out": secret, "link-dir-out": outside, "link-up": "..", "link-device": "/dev/zero", "link-fifo": "fifo",
		"link-in": "sub/file", "link-dir-in": "sub", "link-loop": "link-loop", "link-link": "link-out", "link-proc": "/proc/self/mem",
		"link-abs-in": filepath.Join(dir, "sub/file"),
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	names := map[string]bool{
		"sub/file": true, "./sub/../sub/file": true, filepath.Join(dir, "sub/file"): true,
		"link-in": true, "link-dir-in/file": true,
		"": false, ".": false, "sub": false, "missing": false, "fifo": false, "link-fifo": false, "link-device": false, "link-proc": false,
		secret: false, "/dev/zero": false, "/dev/stdin": false, "/proc/self/fd/0": false, "/etc/passwd": false,
		"../" + filepath.Base(outside) + "/secret": false, strings.Repeat("../", 30) + "etc/passwd": false, "sub/../../x": false,
		"link-out": false, "link-dir-out/secret": false, "link-up/x": false, "link-loop": false, "link-link": false,
		"link-abs-in": false, // as os.Root has it: an absolute link leads out
		dir + "/../" + filepath.Base(outside) + "/secret":    false,
		`json:{"driver":"file","filename":"` + secret + `"}`: false, "json:": false, `json:{"file.filename":"sub/file"}`: false,
		"nbd:localhost:10809": false, "nbd+unix:///x?socket=/tmp/s": false, "ssh://localhost/etc/passwd": false, "http://localhost/": false,
		"file:sub/file": false, "fat:rw:/": false, "host_device:/dev/sda": false, "vvfat:x": false, "null-co://": false,
		"sub/file\x00": false, "sub/file\n": false, "~/.ssh/id_rsa": false, "-": false,
	}
	if device {
		names["null"] = false
	}
	external := samples(t)["data"].image
	for name, ok := range names {
		images := map[string][]byte{"data": withDataFile(t, external, name), "deep": overlay(t, "data.qcow2", "qcow2")}
		if name != "" { // that is to have none
			images["backing"] = overlay(t, name, "raw")
			images["deep-backing"] = overlay(t, "backing.qcow2", "qcow2")
		}
		for what, b := range images {
			writeFile(t, filepath.Join(dir, what+".qcow2"), b)
		}
		for what := range images {
			for _, write := range []bool{false, true} {
				if write && testing.Short() {
					continue
				}
				opened := make(chan error, 1)
				go func() {
					im, err := qcow2.OpenFile(what+".qcow2", &qcow2.Options{Root: openRoot(t, dir), Write: write})
					if err == nil {
						err = im.Close()
					}
					opened <- err
				}()
				select {
				case err := <-opened:
					if (err == nil) != ok {
						t.Errorf("%s %q, write %t: %v", what, name, write, err)
					}
				case <-time.After(5 * time.Minute):
					t.Fatalf("%s %q: it hangs", what, name)
				}
			}
		}
	}
}
