package libxlfmt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/golden"
	"github.com/virtfmt/virtfmt/libxlfmt"
)

// likeReader returns the options that write what r reads.
func likeReader(r *libxlfmt.Reader) *libxlfmt.WriterOptions {
	h, _ := r.Header()
	return &libxlfmt.WriterOptions{Container: r.Container(), BigEndian: h.BigEndian(), Legacy: h.Legacy()}
}

// copyStream copies a stream; nil options are those of the source.
func copyStream(src io.Reader, in *libxlfmt.Options, out *libxlfmt.WriterOptions) ([]byte, []libxlfmt.Record, error) {
	r, err := libxlfmt.NewReader(src, in)
	if err != nil {
		return nil, nil, err
	}
	if out == nil {
		out = likeReader(r)
	}
	var b bytes.Buffer
	w, err := libxlfmt.NewWriter(&b, out)
	if err != nil {
		return nil, nil, err
	}
	dropped, err := libxlfmt.Copy(w, r)
	if w.Offset() != int64(b.Len()) {
		return nil, nil, fmt.Errorf("offset %d, %d bytes written", w.Offset(), b.Len())
	}
	return b.Bytes(), dropped, err
}

// TestCopyIsIdentity: read and write gives the same bytes, Draft B bodies,
// checkpoints and big-endian streams included.
func TestCopyIsIdentity(t *testing.T) {
	all := append(good(t), vectorNamed(t, "draft-b-xenstore"))
	for _, v := range all {
		got, dropped, err := copyStream(onlyReader{bytes.NewReader(v.data)}, nil, nil)
		if err != nil || len(dropped) != 0 || !bytes.Equal(got, v.data) {
			t.Errorf("%s: %v, %d records dropped, %d bytes of %d", v.Name, err, len(dropped), len(got), len(v.data))
		}
	}
	back := vectorNamed(t, "colo-back-channel")
	got, _, err := copyStream(bytes.NewReader(back.data), &libxlfmt.Options{BackChannel: true}, &libxlfmt.WriterOptions{BackChannel: true})
	if err != nil || !bytes.Equal(got, back.data) {
		t.Errorf("back channel: %v\n% x", err, got)
	}
}

// TestPutIsIdentity: so does decoding every body and writing it anew.
func TestPutIsIdentity(t *testing.T) {
	for _, v := range good(t) {
		r, err := libxlfmt.NewReader(bytes.NewReader(v.data), nil)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		w, err := libxlfmt.NewWriter(&b, likeReader(r))
		if err != nil {
			t.Fatal(err)
		}
		enter := r.Container().Kind == libxlfmt.ContainerLibxc
		for err == nil {
			var rec libxlfmt.Record
			if rec, err = r.Next(); err != nil {
				break
			}
			if enter {
				h, _ := r.Libxc()
				err = w.StartLibxc(h)
			}
			if enter = rec.Type == libxlfmt.TypeLibxcContext; enter || err != nil {
				continue // StartLibxc writes it
			}
			var body libxlfmt.Body
			if body, err = r.Decode(); err == nil {
				err = w.Put(body)
			}
		}
		if err != io.EOF || !bytes.Equal(b.Bytes(), v.data) {
			t.Errorf("%s: %v, %d bytes of %d", v.Name, err, b.Len(), len(v.data))
		}
	}
}

// TestWriterRefusesWhatStrictRefuses: what a reader finds, a writer does not
// write, and what it did write is not taken for complete.
func TestWriterRefusesWhatStrictRefuses(t *testing.T) {
	skip := map[string]bool{ // not in records: the writer has no way to make it
		"trailing-bytes": true, "hdr-reserved-bit2": true, "hdr-reserved-bit16": true, "xc-page-data-reserved": true,
		"draft-b-xenstore": true, // written as what it is
		"libxc-with-body":  true, // written without it
	}
	tolerant := &libxlfmt.Options{Report: func(libxlfmt.Finding) error { return nil }, Xenstore: libxlfmt.XenstoreFinal}
	for _, v := range vectors(t) {
		if strings.HasPrefix(v.Spec, "ok") || skip[v.Name] {
			continue
		}
		got, _, err := copyStream(bytes.NewReader(v.data), tolerant, nil)
		if err == nil {
			t.Errorf("%s: written", v.Name)
		}
		if len(got) > 0 && verify(t, got, libxlfmt.Lenient).OK() {
			t.Errorf("%s: %v, but what was written is complete", v.Name, err)
		}
	}
}

