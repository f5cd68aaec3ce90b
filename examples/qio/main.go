// Command qio reads and writes a disk image by commands, as qemu-io 7.2 does:
//
//	qio -c 'write -P 0x5a 0 64k' -c 'read -P 0x5a 0 64k' -c map disk.qcow2
//
// It knows images of the formats qcow2, qed and raw, and reads vma archives.
// Without -c the commands come from standard input; "help" lists them.
// Asynchronous requests are done before the next command. What qemu-io has and
// this does not, it says so of: -s, -C, breakpoints and signals.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/virtfmt/virtfmt/examples/internal/getopt"
	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
)

const usage = `usage: qio [options] [-c COMMAND]... [FILE]

  -c, --cmd=COMMAND       run a command; otherwise they come from standard input
  -f, --format=FORMAT     of the image; otherwise it is found out
  -r, --read-only
  -n, --nocache           as -t none
  -t, --cache=MODE        writeback, writethrough, none, directsync or unsafe
  -d, --discard=MODE      ignore or unmap (default: unmap)
  -U, --force-share       open the image although it is in use
      --image-opts        FILE is a list of options
      --object=OBJECT     a secret
  -h, --help  -V, --version

"qio -c help" lists the commands.
`

const version = "qio 0.1, as qemu-io version 7.2\n"

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// A session is one run of the program.
type session struct {
	stdout, stderr io.Writer
	img            *imgopen.Image // nil while none is open
	name           string         // of img
	options        imgopen.Options
	noDiscard      bool
	quit           bool
	exit           int
}

// run does what a command line says, and returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	out := bufio.NewWriter(stdout)
	s := &session{stdout: out, stderr: stderr}
	s.options.Write = true
	s.options.Warn = func(m string) { fmt.Fprintf(stderr, "qio: warning: %s\n", m) }
	opts, operands, err := getopt.Parse(args, "c:f:rsnCmki:t:d:T:UV",
		"cmd:=c format:=f read-only=r snapshot=s nocache=n copy-on-read=C misalign=m native-aio=k aio:=i cache:=t discard:=d trace:=T "+
			"force-share=U image-opts object: version=V")
	var commands []string
	for _, o := range opts {
		switch o.Name {
		case "h", "V":
			io.WriteString(stdout, map[string]string{"h": usage, "V": version}[o.Name])
			return 0
		case "c":
			commands = append(commands, o.Value)
		default:
			err = errors.Join(err, s.set(o, &s.options))
		}
	}
	if err == nil && len(operands) > 1 {
		err = getopt.Error("at most one image can be given")
	}
	if err == nil && len(operands) == 1 {
		err = s.open(operands[0], s.options)
	}
	if err != nil {
		fmt.Fprintf(stderr, "qio: %v\n", err)
		return 1
	}
	if len(commands) > 0 {
		for _, c := range commands {
			if !s.quit {
				s.command(c)
				out.Flush()
			}
		}
	} else {
		s.interactive(stdin, out)
	}
	if err := s.closeImage(); err != nil {
		s.fail("qio: %v\n", err)
	}
	if out.Flush() != nil {
		return 1
	}
	return s.exit
}

// interactive runs the lines of standard input.
func (s *session) interactive(stdin io.Reader, out *bufio.Writer) {
	in := bufio.NewScanner(stdin)
	in.Buffer(nil, 1<<20)
	for !s.quit {
		io.WriteString(out, "qemu-io> ")
		out.Flush()
		if !in.Scan() {
			break
		}
		s.command(in.Text())
	}
	if err := in.Err(); err != nil {
		s.fail("qio: %v\n", err)
	}
}

// set takes an option of the command line or of the commands open and reopen.
func (s *session) set(o getopt.Option, to *imgopen.Options) error {
	switch o.Name {
	case "f":
		to.Format = o.Value
	case "r":
		to.Write = false
	case "w":
		to.Write = true
	case "U":
		to.NoLock = true
	case "image-opts":
		to.ImageOpts = true
	case "i":
		if o.Value != "threads" && o.Value != "native" && o.Value != "io_uring" {
			return getopt.Error("Invalid aio option: " + o.Value)
		}
	case "n", "m", "k", "T": // how the host reads files is not an option here
	case "t":
		to.Sync = o.Value == "writethrough" || o.Value == "directsync"
		to.NoSync = o.Value == "unsafe"
		if !strings.Contains(" none writeback writethrough directsync unsafe ", " "+o.Value+" ") {
			return getopt.Error("Invalid cache option: " + o.Value)
		}
	case "d":
		switch o.Value {
		case "ignore", "off":
			s.noDiscard = true
		case "unmap", "on":
			s.noDiscard = false
		default:
			return getopt.Error("Invalid discard option: " + o.Value)
		}
	case "object":
		if to.Secrets == nil {
			to.Secrets = imgopen.Secrets{}
		}
		return to.Secrets.Add(o.Value)
	case "s":
		return getopt.Error("option -s, a temporary overlay, is not supported")
	case "C":
		return getopt.Error("option -C, copy on read, is not supported")
	}
	return nil
}

// open opens an image.
func (s *session) open(name string, o imgopen.Options) error {
	img, err := imgopen.Open(name, &o)
	if err != nil {
		var outer, inner *imgopen.Error // of the image, and of the file that it is in
		if errors.As(err, &outer) && errors.As(outer.Err, &inner) && inner.Name == outer.Name {
			err = inner
		}
		return fmt.Errorf("can't open device %s: %w", name, err)
	}
	if o.Write && img.Writer() == nil {
		return errors.Join(fmt.Errorf("can't open device %s: images of format %s are read-only", name, img.Format), img.Close())
	}
	s.img, s.name, s.options = img, name, o
	return nil
}

func (s *session) closeImage() error {
	if s.img == nil {
		return nil
	}
	img := s.img
	s.img = nil
	return img.Close()
}

// fail tells of an error on standard error.
func (s *session) fail(format string, args ...any) {
	fmt.Fprintf(s.stderr, format, args...)
	s.exit = 1
}

// failOut tells of an error where qemu-io does, on standard output.
func (s *session) failOut(format string, args ...any) {
	fmt.Fprintf(s.stdout, format, args...)
	s.exit = 1
}
