package libxlfmt

import (
	"encoding/binary"
	"fmt"

	"github.com/virtfmt/virtfmt/internal/align"
)

// A Layer is the part of a stream that a record belongs to. Each layer numbers
// its records by itself.
type Layer uint8

const (
	// LayerLibxl is what libxl writes around the stream of libxc.
	LayerLibxl Layer = iota
	// LayerLibxc is the stream of libxc: memory and processor state.
	LayerLibxc
	// LayerXenopsd is the sections of a xenopsd image.
	LayerXenopsd
)

var layerNames = [...]string{"libxl", "libxc", "xenopsd"}

// String returns libxl, libxc or xenopsd.
func (l Layer) String() string {
	if int(l) < len(layerNames) {
		return layerNames[l]
	}
	return fmt.Sprintf("layer(%d)", uint8(l))
}

// A Type is the kind of a record: its layer, and its number there.
type Type uint64

const (
	layerShift = 32
	libxc      = Type(LayerLibxc) << layerShift
	xenopsd    = Type(LayerXenopsd) << layerShift
	optional   = 1 << 31
)

// Records of the libxl layer (Draft B, "Records"; 4 and 5 came with the final
// revision, which also renamed XENSTORE_DATA).
const (
	TypeEnd             Type = iota // END: the stream is complete
	TypeLibxcContext                // LIBXC_CONTEXT: the stream of libxc follows
	TypeXenstore                    // EMULATOR_XENSTORE_DATA, in Draft B XENSTORE_DATA: a [Xenstore]
	TypeEmulator                    // EMULATOR_CONTEXT: an [EmulatorState]
	TypeCheckpointEnd               // CHECKPOINT_END: back to the stream of libxc
	TypeCheckpointState             // CHECKPOINT_STATE: a [CheckpointState]
)

// Records of the libxc layer, versions 2 and 3.
const (
	TypeLibxcEnd      Type = libxc + iota // END: back to the libxl layer
	TypePageData                          // PAGE_DATA: a [PageBatch]
	TypePVInfo                            // X86_PV_INFO: a [PVInfo]
	TypeP2MFrames                         // X86_PV_P2M_FRAMES: a [P2MFrames]
	TypeVCPUBasic                         // X86_PV_VCPU_BASIC: a [VCPU]
	TypeVCPUExtended                      // X86_PV_VCPU_EXTENDED: a [VCPU]
	TypeVCPUXSave                         // X86_PV_VCPU_XSAVE: a [VCPU]
	TypeSharedInfo                        // SHARED_INFO: a [SharedInfo]
	TypeTSCInfo                           // X86_TSC_INFO: a [TSCInfo]
	TypeHVMContext                        // HVM_CONTEXT: an [HVMContext]
	TypeHVMParams                         // HVM_PARAMS: an [HVMParams]
	TypeToolstack                         // TOOLSTACK: no longer written or read
	TypeVCPUMSRs                          // X86_PV_VCPU_MSRS: a [VCPU]
	TypeVerify                            // VERIFY: memory that follows repeats what was sent
	TypeCheckpoint                        // CHECKPOINT: to the libxl records of a checkpoint
	TypeDirtyPFNs                         // CHECKPOINT_DIRTY_PFN_LIST: a [DirtyPFNs], on the back channel only
	TypeStaticDataEnd                     // STATIC_DATA_END: what does not change while the guest runs is complete
	TypeCPUIDPolicy                       // X86_CPUID_POLICY: a [CPUIDPolicy]
	TypeMSRPolicy                         // X86_MSR_POLICY: an [MSRPolicy]
)

// Sections of a xenopsd image.
const (
	TypeSectionXenops      = xenopsd + 0x000f // what xenopsd knows of the domain
	TypeSectionLibxc       = xenopsd + 0x00f0 // the stream of libxc follows
	TypeSectionLibxl       = xenopsd + 0x00f1 // a stream of libxl follows
	TypeSectionLibxcLegacy = xenopsd + 0x00f2 // a stream of Xen 4.5 or older follows
	TypeSectionQemuTrad    = xenopsd + 0x0f00 // state of the traditional device model
	TypeSectionQemuXen     = xenopsd + 0x0f01 // state of QEMU
	TypeSectionDemu        = xenopsd + 0x0f10 // state of the graphics emulator
	TypeSectionEnd         = xenopsd + 0xffff // the image is complete
)

var libxlNames = [...]string{"END", "LIBXC_CONTEXT", "EMULATOR_XENSTORE_DATA", "EMULATOR_CONTEXT", "CHECKPOINT_END",
	"CHECKPOINT_STATE"}

