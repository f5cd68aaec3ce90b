// Command ivshmem-client connects to an ivshmem server, shows who comes and
// goes and which of its vectors are rung, and rings others. It takes the
// options and commands of the ivshmem-client in QEMU's source, and more.
//
//	go run ./ivshmem-client -S /tmp/iv
//	> int 0 1                 ring vector 1 of peer 0
//	> write 0x100 hello       leave a word in the shared memory
//	> help
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/virtfmt/virtfmt/examples/internal/stdflag"
	"github.com/virtfmt/virtfmt/ivshmem"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout)
	if err != nil && err != flag.ErrHelp {
		fmt.Fprintln(os.Stderr, "ivshmem-client:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("ivshmem-client", flag.ContinueOnError)
	verbose := flags.Bool("v", false, "also show each vector that is connected")
	path := flags.String("S", "/tmp/ivshmem_socket", "`path` of the server's Unix socket")
	if err := stdflag.ParseAtMost(0, flags, args, out); err != nil {
		return err
	}
	if *path == "" {
		return errors.New("-S: the path of the socket is empty")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &session{out: out, verbose: *verbose, known: map[uint16]bool{}}
	if err := s.connect(ctx, *path); err != nil {
		return err
	}
	defer s.client.Close()
	go func() {
		defer cancel()
		s.watch(ctx)
	}()
	lines := make(chan string)
	go func() {
		defer close(lines)
		for sc := bufio.NewScanner(in); sc.Scan(); {
			select {
			case lines <- sc.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case line, ok := <-lines:
			if !ok || s.command(strings.Fields(line)) == errQuit {
				return nil
			}
		}
	}
}

// A session is a client that a person talks to.
type session struct {
	client  *ivshmem.Client
	verbose bool
	known   map[uint16]bool // peers that were shown

	mu  sync.Mutex // guards out
	out io.Writer
}

func (s *session) printf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, format+"\n", args...)
}

// connect dials until there is a server.
func (s *session) connect(ctx context.Context, path string) (err error) {
	for told := false; ; {
		s.client, err = ivshmem.Dial(ctx, path, nil)
		if err == nil {
			s.printf("connected as %d, %d bytes shared", s.client.ID(), s.client.Size())
			return nil
		}
		if _, ok := errors.AsType[*ivshmem.FormatError](err); ok || errors.Is(err, errors.ErrUnsupported) {
			return err
		}
		if !told {
			s.printf("%v; trying again each second", err)
			told = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// watch shows what happens until ctx ends.
func (s *session) watch(ctx context.Context) {
	for {
		e, err := s.client.Next(ctx)
		switch {
		case errors.Is(err, fs.ErrClosed) || ctx.Err() != nil:
			return
		case err != nil:
			s.printf("%v", err)
			return
		case e.Kind != ivshmem.Connected:
			delete(s.known, e.Peer)
			s.printf("%v", e)
		case s.verbose:
			s.printf("%v", e)
		case !s.known[e.Peer] && e.Peer != s.client.ID():
			s.known[e.Peer] = true
			s.printf("peer %d: connected", e.Peer)
		}
	}
}

var errQuit = errors.New("quit")

const help = `int PEER VECTOR    ring one vector of a peer
int PEER all       ring all vectors of a peer
int all            ring all vectors of all other peers
dump               show the peers, oneself among them
read OFFSET N      show N bytes of the shared memory
write OFFSET TEXT  write to the shared memory
help               show this
quit               leave`

// command does what a line says. It returns errQuit at the end.
func (s *session) command(words []string) error {
	if len(words) == 0 {
		return nil
	}
	var err error
	switch args := words[1:]; words[0] {
	case "quit":
		return errQuit
	case "help":
		s.printf("%s", help)
	case "dump":
		s.dump()
	case "int":
		err = s.ring(args)
	case "read", "write":
		err = s.access(words[0], args)
	default:
		err = fmt.Errorf("unknown command %q, try help", words[0])
	}
	if err != nil {
		s.printf("%v", err)
	}
	return nil
}

func (s *session) dump() {
	for _, p := range s.client.Peers() {
		who := "peer"
		if p.ID == s.client.ID() {
			who = "this client"
		}
		s.printf("%s %d: %d vectors", who, p.ID, p.Vectors)
	}
}

func (s *session) ring(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "all":
		for _, p := range s.client.Peers() {
			if p.ID != s.client.ID() {
				if err := s.ringAll(p); err != nil {
					return err
				}
			}
		}
		return nil
	case len(args) != 2:
		return errors.New("want: int PEER VECTOR, int PEER all, or int all")
	}
	peer, err := strconv.ParseUint(args[0], 0, 16)
	if err != nil {
		return fmt.Errorf("peer: %w", err)
	}
	if args[1] == "all" {
		for _, p := range s.client.Peers() {
			if p.ID == uint16(peer) {
				return s.ringAll(p)
			}
		}
		return ivshmem.ErrNoPeer
	}
	vector, err := strconv.ParseUint(args[1], 0, 16)
	if err != nil {
		return fmt.Errorf("vector: %w", err)
	}
	return s.client.Ring(uint16(peer), uint16(vector))
}

func (s *session) ringAll(p ivshmem.PeerInfo) error {
	for v := range p.Vectors {
		if err := s.client.Ring(p.ID, uint16(v)); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) access(what string, args []string) error {
	if len(args) < 2 {
		return errors.New("want: read OFFSET N, or write OFFSET TEXT")
	}
	memory, err := s.client.Map()
	if err != nil {
		return err
	}
	off, err := strconv.ParseUint(args[0], 0, 64)
	if err != nil || off >= uint64(len(memory)) {
		return fmt.Errorf("offset %q is not in the %d bytes that are shared", args[0], len(memory))
	}
	if what == "write" {
		text := strings.Join(args[1:], " ")
		if n := copy(memory[off:], text); n < len(text) {
			return fmt.Errorf("%d of %d bytes written: the end of the shared memory", n, len(text))
		}
		return nil
	}
	n, err := strconv.ParseUint(args[1], 0, 16)
	if err != nil {
		return fmt.Errorf("number: %w", err)
	}
	s.printf("%s", strings.TrimSuffix(hex.Dump(memory[off:min(off+n, uint64(len(memory)))]), "\n"))
	return nil
}
