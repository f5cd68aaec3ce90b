package ivshmem_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
)

// A machine is a QEMU whose processors are stopped and whose devices the test
// accesses over qtest, as a guest would.
type machine struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
	qmp  struct {
		io.Writer
		*json.Decoder
	}
}

// pciSlot is where the device sits.
const pciSlot = 4

// startMachine starts a QEMU with an ivshmem-doorbell device of that many
// vectors, connected to the server at path.
func startMachine(t *testing.T, path string, vectors int) *machine {
	t.Helper()
	bin := difftest.Tool(t, "qemu-system-x86_64", "7.2")
	l, err := net.Listen("unix", filepath.Join(shortDir(t), "qt"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command(bin, "-M", "pc-i440fx-7.2,accel=tcg", "-S", "-m", "64", "-display", "none", "-nodefaults",
		"-qtest", "unix:"+l.Addr().String(), "-qtest-log", "/dev/null", "-qmp", "stdio",
		"-chardev", "socket,path="+path+",id=c",
		"-device", fmt.Sprintf("ivshmem-doorbell,chardev=c,vectors=%d,addr=%d.0", vectors, pciSlot))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() && stderr.Len() > 0 {
			t.Logf("QEMU: %s", &stderr)
		}
	})
	l.(*net.UnixListener).SetDeadline(time.Now().Add(patience))
	conn, err := l.Accept()
	if err != nil {
		t.Fatalf("QEMU does not start: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * patience))
	m := &machine{t: t, conn: conn, in: bufio.NewReader(conn)}
	m.qmp.Writer, m.qmp.Decoder = stdin, json.NewDecoder(stdout)
	m.qmp.Decode(new(any)) // the greeting
	m.command("qmp_capabilities")
	return m
}

// command runs a QMP command and waits for what it returns.
func (m *machine) command(name string) {
	m.t.Helper()
	fmt.Fprintf(m.qmp, "{%q: %q}\n", "execute", name)
	for {
		var r map[string]any
		if err := m.qmp.Decode(&r); err != nil {
			m.t.Fatalf("QMP: %v", err)
		}
		if _, ok := r["return"]; ok {
			return
		}
		if r["error"] != nil {
			m.t.Fatalf("QMP: %v", r["error"])
		}
	}
}

// reset resets the machine and waits until that is done, which is when the
// memory decoding that the firmware does not turn on again is off.
func (m *machine) reset() {
	m.t.Helper()
	m.writeConfig(4, 6, 2)
	m.command("system_reset")
	waitFor(m.t, "reset", func() bool { return m.readConfig(4, 2) == 0 })
}

// do sends a qtest command and returns the answer's second word.
func (m *machine) do(format string, args ...any) string {
	m.t.Helper()
	if _, err := fmt.Fprintf(m.conn, format+"\n", args...); err != nil {
		m.t.Fatal(err)
	}
	for {
		line, err := m.in.ReadString('\n')
		if err != nil {
			m.t.Fatalf("qtest: %v", err)
		}
		switch w := strings.Fields(line); {
		case len(w) == 0 || w[0] == "IRQ":
		case w[0] != "OK":
			m.t.Fatalf("qtest: "+format+": %s", append(args, line)...)
		case len(w) > 1:
			return w[1]
		default:
			return ""
		}
	}
}

var sizeLetter = map[int]string{1: "b", 2: "w", 4: "l", 8: "q"}

func (m *machine) read(addr uint64, size int) uint64 {
	m.t.Helper()
	v, err := strconv.ParseUint(m.do("read%s %#x", sizeLetter[size], addr), 0, 64)
	if err != nil {
		m.t.Fatal(err)
	}
	return v
}

func (m *machine) write(addr, v uint64, size int) {
	m.t.Helper()
	m.do("write%s %#x %#x", sizeLetter[size], addr, v)
}

func (m *machine) configAddress(off uint64) {
	m.t.Helper()
	m.do("outl 0xcf8 %#x", 1<<31|pciSlot<<11|off&^3)
}

func (m *machine) readConfig(off uint64, size int) uint64 {
	m.t.Helper()
	m.configAddress(off)
	v, err := strconv.ParseUint(m.do("in%s %#x", sizeLetter[size], 0xcfc+off&3), 0, 64)
	if err != nil {
		m.t.Fatal(err)
	}
	return v
}

func (m *machine) writeConfig(off, v uint64, size int) {
	m.t.Helper()
	m.configAddress(off)
	m.do("out%s %#x %#x", sizeLetter[size], 0xcfc+off&3, v)
}

// aim places the BARs, makes each vector a write of 0xa0 plus its number to its
// own word of memory, and enables MSI-X.
func (m *machine) aim(vectors int) {
	m.t.Helper()
	m.writeConfig(0x10, bar0Addr, 4)
	m.writeConfig(0x14, bar1Addr, 4)
	m.writeConfig(0x18, bar2Addr, 4)
	m.writeConfig(0x1c, 0, 4)
	m.writeConfig(4, 6, 2)
	for i := range uint64(vectors) {
		m.write(bar1Addr+16*i, msiAddr+4*i, 8)
		m.write(bar1Addr+16*i+8, 0xa0+i, 8)
	}
	m.writeConfig(0x42, 0x8000, 2)
}

// fired returns which vectors have fired since it was last asked.
func (m *machine) fired(vectors int) []int {
	m.t.Helper()
	var got []int
	for i := range vectors {
		addr := msiAddr + 4*uint64(i)
		if v := m.read(addr, 4); v != 0 {
			if v != 0xa0+uint64(i) {
				m.t.Errorf("vector %d wrote %#x", i, v)
			}
			m.write(addr, 0, 4)
			got = append(got, i)
		}
	}
	return got
}
