// Package difftest finds the independent programs that tests are judged by,
// and holds the one rule for what happens where they are missing.
//
// Without a program a test skips, unless DIFFTEST=require is set: then it
// fails, so that a run meant to compare cannot pass by skipping.
package difftest

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// require reports whether a missing program is a failure.
func require() bool { return os.Getenv("DIFFTEST") == "require" }

// Missing ends the test: as a failure under DIFFTEST=require, as a skip
// otherwise.
func Missing(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if require() {
		tb.Fatalf("DIFFTEST=require: "+format, args...)
	}
	tb.Skipf(format, args...)
}

// Tool returns the path of a program whose version is at least min, such as
// "7.2"; an empty min accepts any. The version is the first dotted number
// that "name --version" prints. In -short mode the test is skipped.
func Tool(tb testing.TB, name, min string) string {
	tb.Helper()
	path := find(tb, name)
	if min == "" {
		return path
	}
	out, err := exec.Command(path, "--version").CombinedOutput()
	if err != nil {
		tb.Fatalf("%s --version: %v", name, err)
	}
	if got := version.Find(out); !atLeast(string(got), min) {
		Missing(tb, "%s is version %q, the test needs %s", name, got, min)
	}
	return path
}

var version = regexp.MustCompile(`\d+(\.\d+)+`)

// sbin is where Debian keeps programs such as mke2fs that a plain user's
// PATH leaves out.
var sbin = []string{"/usr/sbin/", "/sbin/"}

func find(tb testing.TB, name string) string {
	tb.Helper()
	if testing.Short() {
		tb.Skipf("-short: not run against %s", name)
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range sbin {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path
		}
	}
	Missing(tb, "%s is not installed", name)
	return ""
}

func atLeast(got, min string) bool {
	g, m := strings.Split(got, "."), strings.Split(min, ".")
	for i := range m {
		if i == len(g) {
			return false
		}
		a, errA := strconv.Atoi(g[i])
		b, errB := strconv.Atoi(m[i])
		if errA != nil || errB != nil {
			return false
		}
		if a != b {
			return a > b
		}
	}
	return true
}

// Run runs a program and returns what it printed to standard output. A
// non-zero exit fails the test with what it printed to standard error.
func Run(tb testing.TB, path string, args ...string) []byte {
	tb.Helper()
	r := Try(tb, path, args...)
	if r.Code != 0 {
		tb.Fatalf("%s: exit %d\n%s%s", strings.Join(append([]string{path}, args...), " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// A Result is how a program ended.
type Result struct {
	Code           int // exit code, -1 if a signal ended it
	Stdout, Stderr []byte
}

// Try runs a program and returns how it ended. A program that cannot be
// started fails the test.
func Try(tb testing.TB, path string, args ...string) Result {
	tb.Helper()
	return TryIn(tb, nil, path, args...)
}

// TryIn is [Try] with standard input.
func TryIn(tb testing.TB, stdin []byte, path string, args ...string) Result {
	tb.Helper()
	return try(tb, "", stdin, path, args)
}

// TryAt is [Try] in a folder.
func TryAt(tb testing.TB, dir, path string, args ...string) Result {
	tb.Helper()
	return try(tb, dir, nil, path, args)
}

func try(tb testing.TB, dir string, stdin []byte, path string, args []string) Result {
	tb.Helper()
	for range patience {
		if r := run(tb, dir, stdin, path, args); !bytes.Contains(r.Stderr, []byte(busy)) {
			return r
		}
	}
	return run(tb, dir, stdin, path, args)
}

// qemu-img makes LUKS headers by timing itself on a clock of CPU time, and
// gives up where that stands still for too long.
const (
	busy     = "Unable to get accurate CPU usage"
	patience = 20
)

func run(tb testing.TB, dir string, stdin []byte, path string, args []string) Result {
	tb.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(tb.Context(), path, args...)
	cmd.Dir = dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		tb.Fatalf("%s: %v", path, err)
	}
	return Result{cmd.ProcessState.ExitCode(), stdout.Bytes(), stderr.Bytes()}
}

// Scale returns how much work a test of randomised or exhaustive kind does: n
// by default, a tenth of it in -short mode, n times VIRTFMT_SCALE where that
// variable holds a number, such as 100 for a run of hours.
func Scale(tb testing.TB, n int) int {
	tb.Helper()
	if s := os.Getenv("VIRTFMT_SCALE"); s != "" {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || f <= 0 {
			tb.Fatalf("VIRTFMT_SCALE=%q is not a positive number", s)
		}
		return max(1, int(float64(n)*f))
	}
	if testing.Short() {
		return max(1, n/10)
	}
	return n
}

// Seed returns the seed of a randomised test and logs it: VIRTFMT_SEED where
// set, so that a failure can be run again, otherwise the default.
func Seed(tb testing.TB, def uint64) uint64 {
	tb.Helper()
	seed := def
	if s := os.Getenv("VIRTFMT_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 0, 64)
		if err != nil {
			tb.Fatalf("VIRTFMT_SEED=%q: %v", s, err)
		}
		seed = n
	}
	tb.Logf("VIRTFMT_SEED=%d", seed)
	return seed
}
