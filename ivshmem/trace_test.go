package ivshmem_test

import (
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/ivshmem"
)

// Where the recorder puts the BARs, and the guest memory that MSI-X messages
// are aimed at.
const (
	bar0Addr, bar1Addr, bar2Addr = 0xfe000000, 0xfe010000, 0xe0000000
	msiAddr                      = 0x200000
)

// A recording is a trace of a real QEMU; testdata/README.md tells how it was
// made.
type recording struct {
	Name, QEMU, Device string
	Config             string            // hex
	BARProbe           map[string]string `json:"bar_probe"`
	ConfigWritable     [][2]string       `json:"config_writable"`
	MSIX               *struct {
		Cap        int
		Control    string
		TableSize  int `json:"table_size"`
		Table      string
		PBA        string
		TableReset [][4]uint32 `json:"table_reset"`
	}
	Steps []step
}

type step struct {
	Op     string
	Off    uint64
	Size   int
	Val    uint64
	Text   string
	Peer   uint16
	Vector uint16
	Counts map[string]int
	Fired  []fired
	Host   string
	Guest  string
}

type fired struct {
	Vector int
	Data   uint32
}

func loadRecording(t *testing.T, name string) *recording {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	r := new(recording)
	if err := json.Unmarshal(b, r); err != nil {
		t.Fatal(err)
	}
	return r
}

// device returns a device configured as the recorded one.
func (r *recording) device(memory []byte) *ivshmem.Device {
	d := &ivshmem.Device{Memory: memory, Config: ivshmem.Config{SharedSize: uint64(len(memory)), Vector8: true}}
	if _, n, ok := strings.Cut(r.Device, "vectors="); ok {
		d.Vectors, _ = strconv.Atoi(n)
	}
	return d
}

// A replay drives one device as the recorder drove QEMU's.
type replay struct {
	t     *testing.T
	rec   *recording
	d     *ivshmem.Device
	peers map[uint16][]int // fake peers: how often each vector was rung
	fired []fired          // messages since last looked at
	next  int              // step
	queue []func()         // what happened, unrecorded, before each of the next steps
}

func newReplay(t *testing.T, name string, memory []byte) *replay {
	r := &replay{t: t, rec: loadRecording(t, name), peers: map[uint16][]int{}}
	r.d = r.rec.device(memory)
	r.d.SendMSI = func(addr uint64, data uint32) {
		// The recorder saw which words of memory were written, not how often.
		if f := (fired{int(addr-msiAddr) / 4, data}); !slices.Contains(r.fired, f) {
			r.fired = append(r.fired, f)
		}
	}
	r.d.Ring = func(peer, vector uint16) {
		if peer == r.d.ID {
			r.d.Interrupt(vector)
		} else if v := r.peers[peer]; int(vector) < len(v) {
			v[vector]++
		}
	}
	return r
}

func (r *replay) get(off uint64, size int) uint64 { return access(r.d.ReadConfig, off, size) }

func (r *replay) put(off uint64, size int, v uint64) { r.d.WriteConfig(off, bytesOf(v, size)) }

// config compares the configuration space and then places the BARs, as the
// recorder's config does.
func (r *replay) config() {
	r.t.Helper()
	all := make([]byte, 256)
	r.d.ReadConfig(0, all)
	if got := hex.EncodeToString(all); got != r.rec.Config {
		r.t.Errorf("%s: config\n got %s\nwant %s", r.rec.Name, got, r.rec.Config)
	}
	probe := map[string]string{}
	for i := range uint64(6) {
		off := 0x10 + 4*i
		old := r.get(off, 4)
		r.put(off, 4, 0xffffffff)
		probe["bar"+strconv.Itoa(int(i))] = hex32(r.get(off, 4))
		r.put(off, 4, old)
	}
	if diff := cmp.Diff(r.rec.BARProbe, probe); diff != "" {
		r.t.Errorf("%s: BARs (-want +got)\n%s", r.rec.Name, diff)
	}
	var writable [][2]string
	for off := uint64(0); off < 256; off += 4 {
		old := r.get(off, 4)
		r.put(off, 4, 0xffffffff)
		ones := r.get(off, 4)
		r.put(off, 4, 0)
		zeros := r.get(off, 4)
		r.put(off, 4, old)
		if ones != zeros {
			writable = append(writable, [2]string{"0x" + hex.EncodeToString([]byte{byte(off)}), hex32(ones ^ zeros)})
		}
	}
	if diff := cmp.Diff(r.rec.ConfigWritable, writable); diff != "" {
		r.t.Errorf("%s: writable bits (-want +got)\n%s", r.rec.Name, diff)
	}
	r.put(0x10, 4, bar0Addr)
	r.put(0x14, 4, bar1Addr)
	r.put(0x18, 4, bar2Addr)
	r.put(0x1c, 4, 0)
	r.put(4, 2, 6)
}

