package qed_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/memfile"
	"github.com/virtfmt/virtfmt/qed"
)

// image returns a new image as bytes.
func image(t testing.TB, o *qed.CreateOptions) []byte {
	t.Helper()
	f := memfile.New()
	if _, err := qed.Create(f, 1<<20, o); err != nil {
		t.Fatal(err)
	}
	return f.Bytes()
}

func TestHeaderRoundTrip(t *testing.T) {
	b := image(t, &qed.CreateOptions{BackingFile: "base.img", BackingFormat: "raw"})
	binary.LittleEndian.PutUint64(b[24:], 0x8000000000000001) // compatible features
	binary.LittleEndian.PutUint64(b[32:], 0x10)               // autoclear features
	var h qed.Header
	if err := h.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	want := qed.Header{
		ClusterSize: 65536, TableSize: 4, HeaderSize: 1,
		Features:       qed.FeatureBackingFile | qed.FeatureBackingNoProbe,
		CompatFeatures: 0x8000000000000001, AutoclearFeatures: 0x10,
		L1TableOffset: 65536, ImageSize: 1 << 20, BackingFile: "base.img", BackingNameOffset: 64,
	}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	again, err := h.AppendBinary(nil)
	if err != nil || !bytes.Equal(again, b[:64]) {
		t.Errorf("encoded %x, %v, want %x", again, err, b[:64])
	}
}

// TestHostileHeaders opens headers with one field that cannot be.
func TestHostileHeaders(t *testing.T) {
	const clusterSize, tableSize, headerSize, features, l1, size, nameOff, nameLen = 4, 8, 12, 16, 40, 48, 56, 60
	for _, c := range []struct {
		name  string
		at, n int
		value uint64
		want  string
	}{
		{"magic", 0, 4, 0x12345678, "qed: not a QED image"},
		{"cluster size 0", clusterSize, 4, 0, "qed: cluster_size at 0x4: 0 is not a power of two from 4096 to 67108864"},
		{"cluster size odd", clusterSize, 4, 65537, "qed: cluster_size at 0x4: 65537 is not a power of two from 4096 to 67108864"},
		{"cluster size huge", clusterSize, 4, 1 << 31, "qed: cluster_size at 0x4: 2147483648 is not a power of two from 4096 to 67108864"},
		{"table size 0", tableSize, 4, 0, "qed: table_size at 0x8: 0 is not a power of two from 1 to 16"},
		{"table size huge", tableSize, 4, 1 << 31, "qed: table_size at 0x8: 2147483648 is not a power of two from 1 to 16"},
		{"no header", headerSize, 4, 0, "qed: header_size at 0xc: 0 clusters"},
		{"huge header", headerSize, 4, 1<<32 - 1, "qed: l1_table_offset at 0x28: 0x10000 is not a cluster after the header's 4294967295"},
		{"unknown features", features, 8, 0x8000000000000018, "qed: features at 0x10: unsupported: unknown bit 3, unknown bit 4, unknown bit 63"},
		{"L1 table not aligned", l1, 8, 65536 + 512, "qed: l1_table_offset at 0x28: 0x10200 is not a cluster after the header's 1"},
		{"L1 table in the header", l1, 8, 0, "qed: l1_table_offset at 0x28: 0x0 is not a cluster after the header's 1"},
		{"L1 table past the end", l1, 8, 1 << 40, "qed: l1_table_offset at 0x28: 0x10000000000: the table does not fit into a file of 327680 bytes: unexpected EOF"},
		{"L1 table at 2^64", l1, 8, 0xffffffffffff0000, "qed: l1_table_offset at 0x28: 0xffffffffffff0000 is not a cluster after the header's 1"},
		{"size not of sectors", size, 8, 1000, "qed: image_size at 0x30: 1000 is not a multiple of 512"},
		{"size over the geometry", size, 8, 1<<46 + 512, "qed: image_size at 0x30: 70368744178176: over the limit of 70368744177664 for this geometry"},
		{"size 2^63", size, 8, 1 << 63, "qed: image_size at 0x30: 9223372036854775808: over the limit of 70368744177664 for this geometry"},
		{"long name", nameLen, 4, 1 << 31, "qed: backing_filename_size at 0x3c: 2147483648: over the limit of 1023"},
		{"no name", nameLen, 4, 0, "qed: backing_filename_size at 0x3c: 0 though the image has a backing file"},
		{"name outside of the header", nameOff, 4, 65535, "qed: backing_filename_offset at 0x38: 0xffff: the name is not within the header's 1 clusters"},
	} {
		o := &qed.CreateOptions{}
		if c.at >= nameOff {
			o = &qed.CreateOptions{BackingFile: "base", BackingFormat: "raw"}
		}
		b := image(t, o)
		var v [8]byte
		binary.LittleEndian.PutUint64(v[:], c.value)
		copy(b[c.at:c.at+c.n], v[:])
		_, err := qed.Open(bytes.NewReader(b), nil)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
		if _, rw := qed.OpenRW(memfile.FromBytes(b), nil); rw == nil || rw.Error() != c.want {
			t.Errorf("%s: OpenRW: %v", c.name, rw)
		}
	}
}

func TestErrorsAreToldApart(t *testing.T) {
	b := image(t, nil)
	open := func(change func([]byte) []byte) error {
		_, err := qed.Open(bytes.NewReader(change(bytes.Clone(b))), nil)
		return err
	}
	if err := open(func(b []byte) []byte { b[0] = 'X'; return b }); !errors.Is(err, qed.ErrFormat) {
		t.Errorf("other magic: %v", err)
	}
	if err := open(func(b []byte) []byte { b[16] = 8; return b }); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("unknown feature: %v", err)
	}
	for _, n := range []int{5, 20, 63, 64, 65536, 300000} {
		if err := open(func(b []byte) []byte { return b[:n] }); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

func TestAutoclear(t *testing.T) {
	b := image(t, nil)
	binary.LittleEndian.PutUint64(b[32:], 0xff)
	f := memfile.FromBytes(b)
	img, err := qed.Open(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil || !bytes.Equal(f.Bytes(), b) {
		t.Fatalf("reading changed the file, or %v", err)
	}
	if img, err = qed.OpenRW(f, nil); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	clear(b[32:40])
	if !bytes.Equal(f.Bytes(), b) {
		t.Error("OpenRW did not clear the autoclear features, or changed more")
	}
}

// TestCompatibleFeatures are kept and ignored, but the backing file stays.
func TestCompatibleFeatures(t *testing.T) {
	b := image(t, nil)
	b[24] = 1
	f := memfile.FromBytes(b)
	img, err := qed.OpenRW(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := img.ChangeBacking("x", "raw"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("ChangeBacking: %v", err)
	}
	if err := img.Resize(2 << 20); err != nil {
		t.Error(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	if f.Bytes()[24] != 1 {
		t.Error("the feature was lost")
	}
}
