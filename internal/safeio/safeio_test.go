package safeio_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"testing"

	"github.com/virtfmt/virtfmt/internal/safeio"
)

func data(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

func TestRead(t *testing.T) {
	src := data(5 << 20)
	for _, n := range []int64{0, 1, 1 << 20, 1<<20 + 1, 3<<20 + 5, 5 << 20} {
		got, err := safeio.ReadAt(bytes.NewReader(src), 0, n, 1<<30)
		if err != nil || !bytes.Equal(got, src[:n]) {
			t.Errorf("ReadAt of %d bytes: %d bytes, %v", n, len(got), err)
		}
		got, err = safeio.Read(bytes.NewReader(src), n, 1<<30)
		if err != nil || !bytes.Equal(got, src[:n]) {
			t.Errorf("Read of %d bytes: %d bytes, %v", n, len(got), err)
		}
	}
}

func TestClaimsAreNotTrusted(t *testing.T) {
	src := bytes.NewReader(data(1000))
	allocs := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := safeio.ReadAt(src, 0, 1<<40, math.MaxInt64); !errors.Is(err, io.ErrUnexpectedEOF) {
				b.Fatal(err)
			}
		}
	})
	if got := allocs.AllocedBytesPerOp(); got > 4<<20 {
		t.Errorf("a claim of 1 TiB over 1000 bytes took %d bytes of memory", got)
	}
	for _, c := range []struct{ off, n int64 }{{0, -1}, {0, 101}, {-1, 5}, {math.MaxInt64, 5}} {
		if _, err := safeio.ReadAt(src, c.off, c.n, 100); !errors.Is(err, safeio.ErrLimit) {
			t.Errorf("ReadAt(%d, %d) with limit 100: %v", c.off, c.n, err)
		}
	}
	if _, err := safeio.Read(bytes.NewReader(nil), 5, 100); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Read of an empty stream: %v", err)
	}
}

type failing struct{ err error }

func (f failing) ReadAt(p []byte, _ int64) (int, error) { return 0, f.err }

func TestReadZeroFill(t *testing.T) {
	src := bytes.NewReader([]byte{1, 2, 3})
	p := []byte{9, 9, 9, 9}
	if err := safeio.ReadZeroFill(src, p, 1); err != nil || !bytes.Equal(p, []byte{2, 3, 0, 0}) {
		t.Errorf("%v, %v", p, err)
	}
	p = []byte{9, 9}
	if err := safeio.ReadZeroFill(src, p, 100); err != nil || !bytes.Equal(p, []byte{0, 0}) {
		t.Errorf("past the end: %v, %v", p, err)
	}
	boom := errors.New("boom")
	if err := safeio.ReadZeroFill(failing{boom}, p, 0); err != boom {
		t.Errorf("an I/O error became %v", err)
	}
	if err := safeio.ReadZeroFill(failing{nil}, p, 0); err != io.ErrNoProgress {
		t.Errorf("a reader that gives nothing and no error: %v", err)
	}
}
