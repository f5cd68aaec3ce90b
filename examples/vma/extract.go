package main

import (
	"errors"
	"os"

	"github.com/virtfmt/virtfmt/vma"
)

// extract writes configs and devices into a new directory, or devices to where
// a map says.
func (c *command) extract(in *input, o options, args []string) (err error) {
	x, err := in.extractor(c)
	if err != nil {
		return err
	}
	h := x.Header()
	opt := &vma.DirOptions{}
	if o.has('v') {
		c.printHeader(&h)
		opt.Progress = percent(c.stdout)
	}
	opt.Select = c.chooser(&h, o)
	if err := os.Mkdir(args[0], 0o777); err != nil {
		return err
	}
	dir, err := os.OpenRoot(args[0])
	if err != nil {
		return err
	}
	defer dir.Close()
	if o.has('r') {
		m, err := c.readMap(o.last('r', ""), &h)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.close()) }()
		chosen := opt.Select
		opt.Select = func(d vma.DeviceInfo) bool { return !m.skips(d) && (chosen == nil || chosen(d)) }
		opt.Target = m.target
	}
	report, err := vma.ExtractDir(c.ctx, x, dir, opt)
	if err == nil && o.has('v') && !o.has('S') {
		c.printTotals(report)
	}
	return c.lossy(report, err, o)
}

// repack writes the content of an archive in one order.
func (c *command) repack(in *input, o options, args []string) (err error) {
	if in.file == nil {
		return errors.New("only a file that is not compressed can be repacked")
	}
	opt := &vma.RepackOptions{FillMissing: o.has('S')}
	if text := o.last('u', ""); text != "" {
		if opt.UUID, err = parseUUID(text); err != nil {
			return err
		}
	}
	if _, err := in.extractor(c); err != nil {
		return err
	}
	out, err := c.output(args[0])
	if err != nil {
		return err
	}
	err = vma.Repack(c.ctx, out, in.archive, opt)
	if err = out.finish(err); err != nil {
		return err
	}
	return c.lossy(in.archive.Report(), nil, o)
}
