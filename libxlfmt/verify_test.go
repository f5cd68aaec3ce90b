package libxlfmt_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/libxlfmt"
)

const (
	pvHeader = "\xff\xff\xff\xff\xff\xff\xff\xffXENF\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\x01\x00\x00\x00\x0c\x00\x00\x00\x04\x00\x00\x00\x11\x00\x00\x00"
	xenopsdHeader = "XenSavedDomv2-\n"
)

func words(v ...uint32) string {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return string(b)
}

func longs(v ...uint64) string {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return string(b)
}

// padded is a record with as much padding as it needs.
func padded(code uint32, body string) string {
	return record(code, uint32(len(body)), body+strings.Repeat("\x00", -len(body)&7))
}

// bogus holds a stream for each code that the vectors have no example of, and
// the profiles that refuse it.
var bogus = []struct {
	name, data string
	code       libxlfmt.Code
	refused    string // by: s, x, l
}{
	{"xl, unknown mandatory flag", "Xen saved domain, xl format\n \x00 \r" + words(0x01020304, 6, 0, 0) + libxlHeader + record(0, 0, ""), libxlfmt.CodeXLFlags, "sxl"},
	{"xl, unknown optional flag", "Xen saved domain, xl format\n \x00 \r" + words(0x01020304, 2, 1, 0) + libxlHeader + record(0, 0, ""), libxlfmt.CodeXLOptionalFlags, "s"},
	{"xl, no room for a length", "Xen saved domain, xl format\n \x00 \r" + words(0x01020304, 2, 0, 3) + "abc" + libxlHeader + record(0, 0, ""), libxlfmt.CodeXLConfig, "sxl"},
	{"libvirt, version 1", "libvirt-xml\n \x00 \r" + words(1, 0) + string(make([]byte, 40)) + libxlHeader, libxlfmt.CodeLegacy, "sxl"},
	{"libvirt, version 3", "libvirt-xml\n \x00 \r" + words(3, 0) + string(make([]byte, 40)) + libxlHeader, libxlfmt.CodeLibvirtHeader, "sxl"},
	{"libvirt, reserved", "libvirt-xml\n \x00 \r" + words(2, 0, 7) + string(make([]byte, 36)) + libxlHeader + record(0, 0, ""), libxlfmt.CodeLibvirtReserved, "s"},
	{"xenopsd, unknown section", xenopsdHeader + longs(0xf11, 3) + "abc" + longs(0xffff, 0), libxlfmt.CodeSectionType, "s"},
	{"xenopsd, type of 64 bits", xenopsdHeader + longs(1<<32|0xf, 0) + longs(0xffff, 0), libxlfmt.CodeIdent, "sxl"},
	{"xenopsd, length of a stream", xenopsdHeader + longs(0xf0, 1) + hvmHeader + record(0, 0, "") + longs(0xffff, 0), libxlfmt.CodeSectionLength, "s"},
	{"xenopsd, legacy", xenopsdHeader + longs(0xf2, 0), libxlfmt.CodeLegacy, "sxl"},
	{"libxc, reserved option", strings.Replace(hvmHeader, "\x02\x00\x00\x00\x00", "\x02\x00\x02\x00\x00", 1) + record(0, 0, ""), libxlfmt.CodeLibxcFields, "s"},
	{"libxc, reserved word", strings.Replace(hvmHeader, "\x00\x00\x00\x02\x00\x00\x00\x00\x00", "\x00\x00\x00\x02\x00\x00\x00\x00\x01", 1) + record(0, 0, ""), libxlfmt.CodeLibxcFields, "s"},
	{"libxc, pages of 64 KiB", strings.Replace(hvmHeader, "\x0c", "\x10", 1) + record(0, 0, ""), libxlfmt.CodePageShift, "sxl"},
	{"libxc, reserved half word", strings.Replace(hvmHeader, "\x0c\x00\x00", "\x0c\x00\x01", 1) + record(0, 0, ""), libxlfmt.CodeLibxcFields, "s"},
	{"padding", libxlHeader + record(3, 9, "\x00\x00\x00\x00\x00\x00\x00\x00x\x00\x00\x00\x01\x00\x00\x00") + record(0, 0, ""), libxlfmt.CodePadding, "s"},
	{"too long", hvmHeader + record(9, 128<<20+1, ""), libxlfmt.CodeTooLong, "sxl"},
	{"toolstack", hvmHeader + padded(0xb, "blob") + record(0, 0, ""), libxlfmt.CodeNotAllowed, "sxl"},
	{"END in a checkpoint", libxlHeader + libxcMark + hvmHeader + record(0xe, 0, "") + record(0, 0, ""), libxlfmt.CodeInCheckpoint, "sxl"},
	{"libxc in a checkpoint", libxlHeader + libxcMark + hvmHeader + record(0xe, 0, "") + libxcMark, libxlfmt.CodeInCheckpoint, "sxl"},
	{"unknown state", libxlHeader + libxcMark + hvmHeader + record(0xe, 0, "") + record(4, 0, "") + padded(5, words(9)) + record(0, 0, "") + record(0, 0, ""), libxlfmt.CodeCheckpointState, "s"},
	{"long state", libxlHeader + libxcMark + hvmHeader + record(0xe, 0, "") + padded(5, words(0, 0)) + record(4, 0, ""), libxlfmt.CodeLength, "sxl"},
	{"emulator id", libxlHeader + padded(3, words(3, 0)) + record(0, 0, ""), libxlfmt.CodeEmulatorID, "s"},
	{"emulator id of keys", libxlHeader + padded(2, words(3, 0)) + record(0, 0, ""), libxlfmt.CodeEmulatorID, "s"},
	{"HVM record in PV", pvHeader + padded(0xa, words(0, 0)) + record(0, 0, ""), libxlfmt.CodeWrongDomain, "sx"},
	{"HVM_CONTEXT first", hvmHeader + record(9, 0, "") + record(0, 0, ""), libxlfmt.CodeOrder, "s"},
	{"VCPU before memory", pvHeader + padded(2, "\x08\x04\x00\x00\x00\x00\x00\x00") + padded(4, words(0, 0)) + record(0, 0, ""), libxlfmt.CodeOrder, "s"},
	{"VCPU before PV_INFO", pvHeader + padded(4, words(0, 0)) + record(0, 0, ""), libxlfmt.CodePVInfoMissing, "sxl"},
	{"PV_INFO twice", pvHeader + padded(2, "\x08\x04\x00\x00\x00\x00\x00\x00") + padded(2, "\x08\x04\x00\x00\x00\x00\x00\x00") + record(0, 0, ""), libxlfmt.CodeDuplicate, "sx"},
	{"STATIC_DATA_END twice", strings.Replace(hvmHeader, "\x02", "\x03", 1) + record(0x10, 0, "") + record(0x10, 0, "") + record(0, 0, ""), libxlfmt.CodeDuplicate, "sx"},
	{"PV_INFO of nothing", pvHeader + padded(2, "\x10\x04\x00\x00\x00\x00\x00\x00") + record(0, 0, ""), libxlfmt.CodePVInfo, "sxl"},
	{"PV_INFO of 32 bits with 4 levels", pvHeader + padded(2, "\x04\x04\x00\x00\x00\x00\x00\x00") + record(0, 0, ""), libxlfmt.CodePVInfoPair, "x"},
	{"PV_INFO, reserved", pvHeader + padded(2, "\x08\x04\x00\x00\x00\x00\x00\x01") + record(0, 0, ""), libxlfmt.CodePVInfoReserved, "s"},
	{"PV_INFO, short", pvHeader + padded(2, "\x08\x04") + record(0, 0, ""), libxlfmt.CodeLength, "sxl"},
	{"P2M, backwards", pvInfo() + padded(3, words(9, 8)+longs(1)) + record(0, 0, ""), libxlfmt.CodeP2MFrames, "sxl"},
	{"P2M, half a frame", pvInfo() + padded(3, words(0, 8)+words(1)) + record(0, 0, ""), libxlfmt.CodeP2MFrames, "sxl"},
	{"page before P2M", pvInfo() + padded(1, words(1, 0)+longs(0xf<<60)) + record(0, 0, ""), libxlfmt.CodePagePFN, "sx"},
	{"page past P2M", pvInfo() + padded(3, words(0, 8)+longs(1)) + padded(1, words(1, 0)+longs(0xf<<60|9)) + record(0, 0, ""), libxlfmt.CodePagePFN, "sx"},
	{"reserved bits of an entry", hvmHeader + padded(1, words(1, 0)+longs(0xf<<60|1<<52)) + record(0, 0, ""), libxlfmt.CodePageReserved, "s"},
	{"VCPU, short", pvInfo() + padded(6, words(0)) + record(0, 0, ""), libxlfmt.CodeVCPU, "sxl"},
	{"VCPU, BASIC of 32 bits in 64", pvInfo() + padded(4, words(0, 0)+string(make([]byte, 0xaf0))) + record(0, 0, ""), libxlfmt.CodeVCPU, "sxl"},
	{"VCPU, EXTENDED too long", pvInfo() + padded(5, words(0, 0)+string(make([]byte, 129))) + record(0, 0, ""), libxlfmt.CodeVCPU, "sxl"},
	{"VCPU, XSAVE too short", pvInfo() + padded(6, words(0, 0)+string(make([]byte, 15))) + record(0, 0, ""), libxlfmt.CodeVCPU, "sxl"},
	{"VCPU, half an MSR", pvInfo() + padded(0xc, words(0, 0)+string(make([]byte, 24))) + record(0, 0, ""), libxlfmt.CodeVCPU, "sxl"},
	{"VCPU, reserved", pvInfo() + padded(3, words(0, 8)+longs(1)) + padded(1, words(1, 0)+longs(0xf<<60)) + padded(5, words(0, 1)) + record(0, 0, ""), libxlfmt.CodeVCPUReserved, "s"},
	{"TSC, short", hvmHeader + padded(8, words(0)) + record(0, 0, ""), libxlfmt.CodeLength, "sxl"},
	{"HVM_PARAMS, count", hvmHeader + padded(0xa, words(1, 0)) + record(0, 0, ""), libxlfmt.CodeLength, "sxl"},
	{"HVM_PARAMS, empty", hvmHeader + padded(0xa, "") + record(0, 0, ""), libxlfmt.CodeLength, "sxl"},
	{"HVM_PARAMS, reserved", hvmHeader + padded(0xa, words(0, 1)) + record(0, 0, ""), libxlfmt.CodeReserved, "s"},
	{"CPUID policy, odd", hvmHeader + padded(0x11, words(0)) + record(0, 0, ""), libxlfmt.CodeLength, "sxl"},
	{"MSR policy, odd", hvmHeader + padded(0x12, words(0)) + record(0, 0, ""), libxlfmt.CodeLength, "sxl"},
	{"PAGE_DATA, no room for a count", hvmHeader + padded(1, words(1)) + record(0, 0, ""), libxlfmt.CodePageCount, "sxl"},
}

