// Command qbench measures this library beside qemu-img, on images that it makes
// itself, and prints a table of ratios.
//
//	go run ./qbench                        all rows, images of 1 GiB
//	go run ./qbench -scale 0.1 -rows read  rows with read in their name, smaller images
//	go run ./qbench -dir /mnt/test -keep   on another file system, images left there
//
// The two sides of a row run in turn. A row of whole processes compares the
// shortest wall times of them; a row within the process the median of the
// ratios of pairs. It needs qemu-img and qemu-io, and 8 GiB of space at scale 1;
// by default that is in /dev/shm, so that the disk is not measured.
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
	"text/tabwriter"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if len(os.Args) > 2 && os.Args[1] == workerCommand {
		err = work(ctx, os.Args[2], os.Args[3:])
	} else {
		err = run(ctx, os.Args[1:], os.Stdout)
	}
	if err != nil {
		if err != flag.ErrHelp {
			fmt.Fprintln(os.Stderr, "qbench:", err)
		}
		stop()
		os.Exit(1)
	}
}

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
	if err := fs.Parse(args); err != nil {
		return err
	}
	want, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	if b.scale <= 0 || b.runs < 1 || b.pairs < 1 {
		return fmt.Errorf("scale, runs and pairs are positive")
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

// A result is what a row measured. Ours and theirs are texts, such as times.
type result struct {
	ours, theirs string
	ratio        float64 // of ours to theirs, or to the limit where there is no other side
	limit        float64
	note         string
}

// measure runs the rows that are wanted and prints a table.
func (b *bench) measure(ctx context.Context, want *regexp.Regexp, strict bool) error {
	type line struct {
		name string
		result
	}
	var lines []line
	over := 0
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
		res, err := r.run(ctx, b)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		for _, one := range res {
			lines = append(lines, line{r.name, one})
			if one.ratio > one.limit {
				over++
			}
		}
	}
	t := tabwriter.NewWriter(b.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nrow\tthis library\tbeside it\tratio\tlimit\t\t")
	for _, l := range lines {
		verdict := "ok"
		if l.ratio > l.limit {
			verdict = "over"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%.3f\t%.2f\t%s\t%s\n", l.name, l.ours, l.theirs, l.ratio, l.limit, verdict, l.note)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if strict && over > 0 {
		return fmt.Errorf("%d rows are over their limit", over)
	}
	return nil
}
