package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/qcow2"
)

// headers returns the first cluster, or 4 KiB of it, of images made by
// qemu-img, by name.
func headers(tb testing.TB) map[string][]byte {
	tb.Helper()
	paths, err := filepath.Glob("testdata/headers/*.bin")
	if err != nil || len(paths) == 0 {
		tb.Fatalf("no headers in testdata: %v", err)
	}
	all := map[string][]byte{}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			tb.Fatal(err)
		}
		size := min(4096, 1<<binary.BigEndian.Uint32(b[20:]))
		b = append(b, make([]byte, size-len(b))...)
		all[strings.TrimSuffix(filepath.Base(p), ".bin")] = b
	}
	return all
}

func decodeHeader(tb testing.TB, b []byte) *qcow2.Header {
	tb.Helper()
	h := new(qcow2.Header)
	if err := h.UnmarshalBinary(b); err != nil {
		tb.Fatal(err)
	}
	return h
}

func TestHeaderFields(t *testing.T) {
	h := decodeHeader(t, headers(t)["v3"])
	names := h.FeatureNames()
	h.Extensions = nil
	want := &qcow2.Header{
		Version: 3, ClusterBits: 16, Size: 1 << 30, L1Size: 2, L1TableOffset: 0x30000,
		RefcountTableOffset: 0x10000, RefcountTableClusters: 1, RefcountOrder: 4, HeaderLength: 112,
		Extra: make([]byte, 7),
	}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if len(names) != 8 || names[4] != (qcow2.FeatureName{Type: qcow2.FeatureIncompatible, Bit: 4, Name: "extended L2 entries"}) {
		t.Errorf("feature names: %v", names)
	}
	if h.ClusterSize() != 65536 || h.RefcountBits() != 16 {
		t.Errorf("cluster size %d, refcount bits %d", h.ClusterSize(), h.RefcountBits())
	}
}

func TestHeaderExtensions(t *testing.T) {
	all := headers(t)
	h := decodeHeader(t, all["v2backing"])
	if h.BackingFile != "base.raw" || h.BackingFormat() != "raw" || h.BackingFileOffset != 0x60 {
		t.Errorf("backing file %q %q at %#x", h.BackingFile, h.BackingFormat(), h.BackingFileOffset)
	}
	h = decodeHeader(t, all["datafile"])
	if h.DataFile() != "data.raw" || h.AutoclearFeatures != qcow2.AutoclearRawExternal {
		t.Errorf("data file %q, autoclear %#x", h.DataFile(), h.AutoclearFeatures)
	}
	h = decodeHeader(t, all["luks"])
	if p, ok := h.CryptoHeader(); !ok || p.Offset != 0x40000 || p.Length <= 0 {
		t.Errorf("encryption header %v %t", p, ok)
	}
	h = decodeHeader(t, all["bitmap"])
	if b, ok := h.Bitmaps(); !ok || b.Count != 1 || b.DirectorySize != 32 || b.DirectoryOffset%65536 != 0 {
		t.Errorf("bitmaps %+v %t", b, ok)
	}
	h.AutoclearFeatures = 0
	if _, ok := h.Bitmaps(); ok {
		t.Error("bitmaps count without their autoclear bit")
	}
}

// TestHeaderRoundTrip shows that what qemu-img wrote comes back byte for byte.
func TestHeaderRoundTrip(t *testing.T) {
	for name, b := range headers(t) {
		t.Run(name, func(t *testing.T) {
			got, err := decodeHeader(t, b).AppendBinary([]byte("prefix"))
			if err != nil {
				t.Fatal(err)
			}
			got = got[len("prefix"):]
			if !bytes.Equal(got, b[:len(got)]) || !bytes.Equal(b[len(got):], make([]byte, len(b)-len(got))) {
				t.Error("the header changed")
			}
		})
	}
}

