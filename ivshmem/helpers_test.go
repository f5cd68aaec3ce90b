package ivshmem_test

import (
	"encoding/binary"
	"fmt"
)

// access reads size bytes with one of a device's read methods, as a number.
func access(read func(uint64, []byte), off uint64, size int) uint64 {
	var b [8]byte
	read(off, b[:size])
	return binary.LittleEndian.Uint64(b[:])
}

// bytesOf returns the low bytes of v.
func bytesOf(v uint64, size int) []byte { return binary.LittleEndian.AppendUint64(nil, v)[:size] }

func hex32(v uint64) string { return fmt.Sprintf("0x%08x", v) }
