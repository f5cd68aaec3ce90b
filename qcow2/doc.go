// Package qcow2 reads, writes, creates, checks and repairs qcow2 disk images,
// the format of QEMU, in versions 2 and 3.
//
// An image is a header, an L1 table that points to L2 tables, which point to
// the clusters that hold the disk; and a refcount table that points to
// refcount blocks, which say how often each cluster of the file is used:
//
//	header ─┬─ L1 table ──── L2 tables ──── guest clusters, plain or compressed
//	        ├─ refcount table ──── refcount blocks
//	        ├─ snapshot table ──── L1 tables of snapshots
//	        └─ extensions: backing format, data file, bitmaps, encryption
//
// [Open] and [OpenFile] give an [Image] to read, [OpenRW] and [Create] one to
// write as well. The format is docs/interop/qcow2.txt of QEMU 7.2; where it is
// silent, QEMU 7.2 is followed.
//
// # Capabilities
//
//	feature                               read  write  create  check
//	versions 2 and 3                      yes   yes    yes     yes
//	clusters of 512 bytes to 2 MiB        yes   yes    yes     yes
//	refcounts of 1 to 64 bits             yes   yes    yes     yes
//	backing file, of any [Disk]           yes   yes    yes     -
//	commit, rebase, safe and unsafe       -     yes    -       -
//	measure, also a copy of any [Disk]    -     -      yes     -
//	compressed clusters, deflate, zstd    yes   yes    -       yes
//	zero clusters, discard                yes   yes    -       yes
//	extended L2 entries (subclusters)     yes   yes    yes     yes
//	external data file, also raw          yes   yes    yes     yes
//	encryption, LUKS and the legacy AES   yes   yes    yes     yes
//	lazy refcounts, dirty bit             yes   yes    yes     yes
//	preallocation                         yes   yes    yes     yes
//	internal snapshots, with VM state     yes   yes    yes     yes
//	persistent bitmaps                    yes   yes    yes     yes
//	resizing, with snapshots, bitmaps     -     yes    -       -
//	what "qemu-img amend" changes         -     yes    -       -
//	unknown header fields and extensions  kept  kept   -       -
//
// # Concurrency
//
// Methods of [Image] are safe for concurrent use; concurrent writes must not
// overlap. Reads take no lock in an image that is open for reading only, and a
// shared one for the lookup otherwise. Writers to different clusters do not
// wait for each other's data. Sync, and the write-backs that happen when much
// has changed, wait for nobody and keep nobody waiting but for moments.
//
// # Security
//
// No content of a file makes this package panic, loop, take memory beyond its
// limits, or open another file: names in an image go to what the caller
// granted ([Options.OpenBacking], [Options.OpenData], [Options.Root]), and a
// format is never guessed. Guest data is not written to where metadata lies,
// whatever an entry says. What contradicts itself is an error that is
// [ErrCorrupt]; if it is found while writing, a version 3 image is marked as
// corrupt, and becomes read-only: clusters of metadata are neither handed out
// because a refcount says that they are free, nor freed because an entry points
// to them, and nothing is written to an image in which two pieces of metadata
// lie in the same place. A reader marks nothing. [Repair] gives the refcount
// structures a place of their own; of L1, L2 and snapshot tables that share one
// it cannot be told whose the content is, and QEMU repairs no more. Such an
// image stays readable: [Image.CopyTo] or [Encode] makes a new one of its disk,
// and of the disk of each snapshot. A file of 1 MiB costs at most 64 MiB of
// memory and a second for each of Open, Check, Repair, and a read or write of
// up to 1 MiB.
//
// Encrypted images are opened by a passphrase that the caller supplies. It and
// the keys are wiped from memory after use, but for what the ciphers make of
// them. Only guest data is encrypted: which clusters hold some is seen without
// the passphrase, as is what compressed clusters hold, which QEMU does not
// encrypt; this package reads such clusters and never writes one. Neither
// method tells when somebody changed what is encrypted.
//
// # Limits
//
// Those of QEMU: an L1 table of 32 MiB, which makes 128 GiB of disk with
// clusters of 512 bytes, 2 PiB with 64 KiB, 2 EiB with 2 MiB; a refcount table
// of 8 MiB; 65536 snapshots. Tables take at most [Options.CacheSize] of
// memory, but for the L1 and the refcount table, which are held as a whole,
// and for what was changed and is not yet written.
//
// # Durability
//
// Between two calls of [Image.Sync] a power cut may leave any part of what was
// written since the first, sector by sector. The image stays whole in any
// case: it opens, holds everything that was written before the last Sync, and
// Check finds at most leaked clusters. With lazy refcounts the image is marked
// as dirty instead, and [OpenRW] repairs it.
//
// WriteAt writes guest data to the file and changes tables in memory. Sync,
// Close, and write-backs of their own accord bring those to the file in
// stages, each durable before the next begins; empty ones are left out, so
// that a Sync costs about two of the file's own:
//
//	stage  what becomes durable
//	0      the dirty bit, with lazy refcounts
//	1      guest data, new tables; refcounts, increased ones among them
//	2      refcount table entries, the place of a new refcount table
//	3      L2 and L1 entries, the place of a new L1 table
//	4      decreased refcounts; holes where clusters were discarded and, by
//	       Close, past the last cluster in use
//
// A cluster that lost its last reference is used again only after stage 3, and
// once every read that may have looked it up before is over.
//
// An error of the file's Sync is never forgotten: what was not durable then may
// be lost although a later one succeeds, so the image becomes read-only, and
// each later Sync and Close fails. After an error of a write to the file the
// image can be used on; the next Sync tries again.
//
// What changes snapshots goes in steps, each durable before the next:
//
//	step    create                    delete                     apply
//	0       the dirty bit             the dirty bit              the dirty bit
//	1       COPIED flags cleared      a new snapshot table       COPIED flags in the snapshot cleared
//	2       refcounts increased; the  its place in the header    refcounts increased; a new L1 table,
//	        L1 table and a new                                   a copy of the snapshot's
//	        snapshot table written
//	3       the place of that table   refcounts decreased        the place of the L1 table, and the size
//	4                                 COPIED flags set           refcounts decreased
//	5       the dirty bit cleared     the dirty bit cleared      the dirty bit cleared
//
// So a snapshot is there as a whole or not at all, and no cluster that it
// shares with the disk can be written in place. Version 2 has no dirty bit:
// what a power cut may leave there is COPIED flags that are missing, which
// costs space when such clusters are written, and which [Repair] sets.
//
// A smaller size reaches the file together with an L1 table that describes no
// more, before what it lost is freed. A larger one does once what is added
// reads as zeros.
//
// [Image.Amend] writes refcounts of another width past the end of the file and
// makes them durable; one write of the first sector of the header, which holds
// their width and the place of their table, makes them those that count.
//
// A bitmap that records writes is marked as in use, durably, before the first
// of them, and is so until Close has stored it: what a power cut leaves is a
// bitmap that tells all or says that it may not. New bits, tables and the
// directory lie beside the old ones until the header points to them.
package qcow2
