package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/ivshmem"
)

// TestMain makes the test program the server where it is run as one.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_AS_SERVER") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), "TEST_AS_SERVER=1")
	cmd.Stderr = os.Stderr
	return cmd
}

// patience is how long a test waits for what has to happen.
const patience = 3 * time.Minute

// check connects to a server and compares what it shares.
func check(t *testing.T, path string, size int64, vectors int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := ivshmem.Dial(ctx, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for c.Vectors() < vectors {
		if _, err := c.Next(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if c.Size() != size {
		t.Errorf("%d bytes are shared, want %d", c.Size(), size)
	}
}

func TestForeground(t *testing.T) {
	dir := difftest.SocketDir(t)
	path := filepath.Join(dir, "iv")
	cmd := command(t, "-F", "-v", "-A", "-S", path, "-l", "64K", "-n", "3")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	if got, want := lines.Text(), "listening on "+path+": 65536 bytes, 3 vectors"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	check(t, path, 65536, 3)
	for _, want := range []string{"client 0 joined (pid ", "client 0 left (pid "} {
		lines.Scan()
		if !strings.HasPrefix(lines.Text(), want) {
			t.Errorf("%q, want %q", lines.Text(), want)
		}
	}
	cmd.Process.Signal(syscall.SIGTERM)
	io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

func TestBackground(t *testing.T) {
	dir := difftest.SocketDir(t)
	path, pidFile := filepath.Join(dir, "iv"), filepath.Join(dir, "pid")
	if err := command(t, "-p", pidFile, "-S", path, "-m", dir, "-l", "1M").Run(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
	check(t, path, 1<<20, 1)
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		_, serr := os.Stat(path)
		_, perr := os.Stat(pidFile)
		if os.IsNotExist(serr) && os.IsNotExist(perr) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the server does not end: %v, %v", serr, perr)
		}
	}
}

func TestNamedMemory(t *testing.T) {
	dir := difftest.SocketDir(t)
	path := filepath.Join(dir, "iv")
	name := fmt.Sprintf("virtfmt-server-test-%d", os.Getpid())
	t.Cleanup(func() { ivshmem.RemoveSHM(name) })
	cmd := command(t, "-F", "-S", path, "-M", name, "-l", "64K")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	bufio.NewReader(out).ReadString('\n')
	check(t, path, 65536, 1)
	cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if err := ivshmem.RemoveSHM(name); err != nil {
		t.Errorf("the object that was shared: %v", err)
	}
}

func TestBadOptions(t *testing.T) {
	dir := difftest.SocketDir(t)
	for _, args := range [][]string{
		{"-l", "5000"}, {"-l", "3M"}, {"-l", "4KK"}, {"-l", "-1"}, {"-l", "9999999999G"}, {"-l", ""}, {"-n", "2049"},
		{"-m", filepath.Join(dir, "none")}, {"-M", "a/b"}, {"-S", filepath.Join(dir, "none", "iv")}, {"-S", ""}, {"extra"}, {"-x"},
		{"-p", filepath.Join(dir, "none", "pid"), "-S", filepath.Join(dir, "iv")},
	} {
		// Each is in the foreground, so that a mistake in the test leaves nothing
		// behind, but for the one that is about the background.
		all := append([]string{"-A", "-S", filepath.Join(dir, "other")}, args...)
		if args[0] == "-m" || args[0] == "-M" {
			all = all[1:]
		}
		if args[0] != "-p" {
			all = append([]string{"-F"}, all...)
		}
		if err := run(all, io.Discard); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "iv")); !os.IsNotExist(err) {
		t.Errorf("a server that did not start left its socket: %v", err)
	}
}

// TestFewDescriptors has more clients than the server has descriptors for. Each
// is served, told no, or waits; none is left without an answer, on which QEMU
// would spin. When some leave there is room again.
func TestFewDescriptors(t *testing.T) {
	for _, vectors := range []string{"4", "0"} {
		t.Run(vectors+" vectors", func(t *testing.T) { testFewDescriptors(t, vectors) })
	}
}

func testFewDescriptors(t *testing.T, vectors string) {
	const clients = 60
	path := filepath.Join(difftest.SocketDir(t), "iv")
	cmd := command(t, "-F", "-A", "-S", path, "-n", vectors)
	cmd.Args = append([]string{"sh", "-c", `ulimit -n 48; exec "$0" "$@"`}, append([]string{cmd.Path}, cmd.Args[1:]...)...)
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path = sh
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	bufio.NewReader(out).ReadString('\n')

	// answer returns the first number that the server sends.
	answer := func(conn net.Conn, wait time.Duration) (int64, error) {
		conn.SetReadDeadline(time.Now().Add(wait))
		var b [8]byte
		_, err := io.ReadFull(conn, b[:])
		return int64(binary.LittleEndian.Uint64(b[:])), err
	}
	var served, waiting []net.Conn
	refused := 0
	for i := range clients {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		wait := 20 * time.Millisecond
		if i == 0 {
			wait = patience // there is room for the first
		}
		switch num, err := answer(conn, wait); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			waiting = append(waiting, conn)
		case err != nil:
			t.Fatalf("a client is left without an answer: %v", err)
		case num == 0:
			served = append(served, conn)
		default:
			refused++
		}
	}
	t.Logf("%d served, %d refused, %d wait", len(served), refused, len(waiting))
	if len(served) == 0 || len(served) == clients {
		t.Errorf("%d of %d clients are served", len(served), clients)
	}
	for _, conn := range served {
		conn.Close()
	}
	for _, conn := range waiting {
		if _, err := answer(conn, patience); err != nil {
			t.Errorf("a client that waited: %v", err)
		}
		conn.Close()
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		num, err := answer(conn, patience)
		conn.Close()
		if err == nil && num == 0 {
			break
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("after all have left: %d, %v", num, err)
		}
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