// msix compares the capability and the table, then aims the vectors.
func (r *replay) msix(n int) {
	r.t.Helper()
	want := r.rec.MSIX
	if want == nil {
		r.t.Fatalf("%s: no MSI-X recorded", r.rec.Name)
	}
	off := r.get(0x34, 1)
	control := r.get(off+2, 2)
	if int(off) != want.Cap || "0x"+hex.EncodeToString([]byte{byte(control >> 8), byte(control)}) != want.Control ||
		hex32(r.get(off+4, 4)) != want.Table || hex32(r.get(off+8, 4)) != want.PBA {
		r.t.Errorf("%s: capability %#x %#x %#x %#x, want %+v", r.rec.Name, off, control, r.get(off+4, 4), r.get(off+8, 4), want)
	}
	for i, e := range want.TableReset {
		for j, w := range e {
			if got := access(r.d.ReadMSIX, uint64(16*i+4*j), 4); got != uint64(w) {
				r.t.Errorf("%s: table entry %d word %d = %#x, want %#x", r.rec.Name, i, j, got, w)
			}
		}
	}
	aim(r.d, min(n, want.TableSize))
	r.put(off+2, 2, control|ivshmem.MSIXEnable)
}

// aim makes each of n vectors a write of 0xa0 plus its number to its own word.
func aim(d *ivshmem.Device, n int) {
	for i := range uint64(n) {
		d.WriteMSIX(16*i, bytesOf(msiAddr+4*i, 8))
		d.WriteMSIX(16*i+8, bytesOf(0xa0+i, 8))
	}
}

// unrecorded is what the recorder did after a note without recording it: one
// function for each of the steps that follow, run before it.
func (r *replay) unrecorded(note string) []func() {
	mask := func(control uint64) { r.d.WriteMSIX(12, bytesOf(control, 4)) }
	enable := func(bits uint64) { r.put(0x42, 2, bits) }
	nothing := func() {}
	for prefix, queue := range map[string][]func(){
		"peer 1 joins with 2 vectors": {func() { r.peers[1] = make([]int, 2) }},
		"counter value 5 collapses":   {func() { r.d.Interrupt(0) }},
		"masked vector sets PBA":      {func() { mask(1); r.d.Interrupt(0) }, nothing, func() { mask(0) }},
		"MSI-X disabled in config":    {func() { enable(0); r.d.Interrupt(0) }, nothing, nothing, func() { enable(ivshmem.MSIXEnable) }},
		"peer disconnects":            {func() { delete(r.peers, 1) }},
		"a fresh peer id":             {func() { r.peers[2] = make([]int, 1) }},
		"peer sends more vectors":     {func() { r.peers[2] = append(r.peers[2], 0) }},
		"high peer id 65535":          {func() { r.peers[65535] = make([]int, 1) }},
		"reset clears mask/status?":   {nothing, nothing, func() { r.d.Reset(); r.put(0x10, 4, bar0Addr); r.put(4, 2, 6) }},
		"B reset: id and peers":       {func() { r.d.Reset(); r.config(); r.msix(2) }},
		"B exited":                    nil,
		"C (4 vectors":                nil,
		"IVPosition":                  nil,
		"all dwords":                  nil,
		"mask / status":               nil,
		"access sizes":                nil,
		"unaligned dword":             nil,
		"past BAR0":                   nil,
		"INTx":                        nil,
		"BAR2 <-> backing file":       nil,
		"unknown peer":                nil,
		"self doorbell":               nil,
		"sizes:":                      nil,
		"peer rings us":               nil,
		"shared memory":               nil,
		"server goes away":            nil,
		"A rings B":                   nil,
		"B rings A":                   nil,
	} {
		if strings.HasPrefix(note, prefix) {
			return queue
		}
	}
	r.t.Fatalf("%s: note %q is not known", r.rec.Name, note)
	return nil
}

