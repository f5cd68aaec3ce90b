package migschema_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/qtest"
	"github.com/virtfmt/virtfmt/migschema"
)

// A machine is a QEMU whose migration stream the tests read.
type machine struct {
	name    string
	bin     string // qemu-system-x86_64 if empty
	args    []string
	caps    []string
	large   bool // it is converted in one form alone
	busy    bool // it runs a guest that changes 128 pages without end
	prepare func(t *testing.T, vm *qtest.VM)
	opt     migschema.ConvertOptions
	lacks   func(s *migschema.Stats) string // what must be in the stream and is not
}

var machines = []machine{
	{name: "none", args: []string{"-M", "none"}},
	{name: "pc", args: []string{"-M", "pc", "-m", "16"}},
	{name: "q35", args: []string{
		"-M", "q35", "-m", "32", "-smp", "2", "-device", "virtio-net-pci", "-device", "virtio-rng-pci",
		"-device", "qemu-xhci", "-device", "usb-tablet", "-device", "virtio-serial-pci",
	}},
	{name: "isapc", args: []string{"-M", "isapc", "-m", "16"}},
	{name: "microvm", args: []string{"-M", "microvm", "-m", "16"}},
	{name: "vga", args: []string{"-M", "pc", "-m", "16", "-vga", "std"}},
	{name: "xbzrle", args: []string{"-M", "pc", "-m", "16"}, busy: true, caps: []string{"xbzrle"}, lacks: func(s *migschema.Stats) string {
		if s.Blocks[0].XBZRLE == 0 || s.RAMParts < 3 {
			return "XBZRLE pages in three parts"
		}
		return ""
	}},
	{name: "compress", args: []string{"-M", "pc", "-m", "16"}, busy: true, caps: []string{"compress"},
		opt: migschema.ConvertOptions{Decompress: true}, lacks: func(s *migschema.Stats) string {
			if s.Blocks[0].Compressed == 0 {
				return "compressed pages"
			}
			return ""
		}},
	{name: "postcopy", args: []string{"-M", "pc", "-m", "16"}, caps: []string{"postcopy-ram"}, lacks: func(s *migschema.Stats) string {
		if s.Commands == 0 {
			return "commands"
		}
		return ""
	}},
	{name: "uuid", args: []string{"-M", "pc", "-m", "16", "-uuid", "12345678-1234-1234-1234-123456789abc"}, caps: []string{"validate-uuid"}},
	{name: "ignore-shared", args: []string{
		"-m", "16", "-object", "memory-backend-memfd,id=m,size=16M,share=on", "-M", "pc,memory-backend=m",
	}, caps: []string{"x-ignore-shared"}},
	{name: "dirty-bitmaps", args: []string{"-M", "pc", "-m", "16", "-blockdev", "null-co,node-name=disk,size=1048576,read-zeroes=on"},
		caps: []string{"dirty-bitmaps"}, prepare: func(t *testing.T, vm *qtest.VM) {
			qmp(t, vm, "block-dirty-bitmap-add", map[string]any{"node": "disk", "name": "b"})
		}, lacks: func(s *migschema.Stats) string { return lacksDevice(s, "dirty-bitmap") }},
	{name: "mac99", bin: "qemu-system-ppc", args: []string{"-M", "mac99", "-m", "16"}},
	{name: "pseries", bin: "qemu-system-ppc64", args: []string{"-M", "pseries,cap-htm=off,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken", "-m", "256"}, large: true,
		lacks: func(s *migschema.Stats) string { return lacksDevice(s, "spapr/htab") }},
	{name: "2.3", args: []string{"-M", "pc-i440fx-2.3", "-m", "16"}, lacks: func(s *migschema.Stats) string {
		if s.Machine != "" || s.VMDesc == 0 {
			return "what a machine of 2.3 sends"
		}
		return ""
	}},
	{name: "2.0", args: []string{"-M", "pc-i440fx-2.0", "-m", "16"}, lacks: func(s *migschema.Stats) string {
		if s.VMDesc != 0 {
			return "what a machine of 2.0 sends"
		}
		return ""
	}},
}

