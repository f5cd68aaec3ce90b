package acpihotplug

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// An SSDT describes the ACPI table through which an operating system uses the
// registers: a device for each slot, the event handler \_GPE._E01 that tells
// the system which of them changed, and _EJ0 methods that eject. It belongs
// beside a DSDT that declares the host bridge and no hot-plug of its own.
//
// The zero value is the table of a [Device] that is zero: mode [Latched],
// slots 1 to 31 of \_SB.PCI0, registers at 0xae00.
//
// Its names are those that firmware for QEMU has used since 2011: PCIU, PCID
// and B0EJ for the registers, S28 for slot 5, with eight times the slot in
// hexadecimal.
type SSDT struct {
	// Mode is that of the Device: ClearOnRead has the handler select each bus.
	Mode Mode

	// Base is the port of the register block; 0 means the constant Base.
	Base uint16

	// Path names the host bridge, from the root; "" means \_SB.PCI0.
	Path string

	// Slots has one bit per slot of the host bridge's bus to describe; 0 means
	// 1 to 31. Those with a bit in Fixed get no _EJ0 method: they cannot be
	// ejected. Those with a bit in Declared have a device in the DSDT by the
	// name that the table would give it, and get methods only; leave out
	// those whose device has another name.
	Slots, Fixed, Declared uint32

	// Bridges are bridges on the host bridge's bus with slots of their own;
	// mode ClearOnRead only.
	Bridges []Bridge

	// Removable adds a _RMV method to each slot, which tells what RegRemovable
	// shows. Linux does without.
	Removable bool

	// Status adds a _STA method to each slot, which tells whether the PCI
	// configuration space has a device there. Linux does without.
	Status bool

	// AcpiIndex adds a _DSM method to each slot, which tells the acpi-index of
	// its device, if that has one. The Device needs RegIndex for it, which
	// Level does not have: see Size constants.
	AcpiIndex bool

	// Reserve adds a device that claims the ports of the registers.
	Reserve bool

	// OEMID (6 characters at most), OEMTableID (8 at most) and OEMRevision go
	// to the header; empty and 0 mean "VIRTFM", "PCIHOTPL" and 1.
	OEMID, OEMTableID string
	OEMRevision       uint32
}

// A Bridge is a PCI bridge in a slot, with a bus behind it.
type Bridge struct {
	Slot    int      // of the bridge
	Select  uint32   // the bus's number in RegSelect, 1 to 255, unique in the table
	Slots   uint32   // slots of that bus to describe, one bit each; 0 means 0 to 31
	Bridges []Bridge // in slots of that bus

	Fixed, Declared uint32 // of Slots, as in SSDT
}

const (
	tableHeaderLen = 36
	defaultPath    = `\_SB.PCI0`
	defaultSlots   = 0xfffffffe // those of the 2012 text's firmware
	maxDepth       = 32         // of bridges behind bridges
)

// What Notify tells a slot's device: ACPI 6.4, section 5.6.6.
const (
	notifyDeviceCheck  = 1
	notifyEjectRequest = 3
)

// MarshalBinary returns the table, ready to be loaded: the same bytes for the
// same description.
func (s *SSDT) MarshalBinary() ([]byte, error) { return s.AppendBinary(nil) }

// AppendBinary appends the table to b.
func (s *SSDT) AppendBinary(b []byte) ([]byte, error) {
	t, err := s.withDefaults()
	if err != nil {
		return b, err
	}
	root := Bridge{Slots: t.Slots, Fixed: t.Fixed, Declared: t.Declared, Bridges: t.Bridges}
	body := term(
		scope(t.Path, t.registers(), t.methods(), t.behind(root)),
		scope(`\_GPE`, method("_E01", 0, t.locked(call(t.Path+".PCNT")))),
	)
	return append(b, t.table(body)...), nil
}

