package main

import (
	"context"
	"fmt"
	"os"

	"github.com/virtfmt/virtfmt/internal/align"
	"github.com/virtfmt/virtfmt/internal/sparse"
	"github.com/virtfmt/virtfmt/qcow2"
)

func (s *session) truncate(v *verb, args []string) {
	given, operands, ok := s.parse(v, args, "m:", 0, -1)
	if !ok {
		return
	}
	mode := qcow2.PreallocateOff
	for _, o := range given {
		mode, ok = map[string]qcow2.Preallocation{
			"off": qcow2.PreallocateOff, "metadata": qcow2.PreallocateMetadata,
			"falloc": qcow2.PreallocateFalloc, "full": qcow2.PreallocateFull,
		}[o.Value]
		if !ok {
			s.fail("qio: Invalid preallocation mode '%s'\n", o.Value)
			return
		}
	}
	if len(operands) == 0 {
		s.synopsis(v)
		return
	}
	size, ok := s.number(operands[0])
	if !ok {
		return
	}
	if err := s.resize(size, mode); err != nil {
		s.fail("qio: %v\n", err)
	}
}

func (s *session) resize(size int64, mode qcow2.Preallocation) error {
	switch img := s.img; {
	case img.Qcow2 != nil && size%512 != 0:
		return refusal("The new size must be a multiple of 512")
	case img.Qcow2 != nil:
		return img.Qcow2.Resize(context.Background(), size, &qcow2.ResizeOptions{Preallocation: mode, Shrink: true})
	case img.Qed == nil:
		return s.resizeRaw(size, mode)
	case mode != qcow2.PreallocateOff:
		return refusal(fmt.Sprintf("Unsupported preallocation mode '%s'", mode))
	case size%512 != 0:
		return refusal("Invalid image size specified")
	case size < img.Size():
		return refusal("Shrinking images is currently not supported")
	default:
		return img.Qed.Resize(size)
	}
}

// resizeRaw resizes a raw image.
func (s *session) resizeRaw(size int64, mode qcow2.Preallocation) error {
	f, whole := s.img.Raw.(*os.File)
	old := s.img.Size()
	size = align.Up(size, 512)
	switch {
	case size < 0:
		return refusal("The image size is too large")
	case mode == qcow2.PreallocateMetadata || mode != qcow2.PreallocateOff && !whole:
		return refusal(fmt.Sprintf("Unsupported preallocation mode: %s", mode))
	case mode != qcow2.PreallocateOff && size < old:
		return refusal("Cannot use preallocation for shrinking files")
	}
	err := s.img.Raw.Truncate(size)
	switch {
	case err != nil || size <= old:
	case mode == qcow2.PreallocateFalloc:
		err = sparse.Reserve(f, old, size-old)
	case mode == qcow2.PreallocateFull:
		err = s.zeroAt(old, size-old, false)
	}
	if err != nil {
		return err
	}
	s.openAgain(s.how) // for the size
	return nil
}
