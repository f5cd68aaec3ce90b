package libxlfmt_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/virtfmt/virtfmt/internal/golden"
	"github.com/virtfmt/virtfmt/libxlfmt"
)

// TestFindings: every finding of every bad stream, with its place and its
// words, as Lenient goes on behind what it lets pass.
func TestFindings(t *testing.T) {
	var b strings.Builder
	list := func(name string, data []byte) {
		fmt.Fprintf(&b, "%s\n", name)
		opt := &libxlfmt.VerifyOptions{Options: libxlfmt.Options{Profile: libxlfmt.Lenient}}
		res, err := libxlfmt.Verify(t.Context(), bytes.NewReader(data), opt)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, f := range res.Findings {
			fmt.Fprintf(&b, "\t%#x of %#x %s: %s [%s]\n", f.Offset, len(data), f.Field, f.Detail, f.Code)
		}
	}
	for _, v := range vectors(t) {
		if strings.HasPrefix(v.Spec, "bad") || strings.HasPrefix(v.Xen, "bad") {
			list(v.Name, v.data)
		}
	}
	for _, c := range bogus {
		list(c.name, []byte(c.data))
	}
	golden.Text(t, "findings.txt", b.String())
}

// TestBodyInBytes: bodies read one byte at a time are the bodies.
func TestBodyInBytes(t *testing.T) {
	for _, name := range []string{"converted-by-script", "hvm-two-emulators", "colo-checkpoint-state"} {
		v := vectorNamed(t, name)
		r, err := libxlfmt.NewReader(bytes.NewReader(v.data), nil)
		if err != nil {
			t.Fatal(err)
		}
		for {
			rec, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if n, err := r.Read(nil); n != 0 || err != nil && rec.Length > 0 {
				t.Fatalf("%s: nothing read: %d, %v", name, n, err)
			}
			got, err := io.ReadAll(iotest.OneByteReader(io.LimitReader(r, rec.Length+1)))
			if want := v.data[rec.BodyOffset():][:rec.Length]; err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %v: %d bytes of %d, %v", name, rec.Type, len(got), len(want), err)
			}
		}
	}
}

