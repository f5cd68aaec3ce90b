package libxlfmt

import (
	"encoding/binary"
	"math"
)

// A phase is what a stream may hold next.
type phase uint8

const (
	phaseLibxlHeader     phase = iota // the header of libxl
	phaseLibxl                        // a record of libxl
	phaseLibxcHeader                  // the headers of libxc
	phaseLibxc                        // a record of libxc
	phaseCheckpoint                   // a record of libxl, CHECKPOINT_END the last
	phaseAfterCheckpoint              // a record of libxc, or CHECKPOINT_STATE
	phaseBackChannel                  // CHECKPOINT_STATE or CHECKPOINT_DIRTY_PFN_LIST
	phaseSection                      // a section of xenopsd
	phaseDone                         // nothing
)

// expects tells what can come in the phase.
func (p phase) expects() string {
	return [...]string{
		phaseLibxlHeader:     "the header of libxl has to come",
		phaseLibxl:           "a record of libxl has to come, or StartLibxc",
		phaseLibxcHeader:     "StartLibxc has to come",
		phaseLibxc:           "a record of libxc has to come, the last one END",
		phaseCheckpoint:      "a record of libxl has to come, the last one CHECKPOINT_END",
		phaseAfterCheckpoint: "a record of libxc has to come, or CHECKPOINT_STATE",
		phaseBackChannel:     "CHECKPOINT_STATE or CHECKPOINT_DIRTY_PFN_LIST has to come",
		phaseSection:         "a section has to come, or StartLibxc",
		phaseDone:            "the stream is complete",
	}[p]
}

// A grammar knows the order of a stream. Reader and Writer hand it every
// header and body that passes, so that both accept the same streams.
//
//	libxl:       header, records; LIBXC_CONTEXT enters libxc; END ends
//	libxc:       headers, records; END leaves; CHECKPOINT leaves for a while
//	checkpoint:  libxl records, CHECKPOINT_END, CHECKPOINT_STATE (COLO); back to libxc
type grammar struct {
	judge
	phase     phase
	maxRecord int64
	sections  bool // a xenopsd image: END of libxl and of libxc lead to the next section
	layered   bool // there is a libxl layer around libxc

	libxl    Header
	contexts int // LIBXC_CONTEXTs so far

	// Of the stream of libxc that was entered last.
	libxc        LibxcHeader
	libxcStarted bool
	seenStatic   bool   // STATIC_DATA_END
	seenPVInfo   bool   // X86_PV_INFO
	seenP2M      bool   // X86_PV_P2M_FRAMES
	seenPages    bool   // PAGE_DATA
	seenParams   bool   // HVM_PARAMS
	width        int64  // of a PV guest's word in bytes, 4 or 8
	maxPFN       uint64 // the end of its P2M

	// mayEnd tells that the stream is complete if nothing follows.
	mayEnd bool

	pages pageCheck
	store xenstoreCheck
	head  headCheck
}

// begin sets the phase for what a container holds.
func (g *grammar) begin(k ContainerKind) {
	switch k {
	case ContainerLibxc:
		g.phase = phaseLibxcHeader
	case ContainerXenopsd:
		g.phase, g.sections = phaseSection, true
	default:
		g.phase, g.layered = phaseLibxlHeader, true
	}
}

// backChannel sets the phase for the back channel of COLO.
func (g *grammar) backChannel(bigEndian bool) {
	g.phase, g.mayEnd, g.layered = phaseBackChannel, true, true
	if bigEndian {
		g.libxl.Options, g.libxc.Options = optionBigEndian, optionBigEndian
	}
}

// decodeHeader completes a record from its header b.
func (g *grammar) decodeHeader(r Record, b []byte) (Record, error) {
	l := g.layer(b)
	if l == LayerXenopsd {
		code, n := binary.LittleEndian.Uint64(b), int64(binary.LittleEndian.Uint64(b[8:]))
		r.Type, r.Length = NewType(l, uint32(code)), n
		if code > math.MaxUint32 {
			return r, g.found(CodeIdent, r.Offset, "section header", "type %#x", code)
		}
		switch r.Type {
		case TypeSectionLibxc, TypeSectionLibxl, TypeSectionEnd:
			r.Length = 0 // what follows tells its end by itself
			if n != 0 {
				return r, g.found(CodeSectionLength, r.Offset+8, r.Type.field(), "length %d", n)
			}
		}
		if n < 0 {
			return r, g.found(CodeTooLong, r.Offset+8, r.Type.field(), "length %d", n)
		}
		return r, nil
	}
	r.BigEndian = g.libxl.BigEndian()
	if l == LayerLibxc {
		r.BigEndian = g.libxc.BigEndian()
	}
	o := r.Order()
	r.Type, r.Length = NewType(l, o.Uint32(b)), int64(o.Uint32(b[4:]))
	return r, nil
}

