package vma_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/virtfmt/virtfmt/vma"
)

// TestZstdSourceFails reads from a source that fails after every byte, also
// with what a server says that ended too early: a stream that seems to be whole
// there is not, and damage is not what ails it.
func TestZstdSourceFails(t *testing.T) {
	text := bytes.Repeat([]byte("a page of text\n"), 100)
	b := slices.Concat(zstdFrame(t, text), skippableFrame, zstdFrame(t, nil),
		zstdFrame(t, text[:200], zstd.WithEncoderCRC(false)), skippableFrame)
	for _, fails := range []error{io.ErrUnexpectedEOF, errFull} {
		for cut := range len(b) + 1 {
			r, _, err := vma.Decompress(io.MultiReader(bytes.NewReader(b[:cut]), iotest.ErrReader(fails)), nil)
			if err == nil {
				_, err = io.ReadAll(r)
				r.Close()
			}
			if !errors.Is(err, fails) {
				t.Errorf("a source that fails at %d of %d with %v: %v", cut, len(b), fails, err)
			}
		}
	}
}

// TestSalvageFailingStream salvages what a decompressor gives before it comes
// to damage: as much as of an archive that is cut there, and its error.
func TestSalvageFailingStream(t *testing.T) {
	disk := content(1, 80<<16+5120, 0.3)
	plain := build(t, false, disk)
	var gz bytes.Buffer
	g, err := gzip.NewWriterLevel(&gz, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	g.Write(plain)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	zst := zstdFrame(t, plain)
	flipped := func(b []byte, i int) []byte {
		b = bytes.Clone(b)
		b[i] ^= 0x10
		return b
	}
	o := &vma.Options{Profile: vma.Salvage}
	for name, b := range map[string][]byte{
		"zstd, cut": zst[:len(zst)/2], "zstd, flipped": flipped(zst, len(zst)/3), "zstd, checksum": flipped(zst, len(zst)-1), "zstd, no checksum": zst[:len(zst)-4],
		"gzip, cut": gz.Bytes()[:gz.Len()/2], "gzip, checksum": flipped(gz.Bytes(), gz.Len()-8),
	} {
		open := func() io.Reader {
			r, _, err := vma.Decompress(bytes.NewReader(b), nil)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		before, failed := io.ReadAll(open())
		if failed == nil || len(before) < len(plain)/4 {
			t.Fatalf("%s: %d bytes, %v", name, len(before), failed)
		}
		want, got := newBuffer(disk.Size(), 0), newBuffer(disk.Size(), 0xaa)
		wantReport := extractTo(t, bytes.NewReader(before), o, want, nil)
		report := extractTo(t, open(), o, got, failed)
		if !bytes.Equal(got.b, want.b) || !cmp.Equal(report.Devices, wantReport.Devices) {
			t.Errorf("%s: other than of what comes before the damage", name)
		}
		if bytes.Equal(before, plain) != bytes.Equal(got.b, disk) || len(before) == len(plain) != report.OK() {
			t.Errorf("%s: of %d bytes %d, and the report says %v", name, len(plain), len(before), report.Err())
		}
		verified, err := vma.VerifyStream(t.Context(), open(), o)
		if !errors.Is(err, failed) || verified == nil || !cmp.Equal(verified.Findings, report.Findings) {
			t.Errorf("%s: verifying says other than extracting, and %v", name, err)
		}
		if verified, err = vma.VerifyStream(t.Context(), open(), nil); !errors.Is(err, failed) || verified != nil {
			t.Errorf("%s: verifying without salvage: %v", name, err)
		}
		r, err := vma.NewReader(open(), o)
		n := int64(0)
		for ; err == nil; n++ {
			_, err = r.Next()
		}
		if _, again := r.Next(); !errors.Is(err, failed) || again != err || n-1 != report.Clusters {
			t.Errorf("%s: %d clusters, then %v and %v", name, n-1, err, again)
		}
	}
}

// TestSalvageFailingHeader: a stream that fails within the header says so. One
// whose first frame has a wrong checksum says so, and gives everything.
func TestSalvageFailingHeader(t *testing.T) {
	disk := content(1, 5<<16, 0.3)
	plain := build(t, false, disk)
	o := &vma.Options{Profile: vma.Salvage}
	for n := 0; n < 13000; n += 500 {
		open := func() io.Reader { return io.MultiReader(bytes.NewReader(plain[:n]), iotest.ErrReader(errFull)) }
		r, err := vma.NewReader(open(), o)
		if err == nil {
			_, err = r.Extract(t.Context(), nil)
		}
		if !errors.Is(err, errFull) {
			t.Errorf("%d bytes: %v", n, err)
		}
		if _, err := vma.VerifyStream(t.Context(), open(), o); !errors.Is(err, errFull) {
			t.Errorf("verifying %d bytes: %v", n, err)
		}
	}
	first := zstdFrame(t, plain[:4096])
	first[len(first)-1] ^= 1
	w, err := extractZstd(t.Context(), slices.Concat(first, zstdFrame(t, plain[4096:])), disk.Size(), o, 2)
	if !errors.Is(err, zstd.ErrCRCMismatch) || !bytes.Equal(w.b, disk) {
		t.Errorf("a wrong checksum: %v", err)
	}
}

// extractTo extracts the only device of an archive, which must end as it says.
func extractTo(t *testing.T, r io.Reader, o *vma.Options, w *buffer, ends error) *vma.Report {
	t.Helper()
	rd, err := vma.NewReader(r, o)
	if err != nil {
		t.Fatal(err)
	}
	report, err := rd.Extract(t.Context(), into(w))
	if (err == nil) != (ends == nil) || ends != nil && !errors.Is(err, ends) && !strings.HasSuffix(err.Error(), ends.Error()) {
		t.Fatalf("ends with %v, want %v", err, ends)
	}
	return report
}
