package qed_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/crashtest"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qed"
)

func TestMain(m *testing.M) {
	crashtest.KillMain(openVictim)
	os.Exit(m.Run())
}

// openVictim opens an image that a process is killed while it writes to. It
// is closed with the process.
func openVictim(_, path string) (*qed.Image, error) {
	return qed.OpenFile(path, &qed.Options{Write: true})
}

// TestKill kills processes that write to an image and sync it. VIRTFMT_SCALE=50
// kills a thousand.
func TestKill(t *testing.T) {
	tool := difftest.Tool(t, "qemu-img", "7.2")
	seed := difftest.Seed(t, 1)
	kinds := map[string]qed.CreateOptions{"4k": {ClusterSize: 4096, TableSize: 2}, "64k": {}}
	kills, steps := 0, 0
	for kind, o := range kinds {
		path := filepath.Join(t.TempDir(), kind+".qed")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := qed.Create(f, 512<<10, &o); err != nil {
			t.Fatal(err)
		}
		f.Close()
		n := max(1, difftest.Scale(t, 20)/len(kinds))
		steps += crashtest.Kills(t, kind, path, n, seed, openVictim, func(path string) {
			if v := qemuCheck(t, tool, path); v.Errors != 0 || v.Corruptions != 0 {
				t.Fatalf("%s: qemu-img check: %+v", kind, v)
			}
		})
		kills += n
	}
	t.Logf("%d processes killed, after %d steps in all; nothing was lost", kills, steps)
}
