// Package getopt takes command lines apart as the programs do whose places
// those of this module take.
package getopt

import (
	"fmt"
	"strings"
)

// An Option is one that a command line has: by its letter, or by its name where
// it has none.
type Option struct{ Name, Value string }

// An Error is a wrong command line.
type Error string

func (e Error) Error() string { return string(e) }

// A LetterError is an option of one letter that is not known, or that lacks its
// value.
type LetterError struct {
	Arg     string // that it stands in
	Letter  byte
	Missing bool // its value
}

func (e *LetterError) Error() string {
	if e.Missing {
		return fmt.Sprintf("missing argument for option '%s'", e.Arg)
	}
	return fmt.Sprintf("unrecognized option '%s'", e.Arg)
}

// Unwrap returns an [Error].
func (e *LetterError) Unwrap() error { return Error(e.Error()) }

// Parse takes a command line apart as getopt_long of the GNU C library does:
// options may follow operands, letters may be joined, and names cut as long as
// they stay unique. letters has a colon after those that take a value; so have
// the words of names, which may tell the letter that they stand for, as in
// "force-share=U" or "start-offset:=s".
func Parse(args []string, letters, names string) (opts []Option, operands []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		var o []Option
		switch {
		case arg == "--":
			return opts, append(operands, args...), nil
		case strings.HasPrefix(arg, "--"):
			o, args, err = parseName(arg, args, names)
		case len(arg) > 1 && arg[0] == '-':
			o, args, err = parseLetters(arg, args, letters)
		default:
			operands = append(operands, arg)
		}
		if err != nil {
			return nil, nil, err
		}
		opts = append(opts, o...)
	}
	return opts, operands, nil
}

func parseName(arg string, args []string, names string) ([]Option, []string, error) {
	given, value, haveValue := strings.Cut(arg[2:], "=")
	var found []string
	for _, word := range append(strings.Fields(names), "help=h") {
		name := strings.TrimSuffix(strings.Split(word, "=")[0], ":")
		if name == given {
			found = []string{word}
			break
		}
		if strings.HasPrefix(name, given) {
			found = append(found, word)
		}
	}
	if len(found) != 1 {
		return nil, nil, Error(fmt.Sprintf("unrecognized option '%s'", arg))
	}
	name, letter, _ := strings.Cut(found[0], "=")
	name, takesValue := strings.CutSuffix(name, ":")
	switch {
	case takesValue && !haveValue:
		if len(args) == 0 {
			return nil, nil, Error(fmt.Sprintf("missing argument for option '%s'", arg))
		}
		value, args = args[0], args[1:]
	case !takesValue && haveValue:
		return nil, nil, Error(fmt.Sprintf("unrecognized option '%s'", arg))
	}
	if letter != "" {
		name = letter
	}
	return []Option{{name, value}}, args, nil
}

func parseLetters(arg string, args []string, letters string) (opts []Option, rest []string, err error) {
	letters += "h"
	for i := 1; i < len(arg); i++ {
		at := strings.IndexByte(letters, arg[i])
		if at < 0 || arg[i] == ':' {
			return nil, nil, &LetterError{Arg: arg, Letter: arg[i]}
		}
		if !strings.HasPrefix(letters[at+1:], ":") {
			opts = append(opts, Option{arg[i : i+1], ""})
			continue
		}
		value := arg[i+1:]
		if value == "" {
			if len(args) == 0 {
				return nil, nil, &LetterError{arg, arg[i], true}
			}
			value, args = args[0], args[1:]
		}
		opts = append(opts, Option{arg[i : i+1], value})
		break
	}
	return opts, args, nil
}