// TestHeaderKeepsUnknown shows that unknown fields, extensions and feature
// bits survive.
func TestHeaderKeepsUnknown(t *testing.T) {
	h := decodeHeader(t, headers(t)["v3"])
	h.Extra = append(h.Extra, "an unknown field"...)
	h.HeaderLength += 16
	h.CompatibleFeatures = 1 << 40
	h.AutoclearFeatures = 1 << 50
	h.Extensions = append(h.Extensions, qcow2.Extension{Type: 0x12345678, Data: []byte("odd length")})
	b, err := h.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(h, decodeHeader(t, b)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestHeaderErrors(t *testing.T) {
	all := headers(t)
	put32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint32(b[at:], v); return b }
	}
	put64 := func(at int, v uint64) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint64(b[at:], v); return b }
	}
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }
	var format *qcow2.FormatError
	for _, tc := range []struct {
		name, image string
		damage      func([]byte) []byte
		is          error
		text        string
	}{
		{"empty", "v3", cut(0), qcow2.ErrFormat, "not a qcow2 image"},
		{"magic", "v3", put32(0, 0x51464900), qcow2.ErrFormat, "not a qcow2 image"},
		{"version 1", "v3", put32(4, 1), nil, "version at 0x4: version 1 is not qcow2"},
		{"version 4", "v3", put32(4, 4), errors.ErrUnsupported, "unsupported: version 4"},
		{"short v2", "v2", cut(71), io.ErrUnexpectedEOF, "header"},
		{"short v3", "v3", cut(103), io.ErrUnexpectedEOF, "header"},
		{"short extension", "v3", cut(120), io.ErrUnexpectedEOF, "header extension at 0x70"},
		{"cluster_bits 8", "v3", put32(20, 8), nil, "cluster_bits at 0x14: 8 is not in 9 to 21"},
		{"cluster_bits 22", "v3", put32(20, 22), nil, "cluster_bits"},
		{"cluster_bits 63", "v3", put32(20, 63), nil, "cluster_bits"},
		{"cluster_bits 255", "v3", put32(20, 255), nil, "cluster_bits"},
		{"size 2^63", "v3", put64(24, 1<<63), qcow2.ErrLimit, "size at 0x18: 0x8000000000000000: over the limit"},
		{"size over L1", "v3", put64(24, 2<<30), nil, "l1_size at 0x24"},
		{"huge L1", "v3", put32(36, 0x7fffffff), qcow2.ErrLimit, "l1_size at 0x24"},
		{"L1 unaligned", "v3", put64(40, 0x30200), nil, "not aligned"},
		{"L1 past 2^63", "v3", put64(40, 1<<63), qcow2.ErrLimit, "l1_table_offset at 0x28"},
		{"refcount table unaligned", "v3", put64(48, 0x10001), nil, "refcount_table_offset at 0x30"},
		{"huge refcount table", "v3", put32(56, 1<<28), qcow2.ErrLimit, "refcount_table_clusters at 0x38"},
		{"many snapshots", "v3", put32(60, 65537), qcow2.ErrLimit, "nb_snapshots"},
		{"snapshots unaligned", "v3", put64(64, 1), nil, "snapshots_offset at 0x40"},
		{"refcount_order 7", "v3", put32(96, 7), qcow2.ErrLimit, "refcount_order at 0x60: 7: over the limit of 6"},
		{"header_length 103", "v3", put32(100, 103), nil, "header_length"},
		{"header_length huge", "v3", put32(100, 0xfffffff8), qcow2.ErrLimit, "header_length"},
		{"header_length over cluster", "small", put32(100, 520), nil, "header"},
		{"crypt method", "v3", put32(32, 3), errors.ErrUnsupported, "crypt method 3"},
		{"compression type without bit", "v3", put32(104, 1<<24), nil, "compression_type"},
		{"bit without compression type", "v3", put64(72, 8), nil, "compression_type"},
		{"compression type 2", "zstdextl2", put32(104, 2<<24), errors.ErrUnsupported, "compression type 2"},
		{"extended L2 with 8K clusters", "zstdextl2", put32(20, 13), nil, "extended L2"},
		{"unknown feature", "v3", put64(72, 1<<33), errors.ErrUnsupported, "incompatible feature bit 33"},
		{"extension too long", "v3", put32(116, 0xfffffff8), qcow2.ErrLimit, "header extension at 0x70"},
		{"backing offset", "backing", put64(8, 65537), nil, "backing_file_offset"},
		{"backing name length", "backing", put32(16, 1024), qcow2.ErrLimit, "backing_file_size"},
		{"backing name past cluster", "v2backing", put64(8, 65530), qcow2.ErrLimit, "backing_file_size"},
		{"backing format too long", "backing", put32(116, 16), qcow2.ErrLimit, "backing file format"},
		{"crypto header without LUKS", "luks", put32(32, 0), nil, "encryption method is none"},
		{"crypto header unaligned", "luks", put64(120, 0x40001), nil, "not aligned"},
		{"bitmaps count 0", "bitmap", put32(0x200, 0), nil, "no bitmaps"},
		{"bitmaps reserved", "bitmap", put32(0x204, 1), nil, "reserved"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := tc.damage(bytes.Clone(all[tc.image]))
			err := new(qcow2.Header).UnmarshalBinary(b)
			if err == nil {
				t.Fatal("no error")
			}
			if tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("%v is not %v", err, tc.is)
			}
			if tc.is == nil && !errors.As(err, &format) {
				t.Errorf("%v is not a FormatError", err)
			}
			if !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%q does not say %q", err, tc.text)
			}
		})
	}
}

