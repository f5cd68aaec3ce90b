// Command ivshmem-server shares memory and interrupts between the QEMUs that
// connect to it. It takes the options of the ivshmem-server in QEMU's source,
// and behaves as one may rely on.
//
//	go run ./ivshmem-server -F -v -S /tmp/iv -l 1M -n 2
//	qemu-system-x86_64 -chardev socket,path=/tmp/iv,id=iv \
//	    -device ivshmem-doorbell,chardev=iv,vectors=2 ...
//
// Without -F it goes into the background. SIGINT and SIGTERM end it; QEMUs go
// on sharing what they have. With -A the memory has no name, and no QEMU can
// take it away from the others by truncating it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/virtfmt/virtfmt/examples/internal/stdflag"
	"github.com/virtfmt/virtfmt/ivshmem"
)

func main() {
	err := run(os.Args[1:], os.Stdout)
	if err != nil && err != flag.ErrHelp {
		fmt.Fprintln(os.Stderr, "ivshmem-server:", err)
		os.Exit(1)
	}
}

// config is what the command line says.
type config struct {
	verbose, foreground, anonymous bool
	pidFile, socket, name, dir     string
	size                           sizeFlag
	vectors, clients               int
}

func parse(args []string, w io.Writer) (*config, error) {
	c := &config{size: 4 << 20}
	fs := flag.NewFlagSet("ivshmem-server", flag.ContinueOnError)
	fs.BoolVar(&c.verbose, "v", false, "print who comes and goes")
	fs.BoolVar(&c.foreground, "F", false, "stay in the foreground")
	fs.StringVar(&c.pidFile, "p", "/var/run/ivshmem-server.pid", "`file` for the process ID, when in the background")
	fs.StringVar(&c.socket, "S", "/tmp/ivshmem_socket", "`path` of the Unix socket to listen on")
	fs.StringVar(&c.name, "M", "ivshmem", "`name` of the POSIX shared memory object to share")
	fs.StringVar(&c.dir, "m", "", "share a file without a name in this `directory` instead, such as a mount of hugetlbfs")
	fs.BoolVar(&c.anonymous, "A", false, "share memory without a name instead, of sealed size")
	fs.Var(&c.size, "l", "`size` of the shared memory, with K, M or G: a power of two")
	fs.IntVar(&c.vectors, "n", 1, "`number` of interrupt vectors of each client, 0 to 2048")
	fs.IntVar(&c.clients, "c", 1024, "`number` of clients at a time")
	if err := stdflag.ParseAtMost(0, fs, args, w); err != nil {
		return nil, err
	}
	if c.socket == "" {
		return nil, errors.New("-S: the path of the socket is empty")
	}
	return c, nil
}

func run(args []string, w io.Writer) error {
	c, err := parse(args, w)
	if err != nil {
		return err
	}
	if inBackground() {
		return c.serveInBackground(w)
	}
	memory, err := c.memory()
	if err != nil {
		return err
	}
	defer memory.Close()
	s, err := c.server(memory, w)
	if err != nil {
		return err
	}
	defer s.Close()
	l, err := ivshmem.Listen(c.socket)
	if err != nil {
		return err
	}
	if !c.foreground {
		return goToBackground(args, c.pidFile, l, memory)
	}
	fmt.Fprintf(w, "listening on %s: %d bytes, %d vectors\n", c.socket, c.size, c.vectors)
	return untilSignal(s, func() error { return s.Serve(l) })
}

// memory returns what is to be shared.
func (c *config) memory() (*os.File, error) {
	switch size := int64(c.size); {
	case c.anonymous:
		return ivshmem.NewMemory(size)
	case c.dir != "":
		return ivshmem.NewMemoryIn(c.dir, size)
	default:
		return ivshmem.OpenSHM(c.name, size)
	}
}

func (c *config) server(memory *os.File, w io.Writer) (*ivshmem.Server, error) {
	o := &ivshmem.ServerOptions{Memory: memory, Vectors: c.vectors, MaxClients: c.clients}
	if c.vectors <= 0 {
		o.Vectors = -1
	}
	if c.verbose {
		o.Events = func(e ivshmem.ServerEvent) { fmt.Fprintln(w, e) }
	}
	return ivshmem.NewServer(o)
}

// serveInBackground serves with what [goToBackground] left open.
func (c *config) serveInBackground(w io.Writer) error {
	l, memory, err := inherited()
	if err != nil {
		return err
	}
	s, err := c.server(memory, w)
	if err != nil {
		return err
	}
	memory.Close()
	defer os.Remove(c.pidFile)
	return untilSignal(s, func() error { return s.Serve(l) })
}

// untilSignal serves until a signal asks for the end.
func untilSignal(s *ivshmem.Server, serve func() error) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	done := make(chan error, 1)
	go func() { done <- serve() }()
	select {
	case err := <-done:
		return err
	case <-signals:
	}
	err := s.Close()
	if serr := <-done; !errors.Is(serr, fs.ErrClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

// A sizeFlag is a number of bytes, written with K, M or G where that is shorter.
type sizeFlag int64

func (s *sizeFlag) String() string {
	n, suffix := int64(*s), ""
	for _, u := range []string{"K", "M", "G"} {
		if n == 0 || n%1024 != 0 {
			break
		}
		n, suffix = n/1024, u
	}
	return strconv.FormatInt(n, 10) + suffix
}

func (s *sizeFlag) Set(v string) error {
	digits := strings.TrimRight(v, "kKmMgG")
	n, err := strconv.ParseInt(digits, 0, 64)
	shift, ok := map[string]int{"": 0, "K": 10, "M": 20, "G": 30}[strings.ToUpper(v[len(digits):])]
	if err != nil || !ok || n < 0 || n > math.MaxInt64>>shift {
		return errors.New("not a size, such as 4M")
	}
	*s = sizeFlag(n << shift)
	return nil
}
