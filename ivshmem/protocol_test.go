package ivshmem

import (
	"encoding/binary"
	"errors"
	"testing"
)

// FuzzProtocol takes 9 bytes for a message: the number, and whether a
// descriptor comes with it.
func FuzzProtocol(f *testing.F) {
	say := func(b []byte, num int64, fd byte) []byte {
		return append(binary.LittleEndian.AppendUint64(b, uint64(num)), fd)
	}
	start := say(say(say(nil, 0, 0), 5, 0), -1, 1)
	f.Add(start)
	f.Add(say(say(say(start, 2, 1), 5, 1), 2, 0))
	f.Add(say(start, 5, 0))
	f.Add(say(start, -1, 1))
	f.Add(say(nil, -1, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p protocolState
		memory := 0
		for i := int64(0); len(b) >= 9; b, i = b[9:], i+1 {
			num := decodeMessage([messageSize]byte(b))
			m, err := p.next(num, b[8]&1 != 0)
			if encodeMessage(num) != [messageSize]byte(b) {
				t.Fatalf("%d encodes as %x, came as %x", num, encodeMessage(num), b[:8])
			}
			if err != nil {
				if fe, ok := errors.AsType[*FormatError](err); !ok || fe.Offset != i*messageSize {
					t.Fatalf("message %d: %v", i, err)
				}
				return
			}
			switch m.kind {
			case msgMemory:
				memory++
			case msgConnect, msgDisconnect:
				if int64(m.id) != num || (m.kind == msgConnect) != (b[8]&1 != 0) {
					t.Fatalf("message %d, %d, means %+v", i, num, m)
				}
			}
			if memory > 1 || m.kind == msgDisconnect && m.id == p.id || i < 2 && m.kind != msgNone {
				t.Fatalf("message %d, %d, means %+v", i, num, m)
			}
		}
	})
}
