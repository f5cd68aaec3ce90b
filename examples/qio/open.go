package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/virtfmt/virtfmt/examples/internal/getopt"
	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
)

// settings say how an image is opened and used.
type settings struct {
	imgopen.Options
	writeThrough bool // each write is made durable
	copyOnRead   bool
}

// defaults returns what images are opened with unless options tell.
func (s *session) defaults() settings {
	warn := func(m string) {
		if !strings.HasPrefix(m, "WARNING: ") {
			m = "qio: warning: " + m
		}
		fmt.Fprintln(s.stderr, m)
	}
	return settings{Options: imgopen.Options{Write: true, Discard: true, Secrets: s.secrets, Warn: warn}, writeThrough: true}
}

// set takes an option of the command line or of the command open.
func (how *settings) set(o getopt.Option) error {
	switch o.Name {
	case "f":
		how.Format = o.Value
	case "r":
		how.Write = false
	case "s":
		how.Temporary = true
	case "C":
		how.copyOnRead = true
	case "U":
		how.NoLock = true
	case "image-opts":
		how.ImageOpts = true
	case "k":
		how.AIO = "native"
	case "i":
		if o.Value != "threads" && o.Value != "native" && o.Value != "io_uring" {
			return refusal("Invalid aio option: " + o.Value)
		}
		how.AIO = o.Value
	case "n":
		return how.setCache("none")
	case "t":
		return how.setCache(o.Value)
	case "d":
		switch o.Value {
		case "ignore", "off":
			how.Discard = false
		case "unmap", "on":
			how.Discard = true
		default:
			return refusal("Invalid discard option: " + o.Value)
		}
	case "o":
		how.with(o.Value)
	case "object":
		return how.Secrets.Add(o.Value)
	case "T":
		return refusal("option -T, tracing, is not supported")
	}
	return nil
}

// with adds a list of options of the image.
func (how *settings) with(list string) {
	if how.With != "" {
		list = how.With + "," + list
	}
	how.With = list
}

func (how *settings) setCache(mode string) error {
	if mode == "" || !how.SetCache(mode) {
		return refusal("Invalid cache option: " + mode)
	}
	how.writeThrough, how.Sync = how.Sync, false // tables of an image too
	return nil
}

// open opens an image.
func (s *session) open(name string, how settings) error {
	prefix := "can't open device " + name + ": "
	if how.ImageOpts {
		prefix = "can't open: "
	}
	switch {
	case how.copyOnRead && !how.Write:
		return errors.New(prefix + "Can't use copy-on-read on read-only device")
	case how.NoLock && how.Write && !how.Temporary:
		return errors.New(prefix + "force-share=on can only be used with read-only images")
	}
	img, err := imgopen.Open(name, &how.Options)
	if err != nil {
		var named *imgopen.Error
		if errors.As(err, &named) { // prefix names it
			err = named.Err
		}
		return fmt.Errorf("%s%w", prefix, err)
	}
	if how.Write && img.Writer() == nil {
		return errors.Join(fmt.Errorf("%simages of format %s are read-only", prefix, img.Format), img.Close())
	}
	s.img, s.how = img, how
	return nil
}

func (s *session) closeImage() error {
	if s.img == nil {
		return nil
	}
	img := s.img
	s.img = nil
	return img.Close()
}

func (s *session) closeCommand(*verb, []string) {
	if err := s.closeImage(); err != nil {
		s.fail("qio: %v\n", err)
	}
}

func (s *session) openCommand(v *verb, args []string) {
	given, operands, ok := s.parse(v, args, "snCro:ki:t:d:U", 0, 1)
	if !ok {
		return
	}
	how := s.defaults()
	for _, o := range given {
		if err := how.set(o); err != nil {
			s.fail("qio: %v\n", err)
			return
		}
	}
	if s.img != nil {
		s.fail("qio: file open already, try 'help close'\n")
		return
	}
	name := how.With
	if len(operands) == 1 {
		name = operands[0]
	} else {
		how.ImageOpts, how.With = true, ""
	}
	if err := s.open(name, how); err != nil {
		s.fail("qio: %v\n", err)
	}
}

func (s *session) reopen(v *verb, args []string) {
	given, _, ok := s.parse(v, args, "c:o:rw", 0, 0)
	if !ok {
		return
	}
	how := s.how
	var access, cache bool
	var lists []string
	for _, o := range given {
		switch o.Name {
		case "c":
			if err := how.setCache(o.Value); err != nil {
				s.fail("qio: Invalid cache option: %s\n", o.Value)
				return
			}
			cache = true
		case "r", "w":
			if access {
				s.fail("qio: Only one -r/-w option may be given\n")
				return
			}
			access, how.Write = true, o.Name == "w"
		case "o":
			lists = append(lists, o.Value)
		}
	}
	if err := s.changes(strings.Join(lists, ","), &how, access, cache); err != nil {
		s.fail("qio: %v\n", err)
		return
	}
	if how.copyOnRead && !how.Write {
		s.fail("qio: Can't set the image to r/o with copy-on-read enabled\n")
		return
	}
	s.openAgain(how)
}

// changes takes the options of reopen -o.
func (s *session) changes(list string, how *settings, access, cache bool) error {
	for _, p := range imgopen.SplitOptions(list) {
		if p.Bare {
			p.Value = "on"
		}
		same := false
		switch p.Key {
		case "read-only":
			switch {
			case access:
				return refusal("Cannot set both -r/-w and 'read-only'")
			case p.Value != "on" && p.Value != "off":
				return refusal("Parameter 'read-only' expects 'on' or 'off'")
			case p.Value == "on" && how.Write:
				return refusal("Read-only block node cannot support read-write users")
			}
			how.Write = p.Value == "off"
			continue
		case "cache.direct", "cache.no-flush":
			if cache {
				return refusal("Cannot set both -c and the cache options")
			}
			same = true
		case "driver":
			same = p.Value == s.img.Format
		case "file.filename":
			same = p.Value == s.img.Path
		case "file.driver":
			same = p.Value == "file"
		case "discard", "detect-zeroes":
			same = true
		default:
			same = s.img.Qcow2 != nil && changeable(p.Key)
		}
		if !same {
			_, key, nested := strings.Cut(p.Key, ".")
			if !nested || !strings.HasPrefix(p.Key, "file.") {
				key = p.Key
			}
			return refusal("Cannot change the option '" + key + "'")
		}
		switch p.Key {
		case "driver", "file.filename", "file.driver":
		default:
			how.with(p.Key + "=" + strings.ReplaceAll(p.Value, ",", ",,"))
		}
	}
	return nil
}

// changeable tells whether an option of a qcow2 image can be changed while the
// image is open.
func changeable(key string) bool {
	switch key {
	case "lazy-refcounts", "overlap-check", "overlap-check.template", "cache-size", "l2-cache-size", "l2-cache-entry-size",
		"refcount-cache-size", "cache-clean-interval", "pass-discard-request", "pass-discard-snapshot", "pass-discard-other", "encrypt.key-secret":
		return true
	}
	return false
}

// openAgain closes the image and opens it again. The format is not found out
// again: what was written must not change it.
func (s *session) openAgain(how settings) {
	if s.img.Probed {
		how.Warn = nil
	}
	img, err := s.img.Reopen(&how.Options)
	s.img = img
	if err != nil {
		s.fail("qio: %v\n", err)
		return
	}
	s.how = how
}
