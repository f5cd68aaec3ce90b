package crashtest

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Victim is an image that a process writes to until it is killed.
type Victim interface {
	Image
	io.WriterAt
	WriteZeroesAt(off, n int64) error
	Sync() error
}

// killEnv tells a process that it is to write to an image: its kind, its path
// and a seed.
const killEnv = "VIRTFMT_KILL"

// KillMain is called by TestMain. In a process that [Kills] started it writes
// to an image and syncs it until it is killed, and never returns.
func KillMain[I Victim](open func(kind, path string) (I, error)) {
	args := strings.SplitN(os.Getenv(killEnv), ",", 3)
	if len(args) < 3 {
		return
	}
	seed, _ := strconv.ParseUint(args[1], 10, 64)
	fmt.Fprintln(os.Stderr, beKilled(args[0], args[2], seed, open))
	os.Exit(1)
}

// maxKillSteps bounds how many steps a process does that nobody finds the time to
// kill: it then waits.
const maxKillSteps = 5000

// beKilled tells of each step that returned by a byte. It returns the error
// that ended it.
func beKilled[I Victim](kind, path string, seed uint64, open func(kind, path string) (I, error)) error {
	img, err := open(kind, path)
	if err != nil {
		return err
	}
	steps := newKillSteps(seed, img.Size())
	for range maxKillSteps {
		s := steps.next()
		if err := s.do(img); err != nil {
			return fmt.Errorf("%+v: %w", s, err)
		}
		if _, err := os.Stdout.Write([]byte{'.'}); err != nil {
			return err
		}
	}
	for {
		time.Sleep(time.Hour)
	}
}

// A killStep is one operation, on whole sectors.
type killStep struct {
	kind   int // 0 to 9, see do
	off, n int64
	fill   byte
}

type killSteps struct {
	random *rand.Rand
	size   int64
}

func newKillSteps(seed uint64, size int64) *killSteps {
	return &killSteps{rand.New(rand.NewPCG(seed, 11)), size}
}

func (k *killSteps) next() killStep {
	off := k.random.Int64N(k.size / sector)
	n := min(1+k.random.Int64N(1<<k.random.IntN(8)), k.size/sector-off)
	return killStep{k.random.IntN(10), off * sector, n * sector, byte(1 + k.random.IntN(255))}
}

func (s killStep) syncs() bool { return s.kind >= 8 }

func (s killStep) do(img Victim) error {
	switch s.kind {
	case 6:
		return img.WriteZeroesAt(s.off, s.n)
	case 7:
		if u, ok := img.(interface{ UnmapAt(off, n int64) error }); ok {
			return u.UnmapAt(s.off, s.n)
		}
		return img.WriteZeroesAt(s.off, s.n)
	case 8, 9:
		return img.Sync()
	}
	_, err := img.WriteAt(bytes.Repeat([]byte{s.fill}, int(s.n)), s.off)
	return err
}

func (s killStep) model(disk []byte) {
	part := disk[s.off : s.off+s.n]
	switch s.kind {
	case 6, 7:
		clear(part)
	case 8, 9:
	default:
		copy(part, bytes.Repeat([]byte{s.fill}, len(part)))
	}
}

// Kills starts a process of this test binary, whose TestMain calls [KillMain],
// kills it a few milliseconds later, and looks at the image, n times for one
// image: all that was synced must be there, and all else as it was before or
// after a step. judge is shown the file before anything else opens it.
func Kills[I Victim](tb testing.TB, kind, path string, n int, seed uint64, open func(kind, path string) (I, error), judge func(path string)) (steps int) {
	tb.Helper()
	random := rand.New(rand.NewPCG(seed, 12))
	look := func() []byte {
		img, err := open(kind, path)
		if err != nil {
			tb.Fatalf("%s: open: %v", kind, err)
		}
		b, err := content(img)
		if err != nil {
			tb.Fatalf("%s: %v", kind, err)
		}
		if err := img.Close(); err != nil {
			tb.Fatalf("%s: close: %v", kind, err)
		}
		return b
	}
	before := look()
	for i := range n {
		runSeed := seed*1000003 + uint64(i)
		done := killOne(tb, kind, path, runSeed, time.Duration(random.Int64N(int64(15*time.Millisecond))))
		steps += done
		judge(path)
		after := look()
		if err := explain(after, killedAfter(before, runSeed, done)); err != nil {
			tb.Fatalf("%s: killed after step %d of seed %d: %v", kind, done, runSeed, err)
		}
		before = after
	}
	return steps
}

// killedAfter returns what sectors may hold after a number of steps returned,
// and one more may have begun.
func killedAfter(disk []byte, seed uint64, done int) [][]byte {
	disk = slices.Clone(disk)
	want := [][]byte{slices.Clone(disk)}
	steps := newKillSteps(seed, int64(len(disk)))
	for i := range done + 1 {
		s := steps.next()
		s.model(disk)
		if s.syncs() && i < done {
			want = want[:0]
		}
		want = append(want, slices.Clone(disk))
	}
	return want
}

// killOne returns how many steps the process told of before it was killed.
func killOne(tb testing.TB, kind, path string, seed uint64, after time.Duration) int {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%d,%s", killEnv, kind, seed, path))
	var stderr bytes.Buffer
	out := &counter{first: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, &stderr
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-out.first:
		time.Sleep(after)
	case <-time.After(5 * time.Minute):
	case err := <-ended:
		ended <- err
	}
	cmd.Process.Kill()
	<-ended
	if stderr.Len() > 0 || out.count() == 0 {
		tb.Fatalf("%s: after %d steps: %s", kind, out.count(), stderr.String())
	}
	return out.count()
}

// A counter counts bytes.
type counter struct {
	mu    sync.Mutex
	n     int
	first chan struct{} // closed when there is one
}

func (c *counter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == 0 && len(p) > 0 {
		close(c.first)
	}
	c.n += len(p)
	return len(p), nil
}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}
