package ivshmem

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The protocol runs over a Unix stream socket, from server to client only. A
// message is one signed 64-bit number, little-endian, and at most one file
// descriptor with it. (Spec: The ivshmem Client-Server Protocol.)
const (
	messageSize     = 8
	protocolVersion = 0
	sharedMemory    = -1 // the message that carries the shared memory

	// refusal is sent in place of the version to a client that is not let in.
	// A client closes the connection on a version that it cannot handle; QEMU
	// exits with an error. Closing without a word instead makes QEMU 7.2 and
	// 10.0 spin for ever at startup.
	refusal = -1
)

func encodeMessage(num int64) [messageSize]byte {
	var b [messageSize]byte
	binary.LittleEndian.PutUint64(b[:], uint64(num))
	return b
}

func decodeMessage(b [messageSize]byte) int64 { return int64(binary.LittleEndian.Uint64(b[:])) }

// A protocolState follows what a server says, message by message. It knows no
// sockets.
type protocolState struct {
	stage protocolStage
	id    uint16
	off   int64 // of the next message
}

type protocolStage uint8

const (
	stageVersion protocolStage = iota
	stageID
	stageMemory // peers may come before the memory, as QEMU lets them
	stagePeers
)

// A meaning is what a message says.
type meaning struct {
	kind messageKind
	id   uint16
}

type messageKind uint8

const (
	msgNone       messageKind = iota
	msgMemory                 // the descriptor is the shared memory
	msgConnect                // the descriptor is the next vector of peer id
	msgDisconnect             // peer id is gone
)

var (
	errDescriptor   = errors.New("comes with a file descriptor")
	errNoDescriptor = errors.New("comes without its file descriptor")
	errDescriptors  = errors.New("comes with more than one file descriptor")
)

// field names the message that is expected next.
func (p *protocolState) field() string {
	return [...]string{"version", "id", "shared memory", "notification"}[p.stage]
}

// next returns what a message means, or how it breaks the protocol.
func (p *protocolState) next(num int64, descriptor bool) (meaning, error) {
	m, field, err := p.interpret(num, descriptor)
	if err != nil {
		return meaning{}, &FormatError{Offset: p.off, Field: field, Err: err}
	}
	p.off += messageSize
	return m, nil
}

func (p *protocolState) interpret(num int64, descriptor bool) (m meaning, field string, err error) {
	switch p.stage {
	case stageVersion:
		switch {
		case num == refusal:
			err = fmt.Errorf("the server refuses, sending version %d: %w", num, errors.ErrUnsupported)
		case num != protocolVersion:
			err = fmt.Errorf("version %d, want %d: %w", num, protocolVersion, errors.ErrUnsupported)
		case descriptor:
			err = errDescriptor
		}
		p.stage = stageID
		return meaning{}, "version", err
	case stageID:
		switch {
		case num < 0 || num > MaxID:
			err = fmt.Errorf("id %d, want 0 to %d", num, MaxID)
		case descriptor:
			err = errDescriptor
		}
		p.stage, p.id = stageMemory, uint16(num)
		return meaning{}, "id", err
	}
	if num == sharedMemory {
		switch {
		case p.stage == stagePeers:
			err = errors.New("sent a second time")
		case !descriptor:
			err = errNoDescriptor
		}
		p.stage = stagePeers
		return meaning{kind: msgMemory}, "shared memory", err
	}
	m = meaning{kind: msgConnect, id: uint16(num)}
	switch {
	case num < 0 || num > MaxID:
		err = fmt.Errorf("id %d, want 0 to %d", num, MaxID)
	case !descriptor && m.id == p.id:
		err = fmt.Errorf("id %d, the client's own, is said to be gone", num)
	case !descriptor:
		m.kind = msgDisconnect
	}
	return m, "notification", err
}
