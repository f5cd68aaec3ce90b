package ivshmem

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/virtfmt/virtfmt/internal/align"
)

// A Revision is a generation of the device; the PCI revision tells a guest
// which one it has.
type Revision uint8

const (
	// Revision1 is the device of QEMU 2.6 and later (measured: 5.2, 7.2,
	// 10.0): 256 bytes of registers, interrupts by MSI-X only. Interrupt Mask
	// and Interrupt Status hold what the guest writes and do nothing.
	Revision1 Revision = iota
	// Revision0 is the device of the 2012 text, QEMU 1.x to 2.5: 1 KiB of
	// registers, the interrupt pin with mask and status where the device has
	// no MSI-X, IVPosition −1 until the shared memory is there.
	Revision0
)

// String returns "revision 1" or "revision 0".
func (r Revision) String() string {
	switch r {
	case Revision1:
		return "revision 1"
	case Revision0:
		return "revision 0"
	}
	return fmt.Sprintf("Revision(%d)", uint8(r))
}

// Config is what a VMM decides about a device before the guest starts. The
// zero Config is today's plain device with 4 MiB of shared memory.
type Config struct {
	Revision Revision

	// Vectors is the number of interrupt vectors, 1 to [MaxVectors], as
	// QEMU's ivshmem-doorbell has them. 0 makes the plain device: shared memory
	// without interrupts, without BAR1, IVPosition 0.
	Vectors int

	// Pins gives a device of revision 0 the interrupt pin in place of MSI-X,
	// as "msi=off" does in QEMU 1.x. Revision 1 has no pin.
	Pins bool

	// SharedSize is the size of BAR2 in bytes: a power of two, at least
	// [MinSharedSize]. 0 means [DefaultShared].
	SharedSize uint64

	// RegisterSize is the size of BAR0 in bytes: 256 as in every QEMU, or 1024
	// as the 2012 text says. 0 means what the text of the revision says.
	RegisterSize uint32

	// Shared32 makes BAR2 a 32-bit BAR, as "use64=off" does in QEMU 1.x to 2.5.
	// SharedSize is then at most 2 GiB.
	Shared32 bool

	// Vector8 takes the vector from bits 7-0 of the doorbell and ignores bits
	// 15-8. That is what QEMU does (measured: 5.2, 7.2, 10.0), where every text
	// of the specification has 16 bits: a guest that writes 0x00010101 rings
	// vector 1 in QEMU, and vector 257, which few peers have, by the text.
	Vector8 bool
}

// Validate reports what is out of range. A device whose Config does not
// validate still does no harm: each value counts as the nearest valid one.
func (c *Config) Validate() error {
	switch {
	case c.Revision > Revision0:
		return fmt.Errorf("ivshmem: config: revision %d is not known", c.Revision)
	case c.Vectors < 0 || c.Vectors > MaxVectors:
		return fmt.Errorf("ivshmem: config: %d vectors, want 0 to %d", c.Vectors, MaxVectors)
	case c.Pins && c.Revision != Revision0:
		return fmt.Errorf("ivshmem: config: pins need revision 0")
	case c.RegisterSize != 0 && c.RegisterSize != 256 && c.RegisterSize != 1024:
		return fmt.Errorf("ivshmem: config: register size %d, want 256 or 1024", c.RegisterSize)
	case c.SharedSize == 0:
		return nil
	case !align.IsPow2(c.SharedSize) || c.SharedSize < MinSharedSize:
		return fmt.Errorf("ivshmem: config: shared size %#x, want a power of two of at least %#x", c.SharedSize, MinSharedSize)
	case c.Shared32 && c.SharedSize > 1<<31:
		return fmt.Errorf("ivshmem: config: shared size %#x does not fit a 32-bit BAR", c.SharedSize)
	}
	return nil
}

// vectors returns the number of vectors, clamped to what can exist.
func (c *Config) vectors() int { return min(max(c.Vectors, 0), MaxVectors) }

// hasMSIX reports whether the device has the MSI-X capability and BAR1.
func (c *Config) hasMSIX() bool { return c.Vectors > 0 && !c.hasPins() }

// hasPins reports whether Interrupt Status and Interrupt Mask drive the pin.
func (c *Config) hasPins() bool { return c.Revision != Revision1 && (c.Pins || c.Vectors <= 0) }

func (c *Config) registerSize() uint32 {
	if c.RegisterSize == 1024 || c.RegisterSize == 0 && c.Revision != Revision1 {
		return 1024
	}
	return 256
}

