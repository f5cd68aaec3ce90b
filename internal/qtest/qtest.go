// Package qtest drives a real QEMU through its qtest and QMP sockets: the
// machine's ports and memory are read and written from a test, while no guest
// code runs, so that a device model can be compared with QEMU's step by step.
package qtest

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
)

// startTimeout bounds how long QEMU may take to connect, replyTimeout how
// long to answer; both allow for a machine under load.
const (
	startTimeout = 5 * time.Minute
	replyTimeout = 5 * time.Minute
)

// A VM is a running QEMU. Methods fail the test when QEMU does not answer as
// it should. A VM is not safe for concurrent use.
type VM struct {
	tb         testing.TB
	cmd        *exec.Cmd
	qtest, qmp *conn
	irq        map[int]bool
	events     []Event
	stderr     output
}

// output collects what QEMU prints while it runs.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// An Event is what QEMU tells of its own accord, such as RESET.
type Event struct {
	Event string
	Data  json.RawMessage
}

// conn is a line-based connection.
type conn struct {
	net.Conn
	r *bufio.Reader
}

// Start starts the QEMU program bin with args, with its CPUs stopped and no
// devices but the machine's own and those of args. It ends with the test.
func Start(tb testing.TB, bin string, args ...string) *VM {
	tb.Helper()
	dir := difftest.SocketDir(tb)
	vm := &VM{tb: tb, irq: map[int]bool{}}
	qtest, qmp := listen(tb, filepath.Join(dir, "qtest")), listen(tb, filepath.Join(dir, "qmp"))
	vm.cmd = exec.Command(bin, append([]string{
		"-accel", "tcg", "-S", "-nodefaults", "-display", "none",
		"-qtest", "unix:" + qtest.Addr().String(), "-qtest-log", os.DevNull,
		"-chardev", "socket,id=qmp,path=" + qmp.Addr().String(), "-mon", "chardev=qmp,mode=control",
	}, args...)...)
	vm.cmd.Stdout, vm.cmd.Stderr = io.Discard, &vm.stderr
	if err := vm.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		vm.cmd.Wait()
		qtest.Close() // nobody will connect
		qmp.Close()
	}()
	tb.Cleanup(func() { vm.cmd.Process.Kill(); <-ended })
	vm.qtest, vm.qmp = vm.accept(qtest), vm.accept(qmp)
	vm.line(vm.qmp) // the greeting
	vm.QMP("qmp_capabilities", nil)
	return vm
}

