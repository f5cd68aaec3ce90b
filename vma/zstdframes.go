package vma

import (
	"encoding/binary"
	"io"
	"math"
)

// zstdFrames passes on one frame of a stream of zstd at a time (RFC 8878,
// section 3.1.1). What is no frame is passed on as it is: the decoder says
// what is wrong with it.
type zstdFrames struct {
	r      io.Reader
	failed error // of r, but for io.EOF
	part   framePart
	left   int64    // bytes of the part still to come, above 0
	tail   [4]byte  // the last bytes of the part so far
	last   bool     // the block is the last of the frame
	sum    frameSum // given is known after the descriptor, sum at the end
}

// A framePart is a part of a frame, or of a skippable one before it.
type framePart uint8

const (
	frameMagic      framePart = iota
	frameDescriptor           // what the header has
	frameHeader               // the rest of it
	blockHeader
	blockContent
	frameChecksum // of the content
	frameEnd      // nothing is left
	skippableSize
	skippableContent
	frameUnknown // no frame at all
)

// next goes on to the next frame.
func (f *zstdFrames) next() {
	f.sum = frameSum{}
	f.enter(frameMagic, 4)
}

func (f *zstdFrames) enter(part framePart, size int64) { f.part, f.left = part, size }

// Read reads of one part of the frame. It is at its end where the frame is.
func (f *zstdFrames) Read(p []byte) (int, error) {
	if f.part == frameEnd {
		return 0, io.EOF
	}
	n, err := f.r.Read(p[:min(int64(len(p)), f.left)])
	if err != nil && err != io.EOF {
		f.failed = err
	}
	if have := int64(len(f.tail)) - f.left; have >= 0 {
		copy(f.tail[have:], p[:n])
	}
	f.left -= int64(n)
	for f.left == 0 {
		f.advance()
	}
	return n, err
}

// advance goes on to the part that follows the one that was read.
func (f *zstdFrames) advance() {
	word := binary.LittleEndian.Uint32(f.tail[:])
	switch f.part {
	case frameMagic:
		switch {
		case word == 0xfd2fb528:
			f.enter(frameDescriptor, 1)
		case word&^0xf == 0x184d2a50:
			f.enter(skippableSize, 4)
		default:
			f.enter(frameUnknown, math.MaxInt64)
		}
	case frameDescriptor:
		descriptor := f.tail[3]
		f.sum.given = descriptor>>2&1 != 0
		f.enter(frameHeader, headerRest(descriptor))
	case frameHeader:
		f.enter(blockHeader, 3)
	case blockHeader:
		h := word >> 8
		f.last = h&1 != 0
		if h>>1&3 == 1 { // one byte, repeated
			f.enter(blockContent, 1)
		} else {
			f.enter(blockContent, int64(h>>3))
		}
	case blockContent:
		switch {
		case !f.last:
			f.enter(blockHeader, 3)
		case f.sum.given:
			f.enter(frameChecksum, 4)
		default:
			f.enter(frameEnd, math.MaxInt64)
		}
	case frameChecksum:
		f.sum.sum = word
		f.enter(frameEnd, math.MaxInt64)
	case skippableSize:
		f.enter(skippableContent, int64(word))
	case skippableContent:
		f.enter(frameMagic, 4)
	}
}

// headerRest returns how many bytes follow the descriptor of a frame in its
// header: the window, the number of the dictionary and the size of the content.
func headerRest(descriptor byte) int64 {
	single := descriptor>>5&1 != 0
	n := [4]int64{0, 1, 2, 4}[descriptor&3]
	if !single {
		n++
	}
	if size := descriptor >> 6; size != 0 || single {
		n += 1 << size
	}
	return n
}
