package libxlfmt

import "encoding/binary"

// A bodyCheck judges the body of a record as it passes, in pieces of any size.
type bodyCheck interface {
	// feed takes the next bytes of the body.
	feed(p []byte) error
	// idle returns how many of the next bytes may be skipped instead.
	idle() int64
	// skip takes n bytes unseen.
	//
	// Preconditions: n <= idle().
	skip(n int64)
	// end takes the end of the body.
	end() error
}

// check returns what judges the body of r.
func (g *grammar) check(r Record) bodyCheck {
	switch r.Type {
	case TypePageData:
		return g.pages.reset(g, r)
	case TypeXenstore:
		return g.store.reset(g, r)
	}
	return g.head.reset(g, r)
}

// Sizes of the records of libxc.
const (
	pvInfoSize     = 8
	vcpuHeaderSize = 8
	vcpuBasic64    = 0x1430
	vcpuBasic32    = 0xaf0
	vcpuExtended   = 128 // at most
	vcpuXSaveMin   = 16
	msrSize        = 16
	cpuidLeafSize  = 24
	sharedInfoSize = pageSize
	tscInfoSize    = 24
	hvmParamsHead  = 8
	hvmParamSize   = 16
	p2mHead        = 8
	p2mEntrySize   = 8
	emulatorHead   = 8
	stateSize      = 4
)

func (g *grammar) checkLength(r Record) error {
	bad := func(c Code, format string, args ...any) error {
		return g.found(c, r.Offset+4, r.Type.field(), format, args...)
	}
	exact := func(n int64) error {
		if r.Length != n {
			return bad(CodeLength, "length %d, not %d", r.Length, n)
		}
		return nil
	}
	entries := func(n int64) error {
		if r.Length%n != 0 {
			return bad(CodeLength, "length %d is not a multiple of %d", r.Length, n)
		}
		return nil
	}
	switch r.Type {
	case TypeEnd, TypeLibxcContext, TypeCheckpointEnd, TypeLibxcEnd, TypeVerify, TypeCheckpoint, TypeStaticDataEnd:
		if r.Length != 0 {
			return bad(CodeUnexpectedBody, "%d bytes in a record without a body", r.Length)
		}
	case TypeXenstore, TypeEmulator:
		// Draft B has no sub-header in TypeXenstore: its check looks closer.
		if r.Length < emulatorHead && r.Type == TypeEmulator {
			return bad(CodeEmulatorShort, "length %d, at least %d", r.Length, emulatorHead)
		}
	case TypeCheckpointState:
		return exact(stateSize)
	case TypePVInfo:
		if r.Length < pvInfoSize {
			return exact(pvInfoSize)
		}
		if r.Length > pvInfoSize {
			return bad(CodePVInfoLength, "length %d, not %d", r.Length, pvInfoSize)
		}
	case TypeSharedInfo:
		return exact(sharedInfoSize)
	case TypeTSCInfo:
		return exact(tscInfoSize)
	case TypeCPUIDPolicy:
		return entries(cpuidLeafSize)
	case TypeMSRPolicy:
		return entries(msrSize)
	case TypeVCPUBasic, TypeVCPUExtended, TypeVCPUXSave, TypeVCPUMSRs:
		return g.checkVCPU(r)
	case TypeP2MFrames:
		if r.Length < p2mHead+p2mEntrySize || r.Length%p2mEntrySize != 0 {
			return bad(CodeP2MFrames, "length %d holds no whole number of frames", r.Length)
		}
	case TypeHVMParams:
		if r.Length < hvmParamsHead {
			return bad(CodeLength, "length %d, at least %d", r.Length, hvmParamsHead)
		}
	case TypeDirtyPFNs:
		return entries(8)
	}
	return nil
}

// checkVCPU judges the length of processor state. A record without any is an
// erratum of older writers that readers let pass.
func (g *grammar) checkVCPU(r Record) error {
	n := r.Length - vcpuHeaderSize
	ok, want := true, ""
	switch {
	case n < 0:
		ok, want = false, "at least 8"
	case n == 0:
	case r.Type == TypeVCPUBasic:
		switch g.width {
		case 8:
			ok, want = n == vcpuBasic64, "0x1438"
		case 4:
			ok, want = n == vcpuBasic32, "0xaf8"
		}
	case r.Type == TypeVCPUExtended:
		ok, want = n <= vcpuExtended, "at most 0x88"
	case r.Type == TypeVCPUXSave:
		ok, want = n >= vcpuXSaveMin, "at least 24"
	case r.Type == TypeVCPUMSRs:
		ok, want = n%msrSize == 0, "8 and a multiple of 16"
	}
	if ok {
		return nil
	}
	return g.found(CodeVCPU, r.Offset+4, r.Type.field(), "length %#x, want %s", r.Length, want)
}