func (c *Config) sharedSize() uint64 {
	if c.SharedSize == 0 {
		return DefaultShared
	}
	limit := uint64(1) << 63
	if c.Shared32 {
		limit = 1 << 31
	}
	n := min(max(c.SharedSize, MinSharedSize), limit)
	return 1 << bits.Len64(n-1)
}

// A Device is one ivshmem device: its State, its Config, and the hooks through
// which it acts on the machine around it. The zero Device is a plain device;
// every hook may be nil.
//
// A VMM hands BAR0 to Read and Write, BAR1 to [Device.ReadMSIX] and
// [Device.WriteMSIX], configuration space to [Device.ReadConfig] and
// [Device.WriteConfig], and maps the shared memory itself where
// [Device.BAR](2) says. No access by a guest fails, panics, or does unbounded
// work; none allocates.
//
// A Device is not safe for concurrent use; serialise access as the VMM's
// device lock does. Hooks are called from within the access, with the State
// already changed, and may call the Device's methods.
type Device struct {
	State
	Config

	// Memory is the shared memory as [Device.ReadBAR] and [Device.WriteBAR] see
	// it through BAR2. It is not needed where the VMM maps BAR2. Past its end
	// BAR2 reads 0 and ignores writes.
	Memory []byte

	// Ring is called when the guest rings the doorbell. It interrupts the peer,
	// which may be the device itself, and ignores peers and vectors that are
	// not connected.
	Ring func(peer, vector uint16)
	// SendMSI is called to deliver an MSI-X message: data is to be written to
	// the guest-physical address addr, as a write by the device.
	SendMSI func(addr uint64, data uint32)
	// SetIRQ is called when the level of the interrupt pin changes. Only a
	// device of revision 0 without MSI-X has one.
	SetIRQ func(level bool)
	// Map is called when the place of a BAR (0 to 2) changes, or whether it
	// answers at all.
	Map func(bar int, b BAR)
	// Trace is told each access and what came of it.
	Trace func(TraceEvent)
}

// Read reads len(p) bytes at offset off of BAR0, the registers. An access may
// have any size and alignment; it is cut into naturally aligned pieces of at
// most 4 bytes, of which those that begin exactly at a register read its low
// bytes and all others read 0, as in QEMU. Any piece that begins at Interrupt
// Status clears it.
func (d *Device) Read(off uint64, p []byte) {
	if len(p) == 4 && off%4 == 0 { // what drivers do
		putLow(p, d.readRegister(off))
	} else {
		d.readPieces(off, p)
	}
	if d.Trace != nil {
		d.traceAccess(TraceRead, SpaceRegisters, off, p)
	}
}

func (d *Device) readPieces(off uint64, p []byte) {
	clear(p)
	for i := 0; i < len(p) && off < registersEnd && off+uint64(i) < registersEnd; {
		n := pieceSize(off+uint64(i), len(p)-i)
		putLow(p[i:i+n], d.readRegister(off+uint64(i)))
		i += n
	}
}

// Write writes p at offset off of BAR0, the registers. An access may have any
// size and alignment; it is cut into naturally aligned pieces of at most 4
// bytes, and each replaces the whole register in which it lies with its value,
// as in QEMU: the byte 0xdd written to offset 1 makes Interrupt Mask 0xdd.
func (d *Device) Write(off uint64, p []byte) {
	if d.Trace != nil {
		d.traceAccess(TraceWrite, SpaceRegisters, off, p)
	}
	if len(p) == 4 && off%4 == 0 { // what drivers do
		d.writeRegister(off, low(p))
		return
	}
	for i := 0; i < len(p) && off < registersEnd && off+uint64(i) < registersEnd; {
		a := off + uint64(i)
		n := pieceSize(a, len(p)-i)
		d.writeRegister(align.Down(a, 4), low(p[i:i+n]))
		i += n
	}
}

// readRegister reads at an exact offset; what is no register reads 0.
func (d *Device) readRegister(off uint64) uint32 {
	switch off {
	case RegIntrMask:
		return d.IntrMask
	case RegIntrStatus:
		v := d.IntrStatus
		d.setInterrupt(d.IntrMask, 0)
		return v
	case RegIVPosition:
		return d.position()
	}
	return 0
}

func (d *Device) writeRegister(off uint64, v uint32) {
	switch off {
	case RegIntrMask:
		d.setInterrupt(v, d.IntrStatus)
	case RegIntrStatus:
		d.setInterrupt(d.IntrMask, v)
	case RegDoorbell:
		d.ring(v)
	}
}