func pvInfo() string { return pvHeader + padded(2, "\x08\x04\x00\x00\x00\x00\x00\x00") }

// TestBogus: each rule that the vectors leave out, under each profile.
func TestBogus(t *testing.T) {
	for _, c := range bogus {
		for i, p := range []libxlfmt.Profile{libxlfmt.Strict, libxlfmt.Xen, libxlfmt.Lenient} {
			res := verify(t, []byte(c.data), p)
			want := strings.Contains(c.refused, "sxl"[i:i+1])
			var found bool
			for _, f := range res.Findings {
				found = found || f.Code == c.code && f.Bad == want
			}
			// A rule of the profile may be broken on the way by what is left out.
			if !found || want && res.OK() {
				t.Errorf("%s: %v: %+v", c.name, p, res.Findings)
			}
			if bad := firstBad(res); want && bad.Code != c.code && bad.Code != libxlfmt.CodeOrder {
				t.Errorf("%s: %v: first %+v", c.name, p, bad)
			}
		}
	}
}

// TestVerifyGoesOn: one bad record does not hide the next.
func TestVerifyGoesOn(t *testing.T) {
	data := libxlHeader + record(77, 0, "") + record(3, 4, "abcd\x00\x00\x00\x00") + padded(2, words(2, 0)+"/k\x00v\x00\x00\x00") +
		record(4, 0, "") + record(0, 0, "") + "more"
	var got []libxlfmt.Code
	res := verify(t, []byte(data), libxlfmt.Strict)
	for _, f := range res.Findings {
		got = append(got, f.Code)
	}
	want := []libxlfmt.Code{libxlfmt.CodeUnknownRecord, libxlfmt.CodeEmulatorShort, libxlfmt.CodeXenstoreAbsolute,
		libxlfmt.CodeXenstoreEmpty, libxlfmt.CodeOutOfCheckpoint, libxlfmt.CodeTrailing}
	if len(got) != len(want) || res.Bad != int64(len(want)) || res.OK() || res.Trailing != 4 || res.Records != 5 {
		t.Fatalf("%+v", res)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("finding %d: %s, want %s", i, got[i], want[i])
		}
	}
}

