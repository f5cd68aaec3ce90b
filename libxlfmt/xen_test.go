package libxlfmt_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/libxlfmt"
)

// Where Debian puts Xen's tools, and what they need to find themselves.
const (
	xenDir    = "/usr/lib/xen-4.17/"
	xenVerify = xenDir + "bin/verify-stream-v2"
	xenLegacy = xenDir + "bin/convert-legacy-stream"
	xenPython = xenDir + "lib/python"
)

// xenTool returns the path of one of Xen's tools. Without the path of its
// modules verify-stream-v2 fails as if the stream were bad.
func xenTool(t *testing.T, path string) string {
	t.Helper()
	tool := difftest.Tool(t, path, "")
	t.Setenv("PYTHONPATH", xenPython)
	return tool
}

// xenVerdict runs verify-stream-v2 and returns the last line of what it says,
// "" if the stream is good.
func xenVerdict(t *testing.T, tool, format string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stream")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	r := difftest.Try(t, tool, "-f", format, "-i", path)
	if r.Code == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(r.Stdout)+string(r.Stderr)), "\n")
	last := lines[len(lines)-1]
	if strings.Contains(last, "ModuleNotFound") {
		t.Fatalf("verify-stream-v2: exit %d, %s", r.Code, last)
	}
	if r.Code != 1 {
		return toolBroke
	}
	return last
}

// toolBroke stands for a fault of the tool itself, which it tells from one of
// the stream.
const toolBroke = "the tool broke"

// TestXenAcceptsWhatIsWritten: PV of 32 and 64 bits and HVM, libxc 2 and 3,
// every padding, in every container that the tool knows.
func TestXenAcceptsWhatIsWritten(t *testing.T) {
	tool := xenTool(t, xenVerify)
	var samples []sample
	for _, version := range []uint32{2, 3} {
		for _, width := range []uint8{4, 8} {
			samples = append(samples, sample{domain: libxlfmt.PV, version: version, width: width, pages: 17})
		}
		for state := range 9 {
			samples = append(samples, sample{domain: libxlfmt.HVM, version: version, pages: state + 1, state: state, noKeys: true})
		}
	}
	samples = append(samples, sample{domain: libxlfmt.HVM, version: 3, pages: 1024, state: 100_000, noKeys: true})
	for i, s := range samples {
		data := writeSample(t, s)
		if said := xenVerdict(t, tool, "libxl", data); said != "" {
			t.Errorf("%+v: %s", s, said)
		}
		if res := verify(t, data, libxlfmt.Xen); !res.OK() {
			t.Errorf("%+v: %+v", s, res.Findings)
		}
		if i%4 != 0 {
			continue // the containers do not depend on the sample
		}
		if said := xenVerdict(t, tool, "libxc", mustCopy(t, data, libxlfmt.ContainerLibxc)); said != "" {
			t.Errorf("%+v: libxc: %s", s, said)
		}
		xl, _, err := copyStream(bytes.NewReader(data), nil, &libxlfmt.WriterOptions{Container: libxlfmt.Container{
			Kind: libxlfmt.ContainerXL, XL: libxlfmt.NewXLHeader(bytes.Repeat([]byte("x"), i), i%2 == 0)}})
		if err != nil {
			t.Fatal(err)
		}
		if said := xenVerdict(t, tool, "xl", xl); said != "" {
			t.Errorf("%+v: xl: %s", s, said)
		}
	}
}

// TestXenXenstore: the tool takes keys for unterminated (Xen 4.17, a slip
// between bytes and str), its own converter's among them; it finds nothing
// else.
func TestXenXenstore(t *testing.T) {
	tool := xenTool(t, xenVerify)
	data := writeSample(t, sample{domain: libxlfmt.HVM, version: 3, pages: 3, state: 9})
	if said := xenVerdict(t, tool, "libxl", data); said != "" && !strings.Contains(said, "Data not NUL terminated") {
		t.Errorf("%s", said)
	}
}

