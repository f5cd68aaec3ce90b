package main

import (
	"errors"
	"fmt"

	"github.com/virtfmt/virtfmt/examples/internal/imginfo"
	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/qcow2"
	"github.com/virtfmt/virtfmt/qed"
)

// The exit codes of check besides 0 and 1, which says that the image could not
// be checked.
const (
	exitCorrupt     = 2
	exitLeaks       = 3
	exitUnsupported = 63
)

// repair says what check is to repair.
type repair struct{ leaks, errors bool }

func (r repair) any() bool { return r.leaks || r.errors }

// check runs "qimg check".
func (c *command) check(args []string) error {
	var s settings
	var fix repair
	opts, operands, err := parse(args, "f:r:T:qU", "object: image-opts format:=f repair:=r output: force-share=U")
	if err != nil {
		return err
	}
	for _, o := range opts {
		if ok, err := s.set(o); err != nil {
			return err
		} else if ok {
			continue
		}
		switch o.value { // of -r
		case "leaks":
			fix = repair{leaks: true}
		case "all":
			fix = repair{leaks: true, errors: true}
		default:
			return usageError("Unknown option value for -r (expecting 'leaks' or 'all'): " + o.value)
		}
	}
	name, err := oneFile(operands)
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return err
	}
	return c.checkImage(name, &s, fix)
}

// checkImage checks an image and prints what it found.
func (c *command) checkImage(name string, s *settings, fix repair) error {
	if fix.any() && s.noLock {
		return messagef("Could not open '%s': force-share=on can only be used with read-only images", name)
	}
	img, err := c.open(name, c.options(s))
	if err != nil {
		return err
	}
	// What is repaired is opened again, for writing.
	result, err := c.findings(img)
	format, cluster := img.Format, img.ClusterSize()
	if err := errors.Join(err, img.Close()); err != nil {
		return checkFailed(err)
	}
	if fix.any() && !fix.errors && result.rebuild {
		c.printFindings(result)
		return checkFailed(message("Input/output error"))
	}
	if fix.any() {
		c.printFindings(result)
		o := c.options(s)
		o.Write = true
		fixed, err := c.repair(name, o, fix, cluster)
		if err != nil {
			return checkFailed(err)
		}
		if fixed.leaksFixed+fixed.corruptionsFixed > 0 && !s.json && !s.quiet {
			fmt.Fprintf(c.stdout, "The following inconsistencies were found and repaired:\n\n    %d leaked clusters\n    %d corruptions\n\n"+
				"Double checking the fixed image now...\n", fixed.leaksFixed, fixed.corruptionsFixed)
		}
		result = fixed
	}
	if err := c.printCheck(name, format, result, s); err != nil {
		return err
	}
	switch {
	case result.checkErrors > 0:
		return checkFailed(nil)
	case result.corruptions > 0:
		return &exitError{code: exitCorrupt}
	case result.leaks > 0:
		return &exitError{code: exitLeaks}
	}
	return nil
}

func checkFailed(err error) error {
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		return err
	case err == nil:
		return &exitError{code: 1}
	}
	return fmt.Errorf("%w", &exitError{1, messagef("Check failed: %v", err)})
}

// checked is what a check found, in the words of both formats.
type checked struct {
	corruptions, leaks, checkErrors    int64
	corruptionsFixed, leaksFixed       int64
	total, allocated, fragmented, comp int64
	end                                int64
	rebuild                            bool // refcounts are too low
	findings                           []string
}

// fromQcow2 takes over what was found in an image with clusters of a size.
func fromQcow2(r *qcow2.CheckResult, cluster int64) *checked {
	c := &checked{
		r.Corruptions, r.Leaks, r.CheckErrors, r.CorruptionsFixed, r.LeaksFixed,
		r.TotalClusters, r.AllocatedClusters, r.FragmentedClusters, r.CompressedClusters, r.ImageEndOffset, false, nil,
	}
	var others []string
	for _, f := range r.Findings {
		c.rebuild = c.rebuild || f.Kind == qcow2.FindingRefcount && f.Value < f.References
		if words := refcountWords(f, cluster); words != "" {
			c.findings = append(c.findings, words)
		} else {
			others = append(others, "ERROR "+f.String())
		}
	}
	c.findings = append(c.findings, others...)
	return c
}

// refcountWords says in the words of qemu-img, which scripts look for, that a
// refcount is wrong. It is empty for what else is found.
func refcountWords(f qcow2.Finding, cluster int64) string {
	what := "ERROR"
	switch f.Kind {
	case qcow2.FindingLeak:
		what = "Leaked"
	case qcow2.FindingRefcount:
	default:
		return ""
	}
	return fmt.Sprintf("%s cluster %d refcount=%d reference=%d", what, f.Offset/cluster, f.Value, f.References)
}