// boundedWriter fails once it has taken n bytes.
type boundedWriter struct {
	bytes.Buffer
	n     int
	short bool
}

var errFull = errors.New("full")

func (w *boundedWriter) Write(p []byte) (int, error) {
	if room := w.n - w.Len(); len(p) > room {
		w.Buffer.Write(p[:room])
		if w.short {
			return room, nil
		}
		return room, errFull
	}
	return w.Buffer.Write(p)
}

// TestWriterFails: wherever the sink fails, the error shows, stays, and the
// stream is not complete.
func TestWriterFails(t *testing.T) {
	v := vectorNamed(t, "converted-by-script")
	step := max(1, len(v.data)/difftest.Scale(t, len(v.data)))
	for n := 0; n < len(v.data); n += step {
		b := &boundedWriter{n: n, short: n%2 == 1}
		r, err := libxlfmt.NewReader(bytes.NewReader(v.data), nil)
		if err != nil {
			t.Fatal(err)
		}
		w, err := libxlfmt.NewWriter(b, likeReader(r))
		if err == nil {
			_, err = libxlfmt.Copy(w, r)
			if err2 := w.Close(); err2 != err {
				t.Fatalf("after %d bytes: %v, then %v", n, err, err2)
			}
		}
		if want := map[bool]error{false: errFull, true: io.ErrShortWrite}[b.short]; !errors.Is(err, want) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		if b.Len() != n || n > 0 && verify(t, b.Bytes(), libxlfmt.Lenient).OK() {
			t.Fatalf("after %d bytes: %d written", n, b.Len())
		}
	}
}

// turns is what some refusals tell the caller to do.
var turns = map[string]string{
	"libxc record without its header": "a record of libxl has to come, or StartLibxc",
	"libxl record inside libxc":       "a record of libxc has to come, the last one END",
	"libxc twice":                     "a record of libxc has to come",
	"next record too early":           "libxl EMULATOR_CONTEXT lacks 10 bytes",
	"after the end":                   "the stream is complete",
	"end in a checkpoint":             "CHECKPOINT_END",
}

