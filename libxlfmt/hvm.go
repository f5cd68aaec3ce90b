package libxlfmt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/virtfmt/virtfmt/internal/cursor"
)

// An HVMParam is a parameter of an HVM domain: its number in Xen's interface,
// and its value.
type HVMParam struct {
	Index uint64
	Value uint64
}

// hvmParamNames are those of Xen's public interface.
var hvmParamNames = map[uint64]string{
	0: "CALLBACK_IRQ", 1: "STORE_PFN", 2: "STORE_EVTCHN", 4: "PAE_ENABLED", 5: "IOREQ_PFN", 6: "BUFIOREQ_PFN",
	9: "VIRIDIAN", 10: "TIMER_MODE", 11: "HPET_ENABLED", 12: "IDENT_PT", 14: "ACPI_S_STATE", 15: "VM86_TSS",
	16: "VPT_ALIGN", 17: "CONSOLE_PFN", 18: "CONSOLE_EVTCHN", 19: "ACPI_IOPORTS_LOCATION", 24: "NESTEDHVM",
	27: "PAGING_RING_PFN", 28: "MONITOR_RING_PFN", 29: "SHARING_RING_PFN", 32: "IOREQ_SERVER_PFN",
	33: "NR_IOREQ_SERVER_PAGES", 34: "VM_GENERATION_ID_ADDR", 35: "ALTP2M", 36: "X87_FIP_WIDTH",
	37: "VM86_TSS_SIZED", 38: "MCA_CAP",
}

// Name returns the name of the parameter in Xen's interface, such as
// STORE_PFN, or its number.
func (p HVMParam) Name() string {
	if n, ok := hvmParamNames[p.Index]; ok {
		return n
	}
	return fmt.Sprint(p.Index)
}

// An HVMParams is the body of HVM_PARAMS.
//
//	u32 count | u32 zero | { u64 index | u64 value }[count]
type HVMParams []HVMParam

// Type returns [TypeHVMParams].
func (HVMParams) Type() Type { return TypeHVMParams }

// AppendBody appends the body.
func (p HVMParams) AppendBody(b []byte, o binary.AppendByteOrder) []byte {
	b = o.AppendUint32(o.AppendUint32(b, uint32(len(p))), 0)
	for _, x := range p {
		b = o.AppendUint64(o.AppendUint64(b, x.Index), x.Value)
	}
	return b
}

func decodeHVMParams(c *cursor.Cursor) (HVMParams, error) {
	count := c.Uint32()
	c.Skip(4)
	if c.Err() == nil && int64(c.Len()) != int64(count)*hvmParamSize {
		return nil, fmt.Errorf("%d parameters in %d bytes", count, c.Len())
	}
	p := make(HVMParams, c.Len()/hvmParamSize)
	for i := range p {
		p[i] = HVMParam{c.Uint64(), c.Uint64()}
	}
	return p, c.Err()
}

// An HVMContext is the body of HVM_CONTEXT: the state of the processors and
// of the devices that Xen itself models, as entries.
type HVMContext struct {
	Data      []byte
	BigEndian bool // byte order of the entries
}

// Type returns [TypeHVMContext].
func (HVMContext) Type() Type { return TypeHVMContext }

// AppendBody appends the body. Data are taken as they are: they must be in the
// byte order of the stream.
func (h HVMContext) AppendBody(b []byte, _ binary.AppendByteOrder) []byte {
	return append(b, h.Data...)
}

const hvmEntryHead = 8

// An HVMEntry is the state of one device or one aspect of a processor in
// HVM_CONTEXT.
//
//	u16 type code | u16 instance | u32 length | data
type HVMEntry struct {
	TypeCode uint16 // 0 ends the context
	Instance uint16 // of the processor or the device
	Offset   int    // of Data in the body
	Data     []byte
}

// hvmEntryNames are those of Xen's public interface.
var hvmEntryNames = [...]string{"END", "HEADER", "CPU", "PIC", "IOAPIC", "LAPIC", "LAPIC_REGS", "PCI_IRQ", "ISA_IRQ",
	"PCI_LINK", "PIT", "RTC", "HPET", "PMTIMER", "MTRR", "VIRIDIAN_DOMAIN", "CPU_XSAVE", "VIRIDIAN_VCPU", "VMCE_VCPU",
	"TSC_ADJUST", "CPU_MSR"}

// Name returns the name of the type code in Xen's interface, such as HPET, or
// its number.
func (e HVMEntry) Name() string {
	if int(e.TypeCode) < len(hvmEntryNames) {
		return hvmEntryNames[e.TypeCode]
	}
	return fmt.Sprint(e.TypeCode)
}

var errHVMContext = errors.New("HVM context ends inside an entry")

// Entries yields the entries up to and including END, type code 0. Their data
// are views of Data. A context that ends early, or goes on behind END, yields
// an error last.
func (h HVMContext) Entries() iter.Seq2[HVMEntry, error] {
	return func(yield func(HVMEntry, error) bool) {
		o := byteOrder(h.BigEndian)
		for at := 0; ; {
			if len(h.Data)-at < hvmEntryHead {
				yield(HVMEntry{}, fmt.Errorf("libxlfmt: at %#x: %w", at, errHVMContext))
				return
			}
			head := h.Data[at:]
			e := HVMEntry{TypeCode: o.Uint16(head), Instance: o.Uint16(head[2:]), Offset: at + hvmEntryHead}
			n := o.Uint32(head[4:])
			if int64(n) > int64(len(h.Data)-e.Offset) {
				yield(HVMEntry{}, fmt.Errorf("libxlfmt: at %#x, length %d: %w", at, n, errHVMContext))
				return
			}
			at = e.Offset + int(n)
			e.Data = h.Data[e.Offset:at:at]
			if !yield(e, nil) {
				return
			}
			if e.TypeCode == 0 {
				if at != len(h.Data) {
					yield(HVMEntry{}, fmt.Errorf("libxlfmt: HVM context: %d bytes behind its end", len(h.Data)-at))
				}
				return
			}
		}
	}
}
