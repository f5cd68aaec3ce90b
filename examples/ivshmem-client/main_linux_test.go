package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/ivshmem"
)

// A user types commands to a client and reads what it shows.
type user struct {
	t    *testing.T
	in   *os.File
	out  *bufio.Scanner
	done chan error
}

func start(t *testing.T, args ...string) *user {
	t.Helper()
	inR, inW := pipe(t)
	outR, outW := pipe(t)
	u := &user{t, inW, bufio.NewScanner(outR), make(chan error, 1)}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	go func() {
		u.done <- run(ctx, args, inR, outW)
		outW.Close()
	}()
	t.Cleanup(func() {
		inW.Close()
		for u.out.Scan() {
			t.Logf("unread: %s", u.out.Text())
		}
		cancel()
	})
	return u
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	return r, w
}

func (u *user) types(lines ...string) {
	for _, l := range lines {
		fmt.Fprintln(u.in, l)
	}
}

func (u *user) sees(lines ...string) {
	u.t.Helper()
	for _, want := range lines {
		if !u.out.Scan() || u.out.Text() != want {
			u.t.Fatalf("%q, want %q", u.out.Text(), want)
		}
	}
}

// seesInAnyOrder is for vectors that are rung at once.
func (u *user) seesInAnyOrder(lines ...string) {
	u.t.Helper()
	var got []string
	for range lines {
		u.out.Scan()
		got = append(got, u.out.Text())
	}
	slices.Sort(got)
	if !slices.Equal(got, lines) {
		u.t.Fatalf("%q, want %q", got, lines)
	}
}

func serve(t *testing.T) (*ivshmem.Server, string) {
	t.Helper()
	s, err := ivshmem.NewServer(&ivshmem.ServerOptions{Vectors: 2, Size: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(difftest.SocketDir(t), "iv")
	l, err := ivshmem.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return s, path
}

func TestTwoUsers(t *testing.T) {
	s, path := serve(t)
	a := start(t, "-v", "-S", path)
	a.sees("connected as 0, 65536 bytes shared", "peer 0: vector 0 connected", "peer 0: vector 1 connected")
	b := start(t, "-S", path)
	b.sees("connected as 1, 65536 bytes shared", "peer 0: connected")
	a.sees("peer 1: vector 0 connected", "peer 1: vector 1 connected")

	a.types("dump")
	a.sees("this client 0: 2 vectors", "peer 1: 2 vectors")
	a.types("int 1 1")
	b.sees("vector 1 interrupted, 1 times")
	a.types("int all")
	b.seesInAnyOrder("vector 0 interrupted, 1 times", "vector 1 interrupted, 1 times")
	b.types("int 0 all")
	a.seesInAnyOrder("vector 0 interrupted, 1 times", "vector 1 interrupted, 1 times")
	a.types("int 7 0", "int 1 2", "int 7 all", "int", "int x y", "int 0 y", "frobnicate", "")
	a.sees("ivshmem: no such peer is connected", "ivshmem: the peer has no such vector connected", "ivshmem: no such peer is connected",
		"want: int PEER VECTOR, int PEER all, or int all", `peer: strconv.ParseUint: parsing "x": invalid syntax`,
		`vector: strconv.ParseUint: parsing "y": invalid syntax`, `unknown command "frobnicate", try help`)
	a.types("write 0x100 hello there", "write 65535 hi", "write 65536 x", "read 0x100", "read 0 x", "help")
	a.sees("1 of 2 bytes written: the end of the shared memory", `offset "65536" is not in the 65536 bytes that are shared`,
		"want: read OFFSET N, or write OFFSET TEXT", `number: strconv.ParseUint: parsing "x": invalid syntax`)
	a.sees(strings.Split(help, "\n")...)
	b.types("read 0x100 11")
	b.sees("00000000  68 65 6c 6c 6f 20 74 68  65 72 65                 |hello there|")

	b.types("quit")
	if err := <-b.done; err != nil {
		t.Error(err)
	}
	a.sees("peer 1: disconnected")
	s.Close()
	a.sees("server lost")
	a.types("int 0 0")
	a.sees("vector 0 interrupted, 1 times")
	a.in.Close()
	if err := <-a.done; err != nil {
		t.Error(err)
	}
}

func TestBadOptions(t *testing.T) {
	for _, args := range [][]string{{"-x"}, {"extra"}, {"-S", ""}} {
		if err := run(t.Context(), args, strings.NewReader(""), io.Discard); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
}

func TestWaitsForServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	var out strings.Builder
	err := run(ctx, []string{"-S", filepath.Join(t.TempDir(), "none")}, strings.NewReader(""), &out)
	if err != context.DeadlineExceeded || !strings.Contains(out.String(), "trying again each second") {
		t.Errorf("%v, %q", err, out.String())
	}
}
