package libxlfmt_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/klauspost/compress/zstd"

	"github.com/virtfmt/virtfmt/libxlfmt"
)

// A vector is a stream made by an independent program, and what that program
// says of it.
type vector struct {
	Name, Format, Note string
	Intent             any    // true, "lenient" or false
	Spec, Xen          string // verdicts: ok, ok-eof-after-checkpoint, bad: REASON at OFFSET
	Sha256             string
	Description        description

	data []byte
}

type description struct {
	Container string
	Libxl     *struct {
		Version, Options uint32
		Endian           string
		Legacy           bool
	}
	XL *struct {
		Mandatory, Optional uint32
		OptionalLen         int    `json:"optional_len"`
		ConfigLen           int    `json:"config_len"`
		JSON                bool   `json:"json"`
		ConfigSha256        string `json:"config_sha256"`
	}
	Libxc    []libxcDescription
	Records  []recordDescription
	Trailing int64
}

type libxcDescription struct {
	At          int64
	Version     uint32
	Options     uint16
	Type        string
	Xen         [2]uint32
	Records     int
	Pages       int
	PageEntries int `json:"page_entries"`
	Checkpoints int
	End         *string
	Width       uint8
	Levels      uint8
}

type recordDescription struct {
	Layer      string
	At         int64
	Type       uint32
	Name       string
	Length     int64
	Sha256     string
	Count      *int
	Pages      *int
	Start, End *uint32
	VCPU       *uint32
	Params     [][2]uint64
	EmulatorID *uint32 `json:"emulator_id"`
	Index      *uint32
	Pairs      [][2]string
	ControlID  *uint32 `json:"control_id"`
}

var loadVectors = sync.OnceValues(func() ([]vector, error) {
	f, err := os.Open("testdata/streams.tar.zst")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	files := map[string][]byte{}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if files[h.Name], err = io.ReadAll(t); err != nil {
			return nil, err
		}
	}
	var all []vector
	if err := json.Unmarshal(files["expect.json"], &all); err != nil {
		return nil, err
	}
	for i, v := range all {
		v.data = files[v.Name+".img"]
		if v.data != nil && sum(v.data) != v.Sha256 {
			return nil, fmt.Errorf("%s: not the bytes that expect.json describes", v.Name)
		}
		all[i] = v
	}
	return all, nil
})

// vectors returns the streams of testdata. The largest, of 7 MB, is left out
// in -short mode.
func vectors(tb testing.TB) []vector {
	tb.Helper()
	all, err := loadVectors()
	if err != nil {
		tb.Fatal(err)
	}
	var out []vector
	for _, v := range all {
		if v.data == nil {
			if testing.Short() {
				continue
			}
			v.data = unzstd(tb, "testdata/"+v.Name+".img.zst")
			if sum(v.data) != v.Sha256 {
				tb.Fatalf("%s: not the bytes that expect.json describes", v.Name)
			}
		}
		out = append(out, v)
	}
	if len(out) < 79 {
		tb.Fatalf("%d vectors", len(out))
	}
	return out
}

func vectorNamed(tb testing.TB, name string) vector {
	tb.Helper()
	for _, v := range vectors(tb) {
		if v.Name == name {
			return v
		}
	}
	tb.Fatalf("no vector %s", name)
	return vector{}
}

