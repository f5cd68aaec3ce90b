package qcow2_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/crashtest"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
)

func TestMain(m *testing.M) {
	crashtest.KillMain(openVictim)
	os.Exit(m.Run())
}

// openVictim opens an image that a process is killed while it writes to. It
// is closed with the process.
func openVictim(_, path string) (*qcow2.Image, error) {
	return qcow2.OpenFile(path, &qcow2.Options{Write: true})
}

// TestKill kills processes that write to an image and sync it. VIRTFMT_SCALE=17
// kills a thousand.
func TestKill(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	kinds := map[string]qcow2.CreateOptions{
		"v2":       {Version: 2},
		"v2-512":   {Version: 2, ClusterSize: 512},
		"v3-512":   {ClusterSize: 512, RefcountBits: 64},
		"v3-4k":    {ClusterSize: 4096},
		"lazy":     {ClusterSize: 4096, LazyRefcounts: true},
		"extended": {ClusterSize: 16384, ExtendedL2: true},
	}
	seed := difftest.Seed(t, 1)
	kills, steps := 0, 0
	for kind, o := range kinds {
		path := filepath.Join(difftest.FastDir(t), kind+".qcow2")
		f := newFile(t, path)
		im, err := qcow2.Create(f, 512<<10, &o)
		if err != nil {
			t.Fatal(err)
		}
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		f.Close()
		n := max(1, difftest.Scale(t, 60)/len(kinds))
		steps += crashtest.Kills(t, kind, path, n, seed, openVictim, func(path string) {
			if o.LazyRefcounts { // it is repaired when it is opened
				im, err := openVictim(kind, path)
				if err != nil {
					t.Fatal(err)
				}
				if err := im.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if r := difftest.Try(t, img, "check", "-f", "qcow2", path); r.Code != 0 && r.Code != 3 {
				t.Fatalf("%s: qemu-img check: exit %d, %s%s", kind, r.Code, r.Stdout, r.Stderr)
			}
		})
		kills += n
	}
	t.Logf("%d processes killed, after %d steps in all; nothing was lost", kills, steps)
}
