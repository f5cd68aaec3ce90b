package ivshmem

// Registers of BAR0: offset, then size in bytes, access and value after
// power-on. The rest of BAR0 reads 0 and ignores writes. (Spec: PCI device
// registers; 2012 text: Registers.)
const (
	RegIntrMask   = 0x0 // 4, R/W, 0; revision 0: bits that let Interrupt Status raise the pin
	RegIntrStatus = 0x4 // 4, R/W, 0; a read clears it; revision 0: 1 after an interrupt from a peer
	RegIVPosition = 0x8 // 4, R, the device's ID; revision 0: 0xffffffff until the shared memory is there
	RegDoorbell   = 0xc // 4, W, reads 0; bits 31-16: the peer's ID, bits 15-0: the vector
)

// registersEnd is where the registers of BAR0 end.
const registersEnd = 0x10

// PCI identity. (Spec: guest interface.)
const (
	VendorID          = 0x1af4
	DeviceID          = 0x1110
	SubsystemVendorID = 0x1af4
	SubsystemID       = 0x1100
	ClassCode         = 0x050000 // base class, subclass, interface: RAM controller
)

// Limits of the device and of the protocol.
const (
	MaxVectors    = 2048    // vectors of one device: entries that an MSI-X table can have
	MaxID         = 0xffff  // highest ID of a peer: the doorbell has 16 bits for it
	MinSharedSize = 4096    // bytes of shared memory: one page of the smallest kind
	DefaultShared = 4 << 20 // bytes of shared memory where none are asked for, as QEMU 1.x had it
)

// DoorbellValue returns what a guest writes to [RegDoorbell] to interrupt a
// peer.
func DoorbellValue(peer, vector uint16) uint32 { return uint32(peer)<<16 | uint32(vector) }
