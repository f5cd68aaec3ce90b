package libxlfmt

import (
	"encoding/binary"

	"github.com/virtfmt/virtfmt/internal/cursor"
)

// A PVInfo is the body of X86_PV_INFO: what kind of processor a PV domain
// believes to run on. It is 4 and 3 for a 32-bit domain, 8 and 4 for a 64-bit
// one.
//
//	u8 guest width | u8 page table levels | 6 zero bytes
type PVInfo struct {
	GuestWidth uint8 // of a word, in bytes
	PTLevels   uint8
}

// Type returns [TypePVInfo].
func (PVInfo) Type() Type { return TypePVInfo }

// AppendBody appends the body.
func (p PVInfo) AppendBody(b []byte, _ binary.AppendByteOrder) []byte {
	return append(b, p.GuestWidth, p.PTLevels, 0, 0, 0, 0, 0, 0)
}

func decodePVInfo(c *cursor.Cursor) (PVInfo, error) {
	p := PVInfo{c.Uint8(), c.Uint8()}
	c.Skip(6) // and what follows, which Xen reads over
	return p, c.Err()
}

// A P2MFrames is the body of X86_PV_P2M_FRAMES: the pages that hold the
// table from pfn to mfn of a PV domain, for the pfns Start to End.
//
//	u32 start | u32 end | u64 frame[]
type P2MFrames struct {
	Start, End uint32 // the first and the last pfn
	Frames     []uint64
}

// FrameCount returns how many frames the pfns from Start to End need in a
// domain with words of width bytes, 4 or 8.
func (p P2MFrames) FrameCount(width uint8) int {
	if width == 0 || p.Start > p.End {
		return 0
	}
	perFrame := uint32(pageSize) / uint32(width)
	return int(p.End/perFrame - p.Start/perFrame + 1)
}

// Type returns [TypeP2MFrames].
func (P2MFrames) Type() Type { return TypeP2MFrames }

// AppendBody appends the body.
func (p P2MFrames) AppendBody(b []byte, o binary.AppendByteOrder) []byte {
	b = o.AppendUint32(o.AppendUint32(b, p.Start), p.End)
	return appendUint64s(b, o, p.Frames)
}

func decodeP2MFrames(c *cursor.Cursor) (P2MFrames, error) {
	p := P2MFrames{Start: c.Uint32(), End: c.Uint32(), Frames: make([]uint64, c.Len()/8)}
	for i := range p.Frames {
		p.Frames[i] = c.Uint64()
	}
	return p, whole(c)
}

// A VCPU is the body of X86_PV_VCPU_BASIC, _EXTENDED, _XSAVE and _MSRS:
// state of one processor of a PV domain, in Xen's own structures.
//
//	u32 id | u32 zero | state
//
// The state of BASIC has 0x1430 bytes in a 64-bit domain and 0xaf0 in a
// 32-bit one, that of EXTENDED at most 128, that of XSAVE at least 16, that of
// MSRS a multiple of 16. Older writers left records without any state.
type VCPU struct {
	Kind  Type // the type of the record
	ID    uint32
	State []byte
}

// Type returns Kind.
func (v VCPU) Type() Type { return v.Kind }

// AppendBody appends the body.
func (v VCPU) AppendBody(b []byte, o binary.AppendByteOrder) []byte {
	b = o.AppendUint32(o.AppendUint32(b, v.ID), 0)
	return append(b, v.State...)
}

// A SharedInfo is the body of SHARED_INFO: the page that a PV domain and Xen
// share.
type SharedInfo struct {
	Page []byte // 4096 bytes
}

// Type returns [TypeSharedInfo].
func (SharedInfo) Type() Type { return TypeSharedInfo }

// AppendBody appends the body.
func (s SharedInfo) AppendBody(b []byte, _ binary.AppendByteOrder) []byte {
	return append(b, s.Page...)
}

// A DirtyPFNs is the body of CHECKPOINT_DIRTY_PFN_LIST: the pages that the
// secondary of COLO wrote to since the last checkpoint.
type DirtyPFNs []uint64

// Type returns [TypeDirtyPFNs].
func (DirtyPFNs) Type() Type { return TypeDirtyPFNs }

// AppendBody appends the body.
func (d DirtyPFNs) AppendBody(b []byte, o binary.AppendByteOrder) []byte {
	return appendUint64s(b, o, d)
}

func appendUint64s(b []byte, o binary.AppendByteOrder, v []uint64) []byte {
	for _, x := range v {
		b = o.AppendUint64(b, x)
	}
	return b
}