func TestVerifyMaxFindings(t *testing.T) {
	data := libxlHeader + strings.Repeat(record(77, 0, ""), 50) + record(0, 0, "")
	for _, max := range []int{1, 7, 0} {
		res, err := libxlfmt.Verify(t.Context(), strings.NewReader(data), &libxlfmt.VerifyOptions{MaxFindings: max})
		if err != nil || res.Total != 50 || res.Bad != 50 || max > 0 && len(res.Findings) != max || max == 0 && len(res.Findings) != 50 {
			t.Errorf("max %d: %d kept of %d, %v", max, len(res.Findings), res.Total, err)
		}
	}
}

// TestVerifyOfAnySource: a file, a pipe and a source that gives bytes one by
// one lead to the same result.
func TestVerifyOfAnySource(t *testing.T) {
	for _, v := range vectors(t) {
		want := verify(t, v.data, libxlfmt.Strict)
		pipe, w := io.Pipe()
		go func() {
			_, err := w.Write(v.data)
			_ = w.CloseWithError(err)
		}()
		got, err := libxlfmt.Verify(t.Context(), pipe, nil)
		_ = pipe.Close()
		if err != nil || len(got.Findings) != len(want.Findings) || got.Records != want.Records || got.End != want.End ||
			got.Length != want.Length || got.Trailing != want.Trailing || got.Bad != want.Bad {
			t.Errorf("%s: %+v, %+v, %v", v.Name, got, want, err)
		}
	}
}