// layer returns the layer of the next record, whose header begins with b.
func (g *grammar) layer(b []byte) Layer {
	switch g.phase {
	case phaseSection:
		return LayerXenopsd
	case phaseLibxc:
		return LayerLibxc
	case phaseAfterCheckpoint, phaseBackChannel:
		// A VCPU_EXTENDED of libxc, also number 5, has at least 8 bytes.
		o := byteOrder(g.libxl.BigEndian())
		if o.Uint32(b) == TypeCheckpointState.Code() && o.Uint32(b[4:]) == 4 {
			return LayerLibxl
		}
		return LayerLibxc
	}
	return LayerLibxl
}

// takes reports whether a record of the layer of t can come next.
func (g *grammar) takes(t Type) bool {
	l := t.Layer()
	switch g.phase {
	case phaseLibxl, phaseCheckpoint:
		return l == LayerLibxl
	case phaseLibxc:
		return l == LayerLibxc
	case phaseAfterCheckpoint, phaseBackChannel:
		return l == LayerLibxc || t == TypeCheckpointState
	case phaseSection:
		return l == LayerXenopsd
	}
	return false
}

// setLibxl takes the header of libxl that was passed.
func (g *grammar) setLibxl(h Header) { g.libxl, g.phase, g.layered = h, phaseLibxl, true }

// setLibxc takes the headers of libxc that were passed.
func (g *grammar) setLibxc(h LibxcHeader) {
	g.libxc, g.libxcStarted, g.phase = h, true, phaseLibxc
	g.seenStatic, g.seenPVInfo, g.seenP2M, g.seenPages, g.seenParams = false, false, false, false, false
	g.width, g.maxPFN = 0, 0
}

// record judges the place and the length of a record, and returns what its
// body has to go through.
func (g *grammar) record(r Record) (bodyCheck, error) {
	g.mayEnd = false
	place := g.libxlRecord
	limit := g.maxRecord
	switch r.Type.Layer() {
	case LayerXenopsd:
		place = g.section
	case LayerLibxc:
		place, limit = g.libxcRecord, maxLibxcRecord
	}
	if err := g.tooLong(r, limit); err != nil {
		return nil, err
	}
	if err := g.checkLength(r); err != nil {
		return nil, err
	}
	if err := place(r); err != nil {
		return nil, err
	}
	if err := g.checkContext(r); err != nil {
		return nil, err
	}
	return g.check(r), nil
}

func (g *grammar) section(r Record) error {
	switch {
	case !r.Type.Known():
		return g.found(CodeSectionType, r.Offset, r.Type.field(), "section of unknown type")
	case r.Type == TypeSectionLibxcLegacy:
		return g.found(CodeLegacy, r.Offset, r.Type.field(), "stream of Xen 4.5 or older")
	}
	return nil
}

func (g *grammar) tooLong(r Record, limit int64) error {
	if r.Length <= limit {
		return nil
	}
	return g.found(CodeTooLong, r.Offset+r.headerSize()/2, r.Type.field(), "length %d, at most %d", r.Length, limit)
}

func (g *grammar) libxlRecord(r Record) error {
	at := func(c Code, format string, args ...any) error {
		return g.found(c, r.Offset, r.Type.field(), format, args...)
	}
	switch t := r.Type; {
	case t.Optional():
		return at(CodeOptionalRecord, "optional record of unknown type")
	case !t.Known():
		return at(CodeUnknownRecord, "mandatory record of unknown type")
	case t == TypeEnd || t == TypeLibxcContext:
		if g.phase == phaseCheckpoint {
			return at(CodeInCheckpoint, "inside a checkpoint")
		}
		if t == TypeLibxcContext && g.contexts > 0 {
			return at(CodeSecondContext, "second LIBXC_CONTEXT")
		}
	case t == TypeCheckpointEnd:
		if g.phase != phaseCheckpoint {
			return at(CodeOutOfCheckpoint, "outside a checkpoint")
		}
	case t == TypeCheckpointState:
		if g.phase == phaseLibxl {
			return at(CodeStateOutside, "outside COLO")
		}
	case g.libxcStarted && g.libxc.Type == PV:
		return at(CodeEmulatorPV, "in the stream of a PV domain")
	}
	return nil
}

