package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
)

// create runs "qimg create".
func (c *command) create(args []string) error {
	s := settings{format: "raw"}
	var backing, backingFormat string
	var lists []string
	var unsafe bool
	opts, operands, err := parse(args, "F:b:f:o:qu", "object:")
	if err != nil {
		return err
	}
	given := map[string]bool{}
	for _, o := range opts {
		if ok, err := s.set(o); err != nil {
			return err
		} else if ok {
			continue
		}
		given[o.name] = true
		switch o.name {
		case "F":
			backingFormat = o.value
		case "b":
			backing = o.value
		case "o":
			if err := optionList(o.value); err != nil {
				return err
			}
			lists = append(lists, o.value)
		case "u":
			unsafe = true
		}
	}
	if wantsHelp(lists) {
		return c.optionHelp(s.format, len(operands) > 0)
	}
	if len(operands) == 0 {
		return usageError("Expecting image file name")
	}
	name := operands[0]
	text := ""
	switch len(operands) {
	case 1:
	case 2:
		n, err := size(operands[1], "image size")
		if err != nil {
			return err
		}
		text = fmt.Sprint(n)
	default:
		return usageError("Unexpected argument: " + operands[2])
	}
	naming := func(err error) error {
		if err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
		return err
	}
	v, err := newValues(s.format, lists)
	if err != nil {
		return naming(err)
	}
	if given["b"] {
		v.value["backing_file"] = backing
	}
	if given["F"] {
		v.value["backing_fmt"] = backingFormat
	}
	path, err := imgopen.Path(name)
	if err == nil {
		err = c.settle(v, name, text, &s, unsafe)
	}
	if err != nil {
		return naming(err)
	}
	c.say(&s, "Formatting '%s', fmt=%s%s\n", name, s.format, v)
	return naming(c.makeImage(path, v, s.secrets))
}

// optionHelp prints the options of a format.
func (c *command) optionHelp(format string, file bool) error {
	if createOptions(format) == nil {
		return unknownFormat(format)
	}
	return c.printOptions(format, file)
}

// unknownFormat refuses a format.
func unknownFormat(format string) error {
	if imgopen.Foreign(format) {
		return messagef("Format '%s' is not supported", format)
	}
	return messagef("Unknown file format '%s'", format)
}

// newValues parses what -o says for a format that can be written.
func newValues(format string, lists []string) (*createValues, error) {
	if createOptions(format) == nil {
		if format == "vma" {
			return nil, messagef("Format driver '%s' does not support image creation", format)
		}
		return nil, unknownFormat(format)
	}
	return parseCreate(format, lists)
}

// settle finds the size of the new image and looks at its backing file.
func (c *command) settle(v *createValues, name, size string, s *settings, unsafe bool) error {
	backing, hasBacking := v.value["backing_file"]
	format, hasFormat := v.value["backing_fmt"]
	if (hasBacking || hasFormat) && v.format != "qcow2" && v.format != "qed" {
		return messagef("Backing file not supported for file format '%s'", v.format)
	}
	if _, ok := v.value["size"]; ok && size != "" {
		return message("The image size must be specified only once")
	}
	if size != "" {
		v.value["size"] = size
	}
	switch {
	case hasBacking && backing == "":
		return message("Expected backing file name, got empty string")
	case hasBacking && backing == name:
		return message("Error: Trying to create an image with the same filename as the backing file")
	case hasBacking && unsafe && !hasFormat:
		return message("Backing file specified without backing format")
	case hasBacking && !unsafe:
		if err := c.lookAtBacking(v, imgopen.Resolve(name, backing), format, s); err != nil {
			return err
		}
	}
	if _, ok := v.value["size"]; !ok {
		return message("Image creation needs a size parameter")
	}
	return nil
}

// lookAtBacking holds that a backing file can be opened, and takes its size.
func (c *command) lookAtBacking(v *createValues, path, format string, s *settings) error {
	o := c.options(s)
	o.Format, o.NoLock = format, true // an image that is in use can get an overlay
	b, err := imgopen.Open(path, o)
	if err != nil {
		var oe *imgopen.Error
		if errors.As(err, &oe) && oe.Name == path {
			err = oe.Err
		}
		return messagef("%v\nCould not open backing image.", err)
	}
	found, size := b.Format, b.Size()
	if err := b.Close(); err != nil {
		return err
	}
	if format == "" {
		return messagef("Backing file specified without backing format\nDetected format of %s.", found)
	}
	if _, ok := v.value["size"]; !ok {
		v.value["size"] = fmt.Sprint(size)
	}
	return nil
}

// parseNumber parses a number that may be hexadecimal or, after a 0, octal.
func parseNumber(s string) (int64, error) {
	switch {
	case strings.HasPrefix(s, "0x"), strings.HasPrefix(s, "0X"):
		return strconv.ParseInt(s[2:], 16, 64)
	case len(s) > 1 && s[0] == '0':
		return strconv.ParseInt(s, 8, 64)
	}
	return strconv.ParseInt(s, 10, 64)
}