// withDefaults returns a copy with every field filled in, or an error that
// says what does not fit.
func (s *SSDT) withDefaults() (*SSDT, error) {
	t := *s
	if t.Base == 0 {
		t.Base = Base
	}
	if t.Path == "" {
		t.Path = defaultPath
	}
	if t.Slots == 0 {
		t.Slots = defaultSlots
	}
	if t.OEMID == "" {
		t.OEMID = "VIRTFM"
	}
	if t.OEMTableID == "" {
		t.OEMTableID = "PCIHOTPL"
	}
	if t.OEMRevision == 0 {
		t.OEMRevision = 1
	}
	switch {
	case t.Mode > Level:
		return nil, fmt.Errorf("acpihotplug: %v is not a mode", t.Mode)
	case int(t.Base)+t.regionSize() > 1<<16:
		return nil, fmt.Errorf("acpihotplug: base 0x%x: the registers do not fit below port 0x10000", t.Base)
	case !validPath(t.Path):
		return nil, fmt.Errorf("acpihotplug: path %q: not an absolute ACPI name", t.Path)
	case len(t.OEMID) > 6 || len(t.OEMTableID) > 8:
		return nil, fmt.Errorf("acpihotplug: OEM ids %q and %q: at most 6 and 8 bytes", t.OEMID, t.OEMTableID)
	case len(t.Bridges) > 0 && t.Mode != ClearOnRead:
		return nil, fmt.Errorf("acpihotplug: bridges need mode %v", ClearOnRead)
	case t.AcpiIndex && t.Mode == Level:
		return nil, fmt.Errorf("acpihotplug: mode %v has no acpi-index", Level)
	}
	seen := [NumBuses]bool{0: true}
	return &t, checkBridges(t.Bridges, &seen, 0)
}