// TestXenRejectsNoMore: of streams with one byte changed where it matters,
// the tool refuses none that strict accepts. Optional records apart, which it
// does not know.
func TestXenRejectsNoMore(t *testing.T) {
	tool := xenTool(t, xenVerify)
	rnd := rand.New(rand.NewPCG(difftest.Seed(t, 7), 0))
	bases := [][]byte{
		writeSample(t, sample{domain: libxlfmt.PV, version: 3, width: 8, pages: 6}),
		writeSample(t, sample{domain: libxlfmt.HVM, version: 3, pages: 5, state: 3, noKeys: true}),
		writeSample(t, sample{domain: libxlfmt.HVM, version: 2, pages: 4, state: 21, noKeys: true}),
	}
	refused := 0
	for range difftest.Scale(t, 80) {
		base := bases[rnd.IntN(len(bases))]
		places := structure(t, base)
		data := bytes.Clone(base)
		at := places[rnd.IntN(len(places))]
		data[at] ^= 1 << rnd.IntN(8)
		ours := verify(t, data, libxlfmt.Strict)
		said := xenVerdict(t, tool, "libxl", data)
		if said == toolBroke {
			continue
		}
		if said != "" {
			refused++
		}
		if said != "" && ours.OK() && !strings.Contains(said, "Unrecognised record type 0x8") && !strings.Contains(said, "Unrecognised record type 8") {
			t.Errorf("byte %#x: %#x for %#x: strict accepts it; Xen says %s", at, data[at], base[at], said)
		}
		// What it accepts and strict refuses is among its known omissions.
		omitted := map[libxlfmt.Code]bool{
			libxlfmt.CodeNoStaticEnd: true, libxlfmt.CodeOptions: true, libxlfmt.CodeP2MFrames: true, libxlfmt.CodeBigEndian: true,
			libxlfmt.CodeWrongDomain: true, libxlfmt.CodePVInfoMissing: true, libxlfmt.CodeOrder: true, libxlfmt.CodePageReserved: true,
			libxlfmt.CodePagePFN: true, libxlfmt.CodeVCPU: true, libxlfmt.CodeOutOfCheckpoint: true, libxlfmt.CodeDuplicate: true,
			libxlfmt.CodeReserved: true, libxlfmt.CodeVCPUReserved: true, libxlfmt.CodeLibxcFields: true, libxlfmt.CodePVInfoReserved: true,
			libxlfmt.CodeUnknownRecord: true, libxlfmt.CodePageShift: true, libxlfmt.CodePVInfoPair: true,
			libxlfmt.CodeTruncated: true, libxlfmt.CodeTrailing: true, // with a bit of the byte order flipped
		}
		if said == "" && !ours.OK() && !omitted[firstBad(ours).Code] {
			t.Errorf("byte %#x: %#x for %#x: Xen accepts it; strict says %+v", at, data[at], base[at], firstBad(ours))
		}
	}
	if refused < difftest.Scale(t, 80)/4 {
		t.Errorf("only %d refused", refused)
	}
}

// structure returns the offsets of the headers of a stream, of its records,
// and of the first bytes of their bodies.
func structure(t *testing.T, data []byte) []int {
	t.Helper()
	var out []int
	add := func(from, to int) {
		for i := from; i < to; i++ {
			out = append(out, i)
		}
	}
	add(0, 16)
	r, err := libxlfmt.NewReader(bytes.NewReader(data), nil)
	for err == nil {
		var rec libxlfmt.Record
		if rec, err = r.Next(); err != nil {
			break
		}
		off, body := int(rec.Offset), int(rec.BodyOffset())
		add(off, body+int(min(16, rec.Length)))
		if rec.Type == libxlfmt.TypeLibxcContext {
			add(body, body+40)
		}
		add(body+int(rec.Length), int(rec.End()))
	}
	if err != io.EOF {
		t.Fatal(err)
	}
	return out
}

