package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
)

// TestMain lets the test binary be the worker processes that the bench starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == workerCommand {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestRun measures all rows, on images that are too small to say anything.
func TestRun(t *testing.T) {
	difftest.Tool(t, "qemu-img", "7.2")
	difftest.Tool(t, "qemu-io", "7.2")
	difftest.Tool(t, "zstd", "1.4")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-dir", t.TempDir(), "-scale", "0.004", "-runs", "1", "-pairs", "1"}, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, r := range rows() {
		if !strings.Contains(out.String(), "\n"+r.name+"  ") {
			t.Errorf("no line for %q", r.name)
		}
	}
	t.Logf("%s", &out)
}

func TestWrongArguments(t *testing.T) {
	for _, args := range [][]string{{"-scale", "0"}, {"-runs", "0"}, {"-rows", "("}, {"-rows", "no such"}, {"-nothing"}, {"convert"}, {"-scale", "nan"}, {"-scale", "inf"}} {
		if err := run(t.Context(), args, new(bytes.Buffer)); err == nil {
			t.Errorf("no error for %q", args)
		}
	}
}
