package vma_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/vma"
)

// unzstd decodes b through Decompress, in reads of any size up to most.
func unzstd(b []byte, most int) ([]byte, error) {
	r, c, err := vma.Decompress(struct{ io.Reader }{bytes.NewReader(b)}, nil)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if c != vma.Zstd {
		return nil, fmt.Errorf("recognised as %v", c)
	}
	var got []byte
	rng := rand.New(rand.NewPCG(1, uint64(len(b))))
	for {
		p := make([]byte, 1+rng.IntN(most))
		n, err := r.Read(p)
		got = append(got, p[:n]...)
		if err == io.EOF {
			return got, nil
		}
		if err != nil {
			return got, err
		}
	}
}

// zstdFrame encodes b as one frame.
func zstdFrame(tb testing.TB, b []byte, o ...zstd.EOption) []byte {
	tb.Helper()
	e, err := zstd.NewWriter(nil, append([]zstd.EOption{zstd.WithZeroFrames(true), zstd.WithEncoderLevel(zstd.SpeedFastest)}, o...)...)
	if err != nil {
		tb.Fatal(err)
	}
	return e.EncodeAll(b, nil)
}

var skippableFrame = []byte("\x57\x2a\x4d\x18\x05\x00\x00\x00abcde")

// TestZstdFrames decodes streams of all kinds of frames, which the program
// zstd and the library write.
func TestZstdFrames(t *testing.T) {
	tool := difftest.Tool(t, "zstd", "1.4")
	noise := []byte(content(3, 300<<10, 1))
	plain := slices.Concat(noise, make([]byte, 400<<10), noise[:1000], bytes.Repeat([]byte("abcdefg"), 50000))
	var frames, contents [][]byte
	for _, size := range []int{0, 1, 200, 255, 256, 65791, 65792, 128 << 10, 128<<10 + 1, len(plain)} {
		for _, args := range [][]string{{"--check"}, {"--no-check"}, {"--check", "--no-content-size"}, {"-19", "--check"}, {"--rsyncable", "-T2", "--check"}} {
			frames = append(frames, difftest.TryIn(t, plain[:size], tool, append(args, "-q", "-c")...).Stdout)
			contents = append(contents, plain[:size])
		}
		for _, o := range [][]zstd.EOption{{zstd.WithEncoderCRC(true)}, {zstd.WithEncoderCRC(false)}, {zstd.WithSingleSegment(true)}, {zstd.WithWindowSize(1 << 10)}} {
			frames = append(frames, zstdFrame(t, plain[:size], o...))
			contents = append(contents, plain[:size])
		}
	}
	for i, f := range frames {
		if got, err := unzstd(f, 1<<20); err != nil || !bytes.Equal(got, contents[i]) {
			t.Fatalf("frame %d of %d bytes: %d bytes, %v", i, len(contents[i]), len(got), err)
		}
	}
	for _, most := range []int{1 << 10, 1 << 20, 1 << 24} {
		joined := slices.Concat(skippableFrame, slices.Concat(frames...), skippableFrame, skippableFrame)
		if got, err := unzstd(joined, most); err != nil || !bytes.Equal(got, slices.Concat(contents...)) {
			t.Errorf("all frames: %d bytes, %v", len(got), err)
		}
	}
}

// TestZstdDamage damages every byte of streams, and cuts them after every
// byte: what a decoder of the library says of it, which checks checksums
// itself, is said here as well.
func TestZstdDamage(t *testing.T) {
	noise := []byte(content(4, 4096, 1))
	text := bytes.Repeat([]byte("a page of text\n"), 100)
	b := slices.Concat(skippableFrame, zstdFrame(t, noise[:700]), zstdFrame(t, nil), zstdFrame(t, text), skippableFrame,
		zstdFrame(t, noise[:300], zstd.WithEncoderCRC(false)), zstdFrame(t, text[:200], zstd.WithSingleSegment(true)))
	rng := rand.New(rand.NewPCG(5, 6))
	refused := 0
	for i := range b {
		flipped := bytes.Clone(b)
		flipped[i] ^= byte(1 + rng.IntN(255))
		for _, damaged := range [][]byte{flipped, b[:i]} {
			if len(damaged) >= 4 && !sameAsLibrary(t, damaged) {
				refused++
			}
		}
	}
	if refused < len(b) {
		t.Errorf("only %d of %d streams were refused", refused, 2*len(b))
	}
}