func unzstd(tb testing.TB, path string) []byte {
	tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	defer z.Close()
	b, err := io.ReadAll(z)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// codes maps the reasons of expect.json, numbers left out, to codes.
var codes = map[string]libxlfmt.Code{
	"CHECKPOINT_END outside a checkpoint": libxlfmt.CodeOutOfCheckpoint,
	"CHECKPOINT_END with a body":          libxlfmt.CodeUnexpectedBody,
	"CHECKPOINT_STATE outside COLO":       libxlfmt.CodeStateOutside,
	"END with a body":                     libxlfmt.CodeUnexpectedBody,
	"LIBXC_CONTEXT with a body":           libxlfmt.CodeUnexpectedBody,
	"P2M before X86_PV_INFO":              libxlfmt.CodePVInfoMissing,
	"P2M frame count":                     libxlfmt.CodeP2MFrames,
	"PAGE_DATA count #":                   libxlfmt.CodePageCount,
	"PAGE_DATA count too big":             libxlfmt.CodePageCount,
	"PAGE_DATA reserved":                  libxlfmt.CodePageReserved,
	"PAGE_DATA size":                      libxlfmt.CodePageSize,
	"PV record in an HVM stream":          libxlfmt.CodeWrongDomain,
	"SHARED_INFO length":                  libxlfmt.CodeLength,
	"STATIC_DATA_END in a v# stream":      libxlfmt.CodeStaticEndV2,
	"X86_PV_INFO length":                  libxlfmt.CodePVInfoLength,
	"absolute xenstore key":               libxlfmt.CodeXenstoreAbsolute,
	"big endian stream":                   libxlfmt.CodeBigEndian,
	"emulator record for a PV domain":     libxlfmt.CodeEmulatorPV,
	"emulator sub-header short":           libxlfmt.CodeEmulatorShort,
	"empty xenstore key":                  libxlfmt.CodeXenstoreEmpty,
	"legacy (v#) stream in xl file":       libxlfmt.CodeLegacy,
	"libxc domain type":                   libxlfmt.CodeDomainType,
	"libxc id":                            libxlfmt.CodeLibxcIdent,
	"libxc marker":                        libxlfmt.CodeMarker,
	"libxc record # not allowed":          libxlfmt.CodeNotAllowed,
	"libxc version":                       libxlfmt.CodeLibxcVer,
	"libxl ident":                         libxlfmt.CodeIdent,
	"libxl version":                       libxlfmt.CodeVersion,
	"no STATIC_DATA_END before memory":    libxlfmt.CodeNoStaticEnd,
	"page type #":                         libxlfmt.CodePageType,
	"reserved emulator id":                libxlfmt.CodeDraftB,
	"reserved header option bits":         libxlfmt.CodeOptions,
	"second LIBXC_CONTEXT":                libxlfmt.CodeSecondContext,
	"trailing bytes after END":            libxlfmt.CodeTrailing,
	"truncated libxl header":              libxlfmt.CodeTruncated,
	"truncated libxl record body":         libxlfmt.CodeTruncated,
	"truncated libxl record header":       libxlfmt.CodeTruncated,
	"unknown libxl record #":              libxlfmt.CodeUnknownRecord,
	"width/levels pair":                   libxlfmt.CodePVInfoPair,
	"xenstore key characters":             libxlfmt.CodeXenstoreChars,
	"xenstore value not terminated":       libxlfmt.CodeXenstoreUnended,
	"xl byte order":                       libxlfmt.CodeXLByteOrder,
	"xl config truncated":                 libxlfmt.CodeXLConfig,
}

// wantCode returns the code of a verdict, "" for a good one, and the offset
// at which the other program stood when it noticed.
func wantCode(tb testing.TB, v vector, verdict string) (libxlfmt.Code, int64) {
	tb.Helper()
	reason, ok := strings.CutPrefix(verdict, "bad: ")
	if !ok {
		return "", 0
	}
	i := strings.LastIndex(reason, " at ")
	var at int64
	if _, err := fmt.Sscan(reason[i+4:], &at); err != nil {
		tb.Fatal(err)
	}
	code, ok := codes[stripNumbers(reason[:i])]
	if !ok {
		tb.Fatalf("%s: no code for %q", v.Name, reason)
	}
	switch v.Name { // told apart here
	case "xc-unknown-mandatory":
		code = libxlfmt.CodeUnknownRecord
	case "libxl-optional-record":
		code = libxlfmt.CodeOptionalRecord
	}
	return code, at
}

// stripNumbers replaces the numbers of a reason by a mark.
func stripNumbers(s string) string {
	words := strings.Fields(s)
	for i, w := range words {
		switch {
		case strings.HasPrefix(w, "0x"), strings.Trim(w, "0123456789") == "":
			words[i] = "#"
		case w == "(v1)":
			words[i] = "(v#)"
		case w == "v2":
			words[i] = "v#"
		}
	}
	return strings.Join(words, " ")
}

// TestVerdicts: strict says what the specification says, xen what Xen's
// reader does, for every stream, and for the reason they do.
func TestVerdicts(t *testing.T) {
	for _, v := range vectors(t) {
		for profile, verdict := range map[libxlfmt.Profile]string{libxlfmt.Strict: v.Spec, libxlfmt.Xen: v.Xen} {
			t.Run(v.Name+"/"+profile.String(), func(t *testing.T) {
				res := verify(t, v.data, profile)
				code, at := wantCode(t, v, verdict)
				first := firstBad(res)
				if first.Code != code {
					t.Fatalf("found %+v, want %s", first, verdict)
				}
				if code != "" && !v.sameRecord(first.Offset, at) {
					t.Errorf("found at %d, the other program stood at %d", first.Offset, at)
				}
				wantEnd := libxlfmt.Ended
				if verdict == "ok-eof-after-checkpoint" {
					wantEnd = libxlfmt.EndedAtCheckpoint
				}
				if ok := res.OK() && res.End == wantEnd; ok != (code == "") {
					t.Errorf("OK %v, end %v, verdict %s", res.OK(), res.End, verdict)
				}
			})
		}
	}
}

// sameRecord reports whether both offsets lie in one record, or before the
// first; at may be the end of it.
func (v vector) sameRecord(off, at int64) bool {
	start := int64(0)
	for _, r := range v.Description.Records {
		if r.At > off {
			return start <= at && at <= r.At
		}
		start = r.At
	}
	return start <= at
}

// TestLenient: what was made to be read leniently is, what is broken is not.
func TestLenient(t *testing.T) {
	for _, v := range vectors(t) {
		if v.Name == "colo-back-channel" {
			continue // a back channel, which has no header to be known by
		}
		want := v.Intent != false
		if res := verify(t, v.data, libxlfmt.Lenient); res.OK() != want {
			t.Errorf("%s: OK %v, findings %+v", v.Name, res.OK(), res.Findings)
		}
	}
}

// TestStrictIsSilentOnGoodStreams: no notes either, where nothing deviates.
func TestStrictIsSilentOnGoodStreams(t *testing.T) {
	notes := map[string]bool{ // what Xen refuses is told even where strict lets it pass
		"big-endian-hvm": true, "big-endian-pv": true, "libxl-optional-record": true,
		"emu-records-for-pv": true, "pv-width4-levels4": true,
	}
	for _, v := range vectors(t) {
		res := verify(t, v.data, libxlfmt.Strict)
		if res.OK() && (res.Total != 0) != notes[v.Name] {
			t.Errorf("%s: findings %+v", v.Name, res.Findings)
		}
	}
}

func verify(tb testing.TB, data []byte, p libxlfmt.Profile) *libxlfmt.VerifyResult {
	tb.Helper()
	res, err := libxlfmt.Verify(tb.Context(), bytes.NewReader(data), &libxlfmt.VerifyOptions{
		Options: libxlfmt.Options{Profile: p},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return res
}

func firstBad(r *libxlfmt.VerifyResult) libxlfmt.Finding {
	for _, f := range r.Findings {
		if f.Bad {
			return f
		}
	}
	return libxlfmt.Finding{}
}

// TestDescriptions: the reader sees the containers, headers and records that
// the other program saw, and the same in each body.
func TestDescriptions(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			want := v.Description
			got := describe(t, v, bytes.NewReader(v.data))
			if n := len(want.Records); n < len(got.Records) && strings.HasPrefix(v.Spec, "bad") {
				got.Records = got.Records[:n] // the other program stopped at its first finding
				got.Libxc = want.Libxc
			}
			if len(want.Records) == 0 {
				got.Libxl = want.Libxl // it wrote the header down after its first look at it
			}
			if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// describe reads a stream past whatever can be read past, and writes down
// what is in it as the other program does.
func describe(t *testing.T, v vector, src io.Reader) description {
	t.Helper()
	var d description
	d.Container = "bare"
	d.Trailing = v.Description.Trailing // judged by TestVerdicts
	r, err := libxlfmt.NewReader(src, &libxlfmt.Options{
		Report:   func(libxlfmt.Finding) error { return nil },
		Xenstore: libxlfmt.XenstoreFinal,
	})
	if err != nil {
		return d
	}
	switch c := r.Container(); c.Kind {
	case libxlfmt.ContainerLibxc:
		d.Container = "bare+libxc"
	case libxlfmt.ContainerXL:
		d.Container = "xl"
		d.XL = v.Description.XL
		d.XL.Mandatory, d.XL.Optional = c.XL.Mandatory, c.XL.Optional
		d.XL.OptionalLen, d.XL.JSON = len(c.XL.Data), c.XL.JSON()
		if config := c.XL.Config(); config != nil {
			d.XL.ConfigLen = len(config) + 1
			d.XL.ConfigSha256 = sum(append(config, 0))
		}
	}
	d.libxl(r)
	for {
		rec, err := r.Next()
		if err != nil {
			d.libxcEnd(r, err)
			return d
		}
		d.libxl(r)
		d.record(t, v, r, rec)
	}
}

func (d *description) libxl(r *libxlfmt.Reader) {
	h, ok := r.Header()
	if !ok || d.Libxl != nil {
		return
	}
	d.Libxl = &struct {
		Version, Options uint32
		Endian           string
		Legacy           bool
	}{h.Version, h.Options, "little", h.Legacy()}
	if h.BigEndian() {
		d.Libxl.Endian = "big"
	}
}

func (d *description) libxcEnd(r *libxlfmt.Reader, err error) {
	if len(d.Libxc) == 0 {
		return
	}
	x := &d.Libxc[len(d.Libxc)-1]
	if errors.Is(err, io.EOF) && r.End() == libxlfmt.EndedAtCheckpoint {
		x.End = new("eof after checkpoint")
	}
}

func (d *description) record(t *testing.T, v vector, r *libxlfmt.Reader, rec libxlfmt.Record) {
	t.Helper()
	raw, err := io.ReadAll(r)
	if err != nil {
		return // the body is cut off: not listed
	}
	w := recordDescription{
		Layer: rec.Type.Layer().String(), At: rec.Offset, Type: rec.Type.Code(), Name: rec.Type.String(),
		Length: rec.Length, Sha256: sum(raw),
	}
	switch {
	case rec.Type.Optional():
		w.Name = "optional"
	case !rec.Type.Known():
		w.Name = "?"
	}
	if rec.Type.Layer() == libxlfmt.LayerLibxc {
		d.startLibxc(r, rec)
	}
	body, err := libxlfmt.Decode(rec, raw)
	switch {
	case !v.lastIsBad(len(d.Records)):
		if err != nil {
			t.Errorf("decode: %v", err)
			return
		}
		d.body(&w, body)
	case rec.Type == libxlfmt.TypeXenstore:
		head := rec // the other program saw an emulator in any case
		head.Type = libxlfmt.TypeEmulator
		if s, err := libxlfmt.Decode(head, raw); err == nil {
			d.body(&w, s)
		}
	}
	if len(d.Libxc) > 0 && rec.Type.Layer() == libxlfmt.LayerLibxc {
		d.Libxc[len(d.Libxc)-1].add(rec, body)
	}
	d.Records = append(d.Records, w)
}

// lastIsBad reports whether the other program stopped inside record i, and so
// wrote down nothing of its body.
func (v vector) lastIsBad(i int) bool {
	return strings.HasPrefix(v.Spec, "bad") && i == len(v.Description.Records)-1 &&
		!strings.Contains(v.Spec, "trailing") && !strings.Contains(v.Spec, "truncated")
}

func (d *description) startLibxc(r *libxlfmt.Reader, rec libxlfmt.Record) {
	if n := len(d.Records); len(d.Libxc) > 0 && d.Records[n-1].Name != "LIBXC_CONTEXT" {
		return
	}
	at := rec.Offset - 40
	h, _ := r.Libxc()
	d.Libxc = append(d.Libxc, libxcDescription{
		At: at, Version: h.Version, Options: h.Options, Type: h.Type.String(), Xen: [2]uint32{h.XenMajor, h.XenMinor},
	})
}

func (x *libxcDescription) add(rec libxlfmt.Record, body libxlfmt.Body) {
	x.Records++
	switch b := body.(type) {
	case libxlfmt.PageBatch:
		x.PageEntries += len(b.Entries)
		x.Pages += len(b.Data) / 4096
	case libxlfmt.PVInfo:
		x.Width, x.Levels = b.GuestWidth, b.PTLevels
	case libxlfmt.Mark:
		switch rec.Type {
		case libxlfmt.TypeCheckpoint:
			x.Checkpoints++
		case libxlfmt.TypeLibxcEnd:
			x.End = new("END")
		}
	}
}

func (d *description) body(w *recordDescription, body libxlfmt.Body) {
	switch b := body.(type) {
	case libxlfmt.PageBatch:
		w.Count, w.Pages = new(len(b.Entries)), new(len(b.Data)/4096)
	case libxlfmt.P2MFrames:
		w.Start, w.End = &b.Start, &b.End
	case libxlfmt.VCPU:
		w.VCPU = &b.ID
	case libxlfmt.HVMParams:
		w.Params = [][2]uint64{}
		for _, p := range b {
			w.Params = append(w.Params, [2]uint64{p.Index, p.Value})
		}
	case libxlfmt.EmulatorState:
		w.EmulatorID, w.Index = new(uint32(b.ID)), &b.Index
	case libxlfmt.CheckpointState:
		w.ControlID = new(uint32(b))
	case libxlfmt.Xenstore:
		w.EmulatorID, w.Index = new(uint32(b.ID)), &b.Index
		for _, p := range b.Pairs {
			w.Pairs = append(w.Pairs, [2]string{p.Key, p.Value})
		}
	}
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
