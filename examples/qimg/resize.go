package main

import (
	"errors"
	"math"
	"os"
	"strings"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/internal/sparse"
	"github.com/virtfmt/virtfmt/qcow2"
)

// A newSize is one that resize gives an image.
type newSize struct {
	sign     byte // '+' or '-' for one relative to what is there, or 0
	bytes    int64
	prealloc qcow2.Preallocation
	shrink   bool
}

// resize runs "qimg resize".
func (c *command) resize(args []string) error {
	var s settings
	var n newSize
	if len(args) < 2 {
		if len(args) == 1 && (args[0] == "-h" || args[0] == "--help") {
			return errHelp
		}
		return usageError("Not enough arguments")
	}
	// The last argument is the size, though it may begin with a minus.
	text := args[len(args)-1]
	opts, operands, err := parse(args[:len(args)-1], "f:q", "object: image-opts preallocation: shrink")
	if err != nil {
		return err
	}
	for _, o := range opts {
		ok, err := s.set(o)
		switch {
		case ok || err != nil:
		case o.name == "shrink":
			n.shrink = true
		default:
			modes := []qcow2.Preallocation{qcow2.PreallocateOff, qcow2.PreallocateMetadata, qcow2.PreallocateFalloc, qcow2.PreallocateFull}
			err = messagef("Invalid preallocation mode '%s'", o.value)
			for _, m := range modes {
				if m.String() == o.value {
					n.prealloc, err = m, nil
				}
			}
		}
		if err != nil {
			return err
		}
	}
	if len(operands) != 1 {
		return usageError("Expecting image file name and size")
	}
	if strings.HasPrefix(text, "+") || strings.HasPrefix(text, "-") {
		n.sign, text = text[0], text[1:]
	}
	n.bytes, err = imgopen.ParseSize(text)
	switch {
	case errors.Is(err, imgopen.ErrSizeRange):
		n.bytes = math.MaxInt64
	case err != nil:
		return message("Parameter 'size' expects a non-negative number below 2^64\n" +
			"Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.")
	}
	if err := c.resizeImage(operands[0], &s, n); err != nil {
		return err
	}
	c.say(&s, "Image resized.\n")
	return nil
}

func (c *command) resizeImage(name string, s *settings, n newSize) (err error) {
	o := c.writing(s)
	img, err := c.open(name, o)
	if err != nil {
		return err
	}
	defer closing(img, &err)
	old, size := img.Size(), n.bytes
	switch n.sign {
	case '+':
		size = old + n.bytes
	case '-':
		size = old - n.bytes
	}
	switch {
	case size <= 0 || n.bytes == math.MaxInt64:
		return message("New image size must be positive")
	case size <= old && n.prealloc != qcow2.PreallocateOff:
		return message("Preallocation can only be used for growing images")
	case size < old && !n.shrink:
		c.warn("qimg: warning: Shrinking an image will delete all data beyond the shrunken image's end. " +
			"Before performing such an operation, make sure there is no important data there.")
		return message("Use the --shrink option to perform a shrink operation.")
	}
	switch {
	case img.Qcow2 != nil && size%512 != 0:
		return message("The new size must be a multiple of 512")
	case img.Qcow2 != nil:
		return img.Qcow2.Resize(c.ctx, size, &qcow2.ResizeOptions{Shrink: n.shrink, Preallocation: n.prealloc})
	case img.Qed != nil && size < old:
		return message("Shrinking images is currently not supported")
	case img.Qed != nil && n.prealloc != qcow2.PreallocateOff:
		return messagef("Unsupported preallocation mode '%v'", n.prealloc)
	case img.Qed != nil:
		return img.Qed.Resize(size)
	case img.Raw != nil:
		return resizeRaw(img.Raw, old, size, n.prealloc)
	}
	return message("Image format driver does not support resize")
}

// resizeRaw gives a raw image another size.
func resizeRaw(f imgopen.File, old, size int64, prealloc qcow2.Preallocation) error {
	file, ok := f.(*os.File)
	if ok {
		if fi, err := file.Stat(); err != nil || !fi.Mode().IsRegular() {
			return errors.Join(err, message("Cannot resize device files"))
		}
	}
	switch prealloc {
	case qcow2.PreallocateMetadata:
		return messagef("Unsupported preallocation mode: %v", prealloc)
	case qcow2.PreallocateFalloc:
		if !ok {
			return messagef("Unsupported preallocation mode: %v", prealloc)
		}
		return sparse.Reserve(file, old, size-old)
	case qcow2.PreallocateFull:
		return writeZeros(f, old, size-old)
	}
	return f.Truncate(size)
}