// position returns what IVPosition reads.
func (d *Device) position() uint32 {
	switch {
	case d.Vectors <= 0:
		return 0
	case d.Revision != Revision1 && !d.Ready:
		return 0xffffffff
	}
	return uint32(d.ID)
}

// ring passes a write of the doorbell on. (Spec: Doorbell Register.)
func (d *Device) ring(v uint32) {
	if d.Vectors <= 0 || d.Revision != Revision1 && !d.Ready {
		return
	}
	peer, vector := uint16(v>>16), uint16(v)
	if d.Vector8 {
		vector &= 0xff
	}
	if d.Trace != nil {
		d.Trace(TraceEvent{Kind: TraceRing, Peer: peer, Vector: vector})
	}
	if d.Ring != nil {
		d.Ring(peer, vector)
	}
}

// Interrupt is what the VMM calls when a peer has interrupted the device. With
// MSI-X the vector's message is sent, or becomes pending while the vector is
// masked; it is lost while MSI-X is disabled. With pins Interrupt Status
// becomes 1, whatever the vector. A plain device of revision 1 and vectors that
// the device does not have are ignored.
func (d *Device) Interrupt(vector uint16) {
	switch {
	case d.hasMSIX():
		if int(vector) < d.vectors() {
			d.notify(vector)
		}
	case d.hasPins():
		d.setInterrupt(d.IntrMask, 1)
	}
}

// setInterrupt replaces Interrupt Mask and Interrupt Status and moves the pin.
func (d *Device) setInterrupt(mask, status uint32) {
	if !d.hasPins() {
		d.IntrMask, d.IntrStatus = mask, status
		return
	}
	before := d.Level()
	d.IntrMask, d.IntrStatus = mask, status
	d.moveLine(before)
}

// Level returns the level of the interrupt pin: whether Interrupt Status AND
// Interrupt Mask has any bit set, in a device of revision 0 without MSI-X whose
// pin is not disabled in the PCI command register.
func (d *Device) Level() bool { return d.asserted() && d.Command&commandINTxDisable == 0 }

// asserted returns the level of the pin before the command register has its say.
func (d *Device) asserted() bool { return d.hasPins() && d.IntrStatus&d.IntrMask != 0 }

// moveLine tells of a level of the pin that is no longer what it was before.
func (d *Device) moveLine(before bool) {
	level := d.Level()
	if level == before {
		return
	}
	if d.Trace != nil {
		d.Trace(TraceEvent{Kind: TraceLine, Value: uint64(b2i(level))})
	}
	if d.SetIRQ != nil {
		d.SetIRQ(level)
	}
}

// Reset resets the device as a reset of the machine does. The ID, Ready, and
// the unused bytes of configuration space survive; in revision 0 Interrupt Mask
// does too.
func (d *Device) Reset() {
	if d.Trace != nil {
		d.Trace(TraceEvent{Kind: TraceReset})
	}
	level, bars := d.Level(), d.mapping()
	old := d.State
	d.State = State{ID: old.ID, Ready: old.Ready, Scratch: old.Scratch}
	if d.Revision != Revision1 {
		d.IntrMask = old.IntrMask
	}
	d.moveLine(level)
	d.moveBARs(bars)
}

// Refresh calls SetIRQ and Map with what the State says. It is for a State that
// was restored from a snapshot by assignment.
func (d *Device) Refresh() {
	if d.SetIRQ != nil {
		d.SetIRQ(d.Level())
	}
	if d.Map != nil {
		for n, b := range d.mapping() {
			d.Map(n, b)
		}
	}
}

// pieceSize returns how many bytes the first piece of an access has.
//
// Preconditions: left > 0.
func pieceSize(off uint64, left int) int {
	switch {
	case off&1 != 0 || left < 2:
		return 1
	case off&2 != 0 || left < 4:
		return 2
	}
	return 4
}

// putLow stores the low bytes of v in p, little-endian.
//
// Preconditions: len(p) is 1, 2 or 4.
func putLow(p []byte, v uint32) {
	switch len(p) {
	case 4:
		binary.LittleEndian.PutUint32(p, v)
	case 2:
		binary.LittleEndian.PutUint16(p, uint16(v))
	default:
		p[0] = byte(v)
	}
}

// low returns the little-endian value of p.
//
// Preconditions: len(p) is 1, 2 or 4.
func low(p []byte) uint32 {
	switch len(p) {
	case 4:
		return binary.LittleEndian.Uint32(p)
	case 2:
		return uint32(binary.LittleEndian.Uint16(p))
	default:
		return uint32(p[0])
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
