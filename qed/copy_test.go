package qed_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qed"
)

// TestCopyTo copies images after random operations, to memory and, so that the
// kernel can do it, between files.
func TestCopyTo(t *testing.T) {
	rnd := rand.New(rand.NewPCG(difftest.Seed(t, 1), 12))
	dir := t.TempDir()
	for range difftest.Scale(t, 20) {
		const size = 3 << 20
		file := memfile.New()
		img, err := qed.Create(file, size, &qed.CreateOptions{ClusterSize: 4096 << rnd.IntN(5)})
		if err != nil {
			t.Fatal(err)
		}
		model := make([]byte, size)
		for range 30 {
			if err := randomOp(rnd, size, img.ClusterSize()).apply(img, model); err != nil {
				t.Fatal(err)
			}
		}
		for _, o := range []*qed.CopyOptions{nil, {InOrder: true, BufferSize: 64 << 10}, {Sparse: -1, Workers: 1}} {
			dst := memfile.New()
			stats, err := img.CopyTo(t.Context(), dst, o)
			if err != nil || !bytes.Equal(dst.Bytes(), model) {
				t.Errorf("%+v: %v, equal: %v", o, err, bytes.Equal(dst.Bytes(), model))
			}
			if stats.Written+stats.Skipped != size || stats.Zeroed != 0 {
				t.Errorf("%+v: %+v", o, stats)
			}
		}
		if err := img.Close(); err != nil {
			t.Fatal(err)
		}
		copyFiles(t, dir, file.Bytes(), model)
	}
}

func copyFiles(t *testing.T, dir string, image, want []byte) {
	t.Helper()
	name := filepath.Join(dir, "x.qed")
	if err := os.WriteFile(name, image, 0o600); err != nil {
		t.Fatal(err)
	}
	img, err := qed.OpenFile(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	dst, err := os.Create(filepath.Join(dir, "x.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if _, err := img.CopyTo(t.Context(), dst, &qed.CopyOptions{Sparse: -1}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dst.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("between files: %v, equal: %v", err, bytes.Equal(got, want))
	}
}
