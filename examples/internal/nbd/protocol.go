// Package nbd serves disks over the Network Block Device protocol: fixed
// newstyle negotiation, structured replies and block status, as the protocol's
// document at the NetworkBlockDevice project lays down.
package nbd

// Magic numbers.
const (
	magicInit       = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption     = 0x49484156454f5054 // "IHAVEOPT"
	magicOptReply   = 0x0003e889045565a9
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef
)

// Handshake flags, of the server and of the client.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// Options of the negotiation.
const (
	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMeta        = 9
	optSetMeta         = 10
)

// Replies to options. Errors have bit 31 set.
const (
	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repMetaContext = 4

	repErrUnsup   = 1<<31 + 1
	repErrInvalid = 1<<31 + 3
	repErrUnknown = 1<<31 + 6
	repErrTooBig  = 1<<31 + 9
)

// Items of information about an export.
const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// Transmission flags: what an export can do.
const (
	txHasFlags        = 1 << 0
	txReadOnly        = 1 << 1
	txSendFlush       = 1 << 2
	txSendFUA         = 1 << 3
	txSendTrim        = 1 << 5
	txSendWriteZeroes = 1 << 6
	txSendDF          = 1 << 7
	txMultiConn       = 1 << 8
)

// Commands, and their flags.
const (
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisconnect  = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdWriteZeroes = 6
	cmdBlockStatus = 7

	cmdFlagFUA    = 1 << 0
	cmdFlagNoHole = 1 << 1
	cmdFlagDF     = 1 << 2
	cmdFlagReqOne = 1 << 3
)

// Chunks of a structured reply.
const (
	chunkNone        = 0
	chunkOffsetData  = 1
	chunkOffsetHole  = 2
	chunkBlockStatus = 5
	chunkError       = 1<<15 + 1

	chunkDone = 1 << 0 // flag: the last of a reply
)

// States of a range in the contexts base:allocation and qemu:dirty-bitmap.
const (
	stateHole  = 1 << 0
	stateZero  = 1 << 1
	stateDirty = 1 << 0
)

// Errors on the wire.
const (
	errnoPerm     = 1
	errnoIO       = 5
	errnoInvalid  = 22
	errnoNoSpace  = 28
	errnoOverflow = 75
	errnoNotSup   = 95
	errnoShutdown = 108
)

// Limits.
const (
	maxOption  = 64 << 10 // bytes of an option that a client sends
	maxPayload = 32 << 20 // bytes of a read or a write: what the protocol lets clients assume
	maxExtents = 2048     // descriptors in one answer to a block status command
	maxMeta    = 16       // contexts that a client may select
)