// TestVerifyFromTheMiddle: offsets count from where the source stands.
func TestVerifyFromTheMiddle(t *testing.T) {
	v := vectorNamed(t, "trailing-bytes")
	src := bytes.NewReader(append(make([]byte, 77), v.data...))
	if _, err := src.Seek(77, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	got, err := libxlfmt.Verify(t.Context(), src, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(verify(t, v.data, libxlfmt.Strict), got); d != "" {
		t.Error(d)
	}
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := libxlfmt.Verify(ctx, bytes.NewReader(vectorNamed(t, "pv64").data), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	stop := errors.New("stop")
	_, err := libxlfmt.Verify(t.Context(), strings.NewReader(libxlHeader+record(77, 0, "")), &libxlfmt.VerifyOptions{
		Options: libxlfmt.Options{Report: func(libxlfmt.Finding) error { return stop }}})
	if !errors.Is(err, stop) {
		t.Error(err)
	}
}

// bigStream is a stream of an HVM domain with n MiB of memory, which it makes
// up as it is read: the same page again and again.
type bigStream struct {
	batches int64
	batch   int64 // bytes of one
	head    string
	entries []byte // of one
}

func newBigStream(mib int) *bigStream {
	s := &bigStream{batches: int64(mib) / 4, head: libxlHeader + libxcMark + hvmHeader}
	s.entries = binary.LittleEndian.AppendUint32(nil, 1)
	s.entries = binary.LittleEndian.AppendUint32(s.entries, 8+1024*(8+4096))
	s.entries = binary.LittleEndian.AppendUint32(s.entries, 1024)
	s.entries = binary.LittleEndian.AppendUint32(s.entries, 0)
	for i := range uint64(1024) {
		s.entries = binary.LittleEndian.AppendUint64(s.entries, i)
	}
	s.batch = int64(len(s.entries)) + 1024*4096
	return s
}

func (s *bigStream) Size() int64 { return int64(len(s.head)) + s.batches*s.batch + 16 }

func (s *bigStream) ReadAt(p []byte, off int64) (int, error) {
	for n := range p {
		at := off + int64(n)
		switch in := at - int64(len(s.head)); {
		case at >= s.Size():
			return n, io.EOF
		case in < 0:
			p[n] = s.head[at]
		case in < s.batches*s.batch && in%s.batch < int64(len(s.entries)):
			p[n] = s.entries[in%s.batch]
		default:
			p[n] = 0 // pages, and both ENDs
		}
	}
	return len(p), nil
}

// TestVerifyMemory: 512 MiB of guest memory are verified and indexed in less
// than 1 MiB.
func TestVerifyMemory(t *testing.T) {
	s := newBigStream(max(4, difftest.Scale(t, 512)&^3))
	src := io.NewSectionReader(s, 0, s.Size())
	var res *libxlfmt.VerifyResult
	used := allocated(func() {
		var err error
		if res, err = libxlfmt.Verify(t.Context(), src, nil); err != nil {
			t.Error(err)
		}
	})
	if !res.OK() || res.Length != s.Size() || used > 1<<20 {
		t.Errorf("%+v in %d bytes", res, used)
	}
	used = allocated(func() {
		x, err := libxlfmt.Open(src, nil)
		if err != nil || x.Size() != s.Size() {
			t.Error(err)
			return
		}
		if m, err := x.Memory(nil); err != nil || m.Size() != 4<<20 {
			t.Error(err)
		}
	})
	if used > 1<<20 {
		t.Errorf("indexed in %d bytes", used)
	}
}
