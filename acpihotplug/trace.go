package acpihotplug

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"
)

// EventKind is what an [Event] is about.
type EventKind uint8

// Kinds of events: the guest's accesses, the VMM's calls, and what followed.
const (
	EventRead            EventKind = iota // the guest read the register block
	EventWrite                            // the guest wrote the register block
	EventReadGPE                          // the guest read the GPE block
	EventWriteGPE                         // the guest wrote the GPE block
	EventPlugged                          // the VMM plugged a device in
	EventUnplugRequested                  // the VMM asked for a device to be removed
	EventEjected                          // a slot was emptied
	EventInterrupt                        // the SCI changed its level
	EventReset                            // the machine was reset
)

var eventKindNames = [...]string{
	"read", "write", "read GPE", "write GPE", "plugged", "unplug requested", "ejected", "interrupt", "reset",
}

// String returns the kind in words, such as "unplug requested".
func (k EventKind) String() string {
	if int(k) < len(eventKindNames) {
		return eventKindNames[k]
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// An Event is one thing that happened to a [Device], as its Trace hook is told
// in the order of happening. String tells it in words.
type Event struct {
	Kind EventKind

	// Of accesses: the offset into the block, the number of bytes, their
	// little-endian value (of the first 8), and whether no register was
	// reached.
	Off     uint64
	Width   int
	Value   uint64
	Ignored bool

	// Of accesses to the register block, and of what happens to a slot.
	Bus int
	// Of what happens to a slot.
	Slot int

	// Of EventInterrupt.
	Level bool
}

// traceAccess tells of an access. It is apart from its callers so that they
// cost nothing where nobody traces.
func (d *Device) traceAccess(k EventKind, off uint64, p []byte, ignored bool) {
	e := Event{Kind: k, Off: off, Width: len(p), Ignored: ignored}
	var v [8]byte
	copy(v[:], p)
	e.Value = binary.LittleEndian.Uint64(v[:])
	if k == EventRead || k == EventWrite {
		_, e.Bus = d.bus()
	}
	d.Trace(e)
}

// String returns the event as a line of words, such as
//
//	read 4 bytes at 0x00 (up): 0x00000020, slot 5
func (e Event) String() string {
	switch e.Kind {
	case EventPlugged:
		return fmt.Sprintf("device plugged into %s", e.place())
	case EventUnplugRequested:
		return fmt.Sprintf("removal of the device in %s asked for", e.place())
	case EventEjected:
		return fmt.Sprintf("device in %s ejected", e.place())
	case EventInterrupt:
		if e.Level {
			return "SCI raised"
		}
		return "SCI lowered"
	case EventReset:
		return "machine reset"
	}
	return e.access()
}

func (e Event) place() string { return fmt.Sprintf("bus %d slot %d", e.Bus, e.Slot) }

func (e Event) access() string {
	verb, block := "read", ""
	if e.Kind == EventWrite || e.Kind == EventWriteGPE {
		verb = "write"
	}
	if e.Kind == EventReadGPE || e.Kind == EventWriteGPE {
		block = "GPE+"
	}
	name, meaning := e.meaning()
	return fmt.Sprintf("%s %s at %s0x%02x%s: 0x%0*x%s", verb, count(e.Width, "byte"), block, e.Off, name, 2*min(e.Width, 8), e.Value, meaning)
}

// meaning returns the name of the register in brackets, and what the value
// says, after a comma.
func (e Event) meaning() (name, meaning string) {
	if e.Kind == EventReadGPE || e.Kind == EventWriteGPE {
		if e.Ignored {
			return "", ", past the block"
		}
		return "", ""
	}
	r := registers[min(e.Off/4, uint64(len(registers)-1))]
	if e.Ignored {
		return "", ", reaches no register"
	}
	say := r.read
	if e.Kind == EventWrite {
		say = r.write
	}
	if e.Bus > 0 {
		name = fmt.Sprintf(" (%s, bus %d)", r.name, e.Bus)
	} else {
		name = " (" + r.name + ")"
	}
	return name, ", " + say(uint32(e.Value))
}

// registers holds, in order of offset, what a value read from or written to
// each says.
var registers = [...]struct {
	name        string
	read, write func(v uint32) string
}{
	{"up", slots, readOnly},
	{"down", slots, readOnly},
	{"eject", func(uint32) string { return "base feature set" }, slots},
	{"removable", removable, readOnly},
	{"select", busNumber, busNumber},
	{"index", func(v uint32) string { return fmt.Sprintf("acpi-index %d", v) }, slots},
	{"none", readOnly, readOnly},
}

func readOnly(uint32) string { return "no effect" }

func removable(v uint32) string {
	if v == ^uint32(0) {
		return "all slots"
	}
	return "all but " + slots(^v)
}

func busNumber(v uint32) string {
	if v >= NumBuses {
		return "no bus"
	}
	return fmt.Sprintf("bus %d", v)
}

// slots lists the slots of a bit mask: "no slot", "slot 5", "slots 5 7".
func slots(v uint32) string {
	switch bits.OnesCount32(v) {
	case 0:
		return "no slot"
	case 1:
		return fmt.Sprintf("slot %d", bits.TrailingZeros32(v))
	}
	var s strings.Builder
	s.WriteString("slots")
	for ; v != 0; v &= v - 1 {
		fmt.Fprintf(&s, " %d", bits.TrailingZeros32(v))
	}
	return s.String()
}

func count(n int, of string) string {
	if n != 1 {
		of += "s"
	}
	return fmt.Sprintf("%d %s", n, of)
}