func lacksDevice(s *migschema.Stats, name string) string {
	if slices.ContainsFunc(s.Devices, func(d migschema.DeviceStats) bool { return d.Name == name }) {
		return ""
	}
	return name
}

func qmp(t *testing.T, vm *qtest.VM, command string, args any) json.RawMessage {
	t.Helper()
	r, err := vm.QMP(command, args)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// busyBoot is a boot sector that counts in two bytes of each of 128 pages:
//
//	    cli
//	1:  mov ax, 0x1000
//	2:  mov ds, ax
//	    xor bx, bx
//	3:  invlpg [bx]
//	    inc byte [bx]
//	    inc byte [bx+0x80]
//	    add bx, 0x1000
//	    jnc 3b
//	    add ax, 0x1000
//	    cmp ax, 0x9000
//	    jb 2b
//	    jmp 1b
//
// QEMU 7.2 without KVM loses sight of a page that is written again and again,
// unless the guest makes it look the page up anew.
func busyBoot() []byte {
	b := make([]byte, 1440<<10)
	copy(b, []byte{
		0xfa, 0xb8, 0x00, 0x10, 0x8e, 0xd8, 0x31, 0xdb, 0x0f, 0x01, 0x3f, 0xfe, 0x07, 0xfe, 0x87, 0x80, 0x00,
		0x81, 0xc3, 0x00, 0x10, 0x73, 0xf1, 0x05, 0x00, 0x10, 0x3d, 0x00, 0x90, 0x72, 0xe5, 0xeb, 0xe0,
	})
	b[510], b[511] = 0x55, 0xaa
	return b
}

// until calls f until it reports true.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for start := time.Now(); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > 5*time.Minute {
			t.Fatalf("%s does not come", what)
		}
	}
}

