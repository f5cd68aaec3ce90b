// Package zstd encodes a slice as one Zstandard frame (RFC 8878), at once.
//
// A cluster of a disk image is whole in memory and short. So there is no
// window to keep and no stream to cut, and the tables that matches are found
// with are as small as the input: that takes about six tenths of the time of an
// encoder for streams that finds as much.
package zstd

import "encoding/binary"

// An Encoder holds the tables and buffers of encoding, which grow with what is
// encoded, to about 2 MiB for inputs of 2 MiB, so that they can be used again.
// The zero value is ready. An Encoder is not safe for concurrent use.
type Encoder struct {
	finder  finder
	repeats repeats
	seqs    sequenceWriter
	lits    literalWriter
}

const (
	frameMagic = 0xfd2fb528
	maxBlock   = 128 << 10 // bytes of a block
	maxInput   = 1 << 30
)

// Kinds of blocks. RFC 8878 3.1.1.2.2.
const (
	rawBlock        = 0
	runBlock        = 1
	compressedBlock = 2
)

// Encode appends a frame that holds src to dst: a single segment with its
// size, without a checksum or a dictionary. The same src gives the same frame.
// Once the Encoder has encoded as much as src, and dst has room, a call does
// not allocate.
//
// Preconditions: len(src) <= 1 GiB.
func (e *Encoder) Encode(dst, src []byte) []byte {
	if len(src) > maxInput {
		panic("zstd: input of more than 1 GiB")
	}
	dst = appendHeader(dst, len(src))
	e.finder.reset(src)
	e.repeats = repeats{1, 4, 8} // RFC 8878 3.1.1.5
	for start := 0; ; {
		end := min(start+maxBlock, len(src))
		dst = e.block(dst, src, start, end, end == len(src))
		if start = end; start == len(src) {
			return dst
		}
	}
}

// appendHeader appends the header of a frame. RFC 8878 3.1.1.1.
func appendHeader(dst []byte, size int) []byte {
	const single = 0x20
	dst = binary.LittleEndian.AppendUint32(dst, frameMagic)
	switch {
	case size < 256:
		return append(dst, single, byte(size))
	case size < 65536+256:
		return binary.LittleEndian.AppendUint16(append(dst, single|1<<6), uint16(size-256))
	}
	return binary.LittleEndian.AppendUint32(append(dst, single|2<<6), uint32(size))
}

// block appends the block src[start:end], in the form that is shortest.
func (e *Encoder) block(dst, src []byte, start, end int, last bool) []byte {
	n := end - start
	at := len(dst)
	kind, size := rawBlock, n
	if n > 1 && isRun(src[start:end]) {
		kind = runBlock
		dst = append(dst, 0, 0, 0, src[start])
	} else {
		before := e.repeats
		dst = append(dst, 0, 0, 0)
		if dst = e.compress(dst, src, start, end); len(dst)-at-3 < n && n > 0 {
			kind, size = compressedBlock, len(dst)-at-3
		} else {
			e.repeats = before // a raw block leaves them as they are
			dst = append(dst[:at+3], src[start:end]...)
		}
	}
	header := uint32(kind)<<1 | uint32(size)<<3
	if last {
		header |= 1
	}
	dst[at], dst[at+1], dst[at+2] = byte(header), byte(header>>8), byte(header>>16)
	return dst
}

// isRun reports whether all bytes of p are the same.
func isRun(p []byte) bool {
	return p[0] == p[len(p)-1] && string(p[1:]) == string(p[:len(p)-1])
}

// compress appends the content of a compressed block. It may stop early where
// the result is no shorter than the input.
func (e *Encoder) compress(dst, src []byte, start, end int) []byte {
	literals, seqs := e.finder.find(src, start, end, &e.repeats)
	dst = e.lits.append(dst, literals)
	return e.seqs.append(dst, seqs)
}
