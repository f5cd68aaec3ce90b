package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/virtfmt/virtfmt/internal/difftest"
)

// A side is one of the two programs, in a folder of its own.
type side struct {
	dir string
	run func(dir string, args []string) difftest.Result
}

// A pair runs command lines in turn by qemu-img and by qimg.
type pair struct {
	*testing.T
	theirs, ours side
	img, io      string // the programs
	lines        int
	ignore       *regexp.Regexp // parts of the output that need not be equal
}

// newPair makes two empty folders. The test's own is the one of qimg.
func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{T: t, img: difftest.Tool(t, "qemu-img", "7.2"), io: difftest.Tool(t, "qemu-io", "7.2")}
	p.theirs = side{t.TempDir(), func(dir string, args []string) difftest.Result { return runIn(t, dir, p.img, args...) }}
	p.ours = side{t.TempDir(), func(dir string, args []string) difftest.Result {
		t.Chdir(dir)
		var out, errs bytes.Buffer
		c := &command{ctx: context.Background(), stdin: strings.NewReader(""), stdout: &out, stderr: &errs}
		code := c.main(args)
		return difftest.Result{Code: code, Stdout: out.Bytes(), Stderr: errs.Bytes()}
	}}
	return p
}

func runIn(t *testing.T, dir, program string, args ...string) difftest.Result {
	t.Helper()
	return difftest.TryAt(t, dir, program, args...)
}

// script runs lines, each in both folders:
//
//	COMMAND...      by qemu-img and by qimg; output and exit code are equal
//	look COMMAND... the same, but both programs in the folder of qimg: for output that
//	                tells of the host, such as disk sizes
//	says COMMAND... by qemu-img and by qimg; what they print as errors is equal as well
//	cmp FILE        the files are equal
//	same FILE       the images are equal to qemu-img compare, and the one of qimg is clean
//	like FILE       the same for an image that qemu-img check does not know
//	io ARGUMENTS... runs qemu-io in both
//	sh COMMAND      runs a shell command in both
func (p *pair) script(text string) {
	p.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		w := words(line)
		switch w[0] {
		case "look":
			p.both(line, w[1:], true)
		case "says":
			p.says(line, w[1:])
		case "cmp":
			p.equal(w[1])
		case "same", "like":
			p.same(w[1], w[0] == "same")
		case "io":
			for _, s := range []side{p.theirs, p.ours} {
				if r := runIn(p.T, s.dir, p.io, w[1:]...); r.Code != 0 {
					p.Fatalf("%s: %s%s", line, r.Stdout, r.Stderr)
				}
			}
		case "sh":
			for _, s := range []side{p.theirs, p.ours} {
				if r := runIn(p.T, s.dir, "sh", "-c", strings.TrimPrefix(line, "sh ")); r.Code != 0 {
					p.Fatalf("%s: %s%s", line, r.Stdout, r.Stderr)
				}
			}
		default:
			p.both(line, w, false)
		}
		p.lines++
	}
}

// words splits a line into words, of which those in single quotes may hold
// spaces.
func words(line string) (all []string) {
	for _, m := range regexp.MustCompile(`(?:'[^']*'|[^\s'])+`).FindAllString(line, -1) {
		all = append(all, strings.ReplaceAll(m, "'", ""))
	}
	return all
}

// both runs a command line by both programs and compares what they say.
func (p *pair) both(line string, args []string, here bool) {
	p.Helper()
	dir := p.theirs.dir
	if here {
		dir = p.ours.dir
	}
	want := p.theirs.run(dir, args)
	got := p.ours.run(p.ours.dir, args)
	if got.Code != want.Code {
		p.Errorf("%s: exit code %d, not %d\n%s%s\nqemu-img: %s%s", line, got.Code, want.Code, got.Stdout, got.Stderr, want.Stdout, want.Stderr)
		return
	}
	if (len(got.Stderr) > 0) != (len(want.Stderr) > 0) && want.Code == 1 {
		p.Errorf("%s: an error says %q, that of qemu-img %q", line, got.Stderr, want.Stderr)
	}
	if p.ignore != nil {
		want.Stdout, got.Stdout = p.ignore.ReplaceAll(want.Stdout, nil), p.ignore.ReplaceAll(got.Stdout, nil)
	}
	if d := diffOutput(want.Stdout, got.Stdout); d != "" {
		p.Errorf("%s: output differs:\n%s\n%s", line, d, got.Stderr)
	}
}

// says runs a command line by both programs and compares what they print as
// errors but for their own names.
func (p *pair) says(line string, args []string) {
	p.Helper()
	p.both(line, args, false)
	want := bytes.ReplaceAll(p.theirs.run(p.theirs.dir, args).Stderr, []byte("qemu-img"), []byte("qimg"))
	if d := cmp.Diff(string(want), string(p.ours.run(p.ours.dir, args).Stderr)); d != "" {
		p.Errorf("%s: errors differ:\n%s", line, d)
	}
}

// diffOutput compares output, JSON by what it means.
func diffOutput(want, got []byte) string {
	var x, y any
	if json.Unmarshal(want, &x) == nil && json.Unmarshal(got, &y) == nil {
		return cmp.Diff(x, y)
	}
	return cmp.Diff(string(want), string(got))
}

// equal holds that a file has the same bytes in both folders.
func (p *pair) equal(name string) {
	p.Helper()
	want, err := os.ReadFile(filepath.Join(p.theirs.dir, name))
	if err != nil {
		p.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(p.ours.dir, name))
	if err != nil {
		p.Error(err)
		return
	}
	if !bytes.Equal(want, got) {
		p.Errorf("%s is not what qemu-img makes: %s", name, firstDifference(want, got))
	}
}

func firstDifference(a, b []byte) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("%#x: %#x, not %#x", i, b[i], a[i])
		}
	}
	return fmt.Sprintf("%d bytes, not %d", len(b), len(a))
}

// same holds that an image reads the same in both folders, by qemu-img.
func (p *pair) same(name string, check bool) {
	p.Helper()
	theirs, ours := filepath.Join(p.theirs.dir, name), filepath.Join(p.ours.dir, name)
	if r := runIn(p.T, p.ours.dir, p.img, "compare", theirs, ours); r.Code != 0 || bytes.Contains(r.Stdout, []byte("size")) {
		p.Errorf("%s: the images differ: %s%s", name, r.Stdout, r.Stderr)
	}
	if !check {
		return
	}
	if r := runIn(p.T, p.ours.dir, p.img, "check", "-q", ours); r.Code != 0 {
		p.Errorf("%s: qemu-img check: %d\n%s%s", name, r.Code, r.Stdout, r.Stderr)
	}
}
