package qcow2_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/corpus"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qcow2"
)

// mixed returns n bytes that compress, some of which do not.
func mixed(n int, seed uint64) []byte {
	p := corpus.Bytes(corpus.Text(seed), n)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i < n; i += 200_000 {
		for j := i; j < min(n, i+rng.IntN(150_000)); j++ {
			p[j] = byte(rng.Uint32())
		}
	}
	return p
}

// TestCompressedWriteAsQEMU: what is written compressed here, in pieces of all
// sizes, is clean for qemu-img and has the same content there.
func TestCompressedWriteAsQEMU(t *testing.T) {
	img := difftest.Tool(t, "qemu-img", "7.2")
	for _, o := range []qcow2.CreateOptions{
		{},
		{CompressionType: qcow2.CompressionZstd},
		{ClusterSize: 512},
		{ClusterSize: 4096, RefcountBits: 1},
		{ClusterSize: 4096, RefcountBits: 2, CompressionType: qcow2.CompressionZstd},
		{ClusterSize: 2 << 20},
		{Version: 2},
		{ExtendedL2: true},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "x.qcow2")
		f := newFile(t, path)
		size := 3<<20 + 1536
		if o.ClusterSize == 512 {
			size = 300<<10 + 512
		}
		im, err := qcow2.Create(f, int64(size), &o)
		if err != nil {
			t.Fatal(err)
		}
		want := mixed(size, 1)
		rng := rand.New(rand.NewPCG(2, 2))
		for off := 0; off < size; {
			n := min(size-off, (1+rng.IntN(9))*int(im.ClusterSize()))
			if _, err := im.WriteCompressedAt(want[off:off+n], int64(off)); err != nil {
				t.Fatal(err)
			}
			off += n
		}
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		raw := filepath.Join(dir, "x.raw")
		writeFile(t, raw, want)
		if r := difftest.Try(t, img, "check", "-f", "qcow2", path); r.Code != 0 {
			t.Errorf("%+v: %s%s", o, r.Stdout, r.Stderr)
		}
		if r := difftest.Try(t, img, "compare", "-f", "qcow2", "-F", "raw", path, raw); r.Code != 0 {
			t.Errorf("%+v: %s%s", o, r.Stdout, r.Stderr)
		}
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Size() > int64(size)*3/4 && o.RefcountBits != 1 && (o.ClusterSize == 0 || o.ClusterSize == 4096) {
			t.Errorf("%+v: %d bytes for %d", o, fi.Size(), size)
		}
	}
}

// TestCompressedClusterSizes: clusters of every size are compressed, and read
// back as a whole and in parts.
func TestCompressedClusterSizes(t *testing.T) {
	for _, kind := range []qcow2.CompressionType{qcow2.CompressionDeflate, qcow2.CompressionZstd} {
		for size := 512; size <= 2<<20; size *= 2 {
			f := memfile.New()
			im, err := qcow2.Create(f, 3*int64(size), &qcow2.CreateOptions{ClusterSize: int64(size), CompressionType: kind})
			if err != nil {
				t.Fatal(err)
			}
			// One that is all alike, one that is less so, one that is not compressed.
			want := bytes.Repeat([]byte{7}, 2*size)
			copy(want[size:], corpus.Bytes(corpus.Text(1), size/2))
			for i := range size {
				want = append(want, byte(i*i>>7)*byte(i)^byte(i>>5))
			}
			if _, err := im.WriteCompressedAt(want, 0); err != nil {
				t.Fatal(err)
			}
			if err := im.Close(); err != nil {
				t.Fatal(err)
			}
			im = open(t, f.Bytes(), nil)
			if res, err := im.Check(t.Context(), nil); err != nil || !res.Clean() || res.CompressedClusters < 2 {
				t.Errorf("%v in clusters of %d: %v, %+v", kind, size, err, res)
			}
			got := make([]byte, len(want))
			for _, part := range []int{len(want), size, size / 2} {
				clear(got)
				for off := 0; off < len(got); off += part {
					if _, err := im.ReadAt(got[off:off+part], int64(off)); err != nil {
						t.Errorf("%v in clusters of %d: %v", kind, size, err)
					}
				}
				if !bytes.Equal(got, want) {
					t.Errorf("%v in clusters of %d, read by %d: other content", kind, size, part)
				}
			}
		}
	}
}

