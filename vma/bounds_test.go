package vma_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/vma"
)

// TestHeaderSizeLimit: a header is as large as the limit, and not larger.
func TestHeaderSizeLimit(t *testing.T) {
	b := build(t, false, content(1, 1<<16, 1))
	h, err := vma.NewReader(bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	size := h.Header().Size
	for limit, ok := range map[int64]bool{size - 1: false, size: true, size + 1: true} {
		_, err := vma.Open(bytes.NewReader(b), &vma.Options{MaxHeaderSize: limit})
		var bad *vma.FormatError
		if (err == nil) != ok || !ok && (!errors.As(err, &bad) || bad.Offset != 56) {
			t.Errorf("header of %d bytes, limit %d: %v", size, limit, err)
		}
	}
}

// TestHeaderCannotHold names what AppendBinary refuses, next to what it takes.
func TestHeaderCannotHold(t *testing.T) {
	dev := func(id uint8, name string, size int64) vma.Header {
		return vma.Header{Devices: []vma.DeviceInfo{{ID: 7, Name: "other", Size: 512}, {ID: id, Name: name, Size: size}}}
	}
	conf := func(name string, size int) vma.Header {
		return vma.Header{Configs: []vma.Config{{Name: "other"}, {Name: name, Data: make([]byte, size)}}}
	}
	for what, c := range map[string]struct {
		h  vma.Header
		ok bool
	}{
		"ID 0": {dev(0, "a", 512), false}, "ID 1": {dev(1, "a", 512), true}, "ID 254": {dev(254, "a", 512), true}, "ID 255": {dev(255, "a", 512), false},
		"ID taken": {dev(7, "a", 512), false}, "name taken": {dev(1, "other", 512), false},
		"size 0": {dev(1, "a", 0), false}, "size -512": {dev(1, "a", -512), false}, "size 513": {dev(1, "a", 513), false},
		"largest size": {dev(1, "a", vma.MaxDeviceSize), true}, "over the largest size": {dev(1, "a", vma.MaxDeviceSize+512), false},
		"largest name": {dev(1, strings.Repeat("n", vma.MaxBlobSize-1), 512), true}, "name too long": {dev(1, strings.Repeat("n", vma.MaxBlobSize), 512), false},
		"path": {dev(1, "../a", 512), false}, "no name": {dev(1, "", 512), false},
		"config": {conf("a", vma.MaxBlobSize), true}, "config too large": {conf("a", vma.MaxBlobSize+1), false},
		"config name taken": {conf("other", 1), false}, "config path": {conf("a/b", 1), false},
	} {
		b, err := c.h.AppendBinary(nil)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil {
			continue
		}
		var back vma.Header
		if err := back.UnmarshalBinary(b); err != nil || len(back.Devices) != len(c.h.Devices) || len(back.Configs) != len(c.h.Configs) {
			t.Errorf("%s: came back with %d devices and %d configs, %v", what, len(back.Devices), len(back.Configs), err)
		}
		if err := back.UnmarshalBinary(append(b, 0)); err == nil {
			t.Errorf("%s: a byte behind it goes unnoticed", what)
		}
	}
}

// TestWriterMisuse: what the caller gets wrong is named, and ends the writing.
func TestWriterMisuse(t *testing.T) {
	const size = 3<<16 + 4096
	full := make([]byte, 1<<16)
	for want, misuse := range map[string]func(*vma.Writer) error{
		"65536 bytes at 1 are not whole":       func(w *vma.Writer) error { return w.WriteZeroes(1, 1, 1<<16) },
		"4096 bytes at 0 are not whole":        func(w *vma.Writer) error { return w.WriteZeroes(1, 0, 4096) },
		"1 bytes at 200704 are not whole":      func(w *vma.Writer) error { return w.WriteZeroes(1, size, 1) },
		"-1 bytes at 0 are not whole":          func(w *vma.Writer) error { return w.WriteZeroes(1, 0, -1) },
		"65536 bytes at -65536 are not whole":  func(w *vma.Writer) error { return w.WriteZeroes(1, -1<<16, 1<<16) },
		"are not whole clusters":               func(w *vma.Writer) error { return w.WriteZeroes(1, 1<<16, 1<<63-1) },
		"cluster 4: 65536 bytes, want":         func(w *vma.Writer) error { return w.WriteCluster(1, 4, full) },
		"cluster 3: 65536 bytes, want 4096":    func(w *vma.Writer) error { return w.WriteCluster(1, 3, full) },
		"cluster 0: 4096 bytes, want 65536":    func(w *vma.Writer) error { return w.WriteCluster(1, 0, full[:4096]) },
		"no device 3":                          func(w *vma.Writer) error { return w.WriteCluster(3, 0, full) },
		"cluster 1 is written twice":           func(w *vma.Writer) error { return errors.Join(w.WriteCluster(1, 1, full), w.WriteZeroes(1, 0, 2<<16)) },
		"vmstate cluster 1 after 2: they must": func(w *vma.Writer) error { return errors.Join(w.WriteCluster(2, 2, full), w.WriteCluster(2, 1, full)) },
		"the source 4096":                      func(w *vma.Writer) error { return w.CopyFrom(t.Context(), 1, ram(full[:4096]), nil) },
	} {
		var b bytes.Buffer
		w, err := vma.NewWriter(&b, testHeader(vma.DeviceInfo{Name: "a", Size: size}, vma.DeviceInfo{Name: vma.VMStateName, Size: 3 << 16}), nil)
		if err != nil {
			t.Fatal(err)
		}
		err = misuse(w)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
			continue
		}
		n := b.Len()
		for _, again := range []error{w.WriteCluster(1, 2, full), w.WriteZeroes(1, 2<<16, 1<<16), w.CopyFrom(t.Context(), 1, ram(make([]byte, size)), nil), w.Close()} {
			if again == nil || !strings.Contains(again.Error(), want) {
				t.Errorf("after %q: %v", want, again)
			}
		}
		if b.Len() != n {
			t.Errorf("after %q: %d bytes more", want, b.Len()-n)
		}
		refused(t, b.Bytes())
	}
}

