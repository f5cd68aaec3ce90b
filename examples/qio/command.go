package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/virtfmt/virtfmt/examples/internal/getopt"
	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/qcow2"
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
		{"abort", "", 0, 0, true, false, "", "ends the program without closing the image", func(*session, *verb, []string) { os.Exit(134) }},
		{"aio_flush", "", 0, 0, false, false, "", "waits for all asynchronous requests", (*session).nothing},
		{"aio_read", "", 2, -1, false, false, "[-Ciqv] [-P pattern] off len [len..]", "reads bytes asynchronously", (*session).read},
		{"aio_write", "", 2, -1, false, true, "[-Cfiquz] [-P pattern] off len [len..]", "writes bytes asynchronously", (*session).write},
		{"alloc", "a", 1, 2, false, false, "offset [count]", "counts the allocated bytes", (*session).alloc},
		{"close", "c", 0, 0, false, false, "", "closes the image", (*session).closeCommand},
		{"discard", "d", 2, -1, false, true, "[-Cq] off len", "discards bytes", (*session).discard},
		{"flush", "f", 0, 0, false, false, "", "makes what was written durable", (*session).flush},
		{"help", "?", 0, 1, true, false, "[command]", "tells of the commands", (*session).help},
		{"info", "i", 0, 0, false, false, "", "tells of the image", (*session).info},
		{"length", "l", 0, 0, false, false, "", "tells the size of the disk", (*session).length},
		{"map", "", 0, 0, false, false, "", "tells which areas are allocated", (*session).printMap},
		{"open", "o", 0, -1, true, false, "[-rnkU] [-t cache] [-d discard] [-o options] [path]", "opens an image", (*session).openCommand},
		{"quit", "q", 0, -1, true, false, "", "ends the program", func(s *session, _ *verb, _ []string) { s.quit = true }},
		{"read", "r", 2, -1, false, false, "[-abCqv] [-P pattern [-s off] [-l len]] off len", "reads bytes", (*session).read},
		{"readv", "", 2, -1, false, false, "[-Cqv] [-P pattern] off len [len..]", "reads bytes into several buffers", (*session).read},
		{"reopen", "", 0, -1, false, false, "[(-r|-w)] [-c cache]", "opens the image again, otherwise", (*session).reopen},
		{"sleep", "", 1, 1, true, false, "milliseconds", "waits", (*session).sleep},
		{"truncate", "t", 1, 3, false, true, "[-m prealloc_mode] off", "changes the size of the disk", (*session).truncate},
		{"write", "w", 2, -1, false, true, "[-bcCfnquz] [-P pattern | -s source_file] off len", "writes bytes", (*session).write},
		{"writev", "", 2, -1, false, true, "[-Cfq] [-P pattern] off len [len..]", "writes bytes from several buffers", (*session).write},
	}
}

// command runs one line.
func (s *session) command(line string) {
	args := strings.Fields(line)
	if len(args) == 0 {
		return
	}
	for _, v := range verbs() {
		if args[0] != v.name && (v.alias == "" || args[0] != v.alias) {
			continue
		}
		switch n := len(args) - 1; {
		case !v.noFile && s.img == nil:
			s.fail("no file open, try 'help open'\n")
		case n >= v.min && (v.max < 0 || n <= v.max):
			if v.writes && s.img.Writer() == nil {
				s.fail("qio: Block node is read-only\n")
				return
			}
			v.run(s, &v, args[1:])
		case v.max < 0:
			s.fail("bad argument count %d to %s, expected at least %d arguments\n", n, args[0], v.min)
		case v.min == v.max:
			s.fail("bad argument count %d to %s, expected %d arguments\n", n, args[0], v.min)
		default:
			s.fail("bad argument count %d to %s, expected between %d and %d arguments\n", n, args[0], v.min, v.max)
		}
		return
	}
	s.fail("command \"%s\" not found\n", args[0])
}

// parse takes the arguments of a command apart; nil stands for wrong ones.
func (s *session) parse(v *verb, args []string, letters string, least, most int) (map[string]string, []string) {
	opts, operands, err := getopt.Parse(args, letters, "")
	given := make(map[string]string)
	for _, o := range opts {
		given[o.Name] = o.Value
	}
	_, help := given["h"]
	if err != nil || help {
		s.fail("%s: invalid option\n", v.name)
	}
	if err != nil || help || len(operands) < least || most >= 0 && len(operands) > most {
		s.failOut("%s %s -- %s\n", v.name, v.args, v.what)
		return nil, nil
	}
	return given, operands
}

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

func (s *session) closeCommand(*verb, []string) {
	if err := s.closeImage(); err != nil {
		s.fail("qio: %v\n", err)
	}
}

func (s *session) openCommand(v *verb, args []string) {
	opts, operands, err := getopt.Parse(args, "snCrkUt:d:o:", "")
	o := s.options
	o.Write = true
	for _, opt := range opts {
		if opt.Name == "o" {
			err = errors.Join(err, getopt.Error("open -o is not supported; use --image-opts"))
			continue
		}
		err = errors.Join(err, s.set(opt, &o))
	}
	switch {
	case err != nil:
		s.fail("qio: %v\n", err)
	case s.img != nil:
		s.fail("qio: file open already, try 'help close'\n")
	case len(operands) == 1:
		if err := s.open(operands[0], o); err != nil {
			s.fail("qio: %v\n", err)
		}
	case len(operands) > 1:
		s.failOut("%s %s -- %s\n", v.name, v.args, v.what)
	}
}