var libxcNames = [...]string{"END", "PAGE_DATA", "X86_PV_INFO", "X86_PV_P2M_FRAMES", "X86_PV_VCPU_BASIC",
	"X86_PV_VCPU_EXTENDED", "X86_PV_VCPU_XSAVE", "SHARED_INFO", "X86_TSC_INFO", "HVM_CONTEXT", "HVM_PARAMS",
	"TOOLSTACK", "X86_PV_VCPU_MSRS", "VERIFY", "CHECKPOINT", "CHECKPOINT_DIRTY_PFN_LIST", "STATIC_DATA_END",
	"X86_CPUID_POLICY", "X86_MSR_POLICY"}

var sectionNames = map[Type]string{
	TypeSectionXenops: "XENOPS", TypeSectionLibxc: "LIBXC", TypeSectionLibxl: "LIBXL",
	TypeSectionLibxcLegacy: "LIBXC_LEGACY", TypeSectionQemuTrad: "QEMU_TRAD", TypeSectionQemuXen: "QEMU_XEN",
	TypeSectionDemu: "DEMU", TypeSectionEnd: "END",
}

// NewType returns the type of the record that carries the number code in
// layer l.
func NewType(l Layer, code uint32) Type { return Type(l)<<layerShift | Type(code) }

// Layer returns the layer that t belongs to.
func (t Type) Layer() Layer { return Layer(t >> layerShift) }

// Code returns the number of t in its layer.
func (t Type) Code() uint32 { return uint32(t) }

// Optional reports whether a reader that does not know t may pass over it.
func (t Type) Optional() bool { return t&optional != 0 && t.Layer() != LayerXenopsd }

// Known reports whether t is a record that this package knows.
func (t Type) Known() bool { return t.name() != "" }

// isVCPU reports whether t holds state of a processor of a PV domain.
func (t Type) isVCPU() bool {
	return t == TypeVCPUBasic || t == TypeVCPUExtended || t == TypeVCPUXSave || t == TypeVCPUMSRs
}

func (t Type) name() string {
	switch c := t.Code(); t.Layer() {
	case LayerLibxl:
		if c < uint32(len(libxlNames)) {
			return libxlNames[c]
		}
	case LayerLibxc:
		if c < uint32(len(libxcNames)) {
			return libxcNames[c]
		}
	case LayerXenopsd:
		return sectionNames[t]
	}
	return ""
}

// String returns the name of t in the specification, such as
// EMULATOR_CONTEXT, or its number, such as 0x80000001.
func (t Type) String() string {
	if n := t.name(); n != "" {
		return n
	}
	return fmt.Sprintf("%#x", t.Code())
}

// field names t in errors: the layer first, because both have an END.
func (t Type) field() string { return t.Layer().String() + " " + t.String() }

const (
	recordHeaderSize  = 8  // type and length
	sectionHeaderSize = 16 // the same, 64 bits each
	recordAlign       = 8
)

// A Record is the header of a record and where it lies.
//
//	u32 type | u32 length | body | 0 to 7 zero bytes to a multiple of 8
//
// A section of a xenopsd image has 64-bit fields and no padding.
type Record struct {
	Type      Type  // layer and number
	Offset    int64 // of the record, in bytes from the start of the stream
	Length    int64 // of the body in bytes, without padding
	BigEndian bool  // byte order of the header and of the body
}

// BodyOffset returns the offset of the body in the stream.
func (r Record) BodyOffset() int64 { return r.Offset + r.headerSize() }

// End returns the offset of the first byte after the record and its padding.
func (r Record) End() int64 { return r.BodyOffset() + r.Length + r.padding() }

// Order returns the byte order of the body.
func (r Record) Order() binary.ByteOrder { return byteOrder(r.BigEndian) }

func (r Record) headerSize() int64 {
	if r.Type.Layer() == LayerXenopsd {
		return sectionHeaderSize
	}
	return recordHeaderSize
}

// padding returns how many bytes follow the body. It depends on the length
// alone: behind a container a record may begin anywhere.
func (r Record) padding() int64 {
	if r.Type.Layer() == LayerXenopsd {
		return 0
	}
	return align.Up(r.Length, recordAlign) - r.Length
}

// appendHeader appends the header of r.
func (r Record) appendHeader(b []byte) []byte {
	if r.Type.Layer() == LayerXenopsd {
		b = binary.LittleEndian.AppendUint64(b, uint64(r.Type.Code()))
		return binary.LittleEndian.AppendUint64(b, uint64(r.Length))
	}
	o := appendOrder(r.BigEndian)
	b = o.AppendUint32(b, r.Type.Code())
	return o.AppendUint32(b, uint32(r.Length))
}

func byteOrder(big bool) binary.ByteOrder {
	if big {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

func appendOrder(big bool) binary.AppendByteOrder {
	if big {
		return binary.BigEndian
	}
	return binary.LittleEndian
}