// A shortWriter takes less than it is given, and says nothing of it.
type shortWriter struct{ left int }

func (s *shortWriter) Write(p []byte) (int, error) {
	n := min(len(p), s.left)
	s.left -= n
	return n, nil
}

// TestShortWrites: bytes that get lost are an error.
func TestShortWrites(t *testing.T) {
	disk := content(1, 70<<16, 0.05)
	whole := build(t, false, disk)
	for _, n := range []int{0, 512, 12000, 13000, len(whole) / 2, len(whole) - 1} {
		w, err := vma.NewWriter(&shortWriter{n}, testHeader(vma.DeviceInfo{Name: "disk0", Size: disk.Size()}), nil)
		if err == nil {
			err = errors.Join(w.CopyFrom(t.Context(), 1, disk, nil), w.Close())
		}
		if !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("%d bytes taken: %v", n, err)
		}
	}
}

// TestIncompleteNames: Close names what is missing, the first range in words.
func TestIncompleteNames(t *testing.T) {
	for want, written := range map[string][]uint32{
		"vma: 4 clusters are missing: 200704 bytes at 0 of a":         nil,
		"vma: 1 clusters are missing: 4096 bytes at 196608 of a":      {0, 1, 2},
		"vma: 2 clusters are missing: 65536 bytes at 0 of a and more": {1, 3},
	} {
		const size = 3<<16 + 4096
		w, err := vma.NewWriter(io.Discard, testHeader(vma.DeviceInfo{Name: "a", Size: size}), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range written {
			if err := w.WriteZeroes(1, int64(n)<<16, min(1<<16, size-int64(n)<<16)); err != nil {
				t.Fatal(err)
			}
		}
		err = w.Close()
		if !errors.Is(err, vma.ErrIncomplete) || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A cancelingReader ends a context when it has been read for a while, and
// never ends itself.
type cancelingReader struct {
	head   []byte
	fill   byte
	left   int
	cancel context.CancelCauseFunc
}

func (r *cancelingReader) Read(p []byte) (int, error) {
	if len(r.head) > 0 {
		n := copy(p, r.head)
		r.head = r.head[n:]
		return n, nil
	}
	if r.left -= len(p); r.left < 0 {
		r.cancel(errFull)
	}
	for i := range p {
		p[i] = r.fill
	}
	return len(p), nil
}

// TestCanceledWithin ends the context while an archive is searched for the
// next extent, or read without end.
func TestCanceledWithin(t *testing.T) {
	head := build(t, false, content(1, 100<<16, 0.01))
	head = head[:len(head)-4096]
	o := &vma.Options{Profile: vma.Salvage}
	for name, f := range map[string]func(context.Context, io.Reader) error{
		"VerifyStream": func(ctx context.Context, r io.Reader) error { _, err := vma.VerifyStream(ctx, r, o); return err },
		"Extract": func(ctx context.Context, r io.Reader) error {
			rd, err := vma.NewReader(r, o)
			if err == nil {
				_, err = rd.Extract(ctx, nil)
			}
			return err
		},
	} {
		for _, fill := range []byte{0, 'V'} {
			ctx, cancel := context.WithCancelCause(t.Context())
			err := f(ctx, &cancelingReader{head: head, fill: fill, left: 4 << 20, cancel: cancel})
			if !errors.Is(err, errFull) {
				t.Errorf("%s of %#x without end: %v", name, fill, err)
			}
		}
	}
}

// TestProgress: what Options.Progress is told adds up.
func TestProgress(t *testing.T) {
	disks := []ram{content(1, 100<<16, 0.1), content(2, 4096, 1)}
	b := build(t, false, disks...)
	for name, f := range map[string]func(o *vma.Options) error{
		"Verify":       func(o *vma.Options) error { _, err := vma.Verify(t.Context(), bytes.NewReader(b), o); return err },
		"VerifyStream": func(o *vma.Options) error { _, err := vma.VerifyStream(t.Context(), bytes.NewReader(b), o); return err },
		"Open":         func(o *vma.Options) error { _, err := vma.Open(bytes.NewReader(b), o); return err },
	} {
		var told []vma.Progress
		if err := f(&vma.Options{Progress: func(p vma.Progress) { told = append(told, p) }}); err != nil {
			t.Fatal(err)
		}
		size := int64(len(b))
		if name == "VerifyStream" {
			size = -1
		}
		want := fmt.Sprint(vma.Progress{Offset: int64(len(b)), Size: size, Done: 101 << 16, Total: 101 << 16})
		if len(told) != 2 || told[0].Done != 58<<16 || told[0].Offset >= told[1].Offset || fmt.Sprint(told[1]) != want {
			t.Errorf("%s: %v, want the last as %s", name, told, want)
		}
	}
}

// TestReaderErrorStays: after an error or the end, Next says the same again.
func TestReaderErrorStays(t *testing.T) {
	b := build(t, false, content(1, 130<<16, 0.05))
	for name, b := range map[string][]byte{"whole": b, "cut": b[:len(b)/2], "cut in a block": b[:len(b)-1], "header alone": takeApart(b).header} {
		r, err := vma.NewReader(bytes.NewReader(b), nil)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = r.Next()
		}
		if name == "whole" != (err == io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
		at := r.Offset()
		for range 3 {
			if _, again := r.Next(); again != err || r.Offset() != at {
				t.Errorf("%s: %v at %d, then %v at %d", name, err, at, again, r.Offset())
			}
		}
	}
}
