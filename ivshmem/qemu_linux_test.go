package ivshmem_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/ivshmem"
)

// ivExt runs testdata/iv_ext.py, which drives real QEMUs as clients of the
// server at path.
func ivExt(t *testing.T, path string, vectors int, args ...string) *exec.Cmd {
	t.Helper()
	python := difftest.Tool(t, "python3", "3.8")
	qemu := difftest.Tool(t, "qemu-system-x86_64", "7.2")
	cmd := exec.CommandContext(t.Context(), python, append([]string{"testdata/iv_ext.py", path}, args...)...)
	cmd.Env = append(os.Environ(), "QEMU="+qemu, fmt.Sprint("VECTORS=", vectors), "TMPDIR="+difftest.SocketDir(t), "PYTHONDONTWRITEBYTECODE=1")
	cmd.WaitDelay = patience
	return cmd
}

// TestQEMUClients has QEMUs that join, ring each other, share memory and leave.
func TestQEMUClients(t *testing.T) {
	for _, vectors := range []int{1, 2, 4} {
		t.Run(fmt.Sprintf("%d vectors", vectors), func(t *testing.T) {
			t.Parallel()
			_, path := startServer(t, &ivshmem.ServerOptions{Vectors: vectors, Size: 1 << 20})
			out, err := ivExt(t, path, vectors, "two").CombinedOutput()
			if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), "PASS") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestQEMUAndClient has a QEMU and a Client exchange interrupts and memory.
func TestQEMUAndClient(t *testing.T) {
	_, path := startServer(t, &ivshmem.ServerOptions{Vectors: 2, Size: 1 << 20})
	c := dial(t, path, nil)
	cmd := ivExt(t, path, 2, "one", "0:1", "0:0", "180")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	rung := map[uint16]bool{}
	for !rung[0] || !rung[1] || len(c.Peers()) < 2 || c.Peers()[1].Vectors < 2 { // what comes first is not said
		e, err := c.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == ivshmem.Interrupted {
			rung[e.Vector] = true
		}
	}
	var lines []string
	for s := bufio.NewScanner(out); s.Scan(); {
		lines = append(lines, s.Text())
		if len(lines) == 3 { // IVPosition, rang, rang: it listens now
			if err := c.Ring(1, 1); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if got := strings.Join(lines, "; "); got != "IVPosition 1; rang 0 1; rang 0 0; fired [1]" {
		t.Errorf("QEMU says %q", got)
	}
}

// TestClientsOfAnotherServer has clients of the server that the traces were
// recorded with, which shares nothing with this package.
func TestClientsOfAnotherServer(t *testing.T) {
	python := difftest.Tool(t, "python3", "3.8")
	path := filepath.Join(difftest.SocketDir(t), "iv")
	cmd := exec.CommandContext(t.Context(), python, "-u", "testdata/ivsrv.py", path, "0x10000", "2")
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Cleanup(kill)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "listening "+path+"\n" {
		t.Fatalf("%q, %v", line, err)
	}
	a := dial(t, path, nil)
	expectEvents(t, a, "peer 0: vector 0 connected", "peer 0: vector 1 connected")
	b := dial(t, path, nil)
	expectEvents(t, b, "peer 0: vector 0 connected", "peer 0: vector 1 connected",
		"peer 1: vector 0 connected", "peer 1: vector 1 connected")
	expectEvents(t, a, "peer 1: vector 0 connected", "peer 1: vector 1 connected")
	if err := a.Ring(1, 1); err != nil {
		t.Error(err)
	}
	expectEvents(t, b, "vector 1 interrupted, 1 times")
	if a.Size() != 0x10000 || a.Sealed() {
		t.Errorf("%d bytes shared, sealed %v", a.Size(), a.Sealed())
	}
	b.Close()
	expectEvents(t, a, "peer 1: disconnected")
	kill()
	expectEvents(t, a, "server lost")
}

// TestQEMURefused shows that a QEMU that is not let in exits with an error.
func TestQEMURefused(t *testing.T) {
	qemu := difftest.Tool(t, "qemu-system-x86_64", "7.2")
	_, path := startServer(t, &ivshmem.ServerOptions{MaxClients: 1})
	dial(t, path, nil)
	start := time.Now()
	r := difftest.Try(t, qemu, "-M", "pc,accel=tcg", "-S", "-display", "none", "-nodefaults",
		"-chardev", "socket,path="+path+",id=c", "-device", "ivshmem-doorbell,chardev=c,vectors=1")
	if r.Code != 1 || !strings.Contains(string(r.Stderr), "server sent version -1, expecting 0") {
		t.Errorf("exit %d after %v: %s", r.Code, time.Since(start), r.Stderr)
	}
}

// A rig is a QEMU with a device, a client beside it that sees what the device
// rings, and a Device that is to do as the QEMU's does.
type rig struct {
	t       *testing.T
	m       *machine
	d       *ivshmem.Device
	client  *ivshmem.Client
	vectors int

	rung map[uint16]uint64 // by the Device, vectors of the client, not yet seen
	sent map[uint64]uint32 // by the Device, messages not yet seen
}

func newRig(t *testing.T, vectors int) *rig {
	t.Helper()
	_, path := startServer(t, &ivshmem.ServerOptions{Vectors: vectors, Size: 1 << 20})
	r := &rig{t: t, vectors: vectors, rung: map[uint16]uint64{}, sent: map[uint64]uint32{}}
	r.m = startMachine(t, path, vectors) // has ID 0
	if vectors > 0 {
		r.client = dial(t, path, nil) // has ID 1
	}
	r.d = &ivshmem.Device{Config: ivshmem.Config{Vectors: vectors, SharedSize: 1 << 20, Vector8: true}}
	r.d.Ring = func(peer, vector uint16) {
		switch {
		case int(vector) >= vectors:
		case peer == 0:
			r.d.Interrupt(vector)
		case peer == 1:
			r.rung[vector]++
		}
	}
	r.d.SendMSI = func(addr uint64, data uint32) { r.sent[addr] = data }
	r.place()
	if vectors == 0 {
		return r
	}
	for r.client.Vectors() < vectors {
		next(t, r.client)
	}
	// The QEMU knows the client once it can ring its last vector.
	last := uint16(vectors - 1)
	waitFor(t, "QEMU to know the client", func() bool {
		r.m.Store(bar0Addr+ivshmem.RegDoorbell, 4, uint64(ivshmem.DoorbellValue(1, last)))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := r.client.Next(ctx)
		return err == nil
	})
	return r
}

// place puts the BARs of both where the test looks for them.
func (r *rig) place() {
	for _, w := range []struct{ off, v uint64 }{{0x10, bar0Addr}, {0x14, bar1Addr}, {0x18, bar2Addr}, {0x1c, 0}, {4, 6}} {
		r.m.writeConfig(w.off, w.v, 4)
		r.d.WriteConfig(w.off, bytesOf(w.v, 4))
	}
}

// settle waits until QEMU's main loop has handled what was rung before.
func (r *rig) settle() {
	for range 3 {
		r.m.Load(msiAddr, 4)
	}
}

// check compares what was rung and sent.
func (r *rig) check(what string) {
	r.t.Helper()
	for len(r.rung) > 0 {
		e := next(r.t, r.client)
		if e.Kind != ivshmem.Interrupted || e.Count > r.rung[e.Vector] {
			r.t.Fatalf("%s: %v, to come are %v", what, e, r.rung)
		}
		if r.rung[e.Vector] -= e.Count; r.rung[e.Vector] == 0 {
			delete(r.rung, e.Vector)
		}
	}
	for addr, want := range r.sent {
		if got := uint32(r.m.Load(addr, 4)); got != want {
			r.t.Fatalf("%s: message at %#x is %#x, want %#x", what, addr, got, want)
		}
		r.m.Store(addr, 4, 0)
	}
	clear(r.sent)
}

// checkQuiet compares what was not sent.
func (r *rig) checkQuiet(what string) {
	r.t.Helper()
	if got := r.m.Read(msiAddr, 4*messageWords); slices.Max(got) != 0 {
		r.t.Fatalf("%s: a message came that should not have: %x", what, got)
	}
}

// messageWords is how many words of memory messages are aimed at.
const messageWords = 64

// TestQEMURandomAccesses makes the same random accesses to QEMU's device and to
// a Device, and compares every value read, message sent and peer rung.
func TestQEMURandomAccesses(t *testing.T) {
	for _, vectors := range []int{0, 1, 3, 70, 129} {
		t.Run(fmt.Sprintf("%d vectors", vectors), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, vectors)
			rnd := rand.New(rand.NewPCG(difftest.Seed(t, 1), uint64(vectors)))
			for i := range difftest.Scale(t, 3000) {
				what := fmt.Sprintf("step %d: %s", i, r.step(rnd))
				r.settle()
				r.check(what)
				if i%16 == 0 {
					r.checkQuiet(what)
				}
				if t.Failed() {
					t.Fatal(what)
				}
			}
		})
	}
}

// step makes one random access to both and tells which.
func (r *rig) step(rnd *rand.Rand) string {
	r.t.Helper()
	size := 1 << rnd.IntN(4)
	v := rnd.Uint64() >> rnd.IntN(64)
	kinds := "RRRRWWBBBcccCCMrr"
	if r.vectors > 0 {
		kinds += "TTTTETTIIII"
	}
	switch kinds[rnd.IntN(len(kinds))] {
	case 'R': // registers
		off := rnd.Uint64N(24)
		return r.compare(fmt.Sprintf("read %d bytes of BAR0+%#x", size, off), access(r.d.Read, off, size), r.m.Load(bar0Addr+off, size))
	case 'W':
		off := rnd.Uint64N(24)
		r.m.Store(bar0Addr+off, size, v)
		r.d.Write(off, bytesOf(v, size))
		return fmt.Sprintf("write %#x, %d bytes, to BAR0+%#x", v, size, off)
	case 'B': // a doorbell that somebody may hear
		bell := uint64(ivshmem.DoorbellValue(uint16(rnd.IntN(3)), uint16(rnd.IntN(r.vectors+2)|rnd.IntN(2)<<8)))
		r.m.Store(bar0Addr+ivshmem.RegDoorbell, 4, bell)
		r.d.Write(ivshmem.RegDoorbell, bytesOf(bell, 4))
		return fmt.Sprintf("doorbell %#x", bell)
	case 'T': // the table, and what lies past it
		return r.stepTable(rnd, size)
	case 'c': // configuration space
		size, off := configAccess(rnd)
		return r.compare(fmt.Sprintf("read %d bytes of config+%#x", size, off), access(r.d.ReadConfig, off, size), r.m.readConfig(off, size))
	case 'C':
		size, off := configAccess(rnd)
		if off >= 4 && off < 6 || off >= 0x10 && off < 0x20 {
			break // the test needs to find the BARs
		}
		r.m.writeConfig(off, v&(1<<(8*size)-1), size)
		r.d.WriteConfig(off, bytesOf(v, size))
		return fmt.Sprintf("write %#x, %d bytes, to config+%#x", v, size, off)
	case 'E': // the control word, most often enabled
		control := uint64(rnd.IntN(4)) << 14
		if rnd.IntN(2) == 0 {
			control = ivshmem.MSIXEnable
		}
		r.m.writeConfig(0x42, control, 2)
		r.d.WriteConfig(0x42, bytesOf(control, 2))
		return fmt.Sprintf("control %#x", control)
	case 'M': // bus master
		command := uint64(2 | rnd.IntN(2)<<2 | 4*rnd.IntN(2))
		r.m.writeConfig(4, command, 2)
		r.d.WriteConfig(4, bytesOf(command, 2))
		return fmt.Sprintf("command %#x", command)
	case 'r':
		if rnd.IntN(50) > 0 {
			break
		}
		r.m.reset()
		r.d.Reset()
		r.place()
		return "reset"
	case 'I': // a peer rings
		vector := uint16(rnd.IntN(r.vectors))
		if err := r.client.Ring(0, vector); err != nil {
			r.t.Error(err)
		}
		r.d.Interrupt(vector)
		return fmt.Sprintf("interrupt %d", vector)
	}
	return "nothing"
}

// compare reports a read that differs, and returns what was read.
func (r *rig) compare(what string, got, want uint64) string {
	r.t.Helper()
	if got != want {
		r.t.Errorf("%s: Device reads %#x, QEMU %#x", what, got, want)
	}
	return what
}

// stepTable accesses BAR1. Messages are aimed at words that the test looks at.
func (r *rig) stepTable(rnd *rand.Rand, size int) string {
	entry := 16 * rnd.Uint64N(uint64(min(r.vectors, 8)))
	switch rnd.IntN(5) {
	case 0:
		off := rnd.Uint64N(r.d.BAR(1).Size - 8)
		if rnd.IntN(2) == 0 {
			off = entry + rnd.Uint64N(16)
		}
		return r.compare(fmt.Sprintf("read %d bytes of BAR1+%#x", size, off), access(r.d.ReadMSIX, off, size), r.m.Load(bar1Addr+off, size))
	case 1: // where nothing is to be written, or nothing by halves
		off := 16*uint64(r.vectors) + rnd.Uint64N(r.d.BAR(1).Size-16*uint64(r.vectors)-8)
		if rnd.IntN(2) == 0 {
			off, size = entry+rnd.Uint64N(15), 1+rnd.IntN(2)
		}
		v := rnd.Uint64()
		r.m.Store(bar1Addr+off, size, v&(1<<(8*size)-1))
		r.d.WriteMSIX(off, bytesOf(v, size))
		return fmt.Sprintf("write %#x, %d bytes, to BAR1+%#x", v, size, off)
	case 2:
		control := uint64(rnd.IntN(2)) | uint64(rnd.Uint32()&^1)*uint64(rnd.IntN(2))
		r.m.Store(bar1Addr+entry+12, 4, control)
		r.d.WriteMSIX(entry+12, bytesOf(control, 4))
		return fmt.Sprintf("control %#x of entry %d", control, entry/16)
	case 3:
		data := uint64(rnd.Uint32() | 1)
		r.m.Store(bar1Addr+entry+8, 4, data)
		r.d.WriteMSIX(entry+8, bytesOf(data, 4))
		return fmt.Sprintf("data %#x of entry %d", data, entry/16)
	default:
		addr := msiAddr + 4*rnd.Uint64N(messageWords)
		r.m.Store(bar1Addr+entry, 8, addr)
		r.d.WriteMSIX(entry, bytesOf(addr, 8))
		return fmt.Sprintf("address %#x of entry %d", addr, entry/16)
	}
}

// configAccess returns an access within a dword.
func configAccess(rnd *rand.Rand) (size int, off uint64) {
	size = 1 << rnd.IntN(3)
	return size, rnd.Uint64N(256/uint64(size)) * uint64(size)
}

// TestQEMULayouts compares the configuration space and the sizes of the BARs.
func TestQEMULayouts(t *testing.T) {
	for _, vectors := range []int{0, 1, 64, 65, 128, 129, 256, 512, 2048} {
		if vectors > mostClients(t, vectors, 4) {
			t.Logf("not %d vectors: this process may open too few", vectors)
			break
		}
		_, path := startServer(t, &ivshmem.ServerOptions{Vectors: vectors, Size: 1 << 20})
		m := startMachine(t, path, vectors)
		d := &ivshmem.Device{Config: ivshmem.Config{Vectors: vectors, SharedSize: 1 << 20}}
		for off := uint64(0); off < 256; off += 4 {
			if got, want := access(d.ReadConfig, off, 4), m.readConfig(off, 4); got != want {
				t.Errorf("%d vectors: config+%#x reads %#x, in QEMU %#x", vectors, off, got, want)
			}
		}
		for n, want := range m.bars() {
			if got := d.BAR(n); got != want {
				t.Errorf("%d vectors: BAR%d is %+v, in QEMU %+v", vectors, n, got, want)
			}
		}
	}
}

// TestQEMUBARs moves the BARs of QEMU's device and of a Device at random and
// compares where they come to lie.
func TestQEMUBARs(t *testing.T) {
	for _, vectors := range []int{0, 2} {
		t.Run(fmt.Sprintf("%d vectors", vectors), func(t *testing.T) {
			_, path := startServer(t, &ivshmem.ServerOptions{Vectors: 2, Size: 1 << 20})
			m := startMachine(t, path, vectors)
			d := &ivshmem.Device{Config: ivshmem.Config{Vectors: vectors, SharedSize: 1 << 20}}
			var told [3]ivshmem.BAR
			d.Map = func(n int, b ivshmem.BAR) { told[n] = b }
			d.Refresh()
			rnd := rand.New(rand.NewPCG(difftest.Seed(t, 1), uint64(vectors)))
			for i := range difftest.Scale(t, 1500) {
				size, off, v := moveBAR(rnd)
				m.writeConfig(off, v&(1<<(8*size)-1), size)
				d.WriteConfig(off, bytesOf(v, size))
				what := fmt.Sprintf("step %d: write %#x, %d bytes, to config+%#x", i, v, size, off)
				for off := uint64(4); off < 0x24; off += 4 {
					if got, want := access(d.ReadConfig, off, 4), m.readConfig(off, 4); got != want {
						t.Fatalf("%s: config+%#x reads %#x, in QEMU %#x", what, off, got, want)
					}
				}
				for n, want := range m.bars() {
					got := d.BAR(n)
					if !got.Mapped {
						got.Address, told[n].Address = 0, 0
					}
					if got != want {
						t.Fatalf("%s: BAR%d is %+v, in QEMU %+v", what, n, got, want)
					}
					if told[n] != got {
						t.Fatalf("%s: Map was told %+v of BAR%d, it is %+v", what, told[n], n, got)
					}
				}
			}
		})
	}
}

// moveBAR returns a write to the command register or a BAR, often of an
// address at one of the ends.
func moveBAR(rnd *rand.Rand) (size int, off, v uint64) {
	size = 1 << rnd.IntN(3)
	off = uint64(0x10 + 4*rnd.IntN(5))
	if rnd.IntN(8) == 0 {
		return 1, 4, uint64(rnd.IntN(8) | 2*rnd.IntN(2))
	}
	switch rnd.IntN(4) {
	case 0:
		v = 0
	case 1:
		v = uint64(0xffffffff) << rnd.IntN(32)
	default:
		v = rnd.Uint64() >> rnd.IntN(64)
	}
	return size, off + uint64(rnd.IntN(4)&^(size-1)), v
}

// TestQEMUAndDevice has a QEMU and a Device on one server, whose guests share
// memory and ring each other, also after a reset and after the server is gone.
func TestQEMUAndDevice(t *testing.T) {
	s, path := startServer(t, &ivshmem.ServerOptions{Vectors: 2, Size: 1 << 20})
	client := dial(t, path, nil) // ID 0
	var lock sync.Mutex
	sent := make(chan uint32, 64)
	d := &ivshmem.Device{Config: ivshmem.Config{Vectors: 2}}
	d.SendMSI = func(_ uint64, data uint32) { sent <- data }
	if err := client.Attach(d); err != nil {
		t.Fatal(err)
	}
	setUp := func() {
		lock.Lock()
		defer lock.Unlock()
		aim(d, 2)
		d.WriteConfig(0x42, bytesOf(ivshmem.MSIXEnable, 2))
		d.WriteConfig(4, bytesOf(6, 2))
	}
	setUp()
	events := make(chan ivshmem.Event, 64)
	done := make(chan error)
	go func() {
		done <- client.Run(context.Background(), d, &lock, func(e ivshmem.Event) {
			if e.Kind != ivshmem.Interrupted {
				events <- e
			}
		})
	}()
	m := startMachine(t, path, 2) // ID 1
	m.aim(2)
	for e := range events {
		if e.Peer == 1 && e.Vector == 1 {
			break
		}
	}
	if id := m.Load(bar0Addr+ivshmem.RegIVPosition, 4); id != 1 {
		t.Fatalf("QEMU has ID %d, want 1", id)
	}

	toQEMU := func(vector uint16) {
		t.Helper()
		lock.Lock()
		write32(d, ivshmem.RegDoorbell, ivshmem.DoorbellValue(1, vector))
		lock.Unlock()
		waitFor(t, fmt.Sprintf("vector %d in QEMU", vector), func() bool {
			got := m.fired(2)
			if len(got) > 0 && (len(got) > 1 || got[0] != int(vector)) {
				t.Fatalf("QEMU's vectors %v fired, want %d", got, vector)
			}
			return len(got) > 0
		})
	}
	toDevice := func(vector uint16) {
		t.Helper()
		m.Store(bar0Addr+ivshmem.RegDoorbell, 4, uint64(ivshmem.DoorbellValue(0, vector)))
		select {
		case got := <-sent:
			if got != 0xa0+uint32(vector) {
				t.Errorf("the Device's message is %#x, want vector %d", got, vector)
			}
		case <-time.After(patience):
			t.Fatalf("vector %d of the Device does not fire", vector)
		}
	}
	exchange := func() {
		t.Helper()
		for vector := range uint16(2) {
			toQEMU(vector)
			toDevice(vector)
		}
	}
	exchange()

	m.Write(bar2Addr+0x1000, []byte("hello"))
	p := make([]byte, 5)
	d.ReadBAR(2, 0x1000, p)
	if string(p) != "hello" {
		t.Errorf("the Device's guest reads %q", p)
	}
	d.WriteBAR(2, 0xfff00, []byte{1, 2, 3, 4})
	if v := m.Load(bar2Addr+0xfff00, 4); v != 0x04030201 {
		t.Errorf("QEMU's guest reads %#x", v)
	}

	m.reset()
	m.aim(2)
	lock.Lock()
	d.Reset()
	lock.Unlock()
	setUp()
	if id := m.Load(bar0Addr+ivshmem.RegIVPosition, 4); id != 1 {
		t.Errorf("QEMU has ID %d after reset, want 1", id)
	}
	exchange()

	s.Close()
	for e := range events {
		if e.Kind == ivshmem.ServerLost {
			break
		}
	}
	exchange()
	client.Close()
	if err := <-done; !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Run: %v", err)
	}
}

// TestQEMUInACrowd has clients come and go by the dozen around a QEMU, which
// dies of an ID that comes back.
func TestQEMUInACrowd(t *testing.T) {
	s, path := startServer(t, &ivshmem.ServerOptions{Vectors: 2})
	m := startMachine(t, path, 2)
	m.aim(2)
	var wg sync.WaitGroup
	for i := range uint64(16) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, i))
			for range difftest.Scale(t, 20) {
				if _, err := visit(t.Context(), path, rnd); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	waitFor(t, "all to leave", func() bool { return len(s.Clients()) == 1 })
	c := dial(t, path, nil)
	for len(c.Peers()) < 2 {
		next(t, c)
	}
	m.fired(2)
	if err := c.Ring(0, 1); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "QEMU", func() bool { return len(m.fired(2)) > 0 })
	if id := m.Load(bar0Addr+ivshmem.RegIVPosition, 4); id != 0 {
		t.Errorf("QEMU has ID %d", id)
	}
}