// sameAsLibrary decodes b in two ways and reports whether it is sound. The
// library gives less of a damaged frame.
func sameAsLibrary(t *testing.T, b []byte) bool {
	t.Helper()
	d, err := zstd.NewReader(struct{ io.Reader }{bytes.NewReader(b)}, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(32<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	want, werr := io.ReadAll(d)
	r, c, err := vma.Decompress(bytes.NewReader(b), nil)
	if c != vma.Zstd {
		return false // nothing begins as a frame does
	}
	var got []byte
	if err == nil {
		got, err = io.ReadAll(r)
		if _, again := r.Read(make([]byte, 1)); err != nil && again == nil {
			t.Errorf("%x: reading goes on after %v", b, err)
		}
		r.Close()
	}
	switch {
	case werr == nil && (err != nil || !bytes.Equal(got, want)):
		t.Errorf("%x: %d bytes and %v, the library gives %d", b, len(got), err, len(want))
	case werr != nil && (!errors.Is(err, werr) && err.Error() != werr.Error() || !bytes.HasPrefix(got, want)):
		t.Errorf("%x: %d bytes and %v, the library gives %d and %v", b, len(got), err, len(want), werr)
	}
	return err == nil
}

// FuzzZstd decodes streams with and without a library that checks itself.
func FuzzZstd(f *testing.F) {
	f.Add(slices.Concat(skippableFrame, zstdFrame(f, []byte("abc")), zstdFrame(f, nil), zstdFrame(f, make([]byte, 1000))))
	f.Add(slices.Concat(zstdFrame(f, []byte("abc"), zstd.WithEncoderCRC(false)), zstdFrame(f, []byte("abc"), zstd.WithSingleSegment(true))))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4096 || bytes.HasPrefix(b, []byte("\x1f\x8b")) {
			return
		}
		sameAsLibrary(t, b)
	})
}

// extractZstd extracts the device of a compressed archive.
func extractZstd(ctx context.Context, b []byte, size int64, o *vma.Options, workers int) (*buffer, error) {
	z, _, err := vma.Decompress(iotest.HalfReader(bytes.NewReader(b)), nil)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	r, err := vma.NewReader(z, o)
	if err != nil {
		return nil, err
	}
	w := newBuffer(size, 0)
	x := into(w)
	x.Workers = workers
	_, err = r.Extract(ctx, x)
	return w, err
}

// TestZstdExtract extracts from frames that end anywhere, of which none or one
// has a checksum that is wrong.
func TestZstdExtract(t *testing.T) {
	disk := content(1, 150<<16+5120, 0.6)
	plain := build(t, false, disk)
	rng := rand.New(rand.NewPCG(7, 8))
	for run := range max(2, difftest.Scale(t, 60)) {
		var frames [][]byte
		for rest := plain; len(rest) > 0; {
			n := min(len(rest), 1+rng.IntN(1<<uint(8+rng.IntN(16))))
			frames = append(frames, zstdFrame(t, rest[:n]))
			rest = rest[n:]
			if rng.IntN(4) == 0 {
				frames = append(frames, skippableFrame, zstdFrame(t, nil))
			}
			if n < 1<<15 && rng.IntN(4) > 0 { // not only small ones
				frames = append(frames, zstdFrame(t, rest))
				rest = nil
			}
		}
		bad := -1
		if run%2 == 1 {
			for bad < 0 || bytes.Equal(frames[bad], skippableFrame) || frames[bad][4]&4 == 0 { // has no checksum
				bad = rng.IntN(len(frames))
			}
			frames[bad] = bytes.Clone(frames[bad])
			frames[bad][len(frames[bad])-1] ^= 1
		}
		o := &vma.Options{Profile: []vma.Profile{vma.Proxmox, vma.Strict, vma.Salvage}[run%3]}
		w, err := extractZstd(t.Context(), slices.Concat(frames...), disk.Size(), o, run%4)
		switch {
		case bad >= 0 && !errors.Is(err, zstd.ErrCRCMismatch):
			t.Fatalf("run %d, frame %d of %d is wrong: %v", run, bad, len(frames), err)
		case bad >= 0 && o.Profile == vma.Salvage && !bytes.Equal(w.b, disk):
			t.Fatalf("run %d, frame %d of %d is wrong: not all was salvaged", run, bad, len(frames))
		case bad < 0 && (err != nil || !bytes.Equal(w.b, disk)):
			t.Fatalf("run %d, %d frames: %v", run, len(frames), err)
		}
	}
}

