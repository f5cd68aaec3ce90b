package getopt_test

import (
	"slices"
	"testing"

	"github.com/virtfmt/virtfmt/examples/internal/getopt"
)

func TestParse(t *testing.T) {
	const letters, names = "f:qU", "force-share=U format:=f output: object:"
	for _, c := range []struct {
		args, operands []string
		opts           []getopt.Option
		err            string
	}{
		{[]string{"-fqcow2", "a", "-q", "b"}, []string{"a", "b"}, []getopt.Option{{"f", "qcow2"}, {"q", ""}}, ""},
		{[]string{"-qUf", "raw", "--", "-q"}, []string{"-q"}, []getopt.Option{{"q", ""}, {"U", ""}, {"f", "raw"}}, ""},
		{[]string{"--force", "--output=json", "--object", "x"}, nil, []getopt.Option{{"U", ""}, {"output", "json"}, {"object", "x"}}, ""},
		{[]string{"--fo"}, nil, nil, "unrecognized option '--fo'"},
		{[]string{"-f"}, nil, nil, "missing argument for option '-f'"},
		{[]string{"--output"}, nil, nil, "missing argument for option '--output'"},
		{[]string{"--force-share=1"}, nil, nil, "unrecognized option '--force-share=1'"},
		{[]string{"-x"}, nil, nil, "unrecognized option '-x'"},
		{[]string{"-:"}, nil, nil, "unrecognized option '-:'"},
		{[]string{"-"}, []string{"-"}, nil, ""},
	} {
		opts, operands, err := getopt.Parse(c.args, letters, names)
		if got := ""; err != nil || c.err != "" {
			if err != nil {
				got = err.Error()
			}
			if got != c.err {
				t.Errorf("%q: %q, want %q", c.args, got, c.err)
			}
			continue
		}
		if !slices.Equal(opts, c.opts) || !slices.Equal(operands, c.operands) {
			t.Errorf("%q: %v, %q", c.args, opts, operands)
		}
	}
}