func checkBridges(bridges []Bridge, seen *[NumBuses]bool, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("acpihotplug: more than %d bridges behind each other", maxDepth)
	}
	var used uint32
	for _, b := range bridges {
		switch {
		case b.Slot < 0 || b.Slot >= NumSlots:
			return fmt.Errorf("acpihotplug: bridge in slot %d: slots are 0 to %d", b.Slot, NumSlots-1)
		case used&(1<<b.Slot) != 0:
			return fmt.Errorf("acpihotplug: two bridges in slot %d", b.Slot)
		case b.Select >= NumBuses || seen[b.Select]:
			return fmt.Errorf("acpihotplug: bridge in slot %d: selector %d is not 1 to %d or not unique", b.Slot, b.Select, NumBuses-1)
		}
		used |= 1 << b.Slot
		seen[b.Select] = true
		if err := checkBridges(b.Bridges, seen, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// regionSize returns how many bytes of registers the table uses.
func (s *SSDT) regionSize() int {
	switch {
	case s.AcpiIndex:
		return SizeQEMU6
	case s.Mode == ClearOnRead:
		return SizeQEMU2
	}
	return Size2012
}

// table puts the header before the body: ACPI 6.4, section 5.2.6.
//
//	0  "SSDT"            4  length           8  revision     9 checksum
//	10 OEM id           16  OEM table id    24  OEM revision
//	28 creator id       32  creator revision
func (s *SSDT) table(body []byte) []byte {
	b := make([]byte, tableHeaderLen, tableHeaderLen+len(body))
	copy(b, "SSDT")
	binary.LittleEndian.PutUint32(b[4:], uint32(cap(b)))
	b[8] = 1 // integers of 32 bits
	copy(b[10:], s.OEMID)
	copy(b[16:], s.OEMTableID)
	binary.LittleEndian.PutUint32(b[24:], s.OEMRevision)
	copy(b[28:], "VFMT")
	binary.LittleEndian.PutUint32(b[32:], 1)
	b = append(b, body...)
	setChecksum(b)
	return b
}

// setChecksum makes all bytes of a table sum to zero.
func setChecksum(table []byte) {
	table[9] = 0
	var sum byte
	for _, c := range table {
		sum += c
	}
	table[9] = -sum
}

// registers declares the registers that the table uses.
func (s *SSDT) registers() []byte {
	const access = accDWord | writeAsZeros
	base := uint64(s.Base)
	b := term(
		region("PCST", spaceIO, base+RegUp, 8, access, bitField("PCIU", 32), bitField("PCID", 32)),
		region("SEJ", spaceIO, base+RegEject, 4, access, bitField("B0EJ", 32)),
	)
	if s.Removable {
		b = term(b, region("RMVC", spaceIO, base+RegRemovable, 4, access, bitField("PCRM", 32)))
	}
	if s.Mode == ClearOnRead {
		b = term(b, region("BNMR", spaceIO, base+RegSelect, 4, access, bitField("BNUM", 32)))
	}
	if s.AcpiIndex {
		b = term(b, region("AIDX", spaceIO, base+RegIndex, 4, access, bitField("PIDX", 32)))
	}
	if s.hasLock() {
		b = term(b, mutex("BLCK"))
	}
	if s.Reserve {
		b = term(b, s.reservation())
	}
	return b
}

// reservation declares a device of generic container type that uses the
// ports: an I/O port descriptor, 16-bit decode, ACPI 6.4 section 6.4.2.5, and
// an end tag.
func (s *SSDT) reservation() []byte {
	base, size := s.Base, byte(s.regionSize())
	resources := []byte{0x47, 0x01, byte(base), byte(base >> 8), byte(base), byte(base >> 8), 1, size, 0x79, 0}
	return device("PHPR",
		named("_HID", eisaID("PNP0A06")),
		named("_UID", num(1)),
		named("_STA", num(0x0b)),
		named("_CRS", buffer(resources)),
	)
}

// hasLock reports whether it takes several accesses that belong together to
// select a bus, or to ask for an index: any write to the block drops that.
func (s *SSDT) hasLock() bool { return s.Mode == ClearOnRead || s.AcpiIndex }

// locked runs the body with the registers kept to itself, where that matters.
func (s *SSDT) locked(body ...[]byte) []byte {
	if !s.hasLock() {
		return term(body...)
	}
	return locked(s.Path+".BLCK", body...)
}

// selectBus makes the registers speak of the bus that v numbers.
func (s *SSDT) selectBus(v []byte) []byte {
	if s.Mode != ClearOnRead {
		return nil
	}
	return store(v, name("BNUM"))
}

// methods declares what the slots' methods call: PCEJ ejects, PCRV tells
// whether a slot's device can be removed. Their arguments are those of at.
func (s *SSDT) methods() []byte {
	args, slot := 1, arg(0)
	if s.Mode == ClearOnRead {
		args, slot = 2, arg(1)
	}
	b := method("PCEJ", args, s.locked(
		s.selectBus(arg(0)),
		store(shiftLeft(num(1), slot), name("B0EJ")),
	))
	if s.Removable {
		b = term(b, method("PCRV", args,
			s.locked(s.selectBus(arg(0)), store(name("PCRM"), local(0))),
			ret(and(shiftRight(local(0), slot), num(1))),
		))
	}
	if s.AcpiIndex {
		b = term(b, s.indexMethods())
	}
	return b
}

// at encodes the arguments that name a slot: its bus's selector, where there
// is one, and its number.
func (s *SSDT) at(sel uint32, slot int) []byte {
	if s.Mode != ClearOnRead {
		return num(uint64(slot))
	}
	return term(num(uint64(sel)), num(uint64(slot)))
}

// behind declares the slots of the bus behind a bridge, the method DVNT
// (slots, event) that notifies those slots, and PCNT that does so for what the
// registers show of this bus and of those behind it.
func (s *SSDT) behind(b Bridge) []byte {
	bridges := map[int]Bridge{}
	for _, br := range b.Bridges {
		bridges[br.Slot] = br
		b.Slots |= 1 << br.Slot
	}
	var devices, notifies []byte
	count := term(
		s.selectBus(num(uint64(b.Select))),
		call("DVNT", name("PCIU"), num(notifyDeviceCheck)),
		call("DVNT", name("PCID"), num(notifyEjectRequest)),
	)
	for slots := b.Slots; slots != 0; slots &= slots - 1 {
		n := bits.TrailingZeros32(slots)
		seg := fmt.Sprintf("S%02X", n*8)
		content := s.slot(b, n)
		if br, ok := bridges[n]; ok {
			if br.Slots == 0 {
				br.Slots = ^uint32(0)
			}
			content = term(content, s.behind(br))
			count = term(count, call("^"+seg+".PCNT"))
		}
		if b.Declared&(1<<n) != 0 {
			devices = term(devices, scope(seg, content))
		} else {
			devices = term(devices, device(seg, address(n), content))
		}
		notifies = term(notifies, ifTrue(and(arg(0), num(1<<n)), notify(seg, arg(1))))
	}
	return term(devices, method("DVNT", 2, notifies), method("PCNT", 0, count))
}

// address declares where a slot's device is.
func address(n int) []byte {
	return term(named("_ADR", num(uint64(n)<<16)), named("_SUN", num(uint64(n))))
}

// slot declares the methods of a slot's device.
func (s *SSDT) slot(b Bridge, n int) []byte {
	var t []byte
	if s.Status {
		t = term(t,
			region("PCFG", spacePCI, 0, 4, accWord, bitField("VNDR", 16)),
			method("_STA", 0,
				ifTrue(equal(name("VNDR"), num(0xffff)), ret(num(0))),
				ret(num(0x0f)),
			),
		)
	}
	if s.Removable {
		t = term(t, method("_RMV", 0, ret(call("PCRV", s.at(b.Select, n)))))
	}
	if s.AcpiIndex {
		t = term(t, s.labelMethod(b.Select, n))
	}
	if b.Fixed&(1<<n) == 0 {
		t = term(t, method("_EJ0", 1, call("PCEJ", s.at(b.Select, n))))
	}
	return t
}
