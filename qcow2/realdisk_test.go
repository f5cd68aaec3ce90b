package qcow2_test

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/qcow2"
)

// realFiles copies up to n bytes of the files of this system to dir, keeping
// their folders.
func realFiles(t *testing.T, dir string, n int64) {
	t.Helper()
	from := "/usr/share"
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // what cannot be read is left out
		}
		fi, err := d.Info()
		if err != nil || fi.Size() > n/4 {
			return nil
		}
		if n -= fi.Size(); n < 0 {
			return fs.SkipAll
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		writeFile(t, filepath.Join(dir, rel), b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// realDisk makes a disk with an ext4 file system that holds real files, of
// twice their size, and returns its path.
func realDisk(t *testing.T, dir string, files int64) string {
	t.Helper()
	mke2fs := difftest.Tool(t, "mke2fs", "")
	realFiles(t, filepath.Join(dir, "files"), files)
	raw := filepath.Join(dir, "disk.raw")
	difftest.Run(t, mke2fs, "-q", "-t", "ext4", "-i", "4096", "-d", filepath.Join(dir, "files"), raw, fmt.Sprintf("%dk", files*2>>10))
	if err := os.RemoveAll(filepath.Join(dir, "files")); err != nil {
		t.Fatal(err)
	}
	return raw
}

// A realKind is a kind of image that real disks are converted to and from.
type realKind struct {
	name     string
	args     []string // of qemu-img convert
	create   qcow2.CreateOptions
	compress bool
	backing  bool
}

func realKinds() []realKind {
	return []realKind{
		{"v2", []string{"-o", "compat=0.10"}, qcow2.CreateOptions{Version: 2}, false, false},
		{"512", []string{"-o", "cluster_size=512"}, qcow2.CreateOptions{ClusterSize: 512}, false, false},
		{"4k-fragmented", []string{"-W", "-m", "16", "-o", "cluster_size=4k"}, qcow2.CreateOptions{ClusterSize: 4096}, false, false},
		{"64k", nil, qcow2.CreateOptions{}, false, false},
		{"2M", []string{"-o", "cluster_size=2M"}, qcow2.CreateOptions{ClusterSize: 2 << 20}, false, false},
		{"extended", []string{"-o", "extended_l2=on"}, qcow2.CreateOptions{ExtendedL2: true}, false, false},
		{"deflate", []string{"-c"}, qcow2.CreateOptions{}, true, false},
		{"zstd", []string{"-c", "-o", "compression_type=zstd"}, qcow2.CreateOptions{CompressionType: qcow2.CompressionZstd}, true, false},
		{"backing", []string{"-B", "base.raw", "-F", "raw"}, qcow2.CreateOptions{BackingFile: "base.raw", BackingFormat: "raw"}, false, true},
	}
}

// TestRealDisk converts a file system of real files from images that qemu-img
// made and to images that it judges. VIRTFMT_SCALE=10 makes it hold some
// hundred megabytes.
func TestRealDisk(t *testing.T) {
	img, e2fsck := difftest.Tool(t, "qemu-img", "7.2"), difftest.Tool(t, "e2fsck", "")
	dir := difftest.FastDir(t)
	raw := realDisk(t, dir, int64(difftest.Scale(t, 24))<<20)
	t.Chdir(dir)
	want := read(t, raw)
	// A base that holds half of it.
	base := bytes.Clone(want)
	for off := 0; off < len(base); off += 1 << 20 {
		clear(base[off : off+min(len(base)-off, 512<<10)])
	}
	writeFile(t, "base.raw", base)
	random := rand.New(rand.NewPCG(difftest.Seed(t, 1), 1))
	for _, k := range realKinds() {
		t.Run(k.name, func(t *testing.T) {
			t.Chdir(dir)
			args := append([]string{"convert", "-f", "raw", "-O", "qcow2"}, k.args...)
			difftest.Run(t, img, append(args, raw, "theirs.qcow2")...)
			fromReal(t, "theirs.qcow2", want)
			if r := difftest.Try(t, e2fsck, "-fn", "back.raw"); r.Code != 0 {
				t.Errorf("e2fsck: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
			}
			written := writeReal(t, k, base, want, random)
			judgeReal(t, img, written, raw)
			fromReal(t, written, want)
			if !k.backing {
				judgeReal(t, img, encodeReal(t, k, raw), raw)
			}
		})
	}
}

// fromReal converts an image to raw.
func fromReal(t *testing.T, name string, want []byte) {
	t.Helper()
	im, err := qcow2.OpenFile(name, &qcow2.Options{Root: openRoot(t, ".")})
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	if res, err := im.Check(t.Context(), nil); err != nil || !res.Clean() {
		t.Errorf("%s: %v, %v", name, res, err)
	}
	os.Remove("back.raw")
	out := newFile(t, "back.raw")
	defer out.Close()
	if err := out.Truncate(im.Size()); err != nil {
		t.Fatal(err)
	}
	if _, err := im.CopyTo(t.Context(), out, &qcow2.CopyOptions{Zeroed: true}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, "back.raw"); !bytes.Equal(got, want) {
		t.Errorf("%s: differs at %d", name, differ(got, want))
	}
}

// writeReal writes the disk in random order, or in order if it is to be
// compressed. What the base holds already is left out.
func writeReal(t *testing.T, k realKind, base, want []byte, random *rand.Rand) string {
	t.Helper()
	os.Remove("written.qcow2")
	f := newFile(t, "written.qcow2")
	defer f.Close()
	o := k.create
	o.Open = &qcow2.Options{OpenBacking: func(string, string) (qcow2.Disk, error) { return rawDisk(base), nil }}
	im, err := qcow2.Create(f, int64(len(want)), &o)
	if err != nil {
		t.Fatal(err)
	}
	const piece = 64 << 10
	order := random.Perm((len(want) + piece - 1) / piece)
	for i, at := range order {
		if k.compress {
			at = i
		}
		p := want[at*piece : min(len(want), (at+1)*piece)]
		switch {
		case k.backing && bytes.Equal(p, base[at*piece:at*piece+len(p)]):
		case k.backing || !isZeros(p):
			if k.compress {
				_, err = im.WriteCompressedAt(p, int64(at)*piece)
			} else {
				_, err = im.WriteAt(p, int64(at)*piece)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	return "written.qcow2"
}

func isZeros(p []byte) bool { return len(bytes.Trim(p, "\x00")) == 0 }

// encodeReal writes the disk as a stream.
func encodeReal(t *testing.T, k realKind, raw string) string {
	t.Helper()
	os.Remove("encoded.qcow2")
	out := newFile(t, "encoded.qcow2")
	defer out.Close()
	if err := qcow2.Encode(t.Context(), struct{ io.Writer }{out}, rawDisk(read(t, raw)), &qcow2.EncodeOptions{Create: &k.create, Compress: k.compress}); err != nil {
		t.Fatal(err)
	}
	return "encoded.qcow2"
}

// judgeReal has qemu-img check an image and compare it with the disk.
func judgeReal(t *testing.T, img, name, raw string) {
	t.Helper()
	if r := difftest.Try(t, img, "check", "-f", "qcow2", name); r.Code != 0 {
		t.Errorf("%s: qemu-img check: exit %d\n%s%s", name, r.Code, r.Stdout, r.Stderr)
	}
	if r := difftest.Try(t, img, "compare", "-f", "raw", "-F", "qcow2", raw, name); r.Code != 0 {
		t.Errorf("%s: qemu-img compare: exit %d\n%s%s", name, r.Code, r.Stdout, r.Stderr)
	}
}