func listen(tb testing.TB, path string) *net.UnixListener {
	tb.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

func (vm *VM) accept(l *net.UnixListener) *conn {
	vm.tb.Helper()
	l.SetDeadline(time.Now().Add(startTimeout))
	c, err := l.Accept()
	if err != nil {
		vm.tb.Fatalf("QEMU did not connect: %v\n%s", err, vm.stderr.String())
	}
	vm.tb.Cleanup(func() { c.Close() })
	return &conn{c, bufio.NewReader(c)}
}

func (vm *VM) send(c *conn, line []byte) {
	vm.tb.Helper()
	if _, err := c.Write(append(line, '\n')); err != nil {
		vm.tb.Fatalf("%s: %v\n%s", line, err, vm.stderr.String())
	}
}

func (vm *VM) line(c *conn) []byte {
	vm.tb.Helper()
	c.SetReadDeadline(time.Now().Add(replyTimeout))
	b, err := c.r.ReadBytes('\n')
	if err != nil {
		vm.tb.Fatalf("QEMU does not answer: %v\n%s", err, vm.stderr.String())
	}
	return b
}

// QMP runs a command with arguments that marshal to a JSON object, and returns
// what it returned, or its error.
func (vm *VM) QMP(command string, arguments any) (json.RawMessage, error) {
	vm.tb.Helper()
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	b, err := json.Marshal(request)
	if err != nil {
		vm.tb.Fatal(err)
	}
	vm.send(vm.qmp, b)
	for {
		r := vm.reply()
		switch {
		case r.Event.Event != "":
			vm.events = append(vm.events, r.Event)
		case r.Error != nil:
			return nil, fmt.Errorf("%s: %s", command, r.Error.Desc)
		default:
			return r.Return, nil
		}
	}
}

type reply struct {
	Event
	Return json.RawMessage
	Error  *struct{ Desc string }
}

func (vm *VM) reply() reply {
	vm.tb.Helper()
	var r reply
	if b := vm.line(vm.qmp); json.Unmarshal(b, &r) != nil {
		vm.tb.Fatalf("QMP: %s", b)
	}
	return r
}

// Events returns the events seen since the last call.
func (vm *VM) Events() []Event {
	e := vm.events
	vm.events = nil
	return e
}

// Await waits for an event of that name and drops those before it.
func (vm *VM) Await(name string) Event {
	vm.tb.Helper()
	for {
		for i, e := range vm.events {
			if e.Event == name {
				vm.events = vm.events[i+1:]
				return e
			}
		}
		vm.events = vm.events[:0]
		if r := vm.reply(); r.Event.Event != "" {
			vm.events = append(vm.events, r.Event)
		}
	}
}

// Do runs a command of the qtest protocol and returns the words of its answer.
func (vm *VM) Do(format string, args ...any) []string {
	vm.tb.Helper()
	command := fmt.Sprintf(format, args...)
	vm.send(vm.qtest, []byte(command))
	for {
		words := strings.Fields(string(vm.line(vm.qtest)))
		switch {
		case len(words) == 3 && words[0] == "IRQ":
			n, err := strconv.Atoi(words[2])
			if err != nil {
				vm.tb.Fatalf("qtest: %v", words)
			}
			vm.irq[n] = words[1] == "raise"
		case len(words) > 0 && words[0] == "OK":
			return words[1:]
		default:
			vm.tb.Fatalf("qtest: %s: %v", command, words)
		}
	}
}

func (vm *VM) number(format string, args ...any) uint64 {
	vm.tb.Helper()
	words := vm.Do(format, args...)
	if len(words) != 1 {
		vm.tb.Fatalf("qtest: "+format+": %v", append(args, words)...)
	}
	n, err := strconv.ParseUint(words[0], 0, 64)
	if err != nil {
		vm.tb.Fatalf("qtest: %v", err)
	}
	return n
}

// suffix is the letter of an access of 1, 2, 4 or 8 bytes.
func suffix(size int) string { return map[int]string{1: "b", 2: "w", 4: "l", 8: "q"}[size] }

// In reads 1, 2 or 4 bytes from an I/O port.
func (vm *VM) In(port uint16, size int) uint32 {
	vm.tb.Helper()
	return uint32(vm.number("in%s 0x%x", suffix(size), port))
}

// Out writes 1, 2 or 4 bytes to an I/O port.
func (vm *VM) Out(port uint16, size int, v uint32) {
	vm.tb.Helper()
	vm.Do("out%s 0x%x 0x%x", suffix(size), port, v)
}

// Load reads a value of 1, 2, 4 or 8 bytes, in the machine's byte order, from
// guest memory.
func (vm *VM) Load(addr uint64, size int) uint64 {
	vm.tb.Helper()
	return vm.number("read%s 0x%x", suffix(size), addr)
}

// Store writes a value of 1, 2, 4 or 8 bytes to guest memory.
func (vm *VM) Store(addr uint64, size int, v uint64) {
	vm.tb.Helper()
	vm.Do("write%s 0x%x 0x%x", suffix(size), addr, v)
}

// Read returns n bytes of guest memory, n at least 1.
func (vm *VM) Read(addr uint64, n int) []byte {
	vm.tb.Helper()
	words := vm.Do("read 0x%x 0x%x", addr, n)
	b, err := hex.DecodeString(strings.TrimPrefix(strings.Join(words, ""), "0x"))
	if err != nil || len(b) != n {
		vm.tb.Fatalf("qtest: read of %d bytes returned %d, %v", n, len(b), err)
	}
	return b
}

// Write writes b, at least 1 byte, to guest memory.
func (vm *VM) Write(addr uint64, b []byte) {
	vm.tb.Helper()
	vm.Do("write 0x%x 0x%x 0x%x", addr, len(b), b)
}

// Intercept makes IRQ tell of the inputs of a device, such as "ioapic".
func (vm *VM) Intercept(device string) {
	vm.tb.Helper()
	vm.Do("irq_intercept_in %s", device)
}

// IRQ returns the level of input n of the intercepted device, as of the last
// command.
func (vm *VM) IRQ(n int) bool { return vm.irq[n] }