// TestZstdSalvage salvages a damaged archive out of frames that are sound, of
// which a part is skipped: that part is checked as well.
func TestZstdSalvage(t *testing.T) {
	disk := content(1, 200<<16, 0.6)
	plain := build(t, false, disk)
	first := int(binary.BigEndian.Uint32(plain[56:])) // the size of the header
	second := first + 512 + 4096*int(binary.BigEndian.Uint16(plain[first+6:]))
	copy(plain[second:], make([]byte, 512)) // the header of an extent
	o := &vma.Options{Profile: vma.Salvage}
	var want *buffer
	cuts := 1 + difftest.Scale(t, 15)
	for i := range cuts {
		cut := first + i*(len(plain)-first)/cuts
		frames := [][]byte{zstdFrame(t, plain[:cut]), zstdFrame(t, plain[cut:])}
		w, err := extractZstd(t.Context(), slices.Concat(frames...), disk.Size(), o, 2)
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = w
		}
		if !bytes.Equal(w.b, want.b) {
			t.Errorf("cut at %d: other content", cut)
		}
		for _, f := range frames {
			f[len(f)-1] ^= 1
			w, err := extractZstd(t.Context(), slices.Concat(frames...), disk.Size(), o, 2)
			if !errors.Is(err, zstd.ErrCRCMismatch) || !bytes.Equal(w.b, want.b) {
				t.Errorf("cut at %d, a wrong checksum: %v", cut, err)
			}
			f[len(f)-1] ^= 1
		}
	}
	if bytes.Equal(want.b, disk) || !bytes.Equal(want.b[:1<<20], disk[:1<<20]) {
		t.Error("not salvaged")
	}
}

// repeated is n times b, and takes note of the memory in use at the beginning
// and at the end.
type repeated struct {
	b      []byte
	n, i   int
	memory [2]uint64
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.n == 0 {
		return 0, io.EOF
	}
	if r.n == 1 || r.memory[0] == 0 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		r.memory[min(r.memory[0], 1)] = m.HeapAlloc
	}
	n := copy(p, r.b[r.i:])
	if r.i += n; r.i == len(r.b) {
		r.i, r.n = 0, r.n-1
	}
	return n, nil
}

// TestZstdEmptyFrames reads an archive with many frames without content in the
// middle: they cost no memory.
func TestZstdEmptyFrames(t *testing.T) {
	frames := difftest.Scale(t, 500_000)
	disk := content(1, 100<<16, 0.6)
	plain := build(t, false, disk)
	half := len(plain) / 2
	for _, extract := range []bool{false, true} {
		middle := &repeated{b: zstdFrame(t, nil), n: frames}
		z, _, err := vma.Decompress(io.MultiReader(bytes.NewReader(zstdFrame(t, plain[:half])), middle, bytes.NewReader(zstdFrame(t, plain[half:]))), nil)
		if err != nil {
			t.Fatal(err)
		}
		if extract {
			w := newBuffer(disk.Size(), 0)
			r, err := vma.NewReader(z, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Extract(t.Context(), into(w)); err != nil || !bytes.Equal(w.b, disk) {
				t.Error(err)
			}
		} else if _, got := readStream(t, z, nil); !bytes.Equal(got[1], disk) {
			t.Error("other content")
		}
		if grown := int64(middle.memory[1]) - int64(middle.memory[0]); grown > 512<<10 {
			t.Errorf("%d frames took %d bytes", frames, grown)
		}
	}
}
