package libxlfmt

import (
	"encoding/binary"
	"fmt"
)

// An EmulatorID tells which device model a record belongs to (Draft B,
// "EMULATOR_CONTEXT").
type EmulatorID uint32

const (
	// EmulatorUnknown is the device model of a converted stream.
	EmulatorUnknown EmulatorID = 0
	// EmulatorQemuTrad is Xen's old fork of QEMU.
	EmulatorQemuTrad EmulatorID = 1
	// EmulatorQemu is QEMU; Xen writes no other.
	EmulatorQemu EmulatorID = 2

	lastEmulator = EmulatorQemu
)

// String returns unknown, qemu-traditional or qemu.
func (id EmulatorID) String() string {
	switch id {
	case EmulatorUnknown:
		return "unknown"
	case EmulatorQemuTrad:
		return "qemu-traditional"
	case EmulatorQemu:
		return "qemu"
	}
	return fmt.Sprintf("emulator %d", uint32(id))
}

// An Emulator is the sub-header of the records of a device model. Xen writes
// index 0 and reads neither field.
type Emulator struct {
	ID    EmulatorID
	Index uint32 // where a domain has several
}

func (e Emulator) append(b []byte, o binary.AppendByteOrder) []byte {
	b = o.AppendUint32(b, uint32(e.ID))
	return o.AppendUint32(b, e.Index)
}

func decodeEmulator(o binary.ByteOrder, b []byte) Emulator {
	return Emulator{EmulatorID(o.Uint32(b)), o.Uint32(b[4:])}
}

// An EmulatorState is the body of EMULATOR_CONTEXT: what a device model
// saved, in its own format.
type EmulatorState struct {
	Emulator
	State []byte
}

// Type returns [TypeEmulator].
func (EmulatorState) Type() Type { return TypeEmulator }

// AppendBody appends the body.
func (s EmulatorState) AppendBody(b []byte, o binary.AppendByteOrder) []byte {
	return append(s.Emulator.append(b, o), s.State...)
}

// A CheckpointState is the body of CHECKPOINT_STATE: how far the two sides of
// COLO are.
type CheckpointState uint32

const (
	// StateNew asks for a new checkpoint.
	StateNew CheckpointState = iota
	// StateSuspended tells that the secondary is suspended.
	StateSuspended
	// StateReady tells that the secondary is ready.
	StateReady
	// StateResumed tells that the secondary runs again.
	StateResumed

	lastState = uint32(StateResumed)
)

var stateNames = [...]string{"NEW", "SVM_SUSPENDED", "SVM_READY", "SVM_RESUMED"}

// String returns NEW, SVM_SUSPENDED, SVM_READY or SVM_RESUMED.
func (s CheckpointState) String() string {
	if int64(s) < int64(len(stateNames)) {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", uint32(s))
}

// Type returns [TypeCheckpointState].
func (CheckpointState) Type() Type { return TypeCheckpointState }

// AppendBody appends the body.
func (s CheckpointState) AppendBody(b []byte, o binary.AppendByteOrder) []byte {
	return o.AppendUint32(b, uint32(s))
}
