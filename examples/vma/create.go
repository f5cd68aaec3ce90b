package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/virtfmt/virtfmt/vma"
)

// create makes an archive of configs and disks.
func (c *command) create(args []string) error {
	o, args, err := parse(args, "vc:d:")
	if err != nil {
		return err
	}
	if len(args) < 1 {
		return errUsage
	}
	h := &vma.Header{}
	for _, name := range o['c'] {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		h.Configs = append(h.Configs, vma.Config{Name: filepath.Base(name), Data: data})
	}
	var disks []*disk
	defer func() {
		for _, d := range disks {
			d.close.Close()
		}
	}()
	for i, arg := range append(args[1:], o['d']...) {
		name, path, format := parseDrive(arg, i)
		d, err := openDisk(path, format, false)
		if err != nil {
			return err
		}
		disks = append(disks, d)
		h.Devices = append(h.Devices, vma.DeviceInfo{Name: name, Size: (d.size + 511) &^ 511})
	}
	out, err := c.output(args[0])
	if err != nil {
		return err
	}
	tell := func(vma.Progress) {}
	if o.has('v') {
		tell = percent(c.stdout)
		if args[0] == "-" {
			tell = percent(c.stderr)
		}
	}
	return out.finish(c.write(out, h, disks, tell))
}

// write writes the archive.
func (c *command) write(w io.Writer, h *vma.Header, disks []*disk, tell func(vma.Progress)) error {
	wr, err := vma.NewWriter(w, h, nil)
	if err != nil {
		return err
	}
	done, total := int64(0), int64(0)
	for _, d := range disks {
		total += d.size
	}
	for i, d := range disks {
		opt := &vma.CopyOptions{Progress: func(n, _ int64) { tell(vma.Progress{Done: done + n, Total: total}) }}
		if err := wr.CopyFrom(c.ctx, uint8(i+1), d.disk, opt); err != nil {
			return err
		}
		done += d.size
	}
	return wr.Close()
}

// parseDrive parses [format=F:]NAME=DISK, or DISK alone.
func parseDrive(arg string, i int) (name, path, format string) {
	if rest, ok := strings.CutPrefix(arg, "format="); ok {
		format, arg, _ = strings.Cut(rest, ":")
	}
	name, path, ok := strings.Cut(arg, "=")
	if !ok {
		name, path = fmt.Sprintf("disk%d", i), arg
	}
	return name, path, format
}

// An output is where an archive is written to.
type output struct {
	io.Writer
	close  func() error
	remove string // the file to remove if the archive does not become whole
}

// output opens what the original can write to: a new file, a pipe, and with
// "exec:COMMAND" the input of a command; "-" is standard output.
func (c *command) output(name string) (*output, error) {
	if name == "-" {
		return &output{Writer: c.stdout, close: func() error { return nil }}, nil
	}
	if line, ok := strings.CutPrefix(name, "exec:"); ok {
		cmd := exec.CommandContext(c.ctx, "/bin/sh", "-c", line)
		cmd.Stdout, cmd.Stderr = c.stdout, c.stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		return &output{Writer: in, close: func() error { return errors.Join(in.Close(), cmd.Wait()) }}, cmd.Start()
	}
	flags, remove := os.O_WRONLY|os.O_CREATE|os.O_EXCL, name
	if fi, err := os.Stat(name); err == nil && !fi.Mode().IsRegular() {
		flags, remove = os.O_WRONLY, ""
	}
	f, err := os.OpenFile(name, flags, 0o644)
	if err != nil {
		return nil, err
	}
	return &output{Writer: f, close: f.Close, remove: remove}, nil
}

// finish closes the output, and removes a file that did not become an archive.
func (o *output) finish(err error) error {
	if err = errors.Join(err, o.close()); err != nil && o.remove != "" {
		os.Remove(o.remove)
	}
	return err
}

// parseUUID parses the text form of a UUID.
func parseUUID(s string) (uuid [16]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(uuid) {
		return uuid, fmt.Errorf("%q is no uuid", s)
	}
	return [16]byte(b), nil
}
