package main

import (
	"errors"

	"github.com/virtfmt/virtfmt/examples/internal/getopt"
)

// An option is one that a command line has: by its letter, or by its name where
// it has none.
type option struct{ name, value string }

// parse takes a command line apart: see [getopt.Parse].
func parse(args []string, letters, names string) ([]option, []string, error) {
	given, operands, err := getopt.Parse(args, letters, names)
	var wrong getopt.Error
	if errors.As(err, &wrong) {
		err = usageError(wrong)
	}
	opts := make([]option, len(given))
	for i, o := range given {
		opts[i] = option{o.Name, o.Value}
	}
	return opts, operands, err
}
