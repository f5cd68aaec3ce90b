package libxlfmt_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/libxlfmt"
)

// TestNil: nil for what is read or written is an error, and no panic.
func TestNil(t *testing.T) {
	img := vectorNamed(t, "hvm-xs-emu").data
	x, err := libxlfmt.Open(bytes.NewReader(img), nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := x.Memory(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"NewReader": func() error { _, err := libxlfmt.NewReader(nil, nil); return err },
		"back channel": func() error {
			r, err := libxlfmt.NewReader(nil, &libxlfmt.Options{BackChannel: true})
			if err == nil {
				_, err = r.Next()
			}
			return err
		},
		"Open":         func() error { _, err := libxlfmt.Open(nil, nil); return err },
		"Open of Size": func() error { _, err := libxlfmt.Open(nil, &libxlfmt.Options{Size: 100}); return err },
		"Verify":       func() error { _, err := libxlfmt.Verify(t.Context(), nil, nil); return err },
		"NewWriter":    func() error { _, err := libxlfmt.NewWriter(nil, nil); return err },
		"CopyLibxc": func() error {
			w, err := libxlfmt.NewWriter(io.Discard, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = w.CopyLibxc(nil)
			return err
		},
		"Patch":  func() error { return x.Patch(nil, 0, nil, 0) },
		"CopyTo": func() error { _, err := m.CopyTo(t.Context(), nil, nil); return err },
	} {
		if err := call(); !errors.Is(err, block.ErrNil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An idleReader gives nothing and no error, after what r has.
type idleReader struct{ r io.Reader }

func (i idleReader) Read(p []byte) (int, error) {
	n, err := i.r.Read(p)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// TestNoProgress: a reader that stops giving anything ends the reading at any
// place, and in any way to read.
func TestNoProgress(t *testing.T) {
	img := vectorNamed(t, "hvm-xs-emu").data
	img = img[:min(len(img), 20000)]
	for cut := 0; cut <= len(img); cut += 1 + cut/50 {
		idle := func() io.Reader { return idleReader{bytes.NewReader(img[:cut])} }
		read := func(each func(*libxlfmt.Reader)) error {
			r, err := libxlfmt.NewReader(idle(), nil)
			for err == nil {
				if _, err = r.Next(); err == nil {
					each(r)
				}
			}
			return err
		}
		for name, each := range map[string]func(*libxlfmt.Reader){
			"Next":   func(*libxlfmt.Reader) {},
			"Read":   func(r *libxlfmt.Reader) { io.Copy(io.Discard, r) },
			"Decode": func(r *libxlfmt.Reader) { r.Decode() },
			"Pages": func(r *libxlfmt.Reader) {
				for range r.Pages() {
				}
			},
		} {
			if err := read(each); !errors.Is(err, io.ErrNoProgress) {
				t.Fatalf("%s, %d bytes: %v", name, cut, err)
			}
		}
	}
}

// TestVerifyNoProgress does so behind the end of the stream too.
func TestVerifyNoProgress(t *testing.T) {
	img := vectorNamed(t, "hvm-xs-emu").data
	for _, n := range []int{0, 50, len(img), len(img) + 5} {
		b := append(img[:min(n, len(img)):min(n, len(img))], make([]byte, max(0, n-len(img)))...)
		if _, err := libxlfmt.Verify(t.Context(), idleReader{bytes.NewReader(b)}, nil); !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// A shortFile writes less than it is given, and says nothing.
type shortFile struct{}

func (shortFile) WriteAt(p []byte, off int64) (int, error) { return len(p) / 2, nil }

// TestShortEdit: an edit that was not written whole is an error.
func TestShortEdit(t *testing.T) {
	x, err := libxlfmt.Open(bytes.NewReader(vectorNamed(t, "hvm-xs-emu").data), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range x.Records() {
		if r.Length == 0 {
			continue
		}
		p := make([]byte, r.Length)
		if _, err := x.Body(i).ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
		if err := x.Patch(shortFile{}, i, p, 0); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("record %d: %v", i, err)
		}
	}
}
