// Package libxlfmt reads, verifies and writes saved Xen domains: what xl save,
// virsh save and xenopsd store, and what a migration or Remus sends.
//
// # The stream
//
// A stream has two layers, each with a header and records of its own. In the
// middle of the outer one stands the whole of the inner one:
//
//	container (xl, libvirt, xenopsd or none)
//	libxl header, 16 bytes, big-endian
//	libxl records                 LIBXC_CONTEXT last
//	    libxc headers, 24 + 16 bytes
//	    libxc records             memory, processors; END last
//	libxl records                 state of the device model; END last
//
//	record: u32 type | u32 length | body | zeros to a multiple of 8
//
// At a checkpoint, libxc hands over to libxl with CHECKPOINT, and libxl back
// with CHECKPOINT_END, as often as it takes. Nothing tells the length of the
// stream of libxc: it has to be read to be passed. A [Reader] does so, and
// returns the records of both layers one after the other.
//
// The specification is Draft B of the LibXenLight Domain Image Format. Its
// [final revision] has the same version number, but an emulator sub-header in
// EMULATOR_XENSTORE_DATA and two more records; both are read, see
// [XenstoreForm].
//
// # What is supported
//
//	                                     read   index  verify  write
//	containers xl, libvirt, xenopsd      yes    yes    yes     yes
//	bare libxl, bare libxc               yes    yes    yes     yes
//	libxl: Draft B, final                yes    yes    yes     yes
//	libxc versions 2 and 3, PV and HVM   yes    yes    yes     yes
//	little-endian, big-endian            yes    yes    yes     yes
//	checkpoints (Remus, COLO)            yes    yes    yes     yes
//	back channel of COLO                 yes    yes    yes     yes
//	legacy streams (Xen 4.5 and older)   no     no     no      no
//
// A [Reader] goes through a stream of any length front to back. [Open] makes
// an [Index] of a file: bodies in any order, edits in place, and guest
// [Memory]. [Verify] lists what is wrong with a stream. A [Writer] makes one,
// and [Copy] converts between containers and between the forms of the xenstore
// record.
//
// # Concurrency
//
// A [Reader] and a [Writer] are not safe for concurrent use. An [Index] and a
// [Memory] are, as long as nothing is edited.
//
// # Security
//
// No stream makes this package panic or loop without end. Sizes that a stream
// claims pass a limit, and memory is taken as bytes arrive, not as they are
// promised. Nothing outside the source is opened.
//
// # Limits
//
// A body has at most 128 MiB in libxc and, by [Options.MaxRecord], 1 GiB
// elsewhere; a configuration 16 MiB ([Options.MaxConfig]); guest memory spans
// 16 TiB ([MemoryOptions.MaxSize]). A [Reader] takes some 40 KiB, whatever the
// length of the stream; an [Index] 32 bytes for a record; a [Memory] 32 bytes
// for a run of pages.
//
// # Durability
//
// [Index.Patch] and [Index.Replace] write once, to the [io.WriterAt] they are
// given, and sync nothing. A power cut may leave part of an edit that crosses a
// sector. Nothing else writes to what is read.
//
// [final revision]: https://xenbits.xen.org/docs/4.18-testing/specs/libxl-migration-stream.html
package libxlfmt
