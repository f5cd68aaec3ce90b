package main

import (
	"errors"
	"fmt"

	"github.com/virtfmt/virtfmt/vma"
)

// verify checks an archive. It prints what is wrong with it; the original
// stops at the first thing, and does not notice missing clusters.
func (c *command) verify(in *input, o options, args []string) error {
	if o.has('v') {
		if in.file != nil {
			h, err := in.header()
			if err != nil {
				return err
			}
			c.printHeader(&h)
		}
		in.opt.Progress = percent(c.stdout)
	}
	var report *vma.Report
	var err error
	if in.file != nil {
		report, err = vma.Verify(c.ctx, in.file, in.opt)
	} else {
		report, err = vma.VerifyStream(c.ctx, in.stream, in.opt)
	}
	if report == nil {
		return err
	}
	return errors.Join(err, c.tell(report, o.has('v')))
}

// tell prints the findings of a report, and with verbose what was read. It
// returns the first error.
func (c *command) tell(r *vma.Report, verbose bool) error {
	for _, f := range r.Findings {
		if f.Severity == vma.Error || verbose && f.Severity == vma.Warning {
			fmt.Fprintf(c.stderr, "%v: %s at %#x: %v\n", f.Severity, f.Place(), f.Offset, f)
		}
	}
	if verbose {
		c.printTotals(r)
	}
	return r.Err()
}

// printTotals prints how much of what was read is zeros, as the original does.
func (c *command) printTotals(r *vma.Report) {
	read := r.Clusters * vma.ClusterSize
	if read == 0 {
		return
	}
	sparse := read - r.StoredBlocks*vma.BlockSize
	whole := r.ZeroClusters * vma.ClusterSize
	fmt.Fprintf(c.stdout, "total bytes read %d, sparse bytes %d (%.3g%%)\n", read, sparse, 100*float64(sparse)/float64(read))
	if read > whole {
		fmt.Fprintf(c.stdout, "space reduction due to 4K zero blocks %.3g%%\n", 100*float64(sparse-whole)/float64(read-whole))
	}
}

// lossy tells of what a salvage did not find. Without one, err is all there is
// to say.
func (c *command) lossy(r *vma.Report, err error, o options) error {
	if r == nil || !o.has('S') {
		return err
	}
	return errors.Join(err, c.tell(r, o.has('v')))
}
