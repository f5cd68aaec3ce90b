package spapr

import (
	"encoding/binary"
	"strings"
)

// rtasStub is the code that firmware places for RTAS: it turns a call of it,
// with the parameter block's address in r3, into the hypercall H_RTAS.
var rtasStub = [...]uint32{
	0x7c641b78, // mr  r4, r3
	0x3c600000, // lis r3, 0
	0x6063f000, // ori r3, r3, 0xf000
	0x44000022, // sc  1
	0x4e800020, // blr
}

// RTASStub returns the 20 bytes of code to place in guest memory, at what
// becomes the address linux,rtas-entry.
func RTASStub() []byte {
	var b []byte
	for _, v := range rtasStub {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// A Property is one of a node of the device tree, its value as the tree holds
// it: numbers in big-endian cells of 32 bits, strings ending with a zero.
type Property struct {
	Name  string
	Value []byte
}

// What /rtas says of events: the guest is to scan for them once a minute, and
// a log is no longer than this.
const (
	eventScanRate = 1
	errorLogMax   = 2048
)

// Properties returns the properties of the device tree's node /rtas for this
// machine, with the stub at base: the functions of the hypervisor, where RTAS
// is, and the token of each service for which the machine has what it needs.
func (m *Machine) Properties(base uint32) []Property {
	stub := uint32(4 * len(rtasStub))
	props := []Property{
		{"ibm,hypertas-functions", stringList("hcall-term", "hcall-copy", "hcall-debug")},
		{"qemu,hypertas-functions", stringList("hcall-memop1")},
		cell("rtas-event-scan-rate", eventScanRate),
		cell("rtas-error-log-max", errorLogMax),
		cell("rtas-size", stub),
		cell("linux,rtas-base", base),
		cell("linux,rtas-entry", base),
	}
	for _, e := range m.services().entries {
		if e.call != nil && (e.there == nil || e.there(m)) {
			props = append(props, cell(e.name, e.token))
		}
	}
	return props
}

func cell(name string, v uint32) Property {
	return Property{name, binary.BigEndian.AppendUint32(nil, v)}
}

func stringList(s ...string) []byte { return []byte(strings.Join(s, "\x00") + "\x00") }

// TokenOf returns a function for [Guest.Token] that finds tokens among the
// properties of /rtas, as an operating system does.
func TokenOf(props []Property) func(service string) (token uint32, ok bool) {
	return func(service string) (uint32, bool) {
		for _, p := range props {
			if p.Name == service && len(p.Value) == 4 {
				return binary.BigEndian.Uint32(p.Value), true
			}
		}
		return 0, false
	}
}
