// Command qbench measures this library beside qemu-img, cp and plain reads and
// writes of files, on images that it makes itself, and prints a table of ratios.
//
//	go run ./qbench                        all rows, images of 1 GiB
//	go run ./qbench -scale 0.1 -rows read  rows with read in their name, smaller images
//	go run ./qbench -dir /mnt/test -keep   on another file system, images left there
//
// The two sides of a row run in turn, for one pair after the other. Ratios are
// ours to the peer's, so less is better:
//
//	min     the shortest wall times of both sides
//	median  of the ratios of wall times of each pair
//	cpu     the least processor time of both sides: on a machine that is busy
//	        with other things the one to look at
//
// Whole processes (this program starts itself to be one) pass by min, what is
// measured within this process by the median. It needs qemu-img, qemu-io
// and zstd, and 10 GiB of space at scale 1; by default that is in /dev/shm, so that
// the disk is not measured.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"text/tabwriter"

	"github.com/virtfmt/virtfmt/examples/internal/stdflag"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 2 && os.Args[1] == workerCommand {
		err = work(ctx, os.Args[2], os.Args[3:])
	} else {
		err = run(ctx, os.Args[1:], os.Stdout)
	}
	if err != nil && err != flag.ErrHelp {
		fmt.Fprintln(os.Stderr, "qbench:", err)
		stop()
		os.Exit(1)
	}
}

// maxScale keeps sizes of images far from what an int64 holds.
const maxScale = 1 << 20

// A bench is what the rows are measured with.
type bench struct {
	dir         string
	scale       float64
	runs, pairs int
	self        string // this program
	out         io.Writer
}

func run(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("qbench", flag.ContinueOnError)
	b := &bench{out: out}
	dir := fs.String("dir", "", "make the images in this `directory`; default one of its own in /dev/shm")
	keep := fs.Bool("keep", false, "leave the images there, and use those that are")
	fs.Float64Var(&b.scale, "scale", 1, "size of the images, 1 for 1 GiB of data each")
	fs.IntVar(&b.runs, "runs", 5, "runs of each process")
	fs.IntVar(&b.pairs, "pairs", 20, "pairs of measurements within the process")
	only := fs.String("rows", "", "measure only rows whose name matches this `expression`")
	strict := fs.Bool("strict", false, "fail if a ratio is over its limit")
	if err := stdflag.ParseAtMost(0, fs, args, out); err != nil {
		return err
	}
	want, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	if !(b.scale > 0 && b.scale <= maxScale) || b.runs < 1 || b.pairs < 1 {
		return fmt.Errorf("runs and pairs are positive, scale is over 0 and at most %d", maxScale)
	}
	if !slices.ContainsFunc(rows(), func(r row) bool { return want.MatchString(r.name) }) {
		return fmt.Errorf("no row matches %q", *only)
	}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.dir, err = directory(*dir); err != nil {
		return err
	}
	if !*keep {
		defer os.RemoveAll(b.dir)
	}
	return b.measure(ctx, want, *strict)
}

// directory makes a directory of its own for the images.
func directory(name string) (string, error) {
	if name != "" {
		name = filepath.Join(name, "qbench")
		return name, os.MkdirAll(name, 0o755)
	}
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		return os.MkdirTemp("/dev/shm", "qbench")
	}
	return os.MkdirTemp("", "qbench")
}

// A line is a line of the table.
type line struct {
	name         string
	ours, peer   string  // such as times
	least        float64 // ratio
	median, cpu  float64 // ratios, 0 for none
	judged, most float64 // the ratio that counts, and what it may be
	note         string
}

func (l *line) passes() bool { return l.judged <= l.most }

// measure runs the rows that are wanted and prints a table.
func (b *bench) measure(ctx context.Context, want *regexp.Regexp, strict bool) error {
	var lines []line
	for _, r := range rows() {
		if !want.MatchString(r.name) {
			continue
		}
		fmt.Fprintf(b.out, "%s...\n", r.name)
		for _, image := range r.images {
			if err := b.makeImage(ctx, image); err != nil {
				return fmt.Errorf("%s: %w", image, err)
			}
		}
		got, err := r.run(ctx, b)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		for i := range got {
			got[i].name = r.name
		}
		lines = append(lines, got...)
	}
	failed, err := printTable(b.out, lines)
	if err != nil {
		return err
	}
	if strict && failed > 0 {
		return fmt.Errorf("%d rows fail", failed)
	}
	return nil
}

// printTable prints the table and returns how many lines do not pass.
func printTable(w io.Writer, lines []line) (failed int, err error) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nrow\tours\tpeer\tmin\tmedian\tcpu\tbar\t\t")
	for _, l := range lines {
		verdict := "pass"
		if !l.passes() {
			verdict = "fail"
			failed++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%.2f\t%s\t%s\n", l.name, l.ours, l.peer,
			number(l.least), number(l.median), number(l.cpu), l.most, verdict, l.note)
	}
	return failed, t.Flush()
}

// number prints a ratio, and nothing for none.
func number(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3f", v)
}
