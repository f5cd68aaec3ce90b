package main

import (
	"fmt"
	"io"
	"iter"
	"math"
	"os"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/block"
	"github.com/virtfmt/virtfmt/internal/sparse"
)

// A status tells what stands behind a range of a disk, in the words of
// qemu-img map.
type status struct {
	start, length       int64
	depth               int
	present, zero, data bool
	offset              int64 // in file, or -1
	file                string
}

func (s status) end() int64 { return s.start + s.length }

// follows reports whether s can be told together with prev.
func (s status) follows(prev status) bool {
	if prev.end() != s.start || prev.depth != s.depth || prev.present != s.present || prev.zero != s.zero || prev.data != s.data ||
		prev.file != s.file || (prev.offset < 0) != (s.offset < 0) {
		return false
	}
	return s.offset < 0 || prev.offset+prev.length == s.offset
}

// statuses yields what stands behind n bytes at off.
func statuses(img *imgopen.Image, off, n int64) iter.Seq2[status, error] {
	return func(yield func(status, error) bool) {
		var last status
		holed := make(map[int]bool) // layers, by depth
		for x, err := range img.Extents(off, n) {
			if err != nil {
				yield(status{}, err)
				return
			}
			holes, known := holed[x.Depth]
			if layer := img.Layer(x.Depth); !known && layer != nil {
				holes = looksPreallocated(layer)
				holed[x.Depth] = holes
			}
			for s, err := range split(img, x, holes) {
				switch {
				case err != nil:
					yield(status{}, err)
					return
				case last.length > 0 && s.follows(last):
					last.length += s.length
					continue
				case last.length > 0 && !yield(last, nil):
					return
				}
				last = s
			}
		}
		if last.length > 0 {
			yield(last, nil)
		}
	}
}

// split yields the statuses of an extent. If inHoles is set, data of an image may
// lie in a hole of its file, and is known to be zero then.
func split(img *imgopen.Image, x block.Extent, inHoles bool) iter.Seq2[status, error] {
	layer := img.Layer(x.Depth)
	s := status{
		start: x.Start, length: x.Length, depth: x.Depth, offset: x.HostOffset,
		present: x.Kind != block.Unallocated, zero: x.IsZero(), data: !x.IsZero(),
	}
	var f *os.File
	if layer != nil {
		s.file = layer.Path
		f, _ = layer.HostFile(0).(*os.File)
		switch {
		case layer.Data != "":
			s.file = layer.Data
		case layer.Raw != nil && x.Kind == block.Unallocated && x.Length < 512: // the end of the last sector
			s.present, s.offset = true, x.Start
		}
	}
	encrypted := layer != nil && layer.Qcow2 != nil && layer.Qcow2.Header().CryptMethod != 0
	if x.Kind == block.Compressed || encrypted || s.offset < 0 {
		s.offset, s.file = -1, ""
	}
	return func(yield func(status, error) bool) {
		if f == nil || !inHoles || x.Kind != block.Data || s.offset < 0 {
			yield(s, nil)
			return
		}
		holes(f, s, yield)
	}
}

// holes yields the parts of s, which lies in f, by whether they are holes.
func holes(f *os.File, s status, yield func(status, error) bool) {
	end := s.offset + s.length
	part := func(n int64, zero bool) bool {
		if n == 0 {
			return true
		}
		p := s
		p.length, p.zero = n, zero
		s.start += n
		s.offset += n
		return yield(p, nil)
	}
	for s.offset < end {
		start, stop, err := sparse.NextData(f, s.offset)
		switch {
		case err == io.EOF:
			start, stop = end, end
		case err != nil: // the system does not know
			start, stop = s.offset, end
		}
		if !part(min(start, end)-s.offset, true) || !part(min(stop, end)-s.offset, false) {
			return
		}
	}
}

// printMap runs "qimg map".
func (c *command) printMap(args []string) error {
	var s settings
	start, length := int64(0), int64(-1)
	opts, operands, err := parse(args, "f:s:l:U", "object: image-opts format:=f output: force-share=U start-offset:=s max-length:=l")
	if err != nil {
		return err
	}
	for _, o := range opts {
		ok, err := s.set(o)
		switch {
		case ok || err != nil:
		case o.name == "s":
			start, err = size(o.value, "start offset")
		case o.name == "l":
			length, err = size(o.value, "max length")
		}
		if err != nil {
			return err
		}
	}
	name, err := oneFile(operands)
	if err != nil {
		return err
	}
	return c.mapImage(name, &s, start, length)
}

func (c *command) mapImage(name string, s *settings, start, length int64) (err error) {
	img, err := c.open(name, c.options(s))
	if err != nil {
		return err
	}
	defer closing(img, &err)
	if length < 0 {
		length = math.MaxInt64 - start
	}
	length = max(0, min(length, img.Size()-start))
	if s.json {
		return c.mapJSON(img, start, length)
	}
	return c.mapText(img, start, length)
}

func (c *command) mapText(img *imgopen.Image, start, length int64) error {
	fmt.Fprintf(c.stdout, "%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File")
	for s, err := range statuses(img, start, length) {
		if err != nil {
			return err
		}
		if !s.data || s.zero {
			continue
		}
		if s.offset < 0 {
			return message("File contains external, encrypted or compressed clusters.")
		}
		fmt.Fprintf(c.stdout, "%-16s%-16s%-16s%s\n", hex(s.start), hex(s.length), hex(s.offset), s.file)
	}
	return nil
}

// hex returns n as the C library prints it.
func hex(n int64) string {
	if n == 0 {
		return "0"
	}
	return fmt.Sprintf("%#x", n)
}

func (c *command) mapJSON(img *imgopen.Image, start, length int64) error {
	sep := "["
	line := func(s status) {
		fmt.Fprintf(c.stdout, `%s{ "start": %d, "length": %d, "depth": %d, "present": %v, "zero": %v, "data": %v`,
			sep, s.start, s.length, s.depth, s.present, s.zero, s.data)
		if s.offset >= 0 {
			fmt.Fprintf(c.stdout, `, "offset": %d`, s.offset)
		}
		fmt.Fprint(c.stdout, "}")
		sep = ",\n"
	}
	for s, err := range statuses(img, start, length) {
		if err != nil {
			return err
		}
		line(s)
	}
	if length == 0 {
		line(status{start: start, offset: -1})
	}
	fmt.Fprintln(c.stdout, "]")
	return nil
}
