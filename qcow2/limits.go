package qcow2

// Limits that QEMU 7.2 enforces. What passes them costs a bounded amount of
// memory; what does not is refused before any is taken.
const (
	minClusterBits         = 9
	maxClusterBits         = 21
	minExtendedClusterBits = 14 // a subcluster has at least 512 bytes
	maxRefcountOrder       = 6

	maxL1Bytes            = 32 << 20 // 4 Mi entries
	maxRefcountTableBytes = 8 << 20
	maxSnapshots          = 65536
	maxSnapshotTableBytes = 1024 * maxSnapshots
	snapshotEntrySize     = 40   // its fixed part
	maxSnapshotExtra      = 1024 // bytes of one entry
	maxBitmaps            = 65535
	maxBitmapDirectory    = 1024 * maxBitmaps
	maxBackingName        = 1023 // bytes
	maxFormatName         = 15   // bytes of the backing format extension

	// l2OffsetLimit is the end of what L1 and L2 entries can point to: 56 bits.
	l2OffsetLimit = 1 << 56
)
