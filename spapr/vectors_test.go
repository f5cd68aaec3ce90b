package spapr_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/spapr"
)

// vectorFile is what real guest code got from a real QEMU: see
// testdata/README.md.
type vectorFile struct {
	Window struct {
		Addr uint64
		Len  int
	}
	Vectors []vector
}

type vector struct {
	Kind, Name string
	Args       []uint64
	Setup      []uint32
	RC         int64
	RegsOut    []string `json:"regs_out"`
	Changed    *struct {
		Off    int
		Before string
		After  string
	}
	MemAfter string `json:"mem_after"`
	Volatile bool
	Sweep    bool
}

func readJSON(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// ramSize is less than the 256 MiB that the recorded machine had: what the
// vectors touch is below, or outside both.
const ramSize = 4 << 20

// bench is a Machine like the one that was recorded, with its memory.
type bench struct {
	m    *spapr.Machine
	ram  []byte
	term terminal
}

// terminal keeps what was printed.
type terminal struct{ out, in []byte }

func (t *terminal) Put(p []byte) bool { t.out = append(t.out, p...); return true }

func (t *terminal) Get(p []byte) int {
	n := copy(p, t.in)
	t.in = t.in[n:]
	return n
}

// sources are the interrupt sources of the recorded machine that the vectors
// speak of.
type sources map[uint32][2]uint32

func (s sources) Get(n uint32) (server, priority uint32, ok bool) {
	v, ok := s[n]
	return v[0], v[1], ok
}

func (s sources) Set(n, server, priority uint32) bool {
	_, ok := s[n]
	if ok {
		s[n] = [2]uint32{server, priority}
	}
	return ok
}

func (s sources) Enable(n uint32, on bool) bool {
	_, ok := s[n]
	return ok
}

func newBench(size int) *bench {
	b := &bench{ram: make([]byte, size)}
	b.m = &spapr.Machine{
		Memory: spapr.RAM{Data: b.ram},
		Terminal: func(unit uint64) spapr.Terminal {
			if unit == 0 {
				return &b.term
			}
			return nil
		},
		NVRAM: make([]byte, 64<<10),
		SystemParameters: map[uint32][]byte{
			spapr.ParameterSPLPAR:  spapr.SPLPARCharacteristics(256, 1, 1, 4),
			spapr.ParameterDiagRun: {0},
			spapr.ParameterUUID:    {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff},
		},
		Interrupts: sources{4096: {0, 255}},
		Sensor: func(kind, index uint32) (uint32, bool) {
			return 1, kind == 9003 && index == 0x10000000 // a CPU, in use
		},
		SetIndicator: func(kind, index, value uint32) spapr.RTASStatus { return spapr.RTASParameterError },
	}
	return b
}

// elsewhere are the hypercalls of the recorded machine that are no part of
// this package: the page table, interrupt presentation, virtual I/O and the
// like. The registry stands in for them with what they answer to zeros, so
// that the dispatcher is replayed as a whole.
var elsewhere = map[uint64]struct {
	status spapr.Status
	r4, r5 uint64
}{
	0x04: {status: -7}, 0x08: {status: -4}, 0x28: {status: -1}, 0x64: {}, 0x6c: {}, 0x70: {}, 0x74: {}, 0xdc: {status: -4},
	0x104: {status: -4}, 0x118: {status: -4}, 0x11c: {status: -4}, 0x120: {status: -4}, 0x134: {status: -1}, 0x138: {status: -4},
	0x1c8: {r4: 0x0400000000000000, r5: 0xe000000000000000}, 0x2b0: {status: -4}, 0x2fc: {r4: 0xff000000, r5: 0x7c5acc8c97d},
	0x31c: {status: -55}, 0x36c: {}, 0x3e4: {status: -4}, 0x3e8: {status: -4}, 0x3ec: {status: -4}, 0x3fc: {status: -4},
	0x400: {status: -4}, 0x45c: {status: -4}, 0xf003: {status: -4},
}

func (b *bench) registerElsewhere(t *testing.T) {
	for op, a := range elsewhere {
		err := b.m.Register(op, "elsewhere", func(_ *spapr.Machine, r *spapr.Regs) spapr.Status {
			if a.r4 != 0 {
				r.R[4], r.R[5] = a.r4, a.r5
			}
			return a.status
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func fill(p []byte, setup []uint32) {
	for i := range p {
		p[i] = byte(i*37 + 11)
	}
	if setup == nil {
		return
	}
	for i := range 16 {
		v := uint32(0xeeeeeeee)
		if i < len(setup) {
			v = setup[i]
		}
		binary.BigEndian.PutUint32(p[4*i:], v)
	}
}

// TestVectors makes the hypercalls that were recorded: status, registers and
// memory are the same.
func TestVectors(t *testing.T) {
	var file vectorFile
	readJSON(t, "vectors.json", &file)
	if len(file.Vectors) != 374 {
		t.Errorf("%d vectors, want 374", len(file.Vectors))
	}
	b := newBench(ramSize)
	b.registerElsewhere(t)
	window := b.ram[file.Window.Addr:][:file.Window.Len]
	for _, v := range file.Vectors {
		fill(window, v.Setup)
		before := bytes.Clone(window)
		var r spapr.Regs
		for i := range 10 {
			if i < len(v.Args) {
				r.R[3+i] = v.Args[i]
			} else {
				r.R[3+i] = 0x5500 + uint64(i-len(v.Args))
			}
		}
		r.R[11], r.R[12] = 0x8888, 0x9999
		if got := b.m.Call(&r); int64(got) != v.RC || r.R[3] != uint64(v.RC) {
			t.Errorf("%s: status %d, r3 0x%x, want %d", v.Name, got, r.R[3], v.RC)
		}
		for i, s := range v.RegsOut {
			want, err := strconv.ParseUint(s, 0, 64)
			if err != nil {
				t.Fatal(err)
			}
			if r.R[4+i] != want {
				t.Errorf("%s: r%d = 0x%x, want 0x%x", v.Name, 4+i, r.R[4+i], want)
			}
		}
		v.compareMemory(t, window, before)
	}
	if got := string(b.term.out); got != "ZYXX" {
		t.Errorf("printed %q", got)
	}
}

func (v *vector) compareMemory(t *testing.T, window, before []byte) {
	t.Helper()
	want := before
	if v.MemAfter != "" {
		var err error
		if want, err = hex.DecodeString(v.MemAfter); err != nil {
			t.Fatal(err)
		}
	}
	if v.Volatile { // the time: what was written matters, not what it was
		for i := range want {
			if (want[i] != before[i]) && window[i] == before[i] {
				t.Errorf("%s: byte 0x%x was not written", v.Name, i)
			}
		}
		return
	}
	if !bytes.Equal(window, want) {
		t.Errorf("%s: memory is\n%x\nwant\n%x", v.Name, window, want)
	}
}

// rtasCall is a service called through QEMU's test protocol, which finds the
// token by name.
type rtasCall struct {
	Name  string
	Args  []int64
	NRet  uint32
	Hcall int64
	Rets  []int32
	Buf   string
}

// TestRTASVectors calls the services that were recorded, in that order: the
// results are the same, past the number that was asked for too.
func TestRTASVectors(t *testing.T) {
	var calls []rtasCall
	readJSON(t, "rtas_qtest.json", &calls)
	if len(calls) < 150 {
		t.Errorf("%d calls", len(calls))
	}
	b := newBench(ramSize)
	b.m.CPUState = nil // CPU 0 runs, there is no other
	const block, buf = 0x100000, 0x120000
	fetched := false
	for i, c := range calls {
		b.setClock(calls[i:])
		token, known := spapr.StandardServices().Token(c.Name)
		if !known {
			if c.Hcall != int64(spapr.HParameter) {
				t.Errorf("%s: no such service", c.Name)
			}
			continue
		}
		for j := range b.ram[buf : buf+64] {
			b.ram[buf+j] = 0xaa
		}
		copy(b.ram[buf:], "nvramtest"[:8])
		if c.Name != "nvram-store" {
			copy(b.ram[buf:], "\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa")
		}
		p := binary.BigEndian.AppendUint32(nil, token)
		p = binary.BigEndian.AppendUint32(p, uint32(len(c.Args)))
		p = binary.BigEndian.AppendUint32(p, c.NRet)
		for _, a := range c.Args {
			p = binary.BigEndian.AppendUint32(p, uint32(a))
		}
		copy(b.ram[block:], p)
		rets := b.ram[block+len(p):][:4*len(c.Rets)]
		for j := range c.Rets {
			binary.BigEndian.PutUint32(rets[4*j:], 0xdeadbeef)
		}
		var r spapr.Regs
		r.R[3], r.R[4] = spapr.HRTAS, block
		if got := b.m.Call(&r); int64(got) != c.Hcall {
			t.Errorf("%d %s%v: %v, want %d", i, c.Name, c.Args, got, c.Hcall)
		}
		got := make([]int32, len(c.Rets))
		for j := range got {
			got[j] = int32(binary.BigEndian.Uint32(rets[4*j:]))
		}
		if diff := cmp.Diff(c.Rets, got); diff != "" {
			t.Errorf("%d %s%v nret %d (-want +got):\n%s", i, c.Name, c.Args, c.NRet, diff)
		}
		if c.Buf != "" {
			fetched = true
			if got := hex.EncodeToString(b.ram[buf:][:len(c.Buf)/2]); got != c.Buf {
				t.Errorf("%d %s%v: buffer\n%s want\n%s", i, c.Name, c.Args, got, c.Buf)
			}
		}
	}
	if !fetched {
		t.Error("no call filled a buffer")
	}
}

// setClock makes the machine's clock what it was when the next time of calls
// was recorded: QEMU returns the low 32 bits of the guest's nanoseconds, and
// less than so many passed since the clock was set before.
func (b *bench) setClock(calls []rtasCall) {
	now := time.Date(2026, 11, 21, 1, 59, 16, 0, time.UTC)
	if b.m.Clock != nil {
		now = b.m.Clock()
	}
	if c := calls[0]; c.Name == "get-time-of-day" && c.Rets[0] == 0 {
		passed := uint32(c.Rets[7]) - uint32(now.UnixNano()+int64(b.m.ClockOffset))
		now = now.Add(time.Duration(passed))
	}
	b.m.Clock = func() time.Time { return now }
}
