package qcow2_test

import (
	"testing"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// BenchmarkSnapshot takes a snapshot of a disk of a million clusters, and
// deletes it.
func BenchmarkSnapshot(b *testing.B) {
	im, err := qcow2.Create(memfile.New(), 1<<34, &qcow2.CreateOptions{ClusterSize: 16 << 10, Preallocation: qcow2.PreallocateMetadata})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := im.CreateSnapshot(b.Context(), "s", nil); err != nil {
			b.Fatal(err)
		}
		if err := im.DeleteSnapshot(b.Context(), "s"); err != nil {
			b.Fatal(err)
		}
	}
}
