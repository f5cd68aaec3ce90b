// Command qnbd serves a disk image over the Network Block Device protocol, with
// the options of qemu-nbd 7.2:
//
//	qnbd -t -k /tmp/disk.sock disk.qcow2
//	qnbd -r -t -p 10809 vma:drive-scsi0:vzdump-qemu-100.vma
//
// It knows images of the formats qcow2, qed and raw, reads vma archives
// ("vma:DEVICE:ARCHIVE" names a disk in one), and internal snapshots (-l).
// Without -k it listens on a port of the local host only, unless -b says
// otherwise. It ends when the last client has left, unless -t is given, and at
// SIGINT and SIGTERM; the image is whole then.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/virtfmt/virtfmt/examples/internal/getopt"
	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/examples/internal/nbd"
)

const usage = `usage: qnbd [options] FILE

Where clients connect:
  -k, --socket=PATH         a Unix socket
  -p, --port=PORT           a TCP port, 10809 by default
  -b, --bind=ADDRESS        its address, 127.0.0.1 by default
  -e, --shared=COUNT        how many clients at a time, 1 by default; 0: any
  -t, --persistent          go on after the last client has left

What they get:
  -f, --format=FORMAT       of the image; otherwise it is found out
  -r, --read-only
  -l, --load-snapshot=SNAPSHOT  an internal snapshot, by its ID or name
  -x, --export-name=NAME
  -D, --description=TEXT
  -A, --allocation-depth    tell which image of the chain holds what
  -B, --bitmap=NAME         tell what a persistent bitmap says is dirty
      --discard=MODE        ignore or unmap (default: ignore)
      --cache=MODE          writeback, writethrough, none, directsync or unsafe
      --image-opts          FILE is a list of options
      --object=OBJECT       a secret

  -v, --verbose             tell of clients that break the protocol
      --pid-file=PATH       write the process ID when clients can connect
  -h, --help  -V, --version
`

const version = "qnbd 0.1, as qemu-nbd version 7.2\n"

// A config is what the command line says.
type config struct {
	socket, bind, port, pidFile string
	shared                      int
	persistent, verbose         bool
	readOnly, discard           bool
	snapshot, bitmap            string
	export                      nbd.Export
	image                       imgopen.Options
	name                        string
	stderr                      io.Writer
}

// errDone means that all was printed that was asked for.
var errDone = errors.New("done")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run serves what a command line says, and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := &config{bind: "127.0.0.1", port: "10809", shared: 1, stderr: stderr}
	err := c.parse(args, stdout)
	if err == nil {
		err = c.serve(ctx)
	}
	if err == nil || err == errDone {
		return 0
	}
	fmt.Fprintf(stderr, "qnbd: %v\n", err)
	var wrong getopt.Error
	if errors.As(err, &wrong) {
		fmt.Fprintln(stderr, "Try 'qnbd --help' for more information.")
	}
	return 1
}

func (c *config) parse(args []string, stdout io.Writer) error {
	opts, operands, err := getopt.Parse(args, "k:p:b:e:tf:rl:x:D:AB:vV",
		"socket:=k port:=p bind:=b shared:=e persistent=t format:=f read-only=r load-snapshot:=l export-name:=x description:=D "+
			"allocation-depth=A bitmap:=B discard: cache: image-opts object: verbose=v pid-file: version=V")
	if err != nil {
		return err
	}
	for _, o := range opts {
		switch o.Name {
		case "h":
			io.WriteString(stdout, usage)
			return errDone
		case "V":
			io.WriteString(stdout, version)
			return errDone
		}
		if err := c.set(o); err != nil {
			return err
		}
	}
	if len(operands) != 1 {
		return getopt.Error(fmt.Sprintf("Invalid number of arguments: %d instead of 1", len(operands)))
	}
	c.name = operands[0]
	c.readOnly = c.readOnly || c.snapshot != "" || strings.HasPrefix(c.name, "vma:")
	return nil
}

// set takes an option.
func (c *config) set(o getopt.Option) error {
	texts := map[string]*string{
		"k": &c.socket, "p": &c.port, "b": &c.bind, "l": &c.snapshot, "B": &c.bitmap, "pid-file": &c.pidFile,
		"f": &c.image.Format, "x": &c.export.Name, "D": &c.export.Description,
	}
	flags := map[string]*bool{
		"t": &c.persistent, "r": &c.readOnly, "v": &c.verbose, "A": &c.export.AllocationDepth, "image-opts": &c.image.ImageOpts,
	}
	if p := texts[o.Name]; p != nil {
		*p = o.Value
		return nil
	}
	if p := flags[o.Name]; p != nil {
		*p = true
		return nil
	}
	switch o.Name {
	case "e":
		n, err := strconv.Atoi(o.Value)
		if err != nil || n < 0 {
			return getopt.Error("Shared device number must be a number, 0 or more: " + o.Value)
		}
		c.shared = n
	case "discard":
		switch o.Value {
		case "unmap", "on":
			c.discard = true
		case "ignore", "off":
			c.discard = false
		default:
			return getopt.Error("Invalid discard mode: " + o.Value)
		}
	case "cache":
		switch o.Value {
		case "writeback", "none":
		case "writethrough", "directsync":
			c.image.Sync = true
		case "unsafe":
			c.image.NoSync = true
		default:
			return getopt.Error("Invalid cache mode: " + o.Value)
		}
	case "object":
		if c.image.Secrets == nil {
			c.image.Secrets = imgopen.Secrets{}
		}
		return c.image.Secrets.Add(o.Value)
	}
	return nil
}

// serve opens the image and serves it until ctx ends or the last client has
// left.
func (c *config) serve(ctx context.Context) (err error) {
	c.image.Context, c.image.Write = ctx, !c.readOnly
	c.image.Warn = func(m string) { fmt.Fprintf(c.stderr, "qnbd: warning: %s\n", m) }
	img, err := imgopen.Open(c.name, &c.image)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	if err := c.open(img); err != nil {
		return err
	}
	l, err := c.listen()
	if err != nil {
		return err
	}
	if c.pidFile != "" {
		if err := os.WriteFile(c.pidFile, fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
			return errors.Join(err, l.Close())
		}
		defer os.Remove(c.pidFile)
	}
	s := &nbd.Server{Exports: []*nbd.Export{&c.export}, MaxClients: c.shared, Once: !c.persistent}
	if c.shared == 0 {
		s.MaxClients = 1 << 16
	}
	if c.verbose {
		s.Log = func(err error) { fmt.Fprintf(c.stderr, "qnbd: %v\n", err) }
	}
	err = s.Serve(ctx, l)
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, net.ErrClosed)) {
		err = nil
	}
	return err
}

// listen returns the listener. A Unix socket is removed when it is closed.
func (c *config) listen() (net.Listener, error) {
	if c.socket != "" {
		return net.Listen("unix", c.socket)
	}
	return net.Listen("tcp", net.JoinHostPort(c.bind, c.port))
}
