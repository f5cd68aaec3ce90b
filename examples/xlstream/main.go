// Command xlstream looks into saved Xen domains, checks, extracts, edits and
// converts them: files of xl save and virsh save, images of xenopsd, and bare
// streams of libxl or libxc.
//
//	xlstream info FILE                          what the file holds
//	xlstream records [-sum] FILE                every record
//	xlstream verify [-profile P] FILE           what is wrong with it
//	xlstream memory [-map] FILE [OUT]           guest memory, as a sparse raw file
//	xlstream patch -record R -hex BYTES FILE    bytes of a record, in place
//	xlstream convert -to KIND IN OUT            to another container or form
//
// With -json the first four print JSON. A FILE of - is standard input for
// records, verify and convert, an OUT of - standard output. The exit status is
// 0 if all is well, 1 if the stream is bad or something failed, 2 if the
// command line is wrong.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/virtfmt/virtfmt/examples/internal/stdflag"
	"github.com/virtfmt/virtfmt/libxlfmt"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// A program is one run of a command.
type program struct {
	in       io.Reader
	out, err io.Writer
	flags    *flag.FlagSet
	json     bool
	profile  profileFlag
}

var (
	errUsage = errors.New("wrong command line")
	errFlags = errors.New("wrong flags")
	errBad   = errors.New("the stream is bad") // told already
)

var commands = map[string]struct {
	run  func(*program, []string) error
	args string
}{
	"info":    {(*program).info, "[-json] FILE"},
	"records": {(*program).records, "[-json] [-sum] FILE"},
	"verify":  {(*program).verify, "[-json] [-profile strict|xen|lenient] [-max N] FILE"},
	"memory":  {(*program).memory, "[-json] [-map] [-checkpoint] [-zeros] FILE [OUT]"},
	"patch":   {(*program).patch, "-record N|NAME [-entry NAME[.INSTANCE]] [-at OFFSET] -hex BYTES|-in FILE [-n] FILE"},
	"convert": {(*program).convert, "[-to libxl|libxc|xl|libvirt|xenopsd] [-config FILE] [-xenstore final|draft-b] IN OUT"},
}

// run does what the command line says and returns the exit status.
func run(args []string, in io.Reader, out, errOut io.Writer) int {
	p := &program{in: in, out: out, err: errOut}
	if len(args) == 0 {
		p.usage(errOut)
		return 2
	}
	if args[0] == "-h" || args[0] == "--help" {
		p.usage(out)
		return 0
	}
	c, ok := commands[args[0]]
	if !ok {
		fmt.Fprintf(errOut, "xlstream: no command %q\n", args[0])
		p.usage(errOut)
		return 2
	}
	p.flags = flag.NewFlagSet(args[0], flag.ContinueOnError)
	p.flags.Usage = func() {
		fmt.Fprintf(out, "usage: xlstream %s %s\n", args[0], c.args)
		p.flags.PrintDefaults()
	}
	err := c.run(p, args[1:])
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintf(errOut, "usage: xlstream %s %s\n", args[0], c.args)
		return 2
	case errors.Is(err, errFlags):
		fmt.Fprintln(errOut, "xlstream:", err)
		return 2
	case !errors.Is(err, errBad):
		fmt.Fprintln(errOut, "xlstream:", err)
	}
	return 1
}

func (p *program) usage(w io.Writer) {
	for _, name := range []string{"info", "records", "verify", "memory", "patch", "convert"} {
		fmt.Fprintf(w, "usage: xlstream %s %s\n", name, commands[name].args)
	}
}

// A profileFlag is a flag that names a profile.
type profileFlag struct{ libxlfmt.Profile }

func (f *profileFlag) Set(s string) (err error) {
	f.Profile, err = libxlfmt.ParseProfile(s)
	return err
}

// parse parses flags, those of the command and the common ones, and returns
// from least to most arguments.
func (p *program) parse(args []string, least, most int) ([]string, error) {
	p.flags.BoolVar(&p.json, "json", false, "print JSON")
	if err := stdflag.Parse(p.flags, args, p.out); errors.Is(err, flag.ErrHelp) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("%w: %w", errFlags, err)
	}
	if n := p.flags.NArg(); n < least || n > most {
		return nil, errUsage
	}
	return p.flags.Args(), nil
}

// open opens a file, or standard input where its name is -.
func (p *program) open(name string) (io.Reader, func(), error) {
	if name == "-" {
		return p.in, func() {}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	return f, func() { f.Close() }, nil
}

// index opens a file as far as it can be read.
func index(f *os.File) (*libxlfmt.Index, error) {
	if fi, err := f.Stat(); err == nil && fi.IsDir() {
		return nil, fmt.Errorf("%s is a directory", f.Name())
	}
	return libxlfmt.Open(f, &libxlfmt.Options{Profile: libxlfmt.Lenient, Partial: true})
}

// printJSON prints v, indented.
func (p *program) printJSON(v any) error {
	e := json.NewEncoder(p.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
