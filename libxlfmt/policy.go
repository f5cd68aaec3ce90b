package libxlfmt

import (
	"encoding/binary"

	"github.com/virtfmt/virtfmt/internal/cursor"
)

// NoSubleaf is the [CPUIDLeaf.Subleaf] of a leaf that has none.
const NoSubleaf = 0xffffffff

// A CPUIDLeaf is what the CPUID instruction tells the domain.
type CPUIDLeaf struct {
	Leaf, Subleaf      uint32
	EAX, EBX, ECX, EDX uint32
}

// A CPUIDPolicy is the body of X86_CPUID_POLICY (libxc version 3): 24 bytes a
// leaf.
type CPUIDPolicy []CPUIDLeaf

// Type returns [TypeCPUIDPolicy].
func (CPUIDPolicy) Type() Type { return TypeCPUIDPolicy }

// AppendBody appends the body.
func (p CPUIDPolicy) AppendBody(b []byte, o binary.AppendByteOrder) []byte {
	for _, l := range p {
		for _, v := range [...]uint32{l.Leaf, l.Subleaf, l.EAX, l.EBX, l.ECX, l.EDX} {
			b = o.AppendUint32(b, v)
		}
	}
	return b
}

func decodeCPUIDPolicy(c *cursor.Cursor) (CPUIDPolicy, error) {
	p := make(CPUIDPolicy, c.Len()/cpuidLeafSize)
	for i := range p {
		p[i] = CPUIDLeaf{c.Uint32(), c.Uint32(), c.Uint32(), c.Uint32(), c.Uint32(), c.Uint32()}
	}
	return p, whole(c)
}

// An MSR is a model-specific register of the domain.
type MSR struct {
	Index uint32
	Flags uint32 // reserved, 0
	Value uint64
}

// An MSRPolicy is the body of X86_MSR_POLICY (libxc version 3): 16 bytes a
// register.
type MSRPolicy []MSR

// Type returns [TypeMSRPolicy].
func (MSRPolicy) Type() Type { return TypeMSRPolicy }

// AppendBody appends the body.
func (p MSRPolicy) AppendBody(b []byte, o binary.AppendByteOrder) []byte {
	for _, m := range p {
		b = o.AppendUint32(o.AppendUint32(b, m.Index), m.Flags)
		b = o.AppendUint64(b, m.Value)
	}
	return b
}

func decodeMSRPolicy(c *cursor.Cursor) (MSRPolicy, error) {
	p := make(MSRPolicy, c.Len()/msrSize)
	for i := range p {
		p[i] = MSR{c.Uint32(), c.Uint32(), c.Uint64()}
	}
	return p, whole(c)
}

// A TSCInfo is the body of X86_TSC_INFO: how the time stamp counter of the
// domain runs.
//
//	u32 mode | u32 kHz | u64 nanoseconds | u32 incarnation | u32 zero
type TSCInfo struct {
	Mode        uint32
	KHz         uint32
	Nanoseconds uint64
	Incarnation uint32
}

// Type returns [TypeTSCInfo].
func (TSCInfo) Type() Type { return TypeTSCInfo }

// AppendBody appends the body.
func (t TSCInfo) AppendBody(b []byte, o binary.AppendByteOrder) []byte {
	b = o.AppendUint32(o.AppendUint32(b, t.Mode), t.KHz)
	b = o.AppendUint64(b, t.Nanoseconds)
	return o.AppendUint32(o.AppendUint32(b, t.Incarnation), 0)
}
