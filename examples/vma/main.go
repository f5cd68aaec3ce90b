// Command vma works on VMA archives, Proxmox's backups of virtual machines, as
// Proxmox's own program of that name does, without Proxmox:
//
//	vma list ARCHIVE
//	vma config ARCHIVE [-c NAME]
//	vma create ARCHIVE [-v] [-c CONFIG]... [-d] [format=F:]NAME=DISK...
//	vma extract ARCHIVE [-v] [-d NAME,...] [-r MAP] DIR
//	vma verify ARCHIVE [-v]
//
// and does what that cannot:
//
//	vma convert ARCHIVE [-z deflate|zstd] [-d NAME,...] DIR    to qcow2 images
//	vma repack ARCHIVE NEW [-u UUID]    the same content in one order, for stores that deduplicate
//
// An ARCHIVE that is read may be "-" for standard input, and compressed with
// zstd, gzip or, where lzop is installed, lzo. With -S, verify, extract,
// convert and repack go on at damage and take what can be read: of a compressed
// archive what comes before the damage, as files that keep their temporary
// names, tmp-NAME.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/virtfmt/virtfmt/examples/internal/sticky"
	"github.com/virtfmt/virtfmt/vma"
)

const usage = `usage: vma command [command options]

vma list <archive>
vma config <archive> [-c config]
vma create <archive> [-v] [-c config] ... [-d] [format=F:]name=disk ...
vma extract <archive> [-v] [-S] [-d <drive-list>] [-r <map>] <targetdir>
vma verify <archive> [-v] [-S]
vma convert <archive> [-S] [-z deflate|zstd] [-d <drive-list>] <targetdir>
vma repack <archive> <new archive> [-S] [-u uuid]

An archive that is read may be - for standard input, and compressed with zstd,
gzip or, where lzop is installed, lzo; repack and convert -z need a plain file.

  -c  create: a config to put in; config: the one to print, qemu-server.conf
  -d  create: a disk to put in; else: the drives to take, with commas between
  -r  a file or pipe that says where drives go, a line each: "skip=NAME" or
      "[format=F:]0:NAME=DISK", 1 in place of 0 where DISK is not all zeros;
      then a line "done"
  -S  salvage: go on at damage, take what can be read, and name what is lost
  -u  the UUID of the new archive
  -v  tell more
  -z  compress the images
`

// The exit codes of the original: of its errors, which end it by a signal, of
// a config that is not there, and of wrong usage.
const (
	exitError    = 133
	exitNoConfig = 255
	exitUsage    = 1
)

// A command is what one run of the program works with.
type command struct {
	ctx            context.Context
	stdin          io.Reader
	stdout, stderr io.Writer
}

// commands gives each command its options, letters with a colon after those
// that take a value, and how many arguments it takes. All but create read the
// archive that the first one names.
var commands = map[string]struct {
	options   string
	args      int
	operation operation
}{
	"list":    {"", 1, (*command).list},
	"config":  {"c:", 1, (*command).config},
	"extract": {"vSd:r:", 2, (*command).extract},
	"verify":  {"vS", 1, (*command).verify},
	"convert": {"Sd:z:", 2, (*command).convert},
	"repack":  {"Su:", 2, (*command).repack},
}

// An operation is a command that reads an archive. args are the arguments
// after it.
type operation func(c *command, in *input, o options, args []string) error

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop) // what reads from a pipe that hangs is ended by a second signal
	c := &command{ctx, os.Stdin, os.Stdout, os.Stderr}
	os.Exit(c.main(os.Args[1:]))
}

// errUsage is wrong usage.
var errUsage = errors.New("wrong usage")

// main runs a command line and returns the exit code.
func (c *command) main(args []string) int {
	out := &sticky.Writer{Writer: c.stdout}
	c.stdout = out
	err := c.dispatch(args)
	if err == nil {
		err = out.Err // lost output
	}
	var none *noConfigError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		if err != errUsage {
			fmt.Fprintln(c.stderr, "vma:", err)
		}
		fmt.Fprint(c.stderr, usage)
		return exitUsage
	case errors.As(err, &none):
		fmt.Fprintln(c.stderr, err)
		return exitNoConfig
	}
	fmt.Fprintln(c.stderr, "vma: ERROR:", strings.TrimPrefix(err.Error(), "vma: "))
	return exitError
}

func (c *command) dispatch(args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	if args[0] == "-h" || args[0] == "--help" {
		_, err := io.WriteString(c.stdout, usage)
		return err
	}
	if args[0] == "create" {
		return c.create(args[1:])
	}
	cmd, ok := commands[args[0]]
	if !ok {
		return fmt.Errorf("%w: no command %q", errUsage, args[0])
	}
	o, rest, err := parse(args[1:], cmd.options)
	if err != nil {
		return err
	}
	if len(rest) != cmd.args {
		return errUsage
	}
	in, err := c.open(rest[0], o)
	if err != nil {
		return err
	}
	err = errors.Join(cmd.operation(c, in, o, rest[1:]), in.close())
	if bad := new(vma.FormatError); errors.As(err, &bad) && !errors.Is(err, vma.ErrFormat) && cmd.args == 2 && !o.has('S') {
		err = fmt.Errorf("%w (-S takes what can be read)", err)
	}
	return err
}

// options are the options of a command line, by letter; one without a value
// has an empty one.
type options map[byte][]string

func (o options) has(letter byte) bool { return len(o[letter]) > 0 }

// last returns the value given last, or otherwise def.
func (o options) last(letter byte, def string) string {
	if v := o[letter]; len(v) > 0 {
		return v[len(v)-1]
	}
	return def
}

// parse takes a command line apart as getopt of the GNU C library does:
// options may follow arguments, and letters be joined.
func parse(args []string, letters string) (o options, rest []string, err error) {
	o = make(options)
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			return o, append(rest, args...), nil
		}
		if len(arg) < 2 || arg[0] != '-' {
			rest = append(rest, arg)
			continue
		}
		for i := 1; i < len(arg); i++ {
			at := strings.IndexByte(letters, arg[i])
			if at < 0 || arg[i] == ':' {
				return nil, nil, fmt.Errorf("%w: no option -%c", errUsage, arg[i])
			}
			if !strings.HasPrefix(letters[at+1:], ":") {
				o[arg[i]] = append(o[arg[i]], "")
				continue
			}
			value := arg[i+1:]
			if value == "" {
				if len(args) == 0 {
					return nil, nil, fmt.Errorf("%w: option -%c needs a value", errUsage, arg[i])
				}
				value, args = args[0], args[1:]
			}
			o[arg[i]] = append(o[arg[i]], value)
			break
		}
	}
	return o, rest, nil
}