// TestConvertedLegacy: what Xen's converter makes of streams of Xen 4.5
// parses, says what went into them, and is written again byte for byte.
func TestConvertedLegacy(t *testing.T) {
	tool := xenTool(t, xenLegacy)
	check := xenTool(t, xenVerify)
	for _, bits := range []int{32, 64} {
		for _, guest := range []string{"pv32", "pv64", "hvm"} {
			for _, format := range []string{"libxl", "libxc"} {
				t.Run(fmt.Sprintf("%s-%d-%s", guest, bits, format), func(t *testing.T) {
					data := convertLegacy(t, tool, legacy(guest, bits), guest, bits, format)
					got, dropped, err := copyStream(onlyReader{bytes.NewReader(data)}, nil, nil)
					if err == nil && bytes.HasPrefix(data[len(got):], []byte("DeviceModelRecord0002")) {
						data = data[:len(got)] // the converter leaves the device model behind a bare stream
					}
					if err != nil || len(dropped) != 0 || !bytes.Equal(got, data) {
						t.Fatalf("copy: %v, %d of %d bytes", err, len(got), len(data))
					}
					for _, p := range []libxlfmt.Profile{libxlfmt.Strict, libxlfmt.Xen, libxlfmt.Lenient} {
						if res := verify(t, data, p); !res.OK() {
							t.Errorf("%v: %+v", p, res.Findings)
						}
					}
					said := xenVerdict(t, check, format, got)
					if said != "" && !strings.Contains(said, "Data not NUL terminated") {
						t.Error(said)
					}
					checkConverted(t, data, guest, bits, format)
				})
			}
		}
	}
}

func convertLegacy(t *testing.T, tool string, data []byte, guest string, bits int, format string) []byte {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "legacy"), filepath.Join(dir, "converted")
	if err := os.WriteFile(in, data, 0o600); err != nil {
		t.Fatal(err)
	}
	difftest.Run(t, tool, "-i", in, "-o", out, "-w", strconv.Itoa(bits), "-g", strings.TrimRight(guest, "3264"), "-f", format)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var legacyTSC = libxlfmt.TSCInfo{Mode: 1, KHz: 2_400_000, Nanoseconds: 0x1122334455, Incarnation: 3}

// legacyParams are the chunks of a legacy stream that hold a parameter.
var legacyParams = map[int32]string{
	-3: "IDENT_PT", -4: "VM86_TSS", -8: "CONSOLE_PFN", -10: "ACPI_IOPORTS_LOCATION", -11: "VIRIDIAN",
	-14: "VM_GENERATION_ID_ADDR", -15: "PAGING_RING_PFN", -16: "MONITOR_RING_PFN", -17: "SHARING_RING_PFN",
	-19: "IOREQ_SERVER_PFN", -20: "NR_IOREQ_SERVER_PAGES",
}

// legacy returns a stream as a toolstack of 32 or 64 bits wrote it up to Xen
// 4.5.
func legacy(guest string, bits int) []byte {
	le := binary.LittleEndian
	var b []byte
	u32 := func(v ...uint32) {
		for _, x := range v {
			b = le.AppendUint32(b, x)
		}
	}
	long := func(v ...uint64) {
		for _, x := range v {
			if bits == 64 {
				b = le.AppendUint64(b, x)
			} else {
				b = le.AppendUint32(b, uint32(x))
			}
		}
	}
	chunk := func(id int32) { u32(uint32(id)) }
	blob := func(s string, n int) { b = append(b, bytes.Repeat([]byte(s), n)...) }
	const p2m = 1024
	basic, width := 0x1430, 8
	if guest == "pv32" {
		basic, width = 0xaf0, 4
	}
	long(p2m)
	if guest != "hvm" {
		long(1<<64 - 1)
		u32(uint32(8+basic+8), uint32(le.Uint32([]byte("vcpu"))), uint32(basic))
		blob("\x00", basic)
		u32(le.Uint32([]byte("extv")), 0)
		for i := range p2m * width / 4096 {
			long(uint64(0x200 + i))
		}
	}
	u32(4) // pages, the last without contents
	long(0, 1, 2, 3|0xf<<28)
	blob("a", 4096)
	blob("b", 4096)
	blob("c", 4096)
	chunk(-2) // processors 0 and 1
	u32(1, 3, 0)
	chunk(-7)
	u32(legacyTSC.Mode, uint32(legacyTSC.Nanoseconds), uint32(legacyTSC.Nanoseconds>>32), legacyTSC.KHz, legacyTSC.Incarnation)
	if guest == "hvm" {
		for id := range legacyParams {
			chunk(id)
			u32(0, uint32(0x1000-id), 0)
		}
		if bits == 32 {
			chunk(-18) // what libxl kept: one mapping
			u32(45, 1, 1, 0xf0000000, 0, 0xf1000000, 1, 0x1000000, 0, 9)
			b = append(b, "vga.vram\x00"...)
		}
		chunk(0)
		u32(0xfeff0, 0, 0xfeff1, 0, 0xfeff2, 0, 150)
		blob("ctx", 50)
		b = append(b, "DeviceModelRecord0002"...)
		u32(9)
		return append(b, "qemustate"...)
	}
	chunk(0)
	u32(0) // pages that went away
	for range 2 {
		blob("v", basic)
		blob("e", 128)
	}
	blob("s", 4096)
	return b
}

