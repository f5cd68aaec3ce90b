// Package ivshmem is the inter-VM shared memory device of QEMU: the PCI device
// as a guest sees it, and the shared-memory protocol between the processes
// that share.
//
// A [Device] is the register file of one device: PCI configuration space, the
// registers in BAR0, the MSI-X table in BAR1, and where BAR2 maps the shared
// memory. It opens nothing and starts nothing; the VMM gives it the guest's
// accesses and takes its interrupts through hooks.
//
// # What equals what
//
//	Config                          equals
//	zero, Vectors 0                 ivshmem-plain of QEMU 2.6 and later
//	Vectors 1 to 2048               the specification of revision 1
//	Vectors 1 to 2048, Vector8      ivshmem-doorbell of QEMU 2.6 and later
//	Revision0, Vectors, Pins        the 2012 text; QEMU 1.x, msi=off
//	Revision0, Vectors              QEMU 1.x to 2.5, msi=on
//	RegisterSize 256 with Revision0 QEMU 1.x, whose BAR0 is not what the 2012 text says
//
// Revision 1 is proved against QEMU 7.2, access by access, with traces recorded
// from it in testdata. Revision 0 follows the 2012 text.
//
// # Concurrency
//
// A Device is not safe for concurrent use; serialise access as the VMM's
// device lock does.
//
// # Security
//
// Whatever a guest does to a Device, it does not panic, allocate, or work
// longer than the access is long, but for a write that unmasks all vectors,
// which sends at most 2048 messages.
//
// [spec]: https://www.qemu.org/docs/master/specs/ivshmem-spec.html
package ivshmem