// TestCompressedWriteDeterministic: the same calls make the same file, however
// many processors work on it.
func TestCompressedWriteDeterministic(t *testing.T) {
	p := mixed(3<<20, 5)
	var files [2]*memfile.File
	for i := range files {
		files[i] = memfile.New()
		im, err := qcow2.Create(files[i], int64(len(p)), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := im.WriteCompressedAt(p, 0); err != nil {
			t.Fatal(err)
		}
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(files[0].Bytes(), files[1].Bytes()) {
		t.Error("the files differ")
	}
	readRandomly(t, open(t, files[0].Bytes(), nil), p, 100)
}

func TestCompressedWriteErrors(t *testing.T) {
	im, err := qcow2.Create(memfile.New(), 200<<10, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 65536)
	write := func(n int, off int64) error {
		_, err := im.WriteCompressedAt(p[:n], off)
		return err
	}
	for _, tc := range []struct {
		n   int
		off int64
		is  error
	}{
		{65536, 100, qcow2.ErrOutOfRange},
		{100, 0, qcow2.ErrOutOfRange},
		{65536, 192 << 10, qcow2.ErrOutOfRange},
		{8192, 192 << 10, nil},
		{65536, 0, nil},
		{65536, 0, qcow2.ErrAllocated},
		{0, 0, nil},
	} {
		if err := write(tc.n, tc.off); !errors.Is(err, tc.is) || tc.is == nil && err != nil {
			t.Errorf("%d at %d: %v", tc.n, tc.off, err)
		}
	}
	if _, err := im.WriteAt(p[:10], 65536); err != nil {
		t.Fatal(err)
	}
	if err := write(65536, 65536); !errors.Is(err, qcow2.ErrAllocated) {
		t.Error(err)
	}
	if err := im.DiscardAt(65536, 65536); err != nil {
		t.Fatal(err)
	}
	if err := write(65536, 65536); err != nil {
		t.Errorf("a discarded cluster: %v", err)
	}
	data, err := qcow2.Create(memfile.New(), 200<<10, &qcow2.CreateOptions{DataFile: "d", Data: memfile.New()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := data.WriteCompressedAt(p, 0); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// TestCompressedSharing: writes into clusters that compressed ones shared,
// which are freed one by one.
func TestCompressedSharing(t *testing.T) {
	for _, width := range []int{1, 2, 16} {
		t.Run(fmt.Sprint(width, " bits"), func(t *testing.T) {
			f := memfile.New()
			im, err := qcow2.Create(f, 1<<20, &qcow2.CreateOptions{ClusterSize: 4096, RefcountBits: width})
			if err != nil {
				t.Fatal(err)
			}
			want := bytes.Repeat([]byte("compresses well "), 1<<16)
			if _, err := im.WriteCompressedAt(want, 0); err != nil {
				t.Fatal(err)
			}
			rng := rand.New(rand.NewPCG(1, 1))
			for range 300 {
				off := rng.IntN(256) * 4096
				switch rng.IntN(4) {
				case 0:
					err = im.DiscardAt(int64(off), 4096)
					clear(want[off : off+4096])
				case 1:
					p := bytes.Repeat([]byte{byte(rng.Uint32())}, 4096)
					if _, err = im.WriteCompressedAt(p, int64(off)); err == nil {
						copy(want[off:], p)
					} else if errors.Is(err, qcow2.ErrAllocated) {
						err = nil
					}
				case 2:
					_, err = im.WriteAt([]byte("new"), int64(off)+100)
					copy(want[off+100:], "new")
				case 3:
					err = im.Sync()
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			readRandomly(t, im, want, 300)
			if err := im.Close(); err != nil {
				t.Fatal(err)
			}
			checkClean(t, f)
		})
	}
}