// checkContext judges what r needs before it.
func (g *grammar) checkContext(r Record) error {
	pv := g.libxc.Type == PV
	switch t := r.Type; {
	case pv && !g.seenPVInfo && (t == TypeP2MFrames || t == TypeVCPUBasic):
		return g.found(CodePVInfoMissing, r.Offset, t.field(), "before X86_PV_INFO")
	case pv && !g.seenP2M && t == TypePageData:
		return g.found(CodePagePFN, r.Offset, t.field(), "before X86_PV_P2M_FRAMES")
	case !g.seenPages && t.isVCPU():
		return g.found(CodeOrder, r.Offset, t.field(), "before any PAGE_DATA")
	case !g.seenParams && t == TypeHVMContext:
		return g.found(CodeOrder, r.Offset, t.field(), "before HVM_PARAMS")
	}
	return nil
}

// A headCheck judges the first bytes of a body and lets the rest pass.
type headCheck struct {
	g    *grammar
	rec  Record
	buf  [8]byte
	n    int   // bytes in buf
	want int   // bytes to gather, at most len(buf)
	left int64 // of the body
}

func (c *headCheck) reset(g *grammar, r Record) *headCheck {
	*c = headCheck{g: g, rec: r, left: r.Length}
	switch r.Type {
	case TypePVInfo, TypeP2MFrames, TypeHVMParams, TypeEmulator,
		TypeVCPUBasic, TypeVCPUExtended, TypeVCPUXSave, TypeVCPUMSRs:
		c.want = 8
	case TypeCheckpointState:
		c.want = 4
	}
	c.want = int(min(int64(c.want), r.Length))
	return c
}

func (c *headCheck) feed(p []byte) error {
	c.left -= int64(len(p))
	if c.n == c.want {
		return nil
	}
	c.n += copy(c.buf[c.n:c.want], p)
	if c.n < c.want {
		return nil
	}
	return c.g.checkHead(c.rec, c.buf[:c.n])
}

func (c *headCheck) idle() int64 {
	if c.n == c.want {
		return c.left
	}
	return 0
}

func (c *headCheck) skip(n int64) { c.left -= n }

func (c *headCheck) end() error { return nil }

// checkHead judges the first bytes of a body, as many as headCheck gathered.
// A body too short for them was judged by its length.
func (g *grammar) checkHead(r Record, b []byte) error {
	o := r.Order()
	if r.Type == TypeCheckpointState {
		if len(b) == stateSize && o.Uint32(b) > lastState {
			return g.found(CodeCheckpointState, r.BodyOffset(), r.Type.field(), "unknown state %d", o.Uint32(b))
		}
		return nil
	}
	if len(b) < 8 {
		return nil
	}
	switch r.Type {
	case TypeEmulator:
		return g.emulatorID(r, o.Uint32(b))
	case TypePVInfo:
		return g.checkPVInfo(r, b)
	case TypeP2MFrames:
		return g.checkP2M(r, o.Uint32(b), o.Uint32(b[4:]))
	case TypeHVMParams:
		return g.checkParams(r, o.Uint32(b), o.Uint32(b[4:]))
	default: // X86_PV_VCPU_*
		if v := o.Uint32(b[4:]); v != 0 {
			return g.found(CodeVCPUReserved, r.BodyOffset()+4, r.Type.field(), "reserved field %#x", v)
		}
	}
	return nil
}

func (g *grammar) emulatorID(r Record, id uint32) error {
	if EmulatorID(id) > lastEmulator {
		return g.found(CodeEmulatorID, r.BodyOffset(), r.Type.field(), "reserved emulator id %#x", id)
	}
	return nil
}

func (g *grammar) checkPVInfo(r Record, b []byte) error {
	width, levels := b[0], b[1]
	off, field := r.BodyOffset(), r.Type.field()
	if width != 4 && width != 8 || levels != 3 && levels != 4 {
		return g.found(CodePVInfo, off, field, "words of %d bytes, %d levels", width, levels)
	}
	g.seenPVInfo, g.width = true, int64(width)
	if (width == 4) != (levels == 3) {
		if err := g.found(CodePVInfoPair, off, field, "words of %d bytes, %d levels", width, levels); err != nil {
			return err
		}
	}
	if binary.LittleEndian.Uint64(b)>>16 != 0 {
		return g.found(CodePVInfoReserved, off+2, field, "reserved bytes % x", b[2:])
	}
	return nil
}

func (g *grammar) checkP2M(r Record, start, end uint32) error {
	off, field := r.BodyOffset(), r.Type.field()
	if start > end {
		return g.found(CodeP2MFrames, off, field, "first pfn %#x past the last, %#x", start, end)
	}
	g.seenP2M, g.maxPFN = true, max(g.maxPFN, uint64(end))
	if g.width == 0 {
		return nil
	}
	perFrame := pageSize / g.width
	want := int64(end)/perFrame - int64(start)/perFrame + 1
	if got := (r.Length - p2mHead) / p2mEntrySize; got != want {
		return g.found(CodeP2MFrames, off, field, "%d frames for pfns %#x to %#x, want %d", got, start, end, want)
	}
	return nil
}

func (g *grammar) checkParams(r Record, count, reserved uint32) error {
	off, field := r.BodyOffset(), r.Type.field()
	if want := hvmParamsHead + hvmParamSize*int64(count); r.Length != want {
		return g.found(CodeLength, off, field, "%d parameters in %d bytes", count, r.Length)
	}
	if reserved != 0 {
		return g.found(CodeReserved, off+4, field, "reserved field %#x", reserved)
	}
	return nil
}
