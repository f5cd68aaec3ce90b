// Command qimg works on disk images as qemu-img 7.2 does: the same commands,
// options, output, as text and as JSON, and exit codes, so that scripts
// written for that run unchanged:
//
//	qimg create -f qcow2 disk.qcow2 20G
//	qimg convert -O qcow2 -c disk.raw disk.qcow2
//
// It knows images of the formats qcow2, qed and raw, and reads vma archives:
// "vma:DEVICE:ARCHIVE" names a disk in one.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"

	"github.com/virtfmt/virtfmt/examples/internal/sticky"
)

// A command is one run of the program.
type command struct {
	ctx            context.Context
	stdin          io.Reader
	stdout, stderr io.Writer
	asked          <-chan os.Signal // asks how far it is
}

// A subcommand is what the first argument names.
type subcommand struct {
	name     string
	synopsis string
	run      func(c *command, args []string) error
}

func subcommands() []subcommand {
	return []subcommand{
		{"amend", "[--object OBJECT] [--image-opts] [-p] [-q] [-f FORMAT] [-t CACHE] [--force] -o OPTIONS FILE", (*command).amend},
		{"bench", "[-c COUNT] [-d DEPTH] [-f FORMAT] [--flush-interval=COUNT] [-i AIO] [-n] [--no-drain] [-o OFFSET] [--pattern=BYTE] [-q] [-s SIZE] " +
			"[-S STEP] [-t CACHE] [-w] [-U] FILE", (*command).bench},
		{"bitmap", "(--add | --remove | --clear | --enable | --disable | --merge SOURCE)... [-b FILE [-F FORMAT]] [-g SIZE] [--object OBJECT] " +
			"[--image-opts | -f FORMAT] FILE BITMAP", (*command).bitmap},
		{"check", "[--object OBJECT] [--image-opts] [-q] [-f FORMAT] [--output=OUTPUT] [-r leaks|all] [-T CACHE] [-U] FILE", (*command).check},
		{"commit", "[--object OBJECT] [--image-opts] [-q] [-f FORMAT] [-t CACHE] [-b BASE] [-r RATE] [-d] [-p] FILE", (*command).commit},
		{"compare", "[--object OBJECT] [--image-opts] [-f FORMAT] [-F FORMAT] [-T CACHE] [-p] [-q] [-s] [-U] FILE1 FILE2", (*command).compare},
		{"convert", "[--object OBJECT] [--image-opts] [--target-image-opts] [--target-is-zero] [--bitmaps] [-U] [-C] [-c] [-p] [-q] [-n] [-f FORMAT] [-t CACHE] " +
			"[-T CACHE] [-O FORMAT] [-B BACKING [-F FORMAT]] [-o OPTIONS] [-l SNAPSHOT] [-S SIZE] [-r RATE] [-m COUNT] [-W] [--salvage] FILE... TARGET", (*command).convert},
		{"create", "[--object OBJECT] [-q] [-f FORMAT] [-b BACKING [-F FORMAT]] [-u] [-o OPTIONS] FILE [SIZE]", (*command).create},
		{"dd", "[--image-opts] [-U] [-f FORMAT] [-O FORMAT] [bs=SIZE] [count=BLOCKS] [skip=BLOCKS] if=FILE of=FILE", (*command).dd},
		{"info", "[--object OBJECT] [--image-opts] [-f FORMAT] [--output=OUTPUT] [--backing-chain] [-U] FILE", (*command).info},
		{"map", "[--object OBJECT] [--image-opts] [-f FORMAT] [--start-offset=OFFSET] [--max-length=LENGTH] [--output=OUTPUT] [-U] FILE", (*command).printMap},
		{"measure", "[--output=OUTPUT] [-O FORMAT] [-o OPTIONS] [--size SIZE | [--object OBJECT] [--image-opts] [-f FORMAT] [-l SNAPSHOT] FILE]", (*command).measure},
		{"rebase", "[--object OBJECT] [--image-opts] [-U] [-q] [-f FORMAT] [-t CACHE] [-T CACHE] [-p] [-u] -b BACKING [-F FORMAT] FILE", (*command).rebase},
		{"resize", "[--object OBJECT] [--image-opts] [-f FORMAT] [--preallocation=MODE] [-q] [--shrink] FILE [+|-]SIZE", (*command).resize},
		{"snapshot", "[--object OBJECT] [--image-opts] [-U] [-q] [-l | -a SNAPSHOT | -c SNAPSHOT | -d SNAPSHOT] FILE", (*command).snapshot},
	}
}

// exitInterrupted is what a shell tells of a program that SIGINT ended, as it
// ends qemu-img.
const exitInterrupted = 130

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	c := &command{ctx: ctx, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, asked: askedForProgress()}
	code := c.main(os.Args[1:])
	if code != 0 && ctx.Err() != nil {
		code = exitInterrupted
	}
	os.Exit(code)
}

// An exitError is one with an exit code other than 1. It may lack an error,
// where all has been said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return fmt.Sprint(e.err) }
func (e *exitError) Unwrap() error { return e.err }

// A usageError is a wrong command line.
type usageError string

func (e usageError) Error() string { return string(e) }

// errHelp asks for the help.
var errHelp = errors.New("help")

// main runs a command line and returns the exit code. Output that is lost is an
// error.
func (c *command) main(args []string) int {
	out := &sticky.Writer{Writer: c.stdout}
	c.stdout = out
	err := c.dispatch(args)
	if errors.Is(err, errHelp) {
		c.help()
		err = nil
	}
	if err == nil {
		err = out.Err
	}
	if err == nil {
		return 0
	}
	code := 1
	var exit *exitError
	if errors.As(err, &exit) {
		if code, err = exit.code, exit.err; err == nil {
			return code
		}
	}
	fmt.Fprintf(c.stderr, "qimg: %v\n", err)
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintln(c.stderr, "Try 'qimg --help' for more information")
	}
	return code
}

const version = "qimg 0.1, as qemu-img version 7.2\n"

func (c *command) dispatch(args []string) error {
	if len(args) > 0 && (args[0] == "-h" || args[0] == "--help") {
		return errHelp
	}
	if len(args) > 0 && (args[0] == "-V" || args[0] == "--version") {
		_, err := io.WriteString(c.stdout, version)
		return err
	}
	if len(args) == 0 {
		return usageError("Not enough arguments")
	}
	all := subcommands()
	i := slices.IndexFunc(all, func(s subcommand) bool { return s.name == args[0] })
	if i < 0 && strings.HasPrefix(args[0], "-") {
		return usageError("unrecognized option '" + args[0] + "'")
	}
	if i < 0 {
		return usageError("Command not found: " + args[0])
	}
	return all[i].run(c, args[1:])
}

// warn prints a warning.
func (c *command) warn(message string) { fmt.Fprintln(c.stderr, message) }