// checkConverted compares a converted stream with what went into the legacy
// one.
func checkConverted(t *testing.T, data []byte, guest string, bits int, format string) {
	t.Helper()
	r, err := libxlfmt.NewReader(bytes.NewReader(data), nil)
	if err != nil {
		t.Fatal(err)
	}
	if h, ok := r.Header(); ok != (format == "libxl") || ok && !h.Legacy() {
		t.Errorf("header %+v, %v", h, ok)
	}
	params := map[string]uint64{}
	var pairs []libxlfmt.XenstorePair
	var pages, state string
	for {
		rec, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := r.Decode()
		if err != nil {
			t.Fatal(err)
		}
		switch b := body.(type) {
		case libxlfmt.TSCInfo:
			if b != legacyTSC {
				t.Errorf("TSC %+v", b)
			}
		case libxlfmt.HVMParams:
			for _, p := range b {
				params[p.Name()] = p.Value
			}
		case libxlfmt.PageBatch:
			for p := range b.Pages() {
				pages += fmt.Sprintf("%d %v %.1s;", p.PFN, p.Type, p.Data)
			}
		case libxlfmt.Xenstore:
			pairs = b.Pairs
		case libxlfmt.EmulatorState:
			state = string(b.State)
		case libxlfmt.P2MFrames:
			if b.Start != 0 || b.End != 1023 || b.Frames[0] != 0x200 {
				t.Errorf("%v at %#x: %+v", rec.Type, rec.Offset, b)
			}
		}
	}
	if h, _ := r.Libxc(); h.XenMajor != 0 {
		t.Errorf("headers %+v", h)
	}
	if want := "0 normal a;1 normal b;2 normal c;3 xtab ;"; pages != want {
		t.Errorf("pages %s", pages)
	}
	if guest != "hvm" {
		return
	}
	want := map[string]uint64{"STORE_PFN": 0xfeff2, "IOREQ_PFN": 0xfeff0, "BUFIOREQ_PFN": 0xfeff1}
	for id, name := range legacyParams {
		want[name] = uint64(0x1000 - id)
	}
	if d := cmp.Diff(want, params); d != "" {
		t.Error(d)
	}
	if format == "libxl" && !strings.HasSuffix(state, "qemustate") {
		t.Errorf("state %q", state)
	}
	if format == "libxl" && bits == 32 {
		want := []libxlfmt.XenstorePair{
			{Key: "physmap/f0000000/start_addr", Value: "1f1000000"},
			{Key: "physmap/f0000000/size", Value: "1000000"},
			{Key: "physmap/f0000000/name", Value: "vga.vram"},
		}
		if d := cmp.Diff(want, pairs); d != "" {
			t.Error(d)
		}
	}
}
