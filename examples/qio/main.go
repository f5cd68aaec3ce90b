// Command qio reads and writes a disk image by commands, as qemu-io 7.2 does:
//
//	qio -c 'write -P 0x5a 0 64k' -c 'read -P 0x5a 0 64k' -c map disk.qcow2
//
// It knows images of the formats qcow2, qed and raw, and reads vma archives.
// Without -c the commands come from standard input; "help" lists them.
// Asynchronous requests are done before the next command. What qemu-io has and
// this does not, --help tells.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/virtfmt/virtfmt/examples/internal/getopt"
	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
)

const usage = `usage: qio [options] [-c COMMAND]... [FILE]

  -c, --cmd=COMMAND       run a command; otherwise they come from standard input
  -f, --format=FORMAT     of the image; otherwise it is found out
  -r, --read-only
  -s, --snapshot          write to a temporary file, which is gone in the end
  -C, --copy-on-read      store in the image what is read from its backing file
  -t, --cache=MODE        writethrough (default: each write is durable when its
                          command ends), writeback, unsafe (nothing is made
                          durable); none and directsync are writeback and
                          writethrough past the host's cache
  -n, --nocache           as -t none
  -d, --discard=MODE      ignore or unmap (default: unmap)
  -U, --force-share       take no locks; only with -r or -s
      --image-opts        FILE is a list of options
      --object=OBJECT     a secret
  -h, --help  -V, --version

Without effect, as they change only how QEMU uses the host:
  -m, --misalign, -k, --native-aio, -i, --aio=MODE (threads, native or io_uring;
  native needs -t none or directsync, as in qemu-io).

Options of images (open -o, reopen -o, --image-opts, json:) that have no effect:
  aio, auto-read-only, node-name, lazy-refcounts (an image has
  them or not: qimg amend), overlap-check (always all of what it can check),
  pass-discard-*, refcount-cache-size, l2-cache-entry-size,
  cache-clean-interval. read-only=off does not undo -r.

Refused, with an exit code of 1:
  -T, --trace; break, remove_break, resume and wait_break, as qemu-io does where
  the image is not on a blkdebug driver, which is not known here.

"qio -c help" lists the commands.
`

const version = "qio 0.1, as qemu-io version 7.2\n"

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// A session is one run of the program.
type session struct {
	out     *bufio.Writer // standard output
	stderr  io.Writer
	secrets imgopen.Secrets
	img     *imgopen.Image // nil while none is open
	how     settings       // of img
	quit    bool
	exit    int
}

// run does what a command line says, and returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	s := &session{out: bufio.NewWriter(stdout), stderr: stderr, secrets: imgopen.Secrets{}}
	opts, operands, err := getopt.Parse(args, "c:f:rsnCmki:t:d:T:UV",
		"cmd:=c format:=f read-only=r snapshot=s nocache=n copy-on-read=C misalign=m native-aio=k aio:=i cache:=t discard:=d trace:=T "+
			"force-share=U image-opts object: version=V")
	how := s.defaults()
	var commands []string
	for _, o := range opts {
		switch o.Name {
		case "h", "V":
			io.WriteString(stdout, map[string]string{"h": usage, "V": version}[o.Name])
			return 0
		case "c":
			commands = append(commands, o.Value)
		default:
			err = errors.Join(err, how.set(o))
		}
	}
	if err == nil && len(operands) > 1 {
		err = getopt.Error("at most one image can be given")
	}
	if err == nil && len(operands) == 1 {
		err = s.open(operands[0], how)
	}
	if err != nil {
		fmt.Fprintf(stderr, "qio: %v\n", err)
		return 1
	}
	if len(commands) > 0 {
		for _, c := range commands {
			if !s.quit {
				s.command(c)
			}
		}
	} else {
		s.interactive(stdin)
	}
	if err := s.closeImage(); err != nil {
		s.fail("qio: %v\n", err)
	}
	if s.out.Flush() != nil {
		return 1
	}
	return s.exit
}

// maxLine is the length of the longest line of standard input, in bytes.
const maxLine = 1 << 20

// interactive runs the lines of standard input.
func (s *session) interactive(stdin io.Reader) {
	in := bufio.NewScanner(stdin)
	in.Buffer(nil, maxLine)
	for !s.quit {
		s.out.WriteString("qemu-io> ")
		s.out.Flush()
		if !in.Scan() {
			break
		}
		s.command(in.Text())
	}
	if err := in.Err(); err != nil {
		s.fail("qio: %v\n", err)
	}
}

// fail tells of an error on standard error.
func (s *session) fail(format string, args ...any) {
	fmt.Fprintf(s.stderr, format, args...)
	s.exit = 1
}

// failOut tells of an error where qemu-io does, on standard output.
func (s *session) failOut(format string, args ...any) {
	fmt.Fprintf(s.out, format, args...)
	s.exit = 1
}
