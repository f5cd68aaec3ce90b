package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/virtfmt/virtfmt/vma"
)

// list prints what the header holds.
func (c *command) list(in *input, o options, args []string) error {
	h, err := in.header()
	if err != nil {
		return err
	}
	c.printHeader(&h)
	return nil
}

// printHeader prints a header as the original does, which knows devices up to
// 254.
func (c *command) printHeader(h *vma.Header) {
	for _, conf := range h.Configs {
		fmt.Fprintf(c.stdout, "CFG: size: %d name: %s\n", len(conf.Data), printable(conf.Name))
	}
	vm, _ := h.VMState()
	for _, d := range h.Devices {
		switch {
		case d.ID > vma.MaxDevices:
		case d.ID == vm.ID:
			fmt.Fprintf(c.stdout, "VMSTATE: dev_id=%d memory: %d\n", d.ID, d.Size)
		default:
			fmt.Fprintf(c.stdout, "DEV: dev_id=%d size: %d devname: %s\n", d.ID, d.Size, printable(d.Name))
		}
	}
	fmt.Fprintf(c.stdout, "CTIME: %s\n", h.Time().Format(time.ANSIC))
}

// printable returns a name without what could pass for another line.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, name)
}

// chooser returns what says whether a drive is one of those that option -d
// lists, nil where it is not given. A salvage may find drives that the header
// does not name.
func (c *command) chooser(h *vma.Header, o options) func(vma.DeviceInfo) bool {
	list := o.last('d', "")
	if list == "" {
		return nil
	}
	names := strings.Split(list, ",")
	for _, name := range names {
		if !o.has('S') && !slices.ContainsFunc(h.Devices, func(d vma.DeviceInfo) bool { return d.Name == name }) {
			fmt.Fprintf(c.stderr, "vma: warning: the archive has no drive %q\n", name)
		}
	}
	return func(d vma.DeviceInfo) bool { return slices.Contains(names, d.Name) }
}

// A noConfigError is a config that the archive does not have.
type noConfigError struct{ name string }

func (e *noConfigError) Error() string {
	return fmt.Sprintf("unable to find configuration data '%s'", e.name)
}

// config writes a config to standard output.
func (c *command) config(in *input, o options, args []string) error {
	h, err := in.header()
	if err != nil {
		return err
	}
	name := o.last('c', vma.ConfigName)
	data, ok := h.Config(name)
	if !ok {
		return &noConfigError{name}
	}
	_, err = c.stdout.Write(data)
	return err
}
