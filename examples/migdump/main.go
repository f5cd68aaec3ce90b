// Command migdump looks into QEMU's migration streams, those that QEMU sends
// and those in BER, converts them and takes the memory of the guest out.
//
//	migdump dump FILE                 all there is: offset, tag, path, value
//	migdump stats FILE                what the stream is made of
//	migdump ram FILE [OUT]            guest memory, as a sparse raw file; or where it lies
//	migdump convert IN OUT            classic to BER, BER to classic
//
// With -json they print JSON. A FILE of - is standard input, an OUT of -
// standard output; ram writes to files alone. BER from a pipe goes through a
// temporary file on its way to classic. The exit status is 0 if all is
// well, 1 if the stream is bad or something failed, 2 if the command line is
// wrong.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/virtfmt/virtfmt/examples/internal/newfile"
	"github.com/virtfmt/virtfmt/examples/internal/stdflag"
	"github.com/virtfmt/virtfmt/migschema"
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
	pageSize int
	lenient  bool
	vmdesc   string
}

var (
	errUsage = errors.New("wrong command line")
	errFlags = errors.New("wrong flags")
)

const common = "[-json] [-lenient] [-page-size N] [-vmdesc FILE]"

var commands = []struct {
	name string
	run  func(*program, []string) error
	args string
}{
	{"dump", (*program).dump, common + " [-fields] [-no-pages] [-section NAME] [-data N] FILE"},
	{"stats", (*program).stats, common + " FILE"},
	{"ram", (*program).ram, common + " [-block NAME] FILE [OUT]"},
	{"convert", (*program).convert, common + " [-to ber|classic] [-form streamed|der|cer] [-typed] [-decompress] [-lossy] IN OUT"},
}

// run does what the command line says and returns the exit status.
func run(args []string, in io.Reader, out, errOut io.Writer) int {
	p := &program{in: in, out: out, err: errOut}
	for _, c := range commands {
		if len(args) == 0 || args[0] != c.name {
			continue
		}
		p.flags = flag.NewFlagSet(c.name, flag.ContinueOnError)
		p.flags.Usage = func() {
			fmt.Fprintf(out, "usage: migdump %s %s\n", c.name, c.args)
			p.flags.PrintDefaults()
		}
		err := c.run(p, args[1:])
		if errors.Is(err, errUsage) {
			fmt.Fprintf(errOut, "usage: migdump %s %s\n", c.name, c.args)
			return 2
		}
		return p.status(err)
	}
	status, w := 2, errOut
	switch {
	case len(args) == 0:
	case args[0] == "-h" || args[0] == "--help":
		status, w = 0, out
	default:
		fmt.Fprintf(w, "migdump: no command %q\n", args[0])
	}
	for _, c := range commands {
		fmt.Fprintf(w, "usage: migdump %s %s\n", c.name, c.args)
	}
	return status
}

// status tells an error and returns the exit status that it makes.
func (p *program) status(err error) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	fmt.Fprintln(p.err, "migdump:", err)
	if errors.Is(err, errFlags) {
		return 2
	}
	return 1
}

// parse parses flags, those of the command and the common ones, and returns
// from least to most arguments.
func (p *program) parse(args []string, least, most int) ([]string, error) {
	p.flags.BoolVar(&p.json, "json", false, "print JSON")
	p.flags.BoolVar(&p.lenient, "lenient", false, "bear what of the rules can be broken, and octets after the end")
	p.flags.IntVar(&p.pageSize, "page-size", 0, "bytes of a page, where the stream does not tell")
	p.flags.StringVar(&p.vmdesc, "vmdesc", "", "a file with a description of the devices, or another stream of the same machine")
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

// options returns what the common flags say.
func (p *program) options() (*migschema.StreamOptions, error) {
	o := &migschema.StreamOptions{PageSize: p.pageSize}
	if p.lenient {
		o.Lenient = migschema.Lenient{
			IntNotMinimal: true, AnyTag: true, UTF8Segments: true, PageSize: true, NameSize: true, Version: true, Unknown: true, TrailingData: true,
		}
	}
	if p.vmdesc == "" {
		return o, nil
	}
	b, err := os.ReadFile(p.vmdesc)
	if err != nil {
		return nil, err
	}
	if migschema.Detect(b) == migschema.UnknownFormat {
		o.VMDesc, err = migschema.ParseVMDesc(b)
		return o, err
	}
	f, err := os.Open(p.vmdesc)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if o.VMDesc, err = migschema.ReadVMDesc(f, o); err == nil && o.VMDesc == nil {
		err = fmt.Errorf("%s describes no devices", p.vmdesc)
	}
	return o, err
}

// output lets write fill a file, unless it is the one that src reads. One that
// exists keeps what it holds until the new one is whole.
func output(name string, src io.Reader, write func(f *os.File, regular bool) error) error {
	old, err := os.Stat(name)
	if in, ok := src.(*os.File); ok && err == nil {
		if fi, err := in.Stat(); err == nil && os.SameFile(fi, old) {
			return fmt.Errorf("%s is the input", name)
		}
	}
	return newfile.Replace(name, write)
}

// printJSON prints v, indented.
func (p *program) printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