// step replays the next step.
func (r *replay) step() {
	r.t.Helper()
	s := r.rec.Steps[r.next]
	r.next++
	if s.Op == "note" {
		r.queue = r.unrecorded(s.Text)
		return
	}
	if len(r.queue) > 0 {
		r.queue[0]()
		r.queue = r.queue[1:]
	}
	check := func(got, want any) {
		r.t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			r.t.Errorf("%s: step %d, %+v (-want +got)\n%s", r.rec.Name, r.next-1, s, diff)
		}
	}
	switch s.Op {
	case "rd":
		check(access(r.d.Read, s.Off, s.Size), s.Val)
	case "wr":
		r.d.Write(s.Off, bytesOf(s.Val, s.Size))
	case "eventfd":
		got := map[string]int{}
		for v, n := range r.peers[s.Peer] {
			if n > 0 {
				got[strconv.Itoa(v)] = n
			}
		}
		clear(r.peers[s.Peer])
		check(got, s.Counts)
	case "ring_self":
		r.d.Interrupt(s.Vector)
	case "msix":
		if len(s.Fired) == 0 {
			s.Fired = nil
		}
		check(r.fired, s.Fired)
		r.fired = nil
	case "pba":
		check(access(r.d.ReadMSIX, 0x800, 4), s.Val)
	case "pci_status":
		check(r.get(6, 2), s.Val)
	case "shm":
		r.d.WriteBAR(2, s.Off, []byte(s.Host))
		check(string(r.d.Memory[s.Off:][:len(s.Host)]), s.Host)
	case "bar2":
		copy(r.d.Memory[s.Off:], s.Guest)
		p := make([]byte, len(s.Guest))
		r.d.ReadBAR(2, s.Off, p)
		check(string(p), s.Guest)
	default:
		r.t.Fatalf("step %+v is not known", s)
	}
}

// TestRecordings replays what was recorded from one device.
func TestRecordings(t *testing.T) {
	for _, name := range []string{"plain-1M", "doorbell-v2"} {
		t.Run(name, func(t *testing.T) {
			r := newReplay(t, name, make([]byte, 1<<20))
			r.config()
			if r.d.Vectors > 0 {
				r.msix(16)
			}
			for r.next < len(r.rec.Steps) {
				r.step()
			}
		})
	}
}

// TestRecordingOfThree replays three devices that share memory and ring each
// other: A stays, B resets and leaves, C joins with more vectors than the
// server gives.
func TestRecordingOfThree(t *testing.T) {
	memory := make([]byte, 1<<20)
	replays := map[byte]*replay{}
	present := map[uint16]*replay{}
	for id, name := range "ABC" {
		r := newReplay(t, "two-"+string(name), memory)
		r.d.ID = uint16(id)
		r.d.Ring = func(peer, vector uint16) {
			const serverVectors = 2
			if p := present[peer]; p != nil && vector < serverVectors {
				p.d.Interrupt(vector)
			}
		}
		replays[byte(name)] = r
	}
	// The order in which the recorder drove them: +X plugs X in, X is its next
	// step, -X unplugs it.
	for turn := range strings.FieldsSeq("+A A +B B A A B B B A B B B A B -B A A A +C C A A C A C") {
		r := replays[turn[len(turn)-1]]
		switch turn[0] {
		case '+':
			present[r.d.ID] = r
			r.config()
			r.msix(4)
		case '-':
			delete(present, r.d.ID)
		default:
			r.step()
		}
	}
	for _, name := range slices.Sorted(maps.Keys(replays)) {
		if r := replays[name]; r.next != len(r.rec.Steps) {
			t.Errorf("%s: %d of %d steps replayed", r.rec.Name, r.next, len(r.rec.Steps))
		}
	}
}
