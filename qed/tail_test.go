package qed_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qed"
)

// cutImage returns an image whose disk has two clusters of ones, with a file
// that lacks its last bytes.
func cutImage(t *testing.T, cut int) []byte {
	t.Helper()
	f := memfile.New()
	img, err := qed.Create(f, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.WriteAt(bytes.Repeat([]byte{1}, 128<<10), 0); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	b := f.Bytes()
	return bytes.Clone(b[:len(b)-cut])
}

// A file that ends within a sector counts as if the rest of that were zeros.
func TestFileEndsWithinSector(t *testing.T) {
	for _, cut := range []int{0, 1, 100, 511} {
		b := cutImage(t, cut)
		img, err := qed.Open(bytes.NewReader(b), nil)
		if err != nil {
			t.Fatal(err)
		}
		if res, err := img.Check(t.Context(), nil); err != nil || !res.Clean() {
			t.Errorf("without the last %d bytes: %+v, %v", cut, res, err)
		}
		p, want := make([]byte, 128<<10), bytes.Repeat([]byte{1}, 128<<10)
		clear(want[len(want)-cut:])
		if _, err := img.ReadAt(p, 0); err != nil || !bytes.Equal(p, want) {
			t.Errorf("without the last %d bytes: the disk reads wrong, %v", cut, err)
		}

		f := memfile.FromBytes(b)
		rw, err := qed.OpenRW(f, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rw.WriteAt(want, 512<<10); err != nil {
			t.Fatal(err)
		}
		if _, err := rw.ReadAt(p, 0); err != nil || !bytes.Equal(p, want) {
			t.Errorf("after a write, without the last %d bytes: the disk reads wrong, %v", cut, err)
		}
		if res, err := rw.Check(t.Context(), nil); err != nil || !res.Clean() {
			t.Errorf("after a write, without the last %d bytes: %+v, %v", cut, res, err)
		}
		if err := rw.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, cut := range []int{512, 513, 70 << 10} {
		img, err := qed.Open(bytes.NewReader(cutImage(t, cut)), nil)
		if err != nil {
			t.Fatal(err)
		}
		if res, err := img.Check(t.Context(), nil); err != nil || res.Corruptions == 0 {
			t.Errorf("without the last %d bytes: %+v, %v", cut, res, err)
		}
		if _, err := img.ReadAt(make([]byte, 64<<10), 64<<10); !errors.Is(err, qed.ErrCorrupt) {
			t.Errorf("without the last %d bytes a read says %v", cut, err)
		}
	}
	// The reader breaks off where the file does not end.
	b := cutImage(t, 1)
	img, err := qed.Open(io.NewSectionReader(short{bytes.NewReader(b), 1024}, 0, int64(len(b))), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.ReadAt(make([]byte, 64<<10), 64<<10); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a reader that breaks off: %v", err)
	}
}

// A short reader ends n bytes early.
type short struct {
	*bytes.Reader
	n int64
}

func (s short) ReadAt(p []byte, off int64) (int, error) {
	return io.NewSectionReader(s.Reader, 0, s.Size()-s.n).ReadAt(p, off)
}

func TestFileEndsWithinSectorAsQemu(t *testing.T) {
	img, qio := difftest.Tool(t, "qemu-img", "7.2"), difftest.Tool(t, "qemu-io", "7.2")
	name := filepath.Join(difftest.FastDir(t), "cut.qed")
	for _, cut := range []int{0, 1, 511, 512} {
		b := cutImage(t, cut)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		im, err := qed.Open(bytes.NewReader(b), nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := im.Check(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if r := difftest.Try(t, img, "check", "-f", "qed", name); (r.Code == 0) != res.Clean() {
			t.Errorf("without the last %d bytes: qemu-img check exits with %d, Check finds %+v", cut, r.Code, res)
		}
		_, err = im.ReadAt(make([]byte, 64<<10), 64<<10)
		if r := difftest.Try(t, qio, "-r", "-f", "qed", "-c", "read 64k 64k", name); (r.Code == 0) != (err == nil) {
			t.Errorf("without the last %d bytes: qemu-io exits with %d, ReadAt says %v", cut, r.Code, err)
		}
	}
}