func fromQED(r *qed.CheckResult) *checked {
	c := &checked{
		corruptions: r.Corruptions, leaks: r.Leaks, corruptionsFixed: r.CorruptionsFixed, leaksFixed: r.LeaksFixed,
		total: r.TotalClusters, allocated: r.AllocatedClusters, fragmented: r.FragmentedClusters,
	}
	for _, f := range r.Findings {
		c.findings = append(c.findings, f.String())
	}
	return c
}

// findings checks an image that is open for reading.
func (c *command) findings(img *imgopen.Image) (*checked, error) {
	switch {
	case img.Qcow2 != nil:
		r, err := img.Qcow2.Check(c.ctx, nil)
		if err != nil {
			return nil, err
		}
		return fromQcow2(r, img.ClusterSize()), nil
	case img.Qed != nil:
		r, err := img.Qed.Check(c.ctx, nil)
		if err != nil {
			return nil, err
		}
		return fromQED(r), nil
	}
	return nil, &exitError{exitUnsupported, message("This image format does not support checks")}
}

// repair repairs an image with clusters of a size and returns what is left.
func (c *command) repair(name string, o *imgopen.Options, fix repair, cluster int64) (_ *checked, err error) {
	src, err := imgopen.Find(name, o)
	if err != nil {
		return nil, err
	}
	if src.Format == "qcow2" {
		defer closing(src, &err)
		mode := qcow2.RepairLeaks
		if fix.errors {
			mode = qcow2.RepairAll
		}
		r, err := qcow2.Repair(c.ctx, src.File, mode, nil)
		if err != nil {
			return nil, err
		}
		return fromQcow2(r, cluster), nil
	}
	img, err := src.Open()
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	defer closing(img, &err)
	mode := qed.RepairErrors
	if fix.leaks && fix.errors {
		mode = qed.RepairAll
	}
	r, err := img.Qed.Check(c.ctx, &qed.CheckOptions{Repair: mode})
	if err != nil {
		return nil, err
	}
	return fromQED(r), nil
}

func (c *command) printFindings(r *checked) {
	for _, f := range r.findings {
		fmt.Fprintln(c.stderr, f)
	}
}

// printCheck prints the findings to standard error and the counts to standard
// output.
func (c *command) printCheck(name, format string, r *checked, s *settings) error {
	c.printFindings(r)
	if s.quiet {
		return nil
	}
	if s.json {
		return imginfo.WriteJSON(c.stdout, r.object(name, format))
	}
	if r.corruptions+r.leaks+r.checkErrors == 0 {
		fmt.Fprintln(c.stdout, "No errors were found on the image.")
	}
	if r.corruptions > 0 {
		fmt.Fprintf(c.stdout, "\n%d errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.\n", r.corruptions)
	}
	if r.leaks > 0 {
		fmt.Fprintf(c.stdout, "\n%d leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n", r.leaks)
	}
	if r.checkErrors > 0 {
		fmt.Fprintf(c.stdout, "\n%d internal errors have occurred during the check.\n", r.checkErrors)
	}
	if r.total > 0 && r.allocated > 0 {
		percent := func(n, of int64) float64 { return float64(n) * 100 / float64(of) }
		fmt.Fprintf(c.stdout, "%d/%d = %.2f%% allocated, %.2f%% fragmented, %.2f%% compressed clusters\n", r.allocated, r.total,
			percent(r.allocated, r.total), percent(r.fragmented, r.allocated), percent(r.comp, r.allocated))
	}
	if r.end > 0 {
		fmt.Fprintf(c.stdout, "Image end offset: %d\n", r.end)
	}
	return nil
}

// object returns r for JSON, without the counts that are zero.
func (r *checked) object(name, format string) imginfo.Object {
	o := imginfo.Object{{"filename", name}, {"format", format}, {"check-errors", r.checkErrors}}
	for _, m := range []struct {
		key   string
		value int64
	}{
		{"image-end-offset", r.end}, {"corruptions", r.corruptions}, {"leaks", r.leaks},
		{"corruptions-fixed", r.corruptionsFixed}, {"leaks-fixed", r.leaksFixed}, {"total-clusters", r.total},
		{"allocated-clusters", r.allocated}, {"fragmented-clusters", r.fragmented}, {"compressed-clusters", r.comp},
	} {
		if m.value != 0 {
			o.Add(m.key, m.value)
		}
	}
	return o
}
