package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/virtfmt/virtfmt/examples/internal/sticky"
)

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// Output that is lost is an error of every command that prints some.
func TestLostOutput(t *testing.T) {
	t.Chdir(t.TempDir())
	if out, code := qimg(t, "create -f qcow2 x 1M"); code != 0 {
		t.Fatal(out)
	}
	for _, line := range []string{
		"info x", "info --output=json x", "map x", "map --output=json x", "check x", "check --output=json x", "compare x x", "measure x", "create -f qcow2 y 1M",
		"create -f qcow2 -o help", "--help", "--version", "bench -c 1 x", "convert -p x z", "resize x 2M",
	} {
		var errs bytes.Buffer
		c := &command{ctx: t.Context(), stdout: full{}, stderr: &errs}
		if code := c.main(words(line)); code != 1 || !strings.Contains(errs.String(), "no space left") {
			t.Errorf("%s: exit code %d, %s", line, code, &errs)
		}
	}
}

// Whoever asks is told how far it is.
func TestAsked(t *testing.T) {
	asked := make(chan os.Signal, 1)
	asked <- os.Interrupt
	close(asked)
	c := &command{stdout: &sticky.Writer{Writer: full{}}}
	p := c.newProgress(&settings{})
	p.show(1, 4)
	var b bytes.Buffer
	p.tell(asked, &b)
	if b.String() != "    (25.00/100%)\n" {
		t.Errorf("%q", &b)
	}
}