// An audience is where a record of libxc belongs.
type audience uint8

const (
	anyDomain audience = iota
	onlyPV
	onlyHVM
	onlyBack // the back channel of COLO
	nobody
)

var audiences = map[Type]audience{
	TypePVInfo: onlyPV, TypeP2MFrames: onlyPV, TypeVCPUBasic: onlyPV, TypeVCPUExtended: onlyPV,
	TypeVCPUXSave: onlyPV, TypeVCPUMSRs: onlyPV, TypeSharedInfo: onlyPV,
	TypeHVMContext: onlyHVM, TypeHVMParams: onlyHVM,
	TypeDirtyPFNs: onlyBack, TypeToolstack: nobody,
}

func (g *grammar) libxcRecord(r Record) error {
	t := r.Type
	at := func(c Code, format string, args ...any) error {
		return g.found(c, r.Offset, t.field(), format, args...)
	}
	if t.Optional() {
		return nil
	}
	if !t.Known() {
		return at(CodeUnknownRecord, "mandatory record of unknown type")
	}
	a := audiences[t]
	if a == nobody || (a == onlyBack) != (g.phase == phaseBackChannel) {
		return at(CodeNotAllowed, "not in a stream of this direction")
	}
	if a == onlyPV && g.libxc.Type == HVM || a == onlyHVM && g.libxc.Type == PV {
		return at(CodeWrongDomain, "in the stream of a domain of type %v", g.libxc.Type)
	}
	switch t {
	case TypePageData:
		if g.libxc.Version >= 3 && !g.seenStatic {
			g.seenStatic = true // told once
			return at(CodeNoStaticEnd, "memory before STATIC_DATA_END")
		}
	case TypeStaticDataEnd:
		if g.libxc.Version < 3 {
			return at(CodeStaticEndV2, "in a stream of version 2")
		}
		if g.seenStatic {
			return at(CodeDuplicate, "second STATIC_DATA_END")
		}
	case TypePVInfo:
		if g.seenPVInfo {
			return at(CodeDuplicate, "second X86_PV_INFO")
		}
	}
	return nil
}

// passed moves on behind a record whose body is complete.
func (g *grammar) passed(r Record) {
	if g.phase == phaseAfterCheckpoint && r.Type.Layer() == LayerLibxc {
		g.phase = phaseLibxc
	}
	switch r.Type {
	case TypeEnd:
		g.phase = g.outside()
	case TypeLibxcContext:
		g.contexts++
		g.phase = phaseLibxcHeader
	case TypeCheckpointEnd:
		if g.phase == phaseCheckpoint {
			g.phase, g.mayEnd = phaseAfterCheckpoint, true
		}
	case TypeCheckpointState:
		g.mayEnd = g.phase == phaseBackChannel
	case TypeLibxcEnd:
		if g.layered {
			g.phase = phaseLibxl
		} else {
			g.phase = g.outside()
		}
	case TypeCheckpoint:
		g.phase = phaseLibxc
		if g.layered {
			g.phase = phaseCheckpoint
		} else {
			g.mayEnd = true
		}
	case TypeStaticDataEnd:
		g.seenStatic = true
	case TypePageData:
		g.seenPages = true
	case TypeHVMParams:
		g.seenParams = true
	case TypeSectionLibxc:
		g.phase, g.layered = phaseLibxcHeader, false
	case TypeSectionLibxl:
		g.phase, g.layered, g.contexts, g.libxcStarted = phaseLibxlHeader, true, 0, false
	case TypeSectionEnd:
		g.phase = phaseDone
	case TypeDirtyPFNs:
		g.mayEnd = g.phase == phaseBackChannel
	}
}

// outside returns what follows the END of the outermost layer.
func (g *grammar) outside() phase {
	if g.sections {
		return phaseSection
	}
	return phaseDone
}