func (s *session) reopen(v *verb, args []string) {
	given, _ := s.parse(v, args, "rwc:", 0, 0)
	if given == nil {
		return
	}
	_, readOnly := given["r"]
	if _, write := given["w"]; readOnly && write {
		s.fail("qio: Only one -r/-w option may be given\n")
		return
	}
	o := s.options
	for name, value := range given {
		if name == "c" {
			name = "t"
		}
		if err := s.set(getopt.Option{Name: name, Value: value}, &o); err != nil {
			s.fail("qio: %v\n", err)
			return
		}
	}
	s.openAgain(o)
}

// openAgain closes the image and opens it again.
func (s *session) openAgain(o imgopen.Options) {
	err := s.closeImage()
	if err == nil {
		err = s.open(s.name, o)
	}
	if err != nil {
		s.fail("qio: %v\n", err)
	}
}

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
			fmt.Fprintf(s.stdout, "%s %s -- %s\n", v.name, v.args, v.what)
			if len(args) == 1 {
				return
			}
		}
	}
	if len(args) == 1 {
		fmt.Fprintf(s.stdout, "command %s not found\n", args[0])
	}
}

func (s *session) sleep(_ *verb, args []string) {
	ms, err := strconv.ParseUint(args[0], 0, 31)
	if err != nil {
		s.failOut("%s is not a valid number\n", args[0])
		return
	}
	time.Sleep(time.Duration(ms) * time.Millisecond)
}

func (s *session) truncate(v *verb, args []string) {
	given, operands := s.parse(v, args, "m:", 1, 1)
	if given == nil {
		return
	}
	size, ok := s.number(operands[0])
	if !ok {
		return
	}
	mode, known := map[string]qcow2.Preallocation{
		"": qcow2.PreallocateOff, "off": qcow2.PreallocateOff, "metadata": qcow2.PreallocateMetadata,
		"falloc": qcow2.PreallocateFalloc, "full": qcow2.PreallocateFull,
	}[given["m"]]
	var err error
	switch img := s.img; {
	case !known:
		err = fmt.Errorf("invalid parameter '%s'", given["m"])
	case img.Qcow2 != nil:
		err = img.Qcow2.Resize(context.Background(), size, &qcow2.ResizeOptions{Preallocation: mode, Shrink: true})
	case mode != qcow2.PreallocateOff:
		err = fmt.Errorf("unsupported preallocation mode '%s'", given["m"])
	case img.Qed != nil:
		err = img.Qed.Resize(size)
	default:
		if err = img.Raw.Truncate(size); err == nil {
			s.openAgain(s.options)
		}
	}
	if err != nil {
		s.fail("qio: %v\n", err)
	}
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
			s.failOut("is_allocated failed: %v\n", reason(err))
			return
		}
		if s.allocated(e) {
			sum += e.Length
		}
	}
	fmt.Fprintf(s.stdout, "%d/%d bytes allocated at offset %s\n", sum, n, human(float64(off)))
}

func (s *session) printMap(*verb, []string) {
	var start, n int64
	var state bool
	show := func() {
		if n > 0 {
			word := map[bool]string{true: "    allocated", false: "not allocated"}[state]
			fmt.Fprintf(s.stdout, "%s (0x%x) bytes %s at offset %s (0x%x)\n", human(float64(n)), n, word, human(float64(start)), start)
		}
	}
	for e, err := range s.img.Extents(0, s.img.Size()) {
		if err != nil {
			s.failOut("Failed to get allocation status: %v\n", reason(err))
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
	fmt.Fprintln(s.stdout, human(float64(s.img.Size())))
}

func (s *session) info(*verb, []string) {
	w := s.stdout
	fmt.Fprintf(w, "format name: %s\n", s.img.Format)
	if n := s.img.ClusterSize(); n > 0 && s.img.Raw == nil {
		fmt.Fprintf(w, "cluster size: %s\n", human(float64(n)))
	}
	if s.img.Qcow2 == nil {
		return
	}
	h := s.img.Qcow2.Header()
	extended := h.IncompatibleFeatures&qcow2.IncompatExtendedL2 != 0
	entry := int64(8)
	if extended {
		entry = 16
	}
	covers := float64(h.ClusterSize()) * float64(h.ClusterSize()/entry)
	tables := float64(int64((float64(s.img.Size()) + covers - 1) / covers))
	compat, compression := "1.1", "zlib"
	if h.CompressionType == qcow2.CompressionZstd {
		compression = "zstd"
	}
	if h.Version < 3 {
		compat = "0.10"
	}
	fmt.Fprintf(w, "vm state offset: %s\nFormat specific information:\n    compat: %s\n    compression type: %s\n", human(tables*covers), compat, compression)
	if h.Version >= 3 {
		fmt.Fprintf(w, "    lazy refcounts: %t\n", h.CompatibleFeatures&qcow2.CompatLazyRefcounts != 0)
	}
	fmt.Fprintf(w, "    refcount bits: %d\n", h.RefcountBits())
	if h.Version >= 3 {
		fmt.Fprintf(w, "    corrupt: %t\n    extended l2: %t\n", h.IncompatibleFeatures&qcow2.IncompatCorrupt != 0, extended)
	}
}
