package qed_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qed"
)

// TestCreateIsWhatQemuMakes compares new images with those of qemu-img, over
// every geometry that it can open again.
func TestCreateIsWhatQemuMakes(t *testing.T) {
	tool := difftest.Tool(t, "qemu-img", "7.2")
	dir := t.TempDir()
	made := 0
	for bits := 12; bits <= 26; bits++ {
		for _, tables := range []uint32{1, 2, 4, 16} {
			cluster := uint32(1) << bits
			if int64(cluster)*int64(tables) > 256<<20 {
				continue // a file of gigabytes for the L1 table alone
			}
			for _, size := range []int64{0, 1000000, 8<<30 + 512, 1 << 46, 1<<46 + 512} {
				name := filepath.Join(dir, fmt.Sprintf("%d-%d-%d.qed", cluster, tables, size))
				opts := fmt.Sprintf("cluster_size=%d,table_size=%d", cluster, tables)
				qemu := difftest.Try(t, tool, "create", "-q", "-f", "qed", "-o", opts, name, fmt.Sprint(size))
				// QEMU makes tables of one cluster, but cannot open them.
				opens := qemu.Code == 0 && difftest.Try(t, tool, "info", "-f", "qed", name).Code == 0
				f := memfile.New()
				img, err := qed.Create(f, size, &qed.CreateOptions{ClusterSize: cluster, TableSize: tables})
				if (err == nil) != opens {
					t.Errorf("cluster size %d, table size %d, %d bytes: %v, qemu-img opens it: %v", cluster, tables, size, err, opens)
					continue
				}
				if err != nil {
					os.Remove(name)
					continue
				}
				if err := img.Close(); err != nil {
					t.Fatal(err)
				}
				made++
				sameFile(t, name, f)
				os.Remove(name)
			}
		}
	}
	if made < 100 {
		t.Errorf("only %d images were compared", made)
	}
}

// sameFile compares a file with one in memory, without holding holes.
func sameFile(t *testing.T, name string, f *memfile.File) {
	t.Helper()
	g, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	fi, err := g.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if fi.Size() != f.Size() {
		t.Errorf("%s: %d bytes, want %d", filepath.Base(name), f.Size(), fi.Size())
		return
	}
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < fi.Size(); off += 1 << 20 {
		n := min(1<<20, fi.Size()-off)
		if off > 1<<20 && off+n < fi.Size() && off%(16<<20) != 0 {
			continue // all of it zeros, of which a sample will do
		}
		g.ReadAt(a[:n], off)
		f.ReadAt(b[:n], off)
		if string(a[:n]) != string(b[:n]) {
			t.Errorf("%s: differs in the MiB at %#x", filepath.Base(name), off)
			return
		}
	}
}

func TestCreateWithBackingFile(t *testing.T) {
	tool := difftest.Tool(t, "qemu-img", "7.2")
	for _, format := range []string{"raw", "qcow2"} {
		name := filepath.Join(t.TempDir(), "a.qed")
		difftest.Run(t, tool, "create", "-q", "-f", "qed", "-u", "-b", "base.img", "-F", format, name, "10M")
		f := memfile.New()
		_, err := qed.Create(f, 10<<20, &qed.CreateOptions{BackingFile: "base.img", BackingFormat: format})
		if err != nil {
			t.Fatal(err)
		}
		sameFile(t, name, f)
	}
}

// TestCreateWithoutBacking: a new image whose backing file is not opened can be
// asked for its metadata.
func TestCreateWithoutBacking(t *testing.T) {
	img, err := qed.Create(memfile.New(), 1<<20, &qed.CreateOptions{BackingFile: "base.img", BackingFormat: "qcow2"})
	if err != nil {
		t.Fatal(err)
	}
	if h := img.Header(); h.BackingFile != "base.img" {
		t.Errorf("backing file %q", h.BackingFile)
	}
	if _, err := img.ReadAt(make([]byte, 1), 0); !errors.Is(err, qed.ErrMetadataOnly) {
		t.Errorf("read: %v", err)
	}
	if err := img.Close(); err != nil {
		t.Error(err)
	}
}

func TestCreateRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
		o    qed.CreateOptions
		want string
	}{
		{"cluster size", 1 << 20, qed.CreateOptions{ClusterSize: 5000},
			"qed: cluster_size at 0x4: 5000 is not a power of two from 4096 to 67108864"},
		{"small clusters", 1 << 20, qed.CreateOptions{ClusterSize: 2048},
			"qed: cluster_size at 0x4: 2048 is not a power of two from 4096 to 67108864"},
		{"table size", 1 << 20, qed.CreateOptions{TableSize: 3},
			"qed: table_size at 0x8: 3 is not a power of two from 1 to 16"},
		{"disk size", 1<<46 + 1, qed.CreateOptions{},
			"qed: image_size at 0x30: 70368744177665: over the limit of 70368744177664 for this geometry"},
		{"negative size", -1, qed.CreateOptions{},
			"qed: image_size at 0x30: -1: over the limit of 70368744177664 for this geometry"},
		{"format", 1 << 20, qed.CreateOptions{BackingFile: "x"},
			"qed: features at 0x10: a backing file without CreateOptions.BackingFormat"},
		{"tables of one cluster", 1 << 20, qed.CreateOptions{TableSize: 1},
			"qed: table_size at 0x8: QEMU cannot open an image with tables of 1 cluster: CreateOptions.AnyGeometry allows it"},
	} {
		f := memfile.FromBytes([]byte("precious"))
		_, err := qed.Create(f, c.size, &c.o)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
		if string(f.Bytes()) != "precious" {
			t.Errorf("%s: the file was changed", c.name)
		}
		var fe *qed.FormatError
		if !errors.As(err, &fe) {
			t.Errorf("%s: not a FormatError", c.name)
		}
	}
}

// TestAnyGeometry makes and opens what QEMU cannot.
func TestAnyGeometry(t *testing.T) {
	for _, c := range []struct{ cluster, table uint32 }{{4096, 1}, {65536, 1}, {1 << 24, 16}, {1 << 26, 16}, {1 << 26, 1}} {
		f := memfile.New()
		o := &qed.CreateOptions{ClusterSize: c.cluster, TableSize: c.table, AnyGeometry: true}
		img, err := qed.Create(f, 1<<20, o)
		if err != nil {
			t.Fatal(err)
		}
		want := []byte("some data")
		if _, err := img.WriteAt(want, 512<<10); err != nil {
			t.Fatal(err)
		}
		if err := img.Close(); err != nil {
			t.Fatal(err)
		}
		img, err = qed.Open(f, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := img.ReadAt(got, 512<<10); err != nil || string(got) != string(want) {
			t.Errorf("clusters of %d, tables of %d: read %q, %v", c.cluster, c.table, got, err)
		}
	}
}