// counterByte returns what the busy guest counts in.
func counterByte(t *testing.T, vm *qtest.VM) string {
	t.Helper()
	var s string
	if err := json.Unmarshal(qmp(t, vm, "human-monitor-command", map[string]any{"command-line": "xp /2bx 0x10000"}), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// start starts the machine, and its guest where that is busy.
func (m *machine) start(t *testing.T, extra ...string) *qtest.VM {
	t.Helper()
	args := append(slices.Clone(m.args), extra...)
	if m.busy {
		floppy := filepath.Join(t.TempDir(), "boot.img")
		if err := os.WriteFile(floppy, busyBoot(), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-drive", "if=floppy,format=raw,file="+floppy)
	}
	vm := qtest.Start(t, difftest.Tool(t, cmp.Or(m.bin, "qemu-system-x86_64"), "7.2"), args...)
	var caps []map[string]any
	for _, c := range m.caps {
		caps = append(caps, map[string]any{"capability": c, "state": true})
	}
	if caps != nil {
		qmp(t, vm, "migrate-set-capabilities", map[string]any{"capabilities": caps})
	}
	return vm
}

type migration struct {
	Status    string
	ErrorDesc string `json:"error-desc"`
	RAM       struct {
		Syncs int `json:"dirty-sync-count"`
	}
}

func progress(t *testing.T, vm *qtest.VM) migration {
	t.Helper()
	var p migration
	if err := json.Unmarshal(qmp(t, vm, "query-migrate", nil), &p); err != nil {
		t.Fatal(err)
	}
	if p.Status == "failed" {
		t.Fatalf("migration failed: %s", p.ErrorDesc)
	}
	return p
}

// save makes the machine's stream.
func (m *machine) save(t *testing.T, vm *qtest.VM) []byte {
	t.Helper()
	if m.prepare != nil {
		m.prepare(t, vm)
	}
	params := map[string]any{"max-bandwidth": 1 << 30, "downtime-limit": 2000}
	if m.busy {
		qmp(t, vm, "cont", nil)
		first := counterByte(t, vm)
		until(t, "a busy guest", func() bool { return counterByte(t, vm) != first })
		params = map[string]any{"max-bandwidth": 2 << 20, "downtime-limit": 1}
	}
	qmp(t, vm, "migrate-set-parameters", params)
	path := filepath.Join(t.TempDir(), "stream")
	part := path + ".part" // until cat has written all of it
	qmp(t, vm, "migrate", map[string]any{"uri": fmt.Sprintf("exec:cat > '%s' && mv '%[1]s' '%s'", part, path)})
	if m.busy {
		until(t, "a sixth pass", func() bool { p := progress(t, vm); return p.RAM.Syncs >= 6 || p.Status == "completed" })
		qmp(t, vm, "migrate-set-parameters", map[string]any{"max-bandwidth": 1 << 30, "downtime-limit": 10000})
	}
	if slices.Contains(m.caps, "postcopy-ram") {
		// QEMU waits for an answer that a file does not give.
		var b []byte
		until(t, "the end of the stream", func() bool {
			progress(t, vm)
			b, _ = os.ReadFile(part)
			s, err := migschema.ReadStats(bytes.NewReader(b), nil)
			return err == nil && s.VMDesc > 0
		})
		return b
	}
	until(t, "the end of the migration", func() bool { return progress(t, vm).Status == "completed" })
	var b []byte
	until(t, "the whole stream", func() (there bool) {
		var err error
		b, err = os.ReadFile(path)
		return err == nil
	})
	return b
}

// record starts the machine, and makes a stream that lacks nothing. A busy
// guest that got no time while QEMU went on has changed nothing: it gets
// another chance.
func (m *machine) record(t *testing.T) (*qtest.VM, []byte) {
	t.Helper()
	for try := 1; ; try++ {
		vm := m.start(t)
		stream := m.save(t, vm)
		stats, err := migschema.ReadStats(bytes.NewReader(stream), nil)
		if err != nil {
			t.Fatal(err)
		}
		if stats.Octets != int64(len(stream)) {
			t.Errorf("%d octets are counted as %d", len(stream), stats.Octets)
		}
		lack := ""
		if m.lacks != nil {
			lack = m.lacks(stats)
		}
		if lack == "" {
			return vm, stream
		}
		if !m.busy || try == 5 {
			t.Fatalf("the stream lacks %s: %+v", lack, stats)
		}
	}
}

// load lets the machine take a stream and run.
func (m *machine) load(t *testing.T, stream []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stream")
	if err := os.WriteFile(path, stream, 0o644); err != nil {
		t.Fatal(err)
	}
	vm := m.start(t, "-incoming", "defer")
	qmp(t, vm, "migrate-incoming", map[string]any{"uri": "exec:cat '" + path + "'"})
	state := func() string {
		var s struct{ Status string }
		if err := json.Unmarshal(qmp(t, vm, "query-status", nil), &s); err != nil {
			t.Fatal(err)
		}
		return s.Status
	}
	until(t, "the stream's end", func() bool { s := state(); return s != "inmigrate" })
	if p := progress(t, vm); p.Status != "completed" && p.Status != "" {
		t.Errorf("loading ended as %q", p.Status)
	}
	qmp(t, vm, "cont", nil)
	if m.busy {
		first := counterByte(t, vm)
		until(t, "a guest that goes on", func() bool { return counterByte(t, vm) != first })
	}
	if s := state(); s != "running" {
		t.Errorf("the guest is %s", s)
	}
}

// TestQEMU makes streams of real machines, takes them to BER and back, lets
// QEMU load what comes back, and compares the RAM in them with the guest's.
func TestQEMU(t *testing.T) {
	difftest.Tool(t, "qemu-system-x86_64", "7.2")
	for _, m := range machines {
		t.Run(m.name, func(t *testing.T) {
			vm, stream := m.record(t)
			checkRewrite(t, stream, nil)
			checkSplits(t, stream)
			forms := convertForms
			if m.large {
				forms = forms[:1]
			} else {
				checkMutations(t, rand.New(rand.NewPCG(difftest.Seed(t, 78), 0)), stream, difftest.Scale(t, 6))
			}
			if m.name != "none" && m.name != "ignore-shared" {
				checkMemory(t, vm, stream)
			}
			checkDump(t, stream, m.opt)
			back := checkConvert(t, stream, m.opt, forms)
			if slices.Contains(m.caps, "postcopy-ram") {
				return // QEMU wants its answers
			}
			m.load(t, back)
		})
	}
}

// checkConvert takes a stream to BER and back in some forms, opaque and typed,
// and returns what came back.
func checkConvert(t *testing.T, stream []byte, opt migschema.ConvertOptions, forms []migschema.Form) (back []byte) {
	t.Helper()
	ram := image(t, stream)
	for _, typed := range []bool{false, true} {
		for _, form := range forms {
			opt.Typed, opt.Form = typed, form
			var ber, out bytes.Buffer
			to, err := migschema.ToBER(&ber, bytes.NewReader(stream), &opt)
			if err != nil {
				t.Fatalf("%s: %v", form, err)
			}
			from, err := migschema.ToClassic(&out, bytes.NewReader(ber.Bytes()), &opt)
			if err != nil {
				t.Fatalf("%s: %v", form, err)
			}
			back = out.Bytes()
			if len(to.Losses) == 0 && !bytes.Equal(back, stream) {
				t.Errorf("%s, typed %v: %d octets came back as %d others", form, typed, len(stream), len(back))
			}
			if len(to.Losses) > 0 && bytes.Equal(back, stream) {
				t.Errorf("%s: no loss, but %v", form, to.Losses)
			}
			if len(from.Losses) > 0 || from.Typed != to.Typed || from.Opaque != to.Opaque {
				t.Errorf("%s: there %+v, back %+v", form, to, from)
			}
			if typed && to.Typed == 0 && bytes.Contains(stream, []byte(`"vmsd_name"`)) {
				t.Error("no typed device")
			}
			if form == migschema.DER {
				if err := decodeDER(ber.Bytes()); err != nil {
					t.Error(err)
				}
			}
			if !bytes.Equal(image(t, ber.Bytes()), ram) || !bytes.Equal(image(t, back), ram) {
				t.Errorf("%s: the RAM differs", form)
			}
		}
	}
	return back
}

func decodeDER(b []byte) error {
	_, err := count(migschema.NewDecoderBytes(b, &migschema.DecoderOptions{DER: true, Validate: true}))
	return err
}

// memory is an image of RAM.
type memory []byte

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(*m) {
		*m = append(*m, make([]byte, need-len(*m))...)
	}
	return copy((*m)[off:], p), nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(*m)) {
		return 0, io.EOF
	}
	n := copy(p, (*m)[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// image returns the RAM of a stream of either format.
func image(t *testing.T, stream []byte) []byte {
	t.Helper()
	var m memory
	if _, err := migschema.ReadRAM(&m, bytes.NewReader(stream), nil, nil); err != nil {
		t.Fatal(err)
	}
	return m
}

// checkMemory holds the RAM of a stream against what QEMU saves of the guest
// that it is of.
func checkMemory(t *testing.T, vm *qtest.VM, stream []byte) {
	t.Helper()
	var m memory
	ram, err := migschema.ReadRAM(&m, bytes.NewReader(stream), nil, &migschema.RAMOptions{Sparse: true})
	if err != nil {
		t.Fatal(err)
	}
	main := ram.Blocks()[0]
	qmp(t, vm, "stop", nil)
	path := filepath.Join(t.TempDir(), "memory")
	for _, r := range []struct{ at, n int64 }{{0, 0xa0000}, {1 << 20, int64(main.Block.Len) - 1<<20}} {
		qmp(t, vm, "pmemsave", map[string]any{"val": r.at, "size": r.n, "filename": path})
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, r.n)
		copy(got, m[min(int64(len(m)), main.Offset+r.at):])
		if !bytes.Equal(got, want) {
			diff := 0
			for i := 0; i < len(got); i += 4096 {
				if !bytes.Equal(got[i:i+4096], want[i:i+4096]) {
					diff++
				}
			}
			t.Errorf("%#x+%#x: %d pages differ", r.at, r.n, diff)
		}
	}
	for e := range ram.Extents(main.Block.Name) {
		if e.Kind == migschema.Unallocated {
			t.Errorf("no pages for %#x+%#x", e.Start, e.Length)
		}
	}
}

// checkSplits reads the stream without its description, and then without its
// footers: the sections found are the same.
func checkSplits(t *testing.T, stream []byte) {
	t.Helper()
	want, desc := devices(t, stream, nil)
	if desc == nil {
		return
	}
	cut := stream[:bytes.LastIndex(stream, []byte("\x00\x06"))+1]
	for _, footers := range []bool{true, false} {
		b := cut
		if (strings.HasPrefix(want[0], "dirty-bitmap") || strings.HasPrefix(want[0], "spapr/htab")) && !footers {
			continue // nothing else tells where its parts end
		}
		if !footers {
			b = withoutFooters(t, cut)
		}
		got, _ := devices(t, b, nil)
		if !slices.Equal(got, want) {
			t.Errorf("footers %v: %d devices of %d:\n%s\n%s", footers, len(got), len(want), got, want)
		}
		given, _ := devices(t, b, desc)
		if !slices.Equal(given, want) {
			t.Errorf("footers %v, description given: %d devices of %d", footers, len(given), len(want))
		}
	}
}

// devices returns the names and sizes of device sections.
func devices(t *testing.T, b []byte, desc *migschema.VMDesc) (l []string, _ *migschema.VMDesc) {
	t.Helper()
	r := migschema.NewReaderBytes(b, &migschema.ReaderOptions{VMDesc: desc})
	name := ""
	for rec, err := range r.Records() {
		if err != nil {
			t.Fatal(err)
		}
		switch rec.Kind {
		case migschema.RecordFull, migschema.RecordStart:
			name = rec.Name
		case migschema.RecordState:
			l = append(l, fmt.Sprintf("%s:%d", name, len(rec.Data)))
		}
	}
	return l, r.VMDesc()
}

func withoutFooters(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := migschema.NewWriter(&out, nil)
	for rec, err := range migschema.NewReaderBytes(b, nil).Records() {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Kind == migschema.RecordFooter {
			continue
		}
		if err := w.Write(rec); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestQEMUPipe converts BER from a pipe, where the last part of RAM cannot be
// told: QEMU loads the stream with the end that is added.
func TestQEMUPipe(t *testing.T) {
	m := machines[1]
	stream := m.save(t, m.start(t))
	var ber, out bytes.Buffer
	if _, err := migschema.ToBER(&ber, bytes.NewReader(stream), nil); err != nil {
		t.Fatal(err)
	}
	pipe := io.MultiReader(bytes.NewReader(ber.Bytes()))
	report, err := migschema.ToClassic(&out, pipe, &migschema.ConvertOptions{Lossy: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Losses) != 1 || !strings.Contains(report.Losses[0].What, "end of RAM") {
		t.Errorf("%v", report.Losses)
	}
	m.load(t, out.Bytes())
}

// TestQEMUXBZRLE takes the pages that QEMU sent as differences and encodes
// them anew: the same octets.
func TestQEMUXBZRLE(t *testing.T) {
	m := machines[slices.IndexFunc(machines, func(m machine) bool { return m.name == "xbzrle" })]
	stream := m.save(t, m.start(t))
	pages := make(map[string][]byte)
	n := 0
	for rec, err := range migschema.NewReaderBytes(stream, nil).Records() {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Kind != migschema.RecordPage {
			continue
		}
		key := fmt.Sprint(rec.Page.Block, rec.Page.Addr)
		old := pages[key]
		if old == nil {
			old = make([]byte, 4096)
		}
		page := bytes.Clone(old)
		if err := rec.Page.Decode(page); err != nil {
			t.Fatal(err)
		}
		pages[key] = page
		if rec.Page.Kind == migschema.PageXBZRLE {
			n++
			if delta, ok := migschema.AppendXBZRLE(nil, old, page); !ok || !bytes.Equal(delta, rec.Page.Data) {
				t.Errorf("%s: %x, QEMU has %x", key, delta, rec.Page.Data)
			}
		}
	}
	if n == 0 {
		t.Error("no XBZRLE pages")
	}
}
