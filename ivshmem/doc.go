// Package ivshmem is the inter-VM shared memory device of QEMU: the PCI device
// as a guest sees it, and the shared-memory protocol between the processes
// that share.
//
//	guest ── accesses ──> Device ── Ring ──> Client ── eventfd ──────> peers: QEMU, other Clients
//	guest <── SendMSI ─── Device <─ Run ──── Client <── eventfd ────── peers
//	                                           ^
//	                                           └─ Unix socket: ID, memory, who comes and goes ── Server
//
// A [Device] is the register file of one device: PCI configuration space, the
// registers in BAR0, the MSI-X table in BAR1, and where BAR2 maps the shared
// memory. It opens nothing and starts nothing; the VMM gives it the guest's
// accesses and takes its interrupts through hooks.
//
// A [Server] gives its clients shared memory and the means to interrupt each
// other, a [Client] is one of those that share; QEMU's ivshmem-doorbell is
// another. [Client.Attach] and [Client.Run] wire a Device to a Client.
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
// Revision 1 ([spec]) is proved against QEMU 7.2, access by access, with traces recorded
// from it in testdata and with the same random accesses to both. Revision 0
// follows the 2012 text. Server and Client speak version 0 of the protocol, of
// QEMU 2.5 and later; a Server is tested with QEMU 7.2 as its clients, a Client
// with QEMU as its peer.
//
// # Systems
//
// A Device works everywhere. Server, Client and shared memory need Linux;
// elsewhere they fail with [errors.ErrUnsupported].
//
// # Concurrency
//
// A Device is not safe for concurrent use; serialise access as the VMM's
// device lock does. Methods of Server are safe for concurrent use. Methods of
// Client are, but [Client.Next] is for one goroutine at a time.
//
// # Security
//
// Whatever a guest does to a Device, it does not panic, allocate, or work
// longer than the access is long, but for a write that unmasks all vectors,
// which sends at most 2048 messages.
//
// A client cannot make a Server hold more than is bounded by
// [ServerOptions.MaxClients], delay other clients, or change the size of
// memory that the Server made. It can write any of the shared memory, and
// interrupt any other, as that is what is shared. A server cannot make a Client
// hold more than [ClientOptions] says.
//
// [spec]: https://www.qemu.org/docs/master/specs/ivshmem-spec.html
package ivshmem
