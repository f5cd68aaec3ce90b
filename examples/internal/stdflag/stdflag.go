// Package stdflag has package flag parse command lines so that help goes to
// standard output, and a mistake is one line that the caller prints.
package stdflag

import (
	"errors"
	"flag"
	"fmt"
	"io"
)

// Parse parses the flags of f. Where help is asked for it prints it to out and
// returns [flag.ErrHelp]; any other error is told by its text alone.
func Parse(f *flag.FlagSet, args []string, out io.Writer) error {
	usage := f.Usage
	f.Usage = func() {}
	f.SetOutput(io.Discard)
	err := f.Parse(args)
	f.Usage = usage
	f.SetOutput(out)
	if errors.Is(err, flag.ErrHelp) {
		f.Usage()
		return flag.ErrHelp
	}
	if err != nil {
		return fmt.Errorf("%w; -h lists the options", err)
	}
	return nil
}

// ParseAtMost is [Parse], and refuses more than n arguments.
func ParseAtMost(n int, f *flag.FlagSet, args []string, out io.Writer) error {
	if err := Parse(f, args, out); err != nil {
		return err
	}
	if f.NArg() > n {
		return fmt.Errorf("unexpected argument %q", f.Arg(n))
	}
	return nil
}
