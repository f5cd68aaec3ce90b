package stdflag_test

import (
	"flag"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/examples/internal/stdflag"
)

func TestParseAtMost(t *testing.T) {
	for _, tt := range []struct {
		args     []string
		err, out string // how they begin
	}{
		{[]string{"-n", "3", "a"}, "", ""},
		{[]string{"-n", "x"}, "invalid value \"x\" for flag -n: ", ""},
		{[]string{"-x"}, "flag provided but not defined: -x; -h lists", ""},
		{[]string{"a", "b"}, "unexpected argument \"b\"", ""},
		{[]string{"-h"}, "flag: help requested", "Usage of prog:\n  -n "},
	} {
		f := flag.NewFlagSet("prog", flag.ContinueOnError)
		f.Int("n", 0, "a number")
		var out strings.Builder
		got := ""
		if err := stdflag.ParseAtMost(1, f, tt.args, &out); err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, tt.err) || tt.err == "" && got != "" || strings.Contains(got, "\n") {
			t.Errorf("%q: error %q, want %q", tt.args, got, tt.err)
		}
		if !strings.HasPrefix(out.String(), tt.out) || tt.out == "" && out.Len() > 0 {
			t.Errorf("%q printed %q, want %q", tt.args, &out, tt.out)
		}
	}
}
