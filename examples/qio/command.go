package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/virtfmt/virtfmt/examples/internal/getopt"
	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/block"
)

// A verb is a command.
type verb struct {
	name, alias    string
	min, max       int // of arguments, options included; max -1: any
	noFile, writes bool
	args, what     string
	run            func(s *session, v *verb, args []string)
}

// verbs returns the commands in the order that help lists them.
func verbs() []verb {
	return []verb{
		{"abort", "", 0, 0, true, false, "", "ends the program without closing the image", (*session).abort},
		{"aio_flush", "", 0, 0, false, false, "", "waits for all asynchronous requests", (*session).nothing},
		{"aio_read", "", 2, -1, false, false, "[-Ciqv] [-P pattern] off len [len..]", "reads bytes asynchronously", (*session).read},
		{"aio_write", "", 2, -1, false, true, "[-Cfiquz] [-P pattern] off len [len..]", "writes bytes asynchronously", (*session).write},
		{"alloc", "a", 1, 2, false, false, "offset [count]", "counts the allocated bytes", (*session).alloc},
		{"break", "", 2, 2, false, false, "event tag", "is not supported", (*session).breakpoint},
		{"close", "c", 0, 0, false, false, "", "closes the image", (*session).closeCommand},
		{"discard", "d", 2, -1, false, true, "[-Cq] off len", "discards bytes", (*session).discard},
		{"flush", "f", 0, 0, false, false, "", "makes what was written durable", (*session).flush},
		{"help", "?", 0, 1, true, false, "[command]", "tells of the commands", (*session).help},
		{"info", "i", 0, 0, false, false, "", "tells of the image", (*session).info},
		{"length", "l", 0, 0, false, false, "", "tells the size of the disk", (*session).length},
		{"map", "", 0, 0, false, false, "", "tells which areas are allocated", (*session).printMap},
		{"open", "o", 1, -1, true, false, "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]", "opens an image", (*session).openCommand},
		{"quit", "q", 0, -1, true, false, "", "ends the program", func(s *session, _ *verb, _ []string) { s.quit = true }},
		{"read", "r", 2, -1, false, false, "[-bCqv] [-P pattern [-s off] [-l len]] off len", "reads bytes", (*session).read},
		{"readv", "", 2, -1, false, false, "[-Cqv] [-P pattern] off len [len..]", "reads bytes into several buffers", (*session).read},
		{"remove_break", "", 1, 1, false, false, "tag", "is not supported", (*session).breakpoint},
		{"reopen", "", 0, -1, false, false, "[(-r|-w)] [-c cache] [-o options]", "opens the image again, otherwise", (*session).reopen},
		{"resume", "", 1, 1, false, false, "tag", "is not supported", (*session).breakpoint},
		{"sigraise", "", 1, 1, true, false, "signal", "raises a signal", (*session).sigraise},
		{"sleep", "", 1, 1, true, false, "milliseconds", "waits", (*session).sleep},
		{"truncate", "t", 1, 3, false, true, "[-m prealloc_mode] off", "changes the size of the disk", (*session).truncate},
		{"wait_break", "", 1, 1, false, false, "tag", "is not supported", (*session).breakpoint},
		{"write", "w", 2, -1, false, true, "[-bcCfnquz] [-P pattern | -s source_file] off len", "writes bytes", (*session).write},
		{"writev", "", 2, -1, false, true, "[-Cfq] [-P pattern] off len [len..]", "writes bytes from several buffers", (*session).write},
	}
}

// command runs one line: words between spaces, up to a NUL.
func (s *session) command(line string) {
	line, _, _ = strings.Cut(line, "\x00")
	args := strings.FieldsFunc(line, func(c rune) bool { return c == ' ' })
	if len(args) == 0 {
		return
	}
	defer s.out.Flush()
	for _, v := range verbs() {
		if args[0] == v.name || v.alias != "" && args[0] == v.alias {
			s.runVerb(&v, args)
			return
		}
	}
	s.fail("command \"%s\" not found\n", args[0])
}

func (s *session) runVerb(v *verb, args []string) {
	switch n := len(args) - 1; {
	case !v.noFile && s.img == nil:
		s.fail("no file open, try 'help open'\n")
	case n >= v.min && (v.max < 0 || n <= v.max):
		if v.writes && s.img.Writer() == nil {
			s.fail("qio: Block node is read-only\n")
			return
		}
		v.run(s, v, args[1:])
	case v.max < 0:
		s.fail("bad argument count %d to %s, expected at least %d arguments\n", n, args[0], v.min)
	case v.min == v.max:
		s.fail("bad argument count %d to %s, expected %d arguments\n", n, args[0], v.min)
	default:
		s.fail("bad argument count %d to %s, expected between %d and %d arguments\n", n, args[0], v.min, v.max)
	}
}