// TestErrorStays: what breaks inside a body is what every later call returns.
func TestErrorStays(t *testing.T) {
	for name, data := range map[string]string{
		"cut":      libxlHeader + record(3, 100, "too short"),
		"bad page": hvmHeader + padded(1, words(1, 0)+longs(5<<60)) + record(0, 0, ""),
	} {
		r, err := libxlfmt.NewReader(onlyReader{strings.NewReader(data)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		_, first := io.Copy(io.Discard, r)
		var fe *libxlfmt.FormatError
		if !errors.As(first, &fe) {
			t.Fatalf("%s: %v", name, first)
		}
		if _, err := r.Next(); err != first {
			t.Errorf("%s: %v, then %v", name, first, err)
		}
		if n, err := r.Read(make([]byte, 8)); n != 0 || err != first {
			t.Errorf("%s: %v, then %d bytes and %v", name, first, n, err)
		}
	}
}

// TestConfigAtItsLimit: a configuration may have as many bytes as its limit,
// and none at all.
func TestConfigAtItsLimit(t *testing.T) {
	rest := libxlHeader + record(0, 0, "")
	for _, n := range []int{0, 4, 5, 100} {
		xl := "Xen saved domain, xl format\n \x00 \r" + words(0x01020304, 2, 0, uint32(n))
		if n > 0 {
			xl += words(uint32(n-4)) + strings.Repeat("c", n-4)
		}
		libvirt := "libvirt-xml\n \x00 \r" + words(2, uint32(n)) + string(make([]byte, 40)) + strings.Repeat("x", n)
		for _, data := range []string{xl + rest, libvirt + rest} {
			for _, limit := range []int64{int64(n), int64(n - 1)} {
				if limit <= 0 {
					continue // the default
				}
				r, err := libxlfmt.NewReader(strings.NewReader(data), &libxlfmt.Options{MaxConfig: limit})
				if ok := err == nil; ok != (limit >= int64(n)) {
					t.Errorf("%d bytes, at most %d: %v", n, limit, err)
				}
				if err != nil {
					continue
				}
				c := r.Container()
				if got := len(c.Libvirt.XML) + len(c.XL.Data); got != n {
					t.Errorf("%d bytes of %d", got, n)
				}
			}
		}
	}
	for _, json := range []bool{false, true} {
		if h := libxlfmt.NewXLHeader([]byte("{}"), json); h.JSON() != json || string(h.Config()) != "{}" {
			t.Errorf("JSON %v, %q", h.JSON(), h.Config())
		}
		if h := libxlfmt.NewXLHeader(nil, json); h.JSON() != json || h.Config() != nil || h.Data != nil {
			t.Errorf("without one: %+v", h)
		}
	}
}

// TestP2MRange: as many frames as the pfns from first to last touch.
func TestP2MRange(t *testing.T) {
	for _, c := range []struct {
		info               string
		start, end, frames uint32
	}{
		{"\x08\x04", 0, 511, 1}, {"\x08\x04", 0, 512, 2}, {"\x08\x04", 511, 512, 2}, {"\x08\x04", 512, 1023, 1}, {"\x08\x04", 1024, 5000, 8},
		{"\x04\x03", 0, 1023, 1}, {"\x04\x03", 1023, 1024, 2}, {"\x04\x03", 2048, 2048, 1}, {"\x04\x03", 0xfffffc00, 0xffffffff, 1},
	} {
		for _, d := range []int{-1, 0, 1} {
			n := int(c.frames) + d
			data := pvHeader + padded(2, c.info+"\x00\x00\x00\x00\x00\x00") +
				padded(3, words(c.start, c.end)+strings.Repeat("\x01\x00\x00\x00\x00\x00\x00\x00", n)) + record(0, 0, "")
			if ok := verify(t, []byte(data), libxlfmt.Strict).OK(); ok != (d == 0) {
				t.Errorf("words of %d bytes, pfns %d to %d: %d frames accepted: %v", c.info[0], c.start, c.end, n, ok)
			}
		}
		if got := (libxlfmt.P2MFrames{Start: c.start, End: c.end}).FrameCount(c.info[0]); got != int(c.frames) {
			t.Errorf("FrameCount %d, want %d", got, c.frames)
		}
	}
}

// TestKeyCharacters: each byte in a key, by xenstore's rule.
func TestKeyCharacters(t *testing.T) {
	for c := 1; c < 256; c++ {
		data := libxlHeader + padded(2, words(2, 0)+"k"+string([]byte{byte(c)})+"\x00v\x00") + record(0, 0, "")
		want := strings.Contains("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-/_@", string(rune(c)))
		if got := verify(t, []byte(data), libxlfmt.Strict).OK(); got != want {
			t.Errorf("key with %q accepted: %v", byte(c), got)
		}
	}
}

// TestFaultsOfEntries: many bad entries are one finding of each kind.
func TestFaultsOfEntries(t *testing.T) {
	const count = 300
	body := words(count, 0) + strings.Repeat(longs(5<<60|1<<52), count)
	res := verify(t, []byte(hvmHeader+padded(1, body)+record(0, 0, "")), libxlfmt.Strict)
	if res.Total != 2 || res.Findings[0].Code != libxlfmt.CodePageType || res.Findings[1].Code != libxlfmt.CodePageReserved {
		t.Errorf("%+v", res.Findings)
	}
}

// TestPagesThatDoNotFit: what a caller lets pass with Report is still no page.
func TestPagesThatDoNotFit(t *testing.T) {
	for name, body := range map[string]string{
		"one entry too many":  words(3, 0) + longs(0xf<<60, 0xf<<60|1),
		"four bytes too many": words(1, 0) + longs(0xf<<60) + "more",
		"half a page":         words(1, 0) + longs(0) + string(make([]byte, 2048)),
		"no head":             words(1),
	} {
		data := hvmHeader + padded(1, body) + record(0, 0, "")
		x, err := libxlfmt.Open(strings.NewReader(data), &libxlfmt.Options{Report: func(libxlfmt.Finding) error { return nil }})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var fe *libxlfmt.FormatError
		if _, err := x.Memory(nil); !errors.As(err, &fe) {
			t.Errorf("%s: memory: %v", name, err)
		}
		if _, err := x.Decode(0); !errors.As(err, &fe) {
			t.Errorf("%s: decode: %v", name, err)
		}
		var last error
		for _, last = range x.Pages(0) {
			continue
		}
		if !errors.As(last, &fe) || fe.Code != libxlfmt.CodeLength {
			t.Errorf("%s: pages: %v", name, last)
		}
	}
}

// TestContextBehindItsEnd: bytes behind the last entry are told of.
func TestContextBehindItsEnd(t *testing.T) {
	h := libxlfmt.HVMContext{Data: make([]byte, 9)}
	var n int
	var last error
	for _, err := range h.Entries() {
		n, last = n+1, err
	}
	if n != 2 || last == nil {
		t.Errorf("%d entries, %v", n, last)
	}
}

// failingAt is a source that fails from an offset on.
type failingAt struct {
	data []byte
	at   int64
	err  error
}

func (f failingAt) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.at {
		return 0, f.err
	}
	return copy(p, f.data[off:]), nil
}

// TestOpenSeesReadErrors: a file that cannot be read ends the reading at once,
// with the error of the file, or, where it gives no more bytes than that and
// no error, with an unexpected end.
func TestOpenSeesReadErrors(t *testing.T) {
	v := vectorNamed(t, "hvm-emu")
	for _, want := range []error{errors.New("boom"), nil} {
		for _, at := range []int64{0, 20000, 70000} {
			_, err := libxlfmt.Open(failingAt{v.data, at, want}, &libxlfmt.Options{Size: int64(len(v.data))})
			if want == nil && !errors.Is(err, io.ErrUnexpectedEOF) || want != nil && !errors.Is(err, want) {
				t.Errorf("at %d: %v, want %v", at, err, want)
			}
		}
	}
}

// TestNames: names of profiles and containers are read as they are written.
func TestNames(t *testing.T) {
	for p := libxlfmt.Strict; p <= libxlfmt.Lenient; p++ {
		if got, err := libxlfmt.ParseProfile(p.String()); got != p || err != nil {
			t.Errorf("%v: %v, %v", p, got, err)
		}
	}
	for k := libxlfmt.ContainerNone; k <= libxlfmt.ContainerXenopsd; k++ {
		if got, err := libxlfmt.ParseContainerKind(k.String()); got != k || err != nil {
			t.Errorf("%v: %v, %v", k, got, err)
		}
	}
	if _, err := libxlfmt.ParseProfile("loose"); err == nil {
		t.Error("a profile of no name")
	}
	if _, err := libxlfmt.ParseContainerKind("tar"); err == nil {
		t.Error("a container of no name")
	}
}

// TestEmptyXenstore: a sub-header alone is a record without keys, less is none.
func TestEmptyXenstore(t *testing.T) {
	rec := libxlfmt.Record{Type: libxlfmt.TypeXenstore}
	for n := range 9 {
		b := []byte(words(2, 0))[:n]
		body, err := libxlfmt.Decode(rec, b)
		if x, ok := body.(libxlfmt.Xenstore); n == 8 && (err != nil || !ok || x.ID != libxlfmt.EmulatorQemu || x.Pairs != nil || x.DraftB) {
			t.Errorf("%+v, %v", body, err)
		}
		if n < 8 && err == nil {
			t.Errorf("%d bytes: %+v", n, body)
		}
	}
}