// TestWriterTurns: calls out of turn are refused, for good.
func TestWriterTurns(t *testing.T) {
	mark := func(t libxlfmt.Type) libxlfmt.Mark { return libxlfmt.Mark(t) }
	start := func(w *libxlfmt.Writer) error {
		return w.StartLibxc(libxlfmt.LibxcHeader{Type: libxlfmt.HVM})
	}
	for name, call := range map[string]func(w *libxlfmt.Writer) error{
		"libxc record without its header": func(w *libxlfmt.Writer) error { return w.Put(libxlfmt.TSCInfo{}) },
		"libxl record inside libxc": func(w *libxlfmt.Writer) error {
			_ = start(w)
			return w.Put(libxlfmt.EmulatorState{})
		},
		"libxc twice": func(w *libxlfmt.Writer) error { _ = start(w); return start(w) },
		"section":     func(w *libxlfmt.Writer) error { return w.Put(mark(libxlfmt.TypeSectionEnd)) },
		"next record too early": func(w *libxlfmt.Writer) error {
			_ = w.WriteRecord(libxlfmt.TypeEmulator, 10)
			return w.Put(mark(libxlfmt.TypeEnd))
		},
		"close too early": func(w *libxlfmt.Writer) error {
			_ = w.WriteRecord(libxlfmt.TypeEmulator, 10)
			return w.Close()
		},
		"too much of a body": func(w *libxlfmt.Writer) error {
			_ = w.WriteRecord(libxlfmt.TypeEmulator, 10)
			_, err := w.Write(make([]byte, 11))
			return err
		},
		"body without a record": func(w *libxlfmt.Writer) error { _, err := w.Write([]byte{1}); return err },
		"negative length":       func(w *libxlfmt.Writer) error { return w.WriteRecord(libxlfmt.TypeEmulator, -1) },
		"after the end":         func(w *libxlfmt.Writer) error { _ = w.Close(); return w.Put(libxlfmt.EmulatorState{}) },
		"end in a checkpoint": func(w *libxlfmt.Writer) error {
			_ = start(w)
			_ = w.Put(mark(libxlfmt.TypeCheckpoint))
			return w.Close()
		},
	} {
		w, err := libxlfmt.NewWriter(io.Discard, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := call(w); !errors.Is(err, libxlfmt.ErrState) || !strings.Contains(err.Error(), turns[name]) {
			t.Errorf("%s: %v", name, err)
		}
		if err := w.Put(mark(libxlfmt.TypeEnd)); !errors.Is(err, libxlfmt.ErrState) {
			t.Errorf("%s: then %v", name, err)
		}
	}
}

// TestWriterForms: Draft B to final and back.
func TestWriterForms(t *testing.T) {
	draft, final := vectorNamed(t, "draft-b-xenstore"), vectorNamed(t, "hvm-xs-emu")
	for _, c := range []struct {
		name   string
		data   []byte
		opt    libxlfmt.WriterOptions
		draftB bool
		id     libxlfmt.EmulatorID
	}{
		{"draft to final", draft.data, libxlfmt.WriterOptions{Xenstore: libxlfmt.XenstoreFinal}, false, libxlfmt.EmulatorQemu},
		{"draft to final, converted", draft.data, libxlfmt.WriterOptions{Xenstore: libxlfmt.XenstoreFinal, Legacy: true}, false, 0},
		{"final to draft", final.data, libxlfmt.WriterOptions{Xenstore: libxlfmt.XenstoreDraftB}, true, 0},
		{"draft to draft", draft.data, libxlfmt.WriterOptions{Xenstore: libxlfmt.XenstoreDraftB}, true, 0},
	} {
		got, _, err := copyStream(bytes.NewReader(c.data), nil, &c.opt)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		x := findXenstore(t, got, nil)
		if x.DraftB != c.draftB || x.ID != c.id || len(x.Pairs) != 3 || x.Pairs[2] != (libxlfmt.XenstorePair{Key: "physmap/1f1000000/name", Value: "vga.vram"}) {
			t.Errorf("%s: %+v", c.name, x)
		}
		if ok := verify(t, got, libxlfmt.Strict).OK(); ok == c.draftB {
			t.Errorf("%s: strict %v", c.name, ok)
		}
	}
	there, _, err := copyStream(bytes.NewReader(final.data), nil, &libxlfmt.WriterOptions{Xenstore: libxlfmt.XenstoreDraftB})
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := copyStream(bytes.NewReader(there), nil, &libxlfmt.WriterOptions{Xenstore: libxlfmt.XenstoreFinal})
	if err != nil || !bytes.Equal(again, final.data) {
		t.Errorf("there and back: %v, %d bytes of %d", err, len(again), len(final.data))
	}
}

// TestContainers: every container to every other, and what is lost.
func TestContainers(t *testing.T) {
	v := vectorNamed(t, "hvm-xs-emu")
	bare, _, err := copyStream(bytes.NewReader(v.data), nil, &libxlfmt.WriterOptions{
		Container: libxlfmt.Container{Kind: libxlfmt.ContainerLibxc}})
	if err != nil {
		t.Fatal(err)
	}
	containers := []libxlfmt.Container{
		{Kind: libxlfmt.ContainerNone},
		{Kind: libxlfmt.ContainerLibxc},
		{Kind: libxlfmt.ContainerXL, XL: libxlfmt.NewXLHeader([]byte(`{"c_info":{}}`), true)},
		{Kind: libxlfmt.ContainerLibvirt, Libvirt: libxlfmt.LibvirtHeader{XML: []byte("<domain/>\x00")}},
		{Kind: libxlfmt.ContainerXenopsd},
	}
	for _, from := range containers {
		src, _, err := copyStream(bytes.NewReader(v.data), nil, &libxlfmt.WriterOptions{Container: from})
		if err != nil {
			t.Fatalf("%v: %v", from.Kind, err)
		}
		if res := verify(t, src, libxlfmt.Strict); !res.OK() || res.Total != 0 {
			t.Errorf("%v: %+v", from.Kind, res.Findings)
		}
		r, err := libxlfmt.NewReader(bytes.NewReader(src), nil)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(from, r.Container()); d != "" {
			t.Errorf("%v: %s", from.Kind, d)
		}
		same, dropped, err := copyStream(bytes.NewReader(src), nil, nil)
		if err != nil || len(dropped) != 0 || !bytes.Equal(same, src) {
			t.Errorf("%v to itself: %v, %d dropped", from.Kind, err, len(dropped))
		}
		for _, to := range containers {
			got, dropped, err := copyStream(bytes.NewReader(src), nil, &libxlfmt.WriterOptions{Container: to})
			if err != nil {
				t.Errorf("%v to %v: %v", from.Kind, to.Kind, err)
				continue
			}
			if res := verify(t, got, libxlfmt.Strict); !res.OK() || res.Total != 0 {
				t.Errorf("%v to %v: %+v", from.Kind, to.Kind, res.Findings)
			}
			if d := cmp.Diff(lost(from.Kind, to.Kind), typesOf(dropped)); d != "" {
				t.Errorf("%v to %v drops: %s", from.Kind, to.Kind, d)
			}
			core, _, err := copyStream(bytes.NewReader(got), nil, &libxlfmt.WriterOptions{
				Container: libxlfmt.Container{Kind: libxlfmt.ContainerLibxc}})
			if err != nil || !bytes.Equal(core, bare) {
				t.Errorf("%v to %v: %v, the stream of libxc changed", from.Kind, to.Kind, err)
			}
		}
	}
}

// lost returns what a container of kind from, made from an HVM domain with
// xenstore data and one device model, loses on the way to kind to.
func lost(from, to libxlfmt.ContainerKind) []libxlfmt.Type {
	layered := func(k libxlfmt.ContainerKind) bool {
		return k != libxlfmt.ContainerLibxc && k != libxlfmt.ContainerXenopsd
	}
	switch {
	case layered(from) && to == libxlfmt.ContainerLibxc:
		return []libxlfmt.Type{libxlfmt.TypeXenstore, libxlfmt.TypeEmulator}
	case layered(from) && to == libxlfmt.ContainerXenopsd:
		return []libxlfmt.Type{libxlfmt.TypeXenstore}
	case from == libxlfmt.ContainerXenopsd && to == libxlfmt.ContainerLibxc:
		return []libxlfmt.Type{libxlfmt.TypeSectionQemuXen}
	}
	return nil
}

func typesOf(recs []libxlfmt.Record) []libxlfmt.Type {
	var out []libxlfmt.Type
	for _, r := range recs {
		out = append(out, r.Type)
	}
	return out
}

// TestCheckpointsInContainers: a checkpoint survives the way out of the libxl
// layer and back.
func TestCheckpointsInContainers(t *testing.T) {
	v := vectorNamed(t, "remus-pv")
	bare, dropped, err := copyStream(bytes.NewReader(v.data), nil, &libxlfmt.WriterOptions{
		Container: libxlfmt.Container{Kind: libxlfmt.ContainerLibxc}})
	if err != nil || len(dropped) != 0 {
		t.Fatal(err, dropped)
	}
	if res := verify(t, bare, libxlfmt.Strict); !res.OK() || res.End != libxlfmt.EndedAtCheckpoint {
		t.Errorf("bare: %+v", res)
	}
	again, _, err := copyStream(bytes.NewReader(bare), nil, &libxlfmt.WriterOptions{})
	if err != nil || !bytes.Equal(again, v.data) {
		t.Errorf("back: %v, %d bytes of %d", err, len(again), len(v.data))
	}
}

// TestXenopsdSections: sections of every kind, and a stream of libxl in one.
func TestXenopsdSections(t *testing.T) {
	var b bytes.Buffer
	w, err := libxlfmt.NewWriter(&b, &libxlfmt.WriterOptions{Container: libxlfmt.Container{Kind: libxlfmt.ContainerXenopsd}})
	if err != nil {
		t.Fatal(err)
	}
	put := func(bodies ...libxlfmt.Body) {
		for _, x := range bodies {
			if err := w.Put(x); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(libxlfmt.Raw{RecordType: libxlfmt.TypeSectionXenops, Data: []byte("(record)")})
	if err := w.StartLibxc(libxlfmt.LibxcHeader{Version: 2, Type: libxlfmt.HVM}); err != nil {
		t.Fatal(err)
	}
	put(libxlfmt.TSCInfo{Mode: 1}, libxlfmt.Mark(libxlfmt.TypeLibxcEnd),
		libxlfmt.Raw{RecordType: libxlfmt.TypeSectionQemuXen, Data: []byte("odd")},
		libxlfmt.Raw{RecordType: libxlfmt.TypeSectionDemu, Data: []byte("graphics")},
		libxlfmt.Mark(libxlfmt.TypeSectionLibxl), libxlfmt.EmulatorState{State: []byte("inner")}, libxlfmt.Mark(libxlfmt.TypeEnd),
		libxlfmt.Raw{RecordType: libxlfmt.TypeSectionQemuTrad, Data: []byte("old")})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if res := verify(t, b.Bytes(), libxlfmt.Strict); !res.OK() || res.Total != 0 {
		t.Errorf("%+v", res)
	}
	same, dropped, err := copyStream(bytes.NewReader(b.Bytes()), nil, nil)
	if err != nil || len(dropped) != 0 || !bytes.Equal(same, b.Bytes()) {
		t.Errorf("copy: %v, %v", err, dropped)
	}
	golden.Hex(t, "golden/xenopsd.txt", b.Bytes())
}

// TestGolden holds every kind of record, in both byte orders, byte for byte.
func TestGolden(t *testing.T) {
	for _, big := range []bool{false, true} {
		for _, domain := range []libxlfmt.DomainType{libxlfmt.PV, libxlfmt.HVM} {
			data := writeSample(t, sample{domain: domain, version: 3, width: 8, bigEndian: big, pages: 1})
			name := fmt.Sprintf("golden/%v-%s.txt", domain, map[bool]string{false: "little", true: "big"}[big])
			golden.Hex(t, name, data)
			res := verify(t, data, libxlfmt.Strict)
			if !res.OK() || res.Total != 0 && !big {
				t.Errorf("%s: %+v", name, res.Findings)
			}
		}
	}
}

// A sample says what a stream made for a test is like.
type sample struct {
	domain    libxlfmt.DomainType
	version   uint32
	width     uint8 // of a PV domain's word
	bigEndian bool
	pages     int
	state     int // bytes of device model state
	noKeys    bool
}

// writeSample writes a stream with every kind of record that its domain has.
func writeSample(t *testing.T, s sample) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := libxlfmt.NewWriter(&b, &libxlfmt.WriterOptions{BigEndian: s.bigEndian})
	if err != nil {
		t.Fatal(err)
	}
	h := libxlfmt.LibxcHeader{Version: s.version, Type: s.domain, XenMajor: 4, XenMinor: 17}
	if s.bigEndian {
		h.Options = 1
	}
	if err := w.StartLibxc(h); err != nil {
		t.Fatal(err)
	}
	for _, body := range s.bodies() {
		if err := w.Put(body); err != nil {
			t.Fatalf("%T: %v", body, err)
		}
	}
	if s.domain == libxlfmt.HVM {
		if err := w.Put(libxlfmt.Mark(libxlfmt.TypeLibxcEnd)); err != nil {
			t.Fatal(err)
		}
		e := libxlfmt.Emulator{ID: libxlfmt.EmulatorQemu}
		if !s.noKeys {
			pairs := []libxlfmt.XenstorePair{{Key: "physmap/0/name", Value: "vga.vram"}, {Key: "empty", Value: ""}}
			if err := w.Put(libxlfmt.Xenstore{Emulator: e, Pairs: pairs}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Put(libxlfmt.EmulatorState{Emulator: e, State: bytes.Repeat([]byte("Q"), s.state)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (s sample) bodies() []libxlfmt.Body {
	var out []libxlfmt.Body
	add := func(b ...libxlfmt.Body) { out = append(out, b...) }
	if s.domain == libxlfmt.PV {
		add(libxlfmt.PVInfo{GuestWidth: s.width, PTLevels: s.width/4 + 2})
	}
	if s.version >= 3 {
		add(libxlfmt.CPUIDPolicy{{Leaf: 0, Subleaf: libxlfmt.NoSubleaf, EAX: 0xd}, {Leaf: 0xd, Subleaf: 1, EDX: 7}},
			libxlfmt.MSRPolicy{{Index: 0xce, Value: 1 << 31}}, libxlfmt.Mark(libxlfmt.TypeStaticDataEnd))
	}
	if s.domain == libxlfmt.PV {
		p := libxlfmt.P2MFrames{Start: 0, End: 2047}
		for i := range p.FrameCount(s.width) {
			p.Frames = append(p.Frames, uint64(0x100+i))
		}
		add(p)
	}
	add(s.batch(), libxlfmt.TSCInfo{Mode: 1, KHz: 2_400_000, Nanoseconds: 1 << 40, Incarnation: 2})
	if s.domain == libxlfmt.HVM {
		return append(out, libxlfmt.HVMParams{{Index: 1, Value: 0xfeffc}, {Index: 12, Value: 0xff000000}}, s.context())
	}
	basic := map[uint8]int{8: 0x1430, 4: 0xaf0}[s.width]
	add(libxlfmt.SharedInfo{Page: bytes.Repeat([]byte{'s'}, 4096)})
	for id := range uint32(2) {
		add(libxlfmt.VCPU{Kind: libxlfmt.TypeVCPUBasic, ID: id, State: make([]byte, basic)},
			libxlfmt.VCPU{Kind: libxlfmt.TypeVCPUExtended, ID: id, State: make([]byte, 128)},
			libxlfmt.VCPU{Kind: libxlfmt.TypeVCPUXSave, ID: id, State: make([]byte, 579)},
			libxlfmt.VCPU{Kind: libxlfmt.TypeVCPUMSRs, ID: id, State: make([]byte, 48)})
	}
	return out
}

// batch has the types of pages that a domain of its kind can have.
func (s sample) batch() libxlfmt.PageBatch {
	types := []libxlfmt.PageType{libxlfmt.PageNormal, libxlfmt.PageXTab, libxlfmt.PageBroken, libxlfmt.PageXAlloc}
	if s.domain == libxlfmt.PV {
		types = append(types, libxlfmt.PageL1, libxlfmt.PageL2, libxlfmt.PageL3, libxlfmt.PageL4Pinned)
	}
	var p libxlfmt.PageBatch
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range s.pages {
		typ := types[i%len(types)]
		p.Entries = append(p.Entries, libxlfmt.NewPageEntry(uint64(i), typ))
		if typ.HasData() {
			page := make([]byte, 4096)
			binary.LittleEndian.PutUint64(page[rnd.IntN(512)*8:], rnd.Uint64())
			p.Data = append(p.Data, page...)
		}
	}
	return p
}

func (s sample) context() libxlfmt.HVMContext {
	order := binary.AppendByteOrder(binary.LittleEndian)
	if s.bigEndian {
		order = binary.BigEndian
	}
	var b []byte
	for _, e := range []struct {
		code, instance uint16
		data           string
	}{{1, 0, "header"}, {2, 0, "cpu 0"}, {2, 1, "cpu 1"}, {12, 0, "hpet"}, {0, 0, ""}} {
		b = order.AppendUint16(order.AppendUint16(b, e.code), e.instance)
		b = append(order.AppendUint32(b, uint32(len(e.data))), e.data...)
	}
	return libxlfmt.HVMContext{Data: b, BigEndian: s.bigEndian}
}

// TestHVMEntries: the entries of HVM_CONTEXT, and where each lies.
func TestHVMEntries(t *testing.T) {
	for _, big := range []bool{false, true} {
		h := sample{bigEndian: big}.context()
		var got []string
		for e, err := range h.Entries() {
			if err != nil {
				t.Fatal(err)
			}
			if string(h.Data[e.Offset:e.Offset+len(e.Data)]) != string(e.Data) {
				t.Errorf("%s: not at %d", e.Name(), e.Offset)
			}
			got = append(got, fmt.Sprintf("%s %d %s", e.Name(), e.Instance, e.Data))
		}
		want := []string{"HEADER 0 header", "CPU 0 cpu 0", "CPU 1 cpu 1", "HPET 0 hpet", "END 0 "}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		for n := range h.Data {
			cut := libxlfmt.HVMContext{Data: h.Data[:n], BigEndian: big}
			var last error
			for _, last = range cut.Entries() {
				continue
			}
			if last == nil {
				t.Errorf("%d bytes: no error", n)
			}
		}
	}
}

// TestCopyLibxc: a raw stream of libxc goes in as it is, and nothing behind
// its END is read.
func TestCopyLibxc(t *testing.T) {
	raw := vectorNamed(t, "bare-libxc-hvm").data
	src := strings.NewReader(string(raw) + "more")
	var b bytes.Buffer
	w, err := libxlfmt.NewWriter(&b, nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := w.CopyLibxc(onlyReader{src})
	if err != nil || n != int64(len(raw)) || src.Len() != 4 {
		t.Fatalf("%d bytes, %v, %d left", n, err, src.Len())
	}
	if err := w.Put(libxlfmt.EmulatorState{State: []byte("qemu")}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if res := verify(t, b.Bytes(), libxlfmt.Strict); !res.OK() || !bytes.Contains(b.Bytes(), raw) {
		t.Errorf("%+v", res)
	}
	for name, bad := range map[string][]byte{
		"cut":         raw[:len(raw)-1],
		"libxl":       vectorNamed(t, "pv32").data,
		"checkpoints": mustCopy(t, vectorNamed(t, "remus-pv").data, libxlfmt.ContainerLibxc),
		"nothing":     nil,
	} {
		var b bytes.Buffer
		w, err := libxlfmt.NewWriter(&b, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.CopyLibxc(bytes.NewReader(bad))
		if err == nil || w.Close() != err || verify(t, b.Bytes(), libxlfmt.Lenient).OK() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func mustCopy(t *testing.T, data []byte, k libxlfmt.ContainerKind) []byte {
	t.Helper()
	out, _, err := copyStream(bytes.NewReader(data), nil, &libxlfmt.WriterOptions{Container: libxlfmt.Container{Kind: k}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestHeadersRoundTrip: the headers encode to what they were decoded from, and
// decode to what they were encoded from.
func TestHeadersRoundTrip(t *testing.T) {
	for _, options := range []uint32{0, 1, 2, 3} {
		want := libxlfmt.Header{Version: 2, Options: options}
		b, err := want.AppendBinary([]byte("x"))
		var got libxlfmt.Header
		if err != nil || got.UnmarshalBinary(b[1:]) != nil || got != want {
			t.Errorf("%+v: %+v", want, got)
		}
		if err := got.UnmarshalBinary(b[1:16]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	}
	for _, options := range []uint16{0, 1} {
		for _, typ := range []libxlfmt.DomainType{libxlfmt.PV, libxlfmt.HVM} {
			want := libxlfmt.LibxcHeader{Version: 3, Options: options, Type: typ, XenMajor: 4, XenMinor: 18}
			b, err := want.AppendBinary([]byte("x"))
			var got libxlfmt.LibxcHeader
			if err != nil || got.UnmarshalBinary(b[1:]) != nil || got != want {
				t.Errorf("%+v: %+v", want, got)
			}
			if err := got.UnmarshalBinary(b); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Error(err)
			}
		}
	}
	for _, v := range good(t) {
		at := bytes.Index(v.data, []byte("\xff\xff\xff\xff\xff\xff\xff\xffXENF"))
		if at < 0 {
			continue
		}
		var h libxlfmt.LibxcHeader
		if err := h.UnmarshalBinary(v.data[at : at+40]); err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if b, err := h.AppendBinary(nil); err != nil || !bytes.Equal(b, v.data[at:at+40]) {
			t.Errorf("%s: %v % x", v.Name, err, b)
		}
	}
}
