package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
)

// settings are the options that commands share.
type settings struct {
	format    string // -f
	imageOpts bool
	noLock    bool // -U
	quiet     bool
	progress  bool
	json      bool   // --output=json
	cache     string // -t
	srcCache  string // -T
	secrets   imgopen.Secrets
}

// errOutput is a wrong value of --output.
var errOutput error = message("--output must be used with human or json as argument.")

// A message is an error in the words of qemu-img.
type message string

func (m message) Error() string { return string(m) }

func messagef(format string, args ...any) error { return message(fmt.Sprintf(format, args...)) }

// set takes an option, and reports whether it is one of those.
func (s *settings) set(o option) (bool, error) {
	switch o.name {
	case "h":
		return true, errHelp
	case "f":
		if o.value == "" { // does not stand for whatever the image looks like
			return true, errNoDriver
		}
		s.format = o.value
	case "image-opts":
		s.imageOpts = true
	case "U":
		s.noLock = true
	case "q":
		s.quiet = true
	case "p":
		s.progress = true
	case "t":
		if o.value == "" { // is no mode, and does not stand for the default
			return true, message("Invalid cache option: ")
		}
		s.cache = o.value
	case "T":
		if o.value == "" {
			return true, message("Invalid source cache option: ")
		}
		s.srcCache = o.value
	case "object":
		if s.secrets == nil {
			s.secrets = make(imgopen.Secrets)
		}
		return true, s.secrets.Add(o.value)
	case "output":
		s.json = o.value == "json"
		if o.value != "json" && o.value != "human" {
			return true, errOutput
		}
	default:
		return false, nil
	}
	return true, nil
}

// check looks at the options together.
func (s *settings) check() error {
	var o imgopen.Options
	if !o.SetCache(s.cache) {
		return messagef("Invalid cache option: %s", s.cache)
	}
	if !o.SetCache(s.srcCache) {
		return messagef("Invalid source cache option: %s", s.srcCache)
	}
	return nil
}

// options returns how an image is to be opened that is read, cached as -T says.
// The format is that of -f for all but the commands that have more than one.
func (c *command) options(s *settings) *imgopen.Options {
	o := &imgopen.Options{Context: c.ctx, Format: s.format, ImageOpts: s.imageOpts, NoLock: s.noLock, Secrets: s.secrets, Warn: c.warn}
	o.SetCache(s.srcCache)
	return o
}

// writing returns how an image is to be opened that is written, cached as -t
// says.
func (c *command) writing(s *settings) *imgopen.Options {
	o := c.options(s)
	o.Write = true
	o.SetCache(s.cache)
	return o
}

// innermost returns what an error of opening an image says without the names of
// the image, of which the last may be that of the file.
func innermost(err error) error {
	var outer, inner *imgopen.Error
	if errors.As(err, &outer) && errors.As(outer.Err, &inner) {
		return inner
	}
	return err
}

var errNoDriver error = message("Unknown driver ''")

var errExclusive error = message("--image-opts and --format are mutually exclusive")

// open opens an image.
func (c *command) open(name string, o *imgopen.Options) (*imgopen.Image, error) {
	if o.ImageOpts && o.Format != "" {
		return nil, errExclusive
	}
	return imgopen.Open(name, o)
}

// size parses a size that is an argument of an option.
func size(text, what string) (int64, error) {
	n, err := imgopen.ParseSize(text)
	if errors.Is(err, imgopen.ErrSizeRange) {
		return 0, messagef("Invalid %s specified. Must be between 0 and 9223372036854775807.", what)
	}
	if err != nil {
		return 0, messagef("Invalid %s specified. You may use k, M, G, T, P or E suffixes for\n"+
			"qimg: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.", what)
	}
	return n, nil
}

// closing closes v, and adds the error to err if there is one.
func closing(v io.Closer, err *error) { *err = errors.Join(*err, v.Close()) }

// oneFile is the operand of commands that take an image.
func oneFile(operands []string) (string, error) {
	if len(operands) != 1 {
		return "", usageError("Expecting one image file name")
	}
	return operands[0], nil
}
