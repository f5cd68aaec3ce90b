package spapr_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/qtest"
	"github.com/virtfmt/virtfmt/spapr"
)

// Where things are in the memory of the real guest.
const (
	mailbox    = 0x300000 // a word that is 1 while a call waits, r3 to r12, and both after it
	windowAt   = 0x200000 // what the calls work on
	windowSize = 0x3000
	lowSize    = 0x200 // of memory from 0 on, where addresses wrap around to
	codeAt     = 0x380000
	qemuRAM    = 256 << 20
)

// firmware returns code, to be loaded at 0 and entered at 0x100, that waits
// for a call in the mailbox, makes it, and leaves the registers there. It goes
// on at codeAt, out of the way of what the calls overwrite.
func firmware() []byte {
	const r30, r31 = 30, 31
	ds := func(op, reg, off uint32) uint32 { return op<<26 | reg<<21 | r31<<16 | off }
	code := []uint32{
		0x3c000000 | r31<<21 | mailbox>>16, // lis r31, mailbox
		ds(58, r30, 0),                     // wait: ld r30, 0(r31)
		0x2c200000 | r30<<16,               // cmpdi r30, 0
		0x41820000 | (0x10000-8)&0xfffc,    // beq wait
	}
	for r := range uint32(10) {
		code = append(code, ds(58, 3+r, 8+8*r)) // ld r3, 8(r31) ...
	}
	code = append(code, 0x44000022) // sc 1
	for r := range uint32(10) {
		code = append(code, ds(62, 3+r, 8+8*r)) // std r3, 8(r31) ...
	}
	code = append(code,
		0x38000000|r30<<21, // li r30, 0
		ds(62, r30, 0),     // std r30, 0(r31)
	)
	back := uint32(len(code) - 1)
	code = append(code, 0x48000000|(1<<26-4*back)&0x3fffffc) // b wait
	b := make([]byte, codeAt)
	binary.BigEndian.PutUint32(b[0x100:], 0x48000000|codeAt-0x100) // b codeAt
	for _, v := range code {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// lockstep makes the same calls in a real guest and in a Machine.
type lockstep struct {
	t    *testing.T
	vm   *qtest.VM
	b    *bench
	rng  *rand.Rand
	last string
}

// TestQEMU has code in a real guest make random hypercalls and RTAS calls, and
// compares registers and memory with the model's.
func TestQEMU(t *testing.T) {
	bin := difftest.Tool(t, "qemu-system-ppc64", "7.2")
	rom := filepath.Join(t.TempDir(), "rom")
	must(t, os.WriteFile(rom, firmware(), 0o644))
	l := &lockstep{
		t:  t,
		vm: qtest.Start(t, bin, "-M", "pseries-7.2", "-action", "panic=none", "-m", "256", "-uuid", "00112233-4455-6677-8899-aabbccddeeff", "-bios", rom, "-chardev", "null,id=n", "-device", "spapr-vty,chardev=n"),
		b:  newBench(0), rng: rand.New(rand.NewPCG(difftest.Seed(t, 1), 7)),
	}
	l.b.m.Memory = spapr.RAM{Data: make([]byte, qemuRAM)}
	l.b.m.Memory.Store(0, firmware())
	if _, err := l.vm.QMP("cont", nil); err != nil {
		t.Fatal(err)
	}
	l.last = "its start"
	l.call(&spapr.Regs{}) // an answer: it has left the low memory, which every step overwrites
	for range difftest.Scale(t, 1000) {
		if l.step(); t.Failed() {
			t.Fatalf("after %s", l.last)
		}
	}
	for range difftest.Scale(t, 200) {
		if l.clock(); t.Failed() {
			return
		}
	}
}

// clock sets both clocks to dates that need not exist, and compares what they
// are taken for.
func (l *lockstep) clock() {
	l.t.Helper()
	year := 1970 + l.rng.Uint32N(400)
	args := []uint32{year, l.rng.Uint32N(20), l.rng.Uint32N(40), l.rng.Uint32N(30), l.rng.Uint32N(70), l.rng.Uint32N(70), 0}
	if l.rng.IntN(4) == 0 {
		args[0] = l.rng.Uint32N(10000)
	}
	real := spapr.Guest{Call: l.call, Memory: qemuMemory{l.vm}, Block: windowAt, Token: spapr.StandardServices().Token}
	var times [2]time.Time
	start := time.Now()
	l.b.m.Clock = func() time.Time { return start }
	for i, g := range []*spapr.Guest{l.b.guest(), &real} {
		if status, _, err := g.RTAS("set-time-of-day", 1, args...); err != nil || status != 0 {
			l.t.Fatal(status, err)
		}
		status, v, err := g.RTAS("get-time-of-day", 8)
		if err != nil || status != 0 {
			l.t.Fatal(status, err)
		}
		times[i] = time.Date(int(v[0]), time.Month(v[1]), int(v[2]), int(v[3]), int(v[4]), int(v[5]), 0, time.UTC)
	}
	if passed := times[1].Sub(times[0]); passed < -2*time.Second || passed > time.Since(start)+2*time.Second {
		l.t.Errorf("%v is %v, in QEMU %v", args, times[0], times[1])
	}
}

// qemuMemory is the memory of the real guest.
type qemuMemory struct{ *qtest.VM }

func (q qemuMemory) Load(addr uint64, p []byte)   { copy(p, q.Read(addr, len(p))) }
func (q qemuMemory) Store(addr uint64, p []byte)  { q.Write(addr, p) }
func (q qemuMemory) Contains(addr, n uint64) bool { return addr <= qemuRAM && n <= qemuRAM-addr }

// call has the code in the real guest make a call.
func (l *lockstep) call(r *spapr.Regs) spapr.Status {
	l.t.Helper()
	var mail []byte
	for _, v := range r.R[3:] {
		mail = binary.BigEndian.AppendUint64(mail, v)
	}
	l.vm.Write(mailbox+8, mail)
	l.vm.Store(mailbox, 8, 1)
	deadline := time.Now().Add(5 * time.Minute)
	for l.vm.Load(mailbox, 8) != 0 {
		if time.Now().After(deadline) {
			l.t.Fatalf("the guest does not come back from %s", l.last)
		}
	}
	mail = l.vm.Read(mailbox+8, 80)
	for i := range 10 {
		r.R[3+i] = binary.BigEndian.Uint64(mail[8*i:])
	}
	return spapr.Status(r.R[3])
}

// parts returns the parts of the model's memory that are compared, by address.
func (l *lockstep) parts() map[uint64][]byte {
	ram := l.b.m.Memory.(spapr.RAM).Data
	return map[uint64][]byte{
		0:              ram[:lowSize],
		windowAt:       ram[windowAt : windowAt+windowSize],
		qemuRAM - 0x80: ram[qemuRAM-0x80:],
	}
}

func (l *lockstep) step() {
	l.t.Helper()
	for _, w := range l.parts() {
		for i := range w {
			w[i] = byte(l.rng.Uint32())
		}
	}
	var r spapr.Regs
	for i := 3; i <= 12; i++ {
		r.R[i] = l.rng.Uint64()
	}
	l.choose(&r)
	l.last = fmt.Sprintf("%x", r.R[3:])
	for at, w := range l.parts() {
		l.vm.Write(at, w)
	}
	want := r
	l.b.m.Trace = func(e spapr.Event) { l.last += " " + e.String() }
	l.b.m.Call(&r)
	l.call(&want)
	for i, v := range want.R {
		if r.R[i] != v {
			l.t.Errorf("r%d is 0x%x, in QEMU 0x%x", i, r.R[i], v)
		}
	}
	for at, w := range l.parts() {
		qemu := l.vm.Read(at, len(w))
		for i := range w {
			if w[i] != qemu[i] {
				l.t.Fatalf("byte 0x%x is 0x%02x, in QEMU 0x%02x, after %s", at+uint64(i), w[i], qemu[i], l.last)
			}
		}
	}
}

// addr returns an address in the window, with room for n bytes there, or one
// that is no memory.
func (l *lockstep) addr(n uint64) uint64 {
	switch l.rng.IntN(12) {
	case 0:
		return qemuRAM + l.rng.Uint64N(1<<30)
	case 1:
		return 1<<59 | windowAt
	case 2:
		return -l.rng.Uint64N(64)
	case 3:
		return qemuRAM - l.rng.Uint64N(64)
	}
	return windowAt + l.rng.Uint64N(windowSize-n)
}

func (l *lockstep) choose(r *spapr.Regs) {
	switch l.rng.IntN(8) {
	case 0, 1, 2:
		l.memop(r)
	case 3:
		r.R[3] = []uint64{0x3c, 0x40, 0x44, 0x48}[l.rng.IntN(4)]
		r.R[4], r.R[5] = []uint64{1, 2, 4, 8, 0, 3, 16, 1 << 32}[l.rng.IntN(8)], l.addr(8)
	case 4:
		l.pageInit(r)
	case 5:
		r.R[3] = []uint64{spapr.HGetTermChar, spapr.HPutTermChar, 0x4c, 0x50, 0, 5, 0xf004, 1<<32 | spapr.HRTAS}[l.rng.IntN(8)]
		r.R[4], r.R[5] = l.rng.Uint64N(2)*0x12345, l.rng.Uint64N(20)
	default:
		l.rtas(r)
	}
}

func (l *lockstep) memop(r *spapr.Regs) {
	size, count := l.rng.Uint64N(4), l.rng.Uint64N(40)
	if l.rng.IntN(8) == 0 {
		size = []uint64{4, 5, 32, 33, 1 << 32, l.rng.Uint64()}[l.rng.IntN(6)] // 31 is undefined in QEMU
		if size&31 == 31 {
			size--
		}
		count = l.rng.Uint64N(2)
	}
	if l.rng.IntN(16) == 0 {
		count = []uint64{1<<31 + 1, 1 << 32, l.rng.Uint64() | 1<<40}[l.rng.IntN(3)]
	}
	dst, src := l.addr(64*8), l.addr(64*8)
	if l.rng.IntN(2) == 0 && dst > 1<<10 {
		src = dst + l.rng.Uint64N(129) - 64
	}
	if l.rng.IntN(8) != 0 {
		mask := uint64(1)<<(size&3) - 1
		dst, src = dst&^mask, src&^mask
	}
	r.R[3], r.R[4], r.R[5], r.R[6], r.R[7], r.R[8] = spapr.HLogicalMemop, dst, src, size, count, l.rng.Uint64N(2)
	if l.rng.IntN(16) == 0 {
		r.R[8] = []uint64{2, 3, 1 << 32, 1 << 63}[l.rng.IntN(4)]
	}
}

func (l *lockstep) pageInit(r *spapr.Regs) {
	page := func() uint64 {
		if l.rng.IntN(4) == 0 {
			return l.addr(8)
		}
		return windowAt + 0x1000*l.rng.Uint64N(3)
	}
	r.R[3], r.R[5], r.R[6] = spapr.HPageInit, page(), page()
	// In emulation only: the flags of the instruction cache do nothing here.
	r.R[4] = l.rng.Uint64() & (1<<15 | 1<<14 | 1<<22 | 1<<23)
	if l.rng.IntN(8) == 0 {
		r.R[4] |= 1 << l.rng.IntN(64)
	}
}

// services that do not stop the machine, and whose results do not change with
// time.
var compared = []string{
	"display-character", "set-time-of-day", "query-cpu-stopped-state", "ibm,get-system-parameter", "ibm,set-system-parameter",
	"check-exception", "event-scan", "nvram-fetch", "nvram-store", "set-indicator", "set-power-level", "get-power-level",
	"get-sensor-state", "read-pci-config", "write-pci-config", "ibm,read-pci-config", "ibm,write-pci-config",
	"ibm,set-eeh-option", "ibm,query-pe-dma-window", "ibm,nmi-register", "ibm,os-term", "quiesce", "ibm,set-tce-bypass", "ibm,configure-connector", "ibm,change-msi", "start-cpu",
}

// shapes are the counts that some services take.
var shapes = map[string][2]uint32{
	"query-cpu-stopped-state": {1, 2}, "ibm,get-system-parameter": {3, 1}, "ibm,set-system-parameter": {2, 1},
	"check-exception": {6, 1}, "event-scan": {4, 1}, "nvram-fetch": {3, 2}, "nvram-store": {3, 2}, "set-indicator": {3, 1},
	"set-power-level": {2, 2}, "get-power-level": {1, 2}, "get-sensor-state": {2, 2}, "set-time-of-day": {7, 1},
	"read-pci-config": {2, 2}, "write-pci-config": {3, 1}, "ibm,read-pci-config": {4, 2}, "ibm,write-pci-config": {5, 1},
}

func (l *lockstep) rtas(r *spapr.Regs) {
	const room = 0x400 // for the block
	block := l.addr(room)
	r.R[3], r.R[4] = spapr.HRTAS, block
	if l.rng.IntN(4) == 0 {
		r.R[4] |= l.rng.Uint64() &^ (1<<60 - 1)
	}
	name := compared[l.rng.IntN(len(compared))]
	token, _ := spapr.StandardServices().Token(name)
	nargs, nret := l.rng.Uint32N(9), l.rng.Uint32N(10)
	if s, ok := shapes[name]; ok && l.rng.IntN(8) != 0 {
		nargs, nret = s[0], s[1]
	}
	switch l.rng.IntN(24) {
	case 0:
		token = []uint32{0xa, 9, 0, 0x1fff, 0x202d, 1 << 31}[l.rng.IntN(6)]
	case 1:
		nargs += 1 << 30 // wraps around to the same place
	case 2:
		nret = l.rng.Uint32()
	}
	words := []uint32{token, nargs, nret}
	for range 16 {
		words = append(words, l.word())
	}
	var p []byte
	for _, v := range words {
		p = binary.BigEndian.AppendUint32(p, v)
	}
	l.b.m.Memory.Store(block, p)
}

// word returns an argument of a service: a number that may mean something, or
// a buffer.
func (l *lockstep) word() uint32 {
	switch l.rng.IntN(4) {
	case 0:
		return []uint32{0, 1, 2, 3, 20, 42, 48, 9001, 9003, 0x10000000, 0xffffffff, 64<<10 - 8, 4}[l.rng.IntN(13)]
	case 1:
		return l.rng.Uint32N(64)
	}
	return uint32(windowAt + l.rng.Uint64N(windowSize-0x100))
}
