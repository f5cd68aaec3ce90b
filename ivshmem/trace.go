package ivshmem

import "fmt"

// A TraceEvent is one thing that a [Device] was asked or did; String tells it
// in words.
type TraceEvent struct {
	Kind  TraceKind
	Space Space  // of an access
	Off   uint64 // of an access in its space; of a message, the address
	Size  int    // of an access, bytes
	Value uint64 // of an access, the first 8 bytes; of a message, the data; of the pin, the level
	Peer  uint16 // who is rung
	// Vector is which interrupt is rung, sent, pending or lost.
	Vector uint16
}

// A TraceKind is a kind of [TraceEvent].
type TraceKind uint8

// What a TraceEvent tells.
const (
	TraceRead    TraceKind = iota // the guest read Value
	TraceWrite                    // the guest writes Value; what it causes follows
	TraceReset                    // the device is reset
	TraceRing                     // the doorbell rings Vector of Peer
	TraceMessage                  // the message of Vector is sent
	TracePending                  // Vector is pending, being masked
	TraceLost                     // Vector is lost: MSI-X is disabled, or the device is not bus master
	TraceLine                     // the interrupt pin moves to level Value
)

var traceKindNames = [...]string{"read", "write", "reset", "ring", "message", "pending", "lost", "pin"}

// String returns the kind in a word, such as "ring".
func (k TraceKind) String() string {
	if int(k) < len(traceKindNames) {
		return traceKindNames[k]
	}
	return fmt.Sprintf("TraceKind(%d)", uint8(k))
}

// A Space is where a guest's access lands.
type Space uint8

// The spaces of the device.
const (
	SpaceRegisters Space = iota // BAR0
	SpaceMSIX                   // BAR1
	SpaceShared                 // BAR2
	SpaceConfig                 // PCI configuration space
)

var spaceNames = [...]string{"BAR0", "BAR1", "BAR2", "config"}

// String returns "BAR0", "BAR1", "BAR2" or "config".
func (s Space) String() string {
	if int(s) < len(spaceNames) {
		return spaceNames[s]
	}
	return fmt.Sprintf("Space(%d)", uint8(s))
}

// String tells the event, as in "write BAR0+0xc, 4 bytes: Doorbell = 0x10002".
func (e TraceEvent) String() string {
	switch e.Kind {
	case TraceRead:
		return "read " + e.access()
	case TraceWrite:
		return "write " + e.access()
	case TraceReset:
		return "reset"
	case TraceRing:
		return fmt.Sprintf("ring peer %d, vector %d", e.Peer, e.Vector)
	case TraceMessage:
		return fmt.Sprintf("vector %d: message %#x to %#x", e.Vector, e.Value, e.Off)
	case TracePending:
		return fmt.Sprintf("vector %d: pending", e.Vector)
	case TraceLost:
		return fmt.Sprintf("vector %d: lost", e.Vector)
	case TraceLine:
		return fmt.Sprintf("pin: level %d", e.Value)
	}
	return e.Kind.String()
}

func (e TraceEvent) access() string {
	s := fmt.Sprintf("%v+%#x, %d bytes: ", e.Space, e.Off, e.Size)
	if name := registerName(e.Space, e.Off); name != "" {
		s += name + " = "
	}
	return s + fmt.Sprintf("%#x", e.Value)
}

// registerName names what lies at an offset, where it has a name.
func registerName(space Space, off uint64) string {
	switch space {
	case SpaceRegisters:
		return registerNames[off]
	case SpaceConfig:
		return configNames[off]
	}
	return ""
}

var registerNames = map[uint64]string{
	RegIntrMask:   "Interrupt Mask",
	RegIntrStatus: "Interrupt Status",
	RegIVPosition: "IVPosition",
	RegDoorbell:   "Doorbell",
}

var configNames = map[uint64]string{
	cfgID:          "vendor and device",
	cfgCommand:     "command",
	cfgCommand + 2: "status",
	cfgClass:       "revision and class",
	cfgBAR0:        "BAR0",
	cfgBAR1:        "BAR1",
	cfgBAR2:        "BAR2",
	cfgBAR3:        "BAR2, upper half",
	cfgSubsystem:   "subsystem",
	cfgCap:         "capabilities",
	cfgInterrupt:   "interrupt line and pin",
	capControl:     "MSI-X capability",
	capControl + 2: "MSI-X control",
}

// traceAccess tells Trace of an access.
//
// Preconditions: d.Trace is not nil.
func (d *Device) traceAccess(kind TraceKind, space Space, off uint64, p []byte) {
	var v uint64
	for i, b := range p[:min(len(p), 8)] {
		v |= uint64(b) << (8 * i)
	}
	d.Trace(TraceEvent{Kind: kind, Space: space, Off: off, Size: len(p), Value: v})
}