// TestHeaderNamesUnknownFeature shows that the feature name table of the image
// is used.
func TestHeaderNamesUnknownFeature(t *testing.T) {
	h := decodeHeader(t, headers(t)["v3"])
	entry := append([]byte{0, 17}, make([]byte, 46)...)
	copy(entry[2:], "time travel")
	h.Extensions[0].Data = append(h.Extensions[0].Data, entry...)
	h.IncompatibleFeatures = 1<<17 | 1<<18
	b, err := h.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	err = new(qcow2.Header).UnmarshalBinary(b)
	if want := "qcow2: unsupported: time travel, incompatible feature bit 18"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestHeaderLengths: QEMU takes a header whose length is no multiple of 8.
func TestHeaderLengths(t *testing.T) {
	for _, n := range []uint32{104, 105, 108, 112} {
		b := bytes.Clone(headers(t)["v3"][:4096])
		clear(b[112:])
		binary.BigEndian.PutUint32(b[100:], n)
		h := decodeHeader(t, b)
		if h.HeaderLength != n || len(h.Extra) != int(max(n, 105)-105) {
			t.Errorf("length %d: %d, %d extra bytes", n, h.HeaderLength, len(h.Extra))
		}
		out, err := h.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := decodeHeader(t, out).HeaderLength; got%8 != 0 || got < n&^7 {
			t.Errorf("length %d became %d", n, got)
		}
	}
}

func TestHeaderTooLong(t *testing.T) {
	h := decodeHeader(t, headers(t)["small"])
	h.BackingFile = strings.Repeat("x", 400)
	if _, err := h.AppendBinary(nil); !errors.Is(err, qcow2.ErrLimit) {
		t.Errorf("got %v", err)
	}
}

// FuzzHeader: no input panics, and what decodes encodes to what decodes to the
// same.
func FuzzHeader(f *testing.F) {
	for _, b := range headers(f) {
		f.Add(bytes.TrimRight(b, "\x00"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(b, make([]byte, 512)...)
		var h qcow2.Header
		if err := h.UnmarshalBinary(b); err != nil {
			return
		}
		out, err := h.AppendBinary(nil)
		if err != nil {
			if !errors.Is(err, qcow2.ErrLimit) {
				t.Fatal(err)
			}
			return
		}
		var again qcow2.Header
		if err := again.UnmarshalBinary(out); err != nil {
			t.Fatalf("%v\n%+v", err, h)
		}
		out2, err := again.AppendBinary(nil)
		if err != nil || !bytes.Equal(out, out2) {
			t.Fatalf("not stable: %v\n% x\n% x", err, out, out2)
		}
		h.HeaderLength, h.BackingFileOffset = again.HeaderLength, again.BackingFileOffset
		h.Extra, again.Extra = bytes.TrimRight(h.Extra, "\x00"), bytes.TrimRight(again.Extra, "\x00")
		if diff := cmp.Diff(h, again); diff != "" {
			t.Fatalf("-decoded +again:\n%s", diff)
		}
	})
}