// parse takes the arguments of a command apart. most is -1 for any number of
// operands. It tells itself of wrong ones.
func (s *session) parse(v *verb, args []string, letters string, least, most int) (opts []getopt.Option, operands []string, ok bool) {
	opts, operands, err := getopt.Parse(args, letters, "")
	for _, o := range opts {
		if o.Name == "h" && err == nil { // which commands do not have
			err = &getopt.LetterError{Letter: 'h'}
		}
	}
	var letter *getopt.LetterError
	switch {
	case errors.As(err, &letter) && letter.Missing:
		s.fail("%s: option requires an argument -- '%c'\n", v.name, letter.Letter)
	case letter != nil:
		s.fail("%s: invalid option -- '%c'\n", v.name, letter.Letter)
	case err != nil:
		s.fail("%s: %v\n", v.name, err)
	}
	if err != nil || len(operands) < least || most >= 0 && len(operands) > most {
		s.synopsis(v)
		return nil, nil, false
	}
	return opts, operands, true
}

// String returns the line of help on a command.
func (v verb) String() string { return strings.TrimSpace(v.name+" "+v.args) + " -- " + v.what }

// synopsis tells of a command that was given wrong arguments.
func (s *session) synopsis(v *verb) { s.failOut("%s\n", v) }

// number parses an offset or a length.
func (s *session) number(text string) (int64, bool) {
	n, err := imgopen.ParseSize(text)
	switch {
	case errors.Is(err, imgopen.ErrSizeRange):
		s.failOut("Parsing error: argument too large -- %s\n", text)
	case err != nil:
		s.failOut("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- %s\n", text)
	}
	return n, err == nil
}

func (s *session) nothing(*verb, []string) {}

func (s *session) flush(*verb, []string) {
	if w := s.img.Writer(); w != nil {
		if err := w.Sync(); err != nil {
			s.fail("qio: %v\n", err)
		}
	}
}

func (s *session) help(_ *verb, args []string) {
	for _, v := range verbs() {
		if len(args) == 0 || v.name == args[0] || v.alias == args[0] {
			fmt.Fprintln(s.out, v)
			if len(args) == 1 {
				return
			}
		}
	}
	if len(args) == 1 {
		s.failOut("command %s not found\n", args[0])
	}
}

func (s *session) sleep(_ *verb, args []string) {
	ms, err := strconv.ParseUint(args[0], 0, 64)
	if err != nil || ms > math.MaxInt64/uint64(time.Millisecond) {
		s.failOut("%s is not a valid number\n", args[0])
		return
	}
	time.Sleep(time.Duration(ms) * time.Millisecond)
}

// allocated tells whether the image itself holds an extent.
func (s *session) allocated(e block.Extent) bool {
	return s.img.Raw != nil || e.Kind != block.Unallocated && e.Depth == 0
}

func (s *session) alloc(_ *verb, args []string) {
	off, ok := s.number(args[0])
	n := int64(512)
	if ok && len(args) == 2 {
		n, ok = s.number(args[1])
	}
	if !ok {
		return
	}
	var sum int64
	n = max(0, min(n, s.img.Size()-off))
	for e, err := range s.img.Extents(off, n) {
		if err != nil {
			s.failOut("is_allocated failed: %v\n", s.reason(err))
			return
		}
		if s.allocated(e) {
			sum += e.Length
		}
	}
	fmt.Fprintf(s.out, "%d/%d bytes allocated at offset %s\n", sum, n, human(float64(off)))
}

func (s *session) printMap(*verb, []string) {
	var start, n int64
	var state bool
	show := func() {
		if n > 0 {
			word := map[bool]string{true: "    allocated", false: "not allocated"}[state]
			fmt.Fprintf(s.out, "%s (0x%x) bytes %s at offset %s (0x%x)\n", human(float64(n)), n, word, human(float64(start)), start)
		}
	}
	for e, err := range s.img.Extents(0, s.img.Size()) {
		if err != nil {
			s.failOut("Failed to get allocation status: %v\n", s.reason(err))
			return
		}
		if a := s.allocated(e); a != state {
			show()
			start, n, state = e.Start, 0, a
		}
		n += e.Length
	}
	show()
}

func (s *session) length(*verb, []string) {
	fmt.Fprintln(s.out, human(float64(s.img.Size())))
}
